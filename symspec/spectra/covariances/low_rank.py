"""Covariances of independent errors, and of some errors that many pixels share."""

from __future__ import annotations

from copy import copy
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError, ShapeError
from symspec.safety.arrays import describe_bad
from symspec.spectra.covariances.interface import FluxCovariance, as_rows, square, take_rows


class LowRankCovariance(FluxCovariance):
    r"""Covariance of errors of single pixels, and of few errors that pixels share.

    .. math:: \Sigma = \mathrm{diag}(v) + U^T U

    Such are the errors of a continuum, a sky, or a background: what an error of one standard
    deviation does to the pixels is a row of U.

    Parameters
    ----------
    variance : array_like, shape (star, pixel), or (pixel,) for all stars alike
        v, in squares of the flux's units.
    factors : array_like, shape (star, factor, pixel), or (factor, pixel) for all stars alike
        U, in units of the flux.

    Raises
    ------
    ShapeError, DataError
        Not such arrays, a negative variance, or a pixel without any error.
    """

    def __init__(self, variance: ArrayLike, factors: ArrayLike):
        v = as_rows(variance, "variance", 2, ("star", "pixel"))
        U = as_rows(factors, "factors", 3, ("star", "factor", "pixel"))
        n_stars = {len(v), len(U)} - {1}
        if v.shape[1] != U.shape[2] or len(n_stars) > 1:
            raise ShapeError(
                "variance and factors should be of the same stars and pixels, (star, pixel) and"
                f" (star, factor, pixel), got shapes {v.shape} and {U.shape}."
            )
        if (v < 0).any():
            described = describe_bad(v < 0, v, ("star", "pixel"))
            raise DataError(f"variance should not be negative, got {described}: give squares.")
        self.independent = v
        self.factors = U
        if (none := self.variance == 0).any():
            described = describe_bad(none, self.variance, ("star", "pixel"))
            raise DataError(
                f"variance should be above 0 where no factor reaches, got {described}: mark bad"
                " pixels by ivar = 0, and give them any variance."
            )

    @property
    def variance(self) -> np.ndarray:
        return self.independent + np.sum(self.factors**2, axis=1)

    @property
    def n_normals(self) -> int:
        return self.factors.shape[2] + self.factors.shape[1]

    def pick(self, stars: slice | np.ndarray) -> Self:
        picked = copy(self)
        picked.independent = take_rows(self.independent, stars)
        picked.factors = take_rows(self.factors, stars)
        return picked

    def propagate(self, J: np.ndarray) -> np.ndarray:
        shared = np.matmul(J, self.factors.transpose(0, 2, 1))
        single = np.matmul(J * self.independent[:, None], J.transpose(0, 2, 1))
        return single + square(shared)

    def draw(self, normals: np.ndarray) -> np.ndarray:
        n = self.factors.shape[2]
        return np.sqrt(self.independent) * normals[:n] + normals[n:] @ self.factors

    def identity(self) -> dict[str, np.ndarray]:
        return {"variance": self.independent, "factors": self.factors}
