r"""Sums over stars with weights as an argument, compiled once for every noise and prior.

.. math:: L(\theta) = \tfrac12 \sum_n r_n^T W_n r_n, \qquad r_n = y_n - f(\theta, x_n)

W_n (label, label) is the inverse noise covariance of star n on its observed labels and zero
elsewhere, where y_n may then be any finite number. U is L plus the prior and what does not depend
on theta.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt

from symspec.derivatives import graphs
from symspec.derivatives.backends import choose_backend, compile_graph, remember
from symspec.derivatives.functions import CHUNK_BYTES, MAX_CHUNK
from symspec.networks.network import Network
from symspec.networks.params import Params, Symbol


@remember
def compile_weighted_squares(net: Network, *, backend: str = "auto") -> WeightedSum:
    """Compile L and its gradient: `fn(theta, X, Y, W)` -> (value, gradient (param,))."""

    def build(params: Params, flux: Symbol, labels: Symbol, weights: Symbol) -> list[Symbol]:
        L = build_weighted_squares(net, params, flux, labels, weights)
        return [L, net.layout.join(graphs.build_gradient(L, params))]

    return WeightedSum(net, build, 4, backend)


@remember
def compile_weighted_hessian_vector_product(net: Network, *, backend: str = "auto") -> WeightedSum:
    """Compile exact products with the Hessian of L: `fn(theta, X, Y, W, v)` -> (param,)."""
    v = pt.vector("v", shape=(net.n_params,))

    def build(params: Params, flux: Symbol, labels: Symbol, weights: Symbol) -> list[Symbol]:
        L = build_weighted_squares(net, params, flux, labels, weights)
        product = graphs.build_hessian_vector_product(L, params, net.layout.unpack(v))
        return [net.layout.join(product)]

    return WeightedSum(net, build, 10, backend, [v])


@remember
def compile_trace_gradient(net: Network, *, backend: str = "auto") -> WeightedSum:
    """Compile `graphs.build_trace_gradient`: `fn(theta, X, Y, W, inverse)` -> (param,)."""
    inverse = pt.matrix("inverse", shape=(net.n_params, net.n_params))

    def build(params: Params, flux: Symbol, _: Symbol, weights: Symbol) -> list[Symbol]:
        return [net.layout.join(graphs.build_trace_gradient(net, params, flux, weights, inverse))]

    copies = 6 * net.n_labels * net.n_params / net.floats_per_star
    return WeightedSum(net, build, copies, backend, [inverse])


def build_weighted_squares(
    net: Network, params: Params, flux: Symbol, labels: Symbol, weights: Symbol
) -> Symbol:
    """L, a scalar, for flux (star, pixel), labels (star, label), weights (star, label, label)."""
    r = labels - net.build(params, flux)
    return 0.5 * pt.sum(r[:, :, None] * weights * r[:, None, :])


@dataclass(frozen=True)
class GivenWeights:
    """The likelihood of L, of which W_n (star, label, label) are the second derivatives."""

    given: Symbol

    def gradient(self, f: Symbol, labels: Symbol) -> Symbol:
        return pt.matmul(self.given, (f - labels)[:, :, None])[:, :, 0]

    def hessian(self, f: Symbol, labels: Symbol) -> Symbol:
        return self.given

    def weights(self, f: Symbol, labels: Symbol) -> Symbol:
        return self.given


class WeightedSum:
    """Compiled graph summed over stars by chunks: `fn(theta, X, Y, W, *extra)`, float64, unchecked.

    Parameters
    ----------
    net : Network
    build : callable
        Outputs from blocks of parameters, flux (star, pixel), labels (star, label), weights (star,
        label, label).
    copies : float
        Arrays of all the network's widths that one star takes.
    backend : str
    extra : sequence of symbols
        Further arguments.
    """

    def __init__(
        self,
        net: Network,
        build: Callable[..., list[Symbol]],
        copies: float,
        backend: str,
        extra: Sequence[Symbol] = (),
    ):
        self.chunk = int(np.clip(CHUNK_BYTES / (8 * copies * net.floats_per_star), 1, MAX_CHUNK))
        theta = pt.vector("theta", dtype="float64", shape=(net.n_params,))
        flux = pt.matrix("flux", dtype="float64", shape=(None, net.n_pixels))
        labels = pt.matrix("labels", dtype="float64", shape=(None, net.n_labels))
        weights = pt.tensor3("weights", dtype="float64", shape=(None, net.n_labels, net.n_labels))
        outputs = build(net.layout.unpack(theta), flux, labels, weights)
        inputs = [theta, flux, labels, weights, *extra]
        self._function = compile_graph(inputs, outputs, choose_backend(backend), "float64")

    def __call__(
        self, theta: np.ndarray, X: np.ndarray, Y: np.ndarray, W: np.ndarray, *extra: np.ndarray
    ) -> Any:
        """Sum over the stars of X (star, pixel), Y (star, label) and W (star, label, label)."""
        total: list[Any] = []
        for part in self.batches(theta, X, Y, W, *extra):
            total = (
                [np.add(t, p) for t, p in zip(total, part, strict=True)]
                if total
                else [np.array(p) for p in part]
            )
        return total[0] if len(total) == 1 else tuple(total)

    def batches(
        self, theta: np.ndarray, X: np.ndarray, Y: np.ndarray, W: np.ndarray, *extra: np.ndarray
    ) -> Iterator[list[np.ndarray]]:
        """Outputs for some stars at a time."""
        for start in range(0, len(X), self.chunk):
            rows = slice(start, start + self.chunk)
            yield self._function(theta, np.asarray(X[rows], np.float64), Y[rows], W[rows], *extra)
