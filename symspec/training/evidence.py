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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.functions import check_stars
from symspec.derivatives.span import Span, keep_whole, reduce_to_span
from symspec.derivatives.threads import Threads
from symspec.errors import (
    OptionError,
    SeveralMaximaWarning,
    UnfinishedEvidenceWarning,
    UnsettledEvidenceWarning,
)
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.choice import APPROXIMATE, INVERSES
from symspec.networks.regression import Regression
from symspec.networks.theta import check_theta
from symspec.safety.options import check_count
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_stars
from symspec.spectra.spectra import Spectra
from symspec.training.climb import Point, find_free
from symspec.training.hyperparameters import Hyperparameters
from symspec.training.marginal_likelihood import MAX_DECREMENT, Evidence, MarginalLikelihood
from symspec.training.search import Summit, find_starts, list_nearer, maximize_linearized, search
from symspec.training.steps.newton_steps import PolishResult

FINAL_TOLERANCE = 1e-13  # nats of Newton decrement: weights within 1e-6 of their deviations
MOST_CLIMBS = 3  # from beyond one saddle point after another
MANY_EVALUATIONS = 40  # who gives fewer knows that they may not suffice
MUCH_LEFT = 10.0  # nats that another step promises: noise or prior is off by four of its errors


def tune(
    reg: Regression,
    theta: ArrayLike,
    X: ArrayLike | Spectra | Resampled,
    Y: ArrayLike | None = None,
    *,
    label_errors: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    noise: str = "per_label",
    prior: str = "scale",
    move: bool = True,
    starts: int = 1,
    rng: np.random.Generator | None = None,
    tolerance: float = 1e-2,
    max_evaluations: int = MANY_EVALUATIONS,
    structure: str = "auto",
    backend: str = "auto",
    memory: str = "8GB",
    options: Mapping[str, Any] | None = None,
    progress: bool | Progress = True,
    callback: Callable[[Regression, Evidence], object] | None = None,
) -> tuple[Regression, np.ndarray]:
    """Set noise and prior to the maximum of the evidence.

    The weights are at a minimum of the new negative log posterior when it returns. Only settings
    of noise and prior count at which a minimum was reached; where there is none on the way, the
    step is shortened, and where there is none at the start, the prior is made stronger. With
    move=False the weights stay: for networks that were stopped early.

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
    label_errors : array_like, shape (star, label) or (star, label, label), optional
        Standard deviations or covariances of errors that the labels came with, in their units.
        They add to the noise. `Spectra` bring their own.
    ivar : array_like, shape (star, pixel), optional
        0 at bad pixels of the training flux, which are filled. `Spectra` bring their own.
    noise : {"per_label", "full", "scale_and_dof", "fixed"}
        One sigma_noise a label, or one scale of Student's t; a full noise covariance (from
        sigma_noise, too); scales and degrees of freedom of Student's t, which are few where some
        labels are far out; or what `reg` has.
    prior : {"scale", "per_layer", "per_block", "fixed"}
        One factor for all prior precisions, for those of each layer, or of each block; or what
        `reg` has.
    move : bool, default True
        False: the evidence is that of the network linearised at `theta` (the targets y - f + J
        theta, a problem with a closed form for normal noise, and with Laplace's at its mode for
        Student's t), and `theta` is returned as it is. Noise and prior go with predictions of the
        linearised network.
    starts : int, default 1
        Weights to start from: `theta`, and others drawn by `reg.net.init_params` and taken downhill
        by L-BFGS. The largest evidence of all is returned. Up to a thousand weights in the span of
        the spectra, every other of the drawn ones begins with a tenth of the prior; and where the
        prior ends farther than a factor of ten from its start, priors between are starts, too.
    rng : numpy.random.Generator, optional
        For the weights of further starts; by default they are the same at each call.
    tolerance : float
        Stop when a Newton step in the hyperparameters would gain less, in nats; 0.01 leaves each of
        them within 0.14 of the standard deviation that the evidence itself leaves it.
    max_evaluations : int, default 40
        Evaluations of the evidence with its gradient, from each start. If they do not suffice, the
        best so far is returned, with a warning if they were no fewer than the default.
    structure, backend, memory, options
        As for `fit_laplace`. Primal and dual have the complete gradient. The others alternate
        between the maximum at fixed weights, by central differences, and the minimum of U, up to
        `max_evaluations` times. They end where neither changes: close to a maximum of the evidence
        if A depends little on the weights.
    progress : bool or Progress, default True
        True: a bar on stderr if it takes more than three seconds. A callable is called with
        (stage, evaluation, None, log_evidence=..., decrement=...) after each evaluation, and with
        several starts (start=...) in the end with the spread of their evidences (spread=...).
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
    UnsettledEvidenceWarning
        No minimum of U was reached at the noise and prior returned, as at the kinks of ReLU.
    SeveralMaximaWarning
        The evidence still rises there, but the minimum of U ends that was followed: the evidence
        has several maxima, and rounding decides which one is found.
    UnfinishedEvidenceWarning
        All evaluations that the default allows did not suffice: a step promises above ten nats.

    Raises
    ------
    OptionError
        The regression has one prior precision a parameter, or a full noise covariance with
        noise="per_label"; the dual structure is given a subset of the stars; several starts with
        weights that may not move.

    References
    ----------
    Immer et al. 2021, arXiv:2008.08400, and Antoran et al. 2022, arXiv:2206.08900, for move=False.
    """
    _check_options(structure, options, move, starts)
    weights = np.array(check_theta(theta, reg.net.n_params))
    flux, labels = check_stars(reg.net, *as_stars(reg.net, X, Y, label_errors, ivar))
    hyperparameters = Hyperparameters(reg, noise, prior)
    # the approximations depend on the coordinates
    span = keep_whole(reg, flux) if structure in APPROXIMATE else reduce_to_span(reg, flux)
    builder = InverseBuilder(
        span.reg, span.X, labels,
        structure=structure, backend=backend, memory=memory, options=options,
    )  # fmt: skip
    of_span = Hyperparameters(span.reg, noise, prior)
    with show_progress(progress) as show, Threads(span.reg.net).for_matrices(len(flux)):
        follow = _Follow(show, callback, hyperparameters, span, starts)
        if move:
            start = MarginalLikelihood(builder, of_span)
            firsts = find_starts(start, span, weights, starts, rng)
            summit = _search(firsts, tolerance, max_evaluations, follow)
            summit, result = _settle(start, summit, tolerance, max_evaluations, follow)
            (best, is_end), weights = summit, span.lift(result.theta)
            _warn_of_end(summit, result, hyperparameters.limits)
        else:
            best, is_end = maximize_linearized(
                builder, of_span, span.project(weights), tolerance, max_evaluations, follow
            )
    if max_evaluations >= MANY_EVALUATIONS and not (move and is_end):
        _warn_of_rise(best, hyperparameters.limits)
    hyperparameters.warn_at_edges(best.h, best.n_effective)
    return hyperparameters.regression(best.h), weights


def _check_options(
    structure: str, options: Mapping[str, Any] | None, move: bool, starts: int
) -> None:
    check_count(starts, "starts")
    if starts > 1 and not move:
        raise OptionError(
            f"move=False keeps the weights as they are, got starts={starts}: leave starts at 1."
        )
    fixed_options = INVERSES[structure].fixed_options if structure in INVERSES else ()
    if options and any(name in fixed_options for name in options):
        raise OptionError(
            f"tuning inverts at many weights, noises and priors, got options={dict(options)}, which"
            " keep the inverse of one: tune without, and give them to fit_laplace."
        )
    partial_options = INVERSES[structure].partial_options if structure in INVERSES else ()
    if options and any(name in partial_options for name in options):
        raise OptionError(
            f"the evidence needs all training stars, got options={dict(options)}: use"
            ' structure="krylov".'
        )


def _search(
    firsts: Iterable[tuple[MarginalLikelihood, np.ndarray]],
    tolerance: float,
    max_evaluations: int,
    follow: _Follow,
) -> Summit:
    """The largest F found from several weights, and from priors nearer to where the first ended."""
    summits: list[Summit] = []
    for start, first in firsts:
        follow.start += 1
        summits.append(search(start, first, tolerance, max_evaluations, follow))
        if len(summits) == 1:
            for nearer in list_nearer(start, summits[0]):
                summits.append(search(nearer, first, tolerance, max_evaluations, follow))
    follow.tell_spread([point.F for point, _ in summits])
    best = summits[0]
    for summit in summits[1:]:
        if summit[0].is_above(best[0]):
            best = summit
    return best


def _settle(
    start: MarginalLikelihood,
    summit: Summit,
    tolerance: float,
    max_evaluations: int,
    follow: _Follow,
) -> tuple[Summit, PolishResult]:
    """The minimum of U itself; where it is beyond a saddle point, climb on from there."""
    for climbs in range(MOST_CLIMBS):
        here = start.at(summit[0].h)
        theta = summit[0].theta
        result, _ = here.minimize(theta, tolerance=FINAL_TOLERANCE, is_near=True)
        fall = here.objective(theta)[0] - result.negative_log_posterior
        if not summit[0].is_certain or fall <= tolerance or climbs == MOST_CLIMBS - 1:
            break
        summit = search(here, result.theta, tolerance, max_evaluations, follow)
    return summit, result


def _warn_of_end(summit: Summit, result: PolishResult, limits: np.ndarray) -> None:
    """Warn of weights that are at no minimum of U, and of F that still rises."""
    best, is_end = summit
    advice = "Smooth activations (softplus, gelu, tanh) in place of relu, or a stronger prior, help"
    if not (best.is_certain and result.newton_decrement <= MAX_DECREMENT):
        warnings.warn(
            "the weights returned are at no minimum of U at the noise and prior returned: Newton"
            f" stopped as {result.reason} (decrement {result.newton_decrement:.3g} nats). Elsewhere"
            " the evidence has several maxima, and rounding decides which one is found."
            f" {advice}, and so does starts=5.",
            UnsettledEvidenceWarning,
            stacklevel=3,
        )
    if is_end:
        gain = best.gain(find_free(best, limits))
        warnings.warn(
            f"the evidence still rises at the noise and prior returned (a Newton step promises"
            f" {gain:.3g} nats), but there the minimum of U that was followed ends: those beyond"
            " have less evidence, or were not reached. The evidence has several maxima, and"
            f" rounding decides which one is found. {advice}, and so does starts=5.",
            SeveralMaximaWarning,
            stacklevel=3,
        )


def _warn_of_rise(best: Point, limits: np.ndarray) -> None:
    """Warn of F that still rises because the evaluations ended."""
    gain = best.gain(find_free(best, limits))
    if gain > MUCH_LEFT:
        warnings.warn(
            f"the evidence still rises at the noise and prior returned (a Newton step promises"
            f" {gain:.3g} nats): the evaluations did not suffice. Give a larger max_evaluations, or"
            " tune again from what is returned.",
            UnfinishedEvidenceWarning,
            stacklevel=3,
        )


class _Follow:
    """Tells the progress and the callback of each evaluation.

    Parameters
    ----------
    show : Progress
    callback : callable, optional
    hyperparameters : Hyperparameters
        Of the whole regression.
    span : Span
    n_starts : int
    """

    stage = "tuning noise and prior"

    def __init__(
        self,
        show: Progress,
        callback: Callable[[Regression, Evidence], object] | None,
        hyperparameters: Hyperparameters,
        span: Span,
        n_starts: int,
    ):
        self._show = show
        self._callback = callback
        self._hyperparameters = hyperparameters
        self._span = span
        self._n_starts = n_starts
        self._n_evaluations = 0
        self.start = 0
        show(self.stage, 0, None)

    def __call__(self, h: np.ndarray, evidence: Evidence) -> None:
        self._n_evaluations += 1
        self._tell(evidence.log_marginal_likelihood, decrement=evidence.newton_decrement)
        if self._callback is not None:
            lifted = replace(evidence, theta=self._span.lift(evidence.theta))
            self._callback(self._hyperparameters.regression(h), lifted)

    def tell_spread(self, values: list[float]) -> None:
        """Tell the largest evidence of several starts, and how far the others are below."""
        if self._n_starts > 1:
            self._tell(max(values), spread=max(values) - min(values))

    def _tell(self, log_evidence: float, **news: float) -> None:
        if self._n_starts > 1:
            news["start"] = self.start
        self._show(self.stage, self._n_evaluations, None, log_evidence=log_evidence, **news)
