"""The command symspec jacobian: derivatives of labels by pixels, from files of any length."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from symspec.cli.options import (
    MODEL_SUFFIXES,
    JacobianOutput,
    ModelFile,
    Overwrite,
    Plot,
    Reading,
    Resample,
    Restart,
    SpectraFile,
    Uncertainty,
    check_output,
    parse_reading,
    telling_how_to_go_on,
)

if TYPE_CHECKING:
    from symspec.files.jacobians import JacobianSummary
    from symspec.networks.network import Network

EXAMPLES = (
    "Examples: [bold]symspec jacobian model.h5 stars.h5 jacobian.h5[/]\n\n"
    "[bold]symspec jacobian model.h5 stars.h5 jacobian.h5 --dtype float32 --plot sensitivity.png[/]"
)


def jacobian(
    model: ModelFile,
    spectra: SpectraFile,
    output: JacobianOutput,
    plot: Plot = None,
    dtype: Annotated[
        Literal["float64", "float32"], typer.Option(help="Of the numbers.")
    ] = "float64",
    compression: Annotated[
        Literal["gzip", "none"],
        typer.Option(help="gzip saves a tenth of the room; none is several times as fast."),
    ] = "gzip",
    uncertainty: Uncertainty = None,
    read: Reading = None,
    resample: Resample = None,
    restart: Restart = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the derivative of every label with respect to every pixel, for every star.

    Files may be of any length. Until the output is whole, finished pieces lie in OUTPUT.partial,
    for anyone to read: interrupted, or killed, the same command goes on from there. They take as
    much room as the output.
    """
    check_output(output, overwrite, MODEL_SUFFIXES, model, spectra)
    if plot is not None:
        check_output(plot, overwrite, None, output, model, spectra)
    from symspec.files.importers.read import read_network
    from symspec.files.jacobians import write_jacobian
    from symspec.reports import tables

    net, theta = read_network(model)
    words = {
        "dtype": dtype,
        "compression": compression,
        "resample": resample,
        **parse_reading(uncertainty, read),
    }
    words |= {
        "restart": restart,
        "overwrite": overwrite,
        "show": partial(tables.show_progress, "differentiating"),
    }
    with telling_how_to_go_on(output):
        summary = write_jacobian(output, net, theta, spectra, **words)
    console = tables.open_console()
    shape = f"(star {summary.n_stars:,}, label {net.n_labels}, pixel {net.n_pixels:,})"
    tables.tell_written(console, f"jacobian {shape}", output)
    if plot is not None:
        _plot_mean(plot, summary, net)
        tables.tell_written(console, "figure", plot)


def _plot_mean(path: Path, summary: JacobianSummary, net: Network) -> None:
    from symspec.reports.plots import plot_sensitivity, save_figure

    words = {"label_names": net.label_names, "label_units": net.label_units}
    words |= {"flux": summary.flux, "wavelength_unit": summary.wavelength_unit}
    axes = plot_sensitivity(summary.mean, summary.wavelength, **words)
    save_figure(axes[0].figure, path)
