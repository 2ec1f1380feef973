"""The main job on real stars: train on the MILES library, certify, and give every star error bars it had no part in."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from threadpoolctl import threadpool_limits

from symspec.cli.options import DemoFolder
from symspec.cli.steps import build_start, finish, run_adam
from symspec.derivatives.compiled import compile_jacobian
from symspec.errors import OptionError
from symspec.files.archives import write_laplace
from symspec.files.catalogues import write_catalogue
from symspec.laplace.calibration import studentized_residuals
from symspec.laplace.certificate import Certificate
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import Prediction, join_predictions
from symspec.networks.regression import Regression
from symspec.reports.plots import plot_predicted_against_true, plot_sensitivity, save_figure
from symspec.spectra.datasets import miles
from symspec.spectra.spectra import Spectra

EXAMPLES = "Example: [bold]symspec demo --output symspec-demo[/]"
HIDDEN = (8,)
ACTIVATION = "tanh"
START_PRIOR = 2.0
EPOCHS = 20
# a training label further off, in standard deviations as if left out, is taken for a mistake
MAX_RESIDUAL = 4.0
FILES = {
    "catalogue": "catalogue.fits",
    "model": "model.h5",
    "sensitivity": "sensitivity.png",
    "predicted against true": "predicted_against_true.png",
}
RIDGE_BASELINE = {"TEFF": 95.0, "LOGG": 0.26, "FE_H": 0.138}  # K, dex, dex
FLUX_RANGE = (0.0, 3.0)  # a few published spectra run off at their ends


@dataclass(frozen=True, eq=False, kw_only=True)
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


def run_demo(
    output: str | Path, *, folds: int = 5, seed: int = 0, progress: bool = True
) -> DemoResult:
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
        raise OptionError(
            f"folds should be at least 2, so that every star is held out once, got {folds}."
        )
    start = time.monotonic()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    spectra = miles(clip=FLUX_RANGE)
    fold = np.random.default_rng(seed).permutation(len(spectra)) % folds
    files = {name: output / file for name, file in FILES.items()}
    jobs = [(spectra[fold != k], spectra.flux[fold == k], seed + k) for k in range(folds)]
    done = _run_folds(jobs, files["model"], progress)
    order = np.argsort(
        np.argsort(fold, kind="stable")
    )  # from fold after fold back to the order of the spectra
    prediction = join_predictions([part.prediction for part in done], order)
    write_catalogue(
        files["catalogue"], prediction, spectra.ids, overwrite=True, true_labels=spectra.labels
    )
    _write_plots(files, done[0], prediction, spectra, jobs[0][1])
    certificates = [part.certificate for part in done]
    regressions = [part.reg for part in done]
    return DemoResult(
        prediction=prediction,
        spectra=spectra,
        certificates=certificates,
        regressions=regressions,
        files=files,
        seconds=time.monotonic() - start,
    )


@dataclass(frozen=True, eq=False)
class _Fold:
    reg: Regression
    theta: np.ndarray
    certificate: Certificate
    prediction: Prediction


def _run_folds(
    jobs: list[tuple[Spectra, np.ndarray, int]], model: Path, progress: bool
) -> list[_Fold]:
    """All folds, one core each: so small a network gains nothing from several threads, and loses by waiting."""
    workers = min(len(jobs), os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, context, initializer=threadpool_limits, initargs=(1,)) as pool,
        _show_progress(len(jobs), progress) as advance,
    ):
        futures = [pool.submit(_fit_fold, *job, None if k else model) for k, job in enumerate(jobs)]
        for future in as_completed(futures):
            future.result()
            advance()
        return [future.result() for future in futures]


def _fit_fold(training: Spectra, held_out: np.ndarray, seed: int, model: Path | None) -> _Fold:
    """Train without the stars held out, and predict them."""
    reg = build_start(training, HIDDEN, ACTIVATION, prior_precision=START_PRIOR)
    theta = run_adam(reg, training, None, seed=seed, epochs=EPOCHS, progress=False)
    first = finish(reg, theta, training, tune=True, memory="8GB")
    cleaned = _drop_outliers(first, training)
    posterior = finish(first.reg, first.theta, cleaned, tune=True, memory="8GB")
    if model is not None:
        write_laplace(model, posterior, overwrite=True)
    return _Fold(posterior.reg, posterior.theta, posterior.certificate, posterior.predict(held_out))


def _drop_outliers(posterior: LaplacePosterior, training: Spectra) -> Spectra:
    """Training stars with the labels missing that disagree with all others: the library has some mistaken ones."""
    z = studentized_residuals(posterior.predict(training.flux), training.labels)
    return replace(training, labels=np.where(np.abs(z) > MAX_RESIDUAL, np.nan, training.labels))


def _write_plots(
    files: dict[str, Path],
    part: _Fold,
    prediction: Prediction,
    spectra: Spectra,
    held_out: np.ndarray,
) -> None:
    jacobian = compile_jacobian(part.reg.net)(part.theta, held_out).mean(axis=0)
    axes = plot_sensitivity(
        jacobian,
        spectra.wavelength,
        label_names=spectra.label_names,
        label_units=spectra.label_units,
        flux=held_out.mean(axis=0),
    )
    save_figure(axes[0].figure, files["sensitivity"])
    axes = plot_predicted_against_true(prediction, spectra.labels)
    save_figure(axes[0].figure, files["predicted against true"])


@contextmanager
def _show_progress(folds: int, progress: bool) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    text = TextColumn("training, tuning and certifying, folds done:")
    columns = [text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(
        *columns, console=Console(stderr=True), disable=not progress, transient=True
    ) as bar:
        task = bar.add_task("", total=folds)
        yield lambda: bar.advance(task)


def demo(
    output: DemoFolder = Path("symspec-demo"),
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds and the first weights.")] = 0,
) -> None:
    """Train on real stars, and predict each of them, with error bars, by a network that never saw it."""
    from symspec.reports import tables

    result = run_demo(output, folds=folds, seed=seed, progress=True)
    console = tables.open_console()
    truth = result.spectra.labels
    title = f"{len(result.spectra):,} stars, each predicted while held out"
    console.print(
        tables.summary_table(result.prediction, truth, title=title, baseline=RIDGE_BASELINE)
    )
    console.print(tables.fold_table(result.certificates, result.regressions))
    console.print(tables.star_table(result.prediction, result.spectra.ids, truth))
    for name, path in result.files.items():
        tables.tell_written(console, name, path)
    console.print(f"Done in {result.seconds:.0f} s.")
