r"""Hessian and Gauss-Newton matrix as numbers: factors of `curvature` in matrix products.

A layer's kernel (in, out) and bias (out,) lie one after the other in theta: together they are a
matrix (in + 1, out) that acts on the inputs and a one. The block of layers k <= m is then an array
(i, o, p, q), and each of its two terms a sum over stars of three factors,

.. math:: \sum_n a_{ni}\, b_{np}\, M_{n,oq}, \qquad \sum_n a_{ni}\, \epsilon_{nq}\, D_{n,op},

the second for k < m alone. Of the block of one layer, symmetric in i, p and in o, q, a quarter is
computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from symspec.derivatives.backends import remember
from symspec.derivatives.compiled import compile_generic_ggn, compile_generic_hessian
from symspec.derivatives.curvature import (
    CurvatureFactors,
    build_curvature_factors,
    has_elementwise_layers,
)
from symspec.derivatives.functions import MatrixFunction, check_square_fits
from symspec.derivatives.weighted_sums import WeightedSum
from symspec.networks.network import Network
from symspec.networks.noise.given import LIKELIHOODS
from symspec.networks.params import Params, Symbol
from symspec.networks.regression import Regression
from symspec.safety.label_errors import Labels
from symspec.safety.memory import chunks

# of one matrix product's result or operand: small beside the whole, large beside a call
BLOCK_BYTES = 16 * 2**20
MIRROR_ROWS = 256


@remember
def compile_hessian(
    reg: Regression, *, backend: str = "auto", dtype: str = "float64"
) -> Callable[..., np.ndarray]:
    """Compile the exact Hessian of U: `fn(theta, X, Y)` -> (param, param), prior included.

    In closed form where all layers but the dense ones are elementwise (`Layer.elementwise`), else
    by exact Hessian-vector products.

    Parameters
    ----------
    reg : Regression
    backend : {"auto", "numpy", "c", "numba", "jax"}
        See `choose_backend`; the sums over stars are NumPy's on each of them.
    dtype : {"float64", "float32"}
        Of arithmetic and result.

    Raises
    ------
    TooLargeError
        This machine could not hold the result.
    """
    if has_elementwise_layers(reg.net):
        return CurvatureMatrix(reg, False, backend, dtype)
    return compile_generic_hessian(reg, backend=backend, dtype=dtype)


@remember
def compile_ggn(
    reg: Regression, *, backend: str = "auto", dtype: str = "float64"
) -> MatrixFunction:
    r"""Compile the Gauss-Newton matrix :math:`\sum_n J_n^T W_n J_n + \mathrm{diag}(\delta)`.

    W_n are the noise's weights, :math:`S_n^{-1}` if it is normal.
    `fn(theta, X, Y)` -> (param, param); parameters and errors as for `compile_hessian`.
    """
    if has_elementwise_layers(reg.net):
        return CurvatureMatrix(reg, True, backend, dtype)
    return compile_generic_ggn(reg, backend=backend, dtype=dtype)


class CurvatureMatrix(MatrixFunction):
    """`fn(theta, X, Y)` -> (param, param): factors by a compiled graph, added up chunk by chunk."""

    def __init__(self, reg: Regression, gauss_newton: bool, backend: str, dtype: str):
        def build(params: Params, flux: Symbol, labels: Symbol) -> list[Symbol]:
            self._factors = build_curvature_factors(
                reg.net, reg.noise, params, flux, labels, gauss_newton=gauss_newton
            )
            return self._factors.arrays()

        check_square_fits(reg.net, dtype)
        super().__init__(reg, build, _count_copies(reg.net), backend, dtype)

    def _sum(
        self, theta: np.ndarray, X: np.ndarray, Y: Labels, extra: list[np.ndarray]
    ) -> list[np.ndarray]:
        H = self._zeros()
        for rows in chunks(len(X), self.chunk):
            self._add(theta, X[rows], Y[rows], H)
        return [H]

    def part(
        self,
        theta: np.ndarray,
        X: np.ndarray,
        Y: Labels,
        prior_weight: float,
        *extra: np.ndarray,
    ) -> list[np.ndarray]:
        H = self._zeros()
        self._add(theta, X, Y, H)
        return [H]

    def _zeros(self) -> np.ndarray:
        return np.zeros([self.reg.net.n_params] * 2, self.dtype)

    def _add(self, theta: np.ndarray, X: np.ndarray, Y: Labels, H: np.ndarray) -> None:
        arrays = self.of_batch(theta, X, Y, 0.0)
        add_upper_triangle(self.reg.net, self._factors.replaced_by(arrays), H)

    def _finish(self, total: list[np.ndarray]) -> np.ndarray:
        fill_lower_triangle(self.reg.net, total[0])
        return super()._finish(total)


class WeightedHessian(WeightedSum):
    """Hessian of L: `fn(theta, X, Y, given)` -> (param, param), no prior.

    For networks of which all layers but the dense ones are elementwise; compiled once for all
    numbers of a noise and priors, see `weighted_sums`.
    """

    def __init__(
        self,
        net: Network,
        *,
        kind: str = "gaussian",
        n_given: int | None = None,
        backend: str = "auto",
    ):
        def build(params: Params, flux: Symbol, labels: Symbol, given: Symbol) -> list[Symbol]:
            likelihood = LIKELIHOODS[kind](given)
            self._factors = build_curvature_factors(net, likelihood, params, flux, labels)
            return self._factors.arrays()

        check_square_fits(net, "float64")
        self._net = net
        super().__init__(net, build, _count_copies(net), backend, n_given=n_given)

    def __call__(
        self, theta: np.ndarray, X: np.ndarray, Y: np.ndarray, given: np.ndarray, *extra: np.ndarray
    ) -> np.ndarray:
        H = np.zeros((self._net.n_params, self._net.n_params))
        for arrays in self.batches(theta, X, Y, given):
            add_upper_triangle(self._net, self._factors.replaced_by(arrays), H)
        fill_lower_triangle(self._net, H)
        return H


def _count_copies(net: Network) -> float:
    """Arrays of all the network's widths that the factors of one star take."""
    widths = [n_out for _, n_out in net.dense_shapes.values()]
    return 4 + 3 * sum(widths) ** 2 / sum(net.widths)


def add_upper_triangle(net: Network, factors: CurvatureFactors, H: np.ndarray) -> None:
    """Add some stars' part of the Hessian to H (param, param), in place.

    Only blocks k <= m are filled, and of those k = m only entries o <= q.

    Parameters
    ----------
    net : Network
    factors : CurvatureFactors
        Arrays of these stars.
    H : numpy.ndarray, shape (param, param)
    """
    blocks = _split_layers(net, H)
    inputs = [a.T for a in factors.inputs]
    with_one = [
        (
            np.vstack([a, np.ones((1, a.shape[1]), a.dtype)])
            if layer.has_bias
            else np.ascontiguousarray(a)
        )
        for layer, a in zip(net.layout.layers.values(), inputs, strict=True)
    ]
    for (k, m), M in factors.curvatures.items():
        o, q = np.triu_indices(M.shape[1]) if k == m else np.indices(M.shape[1:]).reshape(2, -1)
        ends = np.searchsorted(o, np.arange(M.shape[1] + 1))
        for rows, columns, R in sum_products(with_one[k], with_one[m], M[:, o, q].T, upper=k == m):
            for first, (begin, end) in enumerate(pairwise(ends)):
                blocks[k, m][rows, first, columns, q[begin] :] += R[begin:end].transpose(1, 2, 0)
    for (k, m), D in factors.slopes.items():
        epsilon = np.ascontiguousarray(factors.errors[m].T)
        n_out = D.shape[1]
        n_in = len(inputs[m])
        o, p = (
            np.indices((n_out, n_in)).reshape(2, -1)
            if D.ndim == 3
            else np.tile(np.arange(n_out), (2, 1))
        )
        for rows, columns, R in sum_products(with_one[k], epsilon, D.reshape(len(D), -1).T):
            blocks[k, m][rows, o, p, columns] += R.transpose(1, 0, 2)


def sum_products(
    a: np.ndarray, b: np.ndarray, M: np.ndarray, *, upper: bool = False
) -> Iterator[tuple[slice, slice, np.ndarray]]:
    r"""Sums over stars :math:`R_{kip} = \sum_n a_{in} b_{pn} M_{kn}`, some rows i at a time.

    Either the products a b of all i, p make one operand and M the other, or a M and b do for each
    k: whichever has fewer matrix products to call, and larger ones.

    Parameters
    ----------
    a, b, M : numpy.ndarray, shapes (i, star), (p, star), (k, star)
    upper : bool, default False
        Leave out p below the first of the rows.

    Yields
    ------
    rows, columns : slice
        Of i and of p.
    R : numpy.ndarray, shape (k, rows, columns)
    """
    by_k = len(M) < len(a)
    M = np.ascontiguousarray(M)
    floats = len(b) * (len(M) if by_k else max(len(M), M.shape[1]))
    for rows in chunks(len(a), max(1, BLOCK_BYTES // (floats * M.itemsize))):
        columns = slice(rows.start if upper else 0, None)
        left = a[rows]
        right = b[columns]
        shape = len(M), len(left), len(right)
        if by_k:
            R = np.empty(shape, M.dtype)
            for k, weights in enumerate(M):
                np.matmul(left * weights, right.T, out=R[k])
        else:
            products = left[:, None] * right
            R = (M @ products.reshape(-1, M.shape[1]).T).reshape(shape)
        yield rows, columns, R


def fill_lower_triangle(net: Network, H: np.ndarray) -> None:
    """Fill in place what `add_upper_triangle` leaves out: H is symmetric to the last bit."""
    blocks = _split_layers(net, H)
    for k in range(len(net.layout.layers)):
        own = blocks[k, k]
        for o in range(own.shape[1]):
            own[:, o + 1 :, :, o] = own[:, o, :, o + 1 :].transpose(0, 2, 1)
    mirror(H)


def mirror(H: np.ndarray) -> None:
    """Fill the lower triangle of a matrix by its upper one, in place and some rows at a time."""
    for rows in chunks(len(H), MIRROR_ROWS):
        H[rows, : rows.start] = H[: rows.start, rows].T
        H[rows, rows] = np.triu(H[rows, rows]) + np.triu(H[rows, rows], 1).T


def _split_layers(net: Network, H: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Views (i, o, p, q) of the blocks k <= m of H (param, param); i, p are inputs and the one."""
    layers = list(net.layout.layers.values())
    shapes = [(layer.n_rows, layer.n_out) for layer in layers]
    parts = [layer.slice for layer in layers]
    pairs = [(k, m) for m in range(len(parts)) for k in range(m + 1)]
    return {(k, m): H[parts[k], parts[m]].reshape(*shapes[k], *shapes[m]) for k, m in pairs}
