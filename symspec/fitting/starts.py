"""Networks of the same layers from several starts, as one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import ArrayLike

from symspec.derivatives.functions import check_stars
from symspec.errors import OptionError
from symspec.fitting.adoption import count_beyond_training
from symspec.fitting.fit import FitOptions, finish, fit_network, run_adam
from symspec.fitting.folds import run_folds
from symspec.laplace.leave_one_out import TrainingStars
from symspec.laplace.posterior import LaplacePosterior
from symspec.mixtures.posterior import AnyPosterior, combine
from symspec.safety.options import check_count
from symspec.safety.progress import Progress
from symspec.spectra.selections import as_stars
from symspec.spectra.spectra import Spectra

STAGE = "starts: training, tuning, certifying"


def has_one_minimum(options: FitOptions) -> bool:
    """Whether all starts end at the same weights: without hidden layers, and with normal noise."""
    return not options.hidden and options.dof is None and not options.predicts_noise


def fit_starts(
    spectra: Spectra,
    options: FitOptions,
    *,
    n_starts: int = 1,
    weights: str | ArrayLike = "equal",
    seed: int = 0,
    held_out: Spectra | None = None,
    first: LaplacePosterior | None = None,
    scheduler: Any = None,
    progress: bool | Progress = True,
) -> AnyPosterior:
    """Train networks by `fit_network` from several first weights, and combine them.

    Parameters
    ----------
    spectra, options, held_out, progress
        As for `fit_network`.
    n_starts : int, default 1
        Networks; one stands alone.
    weights : str or array_like
        As for `symspec.combine`.
    seed : int, default 0
        Of the first network; the others have the numbers that follow.
    first : LaplacePosterior, optional
        The first network, where it is trained already.
    scheduler : None, "local", str or distributed.Client, optional
        Who trains, each network for itself: see `symspec.workers`. By default this process, one
        after the other.

    Raises
    ------
    OptionError
        All starts would end at the same weights.
    """
    check_count(n_starts, "n_starts")
    if n_starts > 1 and has_one_minimum(options):
        raise OptionError(
            f"a linear network has one minimum, where all of {n_starts} starts would end: train it"
            " once, or give it hidden layers."
        )
    each = [] if first is None else [first]
    seeds = range(seed + len(each), seed + n_starts)
    if scheduler is None:
        for one in seeds:
            fitted = fit_network(spectra, options, seed=one, held_out=held_out, progress=progress)
            each.append(fitted)
    else:
        starts = [_Start(spectra, options, held_out, one) for one in seeds]
        found = run_folds(_fit_start, starts, scheduler=scheduler, progress=progress, stage=STAGE)
        each += [_with_stars(laplace, spectra) for laplace in found]
    return put_together(each, weights)


@dataclass(frozen=True, eq=False)
class _Start:
    spectra: Spectra
    options: FitOptions
    held_out: Spectra | None
    seed: int


def _fit_start(start: _Start) -> LaplacePosterior:
    return fit_network(
        start.spectra, start.options, seed=start.seed, held_out=start.held_out, progress=False
    )


def _with_stars(laplace: LaplacePosterior, spectra: Spectra) -> LaplacePosterior:
    """The posterior with its training stars, which no process sends back."""
    stars = TrainingStars(*check_stars(laplace.reg.net, *as_stars(laplace.reg.net, spectra)))
    return replace(laplace, training_stars=stars)


def train_again(
    laplace: LaplacePosterior,
    stars: Spectra,
    *,
    n_starts: int,
    seed: int = 0,
    structure: str = "auto",
    memory: str = "8GB",
    progress: bool | Progress = True,
) -> list[LaplacePosterior]:
    """Train a network of a posterior again, from weights that are drawn.

    Adam takes them downhill at its noise and prior, and `tune` to a minimum of its own.

    Parameters
    ----------
    laplace : LaplacePosterior
    stars : Spectra
        The training stars.
    n_starts : int
        Further networks.
    seed : int, default 0
        Of the first of them; the others have the numbers that follow.
    structure, memory, progress
        As for `fit_network`.
    """
    found = []
    for k in range(n_starts):
        theta = run_adam(
            laplace.reg, stars, None, seed=seed + k, epochs=FitOptions.epochs, progress=progress
        )
        again = finish(
            laplace.reg, theta, stars,
            tune=True, structure=structure, memory=memory, progress=progress,
        )  # fmt: skip
        if laplace.training_flux_cov is not None:
            again = count_beyond_training(again, stars)
        found.append(again)
    return found


def put_together(
    posteriors: Sequence[LaplacePosterior], weights: str | ArrayLike = "equal"
) -> AnyPosterior:
    """One posterior as it is, or the mixture of several."""
    return posteriors[0] if len(posteriors) == 1 else combine(posteriors, weights=weights)
