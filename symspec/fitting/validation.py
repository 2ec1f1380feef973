"""Cross-validation with refits: each star is predicted by a network that never saw its group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError, OptionError
from symspec.fitting.fit import FitOptions, fit_network
from symspec.fitting.folds import divide, run_folds
from symspec.laplace.certificate import Certificate
from symspec.laplace.prediction import Prediction, join_held_out
from symspec.networks.regression import Regression
from symspec.safety.progress import Progress
from symspec.spectra.spectra import Spectra


@dataclass(frozen=True, eq=False, kw_only=True)
class Validation:
    """Result of `validate`.

    Attributes
    ----------
    prediction : Prediction
        Of each star, by the network of the fold in which it was held out.
    spectra : Spectra
        These stars: those with a label.
    fold : numpy.ndarray of int, shape (star,)
        The fold in which each was held out.
    certificates : list of Certificate
        One a fold.
    regressions : list of Regression
        One a fold, as it was tuned.
    """

    prediction: Prediction
    spectra: Spectra
    fold: np.ndarray
    certificates: list[Certificate]
    regressions: list[Regression]


def validate(
    spectra: Spectra,
    *,
    folds: int = 5,
    groups: ArrayLike | None = None,
    seed: int = 0,
    n_workers: int | None = None,
    scheduler: Any = None,
    progress: bool | Progress = True,
    **options: Any,
) -> Validation:
    """Predict each star by a network that is trained without it and without all of its group.

    Each fold is all of `symspec train`: a network is built from the other folds alone, trained,
    taken to the minimum at the noise and prior of largest evidence, and its Hessian inverted.

    Parameters
    ----------
    spectra : Spectra
        With labels. Stars without any are left out.
    folds : int, default 5
        Parts of the stars, each held out once.
    groups : array_like of str or int, shape (star,), optional
        Stars of one group are held out together; by default `spectra.groups`, else stars of one
        name.
    seed : int, default 0
        Of the folds, first weights and batches.
    n_workers : int, optional
        Processes; by default one a fold, but no more than there are cores.
    scheduler : None, "local", str or distributed.Client, optional
        In place of these, who trains, each fold for itself: see `symspec.workers`.
    progress : bool or Progress, default True
        True: a bar on stderr. A callable is called with (stage, done, total) after each fold.
    **options
        How the networks are built and trained: hidden, activation, preprocess, sigma_noise,
        prior_precision, dof, predicts_noise, epochs, batch_size, learning_rate, tune, prior,
        starts, structure, memory.

    Returns
    -------
    Validation

    Raises
    ------
    DataError
        The spectra have no labels.
    OptionError
        There are fewer groups than folds, or an option is unknown.
    WorkersError, MissingDependencyError
        As `symspec.workers.open_workers`; or a process died, as in a script without
        ``if __name__ == "__main__":`` above the call.

    Examples
    --------
    >>> import numpy as np
    >>> import symspec as ss
    >>> stars = ss.datasets.generated_stars(40, n_pixels=8, rng=np.random.default_rng(0))
    >>> settings = {"hidden": [2], "epochs": 5, "tune": False, "n_workers": 1, "progress": False}
    >>> result = ss.validate(stars, folds=2, **settings)
    >>> result.prediction.labels.shape
    (40, 3)
    """
    unknown = set(options) - set(FitOptions.__dataclass_fields__)
    if unknown:
        raise OptionError(
            f"options of validate should be {', '.join(FitOptions.__dataclass_fields__)}, got"
            f" {sorted(unknown)[0]!r}: correct it."
        )
    if spectra.labels is None:
        raise DataError("validation needs labels, got spectra without: give Spectra(labels=...).")
    spectra, fold = divide(spectra, folds, groups, seed)
    settings = FitOptions(**options)
    jobs = [_Job(spectra[fold != k], spectra[fold == k], settings, seed + k) for k in range(folds)]
    done = run_folds(_fit_fold, jobs, n_workers=n_workers, scheduler=scheduler, progress=progress)
    return Validation(
        prediction=join_held_out([part.prediction for part in done], fold),
        spectra=spectra,
        fold=fold,
        certificates=[part.certificate for part in done],
        regressions=[part.reg for part in done],
    )


@dataclass(frozen=True, eq=False)
class _Job:
    training: Spectra
    held_out: Spectra
    options: FitOptions
    seed: int


@dataclass(frozen=True, eq=False)
class _Fold:
    reg: Regression
    certificate: Certificate
    prediction: Prediction


def _fit_fold(job: _Job) -> _Fold:
    """Train without the stars held out, and predict them."""
    laplace = fit_network(job.training, job.options, seed=job.seed, progress=False)
    without_labels = replace(
        job.held_out,
        labels=None,
        label_names=(),
        label_units=(),
        label_errors=None,
        label_covariance=None,
    )
    return _Fold(laplace.reg, laplace.certificate, laplace.predict(without_labels, progress=False))
