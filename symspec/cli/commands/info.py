"""The command `symspec info`: the contents of a file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from symspec.cli.shared.models import OneNetwork, choose_network, read_model
from symspec.cli.shared.options import Reading, Uncertainty, parse_reading
from symspec.errors import UnusedDataWarning
from symspec.files.archives import read_network, read_regression
from symspec.files.importers.descriptions import describe_file, is_foreign_network
from symspec.files.stored.archive import find_archive_kind
from symspec.mixtures.posterior import CombinedPosterior
from symspec.reports.contents import (
    print_foreign_network,
    print_laplace,
    print_mixture,
    print_network,
    print_spectra,
)
from symspec.reports.tables import open_console
from symspec.spectra.readers.read import open_spectra

EXAMPLES = "Example: [bold]symspec info model.h5[/]"

AnyFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="A model, a network, or spectra.", show_default=False)
]


def info(
    file: AnyFile,
    network: OneNetwork = None,
    uncertainty: Uncertainty = None,
    read: Reading = None,
) -> None:
    """Describe a file: a model with error bars, a network of any program, or spectra."""
    console = open_console()
    kind = find_archive_kind(file)
    if kind in ("laplace", "mixture"):
        _print_model(console, file, network)
    elif kind == "regression":
        reg, _ = read_regression(file)
        print_network(console, reg.net, reg, str(file))
    elif kind == "network":
        net, _ = read_network(file)
        print_network(console, net, None, str(file))
    elif is_foreign_network(file):
        print_foreign_network(console, describe_file(file), str(file))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnusedDataWarning)  # said below
            opened = open_spectra(file, **parse_reading(uncertainty, read))
            with opened as source:
                print_spectra(console, source.read(), str(file), source.contents)


def _print_model(console: Console, file: Path, network: int | None) -> None:
    model = read_model(file)
    if network is None and isinstance(model, CombinedPosterior):
        print_mixture(console, model, str(file))
    else:
        print_laplace(console, choose_network(model, file, network), str(file))
