"""Spectra and coadds of DESI: HDUs of each arm by its prefix, B_FLUX, B_IVAR, B_WAVELENGTH, B_MASK.

One row a star, whose TARGETID is in FIBERMAP; arms overlap on shared pixels, in vacuum (DESI's data
model, `coadd-*.fits` and `spectra-*.fits`).
"""

from __future__ import annotations

import re

from symspec.errors import DataError
from symspec.safety.arrays import as_float_array
from symspec.safety.named_arrays import ALL, Contents, NamedArrays, name_arrays
from symspec.spectra.readers.fits.arms import Arm, choose_arms, join_arms
from symspec.spectra.readers.fits.file import (
    FitsFile,
    FitsOptions,
    Hdu,
    find_hdu,
    find_image_shape,
    find_image_unit,
    list_others,
    store_image,
)
from symspec.spectra.readers.layouts.known import take_stars

_NAME = re.compile(r"([A-Z0-9]+)_(FLUX|IVAR|WAVELENGTH|MASK)")


def is_desi(file: FitsFile) -> bool:
    """Whether there are images X_FLUX and X_WAVELENGTH of the same prefix."""
    return any({"FLUX", "WAVELENGTH"} <= hdus.keys() for hdus in _find_arms(file).values())


def arrange_desi(file: FitsFile, options: FitsOptions) -> NamedArrays:
    """Join the arms, or take those of `arm` or of the HDU asked for."""
    found = _find_arms(file)
    _refuse_incomplete(file, found)
    arms = [_store_arm(file, name, hdus) for name, hdus in found.items()]
    chosen = choose_arms(arms, _find_wanted(file, options), file.path)
    units = {find_image_unit(found[arm.name]["WAVELENGTH"]) for arm in chosen}
    if len(units) > 1:
        raise DataError(
            f"{file.path}: wavelengths of all arms should be in one unit, got {sorted(units)}:"
            " choose one arm, arm=."
        )
    arrays = join_arms(chosen, "ivar", options, file.path)
    n_stars = chosen[0].flux.shape[0]
    of_stars, star_units, table = take_stars(file, "FIBERMAP", n_stars)
    prefixes = [arm.name for arm in chosen]
    unit = units.pop()
    used = [hdu for name in prefixes for hdu in found[name].values()]
    return name_arrays(
        of_stars | arrays,
        units=star_units | ({"wavelength": unit} if unit else {}),
        wavelength_medium="vacuum",
        contents=Contents(
            sources={
                name: " and ".join(f"{prefix}_{kind}" for prefix in prefixes)
                for name, kind in (
                    ("flux", "FLUX"),
                    ("ivar", "IVAR"),
                    ("bitmask", "MASK"),
                    ("wavelength", "WAVELENGTH"),
                )
            }
            | {name: f"FIBERMAP, column {name}" for name in of_stars},
            left_out=list_others(file, [*used, *table]),
        ),
    )


def _find_arms(file: FitsFile) -> dict[str, dict[str, Hdu]]:
    """Images of each arm by kind, by the prefix of the arm."""
    arms: dict[str, dict[str, Hdu]] = {}
    for hdu in file.hdus:
        if (match := _NAME.fullmatch(hdu.name)) and find_image_shape(hdu):
            arms.setdefault(match[1], {})[match[2]] = hdu
    return arms


def _refuse_incomplete(file: FitsFile, arms: dict[str, dict[str, Hdu]]) -> None:
    for name, hdus in arms.items():
        if missing := [kind for kind in ("FLUX", "WAVELENGTH") if kind not in hdus]:
            raise DataError(
                f"{file.path} should have flux and wavelengths of all arms, got no"
                f" {name}_{missing[0]}: copy the file again, or say flux=, wavelength= and"
                ' uncertainty="ivar:NAME" of the arm that is wanted.'
            )


def _find_wanted(file: FitsFile, options: FitsOptions) -> str | int | None:
    """Prefix of the HDU asked for, which has to be one of flux."""
    if options.hdu is None:
        return options.arm
    name = find_hdu(file, options.hdu).name
    match = _NAME.fullmatch(name)
    if match is None or match[2] != "FLUX":
        raise DataError(
            f"hdu={options.hdu!r} should be an HDU of flux, got {name}: give one such as B_FLUX, or"
            ' the arm, arm="B".'
        )
    return match[1]


def _store_arm(file: FitsFile, name: str, hdus: dict[str, Hdu]) -> Arm:
    wavelength = store_image(file, hdus["WAVELENGTH"]).load(ALL)
    flux = store_image(file, hdus["FLUX"])
    if wavelength.shape != flux.shape[1:]:
        raise DataError(
            f"{file.path}: {name}_WAVELENGTH should have one wavelength for each pixel of"
            f" {name}_FLUX, got shapes {wavelength.shape} and {flux.shape}: the file is damaged."
        )
    others = {kind: store_image(file, hdus[kind]) for kind in ("IVAR", "MASK") if kind in hdus}
    return Arm(
        name=name,
        wavelength=as_float_array(wavelength, f"{name}_WAVELENGTH"),
        flux=flux,
        error=others.get("IVAR"),
        mask=others.get("MASK"),
    )
