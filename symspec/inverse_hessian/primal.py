"""Few parameters: dense Cholesky factor of the curvature matrix itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
from scipy.linalg import eigh, solve_triangular
from scipy.linalg.lapack import dpocon, dpotrf, dtrtri

from symspec.derivatives import weighted_sums
from symspec.derivatives.curvature import CurvatureFactors
from symspec.derivatives.functions import check_square_fits
from symspec.derivatives.matrices import add_upper_triangle, fill_lower_triangle
from symspec.derivatives.tangent_stream import TangentStream
from symspec.derivatives.tangents import Tangents
from symspec.derivatives.threads import threads_of_scipy
from symspec.errors import DataError, NotPositiveDefiniteError
from symspec.inverse_hessian.interface import (
    ArrayReader,
    Cost,
    CrossCovariance,
    InverseHessian,
    Problem,
)
from symspec.inverse_hessian.low_rank import LowRankInverse
from symspec.inverse_hessian.numerics.digits import (
    NOTICED,
    PROMISED,
    TRUSTED,
    Enclosure,
    describe_condition,
    factorize_stacked,
    fits_densely,
    loses_digits,
    rounding,
)
from symspec.inverse_hessian.numerics.square_roots import Factor
from symspec.networks.network import Network
from symspec.networks.params import ParamLayout
from symspec.networks.regression import Regression
from symspec.safety.memory import chunks

CACHE_BYTES = 16 * 2**20  # of what lies between the two products of a block
BLOCK_BYTES = 64 * 2**20
SHORT_ROWS = 1200  # numbers of a star's J up to which J itself is faster than its factors


class PrimalInverse(InverseHessian):
    r"""A^-1 from the lower Cholesky factor L of A (param, param).

    .. math::
        J A^{-1} J^T = (L^{-1} J^T)^T (L^{-1} J^T),
        \qquad \log\det A^{-1} = -2 \sum_i \log L_{ii}

    With L^-1 at hand its rows meet the factors of J one after the other, and a star costs P^2
    multiplications and additions for all its C labels together; solving with L costs C P^2. So L^-1
    is computed, for P^3 / 3, and kept when several labels are first asked for their covariance, or
    when the diagonal needs it.

    Parameters
    ----------
    cholesky : numpy.ndarray, shape (param, param)
        Lower factor; the upper triangle is zero.
    is_of_products : bool, default True
        Whether A was summed and factorised, or L comes from the tangents themselves, which keeps
        twice as many digits.
    """

    structure = "primal"
    linear_space = "parameters"
    curvatures = ("ggn", "hessian")
    has_evidence_gradient = True
    widest = NOTICED

    def __init__(self, cholesky: np.ndarray, *, is_of_products: bool = True):
        super().__init__(len(cholesky))
        self.cholesky = cholesky
        self.is_of_products = is_of_products

    @classmethod
    def cost(cls, net: Network, n_rows: int) -> Cost:
        P = net.n_params
        return Cost(n_rows * P**2 + P**3 / 3, P)

    @classmethod
    def build(
        cls, problem: Problem, theta: np.ndarray, *, trusted: float = TRUSTED
    ) -> PrimalInverse:
        """From the exact Hessian, or from whitened tangents, for which nothing is compiled.

        `trusted` is the relative error of variances up to which sums of products are factorised.
        """
        if problem.curvature == "hessian":
            return cls.factorize(problem.hessian(theta))
        net = problem.reg.net
        check_square_fits(net, "float64")
        stream = problem.stream(theta)
        precision = problem.reg.prior_precision_vector()
        A = _sum_outer_products(stream, net)
        A[np.diag_indices(len(A))] += precision
        n_rows = stream.n_stars * stream.n_labels
        if not fits_densely(n_rows, len(A)) or not np.isfinite(A).all():
            return cls.factorize(A)
        with suppress(NotPositiveDefiniteError):
            inverse = cls.factorize(A)
            if not loses_digits(inverse.condition, len(A), trusted):
                return inverse
        J = [_flatten(tangents) for _, tangents in stream.blocks()]
        factor = factorize_stacked(np.diag(np.sqrt(precision)), *J)
        return cls(factor, is_of_products=False)

    @classmethod
    def from_arrays(cls, reader: ArrayReader, place: str, reg: Regression) -> PrimalInverse:
        is_of_products = True
        if "is_of_products" in reader.find(place):
            is_of_products = bool(reader.array(f"{place}/is_of_products", (), kind=bool))
        cholesky = read_cholesky(reader, place, reg.net.n_params)
        return cls(cholesky, is_of_products=is_of_products)

    @classmethod
    def factorize(cls, A: np.ndarray) -> PrimalInverse:
        """Factorise a symmetric A (param, param), which is overwritten.

        Raises
        ------
        NotPositiveDefiniteError
            With the smallest eigenvalue of A.
        DataError
            A is not finite.
        """
        if not np.isfinite(A).all():
            raise DataError(
                "the curvature matrix is not finite: theta has diverged; train it again."
            )
        with threads_of_scipy(len(A)):
            factor, info = dpotrf(A, lower=1, clean=1, overwrite_a=0)
        if info != 0:
            smallest = float(eigh(A, eigvals_only=True, subset_by_index=[0, 0])[0])
            raise NotPositiveDefiniteError(
                "the curvature matrix should be positive definite, but its smallest eigenvalue is"
                f" {smallest:.6g}: the weights are no minimum of the negative log posterior. Train"
                ' on (symspec.polish), raise prior_precision, or use curvature="ggn", which is'
                " always positive definite.",
                smallest,
            )
        return cls(factor)

    def _matmat(self, V: np.ndarray) -> np.ndarray:
        return self._solve(self._solve(V), transposed=True)

    _matvec = _matmat

    def diagonal(self) -> np.ndarray:
        return np.einsum("ij,ij->j", self.root, self.root)

    @cached_property
    def root(self) -> np.ndarray:
        """L^-1, lower triangular (param, param), in C order."""
        upper = np.array(self.cholesky.T, order="F")
        # its inverse is that of L transposed, so in C order
        with threads_of_scipy(len(upper)):
            return dtrtri(upper, lower=0, overwrite_c=1)[0].T

    def logdet(self) -> float:
        return -2.0 * float(np.log(np.diag(self.cholesky)).sum())

    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        return self._solve(rng.normal(size=(self.shape[0], n_draws)), transposed=True).T

    @cached_property
    def condition(self) -> float:
        """Estimate of the norm of A^-1 in units of A's diagonal, by LAPACK."""
        scaled = self.cholesky / np.sqrt(self._curvatures)[:, None]
        reciprocal, _ = dpocon(scaled, 1.0, uplo="L")
        return float(1 / max(reciprocal, np.finfo(float).tiny))

    @property
    def remark(self) -> str:
        if self._find_rounding(self.condition) < PROMISED:
            form = "" if self.is_of_products else "factorised without sums of products"
        else:
            form = "float64 does not hold all error bars, which are flagged"
        return describe_condition(self.condition, form)

    @property
    def _curvatures(self) -> np.ndarray:
        """Diagonal of A (param,)."""
        return np.einsum("ij,ij->i", self.cholesky, self.cholesky)

    def enclose(self, tangents: Tangents) -> Enclosure:
        relative = self._find_rounding(self.condition)
        if relative < TRUSTED:
            V = self.label_covariance(tangents)
            return Enclosure.of_relative(V, np.full(V.shape[:2], relative))
        V = np.empty((tangents.n_stars, *[tangents.n_labels] * 2))
        conditions = np.empty(V.shape[:2])
        curvatures = self._curvatures
        for stars, Z in self._solve_root(tangents):
            V[stars] = np.matmul(Z.transpose(0, 2, 1), Z)
            solution = self._solve(
                Z.transpose(1, 0, 2).reshape(len(curvatures), -1), transposed=True
            )
            conditions[stars] = (curvatures @ solution**2).reshape(conditions[stars].shape)
        variances = np.diagonal(V, axis1=1, axis2=2)
        conditions = np.divide(
            conditions, variances, out=np.ones_like(conditions), where=variances > 0
        )
        return Enclosure.of_relative(V, self._find_rounding(conditions))

    def _find_rounding(self, condition: Any) -> Any:
        """Relative error of a variance v, for the sum of A_ii (A^-1 j)_i^2 / v."""
        epsilon = rounding(self.shape[0])
        return epsilon * condition if self.is_of_products else 2 * epsilon * np.sqrt(condition)

    def label_covariance(self, tangents: Tangents) -> np.ndarray:
        n = tangents.n_stars
        C = tangents.n_labels
        V = np.zeros((n, C, C))
        by_root = C > 1 and self.is_of_products
        for stars, Z in self._multiply_root(tangents) if by_root else self._solve_root(tangents):
            V[stars] += np.matmul(Z.transpose(0, 2, 1), Z)
        return V

    def _solve_root(self, tangents: Tangents) -> Iterator[tuple[slice, np.ndarray]]:
        """Z = L^-1 J^T of some stars (star, param, label) at a time, by substitution."""
        n = tangents.n_stars
        C = tangents.n_labels
        P = self.shape[0]
        step = max(1, BLOCK_BYTES // (8 * C * P))
        for stars in (slice(i, min(i + step, n)) for i in range(0, n, step)):
            J = tangents[stars].dense()
            yield stars, self._solve(J.reshape(-1, P).T).reshape(P, -1, C).transpose(1, 0, 2)

    def _multiply_root(self, tangents: Tangents) -> Iterator[tuple[slice, np.ndarray]]:
        """Z = L^-1 J^T (star, row, label), some rows of L^-1 at a time: inputs, then cotangents."""
        n = tangents.n_stars
        C = tangents.n_labels
        P = self.shape[0]
        layers = list(_join_biases(tangents))
        widest = max(g.shape[1] for _, _, g in layers)
        step = max(1, CACHE_BYTES // (8 * n * widest))
        for begin in range(0, P, step):
            rows = self.root[begin : begin + step]
            Z = np.zeros((n, len(rows), C))
            for offset, a, g in layers:
                n_out = g.shape[1]
                # further right L^-1 is zero
                n_in = min(a.shape[1], -((offset - begin - len(rows)) // n_out))
                if n_in <= 0:
                    continue
                kernels = rows[:, offset : offset + n_in * n_out].reshape(len(rows), n_in, n_out)
                # one product, not one a row
                side_by_side = kernels.transpose(1, 0, 2).reshape(n_in, -1)
                Z += np.matmul((a[:, :n_in] @ side_by_side).reshape(n, len(rows), n_out), g)
            yield slice(n), Z

    def cross_covariance(self) -> CrossCovariance:
        def covariance(tangents: Tangents, other: Tangents) -> np.ndarray:
            Z = self._solve(_flatten(tangents).T)
            W = Z if other is tangents else self._solve(_flatten(other).T)
            shape = (tangents.n_stars, tangents.n_labels, other.n_stars, other.n_labels)
            return (Z.T @ W).reshape(shape)

        return covariance

    def directions(self, reg: Regression, n: int | None = None) -> LowRankInverse:
        precision = reg.prior_precision_vector()
        root = self.cholesky / np.sqrt(precision)[:, None]
        values, vectors = eigh(root @ root.T)
        return LowRankInverse.leading(precision, values[::-1] - 1, vectors[:, ::-1], n)

    def whitening(self, reg: Regression) -> Factor:
        leading = self.directions(reg)
        is_cheaper = 2 * leading.eigenvectors.shape[1] < self.shape[0]
        return leading.factor() if is_cheaper else self.factor()

    def factor(self) -> Factor:
        """The dense factor L = R^T with R = K^-1 and A = K K^T."""
        return Factor(
            log_det=0.5 * self.logdet(),
            arrays={"root": self.root, "cholesky": self.cholesky},
            colour=lambda z, arrays, _: z @ arrays["root"],
            uncolour=lambda x, arrays, _: x @ arrays["cholesky"],
        )

    def of_last_layer(self, reg: Regression) -> PrimalInverse:
        rows = self.cholesky[find_last_layer(reg.net.layout)[1]]
        return PrimalInverse.factorize(rows @ rows.T)

    @classmethod
    def compile_log_det_gradient(cls, net: Network, *, backend: str) -> Callable[..., np.ndarray]:
        return weighted_sums.compile_trace_gradient(net, backend=backend)

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
        dense = self.to_dense()
        gradient = derivative(theta, X, Y, weights, dense)
        counts = self.count_effective(reg, np.diag(dense))
        return gradient, counts, self.label_covariance(tangents)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"cholesky": self.cholesky, "is_of_products": np.array(self.is_of_products)}

    def _solve(self, V: np.ndarray, *, transposed: bool = False) -> np.ndarray:
        with threads_of_scipy(len(self.cholesky)):
            return solve_triangular(
                self.cholesky, V, lower=True, trans=int(transposed), check_finite=False
            )


def _sum_outer_products(stream: TangentStream, net: Network) -> np.ndarray:
    """Sum of J^T J (param, param) of whitened tangents: of J, or contracted layer by layer."""
    A = np.zeros((net.n_params, net.n_params))
    if stream.n_labels * net.n_params <= SHORT_ROWS:
        for _, tangents in stream.blocks():
            for some in chunks(tangents.n_stars, CACHE_BYTES // (8 * SHORT_ROWS)):
                J = _flatten(tangents[some])
                A += J.T @ J  # one SYRK
        return A
    n_out = sum(layer.n_out for layer in net.layout.layers.values())
    step = max(1, BLOCK_BYTES // (8 * n_out**2))
    for _, tangents in stream.blocks():
        for some in chunks(tangents.n_stars, step):
            part = tangents[some]
            inputs = [a.astype(np.float64) for a in part.inputs.values()]
            g = [h.astype(np.float64) for h in part.cotangents.values()]
            pairs = [(k, m) for m in range(len(g)) for k in range(m + 1)]
            curvatures = {(k, m): np.matmul(g[k].transpose(0, 2, 1), g[m]) for k, m in pairs}
            add_upper_triangle(net, CurvatureFactors(inputs, curvatures, {}, {}), A)
    fill_lower_triangle(net, A)
    return A


def _flatten(tangents: Tangents) -> np.ndarray:
    """J (star * label, param), star-major."""
    return tangents.dense().reshape(tangents.n_stars * tangents.n_labels, -1)


def _join_biases(tangents: Tangents) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Offset, inputs (star, in) and cotangents (star, out, label) of each layer, bias included."""
    for name, layer in tangents.layout.layers.items():
        a = tangents.inputs[name].astype(np.float64)
        if layer.has_bias:
            a = np.hstack([a, np.ones((len(a), 1))])
        g = tangents.cotangents[name].astype(np.float64).transpose(0, 2, 1)
        yield layer.offset, a, np.ascontiguousarray(g)


def read_cholesky(reader: ArrayReader, place: str, n: int) -> np.ndarray:
    """The Cholesky factor (n, n) under `place`."""
    name = f"{place}/cholesky"
    cholesky = reader.array(name, (n, n), finite=True)
    if not (np.diag(cholesky) > 0).all():
        raise reader.refusal(name, "a Cholesky factor", "one whose diagonal is not positive")
    return cholesky


def find_last_layer(layout: ParamLayout) -> tuple[str, slice]:
    """Name of the last layer with parameters, and its place in theta."""
    name, layer = next(reversed(layout.layers.items()))
    return name, layer.slice
