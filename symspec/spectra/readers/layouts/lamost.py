"""Spectra of LAMOST: rows of one image to DR7, tables since, one or one for each arm.

The rows are flux, inverse variance, wavelength, and-mask and or-mask (the data release documents of
LAMOST's low-resolution survey); the third was another quantity in the pilot survey. Wavelengths are
of vacuum.
"""

from __future__ import annotations

import numpy as np

from symspec.errors import DataError, ShapeError
from symspec.safety.arrays import as_float_array
from symspec.safety.named_arrays import (
    ALL,
    Contents,
    LazyArray,
    NamedArrays,
    hold_array,
    name_arrays,
)
from symspec.spectra.readers.fits.arms import Arm, as_one_star, choose_arms, join_arms
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    Hdu,
    describe_hdu,
    find_hdu,
    find_image_shape,
    is_table,
    list_others,
    store_columns,
    store_image,
)
from symspec.spectra.readers.fits.headers import find_header_grid, find_ids
from symspec.spectra.readers.fits.tables import arrange_table
from symspec.spectra.readers.layouts.known import is_marked, with_medium
from symspec.spectra.spectral_axis import rises_like_wavelengths

_ROWS = ("flux", "ivar", "wavelength", "and_mask")  # then the or-mask, which is not needed
_N_ROWS = 5
_GRIDS = ("wavelength", "loglam")
_MASKS = ("andmask", "and_mask", "pixmask")


def is_lamost_image(file: FitsFile) -> bool:
    """Whether the header names LAMOST, and the first HDU is an image of five rows."""
    shape = find_image_shape(file.hdus[0])
    return is_marked(file, "LAMOST") and len(shape) == 2 and shape[0] == _N_ROWS


def arrange_lamost_image(file: FitsFile, options: FitsOptions) -> NamedArrays:
    """Take the rows apart; wavelengths are those of the header if the third row has none."""
    main = file.hdus[0]
    rows = {name: store_image(file, main, slice(i, i + 1)) for i, name in enumerate(_ROWS)}
    rows["and_mask"] = _as_bits(rows["and_mask"])
    stored = as_float_array(rows.pop("wavelength").load(ALL)[0], "wavelength")
    sources = {name: f"row {i} of HDU 0" for i, name in enumerate(_ROWS)}
    left_out = ["row 4 of HDU 0"]
    if not rises_like_wavelengths(stored):
        grid = find_header_grid([main.header], stored.size)
        if grid.values is None:
            raise DataError(
                f"{file.path}: row 2 of a LAMOST image should rise as wavelengths do, or the header"
                " should have COEFF0 and COEFF1, got neither: the file is of a kind that is not"
                " known."
            )
        stored = grid.values
        sources["wavelength"] = "the header"
        left_out.insert(0, "row 2 of HDU 0")
    return name_arrays(
        _find_name(file) | rows | {"wavelength": hold_array(stored)},
        units={"wavelength": "Angstrom"},
        wavelength_medium="vacuum",
        contents=Contents(sources=sources, left_out=(*left_out, *list_others(file, [main]))),
    )


def is_lamost_table(file: FitsFile) -> bool:
    """Whether the header names LAMOST, and tables have flux, ivar and wavelengths."""
    return is_marked(file, "LAMOST") and bool(_find_coadds(file))


def arrange_lamost_table(file: FitsFile, options: FitsOptions) -> NamedArrays:
    """Join the coadds of all arms, or take those of `arm`, "COADD_B", or the HDU asked for."""
    if options.hdu is not None:
        table = arrange_table(file, find_hdu(file, options.hdu), options)
        return with_medium(table, "vacuum")
    coadds = _find_coadds(file)
    arms = [_store_arm(file, hdu) for hdu in coadds]
    chosen = choose_arms(arms, options.arm, file.path)
    places = " and ".join(
        describe_hdu(file, hdu) for hdu in coadds if hdu.name in [arm.name for arm in chosen]
    )
    arrays = join_arms(chosen, "ivar", options, file.path)
    return name_arrays(
        _find_name(file) | arrays,
        units={"wavelength": "Angstrom"},
        wavelength_medium="vacuum",
        contents=Contents(
            sources=dict.fromkeys(arrays, places), left_out=list_others(file, coadds)
        ),
    )


def _find_coadds(file: FitsFile) -> list[Hdu]:
    """Tables COADD, or COADD_B and COADD_R; single exposures have other names."""
    return [
        hdu
        for hdu in file.hdus
        if is_table(hdu)
        and hdu.name.startswith("COADD")
        and {"flux", "ivar"} <= {name.lower() for name in hdu.columns.names}
    ]


def _store_arm(file: FitsFile, hdu: Hdu) -> Arm:
    columns = {name.lower(): array for name, array in store_columns(file, hdu).items()}
    grid = next((name for name in _GRIDS if name in columns), None)
    if grid is None:
        raise DataError(
            f"{file.path}: table {hdu.name} should have a column wavelength or loglam, got"
            f" {', '.join(columns)}: the file is of a kind that is not known."
        )
    mask = next((columns[name] for name in _MASKS if name in columns), None)
    wavelength = as_float_array(columns[grid].load(ALL), grid).reshape(-1)
    if wavelength.size != np.prod(columns["flux"].shape):
        raise ShapeError(
            f"{file.path}: table {hdu.name} should hold one star, got flux of shape"
            f" {columns['flux'].shape} and {wavelength.size} wavelengths: read each on its own."
        )
    return Arm(
        name=hdu.name,
        wavelength=10.0**wavelength if grid == "loglam" else wavelength,
        flux=_as_row(columns["flux"]),
        error=_as_row(columns["ivar"]),
        mask=None if mask is None else _as_bits(_as_row(mask)),
    )


def _as_row(array: LazyArray) -> LazyArray:
    return array if len(array.shape) == 2 else as_one_star(array)


def _as_bits(mask: LazyArray) -> LazyArray:
    """A mask that an image of floats holds, in integers."""
    return LazyArray(mask.shape, lambda rows: mask.load(rows).astype(np.int64))


def _find_name(file: FitsFile) -> dict[str, LazyArray]:
    number = file.hdus[0].header.get("OBSID")
    return {"ids": hold_array(str(number))} if number else find_ids(file)
