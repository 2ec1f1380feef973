r"""Coordinates z in which a posterior is nearly a unit normal: theta = theta* + L z, L L^T = A^-1.

A sampler that moves in z needs no mass matrix of its own: the scales and correlations that the
curvature knows are taken out. The map is linear, so that its log-Jacobian :math:`\log|\det L| =
\tfrac12 \log\det A^{-1}` is a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytensor
import pytensor.tensor as pt

from symspec.inverse_hessian.numerics.square_roots import Factor
from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.params import Symbol


@dataclass(frozen=True, eq=False)
class Whitening:
    r"""The map theta = center + L z and its inverse, as graphs and as numbers.

    Attributes
    ----------
    center : numpy.ndarray, shape (param,)
        Laplace's theta*.
    factor : Factor
        L.
    """

    center: np.ndarray
    factor: Factor

    @property
    def log_det(self) -> float:
        r"""Log \|det L\|."""
        return self.factor.log_det

    @cached_property
    def _shared(self) -> dict[str, Symbol]:
        """The arrays as shared variables: constants would be hashed and folded."""
        return {
            name: pytensor.shared(array, f"whitening_{name}", borrow=True)
            for name, array in self.factor.arrays.items()
        }

    @cached_property
    def _shared_center(self) -> Symbol:
        return pytensor.shared(self.center, "whitening_center", borrow=True)

    def build_theta(self, z: Symbol) -> Symbol:
        """Symbolic theta (param,) of a symbolic z (param,)."""
        return self._shared_center + self.factor.colour(z, self._shared, pt)

    def find_theta(self, z: np.ndarray) -> np.ndarray:
        """Theta (param,) or (draw, param) of z."""

        def colour(v: np.ndarray) -> np.ndarray:
            return self.factor.colour(v, self.factor.arrays, np)

        return self.center + np.apply_along_axis(colour, -1, z)

    def find_z(self, theta: np.ndarray) -> np.ndarray:
        """The z (param,) or (draw, param) that gives theta."""

        def uncolour(v: np.ndarray) -> np.ndarray:
            return self.factor.uncolour(v - self.center, self.factor.arrays, np)

        return np.apply_along_axis(uncolour, -1, theta)


def find_whitening(laplace: LaplacePosterior) -> Whitening:
    """Whitening by the inverse Hessian of a Laplace posterior over all weights.

    The better it knows the posterior's shape, the faster a sampler moves; the posterior sampled is
    the same.

    Raises
    ------
    OptionError
        The structure has no factor over all parameters ("krylov", "last_layer").
    TooLargeError
        A dual inverse of many stars and parameters.
    """
    return Whitening(laplace.theta, laplace.inverse_hessian.whitening(laplace.reg))


def find_last_layer_whitening(laplace: LaplacePosterior, free: slice) -> Whitening:
    """Whitening of the last layer's parameters, `free` in theta, given all others.

    Raises
    ------
    OptionError
        The structure does not hold the last layer's curvature.
    """
    inverse = laplace.inverse_hessian.of_last_layer(laplace.reg)
    return Whitening(laplace.theta[free], inverse.factor())
