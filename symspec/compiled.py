"""The compiled functions: graphs of `derivatives` as callables over stars.

Every callable walks the stars in chunks whose intermediates stay within `CHUNK_BYTES`, so that memory is bounded by
the result, and casts arrays to its dtype chunk by chunk. Sums over stars add up chunk by chunk, too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt

from symspec import derivatives
from symspec.backends import choose_backend, compile_graph
from symspec.checks import as_float_array, check_choice, check_flux, check_labels, check_theta
from symspec.errors import ShapeError, TooLargeError
from symspec.networks import Network, dropout_layers
from symspec.regression import Regression

DTYPES = ("float64", "float32")
CHUNK_BYTES = 256 * 2**20
MAX_CHUNK = 4096
BAND_COPIES = 16  # of a convolution's entries in the matrix that it is computed by


def compile_predict(net: Network, *, backend: str = "auto", dtype: str = "float64") -> PerStarFunction:
    """Compile the network: `fn(theta, X)` -> labels (star, label), or (label,) for one spectrum.

    Parameters
    ----------
    net : Network
    backend : {"auto", "numpy", "c", "numba", "jax"}
        See `choose_backend`.
    dtype : {"float64", "float32"}
        Arrays are cast to it.
    """
    return PerStarFunction(net, net.build, [(net.n_labels,)], 2 * net.floats_per_star, backend, dtype)


def compile_jacobian(
    net: Network, wrt: str = "flux", *, backend: str = "auto", dtype: str = "float64"
) -> PerStarFunction:
    """Compile the exact Jacobian of the labels.

    Parameters
    ----------
    net : Network
    wrt : {"flux", "theta"}
        `fn(theta, X)` -> (star, label, pixel) or (star, label, param); one spectrum drops the star axis.
    backend, dtype
        As for `compile_predict`.
    """
    check_choice(wrt, "wrt", ("flux", "theta"))
    n_wrt = net.n_pixels if wrt == "flux" else net.n_params
    graph = derivatives.build_flux_jacobian if wrt == "flux" else derivatives.build_theta_jacobian
    n_passes = min(net.n_labels, net.n_pixels) if wrt == "flux" else net.n_labels
    floats = 2 * n_passes * net.floats_per_star + 2 * net.n_labels * n_wrt
    return PerStarFunction(
        net, lambda params, flux: graph(net, params, flux), [(net.n_labels, n_wrt)], floats, backend, dtype
    )


def compile_tangent_factors(net: Network, *, backend: str = "auto", dtype: str = "float64") -> PerStarFunction:
    """Compile the factors of df/dtheta: `fn(theta, X)` -> a list, inputs (star, in) and then cotangents.

    Inputs are those of the layers of `net.dense_shapes`, cotangents (star, label, out) those of `net.layout.layers`.
    """

    def build(params, flux):
        factors = derivatives.build_tangent_factors(net, params, flux)
        return [*factors.inputs.values(), *factors.cotangents.values()]

    shapes = [(n,) for n, _ in net.dense_shapes.values()]
    shapes += [(net.n_labels, layer.n_out) for layer in net.layout.layers.values()]
    explicit = sum(layer.n_out for layer in net.layout.layers.values() if not layer.n_in)
    floats = 3 * net.n_labels * (net.floats_per_star + (BAND_COPIES * explicit))
    return PerStarFunction(net, build, shapes, floats, backend, dtype)


def compile_objective(reg: Regression, *, backend: str = "auto", dtype: str = "float64") -> ObjectiveFunction:
    """Compile the negative log posterior: `fn(theta, X, Y)` -> (value, gradient (param,)), summed over stars."""
    return ObjectiveFunction(reg, {}, backend, dtype)


def compile_training_objective(reg: Regression, *, backend: str = "auto", dtype: str = "float32") -> ObjectiveFunction:
    """Like `compile_objective`, with a random mask (star, feature) for each Dropout layer as further arguments."""
    masks = {
        f"{name}/mask": pt.tensor(name, dtype=dtype, shape=(None, *shape))
        for name, (_, shape) in dropout_layers(reg.net).items()
    }
    return ObjectiveFunction(reg, masks, backend, dtype)


def compile_hessian_vector_product(reg: Regression, *, backend: str = "auto", dtype: str = "float64") -> SumFunction:
    """Compile exact products with the Hessian of U: `fn(theta, X, Y, v)` -> (param,)."""
    v = pt.vector("v", dtype=dtype, shape=(reg.net.n_params,))

    def build(params, flux, labels, prior_weight):
        U = derivatives.build_negative_log_posterior(reg, params, flux, labels, prior_weight)
        layout = reg.net.layout
        return [layout.join(derivatives.build_hessian_vector_product(U, params, layout.unpack(v)))]

    return SumFunction(reg, build, 10, backend, dtype, extra=[v])


def compile_ggn_vector_product(reg: Regression, *, backend: str = "auto", dtype: str = "float64") -> SumFunction:
    """Compile products with the generalised Gauss-Newton matrix: `fn(theta, X, Y, v)` -> (param,)."""
    v = pt.vector("v", dtype=dtype, shape=(reg.net.n_params,))
    unpack, join = reg.net.layout.unpack, reg.net.layout.join

    def build(params, flux, labels, prior_weight):
        product = derivatives.build_ggn_vector_product(reg, params, flux, labels, unpack(v), prior_weight)
        return [join(product)]

    return SumFunction(reg, build, 8, backend, dtype, extra=[v])


def compile_generic_ggn(reg: Regression, *, backend: str = "auto", dtype: str = "float64") -> SumFunction:
    """Compile the Gauss-Newton matrix of any network: `matrices.compile_ggn` from the Jacobian itself."""

    def build(params, flux, labels, prior_weight):
        prior = reg.prior_precision_vector().astype(dtype)
        diagonal = np.arange(reg.net.n_params)
        G = derivatives.build_ggn_of_likelihood(reg, params, flux, labels)
        return [pt.inc_subtensor(G[diagonal, diagonal], prior_weight * prior)]

    check_square_fits(reg.net, dtype)
    floats = 4 + 4 * reg.net.n_labels * reg.net.n_params / reg.net.floats_per_star
    return SumFunction(reg, build, floats, backend, dtype)


def compile_generic_hessian(
    reg: Regression, *, backend: str = "auto", dtype: str = "float64"
) -> Callable[..., np.ndarray]:
    """Compile the exact Hessian of any network: `matrices.compile_hessian` by a Hessian-vector product a parameter."""
    n = reg.net.n_params
    check_square_fits(reg.net, dtype)
    product = compile_hessian_vector_product(reg, backend=backend, dtype=dtype)

    def hessian(theta: Any, X: Any, Y: Any) -> np.ndarray:
        H = np.empty((n, n), dtype)
        unit = np.zeros(n, dtype)
        for i in range(n):
            unit[i] = 1
            H[i] = product(theta, X, Y, unit)
            unit[i] = 0
        return (H + H.T) / 2

    return hessian


def compile_kernel_trace_gradient(net: Network, *, backend: str = "auto") -> Callable[..., np.ndarray]:
    """Compile `derivatives.build_kernel_trace_gradient`: `fn(theta, X, variance by block, weights)` -> (param,)."""
    theta, params, flux, _ = _symbols(net, "float64")
    variance = {block.name: pt.scalar(block.name) for block in net.layout.blocks}
    weights = pt.tensor4("weights")
    gradient = derivatives.build_kernel_trace_gradient(net, params, flux, variance, weights)
    inputs = [theta, flux, *variance.values(), weights]
    fn = compile_graph(inputs, [net.layout.join(gradient)], choose_backend(backend), "float64")
    return lambda theta, X, v, W: np.asarray(fn(theta, X, *(np.float64(v[k]) for k in variance), W)[0])


class PerStarFunction:
    """A compiled graph with one result a star: `fn(theta, X)`, chunked, into preallocated output."""

    def __init__(
        self,
        net: Network,
        build: Callable[..., Any],
        tails: Sequence[tuple[int, ...]],
        floats_per_star: int,
        backend: str,
        dtype: str,
    ):
        self.net, self.tails, self.backend, self.dtype = net, list(tails), choose_backend(backend), dtype
        self.chunk = _chunk_size(floats_per_star, dtype)
        theta, params, flux, _ = _symbols(net, dtype)
        outputs = build(params, flux)
        self._many = isinstance(outputs, list)
        self._function = compile_graph([theta, flux], outputs if self._many else [outputs], self.backend, dtype)

    def __call__(self, theta: Any, X: Any) -> Any:
        """Results for X (star, pixel) or (pixel,).

        Raises
        ------
        ShapeError, DataError
            `theta` or `X` is not what the network takes.
        TooLargeError
            The result would not fit in this machine's memory.
        """
        theta = check_theta(theta, self.net.n_params, dtype=self.dtype)
        X = check_flux(X, self.net.n_pixels, dtype=None)
        results = self._walk(theta, X if X.ndim == 2 else X[None])
        results = results if X.ndim == 2 else [r[0] for r in results]
        return results if self._many else results[0]

    def _walk(self, theta: np.ndarray, X: np.ndarray) -> list[np.ndarray]:
        n = len(X)
        _check_fits(n * sum(math.prod(t) for t in self.tails) * np.dtype(self.dtype).itemsize, f"{n} stars")
        if n <= self.chunk:
            return [_as_writable(r) for r in self._function(theta, np.asarray(X, self.dtype))]
        out = [np.empty((n, *tail), self.dtype) for tail in self.tails]
        for rows in chunks(n, self.chunk):
            for o, r in zip(out, self._function(theta, np.asarray(X[rows], self.dtype)), strict=True):
                o[rows] = r
        return out


class SumFunction:
    """A compiled graph that is summed over stars: `fn(theta, X, Y, *extra)`, chunk by chunk, the prior once."""

    prior_in_graph = True

    def __init__(
        self,
        reg: Regression,
        build: Callable[..., list[Any]],
        copies: float,
        backend: str,
        dtype: str,
        extra: Sequence[Any] = (),
    ):
        self.reg, self.backend, self.dtype = reg, choose_backend(backend), dtype
        self.chunk = _chunk_size(int(copies * reg.net.floats_per_star), dtype)
        theta, params, flux, labels = _symbols(reg.net, dtype)
        prior_weight = pt.scalar("prior_weight", dtype=dtype)
        self._extra = list(extra)
        inputs = [theta, flux, labels, *([prior_weight] if self.prior_in_graph else []), *self._extra]
        same_stars = pt.specify_shape(labels, (flux.shape[0], reg.net.n_labels))  # JAX needs to know
        outputs = build(params, flux, same_stars, prior_weight)
        self._function = compile_graph(inputs, outputs, self.backend, dtype)

    def __call__(self, theta: Any, X: Any, Y: Any, *extra: Any) -> Any:
        """Sum over the stars of X (star, pixel), Y (star, label); one spectrum (pixel,), (label,) is one star.

        Raises
        ------
        ShapeError, DataError
            An argument is not what the regression takes.
        """
        theta = check_theta(theta, self.reg.net.n_params, dtype=self.dtype)
        X, Y = check_stars(self.reg.net, X, Y)
        if len(extra) != len(self._extra):
            names = ", ".join(v.name for v in self._extra) or "nothing"
            raise ShapeError(f"the function takes theta, X, Y and then {names}, got {len(extra)} further arguments.")
        extra = [self._check_extra(value, v) for value, v in zip(extra, self._extra, strict=True)]
        return self._sum(theta, X, Y, extra)

    def _sum(self, theta: np.ndarray, X: np.ndarray, Y: np.ndarray, extra: list[np.ndarray]) -> Any:
        total: list[Any] = []
        for rows in chunks(len(X), self.chunk):
            part = self.of_batch(theta, X[rows], Y[rows], float(rows.start == 0), *extra)
            total = [t + p for t, p in zip(total, part, strict=True)] if total else list(part)
        total = [float(t) if t.ndim == 0 else t for t in total]
        return total[0] if len(total) == 1 else tuple(total)

    def of_batch(
        self, theta: np.ndarray, X: np.ndarray, Y: np.ndarray, prior_weight: float, *extra: np.ndarray
    ) -> list[np.ndarray]:
        """One unchecked call on a few stars, with `prior_weight` times the prior."""
        X, Y = np.asarray(X, self.dtype), np.asarray(Y, self.dtype)
        weight = [np.asarray(prior_weight, self.dtype)] if self.prior_in_graph else []
        outputs = self._function(theta, X, Y, *weight, *extra)
        return [_as_writable(o) if np.ndim(o) else np.asarray(o, np.float64) for o in outputs]

    def _check_extra(self, value: Any, symbol: Any) -> np.ndarray:
        array = as_float_array(value, symbol.name, dtype=self.dtype)
        n = self.reg.net.n_params
        if array.ndim != symbol.ndim or array.shape[-1] != n:
            raise ShapeError(f"{symbol.name} should have {symbol.ndim} axes, the last of {n}, got {array.shape}.")
        return array


class ObjectiveFunction(SumFunction):
    """U and its gradient. The prior is added in place: in the graph it would take six passes over theta, not two."""

    prior_in_graph = False

    def __init__(self, reg: Regression, masks: dict[str, Any], backend: str, dtype: str):
        def build(params, flux, labels, _):
            U = reg.negative_log_likelihood(params | masks, flux, labels)
            return [U, reg.net.layout.join(derivatives.build_gradient(U, params))]

        super().__init__(reg, build, 4, backend, dtype, extra=list(masks.values()))

    def of_batch(
        self, theta: np.ndarray, X: np.ndarray, Y: np.ndarray, prior_weight: float, *extra: np.ndarray
    ) -> list[np.ndarray]:
        value, gradient = super().of_batch(theta, X, Y, prior_weight, *extra)
        return [value + self.reg.add_prior(gradient, theta, prior_weight), gradient]


def check_stars(net: Network, X: Any, Y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Flux (star, pixel) and labels (star, label) that belong together, checked; a vector is one star."""
    X = check_flux(X, net.n_pixels, dtype=None)
    Y = as_float_array(Y, "labels")
    X, Y = (X[None], Y[None] if Y.ndim == 1 else Y) if X.ndim == 1 else (X, Y)
    return X, check_labels(Y, len(X), net.n_labels)


def _symbols(net: Network, dtype: str):
    check_choice(dtype, "dtype", DTYPES)
    theta = pt.vector("theta", dtype=dtype, shape=(net.n_params,))
    flux = pt.matrix("flux", dtype=dtype, shape=(None, net.n_pixels))
    labels = pt.matrix("labels", dtype=dtype, shape=(None, net.n_labels))
    return theta, net.layout.unpack(theta), flux, labels


def _as_writable(result: Any) -> np.ndarray:
    array = np.asarray(result)
    return array if array.flags.writeable else array.copy()  # JAX hands out read-only views


def _chunk_size(floats_per_star: int, dtype: str) -> int:
    return int(np.clip(CHUNK_BYTES // (floats_per_star * np.dtype(dtype).itemsize), 1, MAX_CHUNK))


def chunks(n: int, size: int) -> Iterator[slice]:
    """Slices of `size`, the last one of what is left, that cover `n`."""
    return (slice(i, min(i + size, n)) for i in range(0, n, size))


def _check_fits(n_bytes: int, what: str) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_bytes > memory:
        raise TooLargeError(
            f"the result for {what} takes {n_bytes / 2**30:.1f} GiB and this machine has {memory / 2**30:.1f}: ask for "
            "fewer at a time."
        )


def check_square_fits(net: Network, dtype: str) -> None:
    """Refuse a (param, param) matrix that this machine could not hold."""
    _check_fits(net.n_params**2 * np.dtype(dtype).itemsize, f"{net.n_params} x {net.n_params} parameters")
