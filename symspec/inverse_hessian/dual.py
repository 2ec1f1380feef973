"""Few (star, label) rows, any number of parameters: Cholesky in the space of the data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.linalg import eigh, solve_triangular
from scipy.linalg.lapack import dpotri, dtrtri

from symspec.derivatives import compiled
from symspec.derivatives.matrices import mirror
from symspec.derivatives.tangents import Tangents
from symspec.derivatives.threads import threads_of_scipy
from symspec.errors import OptionError, TooLargeError
from symspec.inverse_hessian.interface import ArrayReader, Cost, Groups, InverseHessian, Problem
from symspec.inverse_hessian.low_rank import NEGLIGIBLE, LowRankInverse
from symspec.inverse_hessian.numerics.digits import (
    SumsOfSquares,
    factorize_stacked,
    fits_densely,
    loses_digits,
)
from symspec.inverse_hessian.numerics.inverse_kernels import InverseKernel, factorize_kernel
from symspec.inverse_hessian.numerics.square_roots import Factor
from symspec.inverse_hessian.numerics.tiled_cholesky import check_factor
from symspec.inverse_hessian.primal import read_cholesky
from symspec.inverse_hessian.tiled import TiledDualInverse
from symspec.inverse_hessian.woodbury import Rows, WoodburyInverse, invert_prior
from symspec.networks.network import Network
from symspec.networks.noise.star_noise import StarNoise
from symspec.networks.regression import Regression

MAX_BYTES = 4 * 2**30  # of all directions


class DualInverse(WoodburyInverse):
    """A^-1 with the kernel's Cholesky factor in memory.

    Parameters
    ----------
    tangents : Tangents
        Of the training stars.
    variance : dict of str to float or numpy.ndarray
        Prior variance of each block, the diagonal of Lambda^-1.
    noise : StarNoise
        Of the training stars; its covariances make the diagonal blocks of S.
    cholesky : numpy.ndarray, optional
        L, if it is known already.
    is_subset : bool, default False
        Whether there are other stars; variances are then upper bounds.
    """

    structure = "dual"
    options: ClassVar = {"subset": int, "scratch": Path, "max_hours": float, "stars_a_tile": int}
    partial_options = ("subset",)
    fixed_options = ("scratch",)
    has_evidence_gradient = True
    has_span = True
    linear_space = "data"

    def __init__(
        self,
        tangents: Tangents,
        variance: dict[str, Any],
        noise: StarNoise,
        cholesky: np.ndarray | None = None,
        *,
        is_subset: bool = False,
    ):
        super().__init__(tangents.layout, variance, noise, is_subset)
        self.tangents = tangents
        self.training_tangents = tangents if self.is_complete else None
        self.rows = np.flatnonzero(self.observed.T)  # label-major, as `Tangents.gram` orders them
        self.cholesky = self._factorize() if cholesky is None else cholesky

    @classmethod
    def cost(cls, net: Network, n_rows: int) -> Cost:
        widths = sum(layer.n_in + layer.n_out for layer in net.layout.layers.values())
        return Cost(n_rows**2 * widths + n_rows**3 / 3, n_rows)

    @classmethod
    def form(cls, names: Collection[str]) -> type[InverseHessian]:
        """In tiles if there is a folder for them."""
        return cls if {"scratch", "tiles"}.isdisjoint(names) else TiledDualInverse

    @classmethod
    def build(cls, problem: Problem, theta: np.ndarray) -> DualInverse:
        """From all training stars, or as many as the option "subset" says."""
        for name in ("max_hours", "stars_a_tile"):
            if name in problem.options:
                raise OptionError(
                    f'{name} goes with tiles on disk: give options={{"scratch": FOLDER}}, too, or'
                    " leave it out."
                )
        if "subset" in problem.options:
            return cls.of_stars(problem, theta, problem.pick_stars(problem.options["subset"]))
        return cls.of_stars(problem, theta, slice(None))

    @classmethod
    def of_stars(
        cls, problem: Problem, theta: np.ndarray, stars: Any, *, in_double: bool = False
    ) -> DualInverse:
        """From some of the training stars, indices or a slice.

        Products with all weights are in float64 as well with `in_double`.
        """
        noise = problem.noise(theta, stars)
        is_subset = bool(noise.observed.any(axis=1).sum() < len(problem.labelled))
        tangents = problem.tangents(theta, problem.X[stars])
        tangents = tangents.as_factors() if in_double else tangents
        return cls(tangents, invert_prior(problem.reg), noise, is_subset=is_subset)

    @classmethod
    def from_arrays(cls, reader: ArrayReader, place: str, reg: Regression) -> DualInverse:
        observed = reader.array(f"{place}/observed", (None, reg.net.n_outputs), kind=bool)
        tangents = read_tangents(reader, place, reg.net, len(observed))
        cholesky = read_cholesky(reader, place, int(observed.sum()))
        is_subset = False
        if "is_subset" in reader.find(place):
            is_subset = bool(reader.array(f"{place}/is_subset", (), kind=bool))
        if "covariances" in reader.find(place):
            shape = *observed.shape, observed.shape[1]
            noise = StarNoise(observed, reader.array(f"{place}/covariances", shape, finite=True))
        else:
            noise = reg.noise.of_stars(np.where(observed, 0.0, np.nan))
        return cls(tangents, invert_prior(reg), noise, cholesky, is_subset=is_subset)

    def _factorize(self) -> np.ndarray:
        """Lower Cholesky factor of M; from J itself if K would lose its digits, and J fits."""
        is_poor = loses_digits(self.condition, self._n_terms)
        if not (is_poor and self._may_sum_squares):
            return factorize_kernel(self.tangents.gram(self.tangents, self.variance), self.noise)
        J = self.tangents.dense().swapaxes(0, 1).reshape(-1, self.shape[0])[self.rows]
        S = self.noise.add_to(np.zeros((self.observed.size,) * 2))[np.ix_(self.rows, self.rows)]
        factor = factorize_stacked((J * np.sqrt(self._variance_vector)).T, np.linalg.cholesky(S).T)
        check_factor(factor)
        return factor

    def diagonal(self) -> np.ndarray:
        """Diagonal of A^-1; costs (rows)^2 operations a parameter over the labels squared."""
        inverse = self.kernel_inverse()
        out = np.empty(self.shape[0])
        for name, layer in self.tangents.layout.layers.items():
            a, g = self.tangents.layer_factors(name)
            part = out[layer.slice].reshape(layer.n_rows, -1)
            for o in range(g.shape[2]):
                B = np.einsum("cn,cndm,dm->nm", g[:, :, o], inverse, g[:, :, o], optimize=True)
                part[: layer.n_in, o] = np.einsum("ni,ni->i", a, B @ a)
                part[layer.n_in :, o] = B.sum()
        return self._variance_vector - self._variance_vector**2 * out

    @property
    def _may_sum_squares(self) -> bool:
        return fits_densely(self.n_rows, self.shape[0])

    @cached_property
    def _sums_of_squares(self) -> SumsOfSquares:
        return SumsOfSquares([self.tangents.whiten(self.noise.whiteners)], self._variance_vector)

    def directions(self, reg: Regression, n: int | None = None) -> LowRankInverse:
        N, C = self.observed.shape
        if 8 * self.n_rows * self.shape[0] > MAX_BYTES:
            raise TooLargeError(
                f"the {self.n_rows:,} directions of {self.shape[0]:,} weights take more than"
                f' {MAX_BYTES / 2**30:.0f} GiB: fit structure="low_rank" with'
                ' options={"rank": 200}, or "kronecker".'
            )
        precision = reg.prior_precision_vector()
        tangents = self.tangents.whiten(self.noise.whiteners)
        values, vectors = eigh(tangents.gram(tangents, self.variance))
        values = values[::-1]
        vectors = vectors[:, ::-1]
        keep = values > 1e-12 * max(values[0], NEGLIGIBLE)
        columns = vectors[:, keep].reshape(C, N, -1).transpose(1, 0, 2)
        vectors = tangents.rmatvec(columns) / np.sqrt(precision)[:, None]
        return LowRankInverse.leading(precision, values[keep], vectors / np.sqrt(values[keep]), n)

    def whitening(self, reg: Regression) -> Factor:
        return self.directions(reg).factor()

    @classmethod
    def compile_log_det_gradient(cls, net: Network, *, backend: str) -> Callable[..., np.ndarray]:
        return compiled.compile_kernel_trace_gradient(net, backend=backend)

    def differentiate_log_det(
        self,
        derivative: Callable[..., np.ndarray],
        reg: Regression,
        theta: np.ndarray,
        X: np.ndarray,
        Y: np.ndarray,
        weights: np.ndarray,
        tangents: Tangents,
    ) -> tuple[np.ndarray, dict[str, float], np.ndarray]:
        kernel_inverse = self.kernel_inverse()
        gradient = derivative(theta, X, self.variance, kernel_inverse)
        own = np.einsum("cndn->ncd", kernel_inverse)
        S = self.noise.covariance
        V = S - np.matmul(np.matmul(S, own), S)
        return gradient, self._count_in_kernel(kernel_inverse), V

    def _count_in_kernel(self, kernel_inverse: np.ndarray) -> dict[str, float]:
        r"""Effective parameters of each block, :math:`\gamma_b = \mathrm{tr}(M^{-1} K_b)`.

        K_b is the tangent kernel of the block alone: nothing of size (param, param).
        """
        counts = {}
        for name, variance in self.variance.items():
            alone = dict.fromkeys(self.variance, 0.0) | {name: variance}
            kernel = self.tangents.gram(self.tangents, alone)
            counts[name] = float(np.vdot(kernel_inverse, kernel))
        return counts

    def arrays(self) -> dict[str, np.ndarray]:
        factors = {f"inputs/{k}": a for k, a in self.tangents.inputs.items()}
        factors |= {f"cotangents/{k}": g for k, g in self.tangents.cotangents.items()}
        factors["observed"] = self.observed
        factors["cholesky"] = self.cholesky
        factors["is_subset"] = np.array(not self.is_complete)
        if self.noise.covariance.ndim == 3:  # that differ from star to star
            factors["covariances"] = self.noise.covariance
        return factors

    def in_span(self, problem: Problem, theta: np.ndarray) -> DualInverse:
        """The kernel is the same, and so is its factor."""
        variance = invert_prior(problem.reg)
        return DualInverse(problem.tangents(theta), variance, problem.noise(theta), self.cholesky)

    def own_blocks(self, members: Groups = None) -> list[np.ndarray] | None:
        """None if labels are missing, too: what the others say of these is not in M^-1."""
        if not (self._is_stiff and self.observed.all()):
            return None
        with threads_of_scipy(self.n_rows):
            root, _ = dtrtri(self.cholesky, lower=1)
        log_det = 2 * self._log_det_factor()
        kernel = InverseKernel(root=root, log_det=log_det, observed=self.observed)
        if members is None:
            return list(kernel.find_blocks())
        return [kernel.find_block(stars) for stars in members]

    def kernel(self, tangents: Tangents, dtype: Any = np.float64) -> np.ndarray:
        """K (row, label and star) of the rows of M and those of other stars."""
        return self.tangents.gram(tangents, self.variance, dtype)[self.rows]

    @cached_property
    def sizes(self) -> np.ndarray:
        """Diagonal (row,) of M."""
        return np.einsum("ij,ij->i", self.cholesky, self.cholesky)

    def solve(self, b: np.ndarray) -> np.ndarray:
        """M^-1 b (row, ...)."""
        return self._solve(self._solve(b), transposed=True)

    def kernel_inverse(self) -> np.ndarray:
        """M^-1 (label, star, label, star), zero in the rows and columns of missing labels."""
        N, C = self.observed.shape
        with threads_of_scipy(self.n_rows):
            lower, _ = dpotri(self.cholesky, lower=1)
        inverse = lower.T  # in C order
        mirror(inverse)
        if self.n_rows == C * N:
            return inverse.reshape(C, N, C, N)
        out = np.zeros((C * N, C * N))
        out[np.ix_(self.rows, self.rows)] = inverse
        return out.reshape(C, N, C, N)

    def _tangent(self, V: np.ndarray) -> Rows:
        by_label = self.tangents.matvec(V).swapaxes(0, 1)
        return [by_label.reshape(self.observed.size, *V.shape[1:])[self.rows]]

    def _tangent_transposed(self, u: Rows) -> np.ndarray:
        (part,) = u
        full = np.zeros((self.observed.size, *part.shape[1:]))
        full[self.rows] = part
        by_label = full.reshape(*self.observed.T.shape, *part.shape[1:])
        return self.tangents.rmatvec(by_label.swapaxes(0, 1))

    def _take_rows(self, values: np.ndarray) -> Rows:
        by_label = values.swapaxes(0, 1)
        return [by_label.reshape(self.observed.size, *values.shape[2:])[self.rows]]

    def _reduce(self, tangents: Tangents) -> Rows:
        return [self._solve(self.kernel(tangents))]

    def _find_pulled(self, reduced: Rows) -> np.ndarray:
        alpha = self._solve(reduced[0], transposed=True)
        return self.sizes @ alpha**2

    def _solve_M(self, b: Rows) -> Rows:
        return [self.solve(b[0])]

    def _log_det_factor(self) -> float:
        return float(np.log(np.diag(self.cholesky)).sum())

    def _walk(self) -> Iterator[tuple[slice, Tangents]]:
        yield slice(None), self.tangents

    def _own_kernel(self) -> np.ndarray:
        return self.tangents.own_gram(self.variance)

    def _solve(self, b: np.ndarray, *, transposed: bool = False) -> np.ndarray:
        with threads_of_scipy(self.n_rows):
            return solve_triangular(
                self.cholesky, b, lower=True, trans=int(transposed), check_finite=False
            )


def read_tangents(reader: ArrayReader, place: str, net: Network, n_stars: int) -> Tangents:
    """Tangents of `n_stars` stars under `place`."""
    inputs = {}
    cotangents = {}
    for name, layer in net.layout.layers.items():
        shape = (n_stars, net.n_outputs, layer.n_out)
        inputs[name] = reader.array(f"{place}/inputs/{name}", (n_stars, layer.n_in), finite=True)
        cotangents[name] = reader.array(f"{place}/cotangents/{name}", shape, finite=True)
    return Tangents(net.layout, inputs, cotangents)
