"""The command symspec audit: every structure's error bars against the exact ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from symspec.cli.options import (
    AuditOutput,
    AuditPlot,
    ModelFile,
    Overwrite,
    Reading,
    SampleFile,
    SpectraFile,
    Structures,
    Uncertainty,
    check_output,
    parse_reading,
    read_labelled_spectra,
)

if TYPE_CHECKING:
    from symspec.networks.network import Network
    from symspec.spectra.spectra import Spectra


EXAMPLES = (
    "Examples: [bold]symspec audit model.h5 stars.h5 --sample new.h5 --plot audit.png[/]\n\n"
    "[bold]symspec audit model.h5 stars.h5 --structure kronecker --structure last_layer[/]"
)


def audit(
    model: ModelFile,
    spectra: SpectraFile,
    sample: SampleFile = None,
    n_sample: Annotated[
        int, typer.Option(min=1, help="Training stars to compare on, without --sample.")
    ] = 200,
    structure: Structures = None,
    plot: AuditPlot = None,
    output: AuditOutput = None,
    uncertainty: Uncertainty = None,
    read: Reading = None,
    memory: Annotated[str, typer.Option(help="What a factorisation may take.")] = "8GB",
    overwrite: Overwrite = False,
) -> None:
    """Hold the error bars of every structure of the inverse Hessian against the exact ones.

    SPECTRA are the stars that the model was trained on, with their labels.
    """
    from symspec.cli import steps
    from symspec.files.archives import read_regression
    from symspec.reports import star_tables, tables
    from symspec.reports.plots import plot_structure_audit, save_figure
    from symspec.reports.star_tables import write_audit

    inputs = [path for path in (model, spectra, sample, plot) if path is not None]
    if output is not None:
        check_output(output, overwrite, star_tables.STAR_TABLE_SUFFIXES, *inputs)
    if plot is not None:
        check_output(plot, overwrite, None, *inputs[:-1])
    reg, theta = read_regression(model)
    stars, others = _read_audited(reg.net, spectra, sample, parse_reading(uncertainty, read))
    with tables.show_spinner() as spin:
        words = {
            "n_sample": n_sample,
            "structures": structure or (),
            "memory": memory,
            "tell": spin,
        }
        result, ids = steps.audit_spectra(reg, theta, stars, others, **words)
    console = tables.open_console()
    tables.print_audit(console, result)
    if output is not None:
        write_audit(output, result, ids, overwrite=overwrite)
        tables.tell_written(console, "audit", output)
    if plot is not None:
        save_figure(plot_structure_audit(result)[0].figure, plot)
        tables.tell_written(console, "figure", plot)


def _read_audited(
    net: Network, spectra: Path, sample: Path | None, reading: dict[str, Any]
) -> tuple[Spectra, Spectra | None]:
    """The training stars, and those to compare on if they are others."""
    from symspec.spectra.grids import check_grid
    from symspec.spectra.readers.read import read_spectra

    stars = read_labelled_spectra(spectra, list(net.label_names), reading)
    check_grid(net, stars, str(spectra))
    if sample is None:
        return stars, None
    others = read_spectra(sample, **reading)
    check_grid(net, others, str(sample))
    return stars, others
