"""The command `symspec influence`: training stars that move predictions, and suspicious ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from rich.markup import escape

from symspec.cli.commands.errors import Center
from symspec.cli.shared.models import read_model
from symspec.cli.shared.options import (
    ModelFile,
    Overwrite,
    Reading,
    Resample,
    SpectraFile,
    TrainSeed,
    Uncertainty,
    Validation,
    check_output,
    parse_reading,
)
from symspec.cli.shared.training import read_training_stars
from symspec.errors import DataError, OptionError
from symspec.files.catalogue_reading import is_catalogue
from symspec.files.catalogues import SUFFIXES, write_columns
from symspec.laplace.budget import choose_center
from symspec.laplace.prediction import Prediction
from symspec.mixtures.left_out import AnyLeftOut, leave_out
from symspec.mixtures.posterior import AnyPosterior, list_posteriors
from symspec.reports.influence import (
    Contradictions,
    Influence,
    describe_labels,
    influence_table,
    list_influence,
    list_suspects,
    suspect_table,
)
from symspec.reports.pages.figures.derivatives import choose_stars
from symspec.reports.pages.gather import has_loss_of
from symspec.reports.tables import open_console, print_written
from symspec.safety.label_errors import find_labels_alone
from symspec.safety.progress import show_progress
from symspec.spectra.grids import fit_to_network
from symspec.spectra.readers.read import read_spectra
from symspec.spectra.selections import find_groups, name_groups
from symspec.spectra.spectra import Spectra
from symspec.validation.influence import Movers, find_movers, find_suspects

EXAMPLES = (
    "Examples: [bold]symspec influence model.h5 stars.h5 new.h5 --output moved.ecsv[/]\n\n"
    "[bold]symspec influence model.h5 soils.csv --group Sample --suspects suspects.fits[/]"
)

NewFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="NEW",
        help="Spectra whose labels are moved; by default those that train set aside, or its own.",
        show_default=False,
    ),
]
Choose = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Star of NEW to show; repeat for more. By default three; --output has all.",
    ),
]
Most = Annotated[int, typer.Option(min=1, help="Training stars for each new star.")]
Worst = Annotated[int, typer.Option(min=1, help="Suspicious labels shown; --suspects has all.")]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Table of what moved each new star: .fits, .ecsv, .h5 or .nc.",
        show_default=False,
    ),
]
SuspectOutput = Annotated[
    Path | None,
    typer.Option(
        "--suspects",
        metavar="FILE",
        help="Table of all training stars, each predicted without it, in the same formats.",
        show_default=False,
    ),
]
Curvature = Annotated[
    Literal["ggn", "hessian", "auto"],
    typer.Option(
        help="What others move by: the Gauss-Newton matrix, or at a minimum the exact Hessian, as"
        " training again would; auto is that up to 8,000 weights in the span of SPECTRA. Of more it"
        " takes some sixty products with it for each label of NEW."
    ),
]
OwnGroup = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="What says which spectra are of one sample, which are left out together; by default a"
        " column group, else spectra of one name.",
    ),
]


def influence(
    model: ModelFile,
    spectra: SpectraFile,
    new: NewFile = None,
    choose: Choose = None,
    most: Most = 3,
    worst: Worst = 10,
    group: OwnGroup = None,
    output: Output = None,
    suspects: SuspectOutput = None,
    center: Center = "auto",
    curvature: Curvature = "auto",
    validation: Validation = 0.1,
    train_seed: TrainSeed = 0,
    uncertainty: Uncertainty = None,
    read: Reading = None,
    resample: Resample = None,
    overwrite: Overwrite = False,
) -> None:
    """Tell what each training star does to predictions, and whose labels contradict all others.

    SPECTRA are the stars that the model was trained on, with their labels. Each is left out in
    turn, without training again: exact for the network linearised at its weights, and normal noise.
    """
    _check_files(output, suspects, overwrite, model, spectra, new)
    laplace = read_model(model)
    reading = parse_reading(uncertainty, read)
    own = {"group": group} | reading
    trained, sample, is_other = read_training_stars(laplace, spectra, own, validation, train_seed)
    _check_loss(laplace, trained)
    sample = sample if new is None else read_spectra(new, **reading)
    fitted = fit_to_network(laplace.net, sample, resample)
    around = choose_center(list_posteriors(laplace), center)
    prediction = laplace.predict(fitted, center=around)
    ids = _name_stars(sample)
    chosen = choose_stars(prediction.labels, ids, choose or ())
    groups = _find_groups(trained)
    with show_progress(True) as show:
        show("leaving training stars out", 0, None)
        left_out = leave_out(laplace, trained, groups=groups)
    movers = find_movers(left_out, fitted, prediction, n_most=most, curvature=curvature)
    moved = _name_movers(movers, prediction, ids, trained, groups)
    suspicious = _find_contradictions(left_out, trained, groups, around)
    console = open_console()
    console.print(_say_whose(len(ids), new, is_other), soft_wrap=True)
    for name, star in chosen.items():
        console.print(influence_table(moved, name, star))
    console.print(suspect_table(suspicious, n_worst=worst))
    header = describe_labels(prediction)
    if output is not None:
        write_columns(output, list_influence(moved), header, overwrite=overwrite)
        print_written(console, "influence", output)
    if suspects is not None:
        write_columns(suspects, list_suspects(suspicious), header, overwrite=overwrite)
        print_written(console, "suspects", suspects)


def _check_files(
    output: Path | None,
    suspects: Path | None,
    overwrite: bool,
    model: Path,
    spectra: Path,
    new: Path | None,
) -> None:
    """Refuse outputs that could not be written, and a catalogue in place of spectra."""
    inputs = [path for path in (model, spectra, new) if path is not None]
    if new is not None and is_catalogue(new):
        raise OptionError(
            f"{new} should hold spectra, got a catalogue of labels: give the spectra that it was"
            " made of."
        )
    written = [path for path in (output, suspects) if path is not None]
    for i, path in enumerate(written):
        check_output(path, overwrite, tuple(SUFFIXES), *inputs, *written[:i])


def _check_loss(laplace: AnyPosterior, trained: Spectra) -> None:
    """Refuse labels, or errors of labels, that the model was not trained on."""
    if not all(has_loss_of(one, trained) for one in list_posteriors(laplace)):
        raise DataError(
            "the training stars should have the labels, and the errors of labels, that the model"
            " was trained on, got others, of another negative log posterior: give the same file and"
            " --read options, such as --read label_errors=none."
        )


def _say_whose(n_stars: int, new: Path | None, is_other: bool) -> str:
    """Whose predictions were moved."""
    if new is not None:
        return f"Predictions of the {n_stars:,} stars of {escape(new.name)}"
    own = "that were set aside in training" if is_other else "that the model was trained on"
    return f"Predictions of the {n_stars:,} stars {own}"


def _find_groups(trained: Spectra) -> np.ndarray | None:
    """Number (star,) of each star's group; None where each is alone."""
    groups = find_groups(trained)
    return groups if np.unique(groups).size < len(trained) else None


def _name_stars(spectra: Spectra) -> list[str]:
    return list(map(str, range(len(spectra)) if spectra.ids is None else spectra.ids))


def _name_movers(
    movers: Movers,
    prediction: Prediction,
    ids: list[str],
    trained: Spectra,
    groups: np.ndarray | None,
) -> Influence:
    return Influence(
        movers=movers,
        prediction=prediction,
        ids=ids,
        group_names=name_groups(trained),
        unit="star" if groups is None else "group",
    )


def _find_contradictions(
    left_out: AnyLeftOut, trained: Spectra, groups: np.ndarray | None, center: str
) -> Contradictions:
    prediction = left_out.predict(center)
    names = name_groups(trained)
    return Contradictions(
        suspects=find_suspects(prediction, find_labels_alone(left_out.stars.labels)),
        prediction=prediction,
        ids=_name_stars(trained),
        group_of=None if groups is None else [names[group] for group in groups],
    )
