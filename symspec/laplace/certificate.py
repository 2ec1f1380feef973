"""Certificate of the optimum: how far weights are from a minimum of U, and whether it is one.

The distance is the Newton decrement; `symspec.training.steps.stationary_points` tells what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from symspec.training.steps.stationary_points import LowestCurvature

MAX_DECREMENT = 1e-2


class Certificate:
    r"""Tests of whether weights are at a minimum of the negative log posterior U.

    What takes products with the exact Hessian is found when it is first asked for: `is_minimum`,
    `sign`, and the eigenvalues. Networks of up to 400 parameters have it at once.

    Parameters
    ----------
    gradient_norm, newton_decrement, newton_shift
        See below.
    lowest : LowestCurvature, optional
        What is known of the Hessian's sign.
    n_pieces : int, default 1
        See below.
    search : callable, optional
        Finds `lowest` when it is asked for; files and other processes do not have it.

    Attributes
    ----------
    gradient_norm : float
        Largest absolute entry of the gradient g of U, in nats per unit of the weight.
    newton_decrement : float
        :math:`g^T A^{-1} g / 2`, in nats: the gain of a Newton step. An approximation or an upper
        bound where A^-1 is one; with structure="krylov" an upper bound from its subset.
    newton_shift : numpy.ndarray, shape (label,)
        Root mean square, over some 256 training stars, of the change of the predictions by a
        Newton step, in the units of the labels.
    n_pieces : int
        Beyond 1 the weights are at a kink of a piecewise smooth U, as ReLU has them: so many of its
        gradients nearby have a convex combination that vanishes, whose norms the above are.
    """

    def __init__(
        self,
        *,
        gradient_norm: float,
        newton_decrement: float,
        newton_shift: np.ndarray,
        n_pieces: int = 1,
        lowest: LowestCurvature | None = None,
        search: Callable[[], LowestCurvature] | None = None,
    ):
        self.gradient_norm = gradient_norm
        self.newton_decrement = newton_decrement
        self.newton_shift = newton_shift
        self.n_pieces = n_pieces
        self._lowest = lowest
        self._search = search

    def __getstate__(self) -> dict[str, Any]:
        """All but the search, for which another process has no training set."""
        return vars(self) | {"_search": None}

    def __repr__(self) -> str:
        return (
            f"Certificate(gradient_norm={self.gradient_norm!r},"
            f" newton_decrement={self.newton_decrement!r}, newton_shift={self.newton_shift!r},"
            f" n_pieces={self.n_pieces!r}, lowest={self.known!r})"
        )

    @property
    def known(self) -> LowestCurvature | None:
        """What has been found of the Hessian's sign; None if nobody asked."""
        return self._lowest

    def decide(self) -> LowestCurvature:
        """Look for the lowest curvature, unless it is known; NaN where there is no search."""
        search = self._search
        if self._lowest is None and search is not None:
            self._lowest = search()
            self._search = None
        return self._lowest or UNKNOWN

    @property
    def smallest_ratio(self) -> float:
        """Lowest eigenvalue of the pencil (H, A), see `LowestCurvature`."""
        return self.decide().smallest_ratio

    @property
    def smallest_ratio_error(self) -> float:
        """An eigenvalue of the pencil lies within this distance of `smallest_ratio`."""
        return self.decide().smallest_ratio_error

    @property
    def smallest_eigenvalue(self) -> float:
        """Rayleigh quotient of H in that direction: its lowest eigenvalue is not larger."""
        return self.decide().smallest_eigenvalue

    @property
    def eigenvalue_error(self) -> float:
        """An eigenvalue of H lies within this distance of `smallest_eigenvalue`."""
        return self.decide().eigenvalue_error

    @property
    def sign(self) -> str:
        """Of the lowest eigenvalue of H: "positive", "negative" or "not decided"."""
        return self.decide().sign

    @property
    def is_stationary(self) -> bool:
        """Whether the decrement is at most 0.01 nats."""
        return bool(self.newton_decrement <= MAX_DECREMENT)

    @property
    def is_minimum(self) -> bool:
        """Whether the decrement is at most 0.01 nats, and the lowest eigenvalue positive."""
        return self.is_stationary and self.sign == "positive"

    @property
    def verdict(self) -> str:
        """What is known so far, in some words."""
        if not self.is_stationary:
            return "not at a minimum"
        if self.n_pieces > 1 and (self.known is None or self.sign != "positive"):
            # the Hessian of one of the pieces does not tell what the others do
            return f"at a kink, where {self.n_pieces} pieces of U meet"
        if self.known is None:
            return "at a stationary point"
        return {
            "positive": "at a minimum",
            "negative": "not at a minimum but at a saddle point",
            "not decided": "at a stationary point, not decided whether a minimum",
        }[self.sign]

    @property
    def message(self) -> str:
        """The verdict with the numbers that are known so far."""
        parts = [
            f"{self.verdict}: |gradient| {self.gradient_norm:.3g}",
            f"Newton decrement {self.newton_decrement:.3g} nats (at most {MAX_DECREMENT:g})",
        ]
        if self.known is not None:
            parts.append(f"lowest eigenvalue of the Hessian {self.smallest_eigenvalue:.4g}")
            if not np.isnan(self.smallest_ratio):  # which files of symspec 0.1 do not have
                parts.append(
                    f"{self.smallest_ratio:.3g} +- {self.smallest_ratio_error:.1g} in units of A"
                )
        elif self.is_stationary and self._search is not None:
            parts.append("certificate.is_minimum tells whether U curves down anywhere")
        message = ", ".join(parts)
        if self.is_stationary:
            return f"{message}."
        shift = ", ".join(f"{s:.3g}" for s in self.newton_shift)
        return f"{message}; a Newton step would change the labels by {shift} (rms)."


UNKNOWN = LowestCurvature(
    smallest_ratio=np.nan,
    smallest_ratio_error=np.nan,
    smallest_eigenvalue=np.nan,
    eigenvalue_error=np.nan,
    missed=1.0,
)
