"""The command `symspec errors`: a catalogue of labels with error bars, for files of any length."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.markup import escape

from symspec.cli.shared.files import offer_to_resume, read_labelled_spectra
from symspec.cli.shared.models import read_model
from symspec.cli.shared.options import (
    Fill,
    ModelFile,
    ObjectName,
    Overwrite,
    Reading,
    ReportPage,
    Resample,
    Restart,
    Scheduler,
    SpectraFile,
    Uncertainty,
    check_output,
    check_report,
    parse_reading,
)
from symspec.cli.shared.pages import write_page
from symspec.errors import OptionError
from symspec.files.catalogues import SUFFIXES
from symspec.files.partial_runs import is_finished
from symspec.files.surveys import Survey, predict_survey
from symspec.laplace.budget import Choices, choose_center
from symspec.laplace.flags import FlagOptions
from symspec.mixtures.left_out import leave_out
from symspec.mixtures.posterior import AnyPosterior, list_posteriors
from symspec.mixtures.prediction import CombinedPrediction
from symspec.reports.tables import (
    describe_between,
    describe_coverage,
    flag_lines,
    open_console,
    print_written,
    star_table,
    summary_table,
)
from symspec.spectra.grids import fit_to_network
from symspec.spectra.readers.read import open_spectra
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra
from symspec.validation.calibration import ErrorCalibration, calibrate_errors

EXAMPLES = (
    "Examples: [bold]symspec errors model.h5 stars.h5 catalogue.fits[/]\n\n[bold]symspec errors"
    " model.h5 stars.h5 catalogue.ecsv --uncertainty std --min-snr 30 --dialect lower[/]"
)

MOST_REPORTED = 2**26  # values of the flux that a report holds in memory
Catalogue = Annotated[
    Path,
    typer.Argument(
        metavar="CATALOGUE", help="Table to write: .fits, .ecsv, .h5 or .nc.", show_default=False
    ),
]
Dialect = Annotated[
    Literal["upper", "lower"], typer.Option(help="Names of columns: TEFF_ERR, or e_teff.")
]
Edge = Annotated[
    float, typer.Option(help="Flag labels within this share of the training range from its ends.")
]
MaxBad = Annotated[float, typer.Option(help="Flag stars with a greater share of bad pixels.")]
MinSnr = Annotated[float, typer.Option(help="Flag stars of a lower median signal-to-noise ratio.")]
MaxDistance = Annotated[
    float,
    typer.Option(
        help="Flag spectra farther from the training spectra, 99 % of which are nearer than 1."
    ),
]
MaxNewtonShift = Annotated[
    float,
    typer.Option(
        help="Flag labels that a Newton step of the weights would move by more model deviations."
    ),
]
Center = Annotated[
    Literal["auto", "weights", "linearized"],
    typer.Option(
        help="Labels of the network as trained, or linearised there and taken to its own minimum,"
        " for which the model errors are exact wherever training stopped. auto: the latter where"
        " the weights are no minimum."
    ),
]
FluxErrors = Annotated[
    Literal["linear", "sampled"],
    typer.Option(
        help="Propagate errors of the flux by derivatives, or by draws through the network, for low"
        " signal-to-noise ratios."
    ),
]
MaxMissing = Annotated[
    float,
    typer.Option(
        help="Flag labels that missing pixels leave open by more of the training labels' spread."
    ),
]
MaxNonlinearity = Annotated[
    float,
    typer.Option(help="Flag labels whose linear flux error is off by a greater share."),
]
Interval = Annotated[
    float,
    typer.Option(help="Level of the intervals TEFF_LO to TEFF_HI, which hold a new label."),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Stars with labels, not trained on, whose scatter calibrates the errors.",
    ),
]
LeaveOneOut = Annotated[
    bool,
    typer.Option(
        "--leave-one-out",
        help="The stars of --calibrate-on are the training stars: each is left out in turn.",
    ),
]


def errors(
    model: ModelFile,
    spectra: SpectraFile,
    catalogue: Catalogue,
    uncertainty: Uncertainty = None,
    read: Reading = None,
    resample: Resample = None,
    dialect: Dialect = "upper",
    edge: Edge = 0.05,
    max_bad_fraction: MaxBad = 0.1,
    min_snr: MinSnr = 20.0,
    max_distance: MaxDistance = 1.5,
    max_newton_shift: MaxNewtonShift = 0.5,
    max_missing: MaxMissing = 0.5,
    max_nonlinearity: MaxNonlinearity = 0.2,
    center: Center = "auto",
    fill: Fill = "conditional",
    flux_errors: FluxErrors = "linear",
    interval: Interval = 0.68,
    calibrate_on: CalibrationFile = None,
    leave_one_out: LeaveOneOut = False,
    report: ReportPage = None,
    object_name: ObjectName = "star",
    scheduler: Scheduler = None,
    restart: Restart = False,
    overwrite: Overwrite = False,
) -> None:
    """Predict the labels of stars with their error bars, one row a star.

    Files may be of any length. Until the catalogue is complete, finished pieces are kept in
    CATALOGUE.partial, for anyone to read: after an interruption the same command resumes from
    there.
    """
    _check_files(catalogue, report, overwrite, model, spectra, calibrate_on)
    limits = FlagOptions(
        edge=edge, max_bad_fraction=max_bad_fraction, min_snr=min_snr, max_distance=max_distance,
        max_newton_shift=max_newton_shift, max_missing=max_missing,
        max_nonlinearity=max_nonlinearity,
    )  # fmt: skip
    laplace = read_model(model)
    reading = parse_reading(uncertainty, read)
    around = choose_center(list_posteriors(laplace), center)
    how = Choices(center=around, fill=fill, flux=flux_errors)
    calibration = _calibrate(laplace, how, calibrate_on, leave_one_out, reading, resample)
    with offer_to_resume(catalogue):
        survey = predict_survey(
            catalogue, laplace, spectra, center=around, fill=fill, flux_errors=flux_errors,
            flag_options=limits, calibration=calibration, interval=interval, dialect=dialect,
            resample=resample, scheduler=scheduler, restart=restart, overwrite=overwrite, **reading,
        )  # fmt: skip
    _print_survey(survey, spectra.name, calibration, catalogue)
    stars = _read_for_report(report, laplace, spectra, reading, resample)
    write_page(
        report, laplace, **vars(survey), stars=stars, object_name=object_name, overwrite=overwrite,
        files={"the model": model, "spectra": spectra},
    )  # fmt: skip


def _check_files(
    catalogue: Path, report: Path | None, overwrite: bool, *given: Path | None
) -> None:
    """Refuse outputs that could not be written, before any work."""
    inputs = [path for path in given if path is not None]
    check_output(catalogue, overwrite or is_finished(catalogue), tuple(SUFFIXES), *inputs)
    check_report(report, overwrite, catalogue, *inputs)


def _read_for_report(
    report: Path | None,
    laplace: AnyPosterior,
    path: Path,
    reading: dict[str, Any],
    resample: str | None,
) -> Spectra | Resampled | None:
    """Spectra whose derivatives a report draws; None of files that do not fit in memory."""
    if report is None:
        return None
    with open_spectra(path, **reading) as source:
        if source.n_stars * source.n_pixels > MOST_REPORTED:
            return None
        return fit_to_network(laplace.net, source.read(), resample)


def _calibrate(
    laplace: AnyPosterior,
    how: Choices,
    path: Path | None,
    leave_one_out: bool,
    reading: dict[str, Any],
    resample: str | None,
) -> ErrorCalibration | None:
    if path is None:
        if leave_one_out:
            raise OptionError("--leave-one-out needs the training stars: add --calibrate-on FILE.")
        return None
    stars = read_labelled_spectra(path, laplace.net.label_names, reading)
    fitted = fit_to_network(laplace.net, stars, resample)
    prediction = laplace.predict(fitted, **asdict(how))
    source = path.name
    if leave_one_out:
        source = f"{source}, each star left out in turn"
        prediction = leave_out(laplace, fitted).predict(how.center).with_flux_of(prediction)
    return calibrate_errors(prediction, np.asarray(stars.labels), source=source)


def _print_survey(
    survey: Survey, name: str, calibration: ErrorCalibration | None, catalogue: Path
) -> None:
    console = open_console()
    prediction = survey.prediction
    console.print(star_table(prediction, survey.ids, survey.true_labels))
    if survey.true_labels is not None:
        title = f"Against the labels in {name}, honest if these stars were not trained on"
        console.print(summary_table(prediction, survey.true_labels, title=title))
        for line in describe_coverage(prediction, survey.true_labels):
            console.print(escape(line), soft_wrap=True)
    if isinstance(prediction, CombinedPrediction):
        console.print(escape(describe_between(prediction)), soft_wrap=True)
    for line in flag_lines(prediction):
        console.print(f"Flags: {escape(line)}")
    if calibration is not None:
        factors = zip(prediction.label_names, calibration.factor, strict=True)
        listed = ", ".join(f"{name} {factor:.3g}" for name, factor in factors)
        console.print(f"Calibrated errors are the total ones times: {escape(listed)}")
    if not prediction.has_flux_errors:
        console.print(
            "The file has no uncertainties of the flux: errors are those of model and noise only."
        )
    print_written(console, "catalogue", catalogue)
