r"""Derivatives of a network and of its negative log posterior: graphs in, graphs out.

All of them are `pytensor.gradient` applied to leaves: the parameter blocks, rather than the flat
vector through its slices (each slice's gradient would be a full-length array), and one spectrum's
graph, mapped over stars by `vectorize_graph` (which leaves plain matrix products).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.scalar as ps
import pytensor.tensor as pt
from pytensor.gradient import grad, jacobian, pullback
from pytensor.graph.basic import Apply
from pytensor.graph.replace import graph_replace, vectorize_graph
from pytensor.graph.traversal import applys_between, toposort
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.shape import Shape

from symspec.errors import OptionError
from symspec.networks.network import Network
from symspec.networks.params import Params, Symbol
from symspec.networks.regression import Regression
from symspec.networks.windows import Largest

ABOVE = (ps.GT, ps.GE)
BELOW = (ps.LT, ps.LE)
# choices that are not made by the order of two numbers
UNSHARED = (ps.ScalarMaximum, ps.ScalarMinimum, ps.Abs, ps.Sign, ps.Clip, ps.EQ, ps.NEQ)
LEAST = -1e30  # in place of what is no candidate for the largest


@dataclass(frozen=True)
class TangentFactors:
    r"""Factors of the Jacobian df/dtheta of every star.

    For a dense layer with input a_n and output z_n the block of the kernel is the outer product
    :math:`J_{n,c,(i,o)} = a_{n,i} g_{n,c,o}` with g = df_c / dz, and the block of the bias is g.
    Other layers, such as convolutions, have few parameters: they enter by J itself, as biases
    would.

    Attributes
    ----------
    inputs : dict of str to symbol (star, in)
        By name of each dense layer that acts on a vector.
    cotangents : dict of str to symbol (star, output, out)
        By name of each layer with parameters; `out` are all the parameters of a layer without
        inputs.
    """

    inputs: dict[str, Symbol]
    cotangents: dict[str, Symbol]


def build_flux_jacobian(net: Network, params: Params, flux: Symbol) -> Symbol:
    """df/dx (star, label, pixel) for flux (star, pixel), by rows or columns, the fewer of them."""
    one = pt.vector("spectrum", dtype=flux.dtype, shape=(net.n_pixels,))
    f = net.build_labels(params, one)
    if net.n_labels <= net.n_pixels:
        J = jacobian(f, one, vectorize=True, disconnected_inputs="ignore")
    else:
        tangent = one.type("tangent")
        (column,) = _push_forward([f], [one], [tangent])
        columns = vectorize_graph(column, {tangent: pt.eye(net.n_pixels, dtype=flux.dtype)})
        J = columns.T
    return over_stars([J], [one], [flux])[0]


def build_linearized_flux_jacobian(
    net: Network, params: Params, flux: Symbol, step: Params
) -> Symbol:
    r"""Flux Jacobian (star, label, pixel) of :math:`f + \partial f / \partial\theta \cdot step`."""
    J = build_flux_jacobian(net, params, flux)
    names = list(params)
    tangents = [_as_dtype(step[name], J) for name in names]
    (change,) = _push_forward([J], [params[name] for name in names], tangents)
    return J + change


def build_tangent_factors(net: Network, params: Params, flux: Symbol) -> TangentFactors:
    """Inputs and cotangents of every layer for flux (star, pixel)."""
    one = pt.vector("spectrum", dtype=flux.dtype, shape=(net.n_pixels,))
    f, taps = net.build_with_taps(params, one)
    others = {name: layer.blocks for name, layer in net.layout.layers.items() if name not in taps}
    wrt = [
        *(z for _, z in taps.values()),
        *(params[block.name] for blocks in others.values() for block in blocks),
    ]
    # a `switch` hands back float64 whatever it was given
    after = iter(
        [g.astype(f.dtype) for g in jacobian(f, wrt, vectorize=True, disconnected_inputs="ignore")]
    )
    cotangents = {name: next(after) for name in taps}
    for name, blocks in others.items():
        rows = [next(after).reshape((net.n_outputs, block.size)) for block in blocks]
        cotangents[name] = pt.concatenate(rows, axis=1)
    inputs = [a for a, _ in taps.values()]
    singles = [*inputs, *(cotangents[name] for name in net.layout.layers)]
    outputs = over_stars(singles, [one], [flux])
    n = len(inputs)
    return TangentFactors(
        dict(zip(taps, outputs[:n], strict=True)),
        dict(zip(net.layout.layers, outputs[n:], strict=True)),
    )


def build_theta_jacobian(net: Network, params: Params, flux: Symbol) -> Symbol:
    """df/dtheta of each star: (star, output, param) for flux (star, pixel)."""
    factors = build_tangent_factors(net, params, flux)
    blocks = []
    for name, layer in net.layout.layers.items():
        g = factors.cotangents[name]
        if name in factors.inputs:
            outer = factors.inputs[name][:, None, :, None] * g[:, :, None, :]
            blocks.append(outer.reshape((outer.shape[0], net.n_outputs, layer.n_in * layer.n_out)))
        if layer.has_bias:
            blocks.append(g)
    return pt.concatenate(blocks, axis=2)


def build_gradient(U: Symbol, params: Params) -> dict[str, Symbol]:
    """dU/dtheta by block."""
    gradients = grad(U, list(params.values()), disconnected_inputs="ignore")
    return dict(zip(params, gradients, strict=True))


def build_hessian_vector_product(L: Symbol, params: Params, v: Params) -> dict[str, Symbol]:
    """Products of v with the second derivatives of L by block, forward over reverse."""
    wrt = list(params.values())
    products = _push_forward(grad(L, wrt), wrt, [v[name] for name in params])
    return dict(zip(params, products, strict=True))


def build_ggn_vector_product(
    reg: Regression,
    params: Params,
    flux: Symbol,
    labels: Symbol,
    v: Params,
) -> dict[str, Symbol]:
    r""":math:`\sum_n J_n^T W_n J_n v` by block, with the noise's weights W_n."""
    wrt = list(params.values())
    f = reg.net.build(params, flux)
    (Jv,) = _push_forward([f], wrt, [v[name] for name in params])
    products = pullback(f, wrt, reg.noise.weigh(Jv, f, labels))
    return dict(zip(params, products, strict=True))


def build_ggn_of_likelihood(
    reg: Regression, params: Params, flux: Symbol, labels: Symbol
) -> Symbol:
    r""":math:`\sum_n J_n^T W_n J_n` (param, param): the whitened Jacobian times itself."""
    f = reg.net.build(params, flux)
    J = reg.noise.whiten(build_theta_jacobian(reg.net, params, flux), f, labels)
    J = J.reshape((J.shape[0] * J.shape[1], reg.net.n_params))
    return pt.dot(J.T, J)


def build_trace_gradient(
    net: Network, params: Params, flux: Symbol, weights: Symbol, inverse: Symbol
) -> dict[str, Symbol]:
    r"""Gradient of :math:`\tfrac12 \sum_n \mathrm{tr}(W_n J_n A^{-1} J_n^T)` by block.

    A^-1 (param, param) and the weights W (star, output, output) of the noise are held fixed. At the
    A^-1 of the same parameters it is the gradient of :math:`\tfrac12 \log\det A` by J.
    """
    J = build_theta_jacobian(net, params, flux)
    rows = J.reshape((J.shape[0] * net.n_outputs, net.n_params))
    total = pt.sum(pt.matmul(weights, J) * pt.dot(rows, inverse).reshape(J.shape))
    return build_gradient(_as_dtype(0.5, J) * total, params)


def build_kernel_trace_gradient(
    net: Network, params: Params, flux: Symbol, variance: Params, weights: Symbol
) -> dict[str, Symbol]:
    r"""Gradient by block of :math:`\tfrac12 \mathrm{tr}(W J V J^T)`, the weights W held fixed.

    `weights` has shape (output, star, output, star), symmetric; `variance` one number a block. With
    :math:`W = (K + S)^{-1}` it is the gradient of :math:`\tfrac12 \log\det A` by J, too.
    """
    factors = build_tangent_factors(net, params, flux)
    total: Any = 0.0
    for layer, g in factors.cotangents.items():
        g = g.transpose((1, 0, 2))
        if layer in factors.inputs:
            a = factors.inputs[layer]
            h = g
            aa = variance[f"{layer}/kernel"] * pt.dot(a, a.T) + variance.get(f"{layer}/bias", 0.0)
        else:
            own = net.layout.layers[layer].blocks
            aa = 1.0
            h = g * pt.concatenate([pt.alloc(variance[block.name], block.size) for block in own])
        for c in range(net.n_outputs):
            for d in range(net.n_outputs):
                total = total + pt.sum(weights[c, :, d] * aa * pt.dot(g[c], h[d].T))
    return build_gradient(_as_dtype(0.5, total) * total, params)


def build_shared(f: Symbol, params: Params, share: Callable[[Symbol], Symbol]) -> Symbol:
    r"""The labels f with shares of two pieces wherever the sign of a number c chooses one.

    `share` is called with each c, and returns the share m of the piece where c is positive; the
    other has 1 - m. With :math:`m = [c > 0]` the result is f itself. With shares that are given it
    is smooth, and at c = 0, where the pieces meet, the same for all of them; its derivative there
    is a convex combination of those of the pieces.

    Raises
    ------
    OptionError
        Something is chosen in other ways, such as a median.
    """
    new: dict[Symbol, Symbol] = {}
    shares: set[Symbol] = set()
    moving: set[Symbol] = set(params.values())

    def take(c: Symbol) -> Symbol:
        m = share(c)
        shares.add(m)
        return m

    for node in toposort([f], blockers=list(params.values())):
        if moving.isdisjoint(node.inputs):
            continue
        moving.update(node.outputs)
        inputs = [new.get(v, v) for v in node.inputs]
        replaced = _share_node(node, inputs, shares, take)
        new.update(zip(node.outputs, replaced, strict=True))
    return new.get(f, f)


def _share_node(
    node: Apply, inputs: list[Symbol], shares: set[Symbol], take: Callable[[Symbol], Symbol]
) -> list[Symbol]:
    """Outputs of a node, from other inputs, without choices."""
    kind = node.op.scalar_op if isinstance(node.op, Elemwise) else node.op
    if isinstance(kind, UNSHARED):
        raise OptionError(f"kinks should be choices by the order of two numbers, got {kind}.")
    if isinstance(kind, ABOVE):
        return [take(inputs[0] - inputs[1])]
    if isinstance(kind, BELOW):
        return [take(inputs[1] - inputs[0])]
    if isinstance(kind, ps.Switch) and inputs[0] in shares:
        return [_mix(*inputs)]
    if isinstance(kind, Largest):
        x = pt.switch(pt.isinf(inputs[0]), LEAST, inputs[0])
        largest = x[..., 0, :]
        for i in range(1, x.type.shape[-2]):
            largest = _mix(take(x[..., i, :] - largest), x[..., i, :], largest)
        return [largest]
    return node.op.make_node(*inputs).outputs


def _mix(m: Symbol, a: Symbol, b: Symbol) -> Symbol:
    return m * a + (1 - m) * b


def _push_forward(
    outputs: list[Symbol], inputs: list[Symbol], tangents: list[Symbol]
) -> list[Symbol]:
    """Derivatives of outputs along tangents of the inputs, by two pullbacks.

    PyTensor's `pushforward` but for the copies: it takes an output on the way to another output for
    the end of the way, and so leaves out what the second adds to the first. In a batch
    normalisation the gradient of beta is on the way to that of gamma.
    """
    cotangents = [output.zeros_like() for output in outputs]
    copies = [output.copy() for output in outputs]
    pulled = pullback(copies, inputs, cotangents, disconnected_inputs="ignore")
    ends = [part.copy() for part in pulled]
    return pullback(ends, cotangents, tangents, disconnected_inputs="ignore")


def over_stars(outputs: list[Symbol], one: list[Symbol], many: list[Symbol]) -> list[Symbol]:
    """Graphs of what one star has, such as its spectrum, over stars; constant ones are repeated."""
    # to vectorize symbolic shapes would take longer than all the rest
    known = {
        node.outputs[0]: pt.constant(np.array(node.inputs[0].type.shape))
        for node in applys_between([], outputs)
        if isinstance(node.op, Shape) and None not in node.inputs[0].type.shape
    }
    fixed = graph_replace(outputs, known, strict=False)
    replaced = vectorize_graph(fixed, dict(zip(one, many, strict=True)))
    return [
        by_star
        if by_star.ndim > single.ndim
        else pt.alloc(by_star, many[0].shape[0], *single.type.shape)
        for single, by_star in zip(fixed, replaced, strict=True)
    ]


def _as_dtype(value: Any, like: Symbol) -> Symbol:
    return pt.as_tensor_variable(value).astype(like.dtype)
