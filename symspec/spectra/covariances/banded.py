"""Covariances that are zero beyond some pixels from the diagonal."""

from __future__ import annotations

from copy import copy
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cholesky_banded

from symspec.errors import ShapeError
from symspec.spectra.covariances.interface import (
    FluxCovariance,
    as_rows,
    refuse_indefinite,
    take_rows,
)


class BandedCovariance(FluxCovariance):
    r"""Covariance of pixels that are correlated with their neighbours alone.

    .. math:: \Sigma_{i + k, i} = \Sigma_{i, i + k} = b_{k i}

    Parameters
    ----------
    bands : array_like, shape (star, band, pixel), or (band, pixel) for all stars alike
        b: the diagonal, and below it one band after the other, as `scipy.linalg.cholesky_banded`
        takes them with ``lower=True``. The last k values of band k are outside of the matrix, and
        ignored.

    Raises
    ------
    ShapeError, DataError
        Not such an array, more bands than pixels, or not positive definite.
    """

    def __init__(self, bands: ArrayLike):
        given = as_rows(bands, "bands", 3, ("star", "band", "pixel"))
        n_bands, n_pixels = given.shape[1:]
        if n_bands > n_pixels:
            raise ShapeError(
                f"bands should have shape (star, band, pixel), got {n_bands} bands of {n_pixels}"
                " pixels: transpose each star's, or give a dense flux_covariance."
            )
        inside = np.arange(n_pixels) < n_pixels - np.arange(n_bands)[:, None]
        self.bands = np.where(inside, given, 0.0)
        self.cholesky = np.stack([_factorize(one, n) for n, one in enumerate(self.bands)])

    @property
    def variance(self) -> np.ndarray:
        return self.bands[:, 0]

    @property
    def n_normals(self) -> int:
        return self.bands.shape[2]

    def pick(self, stars: slice | np.ndarray) -> Self:
        picked = copy(self)
        picked.bands = take_rows(self.bands, stars)
        picked.cholesky = take_rows(self.cholesky, stars)
        return picked

    def propagate(self, J: np.ndarray) -> np.ndarray:
        product = J * self.bands[:, :1]
        for k in range(1, self.bands.shape[1]):
            band = self.bands[:, k : k + 1, :-k]
            product[..., k:] += J[..., :-k] * band
            product[..., :-k] += J[..., k:] * band
        return np.matmul(product, J.transpose(0, 2, 1))

    def draw(self, normals: np.ndarray) -> np.ndarray:
        errors = self.cholesky[:, 0] * normals
        for k in range(1, self.cholesky.shape[1]):
            errors[:, k:] += self.cholesky[:, k, :-k] * normals[:-k]
        return errors

    def identity(self) -> dict[str, np.ndarray]:
        return {"bands": self.bands}


def _factorize(bands: np.ndarray, star: int) -> np.ndarray:
    try:
        return cholesky_banded(bands, lower=True)
    except np.linalg.LinAlgError as error:
        raise refuse_indefinite("bands", star) from error
