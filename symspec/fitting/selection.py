"""Which network: linear, then wider and wider, each scored on stars that it has not seen.

Each candidate is trained on all stars, with noise and prior of the largest evidence. At these it is
trained again, from other weights, without a fifth of the stars, five times; the density that the
predictions of the stars held out give to their labels is its log score.

`laplace.leave_one_out` would cost less, but the features of a wide network have seen the stars that
are left out: of 161 spectra of meat (Tecator) it promised more of 8 units than of 4, which
predicted other samples better. So did refits that start from the weights of all stars.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError, OptionError
from symspec.fitting.fit import PRIORS, FitOptions, find_first_weights, fit_network
from symspec.fitting.folds import Processes, divide
from symspec.fitting.starts import has_one_minimum
from symspec.laplace.fit import fit_laplace
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import Prediction, join_held_out
from symspec.networks.regression import Regression
from symspec.safety.label_errors import LabelsWithErrors
from symspec.safety.options import check_choice, check_count
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.selections import as_stars, find_groups
from symspec.spectra.spectra import Spectra
from symspec.training.newton import polish
from symspec.validation.calibration import coverage, sigma_mad
from symspec.validation.scores import (
    Candidate,
    find_behind,
    find_mean,
    find_smallest_good,
    score_stars,
)

HIDDEN: tuple[tuple[int, ...], ...] = ((), (4,), (8,), (16,), (32,))
MOST_WEIGHTS = 10  # a label, in the span of the spectra: more take minutes
STARTS, MORE_STARTS = 2, 3
CHEAP = 1e6  # weights in the span of the spectra, times labels: more starts take seconds
STEPS = 2000  # of Adam, after which Newton's go on
REFIT_STEPS = 500  # of Newton's, in the refits
TOLERANCE = 1e-3  # nats of decrement of a refit, which a score does not feel


@dataclass(frozen=True, eq=False, kw_only=True)
class Selection:
    """Result of `select`.

    Attributes
    ----------
    candidates : list of Candidate
        Those that were tried, in this order.
    laplace : LaplacePosterior
        Of the one chosen, trained on all stars.
    options : FitOptions
        By which `fit_network` and `validate` build and train networks like it.
    """

    candidates: list[Candidate]
    laplace: LaplacePosterior
    options: FitOptions

    @property
    def chosen(self) -> Candidate:
        """The smallest candidate whose log score is within its standard error of the best."""
        return next(candidate for candidate in self.candidates if candidate.is_chosen)


def select(
    spectra: Spectra,
    *,
    hidden: Sequence[Sequence[int]] | None = None,
    priors: Sequence[str] = ("scale",),
    folds: int = 5,
    groups: ArrayLike | None = None,
    seed: int = 0,
    n_workers: int | None = None,
    progress: bool | Progress = True,
    **options: Any,
) -> Selection:
    """Find the network whose predictions of stars held out have the best log score.

    Widths are tried in turn, until one is worse than the best by more than the standard error of
    the difference, or is not chosen: of the networks within this standard error of the best, the
    smallest is. After a linear network two are tried that are not chosen.

    Parameters
    ----------
    spectra : Spectra
        With labels. Stars without any are left out.
    hidden : sequence of sequences of int, optional
        Widths of the hidden layers of each candidate, in the order in which they are tried; () is a
        linear network. By default linear, and one layer of 4, 8, 16 and 32, of which no width is
        tried that has more than ten weights a label in the span of the spectra.
    priors : sequence of str, default ("scale",)
        What of the prior is tuned, see `symspec.tune`: each makes a candidate of its own of each
        network with hidden layers.
    folds : int, default 5
        Parts of the stars, each held out once.
    groups : array_like of str or int, shape (star,), optional
        Stars of one group are held out together; by default `spectra.groups`, else stars of one
        name.
    seed : int, default 0
        Of the folds, first weights and batches.
    n_workers : int, optional
        Processes; by default no more than there are cores.
    progress : bool or Progress, default True
        True: a bar on stderr. A callable is called with (stage, done, total) after each network.
    **options
        How the networks are built and trained: activation, preprocess, sigma_noise,
        prior_precision, dof, predicts_noise, epochs (by default some 2,000 steps), batch_size,
        learning_rate, tune, starts (2, or 3 where these take seconds), structure, memory.

    Returns
    -------
    Selection

    Raises
    ------
    DataError
        The spectra have no labels.
    OptionError
        There are fewer groups than folds, or an option is unknown.
    DivergedError
        The training of a candidate left the finite numbers.
    WorkersError
        A process died, as in a script without ``if __name__ == "__main__":`` above the call.

    Examples
    --------
    >>> import numpy as np
    >>> import symspec as ss
    >>> stars = ss.datasets.generated_stars(60, n_pixels=8, rng=np.random.default_rng(0))
    >>> settings = {"epochs": 5, "n_workers": 1, "progress": False}
    >>> found = ss.select(stars, hidden=[(), (2,)], priors=["scale"], folds=2, **settings)
    >>> [candidate.name for candidate in found.candidates]
    ['linear', '2 tanh']
    >>> found.laplace.predict(stars).labels.shape
    (60, 3)
    """
    if "epochs" not in options:
        batch_size = options.get("batch_size", FitOptions.batch_size)
        options["epochs"] = math.ceil(STEPS * batch_size / max(len(spectra), batch_size))
    if spectra.labels is None:
        raise DataError("select needs labels, got spectra without: give Spectra(labels=...).")
    stars, fold = divide(spectra, folds, groups, seed)
    widths = _list_widths(stars) if hidden is None else hidden
    candidates = _list_candidates(stars, widths, priors, options)
    with show_progress(progress) as show:
        with Processes(n_workers) as processes:
            trial = _Trial(stars, fold, seed, processes)
            tried: list[_Tried] = []
            for alike in candidates:
                tried += trial.run(alike, show)
                if trial.is_over(tried, len(alike)):
                    break
        rows = trial.compare(tried)
        chosen = next(one.fit for one, row in zip(tried, rows, strict=True) if row.is_chosen)
        show("inverting the Hessian", 0, None)
        laplace = fit_laplace(
            chosen.reg, chosen.theta, stars,
            structure=chosen.options.structure, memory=chosen.options.memory,
            require_minimum=False, progress=show,
        )  # fmt: skip
        laplace.certificate.decide()
    for said in chosen.warnings:  # in a process of its own, where they were lost
        warnings.warn(said, stacklevel=2)
    return Selection(candidates=rows, laplace=laplace, options=chosen.options)


def _list_widths(stars: Spectra) -> list[tuple[int, ...]]:
    """Linear, and one layer as wide as the labels of the stars allow."""
    most = MOST_WEIGHTS * _count_labels(stars)
    return [widths for widths in HIDDEN if _count_weights(stars, widths) <= most]


def _count_weights(stars: Spectra, widths: Sequence[int]) -> int:
    """Roughly, in the span of the spectra: those of the first layer, as wide as all of them."""
    return sum(widths) * min(stars.flux.shape)


def _count_labels(stars: Spectra) -> int:
    return int(np.isfinite(np.asarray(stars.labels)).sum())


def _list_candidates(
    stars: Spectra,
    hidden: Sequence[Sequence[int]],
    priors: Sequence[str],
    options: dict[str, Any],
) -> list[list[FitOptions]]:
    """Candidates, those of the same widths together."""
    known = set(FitOptions.__dataclass_fields__) - {"hidden", "prior"}
    if unknown := sorted(set(options) - known):
        raise OptionError(
            f"options of select should be {', '.join(sorted(known))}, got {unknown[0]!r}: correct"
            " it."
        )
    if not hidden or not priors:
        raise OptionError("hidden and priors should each name one candidate at least, got none.")
    for prior in priors:
        check_choice(prior, "a prior of select", tuple(PRIORS))
    for widths in hidden:
        for width in widths:
            check_count(width, "a width in hidden")
    candidates = []
    for widths in hidden:
        size = _count_weights(stars, widths) * _count_labels(stars)
        starts = MORE_STARTS if size <= CHEAP else STARTS
        alike = FitOptions(**{"starts": starts} | options | {"hidden": tuple(widths)})
        own = priors if len(widths) else ("scale",)
        candidates.append([replace(alike, prior=prior) for prior in own])
    return candidates


@dataclass(frozen=True, eq=False)
class _Fit:
    """A candidate trained on all stars, and what was warned of meanwhile."""

    options: FitOptions
    reg: Regression
    theta: np.ndarray
    evidence: float
    is_stationary: bool
    warnings: list[Warning | str]
    seconds: float


@dataclass(frozen=True, eq=False)
class _Fold:
    """A candidate to train at its noise and prior without some of the stars, and these (star,)."""

    fit: _Fit
    stars: Spectra
    is_out: np.ndarray
    seed: int


@dataclass(frozen=True, eq=False)
class _Tried:
    """A candidate with its prediction of each star while it was held out."""

    fit: _Fit
    prediction: Prediction
    seconds: float


class _Trial:
    """Stars and the fold of each (star,), on which candidates are tried."""

    def __init__(self, stars: Spectra, fold: np.ndarray, seed: int, processes: Processes):
        self.stars = stars
        self.fold = fold
        self.seed = seed
        self.processes = processes
        self.labels = np.asarray(stars.labels)
        self.spread = np.nanstd(self.labels, axis=0)
        self.groups = find_groups(stars)

    def run(self, alike: list[FitOptions], show: Progress) -> list[_Tried]:
        """Train candidates of the same widths, and predict each star by a refit without it."""
        name = replace(alike[0], prior="scale").name
        fits = self._fit(alike, show, f"{name}: training on all stars")
        folds = range(self.fold.max() + 1)
        jobs = [
            _Fold(fit, self.stars, self.fold == k, self.seed + 1 + k) for fit in fits for k in folds
        ]
        parts = self.processes.run(_refit, jobs, show, f"{name}: predicting stars held out")
        by_fit = [parts[i : i + len(folds)] for i in range(0, len(parts), len(folds))]
        return [self._join(fit, own) for fit, own in zip(fits, by_fit, strict=True)]

    def _fit(self, alike: list[FitOptions], show: Progress, stage: str) -> list[_Fit]:
        """Each candidate from several first weights, of which the largest evidence is kept."""
        n_starts = 1 if has_one_minimum(alike[0]) else alike[0].starts
        beyond_folds = self.seed + int(self.fold.max()) + 1
        seeds = [self.seed, *range(beyond_folds + 1, beyond_folds + n_starts)]
        jobs = [(options, seed) for options in alike for seed in seeds]
        fits = self.processes.run(partial(_fit, self.stars), jobs, show, stage)
        return [_find_best(fits[i : i + n_starts]) for i in range(0, len(fits), n_starts)]

    def _join(self, fit: _Fit, parts: list[tuple[Prediction, float]]) -> _Tried:
        prediction = join_held_out([part for part, _ in parts], self.fold)
        return _Tried(fit, prediction, fit.seconds + sum(seconds for _, seconds in parts))

    def score(self, tried: list[_Tried]) -> list[np.ndarray]:
        """Log scores (star,) of each candidate."""
        return [score_stars(one.prediction, self.labels, self.spread) for one in tried]

    def is_over(self, tried: list[_Tried], n_last: int) -> bool:
        """Whether the last are worse than the best by more than their errors, or not chosen."""
        behind = find_behind(self.score(tried), self.groups)
        if all(mean > error for mean, error in behind[-n_last:]):
            return True
        chosen = find_smallest_good(behind, [one.fit.reg.net.n_params for one in tried])
        own = tried[chosen].fit.options.hidden
        others = {one.fit.options.hidden for one in tried[chosen + 1 :]} - {own}
        return len(others) > (0 if own else 1)  # few units may do no better than none, and more do

    def compare(self, tried: list[_Tried]) -> list[Candidate]:
        """A row of each, one of which is chosen."""
        scores = self.score(tried)
        behind = find_behind(scores, self.groups)
        chosen = find_smallest_good(behind, [one.fit.reg.net.n_params for one in tried])
        rows = []
        for i, (one, own, (mean, error)) in enumerate(zip(tried, scores, behind, strict=True)):
            log_score, log_score_error = find_mean(own, self.groups)
            residuals = one.prediction.labels - self.labels
            row = Candidate(
                name=one.fit.options.name,
                reg=one.fit.reg,
                theta=one.fit.theta,
                evidence=one.fit.evidence,
                log_scores=own,
                log_score=log_score,
                log_score_error=log_score_error,
                behind=mean,
                behind_error=error,
                coverage=coverage(one.prediction, self.labels),
                scatter=sigma_mad(residuals),
                rmse=np.sqrt(np.nanmean(residuals**2, axis=0)),
                relative_rmse=float(np.sqrt(np.nanmean((residuals / self.spread) ** 2))),
                seconds=one.seconds,
                is_chosen=i == chosen,
            )
            rows.append(row)
        return rows


def _fit(stars: Spectra, start: tuple[FitOptions, int]) -> _Fit:
    """A candidate from the first weights and batches of a seed."""
    options, seed = start
    begin = time.perf_counter()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        one = replace(options, starts=1)
        laplace = fit_network(stars, one, seed=seed, decide=False, progress=False)
    return _Fit(
        options=options,
        reg=laplace.reg,
        theta=laplace.theta,
        evidence=laplace.log_marginal_likelihood(),
        is_stationary=laplace.certificate.is_stationary,
        warnings=[warning.message for warning in told],
        seconds=time.perf_counter() - begin,
    )


def _find_best(fits: list[_Fit]) -> _Fit:
    """The largest evidence, of those whose weights arrived if there are any; the seconds of all."""
    best = max(fits, key=lambda fit: (fit.is_stationary, fit.evidence))
    return replace(best, seconds=sum(fit.seconds for fit in fits))


def _refit(fold: _Fold) -> tuple[Prediction, float]:
    """The prediction of the stars held out, and the seconds that it took."""
    begin = time.perf_counter()
    options = fold.fit.options
    reg = fold.fit.reg
    training = fold.stars[~fold.is_out]
    held_out = fold.stars[fold.is_out]
    theta = find_first_weights(reg, training, options, seed=fold.seed, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        polished = polish(
            reg, theta, training, tolerance=TOLERANCE, max_iterations=REFIT_STEPS,
            structure=options.structure, memory=options.memory, progress=False,
        )  # fmt: skip
        laplace = fit_laplace(
            reg, polished.theta, training,
            structure=options.structure, memory=options.memory,
            require_minimum=False, progress=False,
        )  # fmt: skip
        prediction = laplace.predict(held_out, progress=False)
    prediction = _add_label_errors(prediction, reg, held_out)
    return prediction, time.perf_counter() - begin


def _add_label_errors(prediction: Prediction, reg: Regression, stars: Spectra) -> Prediction:
    """The prediction of labels that are measured with errors of their own."""
    _, labels, _ = as_stars(reg.net, stars)
    if not isinstance(labels, LabelsWithErrors):
        return prediction
    return replace(prediction, total_cov=prediction.total_cov + labels.covariance)
