r"""Noise and prior from the evidence: Laplace's log marginal likelihood, maximised.

.. math::
    \log p(Y | h) \approx F(h) = -U(\theta^*, h) - \tfrac12 \log\det A(\theta^*, h)
    + \tfrac{P}{2} \log 2\pi

As theta* moves with the hyperparameters h, so does A: the usual fixed-point rules (MacKay 1992,
doi:10.1162/neco.1992.4.3.448) leave that out, and on a real network walk past the maximum into
overfitting. The structures primal and dual give the complete gradient
(`symspec.training.marginal_likelihood`); the others alternate between h and theta, as the
fixed-point rules do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize as scipy_minimize

from symspec.derivatives.functions import check_stars
from symspec.derivatives.span import Span, keep_whole, reduce_to_span
from symspec.errors import OptionError, SeveralMaximaWarning
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.choice import APPROXIMATE, INVERSES
from symspec.networks.regression import Regression
from symspec.safety.progress import Progress, show_progress
from symspec.safety.theta import check_theta
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_stars
from symspec.spectra.spectra import Spectra
from symspec.training.hyperparameters import Hyperparameters
from symspec.training.marginal_likelihood import (
    MAX_DECREMENT,
    POLISH_TOLERANCE,
    Evidence,
    MarginalLikelihood,
)

FINAL_TOLERANCE = 1e-13  # nats of Newton decrement: weights within 1e-6 of their deviations
STEPS_AT_FIXED_WEIGHTS = 30

Follow = Callable[[np.ndarray, Evidence], None]  # called with h (entry,) and what holds there
# F, its gradient (entry,), and approximately minus its second derivatives (entry,)
Point = tuple[float, np.ndarray, np.ndarray]


def tune(
    reg: Regression,
    theta: ArrayLike,
    X: ArrayLike | Spectra | Resampled,
    Y: ArrayLike | None = None,
    *,
    noise: str = "per_label",
    prior: str = "scale",
    tolerance: float = 1e-2,
    max_evaluations: int = 40,
    structure: str = "auto",
    backend: str = "auto",
    memory: str = "8GB",
    options: Mapping[str, Any] | None = None,
    progress: bool | Progress = True,
    callback: Callable[[Regression, Evidence], object] | None = None,
) -> tuple[Regression, np.ndarray]:
    """Set noise and prior to the maximum of the evidence.

    The weights are at a minimum of the new negative log posterior when it returns.

    Parameters
    ----------
    reg : Regression
        The start. What is not tuned is kept, such as the ratios between prior precisions (see
        `scaled_prior`).
    theta : array_like, shape (param,)
        Trained weights. Another start may lead to another minimum: the one of larger evidence is
        better.
    X, Y : array_like, shapes (star, pixel), (star, label)
        `Spectra` with labels may stand for both.
    noise : {"per_label", "full", "fixed"}
        One sigma_noise a label; a full noise covariance (from sigma_noise, too); or what `reg` has.
    prior : {"scale", "per_layer", "per_block", "fixed"}
        One factor for all prior precisions, for those of each layer, or of each block; or what
        `reg` has.
    tolerance : float
        Stop when a Newton step in the hyperparameters would gain less, in nats; 0.01 leaves each of
        them within 0.14 of the standard deviation that the evidence itself leaves it.
    max_evaluations : int
        Evaluations of the evidence with its gradient. If they do not suffice, the best so far is
        returned.
    structure, backend, memory, options
        As for `fit_laplace`. Primal and dual have the complete gradient. The others alternate
        between the maximum at fixed weights, by central differences, and the minimum of U, up to
        `max_evaluations` times. They end where neither changes: close to a maximum of the evidence
        if A depends little on the weights.
    progress : bool or Progress, default True
        True: a bar on stderr if it takes more than three seconds. A callable is called with
        (stage, evaluation, None, log_evidence=...) after each evaluation.
    callback : callable, optional
        Called with the regression and its `Evidence` after each evaluation.

    Returns
    -------
    reg : Regression
    theta : numpy.ndarray, shape (param,)

    Warns
    -----
    EdgeOfRangeWarning
        A hyperparameter reached the edge of its range, a factor of 10,000 from its start.
    SeveralMaximaWarning
        The weights did not reach a minimum of U everywhere, as at the kinks of ReLU: the evidence
        has several maxima, and rounding decides which one is found.

    Raises
    ------
    OptionError
        The regression has one prior precision a parameter, or a full noise covariance with
        noise="per_label"; the dual structure is given a subset of the stars.
    """
    partial_options = INVERSES[structure].partial_options if structure in INVERSES else ()
    if options and any(name in partial_options for name in options):
        raise OptionError(
            f"the evidence needs all training stars, got options={dict(options)}: use"
            ' structure="krylov".'
        )
    weights = np.array(check_theta(theta, reg.net.n_params))
    flux, labels = check_stars(reg.net, *as_stars(reg.net, X, Y))
    hyperparameters = Hyperparameters(reg, noise, prior)
    # the approximations depend on the coordinates
    span = keep_whole(reg, flux) if structure in APPROXIMATE else reduce_to_span(reg, flux)
    builder = InverseBuilder(
        span.reg,
        span.X,
        labels,
        structure=structure,
        backend=backend,
        memory=memory,
        options=options,
    )
    start = MarginalLikelihood(builder, Hyperparameters(span.reg, noise, prior))
    maximize = _maximize if builder.inverse.has_evidence_gradient else _alternate
    with show_progress(progress) as show:
        follow = _follow(show, callback, hyperparameters, span)
        h, evidence = maximize(start, span.project(weights), tolerance, max_evaluations, follow)
    hyperparameters.warn_at_edges(h, evidence.n_effective_by_block)
    result, _ = start.at(h).minimize(evidence.theta, tolerance=FINAL_TOLERANCE)
    _warn_of_several_maxima(start.decrements)
    return hyperparameters.regression(h), span.lift(result.theta)


def _warn_of_several_maxima(decrements: list[float]) -> None:
    """Warn if searches for a minimum of U ended at none, by the decrements where they ended."""
    missed = sum(not decrement <= MAX_DECREMENT for decrement in decrements)
    if missed == 0:
        return
    warnings.warn(
        f"the weights reached no minimum at {missed} of {len(decrements)} settings of noise and"
        f" prior (Newton decrement up to {max(decrements):.3g} nats): the evidence has several"
        " maxima, and rounding decides which one is found. Smooth activations (softplus, gelu,"
        " tanh) in place of relu, or a stronger prior, leave one.",
        SeveralMaximaWarning,
        stacklevel=3,
    )


def _follow(
    show: Progress,
    callback: Callable[[Regression, Evidence], object] | None,
    hyperparameters: Hyperparameters,
    span: Span,
) -> Follow:
    """Tell the progress and the callback of each evaluation."""
    stage = "tuning noise and prior"
    evaluations = count(1)
    show(stage, 0, None)

    def follow(h: np.ndarray, evidence: Evidence) -> None:
        show(stage, next(evaluations), None, log_evidence=evidence.log_marginal_likelihood)
        if callback is not None:
            lifted = replace(evidence, theta=span.lift(evidence.theta))
            callback(hyperparameters.regression(h), lifted)

    return follow


def _maximize(
    start: MarginalLikelihood,
    theta: np.ndarray,
    tolerance: float,
    max_evaluations: int,
    follow: Follow,
) -> tuple[np.ndarray, Evidence]:
    """Hyperparameters of largest F, and the evidence there, by the complete gradient."""
    best = start.h, start.evaluate(theta)
    follow(*best)

    def evaluate(h: np.ndarray) -> Point:
        nonlocal best
        evidence = start.at(h).evaluate(best[1].theta)
        follow(h, evidence)
        if evidence.log_marginal_likelihood > best[1].log_marginal_likelihood:
            best = h, evidence
        return _as_point(start, evidence)

    first = _as_point(start, best[1])
    _climb(evaluate, start.h, first, start.hyperparameters.limits, tolerance, max_evaluations - 1)
    return best


def _alternate(
    start: MarginalLikelihood, theta: np.ndarray, tolerance: float, max_rounds: int, follow: Follow
) -> tuple[np.ndarray, Evidence]:
    """Maximise F at fixed weights and minimise U, in turn until neither changes."""
    h = start.h
    limits = start.hyperparameters.limits
    for _ in range(max_rounds):
        here = start.at(h)
        evidence = here.evaluate_minimum(*here.minimize(theta, tolerance=POLISH_TOLERANCE))
        follow(h, evidence)
        theta = evidence.theta
        before = h
        first = _as_point(start, evidence)

        def evaluate(
            h: np.ndarray, theta: np.ndarray = theta, curvature: np.ndarray = first[2]
        ) -> Point:
            F, gradient = start.at(h).evaluate_at_fixed_weights(theta)
            return F, gradient, curvature

        h = _climb(evaluate, h, first, limits, tolerance, STEPS_AT_FIXED_WEIGHTS)
        if 0.5 * np.sum(first[2] * (h - before) ** 2) <= tolerance:
            break
    return h, evidence


def _as_point(start: MarginalLikelihood, evidence: Evidence) -> Point:
    return evidence.log_marginal_likelihood, evidence.gradient, start.curvature(evidence)


def _climb(
    evaluate: Callable[[np.ndarray], Point],
    h: np.ndarray,
    first: Point,
    limits: np.ndarray,
    tolerance: float,
    max_evaluations: int,
) -> np.ndarray:
    """Climb by L-BFGS from h, where `first` holds, until a Newton step gains little.

    Returns
    -------
    numpy.ndarray, shape (entry,)
        The best h visited.
    """
    points = [(h, first)]
    size = np.maximum(first[2], np.abs(first[1]))  # no first step beyond a factor e
    unit = np.sqrt(size.max(initial=0.0) / size)

    def negative(u: np.ndarray) -> tuple[float, np.ndarray]:
        at = h + unit * u
        if not np.array_equal(at, points[-1][0]):
            points.append((at, evaluate(at)))
        F, gradient, _ = points[-1][1]
        return -F / size.max(), -gradient * unit / size.max()

    def stop_if_near(*ignored: Any) -> None:
        at, (_, gradient, curvature) = points[-1]
        free = (np.abs(at) < limits - 1e-9) | (at * gradient < 0)
        if 0.5 * np.sum(gradient[free] ** 2 / curvature[free]) <= tolerance:
            raise StopIteration

    try:
        stop_if_near()
        bounds = list(zip((-limits - h) / unit, (limits - h) / unit, strict=True))
        scipy_minimize(
            negative,
            0 * h,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            callback=stop_if_near,
            options={"maxfun": max_evaluations, "gtol": 0.0, "ftol": 1e-12},
        )
    except StopIteration:
        pass
    return max(points, key=lambda point: point[1][0])[0]
