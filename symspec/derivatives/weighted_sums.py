r"""Sums over stars with the noise as an argument, compiled once for all its numbers and priors.

With :math:`r_n = y_n - f(\theta, x_n)`, normal noise has

.. math:: L(\theta) = \tfrac12 \sum_n r_n^T W_n r_n,

where W_n (label, label) is the inverse noise covariance of star n on its observed labels and zero
elsewhere, and Student's t

.. math:: L(\theta) = \sum_{nc} \tfrac{\nu_c + 1}{2} \log(1 + p_{nc} r_{nc}^2 / \nu_c)

with the inverse p of the squared scale, zero where a label is missing. For predicted noise L is all
of minus the log density. What stands in y_n where a label is missing may be any finite number. U is
L plus the prior and what does not depend on theta. What `TunableNoise` calls `given` is W, or p and
nu, or which labels are there and the errors that they came with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import grad

from symspec.derivatives import graphs
from symspec.derivatives.backends import CompiledGraph, choose_backend, compile_graph, remember
from symspec.derivatives.functions import CHUNK_BYTES, MAX_CHUNK
from symspec.errors import OptionError
from symspec.networks.network import Network
from symspec.networks.noise.given import LIKELIHOODS
from symspec.networks.params import Params, Symbol
from symspec.safety.memory import chunks


@remember
def compile_weighted_squares(
    net: Network, *, kind: str = "gaussian", n_given: int | None = None, backend: str = "auto"
) -> WeightedSum:
    """Compile L and its gradient: `fn(theta, X, Y, given)` -> (value, gradient (param,)).

    Parameters
    ----------
    net : Network
    kind : str
        Of the noise.
    n_given : int, optional
        Numbers given of each label; by default one a label, the weights of normal noise.
    backend : str
    """

    def build(params: Params, flux: Symbol, labels: Symbol, given: Symbol) -> list[Symbol]:
        L = pt.sum(LIKELIHOODS[kind](given).loss(net.build(params, flux), labels))
        return [L, net.layout.join(graphs.build_gradient(L, params))]

    return WeightedSum(net, build, 4, backend, n_given=n_given)


@remember
def compile_weighted_hessian_vector_product(
    net: Network, *, kind: str = "gaussian", n_given: int | None = None, backend: str = "auto"
) -> WeightedSum:
    """Compile exact products with the Hessian of L: `fn(theta, X, Y, given, v)` -> (param,).

    Parameters are those of `compile_weighted_squares`.
    """
    v = pt.vector("v", shape=(net.n_params,))

    def build(params: Params, flux: Symbol, labels: Symbol, given: Symbol) -> list[Symbol]:
        L = pt.sum(LIKELIHOODS[kind](given).loss(net.build(params, flux), labels))
        product = graphs.build_hessian_vector_product(L, params, net.layout.unpack(v))
        return [net.layout.join(product)]

    return WeightedSum(net, build, 10, backend, [v], n_given=n_given)


@remember
def compile_likelihood(
    net: Network, *, kind: str = "gaussian", n_given: int | None = None, backend: str = "auto"
) -> CompiledGraph:
    """Compile L and its derivatives by the outputs f (star, output) of a network.

    `fn(f, Y, given)` gives the value, the gradient (star, output) and the second derivatives (star,
    output, output). Predicted noise has to know `n_given`, the numbers given of each label.
    """
    f = pt.matrix("f", dtype="float64", shape=(None, net.n_outputs))
    labels = pt.matrix("labels", dtype="float64", shape=(None, net.n_labels))
    given = pt.tensor3("given", dtype="float64", shape=(None, net.n_labels, n_given))
    likelihood = LIKELIHOODS[kind](given)
    outputs = [pt.sum(likelihood.loss(f, labels))]
    outputs += [likelihood.gradient(f, labels), likelihood.hessian(f, labels)]
    return compile_graph([f, labels, given], outputs, choose_backend(backend), "float64")


@remember
def compile_trace_gradient(net: Network, *, backend: str = "auto") -> WeightedSum:
    """Compile `graphs.build_trace_gradient`: `fn(theta, X, Y, W, inverse)` -> (param,).

    W are weights (star, output, output).
    """
    inverse = pt.matrix("inverse", shape=(net.n_params, net.n_params))

    def build(params: Params, flux: Symbol, _: Symbol, weights: Symbol) -> list[Symbol]:
        return [net.layout.join(graphs.build_trace_gradient(net, params, flux, weights, inverse))]

    copies = 6 * net.n_outputs * net.n_params / net.floats_per_star
    return WeightedSum(
        net, build, copies, backend, [inverse], n_rows=net.n_outputs, n_given=net.n_outputs
    )


@remember
def compile_shared_sum(
    net: Network, *, kind: str = "gaussian", n_given: int | None = None, backend: str = "auto"
) -> SharedSum | None:
    """Compile L with shares of the pieces that meet at kinks; None for kinks of unknown kinds."""
    try:
        return SharedSum(net, kind, n_given or net.n_labels, backend)
    except OptionError:
        return None


class WeightedSum:
    """Compiled graph summed over stars by chunks: `fn(theta, X, Y, given, *extra)`, unchecked.

    Parameters
    ----------
    net : Network
    build : callable
        Outputs from blocks of parameters, flux (star, pixel), labels (star, label), and what is
        given of their noise (star, label, anything).
    copies : float
        Arrays of all the network's widths that one star takes.
    backend : str
    extra : sequence of symbols
        Further arguments.
    n_rows, n_given : int, optional
        Shape of what is given of one star; by default of one label each.
    """

    def __init__(
        self,
        net: Network,
        build: Callable[..., list[Symbol]],
        copies: float,
        backend: str,
        extra: Sequence[Symbol] = (),
        *,
        n_rows: int | None = None,
        n_given: int | None = None,
    ):
        self.chunk = int(np.clip(CHUNK_BYTES / (8 * copies * net.floats_per_star), 1, MAX_CHUNK))
        theta = pt.vector("theta", dtype="float64", shape=(net.n_params,))
        flux = pt.matrix("flux", dtype="float64", shape=(None, net.n_pixels))
        labels = pt.matrix("labels", dtype="float64", shape=(None, net.n_labels))
        shape = (None, n_rows or net.n_labels, n_given or net.n_labels)
        given = pt.tensor3("given", dtype="float64", shape=shape)
        outputs = build(net.layout.unpack(theta), flux, labels, given)
        inputs = [theta, flux, labels, given, *extra]
        self._function = compile_graph(inputs, outputs, choose_backend(backend), "float64")

    def __call__(
        self, theta: np.ndarray, X: np.ndarray, Y: np.ndarray, given: np.ndarray, *extra: np.ndarray
    ) -> Any:
        """Sum over the stars of X (star, pixel), Y (star, label) and what is given of them."""
        total: list[Any] = []
        for part in self.batches(theta, X, Y, given, *extra):
            total = (
                [np.add(t, p) for t, p in zip(total, part, strict=True)]
                if total
                else [np.array(p) for p in part]
            )
        return total[0] if len(total) == 1 else tuple(total)

    def batches(
        self, theta: np.ndarray, X: np.ndarray, Y: np.ndarray, given: np.ndarray, *extra: np.ndarray
    ) -> Iterator[list[np.ndarray]]:
        """Outputs for some stars at a time."""
        for start in range(0, len(X), self.chunk):
            rows = slice(start, start + self.chunk)
            flux = np.asarray(X[rows], np.float64)
            yield self._function(theta, flux, Y[rows], given[rows], *extra)


class SharedSum:
    """L with shares of pieces in place of the network's choices, and its derivatives.

    A kink is a number of a star whose sign chooses between two pieces, see `graphs.build_shared`.
    Of weights and shares L is a smooth function. Calls are unchecked, and walk the stars in chunks.

    Parameters
    ----------
    net : Network
    kind : str
        Of the noise.
    backend : str

    Attributes
    ----------
    n_kinks : int
        Of each star.
    """

    def __init__(self, net: Network, kind: str, n_given: int, backend: str):
        self._net = net
        self._backend = choose_backend(backend)
        theta = pt.vector("theta", shape=(net.n_params,))
        flux = pt.matrix("flux", shape=(None, net.n_pixels))
        params = net.layout.unpack(theta)
        f = net.build(params, flux)
        arguments: list[Symbol] = []

        def choose(c: Symbol) -> Symbol:
            arguments.append(c)
            return pt.cast(c > 0, c.dtype)

        graphs.build_shared(f, params, choose)
        rows = [c.reshape((flux.shape[0], -1)) for c in arguments]
        self._shapes = [c.type.shape[1:] for c in arguments]
        self._ends = np.cumsum([math.prod(shape) for shape in self._shapes])
        self.n_kinks = int(self._ends[-1])
        self._arguments = self._compile([theta, flux], [pt.concatenate(rows, axis=1)])
        copies = 20 * net.floats_per_star
        self.chunk = int(np.clip(CHUNK_BYTES / (8 * copies), 1, MAX_CHUNK))
        given = pt.tensor3("given", shape=(None, net.n_labels, n_given))
        self._compile_derivatives(kind, theta, flux, given)

    def _compile_derivatives(self, kind: str, theta: Symbol, flux: Symbol, given: Symbol) -> None:
        net = self._net
        labels = pt.matrix("labels", shape=(None, net.n_labels))
        shares = pt.matrix("shares", shape=(None, self.n_kinks))
        v = pt.vector("v", shape=(net.n_params,))
        inputs = [theta, flux, labels, given, shares]
        L = self._build(kind, *inputs)
        gradient, by_shares = grad(L, [theta, shares])
        product = grad(pt.sum(gradient * v), theta)
        self._derivatives = self._compile(inputs, [L, gradient, by_shares])
        self._product = self._compile([*inputs, v], [product])
        self._compile_rows(kind, inputs)

    def _compile_rows(self, kind: str, many: list[Symbol]) -> None:
        """The function of `rows`: the graph of one star, over pairs of a star and a kink."""
        theta, flux, labels, given, shares = many
        weights = pt.matrix("weights", shape=(None, self.n_kinks))
        one = [x.type.clone(shape=x.type.shape[1:])(x.name) for x in (*many[1:], weights)]
        L = self._build(kind, theta, *(x[None] for x in one[:-1]))
        row = grad(pt.sum(grad(L, one[3]) * one[4]), theta)
        over = [flux, labels, given, shares, weights]
        rows = graphs.over_stars([row], one, over)
        self._rows = self._compile([theta, *over], rows)

    def _build(
        self, kind: str, theta: Symbol, flux: Symbol, labels: Symbol, given: Symbol, shares: Symbol
    ) -> Symbol:
        """L from shares (star, kink)."""
        params = self._net.layout.unpack(theta)
        parts = zip(self._ends, self._shapes, strict=True)

        def take(c: Symbol) -> Symbol:
            end, shape = next(parts)
            return shares[:, end - math.prod(shape) : end].reshape((flux.shape[0], *shape))

        f = graphs.build_shared(self._net.build(params, flux), params, take)
        return pt.sum(LIKELIHOODS[kind](given).loss(f, labels))

    def _compile(self, inputs: list[Symbol], outputs: list[Symbol]) -> CompiledGraph:
        return compile_graph(inputs, outputs, self._backend, "float64")

    def arguments(self, theta: np.ndarray, X: np.ndarray) -> np.ndarray:
        """The numbers c (star, kink) whose signs choose."""
        parts = [self._arguments(theta, X[rows])[0] for rows in chunks(len(X), self.chunk)]
        return np.concatenate(parts)

    def differentiate(
        self, theta: np.ndarray, X: np.ndarray, Y: np.ndarray, given: np.ndarray, shares: np.ndarray
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """L, its gradient (param,), and its derivatives by the shares (star, kink)."""
        total = 0.0
        gradient = np.zeros(self._net.n_params)
        by_shares = []
        for rows in chunks(len(X), self.chunk):
            stars = X[rows], Y[rows], given[rows], shares[rows]
            L, part, slopes = self._derivatives(theta, *stars)
            total += float(L)
            gradient += part
            by_shares.append(slopes)
        return total, gradient, np.concatenate(by_shares)

    def multiply(
        self,
        theta: np.ndarray,
        X: np.ndarray,
        Y: np.ndarray,
        given: np.ndarray,
        shares: np.ndarray,
        v: np.ndarray,
    ) -> np.ndarray:
        """Product (param,) of the Hessian by the weights, at fixed shares, and v."""
        product = np.zeros_like(v)
        for rows in chunks(len(X), self.chunk):
            product += self._product(theta, X[rows], Y[rows], given[rows], shares[rows], v)[0]
        return product

    def rows(
        self,
        theta: np.ndarray,
        X: np.ndarray,
        Y: np.ndarray,
        given: np.ndarray,
        shares: np.ndarray,
        kinks: np.ndarray,
    ) -> np.ndarray:
        """Gradients (pair, param) of the derivatives by the shares of pairs (star, kink)."""
        found = np.empty((len(kinks), theta.size))
        for some in chunks(len(kinks), self.chunk):
            stars, places = kinks[some].T
            weights = np.zeros((len(stars), self.n_kinks))
            weights[np.arange(len(stars)), places] = 1
            star_rows = X[stars], Y[stars], given[stars], shares[stars]
            found[some] = self._rows(theta, *star_rows, weights)[0]
        return found
