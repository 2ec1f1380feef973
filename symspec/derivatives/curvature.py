r"""Hessian and Gauss-Newton matrix layer by layer: graphs of their factors, arrays of each star.

For dense layers :math:`z_k = a_{k-1} W_k + b_k` with elementwise :math:`a_k = h_k(z_k)` between
them, the likelihood's part of U has the Hessian (Bishop 1992, doi:10.1162/neco.1992.4.4.494), for
layers :math:`k \le m`,

.. math::
    H_{(k,io),(m,pq)} = \sum_n a_{k-1,i}\, a_{m-1,p}\, M_{km,oq}
                        + [k < m] \sum_n a_{k-1,i}\, \epsilon_{m,q}\, D_{km,op}

with, for star n, :math:`\epsilon_m = dU/dz_m`, :math:`D_{km} = da_{m-1}/dz_k` and :math:`M_{km} =
d^2 U / dz_k dz_m = (dz_m/dz_k)\, M_{mm}`. The preactivations' Hessian runs backwards,

.. math::
    M_{kk} = \mathrm{diag}(s_k)
             + \mathrm{diag}(h'_k)\, W_{k+1} M_{k+1,k+1} W_{k+1}^T\, \mathrm{diag}(h'_k),
    \qquad s_k = h''_k\, dU/da_k

from the noise's second derivatives at the labels, :math:`S_n^{-1}` if it is normal.
A bias is a weight of an input that is 1 and does not move: no
D there. The Gauss-Newton matrix is the same without s and without D, from the noise's weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import pytensor.tensor as pt
from pytensor.gradient import grad

from symspec.networks.network import Network
from symspec.networks.params import Params, Symbol

Pair = tuple[int, int]


@dataclass(frozen=True)
class CurvatureFactors:
    """Arrays of each star, symbols or numbers, that the Hessian is summed from.

    Layers count from 0.

    Attributes
    ----------
    inputs : list of (star, in)
        a of each dense layer.
    curvatures : dict of (k, m) to (star, out_k, out_m)
        M for k <= m.
    errors : dict of m to (star, out_m)
        epsilon of all layers but the first; empty for the Gauss-Newton matrix.
    slopes : dict of (k, m) to (star, out_k, in_m) or (star, out_k)
        D for k < m, diagonal where m = k + 1; empty for the Gauss-Newton matrix.
    """

    inputs: list[Symbol]
    curvatures: dict[Pair, Symbol]
    errors: dict[int, Symbol]
    slopes: dict[Pair, Symbol]

    def arrays(self) -> list[Symbol]:
        """All of them in one list."""
        return [
            *self.inputs,
            *self.curvatures.values(),
            *self.errors.values(),
            *self.slopes.values(),
        ]

    def replaced_by(self, arrays: Iterable[Any]) -> CurvatureFactors:
        """The same with others in their places, in the order of `arrays()`."""
        arrays = iter(arrays)
        return CurvatureFactors(
            [next(arrays) for _ in self.inputs],
            {key: next(arrays) for key in self.curvatures},
            {key: next(arrays) for key in self.errors},
            {key: next(arrays) for key in self.slopes},
        )


def has_elementwise_layers(net: Network) -> bool:
    """Whether all but dense layers on vectors is elementwise, as the closed form needs.

    Layers before all weights, such as those that preprocess spectra, may be any.
    """
    first = net.layer_names.index(next(iter(net.layout.layers), net.layer_names[0]))
    others = list(zip(net.layer_names, net.layers, strict=True))[first:]
    return all(layer.elementwise or name in net.dense_shapes for name, layer in others)


class Likelihood(Protocol):
    """Derivatives of minus the log density of the labels, as `Noise` gives them.

    By the network's outputs f (star, output): `gradient` (star, output), `hessian` and its positive
    stand-in `weights` (star, output, output).
    """

    def gradient(self, f: Symbol, labels: Symbol) -> Symbol: ...

    def hessian(self, f: Symbol, labels: Symbol) -> Symbol: ...

    def weights(self, f: Symbol, labels: Symbol) -> Symbol: ...


def build_curvature_factors(
    net: Network,
    likelihood: Likelihood,
    params: Params,
    flux: Symbol,
    labels: Symbol,
    *,
    gauss_newton: bool = False,
) -> CurvatureFactors:
    """Factors of the likelihood's Hessian or Gauss-Newton matrix for flux (star, pixel)."""
    f, taps = net.build_with_taps(params, flux)
    Ws = [params[f"{name}/kernel"] for name in taps]
    inputs = [a for a, _ in taps.values()]
    zs = [z for _, z in taps.values()]
    outputs = [*inputs[1:], f]
    h1s = [_differentiate(a, z) for a, z in zip(outputs, zs, strict=True)]
    if gauss_newton:
        weights = likelihood.weights(f, labels)
        curvatures = _build_curvatures(Ws, h1s, [None] * len(Ws), weights)
        return CurvatureFactors(inputs, curvatures, {}, {})
    epsilons: list[Symbol] = []
    second: list[Symbol | None] = []
    dU = likelihood.gradient(f, labels)
    for W, z, h1 in reversed(list(zip(Ws, zs, h1s, strict=True))):
        epsilons.insert(0, h1 * dU)
        second.insert(0, _differentiate(h1, z) * dU)
        dU = pt.dot(epsilons[0], W.T)
    curvatures = _build_curvatures(Ws, h1s, second, likelihood.hessian(f, labels))
    errors = {m: epsilons[m] for m in range(1, len(Ws))}
    return CurvatureFactors(inputs, curvatures, errors, _build_slopes(Ws, h1s))


def _build_curvatures(
    Ws: list[Symbol], h1s: list[Symbol], second: list[Symbol | None], by_labels: Symbol
) -> dict[Pair, Symbol]:
    """M (star, out_k, out_m) for k <= m, from d^2 U / df^2 (star, label, label)."""
    after = by_labels  # d^2 U / da_m^2
    M = {}
    for m in reversed(range(len(Ws))):
        M[m, m] = h1s[m][:, :, None] * after * h1s[m][:, None, :]
        s = second[m]
        if s is not None:
            unit = pt.eye(h1s[m].type.shape[1], dtype=h1s[m].dtype)
            M[m, m] = M[m, m] + s[:, :, None] * unit
        if m > 0:
            after = pt.matmul(pt.matmul(Ws[m], M[m, m]), Ws[m].T)
        for k in reversed(range(m)):
            M[k, m] = h1s[k][:, :, None] * pt.matmul(Ws[k + 1], M[k + 1, m])
    return M


def _build_slopes(Ws: list[Symbol], h1s: list[Symbol]) -> dict[Pair, Symbol]:
    """D (star, out_k, in_m) for k < m, that of neighbours by its diagonal (star, out_k)."""
    D = {}
    for m in range(1, len(Ws)):
        D[m - 1, m] = h1s[m - 1]
        for k in reversed(range(m - 1)):
            below = D[k + 1, m]
            product = (
                Ws[k + 1] * below[:, None, :] if below.ndim == 2 else pt.matmul(Ws[k + 1], below)
            )
            D[k, m] = h1s[k][:, :, None] * product
    return D


def _differentiate(a: Symbol, z: Symbol) -> Symbol:
    """da/dz entry by entry, a being elementwise in z."""
    # a `switch` hands back float64
    return grad(pt.sum(a), z, disconnected_inputs="ignore").astype(a.dtype)
