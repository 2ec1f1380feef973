"""Influential and suspicious training stars, on screen and as tables in the formats of catalogues.

Groups of training stars, where these are left out together, are told by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from symspec.files.catalogue_columns import CENTERS, Column, name_labels, refuse_duplicates
from symspec.laplace.prediction import Prediction, standard_deviations
from symspec.reports.tables import format_number, format_to, format_with_error, new_table
from symspec.spectra.spectra import with_unit
from symspec.validation.influence import Movers, Suspects
from symspec.workers.versions import find_versions

MOST_NAMES = 5  # that a sentence lists


@dataclass(frozen=True, eq=False, kw_only=True)
class Influence:
    """What training stars moved, with all names that a table takes.

    Attributes
    ----------
    movers : Movers
    prediction : Prediction
        Of the new stars.
    ids : sequence of str
        Their names.
    group_names : sequence of str
        Those of the training stars, or of the groups of them.
    unit : str
        What was left out: "star" or "group".
    """

    movers: Movers
    prediction: Prediction
    ids: Sequence[str]
    group_names: Sequence[str]
    unit: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Contradictions:
    """Training labels against what the other stars say, with all names that a table takes.

    Attributes
    ----------
    suspects : Suspects
        All labels.
    prediction : Prediction
        Of the training stars, each left out.
    ids : sequence of str
        Their names.
    group_of : sequence of str or None
        Name of the group that each was left out with.
    """

    suspects: Suspects
    prediction: Prediction
    ids: Sequence[str]
    group_of: Sequence[str] | None


def influence_table(found: Influence, name: str, star: int) -> Table:
    """A row a label of a new star: as predicted, and without each star that moved it most."""
    movers = found.movers
    table = new_table(
        f"Star {name}: the training {found.unit}s that moved it most",
        ["without", "label", "is", "moved by", "over error"],
        left=2,
    )
    table.caption = (
        f"moved by: the label as predicted, less without the training {found.unit}; over error: the"
        " same in model errors, which stand beside the first"
    )
    table.caption += describe_unknown([found.group_names[group] for group in movers.unknown])
    errors = standard_deviations(found.prediction.model_cov)[star]
    titles = _list_titles(found.prediction)
    first = "nothing"
    for c, title in enumerate(titles):
        predicted = format_with_error(float(found.prediction.labels[star, c]), float(errors[c]))
        table.add_row(first, escape(title), predicted, "", "")
        first = ""
    for rank, group in enumerate(movers.group[star]):
        first = found.group_names[group]
        for c, title in enumerate(titles):
            without = format_to(float(movers.without[star, rank, c]), float(errors[c]))
            moved = format_change(float(movers.moved[star, rank, c]))
            share = f"{movers.shares[star, rank, c]:+.2f}"
            table.add_row(escape(first), escape(title), without, moved, share)
            first = ""
    return table


def describe_unknown(names: Sequence[str]) -> str:
    """What is not known of training stars or groups of these names, as the end of a sentence."""
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return (
        f"; not known of {', '.join(names[:MOST_NAMES])}{more}: without it no minimum is left, or"
        " nothing that holds a weight"
    )


def suspect_table(found: Contradictions, *, n_worst: int) -> Table:
    """One row a training label, those farthest from what all others say first."""
    suspects = found.suspects
    n = min(n_worst, len(suspects.star))
    table = new_table(
        f"The {n:,} of {len(suspects.star):,} training labels that contradict all others most",
        ["star", "label", "its label", "predicted", "z"],
        left=2,
    )
    whose = "the star" if found.group_of is None else "the star and its group"
    table.caption = (
        f"predicted: without {whose}; z: predicted less the label, over the error; of normal errors"
        " hardly ever beyond 5"
    )
    titles = _list_titles(found.prediction)
    for i in range(n):
        table.add_row(
            escape(found.ids[suspects.star[i]]),
            escape(titles[suspects.label[i]]),
            format_number(float(suspects.value[i])),
            format_with_error(float(suspects.predicted[i]), float(suspects.error[i])),
            format_change(float(suspects.z[i])),
        )
    return table


def list_influence(found: Influence) -> dict[str, Column]:
    """Columns of a table with one row a new star and training star, for `write_columns`.

    They are ID, WITHOUT, the training star or group, and RANK, 1 for the one that moved most; then
    for a label TEFF: TEFF as predicted, TEFF_MODEL_ERR, TEFF_MOVED, TEFF_MOVED_SD in model errors,
    and TEFF_WITHOUT, what it would be.
    """
    movers = found.movers
    prediction = found.prediction
    n_stars, n_ranks = movers.group.shape
    rows = np.repeat(np.arange(n_stars), n_ranks)
    names = np.asarray(found.group_names)[movers.group.ravel()]
    ranks = np.tile(np.arange(1, n_ranks + 1), n_stars)
    columns = [
        ("ID", Column(np.asarray(found.ids)[rows], "", "the star predicted")),
        ("WITHOUT", Column(names, "", f"the training {found.unit} left out")),
        ("RANK", Column(ranks, "", "1 for the one that moved labels by most model errors")),
    ]
    errors = standard_deviations(prediction.model_cov)
    for c, name in enumerate(name_labels(prediction.label_names)):
        unit = prediction.label_units[c]
        of_label = {
            "": Column(prediction.labels[rows, c], unit, "as predicted"),
            "_MODEL_ERR": Column(errors[rows, c], unit, "its model error"),
            "_MOVED": Column(movers.moved[:, :, c].ravel(), unit, "as predicted, less without"),
            "_MOVED_SD": Column(movers.shares[:, :, c].ravel(), "", "the same in model errors"),
            "_WITHOUT": Column(movers.without[:, :, c].ravel(), unit, "without"),
        }
        columns += [(f"{name}{kind}", column) for kind, column in of_label.items()]
    return _by_name(columns)


def list_suspects(found: Contradictions) -> dict[str, Column]:
    """Columns of a table with one row a training star, the most suspicious first.

    They are ID, GROUP where stars are left out in groups, then for a label TEFF: TEFF as known,
    TEFF_WITHOUT, predicted without the star or its group, TEFF_WITHOUT_ERR, the error of that, and
    TEFF_Z, their difference over it. NaN where the label is missing.
    """
    suspects = found.suspects
    prediction = found.prediction
    stars, first = np.unique(suspects.star, return_index=True)
    order = stars[np.argsort(first)]
    known = {"value": suspects.value, "error": suspects.error, "z": suspects.z}
    filled = {name: np.full(prediction.labels.shape, np.nan) for name in known}
    for name, values in known.items():
        filled[name][suspects.star, suspects.label] = values
    columns = [("ID", Column(np.asarray(found.ids)[order], "", "the training star"))]
    if found.group_of is not None:
        groups = np.asarray(found.group_of)[order]
        columns.append(("GROUP", Column(groups, "", "what was left out with it")))
    for c, name in enumerate(name_labels(prediction.label_names)):
        unit = prediction.label_units[c]
        of_label = {
            "": Column(filled["value"][order, c], unit, "as known"),
            "_WITHOUT": Column(prediction.labels[order, c], unit, "predicted without it"),
            "_WITHOUT_ERR": Column(filled["error"][order, c], unit, "error of that"),
            "_Z": Column(filled["z"][order, c], "", "predicted less known, over the error"),
        }
        columns += [(f"{name}{kind}", column) for kind, column in of_label.items()]
    return _by_name(columns)


def describe_labels(prediction: Prediction) -> dict[str, Any]:
    """Header of either table: versions, labels and units, and what the labels are."""
    header: dict[str, Any] = {name.upper(): number for name, number in find_versions().items()}
    labels = zip(prediction.label_names, prediction.label_units, strict=True)
    for i, (name, unit) in enumerate(labels, 1):
        header |= {f"LABEL{i}": name, f"UNIT{i}": unit}
    return header | {"CENTER": CENTERS[prediction.center]}


def format_change(value: float) -> str:
    """Three digits with the sign; "-" where it is not known."""
    return "-" if np.isnan(value) else f"{'+' if value > 0 else ''}{format_number(value)}"


def _by_name(columns: list[tuple[str, Column]]) -> dict[str, Column]:
    refuse_duplicates([name for name, _ in columns])
    return dict(columns)


def _list_titles(prediction: Prediction) -> list[str]:
    return list(map(with_unit, prediction.label_names, prediction.label_units))
