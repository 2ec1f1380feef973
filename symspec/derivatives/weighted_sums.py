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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt

from symspec.derivatives import graphs
from symspec.derivatives.backends import choose_backend, compile_graph, remember
from symspec.derivatives.functions import CHUNK_BYTES, MAX_CHUNK
from symspec.networks.network import Network
from symspec.networks.noise import PredictedNoise
from symspec.networks.params import Params, Symbol


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


@dataclass(frozen=True)
class GivenWeights:
    """Normal noise of weights W_n (star, label, label)."""

    given: Symbol

    def loss(self, f: Symbol, labels: Symbol) -> Symbol:
        r = labels - f
        return 0.5 * r[:, :, None] * self.given * r[:, None, :]

    def gradient(self, f: Symbol, labels: Symbol) -> Symbol:
        return pt.matmul(self.given, (f - labels)[:, :, None])[:, :, 0]

    def hessian(self, f: Symbol, labels: Symbol) -> Symbol:
        return self.given

    def weights(self, f: Symbol, labels: Symbol) -> Symbol:
        return self.given


@dataclass(frozen=True)
class GivenScales:
    """Student's t noise of inverse squared scales and degrees of freedom (star, label, 2)."""

    given: Symbol

    def loss(self, f: Symbol, labels: Symbol) -> Symbol:
        p, dof = self._split()
        return 0.5 * (dof + 1) * pt.log1p(p * (labels - f) ** 2 / dof)

    def gradient(self, f: Symbol, labels: Symbol) -> Symbol:
        p, dof = self._split()
        r = labels - f
        return -(dof + 1) * p * r / (dof + p * r**2)

    def hessian(self, f: Symbol, labels: Symbol) -> Symbol:
        p, dof = self._split()
        z2 = p * (labels - f) ** 2
        return _put_on_diagonals((dof + 1) * p * (dof - z2) / (dof + z2) ** 2)

    def weights(self, f: Symbol, labels: Symbol) -> Symbol:
        p, dof = self._split()
        return _put_on_diagonals((dof + 1) / (dof + 3) * p)

    def _split(self) -> tuple[Symbol, Symbol]:
        return self.given[:, :, 0], self.given[:, :, 1]


@dataclass(frozen=True)
class GivenErrors:
    """Noise that the network predicts, of labels with or without errors (star, label, 1 or more).

    First stands 1 where a label is there, then the variance or covariances of its error.
    """

    given: Symbol

    def loss(self, f: Symbol, labels: Symbol) -> Symbol:
        return -self._noise.log_likelihood(f, self._find_targets(labels))

    def gradient(self, f: Symbol, labels: Symbol) -> Symbol:
        return self._noise.gradient(f, self._find_targets(labels))

    def hessian(self, f: Symbol, labels: Symbol) -> Symbol:
        return self._noise.hessian(f, self._find_targets(labels))

    def weights(self, f: Symbol, labels: Symbol) -> Symbol:
        return self._noise.weights(f, self._find_targets(labels))

    @property
    def _noise(self) -> PredictedNoise:
        return PredictedNoise().for_labels(self.given.type.shape[1])

    def _find_targets(self, labels: Symbol) -> Symbol:
        n_stars = labels.shape[0]
        _, n_labels, n_given = self.given.type.shape
        known = pt.switch(pt.neq(self.given[:, :, 0], 0.0), labels, np.nan)
        errors = self.given[:, :, 1:].reshape((n_stars, n_labels * (n_given - 1)))
        targets = pt.concatenate([known, errors], axis=1)
        return pt.specify_shape(targets, (n_stars, n_labels * n_given))


def _put_on_diagonals(values: Symbol) -> Symbol:
    return values[:, :, None] * pt.eye(values.type.shape[1])


LIKELIHOODS: dict[str, type[GivenWeights] | type[GivenScales] | type[GivenErrors]] = {
    "gaussian": GivenWeights,
    "student_t": GivenScales,
    "predicted": GivenErrors,
}


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
