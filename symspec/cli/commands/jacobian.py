"""The command `symspec jacobian`: derivatives of labels by pixels, for files of any length."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from symspec.cli.shared.files import offer_to_resume
from symspec.cli.shared.models import OneNetwork, choose_network, read_model
from symspec.cli.shared.options import (
    MODEL_SUFFIXES,
    ModelFile,
    Overwrite,
    Reading,
    Resample,
    Restart,
    Scheduler,
    SpectraFile,
    Uncertainty,
    check_output,
    parse_reading,
)
from symspec.files.archives import read_flux_prior
from symspec.files.importers.read import read_network
from symspec.files.jacobians import write_jacobian
from symspec.files.partial_runs import is_finished
from symspec.files.stored.archive import find_archive_kind
from symspec.mixtures.left_out import has_one_training_set
from symspec.mixtures.mean_network import build_mean_network
from symspec.mixtures.posterior import CombinedPosterior
from symspec.networks.network import Network
from symspec.reports.plots import save_figure
from symspec.reports.sensitivity import plot_sensitivity
from symspec.reports.tables import open_console, print_written
from symspec.spectra.flux_prior import FluxPrior

EXAMPLES = (
    "Examples: [bold]symspec jacobian model.h5 stars.h5 jacobian.h5[/]\n\n"
    "[bold]symspec jacobian model.h5 stars.h5 jacobian.h5 --dtype float32 --plot sensitivity.png[/]"
)

JacobianOutput = Annotated[
    Path, typer.Argument(metavar="OUTPUT", help="HDF5 file to write.", show_default=False)
]
OwnFill = Annotated[
    Literal["conditional", "mean"] | None,
    typer.Option(
        help="Fill missing pixels with their mean given the good ones, or the training mean. By"
        " default the former, if MODEL holds what its training spectra tell of them.",
        show_default=False,
    ),
]
Dtype = Annotated[Literal["float64", "float32"], typer.Option(help="Precision of the numbers.")]
Compression = Annotated[
    Literal["gzip", "none"],
    typer.Option(help="gzip saves a tenth of the disk space; none is several times as fast."),
]
Plot = Annotated[
    Path | None,
    typer.Option(help="Figure of the mean over stars, by wavelength.", show_default=False),
]


def jacobian(
    model: ModelFile,
    spectra: SpectraFile,
    output: JacobianOutput,
    network: OneNetwork = None,
    plot: Plot = None,
    dtype: Dtype = "float64",
    compression: Compression = "gzip",
    fill: OwnFill = None,
    uncertainty: Uncertainty = None,
    read: Reading = None,
    resample: Resample = None,
    scheduler: Scheduler = None,
    restart: Restart = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the derivative of every label with respect to every pixel, for every star.

    Files may be of any length. Until the output is complete, finished pieces are kept in
    OUTPUT.partial, for anyone to read: after an interruption the same command resumes from there.
    They take as much disk space as the output. Of several networks, derivatives are those of their
    mean labels, or of the one that --network chooses.
    """
    may_exist = overwrite or is_finished(output)
    check_output(output, may_exist, MODEL_SUFFIXES, model, spectra)
    if plot is not None:
        check_output(plot, overwrite, None, output, model, spectra)
    net, theta, flux_prior = _read_model(model, network)
    with offer_to_resume(output):
        summary = write_jacobian(
            output, net, theta, spectra,
            flux_prior=flux_prior, fill=fill, dtype=dtype, compression=compression,
            resample=resample, scheduler=scheduler, restart=restart, overwrite=overwrite,
            **parse_reading(uncertainty, read),
        )  # fmt: skip
    console = open_console()
    shape = f"(star {summary.n_stars:,}, label {net.n_labels}, pixel {net.n_pixels:,})"
    print_written(console, f"jacobian {shape}", output)
    if plot is not None:
        axes = plot_sensitivity(
            summary.mean,
            summary.wavelength,
            label_names=net.label_names,
            label_units=net.label_units,
            flux=summary.flux,
            wavelength_unit=summary.wavelength_unit,
            wavelength_medium=summary.wavelength_medium,
        )
        print_written(console, "figure", save_figure(axes[0].figure, plot))


def _read_model(model: Path, network: int | None) -> tuple[Network, np.ndarray, FluxPrior | None]:
    """A network, its weights, and what training spectra tell of missing pixels, if it is known."""
    if network is None and find_archive_kind(model) != "mixture":
        return *read_network(model), read_flux_prior(model)
    laplace = read_model(model)
    if network is None and isinstance(laplace, CombinedPosterior):
        prior = laplace.posteriors[0].flux_prior if has_one_training_set(laplace) else None
        return *build_mean_network(laplace), prior
    one = choose_network(laplace, model, network)
    return one.net, one.theta, one.flux_prior
