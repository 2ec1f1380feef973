"""The command `symspec demo`: cross-validated labels and error bars of the MILES stars.

Each fold trains two networks without its stars, certifies them, and predicts these stars by both
together.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from symspec.derivatives.compiled import compile_jacobian
from symspec.errors import OptionError
from symspec.files.archives import write_laplace
from symspec.files.catalogues import write_catalogue
from symspec.fitting.fit import FitOptions, fit_network
from symspec.fitting.folds import run_folds
from symspec.laplace.certificate import Certificate
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import Prediction, join_held_out
from symspec.mixtures.mean_network import build_mean_network
from symspec.mixtures.posterior import CombinedPosterior, combine
from symspec.mixtures.prediction import mix_predictions
from symspec.networks.regression import Regression
from symspec.reports.pages import write_validation_report
from symspec.reports.plots import plot_predicted_against_true, save_figure
from symspec.reports.sensitivity import plot_sensitivity
from symspec.reports.tables import (
    fold_table,
    open_console,
    print_written,
    star_table,
    summary_table,
)
from symspec.safety.progress import Progress
from symspec.spectra.datasets import miles
from symspec.spectra.spectra import Spectra
from symspec.validation.calibration import fit_noise

EXAMPLES = "Example: [bold]symspec demo --output symspec-demo[/]"

OPTIONS = FitOptions(
    hidden=(8,),
    preprocess="center",  # all pixels are fractions of one continuum, with much the same noise
    prior_precision=2.0,
    dof=4.0,  # of Student's t: some of the published labels contradict all others
    epochs=20,
)
NETWORKS = 2  # a fold: at minima of their own, they err apart
STAGE = "networks: training, tuning, certifying"
LEVEL = 0.68  # of the intervals in the catalogue
FILES = {
    "catalogue": "catalogue.fits",
    "model": "model.h5",
    "sensitivity": "sensitivity.png",
    "predicted against true": "predicted_against_true.png",
    "report": "report.html",
}
REMARK = (
    "The noise in its error bar is that which the stars of the other folds have around their"
    " predictions, in place of sigma_noise of the fold, which the evidence gives."
)
TITLE = "Labels of the MILES stars, each predicted while held out"
RIDGE_BASELINE = {"TEFF": 95.0, "LOGG": 0.26, "FE_H": 0.138}  # K, dex, dex
FLUX_RANGE = (0.0, 3.0)  # a few published spectra run off at their ends

DemoFolder = Annotated[Path, typer.Option(help="Folder for the catalogue and the figures.")]


def demo(
    output: DemoFolder = Path("symspec-demo"),
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the folds and the first weights.")] = 0,
) -> None:
    """Train on real stars, and predict each, with error bars, by networks that never saw it."""
    result = run_demo(output, folds=folds, seed=seed, progress=True)
    truth = np.asarray(result.spectra.labels)
    title = f"{len(result.spectra):,} stars, each predicted while held out"
    console = open_console()
    evidence = f"{title}, with the noise of the evidence"
    console.print(summary_table(result.uncalibrated, truth, title=evidence))
    title = f"{title}, with the noise of the other folds' stars"
    console.print(summary_table(result.prediction, truth, title=title, baseline=RIDGE_BASELINE))
    console.print(fold_table(result.certificates, result.regressions, n_networks=NETWORKS))
    console.print(star_table(result.prediction, result.spectra.ids, truth))
    for name, path in result.files.items():
        print_written(console, name, path)
    console.print(f"Done in {result.seconds:.0f} s.")


@dataclass(frozen=True, eq=False, kw_only=True)
class DemoResult:
    """Result of `run_demo`.

    Attributes
    ----------
    prediction : Prediction
        Prediction of every star, by the networks that were trained without it, with the noise that
        the stars of the other folds have around their predictions.
    uncalibrated : Prediction
        The same with the noise of the evidence.
    spectra : Spectra
    certificates : list of Certificate
        One a network, those of a fold beside each other.
    regressions : list of Regression
        One a network, noise and prior tuned.
    files : dict of str to Path
    seconds : float
    """

    prediction: Prediction
    uncalibrated: Prediction
    spectra: Spectra
    certificates: list[Certificate]
    regressions: list[Regression]
    files: dict[str, Path]
    seconds: float


def run_demo(
    output: str | Path, *, folds: int = 5, seed: int = 0, progress: bool | Progress = True
) -> DemoResult:
    """Predict the MILES stars by cross-validation, and write catalogue, model, plots and a page.

    Parameters
    ----------
    output : path
        Folder, created if it does not exist; the demo's own files in it are replaced.
    folds : int
        Parts of the stars, each held out once.
    seed : int
        Seed of the split and of the first weights.
    progress : bool or Progress, default True
        True: a bar on stderr. A callable is called with (stage, done, total) after each network.

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
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / file for name, file in FILES.items()}
    spectra = miles(clip=FLUX_RANGE)
    fold = np.random.default_rng(seed).permutation(len(spectra)) % folds
    jobs = [
        _Job(spectra[fold != k], spectra.flux[fold == k], seed + k + folds * i, is_kept=k == 0)
        for k in range(folds)
        for i in range(NETWORKS)
    ]
    done = run_folds(_fit, jobs, progress=progress, stage=STAGE)
    networks = [done[i : i + NETWORKS] for i in range(0, len(done), NETWORKS)]  # of each fold
    first = join_held_out([_predict_together(each) for each in networks], fold)
    prediction = _calibrate(first, np.asarray(spectra.labels), fold)
    write_catalogue(
        files["catalogue"],
        prediction,
        spectra.ids,
        overwrite=True,
        true_labels=spectra.labels,
        interval=LEVEL,
    )
    model = combine([one.posterior for one in networks[0] if one.posterior is not None])
    write_laplace(files["model"], model, overwrite=True)
    _write_plots(files, model, prediction, spectra, spectra.flux[fold == 0])
    certificates = [one.certificate for one in done]
    regressions = [one.reg for one in done]
    write_validation_report(
        files["report"], prediction, spectra, certificates, regressions,
        n_networks=NETWORKS, title=TITLE, remark=REMARK, about={"seed": str(seed)}, overwrite=True,
    )  # fmt: skip
    return DemoResult(
        prediction=prediction,
        uncalibrated=first,
        spectra=spectra,
        certificates=certificates,
        regressions=regressions,
        files=files,
        seconds=time.monotonic() - start,
    )


@dataclass(frozen=True, eq=False)
class _Job:
    """A network to train on some stars, to predict others; whether to keep its posterior."""

    training: Spectra
    held_out: np.ndarray
    seed: int
    is_kept: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class _Network:
    """A network trained without some stars, and its prediction of these."""

    reg: Regression
    certificate: Certificate
    prediction: Prediction
    posterior: LaplacePosterior | None


def _fit(job: _Job) -> _Network:
    """Train without the stars held out, and predict them."""
    posterior = fit_network(job.training, OPTIONS, seed=job.seed, progress=False)
    return _Network(
        reg=posterior.reg,
        certificate=posterior.certificate,
        prediction=posterior.predict(job.held_out, progress=False),
        posterior=posterior if job.is_kept else None,
    )


def _predict_together(networks: list[_Network]) -> Prediction:
    """Prediction of the same stars by networks that count alike."""
    weights = np.full(len(networks), 1 / len(networks))
    return mix_predictions([one.prediction for one in networks], weights)


def _calibrate(prediction: Prediction, truth: np.ndarray, fold: np.ndarray) -> Prediction:
    """Predictions (star,) with the noise that those of the other folds have."""
    folds = np.unique(fold)
    parts = []
    for k in folds:
        noise = fit_noise(prediction.select(fold != k), truth[fold != k])
        parts.append(prediction.select(fold == k).with_noise(noise))
    return join_held_out(parts, fold)


def _write_plots(
    files: dict[str, Path],
    model: CombinedPosterior,
    prediction: Prediction,
    spectra: Spectra,
    held_out: np.ndarray,
) -> None:
    """Draw the sensitivity of the first fold, and predicted against true labels of all stars."""
    net, theta = build_mean_network(model)
    axes = plot_sensitivity(
        compile_jacobian(net)(theta, held_out).mean(axis=0),
        spectra.wavelength,
        label_names=spectra.label_names,
        label_units=spectra.label_units,
        flux=held_out.mean(axis=0),
    )
    save_figure(axes[0].figure, files["sensitivity"])
    axes = plot_predicted_against_true(prediction, np.asarray(spectra.labels))
    save_figure(axes[0].figure, files["predicted against true"])
