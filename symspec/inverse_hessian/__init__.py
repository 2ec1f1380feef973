"""Structures of the inverse Hessian: one file each, one interface, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from symspec import compiled
from symspec.checks import check_choice
from symspec.errors import OptionError, TooLargeError
from symspec.inverse_hessian.dual import DualInverse
from symspec.inverse_hessian.interface import InverseHessian
from symspec.inverse_hessian.primal import PrimalInverse
from symspec.networks import Network
from symspec.regression import Regression
from symspec.tangents import Tangents, compute_tangents

__all__ = ["DualInverse", "InverseBuilder", "InverseHessian", "PrimalInverse", "choose_structure"]

STRUCTURES = ("auto", "primal", "dual")
CURVATURES = ("ggn", "hessian")


@dataclass(frozen=True)
class Choice:
    """A structure, and in one line why."""

    structure: str
    reason: str


def choose_structure(net: Network, n_rows: int, *, curvature: str = "ggn", memory: str = "8GB") -> Choice:
    """Pick the exact structure that costs least and fits in memory.

    Parameters
    ----------
    net : Network
    n_rows : int
        Observed (star, label) pairs of the training set.
    curvature : {"ggn", "hessian"}
        The dual needs the Gauss-Newton matrix.
    memory : str, default "8GB"
        What the factorisation may take.

    Raises
    ------
    TooLargeError
        No exact structure fits.
    """
    limit, P = parse_memory(memory), net.n_params
    widths = sum(n_in + n_out for n_in, n_out in net.dense_shapes.values())
    costs = {
        "primal": (n_rows * P**2 + P**3 / 3, 3 * 8 * P**2),
        "dual": (n_rows**2 * widths + n_rows**3 / 3, 3 * 8 * n_rows**2),
    }
    if curvature == "hessian":
        del costs["dual"]
    fitting = {name: flops for name, (flops, n_bytes) in costs.items() if n_bytes <= limit}
    sizes = ", ".join(f"{name} {n_bytes / 2**30:.3g} GiB" for name, (_, n_bytes) in costs.items())
    if not fitting:
        raise TooLargeError(
            f"an exact inverse Hessian of {P:,} parameters and {n_rows:,} observed labels takes {sizes}, and memory="
            f"{memory!r} was given: give more, or fewer training stars (the error bars are then upper bounds)."
        )
    name = min(fitting, key=lambda key: fitting[key])
    return Choice(name, f"{name}: {P:,} parameters, {n_rows:,} observed labels; {sizes} of {memory}.")


def parse_memory(memory: str) -> float:
    """Bytes of a text such as "8GB" or "500MB"."""
    units = {"kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40}
    text = str(memory).strip().lower()
    try:
        size = float(text[:-2]) * units[text[-2:]]
    except (KeyError, ValueError):
        size = 0.0
    if not size > 0:
        raise OptionError(f'memory should be a text such as "8GB" or "500MB", got {memory!r}.')
    return size


class InverseBuilder:
    """Builds the inverse Hessian of one regression and data set at any theta and prior, compiling once.

    Parameters
    ----------
    reg : Regression
    X, Y : numpy.ndarray
        Training flux (star, pixel) and labels (star, label).
    structure : {"auto", "primal", "dual"}
    curvature : {"ggn", "hessian"}
    backend, dtype, memory : str
    """

    def __init__(
        self,
        reg: Regression,
        X: np.ndarray,
        Y: np.ndarray,
        *,
        structure: str = "auto",
        curvature: str = "ggn",
        backend: str = "auto",
        dtype: str = "float64",
        memory: str = "8GB",
    ):
        check_choice(structure, "structure", STRUCTURES)
        check_choice(curvature, "curvature", CURVATURES)
        if structure == "dual" and curvature == "hessian":
            raise OptionError('structure="dual" inverts the Gauss-Newton matrix: use curvature="ggn", or "primal".')
        self.reg, self.X, self.Y = reg, X, Y
        self.observed = ~np.isnan(Y)
        if structure == "auto":
            n_rows = int(self.observed.sum())
            choice = choose_structure(reg.net, n_rows, curvature=curvature, memory=memory)
            structure, self.reason = choice.structure, choice.reason
        else:
            self.reason = f"{structure}: as asked."
        self.structure, self.curvature = structure, curvature
        self.backend, self.dtype = backend, dtype
        self.factors = compiled.compile_tangent_factors(reg.net, backend=backend, dtype=dtype)
        self._matrix = self._compile_matrix()

    def with_regression(self, reg: Regression) -> InverseBuilder:
        """The same for another noise and prior around the same network."""
        other = copy(self)
        other.reg = reg
        other._matrix = other._compile_matrix()
        return other

    def _compile_matrix(self) -> Callable[..., np.ndarray] | None:
        if self.structure != "primal":
            return None
        compile_matrix = compiled.compile_ggn if self.curvature == "ggn" else compiled.compile_hessian
        return compile_matrix(self.reg, backend=self.backend, dtype=self.dtype)

    def tangents(self, theta: np.ndarray, X: Any = None) -> Tangents:
        """Tangents at `theta` of some stars, the training stars by default."""
        return compute_tangents(self.reg.net, self.factors, theta, self.X if X is None else X)

    def build(self, theta: np.ndarray) -> InverseHessian:
        """Inverse Hessian at `theta`.

        Raises
        ------
        NotPositiveDefiniteError
            The exact Hessian has a negative eigenvalue.
        """
        if self._matrix is not None:
            return PrimalInverse.factorize(self._matrix(theta, self.X, self.Y).astype(np.float64))
        variance = {name: 1 / np.asarray(p) for name, p in self.reg.prior_precision.items()}
        return DualInverse(self.tangents(theta), variance, self.observed, self.reg.noise_covariance)
