"""Files of several commands: spectra with labels come in, results of long work are kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from symspec.cli.shared.signals import going_on
from symspec.errors import DataError, DiskFullError
from symspec.spectra.readers.read import read_spectra
from symspec.spectra.spectra import Spectra


def read_labelled_spectra(
    path: Path, label_names: Sequence[str] | None, options: dict[str, Any]
) -> Spectra:
    """Read spectra, which should have labels; stars without names are called by their rows, from 0.

    Whatever is made of some of them says then which of the file's they are.

    Parameters
    ----------
    path : Path
    label_names : sequence of str, optional
        Labels to read, in this order; by default all that are known.
    options : dict
        Options of `symspec.read_spectra`.

    Raises
    ------
    DataError
        The file has no labels.
    """
    stars = read_spectra(path, label_names=label_names or None, **options)
    if stars.labels is None:
        raise DataError(
            f"{path} should hold labels to train on, got none under the names known: name them in"
            " the file, labels with label_names, or TEFF, LOGG, FE_H; or say which to read,"
            " --label NAME."
        )
    if stars.ids is None:
        return replace(stars, ids=np.arange(len(stars)).astype(str))
    return stars


def offer_to_resume(output: Path) -> AbstractContextManager[None]:
    """Say on Ctrl-C where the finished pieces of an output are."""
    folder = output.with_name(f"{output.name}.partial")

    def find_advice() -> str:
        if folder.is_dir():
            return f"finished pieces are kept in {folder}; the same command resumes from there."
        return "no piece was finished; the same command starts again."

    return going_on(find_advice)


def write_or_keep(write: Callable[[Path], object], path: Path) -> None:
    """Write the result of long work; where its disk is full, keep it elsewhere.

    Parameters
    ----------
    write : callable
        Writes the result to a given path.
    path : Path

    Raises
    ------
    DiskFullError
        The disk of `path` is full; a note says where the result is kept.
    """
    try:
        write(path)
    except DiskFullError as error:
        kept = _keep(write, path.name)
        if kept is None:
            error.add_note("Nor is there space in the folder of temporary files or in your own.")
        else:
            error.add_note(f"It is kept as {kept}: move it once there is space.")
        raise


def _keep(write: Callable[[Path], object], name: str) -> Path | None:
    """Write a file where there is space; None if there is none anywhere."""
    for folder in (tempfile.gettempdir(), Path.home()):
        with suppress(OSError):
            own = Path(tempfile.mkdtemp(prefix="symspec-", dir=folder))
            try:
                write(own / name)
            except OSError:
                own.rmdir()
                raise
            return own / name
    return None
