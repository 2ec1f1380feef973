"""The compiled functions: graphs of `derivatives` as callables over stars.

Every callable walks the stars in chunks whose intermediates stay within `CHUNK_BYTES`, so that
memory is bounded by the result, and casts arrays to its dtype chunk by chunk. Sums over stars add
up chunk by chunk, too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike

from symspec.derivatives import graphs
from symspec.derivatives.backends import CompiledGraph, choose_backend, compile_graph, remember
from symspec.derivatives.functions import (
    MatrixFunction,
    ObjectiveFunction,
    PerStarFunction,
    ProductFunction,
    check_square_fits,
    declare_symbols,
)
from symspec.networks.network import Network, dropout_layers
from symspec.networks.params import Params, Shape, Symbol
from symspec.networks.regression import Regression
from symspec.safety.options import check_choice

BAND_COPIES = 16  # of a convolution's entries in the matrix that it is computed by


@remember
def compile_predict(
    net: Network, *, backend: str = "auto", dtype: str = "float64"
) -> PerStarFunction:
    """Compile the network: `fn(theta, X)` -> labels (star, label), or (label,) for one spectrum.

    Parameters
    ----------
    net : Network
    backend : {"auto", "numpy", "c", "numba", "jax"}
        See `choose_backend`.
    dtype : {"float64", "float32"}
        Arrays are cast to it.
    """
    return PerStarFunction(
        net, net.build_labels, [(net.n_labels,)], 2 * net.floats_per_star, backend, dtype
    )


@remember
def compile_outputs(
    net: Network, *, backend: str = "auto", dtype: str = "float64"
) -> PerStarFunction:
    """Compile all outputs of the network, those for its noise, too: (star, output)."""
    if net.n_outputs == net.n_labels:
        return compile_predict(net, backend=backend, dtype=dtype)
    return PerStarFunction(
        net, net.build, [(net.n_outputs,)], 2 * net.floats_per_star, backend, dtype
    )


@remember
def compile_log_likelihood(reg: Regression, *, width: int, backend: str = "auto") -> CompiledGraph:
    """Compile the log density of targets around outputs: `fn(f, Y)` -> scalar, in float64.

    Outputs f are (star, output), targets Y (star, width): labels, and behind them their errors.
    """
    f = pt.matrix("f", dtype="float64", shape=(None, reg.net.n_outputs))
    targets = pt.matrix("targets", dtype="float64", shape=(None, width))
    same_stars = pt.specify_shape(targets, (f.shape[0], width))
    density = pt.sum(reg.noise.log_likelihood(f, same_stars))
    return compile_graph([f, targets], [density], choose_backend(backend), "float64")


@remember
def compile_jacobian(
    net: Network, wrt: str = "flux", *, backend: str = "auto", dtype: str = "float64"
) -> PerStarFunction:
    """Compile the exact Jacobian of the labels.

    Parameters
    ----------
    net : Network
    wrt : {"flux", "theta"}
        `fn(theta, X)` -> (star, label, pixel) or (star, label, param); one spectrum drops the star
        axis.
    backend, dtype
        As for `compile_predict`.
    """
    check_choice(wrt, "wrt", ("flux", "theta"))
    n_wrt = net.n_pixels if wrt == "flux" else net.n_params
    graph = graphs.build_flux_jacobian if wrt == "flux" else graphs.build_theta_jacobian
    n_passes = min(net.n_labels, net.n_pixels) if wrt == "flux" else net.n_outputs
    floats = 2 * n_passes * net.floats_per_star + 2 * net.n_outputs * n_wrt
    return PerStarFunction(
        net,
        lambda params, flux: graph(net, params, flux)[:, : net.n_labels],
        [(net.n_labels, n_wrt)],
        floats,
        backend,
        dtype,
        n_rows=n_passes,
    )


def compile_linearized_flux_jacobian(
    net: Network, step: np.ndarray, *, backend: str = "auto", dtype: str = "float64"
) -> PerStarFunction:
    """Compile the flux Jacobian of the network linearised at theta, a step (param,) from there.

    `fn(theta, X)` -> (star, label, pixel); one spectrum drops the star axis.
    """
    blocks = net.unpack(step)
    n_passes = min(net.n_labels, net.n_pixels)
    floats = 8 * n_passes * net.floats_per_star + 2 * net.n_labels * net.n_pixels
    return PerStarFunction(
        net,
        lambda params, flux: graphs.build_linearized_flux_jacobian(net, params, flux, blocks),
        [(net.n_labels, net.n_pixels)],
        floats,
        backend,
        dtype,
        n_rows=n_passes,
    )


@remember
def compile_tangent_factors(
    net: Network, *, backend: str = "auto", dtype: str = "float64"
) -> PerStarFunction:
    """Compile the factors of df/dtheta: `fn(theta, X)` -> a list, inputs and then cotangents.

    Inputs (star, in) are those of the layers of `net.dense_shapes`, cotangents (star, output, out)
    those of `net.layout.layers`.
    """

    def build(params: Params, flux: Symbol) -> list[Symbol]:
        factors = graphs.build_tangent_factors(net, params, flux)
        return [*factors.inputs.values(), *factors.cotangents.values()]

    shapes: list[Shape] = [(n,) for n, _ in net.dense_shapes.values()]
    shapes += [(net.n_outputs, layer.n_out) for layer in net.layout.layers.values()]
    explicit = sum(layer.n_out for layer in net.layout.layers.values() if not layer.n_in)
    floats = 3 * net.n_outputs * (net.floats_per_star + (BAND_COPIES * explicit))
    return PerStarFunction(net, build, shapes, floats, backend, dtype, n_rows=net.n_outputs)


@remember
def compile_objective(
    reg: Regression, *, backend: str = "auto", dtype: str = "float64"
) -> ObjectiveFunction:
    """Compile U, the negative log posterior: `fn(theta, X, Y)` -> (value, gradient (param,))."""
    return ObjectiveFunction(reg, {}, backend, dtype)


@remember
def compile_training_objective(
    reg: Regression, *, backend: str = "auto", dtype: str = "float32"
) -> ObjectiveFunction:
    """Like `compile_objective`, with masks (star, feature) of the Dropout layers as arguments."""
    masks = {
        f"{name}/mask": pt.tensor(name, dtype=dtype, shape=(None, *shape))
        for name, (_, shape) in dropout_layers(reg.net).items()
    }
    return ObjectiveFunction(reg, masks, backend, dtype)


@remember
def compile_hessian_vector_product(
    reg: Regression, *, backend: str = "auto", dtype: str = "float64"
) -> ProductFunction:
    """Compile exact products with the Hessian of U: `fn(theta, X, Y, v)` -> (param,)."""

    def build(params: Params, v: Params, flux: Symbol, labels: Symbol) -> dict[str, Symbol]:
        L = reg.negative_log_likelihood(params, flux, labels)
        return graphs.build_hessian_vector_product(L, params, v)

    return ProductFunction(reg, build, 10, backend, dtype)


@remember
def compile_ggn_vector_product(
    reg: Regression, *, backend: str = "auto", dtype: str = "float64"
) -> ProductFunction:
    """Compile products with the Gauss-Newton matrix: `fn(theta, X, Y, v)` -> (param,)."""

    def build(params: Params, v: Params, flux: Symbol, labels: Symbol) -> dict[str, Symbol]:
        return graphs.build_ggn_vector_product(reg, params, flux, labels, v)

    return ProductFunction(reg, build, 8, backend, dtype)


@remember
def compile_generic_ggn(
    reg: Regression, *, backend: str = "auto", dtype: str = "float64"
) -> MatrixFunction:
    """Compile `matrices.compile_ggn` for any network, from the Jacobian itself."""

    def build(params: Params, flux: Symbol, labels: Symbol) -> list[Symbol]:
        return [graphs.build_ggn_of_likelihood(reg, params, flux, labels)]

    check_square_fits(reg.net, dtype)
    floats = 4 + 4 * reg.net.n_outputs * reg.net.n_params / reg.net.floats_per_star
    return MatrixFunction(reg, build, floats, backend, dtype)


@remember
def compile_generic_hessian(
    reg: Regression, *, backend: str = "auto", dtype: str = "float64"
) -> Callable[..., np.ndarray]:
    """Compile `matrices.compile_hessian` for any network, by a product with each unit vector."""
    n = reg.net.n_params
    check_square_fits(reg.net, dtype)
    product = compile_hessian_vector_product(reg, backend=backend, dtype=dtype)

    def hessian(theta: ArrayLike, X: ArrayLike, Y: ArrayLike) -> np.ndarray:
        H = np.empty((n, n), dtype)
        unit = np.zeros(n, dtype)
        for i in range(n):
            unit[i] = 1
            H[i] = product(theta, X, Y, unit)
            unit[i] = 0
        return (H + H.T) / 2

    return hessian


@remember
def compile_kernel_trace_gradient(
    net: Network, *, backend: str = "auto"
) -> Callable[..., np.ndarray]:
    """Compile its graph of `graphs`: `fn(theta, X, variance by block, weights)` -> (param,)."""
    theta, params, flux, _ = declare_symbols(net, "float64")
    variance = {block.name: pt.scalar(block.name) for block in net.layout.blocks}
    weights = pt.tensor4("weights")
    gradient = graphs.build_kernel_trace_gradient(net, params, flux, variance, weights)
    inputs = [theta, flux, *variance.values(), weights]
    fn = compile_graph(inputs, [net.layout.join(gradient)], choose_backend(backend), "float64")
    return lambda theta, X, v, W: np.asarray(
        fn(theta, X, *(np.float64(v[k]) for k in variance), W)[0]
    )
