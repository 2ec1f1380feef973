"""The command `symspec report`: a page about a model's error bars, for a referee."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from symspec.cli.commands.errors import Center, FluxErrors
from symspec.cli.shared.models import read_model
from symspec.cli.shared.options import (
    Fill,
    ModelFile,
    ObjectName,
    Overwrite,
    Reading,
    Resample,
    TrainSeed,
    Uncertainty,
    Validation,
    check_report,
    parse_reading,
)
from symspec.cli.shared.pages import write_page
from symspec.cli.shared.training import read_training_stars
from symspec.errors import OptionError
from symspec.files.catalogue_reading import is_catalogue
from symspec.laplace.budget import choose_center
from symspec.mixtures.posterior import AnyPosterior, list_posteriors
from symspec.spectra.grids import fit_to_network
from symspec.spectra.readers.read import read_spectra
from symspec.spectra.spectra import Spectra

EXAMPLES = (
    "Examples: [bold]symspec report model.h5 catalogue.fits report.html[/]\n\n"
    "[bold]symspec report model.h5 new.h5 report.html --training stars.h5 --choose HD10700[/]"
)

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="[CATALOGUE|SPECTRA] PAGE",
        help="What 'symspec errors' wrote, or spectra to predict, if any; and the page, .html.",
        show_default=False,
    ),
]
TrainingFile = Annotated[
    Path | None,
    typer.Option(
        metavar="SPECTRA",
        help="What the model was trained on, with labels: each star is left out in turn.",
    ),
]
Choose = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Star of SPECTRA whose derivatives are drawn; repeat for more. By default three.",
    ),
]
Title = Annotated[str, typer.Option(help="Title of the page.")]


def report(
    model: ModelFile,
    files: Files,
    training: TrainingFile = None,
    choose: Choose = None,
    title: Title = "",
    object_name: ObjectName = "star",
    center: Center = "auto",
    fill: Fill = "conditional",
    flux_errors: FluxErrors = "linear",
    validation: Validation = 0.1,
    train_seed: TrainSeed = 0,
    uncertainty: Uncertainty = None,
    read: Reading = None,
    resample: Resample = None,
    overwrite: Overwrite = False,
) -> None:
    """Write what a referee asks of a model's error bars as one page, which loads nothing.

    Labels of SPECTRA are held against the predictions. Without CATALOGUE and SPECTRA the stars that
    'symspec train' set aside are predicted, if --training gives them.
    """
    *given, page = files
    if len(given) > 1:
        raise OptionError(
            f"'symspec report' takes a catalogue or spectra, and the page, got {len(files)} files:"
            " give training spectra by --training."
        )
    inputs = [path for path in (model, *given, training) if path is not None]
    check_report(page, overwrite, *inputs)
    laplace = read_model(model)
    reading = parse_reading(uncertainty, read)
    trained, stars = _read_training(laplace, training, reading, validation, train_seed)
    files_read = {"the model": model}
    options: dict[str, Any] = {}
    if given and is_catalogue(given[0]):
        files_read["the catalogue"] = given[0]
        options["catalogue"] = given[0]
        stars = None
    elif given:
        files_read["spectra"] = given[0]
        stars = read_spectra(given[0], **reading)
    if training is not None:
        files_read["training spectra"] = training
    if stars is not None:
        fitted = fit_to_network(laplace.net, stars, resample)
        options["stars"] = fitted
        around = choose_center(list_posteriors(laplace), center)
        options["prediction"] = laplace.predict(fitted, center=around, fill=fill, flux=flux_errors)
    write_page(
        page, laplace, training=trained, chosen=choose or (), title=title, files=files_read,
        object_name=object_name, overwrite=overwrite, **options,
    )  # fmt: skip


def _read_training(
    laplace: AnyPosterior,
    path: Path | None,
    reading: dict[str, Any],
    validation: float,
    seed: int,
) -> tuple[Spectra | None, Spectra | None]:
    """Training stars, and those that were set aside, if there are any."""
    if path is None:
        return None, None
    found = read_training_stars(laplace, path, reading, validation, seed)
    return found.training, found.compared if found.is_set_aside else None
