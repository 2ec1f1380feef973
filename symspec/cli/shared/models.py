"""The model that a command is given: of one network, or of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from symspec.errors import FileFormatError, OptionError
from symspec.files.archives import read_laplace
from symspec.files.importers.descriptions import is_foreign_network
from symspec.files.stored.archive import find_archive_kind
from symspec.laplace.posterior import LaplacePosterior
from symspec.mixtures.posterior import AnyPosterior, list_posteriors

OneNetwork = Annotated[
    int | None,
    typer.Option(
        "--network",
        min=1,
        metavar="NUMBER",
        help="Of a MODEL of several networks the one to take, from 1.",
        show_default=False,
    ),
]


def read_model(path: Path) -> AnyPosterior:
    """Read a model of one network or of several.

    Raises
    ------
    OptionError
        It is a network without error bars; the message says how it gets some.
    FileNotFoundError, FileFormatError
        As `symspec.read_laplace`.
    """
    try:
        return read_laplace(path)
    except FileFormatError as error:
        if not _is_network(path):
            raise
        raise OptionError(
            f"{path} should be a model with error bars, got a network alone: 'symspec fit"
            f" {path.name} STARS model.h5' makes one, from the spectra that it was trained on."
        ) from error


def read_one_network(path: Path, number: int | None, why: str) -> LaplacePosterior:
    """Read a model of one network, or one of a model of several.

    Parameters
    ----------
    path : Path
    number : int or None
        Of the network, from 1.
    why : str
        Why a command takes one: "... one network".

    Raises
    ------
    OptionError
        There are several and no number is given, or not so many.
    FileNotFoundError, FileFormatError
        As `symspec.read_laplace`.
    """
    return choose_network(read_model(path), path, number, why)


def choose_network(
    model: AnyPosterior, path: Path, number: int | None, why: str = ""
) -> LaplacePosterior:
    """One network of a model, as `read_one_network` does."""
    if isinstance(model, LaplacePosterior) and number is None:
        return model
    several = list_posteriors(model)
    if number is None:
        raise OptionError(
            f"{path} holds {len(several)} networks, but {why}: choose it, --network 1 to --network"
            f" {len(several)}."
        )
    if number > len(several):
        holds = "one network" if len(several) == 1 else f"{len(several)} networks"
        raise OptionError(f"--network should be at most {len(several)}, as {path} holds {holds}.")
    return several[number - 1]


def _is_network(path: Path) -> bool:
    """Whether a file is a network without error bars, symspec's own or of another program."""
    try:
        return find_archive_kind(path) is not None or is_foreign_network(path)
    except FileFormatError:
        return False
