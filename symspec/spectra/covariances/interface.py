"""What a covariance of flux has to give, and the checks that all forms share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError, ShapeError
from symspec.safety.arrays import as_float_array, check_finite

AGREE = 1e-6  # relative difference of an inverse variance from that of a covariance


class FluxCovariance(ABC):
    r"""Covariance :math:`\Sigma` of the flux of each star, or one that all stars have.

    Its arrays have one row a star, or a single row for all of them.
    """

    @property
    @abstractmethod
    def variance(self) -> np.ndarray:
        """Diagonal, (star, pixel) or (1, pixel)."""

    @property
    @abstractmethod
    def n_normals(self) -> int:
        """Number of independent normal numbers that a draw takes."""

    @abstractmethod
    def pick(self, stars: slice | np.ndarray) -> Self:
        """That of some of the stars."""

    @abstractmethod
    def propagate(self, J: np.ndarray) -> np.ndarray:
        r"""Covariance of labels :math:`J \Sigma J^T`, (star, label, label).

        Parameters
        ----------
        J : numpy.ndarray, shape (star, label, pixel)
            Derivatives of the labels with respect to the flux, as `compile_jacobian` gives them.
        """

    @abstractmethod
    def draw(self, normals: np.ndarray) -> np.ndarray:
        """Errors (star, pixel) or (1, pixel) from standard normal numbers (n_normals,)."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that it is made of, by name, for fingerprints."""

    @property
    def n_stars(self) -> int:
        """Number of stars; 1 also where one covariance is that of all."""
        return len(self.variance)

    def check_stars(self, n_stars: int, n_pixels: int) -> None:
        """Refuse covariances of another number of stars or pixels.

        Raises
        ------
        ShapeError
        """
        n_own = self.variance.shape[1]
        if n_own != n_pixels or self.n_stars not in (1, n_stars):
            raise ShapeError(
                f"flux_covariance should be of {n_stars} stars, or one for all, and {n_pixels}"
                f" pixels, got that of {self.n_stars} stars and {n_own} pixels: give it for the"
                " pixels and stars of the flux."
            )

    def find_ivar(self, n_stars: int) -> np.ndarray:
        """Inverse variances (star, pixel) of its diagonal."""
        return np.broadcast_to(1 / self.variance, (n_stars, self.variance.shape[1])).copy()

    def check_ivar(self, ivar: np.ndarray) -> None:
        """Refuse inverse variances (star, pixel) of good pixels that are not its own.

        Raises
        ------
        DataError
        """
        off = (ivar > 0) & (np.abs(ivar * self.variance - 1) > AGREE)
        if off.any():
            star, pixel = np.argwhere(off)[0]
            own = 1 / self.variance[star if self.n_stars > 1 else 0, pixel]
            raise DataError(
                "ivar beside flux_covariance should be 0 at bad pixels and 1 over the diagonal of"
                f" flux_covariance elsewhere, got {ivar[star, pixel]:.6g} rather than {own:.6g} at"
                f" star {star}, pixel {pixel} ({np.count_nonzero(off)} such values): give one of"
                " the two, or make them agree."
            )


def as_rows(value: ArrayLike, name: str, n_axes: int, axes: tuple[str, ...]) -> np.ndarray:
    """Finite floats with a first axis for stars, of length 1 where it was left out.

    Raises
    ------
    ShapeError, DataError
    """
    array = as_float_array(value, name)
    if array.ndim not in (n_axes, n_axes - 1) or array.size == 0:
        one = ", ".join(axes[1:]) + ("," if n_axes == 2 else "")
        raise ShapeError(
            f"{name} should have shape ({', '.join(axes)}), or ({one}) for all stars alike, got"
            f" {array.shape}."
        )
    check_finite(array, name, axes[-array.ndim :], "mark bad pixels by ivar = 0")
    array = array if array.ndim == n_axes else array[None]
    view = array.view()
    view.flags.writeable = False
    return view


def take_rows(array: np.ndarray, stars: slice | np.ndarray) -> np.ndarray:
    """Rows of some stars; the single row of all stars is kept."""
    return array if len(array) == 1 else array[stars]


def square(J: np.ndarray) -> np.ndarray:
    """J J^T for each star, (star, label, label)."""
    return np.matmul(J, J.transpose(0, 2, 1))


def refuse_indefinite(name: str, star: int) -> DataError:
    """The error for a matrix without a Cholesky factor."""
    return DataError(
        f"{name} should be positive definite, got a matrix that is not for star {star}: give the"
        " covariance of fewer spectra than pixels, or of common errors, as"
        " LowRankCovariance(variance, factors)."
    )


def find_variance(ivar: np.ndarray) -> np.ndarray:
    """Of the errors of pixels, 0 where nothing is known of them."""
    return np.divide(1.0, ivar, out=np.zeros(ivar.shape), where=ivar > 0)
