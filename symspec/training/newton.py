"""Down to a true minimum: L-BFGS in the metric of G, then Newton's steps by the exact Hessian."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives import compiled, matrices
from symspec.derivatives.functions import check_stars
from symspec.derivatives.span import reduce_to_span
from symspec.derivatives.threads import Threads
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.networks.regression import Regression
from symspec.networks.theta import check_theta
from symspec.safety.label_errors import Labels
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_stars
from symspec.spectra.spectra import Spectra
from symspec.training.descents import choose_turns, minimize_by_descents
from symspec.training.steps.newton_models import DenseModel, FindModel, ProductModel, is_small
from symspec.training.steps.newton_steps import Callback, PolishResult

MANY_PARAMS = 10_000  # beyond these an iteration takes more than a moment


def polish(
    reg: Regression,
    theta: ArrayLike,
    X: ArrayLike | Spectra | Resampled,
    Y: ArrayLike | None = None,
    *,
    label_errors: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    tolerance: float = 1e-6,
    max_iterations: int | None = None,
    structure: str = "auto",
    backend: str = "auto",
    memory: str = "8GB",
    progress: bool | Progress = True,
    callback: Callback | None = None,
) -> PolishResult:
    r"""Go to the nearest minimum of the negative log posterior U.

    From afar L-BFGS leads down, in the metric of the Gauss-Newton matrix G. Each of Newton's steps
    then minimises the exact quadratic model :math:`g^T s + s^T H s / 2` within a ball: from
    eigenpairs where the network is small, else by conjugate gradients preconditioned by
    :math:`G^{-1}`. As G is nearly H near a minimum, few products are needed there; directions of
    negative curvature are followed out of saddle points, and convergence is quadratic
    at the end. Networks with ReLU, clipped or max-pooled units, whose U is least where pieces meet,
    go on by BFGS and by steps along kinks, and end where gradients around them combine to nothing
    (`at_kink`).

    Parameters
    ----------
    reg : Regression
    theta : array_like, shape (param,)
    X, Y : array_like, shapes (star, pixel), (star, label)
        `Spectra` with labels may stand for both.
    label_errors : array_like, shape (star, label) or (star, label, label), optional
        Standard deviations or covariances of errors that the labels came with, in their units.
        They add to the noise. `Spectra` bring their own.
    ivar : array_like, shape (star, pixel), optional
        0 at bad pixels of the training flux, which are filled. `Spectra` bring their own.
    tolerance : float
        Stop when the Gauss-Newton decrement :math:`g^T G^{-1} g / 2` is below, in nats, and H has
        no direction of descent; at a kink when the least combination of gradients is, those within
        a radius of 1e-3, or of the root of twice the tolerance where that is less.
    max_iterations : int, optional
        Of Newton's; ten steps of L-BFGS, BFGS or along kinks stand for one. By default 20,000, or
        200 for networks of more than 10,000 parameters.
    structure, backend, memory : str
        As for `fit_laplace`.
    progress : bool or Progress, default True
        True: a bar on stderr if it takes more than three seconds. A callable is called with
        ("Newton steps", iteration, None, U=..., decrement=...) before each step, or with "BFGS
        steps across kinks" in that place.
    callback : callable, optional
        Called with (iteration, U, decrement) before each step; the decrement is the last one
        known.
    """
    start = np.array(check_theta(theta, reg.net.n_params))
    flux, labels = check_stars(reg.net, *as_stars(reg.net, X, Y, label_errors, ivar))
    if max_iterations is None:
        max_iterations = 20_000 if reg.net.n_params <= MANY_PARAMS else 200
    span = reduce_to_span(reg, flux)
    objective = compiled.compile_objective(span.reg, backend=backend)
    builder = InverseBuilder(
        span.reg, span.X, labels, structure=structure, backend=backend, memory=memory
    )
    with show_progress(progress) as show, Threads(span.reg.net).for_matrices(len(flux)):

        def follow(stage: str, iteration: int, U: float, decrement: float) -> None:
            show(stage, iteration, None, U=U, decrement=decrement)
            if callback is not None:
                callback(iteration, U, decrement)

        show("Newton steps", 0, None)
        net = span.reg.net
        result, _ = minimize_by_descents(
            choose_turns(net, is_dense=is_small(net)) if net.is_smooth else None,
            lambda theta: objective(theta, span.X, labels),
            _compile_model(span.reg, span.X, labels, backend),
            builder,
            span.project(start),
            tolerance=tolerance,
            max_iterations=max_iterations,
            callback=partial(follow, "Newton steps"),
            callback_at_kinks=partial(follow, "BFGS steps across kinks"),
        )
    U = result.negative_log_posterior + span.left_out
    return replace(result, theta=span.lift(result.theta), negative_log_posterior=U)


def _compile_model(reg: Regression, X: np.ndarray, Y: Labels, backend: str) -> FindModel:
    """The model by H as a matrix for small networks, by its products for others."""
    if is_small(reg.net):
        hessian = matrices.compile_hessian(reg, backend=backend)
        return partial(DenseModel, lambda theta: hessian(theta, X, Y))
    product = compiled.compile_hessian_vector_product(reg, backend=backend)
    return partial(ProductModel, lambda theta, v: product(theta, X, Y, v))
