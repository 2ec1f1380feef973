"""Derivatives of every label with respect to every pixel, star after star into an HDF5 file."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from symspec.checks import check_choice
from symspec.compiled import DTYPES, compile_jacobian
from symspec.errors import DataError, ShapeError
from symspec.layers import Standardize
from symspec.networks import Network
from symspec.prediction import fill_bad_pixels
from symspec.spectra import Spectra
from symspec.writers import replace_when_complete

CHUNK_BYTES = 32 * 2**20


def write_jacobian(
    path: str | os.PathLike[str],
    net: Network,
    theta: Any,
    spectra: Spectra,
    *,
    flux_mean: Any = None,
    dtype: str = "float64",
    backend: str = "auto",
    overwrite: bool = False,
    advance: Callable[[int], object] | None = None,
) -> np.ndarray:
    r"""Write :math:`J_x = \partial f / \partial x` of every star, a few at a time.

    The file holds `jacobian` (star, label, pixel), in units of the label per unit of the flux,
    `label_names`, `label_units`, and of the spectra what they have: `wavelength`, `ids`, and `bad_pixel`
    (star, pixel), where ivar is 0: such a pixel is replaced by its training mean before derivatives are
    taken. The file appears under its name once it is complete.

    Parameters
    ----------
    path : str or path
    net : Network
    theta : array_like, shape (param,)
    spectra : Spectra
    flux_mean : array_like, shape (pixel,), optional
        Mean training spectrum; by default that of the network's first layer if it is a `Standardize`.
    dtype : {"float64", "float32"}
        Of the passes and of the file.
    backend : str
        As for `compile_jacobian`.
    overwrite : bool, default False
        Replace an existing file.
    advance : callable, optional
        Called with the number of stars after each chunk.

    Returns
    -------
    numpy.ndarray, shape (label, pixel)
        Mean over the stars.

    Raises
    ------
    FileKeptError
        There is a file at `path` and `overwrite` is False.
    ShapeError
        The spectra have another number of pixels than the network takes.
    DataError
        Pixels are bad and no mean spectrum is known.
    """
    import h5py

    check_choice(dtype, "dtype", DTYPES)
    if spectra.n_pixels != net.n_pixels:
        raise ShapeError(f"the network takes {net.n_pixels} pixels a star, got spectra of {spectra.n_pixels}.")
    flux_mean = _find_flux_mean(net, spectra, flux_mean)
    jacobian = compile_jacobian(net, "flux", backend=backend, dtype=dtype)
    size = max(1, CHUNK_BYTES // (8 * net.n_labels * net.n_pixels))
    total = np.zeros((net.n_labels, net.n_pixels))
    with replace_when_complete(path, overwrite=overwrite) as temporary, h5py.File(temporary, "x") as file:
        _write_description(file, net, spectra)
        out = file.create_dataset("jacobian", (len(spectra), *total.shape), dtype=dtype)
        out.attrs["axes"] = ["star", "label", "pixel"]
        for start in range(0, len(spectra), size):
            rows = slice(start, min(start + size, len(spectra)))
            ivar = None if spectra.ivar is None else spectra.ivar[rows]
            J = jacobian(theta, fill_bad_pixels(spectra.flux[rows], ivar, flux_mean))
            out[rows] = J
            total += J.sum(axis=0, dtype=np.float64)
            if advance is not None:
                advance(len(J))
    return total / len(spectra)


def _write_description(file: Any, net: Network, spectra: Spectra) -> None:
    file.attrs["content"] = "d(label)/d(flux), in units of the label per unit of the flux"
    file["label_names"], file["label_units"] = list(net.label_names), list(net.label_units)
    if spectra.wavelength is not None:
        file["wavelength"] = spectra.wavelength
        file["wavelength"].attrs["unit"] = spectra.wavelength_unit
    if spectra.ids is not None:
        file["ids"] = [str(star) for star in spectra.ids]
    if spectra.ivar is not None:
        file.create_dataset("bad_pixel", data=spectra.ivar == 0, compression="gzip", compression_opts=1)


def _find_flux_mean(net: Network, spectra: Spectra, flux_mean: Any) -> np.ndarray | None:
    if spectra.ivar is None or (spectra.ivar > 0).all():
        return np.zeros(net.n_pixels)  # not used
    if flux_mean is None:
        if not isinstance(net.layers[0], Standardize):
            raise DataError(
                "pixels with ivar = 0 need the mean training spectrum in their place, got none: give "
                "flux_mean, or a network that starts with Standardize."
            )
        flux_mean = net.layers[0].mean
    return np.asarray(flux_mean)
