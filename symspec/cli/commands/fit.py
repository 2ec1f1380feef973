"""The command `symspec fit`: a network of any program gets error bars."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from symspec.cli.shared.files import read_labelled_spectra, write_or_keep
from symspec.cli.shared.options import (
    MODEL_SUFFIXES,
    Memory,
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
from symspec.errors import OptionError
from symspec.files.archives import write_laplace
from symspec.files.importers.read import read_network
from symspec.fitting.adoption import adopt_network
from symspec.reports.contents import print_adopted
from symspec.reports.tables import open_console, print_written

EXAMPLES = (
    "Examples: [bold]symspec fit net.keras train.h5 model.h5[/]\n\n"
    "[bold]symspec fit net.onnx train.fits model.h5 --label TEFF --label LOGG --flux-scaling"
    " zscore[/]"
)

NetworkFile = Annotated[
    Path,
    typer.Argument(
        metavar="NETWORK",
        help="Keras, ONNX, PyTorch, or symspec: whatever 'symspec info' reads with its layers.",
        show_default=False,
    ),
]
ModelOutput = Annotated[
    Path, typer.Argument(metavar="OUTPUT", help="The model, .h5.", show_default=False)
]
Move = Annotated[
    Literal["none", "minimum"],
    typer.Option(
        help="Keep the weights, or take them to the minimum, which is far from where training was"
        " stopped early."
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(help="Label of each output of the network, in their order; repeat for more."),
]
LabelScaling = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MEAN,SCALE",
        help="Labels are MEAN + SCALE * output, one pair a label; by default it is found by"
        " comparing them.",
    ),
]
FluxScaling = Annotated[
    Literal["none", "zscore"],
    typer.Option(
        help="The network takes the flux as it is, or less its mean over SPECTRA, divided by its"
        " standard deviation, pixel by pixel."
    ),
]


def fit(
    network: NetworkFile,
    spectra: SpectraFile,
    output: ModelOutput,
    label: Labels = None,
    label_scaling: LabelScaling = None,
    flux_scaling: FluxScaling = "none",
    move: Move = "none",
    uncertainty: Uncertainty = None,
    read: Reading = None,
    structure: Annotated[
        str, typer.Option(help="Structure of the inverse Hessian: auto is exact; kronecker, ...")
    ] = "auto",
    memory: Memory = "8GB",
    report: ReportPage = None,
    object_name: ObjectName = "star",
    overwrite: Overwrite = False,
) -> None:
    """Give a trained network error bars, from the SPECTRA that it was trained on.

    Noise and prior come from the evidence of the network linearised at its weights; how it scales
    its labels is found by comparing. Names, units and wavelengths come from SPECTRA. Each star is
    left out in turn, without training again, to see whether the error bars are true.
    """
    check_output(output, overwrite, MODEL_SUFFIXES, network, spectra)
    check_report(report, overwrite, network, spectra, output)
    net, theta = read_network(network)
    stars = read_labelled_spectra(spectra, label, parse_reading(uncertainty, read))
    adopted = adopt_network(
        net, theta, stars,
        move=move, flux_scaling=flux_scaling, label_scaling=_parse_scaling(label_scaling),
        structure=structure, memory=memory,
    )  # fmt: skip
    write = partial(write_laplace, laplace=adopted.laplace, overwrite=overwrite)
    write_or_keep(write, output)
    console = open_console()
    print_adopted(console, adopted.laplace, adopted.label_scaling.describe())
    print_written(console, "model", output)
    write_page(
        report, adopted.laplace, training=stars,
        files={"the network": network, "training spectra": spectra},
        object_name=object_name, overwrite=overwrite,
    )  # fmt: skip


def _parse_scaling(texts: list[str] | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Means and scales (label,)."""
    if not texts:
        return None
    try:
        pairs = np.array([[float(part) for part in text.split(",")] for text in texts])
        mean, scale = pairs.T
    except ValueError as error:
        raise OptionError(
            f"--label-scaling should be MEAN,SCALE, two numbers, once for each label, got"
            f" {' '.join(texts)}."
        ) from error
    return mean, scale
