"""The command symspec errors: a catalogue of labels with error bars, from files of any length."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from symspec.cli.options import (
    Catalogue,
    ModelFile,
    Overwrite,
    Reading,
    Resample,
    Restart,
    SpectraFile,
    Uncertainty,
    check_output,
    escape,
    parse_reading,
    read_labelled_spectra,
    telling_how_to_go_on,
)

if TYPE_CHECKING:
    from symspec.laplace.calibration import ErrorCalibration
    from symspec.laplace.posterior import LaplacePosterior


EXAMPLES = (
    "Examples: [bold]symspec errors model.h5 stars.h5 catalogue.fits[/]\n\n[bold]symspec errors"
    " model.h5 stars.h5 catalogue.ecsv --uncertainty std --min-snr 30 --dialect lower[/]"
)


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


CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Stars with labels, not trained on, whose scatter calibrates the errors.",
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
    calibrate_on: CalibrationFile = None,
    restart: Restart = False,
    overwrite: Overwrite = False,
) -> None:
    """Predict the labels of stars with their error bars, one row a star.

    Files may be of any length. Until the catalogue is whole, finished pieces lie in
    CATALOGUE.partial, for anyone to read: interrupted, or killed, the same command goes on from
    there.
    """
    from symspec.files import surveys
    from symspec.files.archives import read_laplace
    from symspec.files.catalogues import SUFFIXES
    from symspec.laplace.flags import FlagOptions
    from symspec.reports import tables

    inputs = [path for path in (model, spectra, calibrate_on) if path is not None]
    check_output(catalogue, overwrite, tuple(SUFFIXES), *inputs)
    limits = FlagOptions(edge, max_bad_fraction, min_snr, max_distance)
    laplace = read_laplace(model)
    reading = parse_reading(uncertainty, read)
    calibration = (
        None if calibrate_on is None else _calibrate(laplace, calibrate_on, reading, resample)
    )
    words = {
        "flag_options": limits,
        "calibration": calibration,
        "dialect": dialect,
        "resample": resample,
        **reading,
    }
    words |= {
        "restart": restart,
        "overwrite": overwrite,
        "show": partial(tables.show_progress, "predicting"),
    }
    with telling_how_to_go_on(catalogue):
        survey = surveys.predict_survey(catalogue, laplace, spectra, **words)
    _print_survey(survey, spectra.name, calibration)
    tables.tell_written(tables.open_console(), "catalogue", catalogue)


def _calibrate(
    laplace: LaplacePosterior, path: Path, reading: dict[str, Any], resample: str | None
) -> ErrorCalibration:
    from symspec.laplace.calibration import calibrate_errors
    from symspec.spectra.grids import fit_to_network

    stars = read_labelled_spectra(path, list(laplace.reg.net.label_names), reading)
    prediction = laplace.predict(fit_to_network(laplace.reg.net, stars, resample))
    return calibrate_errors(prediction, stars.labels, source=path.name)


def _print_survey(survey, name: str, calibration: ErrorCalibration | None) -> None:
    from symspec.reports import tables

    console = tables.open_console()
    prediction = survey.prediction
    console.print(tables.star_table(prediction, survey.ids, survey.true_labels))
    if survey.true_labels is not None:
        title = f"Against the labels in {name}, honest if these stars were not trained on"
        console.print(tables.summary_table(prediction, survey.true_labels, title=title))
    for line in tables.flag_lines(prediction):
        console.print(f"Flags: {escape(line)}")
    if calibration is not None:
        factors = ", ".join(
            f"{n} {f:.3g}" for n, f in zip(prediction.label_names, calibration.factor, strict=True)
        )
        console.print(f"Calibrated errors are the total ones times: {escape(factors)}")
    if not prediction.has_flux_errors:
        console.print(
            "The file has no uncertainties of the flux: errors are those of model and noise only."
        )
