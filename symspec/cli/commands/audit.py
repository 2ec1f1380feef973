"""The command `symspec audit`: every structure's error bars against the exact ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from symspec.cli.shared.files import read_labelled_spectra
from symspec.cli.shared.models import OneNetwork, read_one_network
from symspec.cli.shared.options import (
    Memory,
    ModelFile,
    ObjectName,
    Overwrite,
    Reading,
    ReportPage,
    SpectraFile,
    Uncertainty,
    check_output,
    check_report,
    parse_reading,
)
from symspec.cli.shared.pages import write_page
from symspec.files.archives import read_regression
from symspec.files.stored.archive import find_archive_kind
from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.regression import Regression
from symspec.reports.plots import plot_structure_audit, save_figure
from symspec.reports.star_tables import STAR_TABLE_SUFFIXES, check_star_table, write_audit
from symspec.reports.tables import open_console, print_audit, print_written
from symspec.spectra.grids import check_grid
from symspec.spectra.pixels import fill_flux, fill_others
from symspec.spectra.readers.read import read_spectra
from symspec.validation.audit import AUDITED, audit_structures

EXAMPLES = (
    "Examples: [bold]symspec audit model.h5 stars.h5 --sample new.h5 --plot audit.png[/]\n\n"
    "[bold]symspec audit model.h5 stars.h5 --structure kronecker --structure last_layer[/]"
)

SampleFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Stars to compare on, best unlike the training stars; by default some of these.",
    ),
]
Structures = Annotated[
    list[str] | None, typer.Option(help="What to audit; repeat for more. By default all.")
]
AuditPlot = Annotated[
    Path | None, typer.Option(help="Figure of the ratios, by distance.", show_default=False)
]
AuditOutput = Annotated[
    Path | None, typer.Option(help="Table by star, .ecsv or .csv.", show_default=False)
]


def audit(
    model: ModelFile,
    spectra: SpectraFile,
    network: OneNetwork = None,
    sample: SampleFile = None,
    n_sample: Annotated[
        int, typer.Option(min=1, help="Training stars to compare on, without --sample.")
    ] = 200,
    structure: Structures = None,
    plot: AuditPlot = None,
    output: AuditOutput = None,
    uncertainty: Uncertainty = None,
    read: Reading = None,
    memory: Memory = "8GB",
    report: ReportPage = None,
    object_name: ObjectName = "star",
    overwrite: Overwrite = False,
) -> None:
    """Compare the error bars of every structure of the inverse Hessian with the exact ones.

    SPECTRA are the stars that the model was trained on, with their labels.
    """
    inputs = [path for path in (model, spectra, sample) if path is not None]
    _check_outputs(output, plot, report, overwrite, inputs)
    reg, theta, laplace = _read_model(model, network, report is not None)
    reading = parse_reading(uncertainty, read)
    stars = read_labelled_spectra(spectra, reg.net.label_names, reading)
    check_grid(reg.net, stars, str(spectra))
    flux = fill_flux(stars)
    if sample is None:
        chosen = np.sort(np.random.default_rng(0).permutation(len(stars))[:n_sample])
        others = stars[chosen]
        compared = flux[chosen]
    else:
        others = read_spectra(sample, **reading)
        check_grid(reg.net, others, str(sample))
        compared = fill_others(others, flux)
    if output is not None:
        check_star_table(output, others.ids, reg.net.label_names)
    result = audit_structures(
        reg, theta, stars, X_sample=compared, structures=structure or AUDITED, memory=memory
    )
    console = open_console()
    print_audit(console, result)
    if output is not None:
        write_audit(output, result, others.ids, overwrite=overwrite)
        print_written(console, "audit", output)
    if plot is not None:
        figure = plot_structure_audit(result)[0].figure
        print_written(console, "figure", save_figure(figure, plot))
    write_page(
        report, laplace, audit=result, files={"the model": model},
        object_name=object_name, overwrite=overwrite,
    )  # fmt: skip


def _read_model(
    model: Path, network: int | None, is_reported: bool
) -> tuple[Regression, np.ndarray, LaplacePosterior | None]:
    """Network with noise and prior, weights, and the posterior where a report is wanted."""
    if (
        network is None
        and not is_reported
        and find_archive_kind(model) in ("regression", "laplace")
    ):
        return *read_regression(model), None
    why = "an audit inverts the Hessian of one network"
    laplace = read_one_network(model, network, why)
    return laplace.reg, laplace.theta, laplace


def _check_outputs(
    output: Path | None,
    plot: Path | None,
    report: Path | None,
    overwrite: bool,
    inputs: list[Path],
) -> None:
    if output is not None:
        figures = [] if plot is None else [plot]
        check_output(output, overwrite, STAR_TABLE_SUFFIXES, *inputs, *figures)
    if plot is not None:
        check_output(plot, overwrite, None, *inputs)
    check_report(report, overwrite, output, plot, *inputs)
