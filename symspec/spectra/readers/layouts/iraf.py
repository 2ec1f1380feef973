"""IRAF's spectra: apertures in rows, each on a grid of its own, and bands of flux, sigma, ...

Images (pixel,), (aperture, pixel) or (band, aperture, pixel), of which BANDID1, BANDID2, ... say
what the bands are; grids are those of the header, or of the multispec cards WAT2_001, ...
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from symspec.errors import DataError, OptionError
from symspec.safety.named_arrays import (
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
    Header,
    find_image_shape,
    list_others,
    store_image,
)
from symspec.spectra.readers.fits.headers import find_header_grid, find_ids, hold_grid, parse_wat
from symspec.spectra.readers.fits.multispec import Aperture, read_apertures

# how texts of bands begin
_KINDS = {"sigma": "std", "error": "std", "variance": "var", "mask": "mask"}


def is_iraf(file: FitsFile) -> bool:
    """Whether the first HDU is an image of several grids or bands, as IRAF's cards tell."""
    header = file.hdus[0].header
    n_axes = len(find_image_shape(file.hdus[0]))
    return n_axes in (1, 2, 3) and (_is_multispec(header) or "BANDID1" in header)


def arrange_iraf(file: FitsFile, options: FitsOptions) -> NamedArrays:
    """Take the band of flux and that of its errors; apertures on one grid are stars."""
    header = file.hdus[0].header
    shape = find_image_shape(file.hdus[0])
    n_bands = shape[0] if len(shape) == 3 else 1
    bands, left_out = _find_bands(header, n_bands)
    arrays = {name: _store_band(file, band, len(shape)) for name, band in bands.items()}
    contents = Contents(
        sources={name: f"band {band + 1} of HDU 0" for name, band in bands.items()},
        left_out=(*left_out, *list_others(file, file.hdus[:1])),
    )
    n_apertures = shape[-2] if len(shape) > 1 else 1
    if not _is_multispec(header):
        if options.arm is not None:
            raise OptionError(
                f"arm={options.arm!r} should go with orders on grids of their own, got apertures on"
                f" one grid in {file.path}, which are read as stars: leave arm out."
            )
        grid = hold_grid(find_header_grid([header], shape[-1]))
        return name_arrays(
            _name(file, n_apertures) | arrays | grid.arrays,
            units=grid.units,
            wavelength_medium=grid.medium,
            contents=replace(contents, sources={**contents.sources, **grid.sources}),
        )
    apertures = read_apertures(header, n_apertures, shape[-1])
    unit = parse_wat(header, 1).get("units")
    joined = _join_apertures(file, apertures, arrays, options)
    n_stars = joined["flux"].shape[0]
    return name_arrays(
        _name(file, n_stars) | joined,
        units={"wavelength": unit} if unit else {},
        contents=replace(contents, sources={**contents.sources, "wavelength": "the header"}),
    )


def _is_multispec(header: Header) -> bool:
    """Whether any of the cards says so."""
    systems = [header.get(card, "") for card in ("CTYPE1", "CTYPE2")]
    systems.append(parse_wat(header, 0).get("system", ""))
    return any(str(one).strip().upper().startswith("MULTISPE") for one in systems)


def _find_bands(header: Header, n_bands: int) -> tuple[dict[str, int], list[str]]:
    """Bands of flux, its errors and its mask by name, and the others in words."""
    if n_bands == 1:
        return {"flux": 0}, []
    texts = [str(header.get(f"BANDID{i + 1}", "")).strip() for i in range(n_bands)]
    if not texts[0]:
        raise DataError(
            f"an image of {n_bands} bands should say what they are in cards BANDID1, BANDID2, ...,"
            " got none: write BANDID1 = 'spectrum', BANDID4 = 'sigma', or save a band on its own."
        )
    found: dict[str, int] = {}
    for band, text in enumerate(texts):
        first = re.split(r"[^a-z]", text.lower(), maxsplit=1)[0]
        name = _KINDS.get(first) or ("flux" if band == 0 else None)
        if name and name not in found:
            found[name] = band
    if "flux" not in found:
        raise DataError(
            f"the first band of IRAF's images should be the spectrum, got BANDID1 = {texts[0]!r}:"
            " save the band of flux on its own."
        )
    taken = found.values()
    return found, [f"band {i + 1} ({text})" for i, text in enumerate(texts) if i not in taken]


def _store_band(file: FitsFile, band: int, n_axes: int) -> LazyArray:
    """A band as (aperture, pixel)."""
    stored = store_image(file, file.hdus[0])
    if n_axes == 1:
        return as_one_star(stored)
    if n_axes == 2:
        return stored
    return LazyArray(stored.shape[1:], lambda rows: stored.load(slice(band, band + 1))[0][rows])


def _join_apertures(
    file: FitsFile,
    apertures: list[Aperture],
    arrays: dict[str, LazyArray],
    options: FitsOptions,
) -> dict[str, LazyArray]:
    """Apertures as stars if they share one grid, else as orders of one star."""
    first = apertures[0].wavelength
    if options.arm is None and all(np.array_equal(one.wavelength, first) for one in apertures):
        pixels = slice(first.size)
        cut = {name: _cut(array, slice(None), pixels) for name, array in arrays.items()}
        return cut | {"wavelength": hold_array(first)}
    kind = "var" if "var" in arrays else "std"
    arms = []
    for row, one in enumerate(apertures):
        rows = slice(row, row + 1)
        pixels = slice(one.wavelength.size)
        parts = {name: _cut(array, rows, pixels) for name, array in arrays.items()}
        arms.append(
            Arm(
                name=str(one.number),
                wavelength=one.wavelength,
                flux=parts["flux"],
                error=parts.get(kind),
                mask=parts.get("mask"),
            )
        )
    return join_arms(choose_arms(arms, options.arm, file.path), kind, options, file.path)


def _cut(array: LazyArray, picked: slice, pixels: slice) -> LazyArray:
    """Some rows, of which some are asked for, and some pixels of an array (aperture, pixel)."""
    n_rows = len(range(*picked.indices(array.shape[0])))
    n_pixels = len(range(*pixels.indices(array.shape[1])))
    return LazyArray((n_rows, n_pixels), lambda rows: array.load(picked)[rows, pixels])


def _name(file: FitsFile, n_stars: int) -> dict[str, LazyArray]:
    """Names of the apertures, APID1, ..., if all have one, or of the one star."""
    if n_stars == 1:
        return {
            name: hold_array(np.atleast_1d(one.load(slice(None))))
            for name, one in find_ids(file).items()
        }
    header = file.hdus[0].header
    names = [str(header.get(f"APID{i + 1}", "")).strip() for i in range(n_stars)]
    return {"ids": hold_array(names)} if all(names) else {}
