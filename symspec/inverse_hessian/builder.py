"""From a regression and its training stars to the inverse Hessian at any weights and prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

import numpy as np

from symspec.derivatives import compiled, matrices
from symspec.derivatives.tangent_stream import TangentStream
from symspec.derivatives.tangents import Tangents, compute_tangents
from symspec.errors import OptionError
from symspec.inverse_hessian.choice import check_structure, choose_structure
from symspec.inverse_hessian.dual import DualInverse
from symspec.inverse_hessian.interface import InverseHessian
from symspec.inverse_hessian.kronecker import build_kronecker
from symspec.inverse_hessian.krylov import KrylovInverse, KrylovLimits
from symspec.inverse_hessian.last_layer import build_last_layer
from symspec.inverse_hessian.layerwise import build_diagonal
from symspec.inverse_hessian.low_rank import build_low_rank
from symspec.inverse_hessian.primal import PrimalInverse, build_primal
from symspec.networks.regression import Regression
from symspec.safety.checkpoint import Checkpoint
from symspec.safety.memory import parse_memory

DEFAULT_RANK = 100


class InverseBuilder:
    """Builds the inverse Hessian of one regression and data set at any theta and prior, compiling once.

    Parameters
    ----------
    reg : Regression
    X, Y : numpy.ndarray
        Training flux (star, pixel) and labels (star, label).
    structure : str
        A word of `STRUCTURES`.
    curvature : {"ggn", "hessian"}
    backend, dtype, memory : str
    options : mapping, optional
        Of the structure, see `fit_laplace`.
    checkpoint : Checkpoint, optional
        Where finished blocks are kept.
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
        options: Mapping[str, Any] | None = None,
        checkpoint: Checkpoint | None = None,
    ):
        self.options = dict(options or {})
        check_structure(structure, curvature, self.options)
        self.reg = reg
        self.X = X
        self.Y = Y
        self.memory = parse_memory(memory)
        self.observed = ~np.isnan(Y)
        if structure == "auto":
            n_rows = int(self.observed.sum())
            choice = choose_structure(reg.net, n_rows, curvature=curvature, memory=memory)
            structure = choice.structure
            self.reason = choice.reason
        else:
            self.reason = f"{structure}: as asked."
        self.structure = structure
        self.curvature = curvature
        self.backend = backend
        self.dtype = dtype
        self.checkpoint = Checkpoint() if checkpoint is None else checkpoint
        self.factors = compiled.compile_tangent_factors(reg.net, backend=backend, dtype=dtype)
        self._hessian = self._compile_hessian()

    def with_regression(self, reg: Regression) -> InverseBuilder:
        """The same for another noise and prior around the same network."""
        other = copy(self)
        other.reg = reg
        other._hessian = other._compile_hessian()
        return other

    def _compile_hessian(self) -> Callable[..., np.ndarray] | None:
        if self.curvature == "ggn":
            return None
        return matrices.compile_hessian(self.reg, backend=self.backend, dtype=self.dtype)

    def tangents(self, theta: np.ndarray, X: Any = None) -> Tangents:
        """Tangents at `theta` of some stars, the training stars by default."""
        return compute_tangents(self.reg.net, self.factors, theta, self.X if X is None else X)

    def stream(self, theta: np.ndarray, stars: np.ndarray | None = None) -> TangentStream:
        """Whitened tangents of the training stars with labels, or of some of them, block by block."""
        stars = np.flatnonzero(self.observed.any(axis=1)) if stars is None else stars
        return TangentStream(
            lambda some: self.tangents(theta, self.X[some]),
            self.reg.noise.of_stars(self.Y).whiteners,
            self.reg.net.n_params,
            self.memory / 3,
            stars,
        )

    def build(self, theta: np.ndarray) -> InverseHessian:
        """Inverse Hessian at `theta`.

        Raises
        ------
        NotPositiveDefiniteError
            The exact Hessian has a negative eigenvalue.
        """
        return getattr(self, f"_build_{self.structure}")(theta)

    def _build_primal(self, theta: np.ndarray) -> InverseHessian:
        if self._hessian is None:
            return build_primal(self.stream(theta), self.reg.net, self.reg.prior_precision_vector())
        return PrimalInverse.factorize(self._hessian(theta, self.X, self.Y).astype(np.float64))

    def _build_dual(self, theta: np.ndarray) -> InverseHessian:
        return self._invert(
            theta, self._choose_subset(self.options["subset"]) if "subset" in self.options else None
        )

    def _build_krylov(self, theta: np.ndarray) -> InverseHessian:
        labelled = np.flatnonzero(self.observed.any(axis=1))
        n_fitting = int(np.sqrt(self.memory / 8 / (3 * 8)) / self.reg.net.n_labels)
        subset = self._choose_subset(
            self.options.get("subset", max(1, min(n_fitting, len(labelled) // 4)))
        )
        rest = np.setdiff1d(labelled, subset)
        if not rest.size:
            raise OptionError(
                f"subset should leave some of the {len(labelled)} training stars with labels to be"
                " added by products, "
                f'got {len(subset)}: give fewer, or use structure="dual".'
            )
        limits = {name: value for name, value in self.options.items() if name != "subset"}
        return KrylovInverse(
            self._invert(theta, subset),
            self.stream(theta, rest),
            KrylovLimits(**limits, max_bytes=self.memory / 4),
            self.checkpoint,
        )

    def _build_kronecker(self, theta: np.ndarray) -> InverseHessian:
        return build_kronecker(self.stream(theta), *self._prior, self.checkpoint)

    def _build_ekfac(self, theta: np.ndarray) -> InverseHessian:
        return build_kronecker(self.stream(theta), *self._prior, self.checkpoint, corrected=True)

    def _build_diagonal(self, theta: np.ndarray) -> InverseHessian:
        return build_diagonal(self.stream(theta), *self._prior, self.checkpoint)

    def _build_last_layer(self, theta: np.ndarray) -> InverseHessian:
        precision = self.reg.prior_precision_vector()
        return build_last_layer(self.stream(theta), self.reg.net.layout, precision, self.checkpoint)

    def _build_low_rank(self, theta: np.ndarray) -> InverseHessian:
        rank = self.options.get(
            "rank", min(DEFAULT_RANK, max(1, int(self.memory / (16 * self.reg.net.n_params))))
        )
        return build_low_rank(
            self.stream(theta), self.reg.prior_precision_vector(), rank, self.checkpoint
        )

    @property
    def _prior(self) -> tuple[Any, dict[str, Any]]:
        return self.reg.net.layout, self.reg.prior_precision

    def _choose_subset(self, n_stars: int) -> np.ndarray:
        """Indices of `n_stars` training stars with labels, at random; smaller subsets are part of larger ones."""
        stars = np.flatnonzero(self.observed.any(axis=1))
        order = np.random.default_rng(0).permutation(stars)
        return np.sort(order[:n_stars])

    def _invert(self, theta: np.ndarray, stars: np.ndarray | None = None) -> DualInverse:
        """Dual inverse from some of the training stars, by default all."""
        X, Y = (self.X, self.Y) if stars is None else (self.X[stars], self.Y[stars])
        variance = {name: 1 / np.asarray(p) for name, p in self.reg.prior_precision.items()}
        noise = self.reg.noise.of_stars(Y)
        is_subset = noise.observed.sum() < self.observed.sum()
        return DualInverse(self.tangents(theta, X), variance, noise, is_subset=bool(is_subset))
