"""The command `symspec validate`: labels of stars held out, with error bars, and how these hold."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from symspec.cli.commands.train import (
    NOISES,
    Activation,
    BatchSize,
    Dof,
    Epochs,
    LabelErrors,
    Labels,
    LearningRate,
    NoiseName,
    Preprocess,
    PriorPrecision,
    Seed,
    SigmaNoise,
    Structure,
    Tune,
    check_training,
    parse_hidden,
)
from symspec.cli.shared.files import read_labelled_spectra, write_or_keep
from symspec.cli.shared.options import (
    Group,
    Memory,
    ObjectName,
    Overwrite,
    Reading,
    ReportPage,
    Scheduler,
    SpectraFile,
    Uncertainty,
    check_output,
    check_report,
    parse_reading,
)
from symspec.errors import OptionError
from symspec.files.catalogues import SUFFIXES, write_catalogue
from symspec.fitting.fit import FitOptions
from symspec.fitting.validation import Validation
from symspec.fitting.validation import validate as cross_validate
from symspec.reports.pages import write_validation_report
from symspec.reports.tables import fold_table, open_console, print_written, summary_table
from symspec.reports.validation import validation_table
from symspec.spectra.selections import find_groups

EXAMPLES = (
    "Example: [bold]symspec validate soils.csv held_out.ecsv --folds 5 --group Sample"
    " --preprocess snv,savgol:11:2:1[/]"
)

Catalogue = Annotated[
    Path | None,
    typer.Argument(
        metavar="CATALOGUE",
        help="Table to write of each star's labels while held out: .fits, .ecsv, .h5 or .nc.",
        show_default=False,
    ),
]
Widths = Annotated[
    list[str],
    typer.Option(
        metavar="linear|WIDTH",
        help="Width of a hidden layer; repeat for more. Or a linear network.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes; by default one a fold, or one a core.")
]


def validate(
    spectra: SpectraFile,
    catalogue: Catalogue = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts, each held out once.")] = 5,
    group: Group = None,
    hidden: Widths = ["32"],  # noqa: B006
    activation: Activation = "tanh",
    preprocess: Preprocess = "",
    epochs: Epochs = None,
    batch_size: BatchSize = 64,
    learning_rate: LearningRate = 1e-3,
    tune: Tune = True,
    noise: NoiseName = NOISES[0],
    dof: Dof = 4.0,
    sigma_noise: SigmaNoise = None,
    prior_precision: PriorPrecision = 1.0,
    label: Labels = None,
    label_errors: LabelErrors = "auto",
    uncertainty: Uncertainty = None,
    read: Reading = None,
    seed: Seed = 0,
    structure: Structure = "auto",
    memory: Memory = "8GB",
    workers: Workers = None,
    scheduler: Scheduler = None,
    report: ReportPage = None,
    object_name: ObjectName = "star",
    overwrite: Overwrite = False,
) -> None:
    """Cross-validate: predict each star, with its error bars, by a network that never saw it.

    Each fold is all that `symspec train` does, on the stars of the others. Spectra of one sample
    are held out together.
    """
    if catalogue is not None:
        check_output(catalogue, overwrite, tuple(SUFFIXES), spectra)
    check_report(report, overwrite, spectra, catalogue)
    check_training(structure, preprocess, noise)
    widths = _parse_widths(hidden)
    reading = {"label_errors": label_errors, "group": group} | parse_reading(uncertainty, read)
    stars = read_labelled_spectra(spectra, label, reading)
    result = cross_validate(
        stars, folds=folds, seed=seed, n_workers=workers, scheduler=scheduler,
        hidden=widths, activation=activation, preprocess=preprocess,
        epochs=epochs or FitOptions.epochs,
        batch_size=batch_size, learning_rate=learning_rate, tune=tune,
        sigma_noise=sigma_noise or None, prior_precision=prior_precision,
        dof=dof if noise == "student-t" else None, predicts_noise=noise == "predicted",
        structure=structure, memory=memory,
    )  # fmt: skip
    if catalogue is not None:
        write_or_keep(partial(_write, result=result, overwrite=overwrite), catalogue)
    _print(result, catalogue)
    if report is not None:
        _write_page(report, result, spectra, seed, object_name, overwrite)


def _parse_widths(hidden: list[str]) -> tuple[int, ...]:
    widths = parse_hidden(hidden)
    if widths is None:
        raise OptionError(
            "--hidden should be the network to validate, got auto: name the one that 'symspec train"
            " --hidden auto' chose."
        )
    return widths


def _write(path: Path, result: Validation, overwrite: bool) -> None:
    write_catalogue(
        path,
        result.prediction,
        result.spectra.ids,
        overwrite=overwrite,
        true_labels=result.spectra.labels,
    )


def _write_page(
    page: Path, result: Validation, spectra: Path, seed: int, object_name: str, overwrite: bool
) -> None:
    about = {"file of spectra": spectra.name, "seed": str(seed)}
    write_validation_report(
        page, result.prediction, result.spectra, result.certificates, result.regressions,
        object_name=object_name, about=about, overwrite=overwrite,
    )  # fmt: skip
    print_written(open_console(), "report", page)


def _print(result: Validation, catalogue: Path | None) -> None:
    truth = np.asarray(result.spectra.labels)
    n_groups = np.unique(find_groups(result.spectra)).size
    n = len(result.spectra)
    groups = "" if n_groups == n else f" of {n_groups:,} samples"
    title = f"{n:,} spectra{groups}, each predicted while held out"
    console = open_console()
    console.print(validation_table(result.prediction, truth, title=title))
    console.print(summary_table(result.prediction, truth, title="Error budget"))
    console.print(fold_table(result.certificates, result.regressions))
    if catalogue is not None:
        print_written(console, "catalogue", catalogue)
