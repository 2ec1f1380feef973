"""The main job on real stars: train on the MILES library, certify, and give every star error bars it had no part in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from symspec.archives import write_laplace
from symspec.certificate import Certificate
from symspec.compiled import compile_jacobian
from symspec.datasets import miles
from symspec.errors import OptionError
from symspec.fitting import build_start, finish, run_adam
from symspec.laplace import LaplacePosterior
from symspec.plots import plot_predicted_against_true, plot_sensitivity, save_figure
from symspec.prediction import Prediction
from symspec.regression import Regression
from symspec.spectra import Spectra
from symspec.writers import write_catalogue

HIDDEN = (8,)
ACTIVATION = "tanh"
START_PRIOR = 2.0
EPOCHS = 20
FLUX_RANGE = (0.0, 3.0)  # a few published spectra run off at their ends


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo found.

    Attributes
    ----------
    prediction : Prediction
        Of every star, by the network that was trained without it.
    spectra : Spectra
    certificates : list of Certificate
        One a fold.
    regressions : list of Regression
        One a fold, noise and prior tuned.
    files : dict of str to Path
    seconds : float
    """

    prediction: Prediction
    spectra: Spectra
    certificates: list[Certificate]
    regressions: list[Regression]
    files: dict[str, Path]
    seconds: float


def run_demo(output: str | Path, *, folds: int = 5, seed: int = 0, progress: bool = True) -> DemoResult:
    """Cross-validated labels and errors of the MILES stars, with catalogue and plots in the folder `output`.

    Parameters
    ----------
    output : path
        Made if it is not there; the demo's own files in it are replaced.
    folds : int
        Parts of the stars, each held out once.
    seed : int
        Of the split and of the starting weights.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    MissingDependencyError
        The package that carries the MILES stars is not installed.
    OptionError
        Fewer than two folds.
    """
    if folds < 2:
        raise OptionError(f"folds should be at least 2, so that every star is held out once, got {folds}.")
    start = time.monotonic()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    spectra = miles(clip=FLUX_RANGE)
    fold = np.random.default_rng(seed).permutation(len(spectra)) % folds
    posteriors: list[LaplacePosterior] = []
    parts: list[Prediction] = []
    with _show_progress(folds, progress) as tell:
        for k in range(folds):
            previous = posteriors[-1].reg if posteriors else None
            posteriors.append(_fit_fold(spectra[fold != k], previous, seed + k, lambda text, k=k: tell(k, text)))
            parts.append(posteriors[-1].predict(spectra.flux[fold == k]))
        tell(folds, "writing the catalogue and the plots")
        prediction = _reorder(parts, np.argsort(np.argsort(fold, kind="stable"), kind="stable"))
        files = _write_files(output, posteriors[0], prediction, spectra, spectra.flux[fold == 0])
    certificates = [posterior.certificate for posterior in posteriors]
    regressions = [posterior.reg for posterior in posteriors]
    return DemoResult(prediction, spectra, certificates, regressions, files, time.monotonic() - start)


def _fit_fold(
    training: Spectra, previous: Regression | None, seed: int, tell: Callable[[str], object]
) -> LaplacePosterior:
    """Posterior of one fold; noise and prior, but no weights, start where the fold before ended."""
    reg = build_start(training, HIDDEN, ACTIVATION, prior_precision=START_PRIOR)
    if previous is not None:
        reg = Regression(reg.net, sigma_noise=previous.sigma_noise, prior_precision=previous.prior_precision)
    tell("training with Adam")
    theta = run_adam(reg, training, None, seed=seed, epochs=EPOCHS, progress=False)
    return finish(reg, theta, training, tune=True, memory="8GB", tell=tell)


def _reorder(parts: list[Prediction], order: np.ndarray) -> Prediction:
    """One prediction of all stars from those of the folds."""
    names = ("labels", "model_cov", "flux_cov", "noise_cov", "total_cov", "flags", "n_bad_pixels")
    return replace(parts[0], **{k: np.concatenate([getattr(p, k) for p in parts])[order] for k in names})


def _write_files(
    output: Path, posterior: LaplacePosterior, prediction: Prediction, spectra: Spectra, held_out: np.ndarray
) -> dict[str, Path]:
    files = {
        "catalogue": output / "catalogue.fits",
        "model": output / "model.h5",
        "sensitivity": output / "sensitivity.png",
        "predicted against true": output / "predicted_against_true.png",
    }
    write_catalogue(files["catalogue"], prediction, spectra.ids, overwrite=True, true_labels=spectra.labels)
    write_laplace(files["model"], posterior, overwrite=True)
    jacobian = compile_jacobian(posterior.reg.net)(posterior.theta, held_out).mean(axis=0)
    words = {"label_names": spectra.label_names, "label_units": spectra.label_units}
    axes = plot_sensitivity(jacobian, spectra.wavelength, flux=held_out.mean(axis=0), **words)
    save_figure(axes[0].figure, files["sensitivity"])
    axes = plot_predicted_against_true(prediction, spectra.labels)
    save_figure(axes[0].figure, files["predicted against true"])
    return files


@contextmanager
def _show_progress(folds: int, progress: bool) -> Iterator[Callable[[int, str], Any]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True), disable=not progress, transient=True) as bar:
        task = bar.add_task("starting", total=folds)

        def tell(k: int, text: str) -> None:
            name = f"fold {k + 1} of {folds}: " if k < folds else ""
            bar.update(task, completed=k, description=name + text)

        yield tell
