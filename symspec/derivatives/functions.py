"""Compiled graphs over chunks of stars: one result a star, or sums over stars."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike

from symspec.derivatives import graphs
from symspec.derivatives.backends import Remade, choose_backend, compile_graph, send_to_device
from symspec.derivatives.threads import Threads
from symspec.errors import ShapeError
from symspec.networks.network import Network
from symspec.networks.params import Params, Shape, Symbol
from symspec.networks.regression import Regression
from symspec.networks.theta import check_theta
from symspec.safety.arrays import as_float_array
from symspec.safety.label_errors import Labels, LabelsWithErrors, add_errors
from symspec.safety.memory import check_fits, chunks
from symspec.safety.options import check_choice
from symspec.safety.stars import check_flux, check_labels
from symspec.workers.choice import open_workers
from symspec.workers.interface import Task

DTYPES = ("float64", "float32")
CHUNK_BYTES = 256 * 2**20  # of intermediates
MAX_CHUNK = 4096  # stars


class PerStarFunction(Remade):
    """Compiled graph with one result a star, written chunk by chunk: `fn(theta, X)`.

    A star has `n_rows` tangents or cotangents that go through the network together.
    """

    def __init__(
        self,
        net: Network,
        build: Callable[..., Any],
        tails: Sequence[Shape],
        floats_per_star: int,
        backend: str,
        dtype: str,
        *,
        n_rows: int = 1,
    ):
        self.net = net
        self.tails = list(tails)
        self.backend = choose_backend(backend)
        self.dtype = dtype
        self.chunk = _chunk_size(floats_per_star, dtype)
        self.threads = Threads(net, self.backend, n_rows)
        theta, params, flux, _ = declare_symbols(net, dtype)
        outputs = build(params, flux)
        self._many = isinstance(outputs, list)
        self._function = compile_graph(
            [theta, flux], outputs if self._many else [outputs], self.backend, dtype
        )

    def __call__(self, theta: ArrayLike, X: ArrayLike) -> Any:
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
        stars = np.atleast_2d(X)
        with self.threads.for_passes(len(stars)):
            results = self._walk(theta, stars)
        if X.ndim == 1:
            results = [r[0] for r in results]
        return results if self._many else results[0]

    def _walk(self, theta: np.ndarray, X: np.ndarray) -> list[np.ndarray]:
        n = len(X)
        n_numbers = n * sum(math.prod(tail) for tail in self.tails)
        check_fits(n_numbers * np.dtype(self.dtype).itemsize, f"{n} stars")
        if n <= self.chunk:
            return [_as_writable(r) for r in self._function(theta, np.asarray(X, self.dtype))]
        (theta,) = send_to_device([theta], self.backend)
        out = [np.empty((n, *tail), self.dtype) for tail in self.tails]
        for rows in chunks(n, self.chunk):
            results = self._function(theta, np.asarray(X[rows], self.dtype))
            for o, r in zip(out, results, strict=True):
                o[rows] = r
        return out


class SumFunction(Remade):
    """Compiled graph summed over stars: `fn(theta, X, Y, *extra)`, by chunks, the prior once."""

    def __init__(
        self,
        reg: Regression,
        build: Callable[..., list[Any]],
        copies: float,
        backend: str,
        dtype: str,
        extra: Sequence[Any] = (),
    ):
        self.reg = reg
        self.backend = choose_backend(backend)
        self.dtype = dtype
        self.chunk = _chunk_size(int(copies * reg.net.floats_per_star), dtype)
        self.threads = Threads(reg.net, self.backend)
        self._build = build
        self._extra = list(extra)
        self._function = self._compile(reg.net.n_labels)
        self._with_errors: dict[int, Any] = {}  # by the number of columns

    def _find_function(self, width: int) -> Any:
        """The function of targets (star, width); that of labels with errors is compiled once."""
        if width == self.reg.net.n_labels:
            return self._function
        if width not in self._with_errors:
            self._with_errors[width] = self._compile(width)
        return self._with_errors[width]

    def _compile(self, width: int) -> Any:
        """The function of labels alone, or with as many columns of their errors."""
        theta, params, flux, targets = declare_symbols(self.reg.net, self.dtype, width)
        inputs = [theta, flux, targets, *self._extra]
        # JAX needs to know that there are as many stars
        same_stars = pt.specify_shape(targets, (flux.shape[0], width))
        outputs = self._build(params, flux, same_stars)
        return compile_graph(inputs, outputs, self.backend, self.dtype)

    def __call__(
        self,
        theta: ArrayLike,
        X: ArrayLike,
        Y: ArrayLike | LabelsWithErrors,
        *extra: ArrayLike,
        label_errors: ArrayLike | None = None,
        scheduler: Any = None,
    ) -> Any:
        """Sum over the stars of X (star, pixel), Y (star, label); or one star, (pixel,), (label,).

        Parameters
        ----------
        theta, X, Y, *extra : array_like
        label_errors : array_like, shape (star, label) or (star, label, label), optional
            Standard deviations or covariances of errors that the labels came with, which add to the
            noise. The first call with them compiles once more.
        scheduler : None, "local", str or distributed.Client, optional
            Who adds up, this process by default, see `symspec.workers`. The stars are parted in the
            same way, and their sums added in the same order.

        Raises
        ------
        ShapeError, DataError
            An argument is not what the regression takes.
        """
        theta = check_theta(theta, self.reg.net.n_params, dtype=self.dtype)
        X, Y = check_stars(self.reg.net, X, Y, label_errors)
        if len(extra) != len(self._extra):
            names = ", ".join(v.name for v in self._extra) or "nothing"
            raise ShapeError(
                f"the function takes theta, X, Y and then {names}, got {len(extra)} further"
                " arguments."
            )
        pairs = zip(extra, self._extra, strict=True)
        checked = [self._check_extra(value, v) for value, v in pairs]
        if scheduler is not None:
            return self._finish(self._sum_elsewhere(scheduler, theta, X, Y, checked))
        with self.threads.for_passes(len(X)):
            return self._finish(self._sum(theta, X, Y, checked))

    def _sum(
        self, theta: np.ndarray, X: np.ndarray, Y: Labels, extra: list[np.ndarray]
    ) -> list[np.ndarray]:
        if len(X) > self.chunk:
            theta, *extra = send_to_device([theta, *extra], self.backend)
        return _add_up(
            self.part(theta, X[rows], Y[rows], float(rows.start == 0), *extra)
            for rows in chunks(len(X), self.chunk)
        )

    def _finish(self, total: list[np.ndarray]) -> Any:
        """What is returned, of the sum over all stars."""
        results = [float(t) if t.ndim == 0 else t for t in total]
        return results[0] if len(results) == 1 else tuple(results)

    def _sum_elsewhere(
        self, scheduler: Any, theta: np.ndarray, X: np.ndarray, Y: Labels, extra: list[np.ndarray]
    ) -> list[np.ndarray]:
        def read(rows: slice) -> tuple[np.ndarray, Labels, float]:
            return X[rows], Y[rows], float(rows.start == 0)

        task = Task(read=read, find=_BatchOf(self, theta, extra))
        pieces = list(chunks(len(X), self.chunk))
        with (
            open_workers(scheduler) as workers,
            closing(workers.map(task, pieces, in_order=True)) as found,
        ):
            return _add_up(part for _, part in found)

    def part(
        self,
        theta: np.ndarray,
        X: np.ndarray,
        Y: Labels,
        prior_weight: float,
        *extra: np.ndarray,
    ) -> list[np.ndarray]:
        """What a few stars, and `prior_weight` times the prior, add to the sum."""
        return self.of_batch(theta, X, Y, prior_weight, *extra)

    def of_batch(
        self,
        theta: np.ndarray,
        X: np.ndarray,
        Y: Labels,
        prior_weight: float,
        *extra: np.ndarray,
        into: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """One unchecked call on a few stars, with `prior_weight` times the prior.

        What is written may be written `into` an array of its shape, whose numbers are lost.
        """
        X = np.asarray(X, self.dtype)
        targets = np.asarray(Y, self.dtype)
        outputs = self._find_function(targets.shape[1])(theta, X, targets, *extra, into=into)
        results = [_as_writable(o) if np.ndim(o) else np.asarray(o, np.float64) for o in outputs]
        if prior_weight:
            self._add_prior(results, prior_weight, np.asarray(theta), *extra)
        return results

    def _add_prior(
        self, results: list[np.ndarray], weight: float, theta: np.ndarray, *extra: np.ndarray
    ) -> None:
        """Add `weight` times the prior's part to the results, in place; none by default."""

    def _check_extra(self, value: Any, symbol: Any) -> np.ndarray:
        array = as_float_array(value, symbol.name, dtype=self.dtype)
        n = self.reg.net.n_params
        if array.ndim != symbol.ndim or array.shape[-1] != n:
            raise ShapeError(
                f"{symbol.name} should have {symbol.ndim} axes, the last of {n}, got {array.shape}."
            )
        return array


@dataclass(frozen=True, eq=False)
class _BatchOf:
    """What a worker does of a sum: the part of some stars."""

    function: SumFunction
    theta: np.ndarray
    extra: list[np.ndarray]

    def __call__(self, stars: tuple[np.ndarray, Labels, float]) -> list[np.ndarray]:
        X, Y, prior_weight = stars
        with self.function.threads.for_passes(len(X)):
            return self.function.part(self.theta, X, Y, prior_weight, *self.extra)


def _add_up(parts: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
    total: list[Any] = []
    for part in parts:
        total = [t + p for t, p in zip(total, part, strict=True)] if total else list(part)
    return total


class ObjectiveFunction(SumFunction):
    """U and its gradient; the prior is added in place: two passes over theta, not a graph's six."""

    def __init__(self, reg: Regression, masks: dict[str, Any], backend: str, dtype: str):
        def build(params: Params, flux: Symbol, labels: Symbol) -> list[Symbol]:
            U = reg.negative_log_likelihood({**params, **masks}, flux, labels)
            return [U, reg.net.layout.join(graphs.build_gradient(U, params))]

        super().__init__(reg, build, 4, backend, dtype, extra=list(masks.values()))

    def _add_prior(
        self, results: list[np.ndarray], weight: float, theta: np.ndarray, *extra: np.ndarray
    ) -> None:
        value, gradient = results
        results[0] = value + self.reg.add_prior(gradient, theta, weight)


class ProductFunction(SumFunction):
    """Products of v with second derivatives of U: `fn(theta, X, Y, v)`; the prior's in place."""

    def __init__(
        self,
        reg: Regression,
        build: Callable[[Params, Params, Symbol, Symbol], dict[str, Symbol]],
        copies: float,
        backend: str,
        dtype: str,
    ):
        v = pt.vector("v", dtype=dtype, shape=(reg.net.n_params,))
        layout = reg.net.layout

        def build_joined(params: Params, flux: Symbol, labels: Symbol) -> list[Symbol]:
            return [layout.join(build(params, layout.unpack(v), flux, labels))]

        super().__init__(reg, build_joined, copies, backend, dtype, extra=[v])

    def _add_prior(
        self, results: list[np.ndarray], weight: float, theta: np.ndarray, *extra: np.ndarray
    ) -> None:
        self.reg.add_prior(results[0], np.asarray(extra[0]), weight)


class MatrixFunction(SumFunction):
    """A matrix of second derivatives of U: `fn(theta, X, Y)` -> (param, param)."""

    def _finish(self, total: list[np.ndarray]) -> np.ndarray:
        (matrix,) = total
        prior = self.reg.prior_precision_vector().astype(self.dtype)
        matrix[np.diag_indices(len(matrix))] += prior
        return matrix


def check_stars(
    net: Network,
    X: ArrayLike,
    Y: ArrayLike | LabelsWithErrors,
    label_errors: ArrayLike | None = None,
) -> tuple[np.ndarray, Labels]:
    """Flux (star, pixel) and labels (star, label), checked together; a vector is one star."""
    X = check_flux(X, net.n_pixels, dtype=None)
    is_one_star = X.ndim == 1
    X = np.atleast_2d(X)
    if isinstance(Y, LabelsWithErrors):
        check_labels(Y.labels, len(X), net.n_labels)
        return X, Y
    labels = as_float_array(Y, "labels", unit=net.label_units)
    if is_one_star and labels.ndim == 1:
        labels = labels[None]
        label_errors = None if label_errors is None else np.asarray(label_errors)[None]
    return X, add_errors(check_labels(labels, len(X), net.n_labels), label_errors)


def declare_symbols(
    net: Network, dtype: str, width: int | None = None
) -> tuple[Symbol, Params, Symbol, Symbol]:
    """Theta (param,), its blocks, flux (star, pixel) and labels (star, label): inputs of graphs.

    With more columns, `width`, the errors of the labels stand behind them.
    """
    check_choice(dtype, "dtype", DTYPES)
    theta = pt.vector("theta", dtype=dtype, shape=(net.n_params,))
    flux = pt.matrix("flux", dtype=dtype, shape=(None, net.n_pixels))
    labels = pt.matrix("labels", dtype=dtype, shape=(None, width or net.n_labels))
    return theta, net.layout.unpack(theta), flux, labels


def _as_writable(result: Any) -> np.ndarray:
    array = np.asarray(result)
    return array if array.flags.writeable else array.copy()  # JAX hands out read-only views


def _chunk_size(floats_per_star: int, dtype: str) -> int:
    return int(np.clip(CHUNK_BYTES // (floats_per_star * np.dtype(dtype).itemsize), 1, MAX_CHUNK))


def check_square_fits(net: Network, dtype: str) -> None:
    """Refuse a (param, param) matrix that this machine could not hold."""
    check_fits(
        net.n_params**2 * np.dtype(dtype).itemsize, f"{net.n_params} x {net.n_params} parameters"
    )
