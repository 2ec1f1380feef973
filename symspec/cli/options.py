"""Options that commands share, and the checks and readings that they begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from symspec.spectra.readers.formats import FORMAT_NAMES

if TYPE_CHECKING:
    from symspec.spectra.spectra import Spectra

MODEL_SUFFIXES = (".h5", ".hdf5")

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
Uncertainty = Annotated[
    Literal["std", "var", "ivar"] | None,
    typer.Option(help="What the flux's uncertainty in the file is, where its name does not tell."),
]
Reading = Annotated[
    list[str] | None,
    typer.Option(
        "--read",
        metavar="OPTION=VALUE",
        help=(
            "How spectra are read; repeat for more: bad_error=999, mask_bits=0,1,2,"
            " wavelength_unit=nm, hdu=1, apstar=visits."
        ),
    ),
]
Resample = Annotated[
    Literal["flux_conserving", "linear"] | None,
    typer.Option(
        help="Take the spectra to the network's wavelengths, with their errors' covariance."
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
ModelFile = Annotated[
    Path,
    typer.Argument(metavar="MODEL", help="File written by 'symspec train'.", show_default=False),
]
ModelOutput = Annotated[
    Path, typer.Argument(metavar="OUTPUT", help="The model, .h5.", show_default=False)
]
Hidden = Annotated[list[int], typer.Option(min=1, help="Width of a hidden layer; repeat for more.")]
Validation = Annotated[
    float,
    typer.Option(
        min=0, max=0.9, help="Share of stars never trained on, to test the errors; 0: none."
    ),
]
Tune = Annotated[
    bool,
    typer.Option("--tune/--no-tune", help="Set noise and prior by the evidence, or keep them."),
]
SigmaNoise = Annotated[
    list[float] | None,
    typer.Option(
        help=(
            "Scatter of the labels: one number, or one a label in turn; by default 0.3 of their"
            " spread."
        )
    ),
]
PriorPrecision = Annotated[
    float, typer.Option(help="Precision of the weights' prior; kernels get it times their fan-in.")
]
Labels = Annotated[
    list[str] | None, typer.Option(help="Label to read, in this order; repeat for more.")
]
Catalogue = Annotated[
    Path,
    typer.Argument(
        metavar="CATALOGUE", help="Table to write: .fits, .ecsv, .h5 or .nc.", show_default=False
    ),
]
JacobianOutput = Annotated[
    Path, typer.Argument(metavar="OUTPUT", help="HDF5 file to write.", show_default=False)
]
Plot = Annotated[
    Path | None,
    typer.Option(help="Figure of the mean over stars, by wavelength.", show_default=False),
]
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
AnyFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="A model, a network, or spectra.", show_default=False)
]
DemoFolder = Annotated[Path, typer.Option(help="Folder for the catalogue and the figures.")]


def check_output(
    path: Path, overwrite: bool, suffixes: tuple[str, ...] | None, *inputs: Path
) -> None:
    """Refuse an output that could not be written, before any work; `suffixes` None means those of figures."""
    from symspec.errors import OptionError

    if suffixes is None:
        from symspec.reports.plots import check_figure_suffix

        check_figure_suffix(path)
    elif not path.name.lower().endswith(suffixes):
        raise OptionError(f"{path} should end in one of {', '.join(suffixes)}: rename the output.")
    if any(path.resolve() == other.resolve() for other in inputs):
        raise OptionError(
            f"{path} is named twice, and would be overwritten: give the output another name."
        )
    if any(other.is_dir() and path.resolve().parent == other.resolve() for other in inputs):
        raise OptionError(
            f"{path} would count as one of the spectra, whose folder it is in: give it another"
            " folder."
        )
    if path.is_dir() or not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path} should lie in a folder that exists: create {path.parent} first."
        )
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists already: give another name, or --overwrite to replace it."
        )


def parse_reading(uncertainty: str | None, read: list[str] | None) -> dict[str, Any]:
    """Options of `symspec.read_spectra` from those of the command line."""
    from symspec.errors import OptionError

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
    "wavelength_unit": str,
    "hdu": lambda text: int(text) if text.isdecimal() else text,
    "apstar": str,
}


def read_labelled_spectra(path: Path, label: list[str] | None, options: dict[str, Any]) -> Spectra:
    """Spectra of a file that has labels."""
    from symspec.errors import DataError
    from symspec.spectra.readers.read import read_spectra

    stars = read_spectra(path, label_names=label or None, **options)
    if stars.labels is None:
        raise DataError(
            f"{path} should hold labels to train on, got none under the names known: name them in"
            " the file, labels with label_names, or TEFF, LOGG, FE_H; or say which to read,"
            " --label NAME."
        )
    return stars


def say(text: str) -> None:
    """Print a line with rich's markup on stderr."""
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def one_line(error: BaseException) -> str:
    """An error's words and notes on one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(" ".join([str(error), *getattr(error, "__notes__", ())]).split())


def escape(text: str) -> str:
    """Text in which brackets are no markup."""
    from rich.markup import escape

    return escape(text)


Restart = Annotated[
    bool, typer.Option("--restart", help="Begin anew, whatever an interrupted run has finished.")
]


@contextmanager
def telling_how_to_go_on(output: Path) -> Iterator[None]:
    """Say on Ctrl-C where the finished pieces are."""
    try:
        yield
    except KeyboardInterrupt as error:
        folder = output.with_name(f"{output.name}.partial")
        if not folder.is_dir():
            raise
        say(
            f"Interrupted: finished pieces are kept in {escape(str(folder))}; the same command goes"
            " on from there."
        )
        raise typer.Exit(130) from error
