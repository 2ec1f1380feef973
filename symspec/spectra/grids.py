"""Spectra on the wavelength grid of a network: checked, or resampled to it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from symspec.errors import DataError, ShapeError
from symspec.spectra.resampling import Resampled, resample
from symspec.spectra.spectra import Spectra
from symspec.spectra.wavelengths import convert_wavelength

TOLERANCE = 0.1  # of a pixel
_ADVICE = (
    "resample them (--resample on the command line, symspec.resample in Python), or train a"
    " network on these"
)


class Pixels(Protocol):
    """Pixels, whose wavelengths (pixel,) may be known: those of spectra, or of a network."""

    @property
    def n_pixels(self) -> int: ...
    @property
    def wavelength(self) -> np.ndarray | None: ...
    @property
    def wavelength_unit(self) -> str: ...
    @property
    def wavelength_medium(self) -> str | None: ...


def fit_to_network(net: Pixels, spectra: Spectra, kind: str | None = None) -> Spectra | Resampled:
    """Take spectra to the grid of a network: as they are, or by a `kind` of `symspec.resample`.

    Parameters
    ----------
    net : Network
    spectra : Spectra
    kind : {"flux_conserving", "linear"}, optional
        None: the grids have to agree.

    Raises
    ------
    ShapeError, DataError
        As `check_grid` and `resample`, or the network has no wavelengths to resample to.
    """
    if kind is None:
        check_grid(net, spectra, "the spectra")
        return spectra
    if net.wavelength is None:
        raise DataError(
            "resampling needs the wavelengths that the network takes, got a network without: give "
            "Network(..., wavelength=...), or import_network(..., wavelength=...)."
        )
    return resample(
        spectra,
        net.wavelength,
        kind=kind,
        wavelength_unit=net.wavelength_unit,
        wavelength_medium=net.wavelength_medium if spectra.wavelength_medium else None,
    )


def check_grid(net: Pixels, spectra: Pixels, name: str) -> None:
    """Refuse spectra on another grid than the network's; unknown wavelengths are not compared.

    Parameters
    ----------
    net : Network
    spectra : Spectra, SpectraFile or SpectraFolder
        Their flux is not read.
    name : str
        Name of the spectra, used in the error.

    Raises
    ------
    ShapeError
        The spectra have another number of pixels.
    DataError
        One has wavelengths of air, the other of vacuum, or a wavelength is off by more than a tenth
        of a pixel.
    """
    n = spectra.n_pixels
    if n != net.n_pixels:
        raise ShapeError(
            f"the network takes spectra of {net.n_pixels:,} pixels, got {n:,} in {name}: {_ADVICE}."
        )
    if spectra.wavelength is None or net.wavelength is None or not spectra.wavelength_unit:
        return
    media = (net.wavelength_medium, spectra.wavelength_medium)
    if None not in media and media[0] != media[1]:
        raise DataError(
            f"the network takes wavelengths of {media[0]}, got those of {media[1]} in {name}:"
            f" {_ADVICE}."
        )
    found = convert_wavelength(spectra.wavelength, spectra.wavelength_unit, net.wavelength_unit)
    width = np.gradient(net.wavelength) if n > 1 else net.wavelength
    off = np.abs(found - net.wavelength) / width
    worst = int(np.argmax(off))
    if off[worst] > TOLERANCE:
        raise DataError(
            f"the network takes spectra from {net.wavelength[0]:.6g} to {net.wavelength[-1]:.6g}"
            f" {net.wavelength_unit}, got other wavelengths in {name} (pixel {worst}:"
            f" {found[worst]:.6g} rather than {net.wavelength[worst]:.6g}): {_ADVICE}."
        )
