"""Spectra on the grid of wavelengths that a network takes: checked, or resampled to it."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from symspec.errors import DataError, ShapeError
from symspec.networks.network import Network
from symspec.spectra.resampling import Resampled, resample
from symspec.spectra.spectra import Spectra
from symspec.spectra.wavelengths import convert_wavelength

TOLERANCE = 0.1  # of a pixel


class Pixels(Protocol):
    """What has pixels, and may know their wavelengths."""

    n_pixels: int
    wavelength: np.ndarray | None
    wavelength_unit: str


def fit_to_network(net: Network, spectra: Spectra, kind: str | None = None) -> Spectra | Resampled:
    """Spectra as a network takes them: as they are, or with a `kind` of `symspec.resample` on its grid.

    Raises
    ------
    ShapeError, DataError
        As `check_grid` and `resample`, or no grid is known of the network.
    """
    if kind is None:
        check_grid(net, spectra, "the spectra")
        return spectra
    if net.wavelength is None:
        raise DataError(
            "resampling needs the wavelengths that the network takes, got a network without: give "
            "Network(..., wavelength=...), or import_network(..., wavelength=...)."
        )
    return resample(spectra, net.wavelength, kind=kind, wavelength_unit=net.wavelength_unit)


def check_grid(net: Network, spectra: Pixels, name: str) -> None:
    """Refuse spectra, called `name`, of other pixels than a network takes; what is not known is not compared.

    Parameters
    ----------
    net : Network
    spectra : Spectra, SpectraSource or the like
        Of which the pixels alone are looked at.
    name : str

    Raises
    ------
    ShapeError
        They are longer or shorter.
    DataError
        A wavelength is off by more than a tenth of a pixel.
    """
    advice = (
        "resample them (--resample on the command line, symspec.resample in Python), or train a"
        " network on these"
    )
    n = spectra.n_pixels
    if n != net.n_pixels:
        raise ShapeError(
            f"the network takes spectra of {net.n_pixels:,} pixels, got {n:,} in {name}: {advice}."
        )
    if spectra.wavelength is None or net.wavelength is None or not spectra.wavelength_unit:
        return
    found = convert_wavelength(spectra.wavelength, spectra.wavelength_unit, net.wavelength_unit)
    off = np.abs(found - net.wavelength) / (
        np.gradient(net.wavelength) if n > 1 else net.wavelength
    )
    if (worst := int(np.argmax(off))) >= 0 and off[worst] > TOLERANCE:
        raise DataError(
            f"the network takes spectra from {net.wavelength[0]:.6g} to {net.wavelength[-1]:.6g}"
            f" {net.wavelength_unit}, got other wavelengths in {name} (pixel {worst}:"
            f" {found[worst]:.6g} rather than {net.wavelength[worst]:.6g}): {advice}."
        )
