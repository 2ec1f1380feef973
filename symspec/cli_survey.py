"""The commands symspec errors and symspec jacobian: files of any length, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from symspec.cli_options import (
    MODEL_SUFFIXES,
    Catalogue,
    JacobianOutput,
    ModelFile,
    Overwrite,
    Plot,
    Reading,
    Resample,
    SpectraFile,
    Uncertainty,
    check_output,
    escape,
    parse_reading,
    read_labelled_spectra,
    say,
)

if TYPE_CHECKING:
    from symspec.calibration import ErrorCalibration
    from symspec.jacobian_files import JacobianSummary
    from symspec.laplace_posterior import LaplacePosterior
    from symspec.networks import Network

ERRORS_EXAMPLES = (
    "Examples: [bold]symspec errors model.h5 stars.h5 catalogue.fits[/]\n\n"
    "[bold]symspec errors model.h5 stars.h5 catalogue.ecsv --uncertainty std --min-snr 30 --dialect lower[/]"
)
JACOBIAN_EXAMPLES = (
    "Examples: [bold]symspec jacobian model.h5 stars.h5 jacobian.h5[/]\n\n"
    "[bold]symspec jacobian model.h5 stars.h5 jacobian.h5 --dtype float32 --plot sensitivity.png[/]"
)
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew, whatever an interrupted run has finished.")]
Dialect = Annotated[Literal["upper", "lower"], typer.Option(help="Names of columns: TEFF_ERR, or e_teff.")]
Edge = Annotated[float, typer.Option(help="Flag labels within this share of the training range from its ends.")]
MaxBad = Annotated[float, typer.Option(help="Flag stars with a greater share of bad pixels.")]
MinSnr = Annotated[float, typer.Option(help="Flag stars of a lower median signal-to-noise ratio.")]
MaxDistance = Annotated[
    float, typer.Option(help="Flag spectra farther from the training spectra, 99 % of which are nearer than 1.")
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Stars with labels, not trained on, whose scatter calibrates the errors."),
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

    Files may be of any length. Until the catalogue is whole, finished pieces lie in CATALOGUE.partial,
    for anyone to read: interrupted, or killed, the same command goes on from there.
    """
    from symspec import surveys, tables
    from symspec.archives import read_laplace
    from symspec.flags import FlagOptions
    from symspec.writers import SUFFIXES

    inputs = [path for path in (model, spectra, calibrate_on) if path is not None]
    check_output(catalogue, overwrite, tuple(SUFFIXES), *inputs)
    limits = FlagOptions(edge, max_bad_fraction, min_snr, max_distance)
    laplace, reading = read_laplace(model), parse_reading(uncertainty, read)
    calibration = None if calibrate_on is None else _calibrate(laplace, calibrate_on, reading, resample)
    words = {"flag_options": limits, "calibration": calibration, "dialect": dialect, "resample": resample, **reading}
    words |= {"restart": restart, "overwrite": overwrite, "show": partial(tables.show_progress, "predicting")}
    with _telling_how_to_go_on(catalogue):
        survey = surveys.predict_survey(catalogue, laplace, spectra, **words)
    _print_survey(survey, spectra.name, calibration)
    tables.tell_written(tables.open_console(), "catalogue", catalogue)


def _calibrate(
    laplace: LaplacePosterior, path: Path, reading: dict[str, Any], resample: str | None
) -> ErrorCalibration:
    from symspec.calibration import calibrate_errors
    from symspec.grids import fit_to_network

    stars = read_labelled_spectra(path, list(laplace.reg.net.label_names), reading)
    prediction = laplace.predict(fit_to_network(laplace.reg.net, stars, resample))
    return calibrate_errors(prediction, stars.labels, source=path.name)


def _print_survey(survey, name: str, calibration: ErrorCalibration | None) -> None:
    from symspec import tables

    console, prediction = tables.open_console(), survey.prediction
    console.print(tables.star_table(prediction, survey.ids, survey.true_labels))
    if survey.true_labels is not None:
        title = f"Against the labels in {name}, honest if these stars were not trained on"
        console.print(tables.summary_table(prediction, survey.true_labels, title=title))
    for line in tables.flag_lines(prediction):
        console.print(f"Flags: {escape(line)}")
    if calibration is not None:
        factors = ", ".join(f"{n} {f:.3g}" for n, f in zip(prediction.label_names, calibration.factor, strict=True))
        console.print(f"Calibrated errors are the total ones times: {escape(factors)}")
    if not prediction.has_flux_errors:
        console.print("The file has no uncertainties of the flux: errors are those of model and noise only.")


def jacobian(
    model: ModelFile,
    spectra: SpectraFile,
    output: JacobianOutput,
    plot: Plot = None,
    dtype: Annotated[Literal["float64", "float32"], typer.Option(help="Of the numbers.")] = "float64",
    compression: Annotated[
        Literal["gzip", "none"], typer.Option(help="gzip saves a tenth of the room; none is several times as fast.")
    ] = "gzip",
    uncertainty: Uncertainty = None,
    read: Reading = None,
    resample: Resample = None,
    restart: Restart = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the derivative of every label with respect to every pixel, for every star.

    Files may be of any length. Until the output is whole, finished pieces lie in OUTPUT.partial, for anyone
    to read: interrupted, or killed, the same command goes on from there. They take as much room as the output.
    """
    check_output(output, overwrite, MODEL_SUFFIXES, model, spectra)
    if plot is not None:
        check_output(plot, overwrite, None, output, model, spectra)
    from symspec import tables
    from symspec.importers import read_network
    from symspec.jacobian_files import write_jacobian

    net, theta = read_network(model)
    words = {"dtype": dtype, "compression": compression, "resample": resample, **parse_reading(uncertainty, read)}
    words |= {"restart": restart, "overwrite": overwrite, "show": partial(tables.show_progress, "differentiating")}
    with _telling_how_to_go_on(output):
        summary = write_jacobian(output, net, theta, spectra, **words)
    console = tables.open_console()
    shape = f"(star {summary.n_stars:,}, label {net.n_labels}, pixel {net.n_pixels:,})"
    tables.tell_written(console, f"jacobian {shape}", output)
    if plot is not None:
        _plot_mean(plot, summary, net)
        tables.tell_written(console, "figure", plot)


def _plot_mean(path: Path, summary: JacobianSummary, net: Network) -> None:
    from symspec.plots import plot_sensitivity, save_figure

    words = {"label_names": net.label_names, "label_units": net.label_units}
    words |= {"flux": summary.flux, "wavelength_unit": summary.wavelength_unit}
    axes = plot_sensitivity(summary.mean, summary.wavelength, **words)
    save_figure(axes[0].figure, path)


@contextmanager
def _telling_how_to_go_on(output: Path) -> Iterator[None]:
    """Say on Ctrl-C where the finished pieces are."""
    try:
        yield
    except KeyboardInterrupt as error:
        folder = output.with_name(f"{output.name}.partial")
        if not folder.is_dir():
            raise
        say(f"Interrupted: finished pieces are kept in {escape(str(folder))}; the same command goes on from there.")
        raise typer.Exit(130) from error
