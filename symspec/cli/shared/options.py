"""Options that several commands share, and the checks of what is given for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from symspec.errors import OptionError
from symspec.safety.whole_files import check_target
from symspec.spectra.readers.formats import FORMAT_NAMES

MODEL_SUFFIXES = (".h5", ".hdf5")

ModelFile = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="File written by 'symspec train' or 'symspec fit'.",
        show_default=False,
    ),
]
SpectraFile = Annotated[
    Path,
    typer.Argument(
        metavar="SPECTRA",
        help=f"{FORMAT_NAMES} file of spectra, or a folder of files of one star each.",
        show_default=False,
    ),
]
Uncertainty = Annotated[
    Literal["std", "var", "ivar"] | None,
    typer.Option(help="What the flux's uncertainty in the file is, if its name does not say."),
]
Reading = Annotated[
    list[str] | None,
    typer.Option(
        "--read",
        metavar="OPTION=VALUE",
        help=(
            "How spectra are read; repeat for more: bad_error=999, mask_bits=0,1,2,"
            " wavelength_unit=nm, wavelength_medium=air, hdu=1, arm=B, apstar=visits, flux=NAME,"
            " wavelength=NAME, uncertainty=std:NAME, label_errors=none, missing_label_error=infer;"
            " of tables group=COLUMN, separator=semicolon, decimal=comma, orientation=columns,"
            " encoding=cp1252, sheet=NAME, labels=FILE."
        ),
    ),
]
Resample = Annotated[
    Literal["flux_conserving", "linear"] | None,
    typer.Option(
        help="Take the spectra to the network's wavelengths, with their errors' covariance."
    ),
]
Fill = Annotated[
    Literal["conditional", "mean"],
    typer.Option(
        help="Fill missing pixels with their mean given the good ones, or the training mean; what"
        " either costs is in the errors."
    ),
]
Validation = Annotated[
    float,
    typer.Option(
        min=0, max=0.9, help="Share of stars never trained on, to test the errors; 0: none."
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="What says which spectra are of one sample, which are never parted; by default a"
        " column group, else spectra of one name.",
    ),
]
TrainSeed = Annotated[
    int, typer.Option(min=0, help="The --seed of 'symspec train', which set stars aside.")
]
ReportPage = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="PAGE",
        help="Write a page on all this, as 'symspec report' does, .html.",
    ),
]
ObjectName = Annotated[
    str, typer.Option(metavar="WORD", help="What the spectra are of, in the report: sample, ...")
]
Starts = Annotated[
    int,
    typer.Option(min=1, help="Networks trained from other first weights, as one model: a mixture."),
]
Weights = Annotated[
    Literal["equal", "evidence"],
    typer.Option(
        help="How several networks count: alike, or by the evidence, of which a few nats make one"
        " count alone."
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="local|ADDRESS",
        help="Who does the work: a process for each core, or the workers of a dask scheduler, such"
        " as tcp://node1:8786. By default this process alone.",
        show_default=False,
    ),
]
Memory = Annotated[str, typer.Option(help="What a factorisation may take.")]
Restart = Annotated[
    bool, typer.Option("--restart", help="Start again, without the pieces of an interrupted run.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]


def check_report(page: Path | None, overwrite: bool, *others: Path | None) -> None:
    """Refuse a page that could not be written, or that another file is, before any work."""
    if page is not None:
        named = [path for path in others if path is not None]
        check_output(page, overwrite, (".html", ".htm"), *named)


def check_output(
    path: Path, overwrite: bool, suffixes: tuple[str, ...] | None, *inputs: Path
) -> None:
    """Refuse an output that could not be written, before any work.

    Parameters
    ----------
    path : Path
    overwrite : bool
        Whether an existing file may be replaced.
    suffixes : tuple of str or None
        Suffixes of the formats that can be written; None: those of figures.
    *inputs : Path
        Files that should not be overwritten, and folders of spectra.
    """
    if suffixes is None:
        from symspec.reports.plots import check_figure_suffix

        check_figure_suffix(path)
    elif not path.name.lower().endswith(suffixes):
        raise OptionError(f"{path} should end in one of {', '.join(suffixes)}: rename the output.")
    target = os.path.realpath(path)  # Path.resolve raises an error on links in a circle
    if any(target == os.path.realpath(other) for other in inputs):
        raise OptionError(
            f"{path} is named twice, and would be overwritten: give the output another name."
        )
    folders = [os.path.realpath(other) for other in inputs if other.is_dir()]
    if os.path.dirname(target) in folders:
        raise OptionError(
            f"{path} would count as one of the spectra, whose folder it is in: give it another"
            " folder."
        )
    check_target(path, overwrite=overwrite)


def parse_reading(uncertainty: str | None, read: list[str] | None) -> dict[str, Any]:
    """Options of `symspec.read_spectra` from those of the command line."""
    options: dict[str, Any] = {"uncertainty": uncertainty}
    for text in read or ():
        name, _, value = text.partition("=")
        try:
            options[name] = _READ[name](value)
        except (KeyError, ValueError) as error:
            raise OptionError(
                f"--read should be one of {', '.join(f'{known}=...' for known in _READ)}, with a"
                f" number where one belongs, got {text!r}."
            ) from error
    return options


_READ: dict[str, Callable[[str], Any]] = {
    "bad_error": float,
    "mask_bits": lambda text: tuple(int(bit) for bit in text.split(",") if bit),
    "uncertainty": str,
    "wavelength_unit": str,
    "wavelength_medium": str,
    "flux": str,
    "wavelength": str,
    "hdu": lambda text: int(text) if text.isdecimal() else text,
    "arm": str,
    "group": str,
    "separator": str,
    "decimal": lambda text: {"comma": ",", "point": "."}.get(text, text),
    "orientation": str,
    "encoding": str,
    "sheet": str,
    "labels": str,
    "apstar": str,
    "label_errors": str,
    "missing_label_error": str,
}
