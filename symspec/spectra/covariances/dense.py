"""Covariances given entry by entry."""

from __future__ import annotations

from copy import copy
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError, ShapeError
from symspec.spectra.covariances.interface import (
    FluxCovariance,
    as_rows,
    refuse_indefinite,
    square,
    take_rows,
)

SYMMETRY = 1e-10  # relative to the geometric mean of the two variances


class DenseCovariance(FluxCovariance):
    r"""Covariance :math:`\Sigma = L L^T`, entry by entry.

    Parameters
    ----------
    covariance : array_like, shape (star, pixel, pixel), or (pixel, pixel) for all stars alike
        In squares of the flux's units.

    Raises
    ------
    ShapeError, DataError
        Not such an array, not symmetric, or not positive definite.
    """

    def __init__(self, covariance: ArrayLike):
        Sigma = as_rows(covariance, "flux_covariance", 3, ("star", "pixel", "pixel"))
        if Sigma.shape[1] != Sigma.shape[2]:
            raise ShapeError(
                "flux_covariance should have shape (star, pixel, pixel), or (pixel, pixel) for all"
                f" stars alike, got {Sigma.shape if len(Sigma) > 1 else Sigma.shape[1:]}: variances"
                " alone are given as ivar = 1 / variance, bands as BandedCovariance(bands)."
            )
        self.covariance = Sigma
        self.cholesky = np.stack([_factorize(matrix, n) for n, matrix in enumerate(Sigma)])

    @property
    def variance(self) -> np.ndarray:
        return np.einsum("npp->np", self.covariance)

    @property
    def n_normals(self) -> int:
        return self.covariance.shape[1]

    def pick(self, stars: slice | np.ndarray) -> Self:
        picked = copy(self)
        picked.covariance = take_rows(self.covariance, stars)
        picked.cholesky = take_rows(self.cholesky, stars)
        return picked

    def propagate(self, J: np.ndarray) -> np.ndarray:
        return square(np.matmul(J, self.cholesky))

    def draw(self, normals: np.ndarray) -> np.ndarray:
        return self.cholesky @ normals

    def identity(self) -> dict[str, np.ndarray]:
        return {"covariance": self.covariance}


def _factorize(Sigma: np.ndarray, star: int) -> np.ndarray:
    variance = np.diagonal(Sigma)
    scale = np.sqrt(np.abs(np.multiply.outer(variance, variance)))
    if (np.abs(Sigma - Sigma.T) > SYMMETRY * scale).any():
        raise DataError(
            f"flux_covariance should be symmetric, got a matrix that is not for star {star}: give"
            " (Sigma + Sigma.T) / 2 if this is rounding."
        )
    try:
        return np.linalg.cholesky(Sigma)
    except np.linalg.LinAlgError as error:
        raise refuse_indefinite("flux_covariance", star) from error


def match_covariance(
    value: FluxCovariance | ArrayLike, ivar: np.ndarray | None, shape: tuple[int, ...]
) -> tuple[FluxCovariance, np.ndarray]:
    """A covariance of flux, that of an array being dense, and inverse variances that go with it.

    Parameters
    ----------
    value : FluxCovariance or array_like, shape (star, pixel, pixel) or (pixel, pixel)
    ivar : numpy.ndarray, shape (star, pixel), optional
        0 at bad pixels.
    shape : tuple (star, pixel)
        That of the flux.

    Raises
    ------
    ShapeError, DataError
        It is of other stars or pixels, or `ivar` disagrees with its diagonal.
    """
    covariance = value if isinstance(value, FluxCovariance) else DenseCovariance(value)
    n_stars, n_pixels = shape
    covariance.check_stars(n_stars, n_pixels)
    if ivar is None:
        return covariance, covariance.find_ivar(n_stars)
    covariance.check_ivar(ivar)
    return covariance, ivar
