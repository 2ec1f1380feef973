r"""Noise and prior from the evidence: Laplace's log marginal likelihood, maximised.

.. math::
    \log p(Y | h) \approx F(h) = -U(\theta^*, h) - \tfrac12 \log\det A(\theta^*, h) + \tfrac{P}{2} \log 2\pi

As theta* moves with the hyperparameters h, so does A: the fixed-point rules in use (MacKay 1992,
doi:10.1162/neco.1992.4.3.448) leave that out, and on a real network walk past the maximum into
overfitting. With an exact inverse Hessian that gives it, the gradient here is complete
(`symspec.training.marginal_likelihood`); other structures alternate between h and theta, as the
fixed-point rules do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import minimize as scipy_minimize

from symspec.derivatives.functions import check_stars
from symspec.derivatives.span import keep_whole, reduce_to_span
from symspec.errors import OptionError
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.choice import APPROXIMATE, INVERSES
from symspec.networks.regression import Regression
from symspec.safety.checks import check_theta
from symspec.training.hyperparameters import Hyperparameters
from symspec.training.marginal_likelihood import POLISH_TOLERANCE, Evidence, MarginalLikelihood

FINAL_TOLERANCE = 1e-8  # nats of Newton decrement
STEPS_AT_FIXED_WEIGHTS = 30

Report = Callable[[np.ndarray, Evidence], None]
Point = tuple[
    float, np.ndarray, np.ndarray
]  # F, its gradient, and about minus its second derivatives


def tune(
    reg: Regression,
    theta: Any,
    X: Any,
    Y: Any,
    *,
    noise: str = "per_label",
    prior: str = "scale",
    tolerance: float = 1e-2,
    max_evaluations: int = 40,
    structure: str = "auto",
    backend: str = "auto",
    memory: str = "8GB",
    options: Mapping[str, Any] | None = None,
    callback: Callable[[Regression, Evidence], None] | None = None,
) -> tuple[Regression, np.ndarray]:
    """Set noise and prior to the maximum of the evidence.

    The weights are at a minimum of the new negative log posterior when it returns.

    Parameters
    ----------
    reg : Regression
        The start. What is not tuned is kept, such as the ratios between prior precisions (see
        `scaled_prior`).
    theta : array_like, shape (param,)
        Trained weights; another start may lead to another minimum, whose evidence tells which is
        better.
    X, Y : array_like, shapes (star, pixel), (star, label)
    noise : {"per_label", "full", "fixed"}
        One sigma_noise a label; a full noise covariance (from sigma_noise, too); or what `reg` has.
    prior : {"scale", "per_layer", "per_block", "fixed"}
        One factor for all prior precisions, for those of each layer, or of each block; or what
        `reg` has.
    tolerance : float
        Stop when a Newton step in the hyperparameters would gain less, in nats; 0.01 leaves each of
        them within 0.14 of the standard deviation that the evidence itself leaves it.
    max_evaluations : int
        Of the evidence with its gradient. The best so far is returned if they do not suffice.
    structure, backend, memory, options
        As for `fit_laplace`. Primal and dual have the complete gradient. The others alternate
        between the maximum at fixed weights, by central differences, and the minimum of U, up to
        `max_evaluations` times: they end where neither changes, which is close to a maximum of the
        evidence only as far as A depends little on the weights.
    callback : callable, optional
        Called with the regression and its `Evidence` after each evaluation.

    Returns
    -------
    reg : Regression
    theta : numpy.ndarray, shape (param,)

    Warns
    -----
    EdgeOfRangeWarning
        A hyperparameter went as far as it may, a factor of 10,000.

    Raises
    ------
    OptionError
        The regression has one prior precision a parameter, or a full noise covariance with
        noise="per_label"; the dual structure is given a subset of the stars.
    """
    takes = INVERSES[structure].partial_options if structure in INVERSES else ()
    if options and any(name in takes for name in options):
        raise OptionError(
            f"the evidence needs all training stars, got options={dict(options)}: use"
            ' structure="krylov".'
        )
    theta = np.array(check_theta(theta, reg.net.n_params))
    X, Y = check_stars(reg.net, X, Y)
    hyperparameters = Hyperparameters(reg, noise, prior)
    words = {"backend": backend, "memory": memory, "options": options}
    # the approximations depend on the coordinates
    span = keep_whole(reg, X) if structure in APPROXIMATE else reduce_to_span(reg, X)
    builder = InverseBuilder(span.reg, span.X, Y, structure=structure, **words)
    start = MarginalLikelihood(builder, Hyperparameters(span.reg, noise, prior))

    def report(h: np.ndarray, evidence: Evidence) -> None:
        if callback is not None:
            callback(
                hyperparameters.regression(h), replace(evidence, theta=span.lift(evidence.theta))
            )

    maximize = _maximize if builder.inverse.has_evidence_gradient else _alternate
    h, evidence = maximize(start, span.project(theta), tolerance, max_evaluations, report)
    hyperparameters.warn_at_edges(h, evidence.n_effective_by_block)
    result, _ = start.at(h).minimize(evidence.theta, tolerance=FINAL_TOLERANCE)
    return hyperparameters.regression(h), span.lift(result.theta)


def _maximize(
    start: MarginalLikelihood,
    theta: np.ndarray,
    tolerance: float,
    max_evaluations: int,
    report: Report,
) -> tuple[np.ndarray, Evidence]:
    """Hyperparameters of largest F and what holds there, with the complete gradient and warm starts."""
    best = start.h, start.evaluate(theta)
    report(*best)

    def evaluate(h: np.ndarray) -> Point:
        nonlocal best
        evidence = start.at(h).evaluate(best[1].theta)
        report(h, evidence)
        if evidence.log_marginal_likelihood > best[1].log_marginal_likelihood:
            best = h, evidence
        return _as_point(start, evidence)

    first = _as_point(start, best[1])
    _climb(evaluate, start.h, first, start.hyperparameters.limits, tolerance, max_evaluations - 1)
    return best


def _alternate(
    start: MarginalLikelihood, theta: np.ndarray, tolerance: float, max_rounds: int, report: Report
) -> tuple[np.ndarray, Evidence]:
    """Hyperparameters of largest F at fixed weights and the minimum there, in turn until neither changes."""
    h = start.h
    limits = start.hyperparameters.limits
    for _ in range(max_rounds):
        here = start.at(h)
        evidence = here.report(*here.minimize(theta, tolerance=POLISH_TOLERANCE))
        report(h, evidence)
        theta = evidence.theta
        before = h
        first = _as_point(start, evidence)

        def evaluate(
            h: np.ndarray, theta: np.ndarray = theta, curvature: np.ndarray = first[2]
        ) -> Point:
            return *start.at(h).evaluate_at_fixed_weights(theta), curvature

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
    """Best of the h (entry,) that L-BFGS visits from one where `first` holds, to where a Newton step gains little."""
    points = [(h, first)]
    size = np.maximum(first[2], np.abs(first[1]))  # no first step beyond a factor e
    unit = np.sqrt(size.max(initial=0.0) / size)

    def negative(u: np.ndarray) -> tuple[float, np.ndarray]:
        at = h + unit * u
        if not np.array_equal(at, points[-1][0]):
            points.append((at, evaluate(at)))
        F, gradient, _ = points[-1][1]
        return -F / size.max(), -gradient * unit / size.max()

    def is_near(*_: Any) -> None:
        at, (_, gradient, curvature) = points[-1]
        free = (np.abs(at) < limits - 1e-9) | (at * gradient < 0)
        if 0.5 * np.sum(gradient[free] ** 2 / curvature[free]) <= tolerance:
            raise StopIteration

    try:
        is_near()
        bounds = list(zip((-limits - h) / unit, (limits - h) / unit, strict=True))
        options = {"maxfun": max_evaluations, "gtol": 0.0, "ftol": 1e-12}
        scipy_minimize(
            negative,
            0 * h,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            callback=is_near,
            options=options,
        )
    except StopIteration:
        pass
    return max(points, key=lambda point: point[1][0])[0]
