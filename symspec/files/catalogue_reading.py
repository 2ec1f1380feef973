"""Catalogues that `write_catalogue` and `predict_survey` wrote, read back as predictions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError
from symspec.files.catalogue_columns import (
    CENTERS,
    COLUMN_NAMES,
    FILLS,
    MEAN,
    PROPAGATIONS,
    name_labels,
)
from symspec.files.catalogue_formats import StoredTable, find_table
from symspec.files.surveys import Survey
from symspec.laplace.prediction import Prediction
from symspec.safety.file_formats import as_format_error


@dataclass(frozen=True, kw_only=True)
class Catalogue(Survey):
    """A catalogue that was read: what it holds of its survey, and its header.

    Attributes
    ----------
    header : dict of str to str or number
    interval : numpy.ndarray, shape (star, label, 2), or None
        Intervals, if it holds some.
    level : float or None
        Their level.
    has_wide_tails : bool
        The noise is not normal: errors are half widths of 68.27 %, and intervals of other levels
        do not follow from them.
    n_networks : int
        Those of the mixture that it is of; of more than one its intervals do not follow, either.
    between_cov : numpy.ndarray, shape (star, label, label), or None
        The part of the model covariance between them.
    """

    header: dict[str, Any]
    interval: np.ndarray | None
    level: float | None
    has_wide_tails: bool
    n_networks: int
    between_cov: np.ndarray | None


def is_catalogue(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a catalogue of symspec's; a damaged file is none."""
    try:
        return find_table(Path(path)) is not None
    except Exception:  # a library may raise anything at all on a file of another kind
        return False


def read_catalogue(path: str | os.PathLike[str]) -> Catalogue:
    """Read a catalogue that `write_catalogue` or `predict_survey` wrote.

    Columns of it that are left out are None, or zero for errors of the flux that are unknown.

    Raises
    ------
    FileFormatError
        It is no catalogue of symspec's, or a damaged one.
    """
    what = "a catalogue of symspec's"
    with as_format_error(path, what):
        table = find_table(Path(path))
    if table is None:
        raise FileFormatError(
            f"{path} should be {what}, got another file: give one that 'symspec errors' or"
            " write_catalogue wrote."
        )
    with as_format_error(path, what):
        return _build_catalogue(table)


class _Stored:
    """Arrays of a stored table, by the kinds of its columns under either convention of names."""

    def __init__(self, table: StoredTable):
        self.header = table.header
        self._columns = table.columns
        is_upper = "FLAGS" in table.columns
        self._fold = str.upper if is_upper else str.lower
        self._names = COLUMN_NAMES["upper" if is_upper else "lower"]
        self.labels = [str(self.header[f"LABEL{i + 1}"]) for i in range(self.header["N_LABELS"])]
        self.units = [str(self.header.get(f"UNIT{i + 1}") or "") for i in range(len(self.labels))]

    def find(self, name: str) -> np.ndarray | None:
        """A column, numbers in the machine's order of bytes; None if it was left out."""
        column = self._columns.get(self._fold(name))
        if column is None or column.dtype.isnative:
            return column
        return column.astype(column.dtype.newbyteorder("="))

    def take(self, name: str) -> np.ndarray:
        """A column that every catalogue has."""
        column = self.find(name)
        if column is None:
            raise KeyError(self._fold(name))
        return column

    def covariance(self, part: str = "") -> np.ndarray | None:
        """The total covariance, or a part of it."""
        return self.find(self._names["part_cov" if part else "total_cov"].format("", part))

    def stack(self, kind: str) -> np.ndarray | None:
        """A column of each label, side by side; None if they were left out."""
        patterns = {"": "{0}", **self._names}
        names = [patterns[kind].format(label) for label in name_labels(self.labels)]
        if self.find(names[0]) is None:
            return None
        return np.stack([self.take(name) for name in names], axis=1)

    def find_word(self, key: str, meanings: Mapping[str, str], before: str) -> str:
        """The word for what the header says; `before` the first version that says it."""
        if key not in self.header:
            return before
        said = str(self.header[key]).removesuffix(MEAN)
        return {meaning: word for word, meaning in meanings.items()}[said]


def _build_catalogue(table: StoredTable) -> Catalogue:
    stored = _Stored(table)
    arrays = {
        "labels": stored.stack(""),
        "total_cov": stored.covariance(),
        "model_cov": stored.covariance("MODEL"),
        "noise_cov": stored.covariance("NOISE"),
        "flux_cov": stored.covariance("FLUX"),
        "flags": stored.take("FLAGS"),
        "n_bad_pixels": stored.take("N_BAD_PIXELS"),
        "label_flags": stored.stack("flags"),
        "snr": stored.find("SNR"),
        "flux_distance": stored.find("FLUX_DISTANCE"),
        "newton_shift": stored.stack("shift"),
    }
    known = {name: array for name, array in arrays.items() if array is not None}
    known.setdefault("flux_cov", np.zeros_like(known["total_cov"]))
    prediction = Prediction.from_arrays(
        known,
        has_flux_errors=bool(stored.header["FLUXERR"]),
        label_names=tuple(stored.labels),
        label_units=tuple(stored.units),
        center=stored.find_word("CENTER", CENTERS, "weights"),
        fill=stored.find_word("FILL", FILLS, "uncounted"),
        flux=stored.find_word("FLUXPROP", PROPAGATIONS, "linear"),
    )
    low = stored.stack("low")
    high = stored.stack("high")
    return Catalogue(
        prediction=prediction,
        ids=stored.take("ID").astype(str),
        true_labels=stored.stack("truth"),
        header=stored.header,
        interval=None if low is None or high is None else np.stack([low, high], axis=2),
        level=stored.header.get("INTERVAL"),
        has_wide_tails="wide tails" in str(stored.header.get("ERRTYPE", "")),
        n_networks=int(stored.header.get("NETWORKS", 1)),
        between_cov=stored.covariance("BETWEEN"),
    )
