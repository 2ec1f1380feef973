"""The command `symspec fit`: a network of any program gets error bars."""

from __future__ import annotations

import os
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
    Weights,
    check_output,
    check_report,
    parse_reading,
)
from symspec.cli.shared.pages import write_page
from symspec.errors import OptionError
from symspec.files.archives import write_laplace
from symspec.files.importers.read import read_network
from symspec.fitting.adoption import adopt_networks
from symspec.fitting.starts import put_together, train_again
from symspec.reports.contents import print_adopted
from symspec.reports.tables import open_console, print_written

EXAMPLES = (
    "Examples: [bold]symspec fit net.keras train.h5 model.h5[/]\n\n"
    "[bold]symspec fit net.onnx train.fits model.h5 --label TEFF --label LOGG --flux-scaling"
    " zscore[/]\n\n[bold]symspec fit ensemble_*.keras train.h5 model.h5[/]"
)

NetworkFiles = Annotated[
    list[Path],
    typer.Argument(
        metavar="NETWORK",
        help="Keras, ONNX, PyTorch, or symspec: whatever 'symspec info' reads with its layers."
        " Several, such as those of an ensemble, become one model, a mixture.",
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


CountedFluxErrors = Annotated[
    Literal["beyond-training", "all"],
    typer.Option(
        help="Flux errors of new spectra that count: those beyond the training spectra's, which"
        " noise and model errors hold already, or all."
    ),
]
OwnStarts = Annotated[
    int,
    typer.Option(
        min=1,
        help="Networks of the model: NETWORK, and others of its layers that are trained from other"
        " first weights to minima of its posterior. With --move minimum.",
    ),
]


def fit(
    network: NetworkFiles,
    spectra: SpectraFile,
    output: ModelOutput,
    label: Labels = None,
    label_scaling: LabelScaling = None,
    flux_scaling: FluxScaling = "none",
    count_flux_errors: CountedFluxErrors = "beyond-training",
    move: Move = "none",
    starts: OwnStarts = 1,
    weights: Weights = "equal",
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
    left out in turn, without training again, to see whether the error bars are true. Of a network
    that was stopped early, the other commands take the linearised one, whose error bars these are.

    Labels of several networks are the mean of theirs, and the error bars hold how far these are
    apart.
    """
    check_output(output, overwrite, MODEL_SUFFIXES, *network, spectra)
    check_report(report, overwrite, *network, spectra, output)
    _check_several(network, starts, weights, move)
    networks = [read_network(path) for path in network]
    stars = read_labelled_spectra(spectra, label, parse_reading(uncertainty, read))
    adopted = adopt_networks(
        networks, stars,
        move=move, flux_scaling=flux_scaling, label_scaling=_parse_scaling(label_scaling),
        count_flux_errors=count_flux_errors.replace("-", "_"), structure=structure, memory=memory,
    )  # fmt: skip
    first = adopted[0].laplace
    further = train_again(first, stars, n_starts=starts - 1, structure=structure, memory=memory)
    laplace = put_together([*(one.laplace for one in adopted), *further], weights)
    write_or_keep(partial(write_laplace, laplace=laplace, overwrite=overwrite), output)
    console = open_console()
    scalings = [one.label_scaling.describe() for one in adopted]
    print_adopted(console, laplace, list(zip(network, scalings, strict=True)))
    print_written(console, "model", output)
    files = {"the network": network[0]}
    if len(network) > 1:
        files = {f"network {k}": path for k, path in enumerate(network, 1)}
    write_page(
        report, laplace, training=stars, files=files | {"training spectra": spectra},
        object_name=object_name, overwrite=overwrite,
    )  # fmt: skip


def _check_several(network: list[Path], starts: int, weights: str, move: str) -> None:
    """Refuse, before any work, several networks that would not be what they seem.

    Raises
    ------
    OptionError
    """
    n_networks = len({os.path.realpath(path) for path in network})
    if n_networks < len(network):
        raise OptionError("networks of a mixture should be different files, got one of them twice.")
    if starts > 1 and n_networks > 1:
        raise OptionError(
            f"--starts is of one NETWORK, got {n_networks}, which make a mixture as they are: leave"
            " it out."
        )
    if starts > 1 and move == "none":
        raise OptionError(
            "--starts takes --move minimum: how NETWORK was trained is not known, so that others"
            " go to minima of its posterior, where it is then, too. Or give several networks that"
            " were trained alike."
        )
    if weights == "evidence" and move == "none":
        raise OptionError(
            "--weights evidence takes --move minimum: the evidence of a network is that around a"
            " minimum, and without it weights stay where training stopped."
        )


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
