"""Tables with one row a star, in ECSV or CSV."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import OptionError, ShapeError
from symspec.writers import replace_when_complete

STAR_TABLE_SUFFIXES = (".ecsv", ".csv")


def write_star_table(
    path: str | os.PathLike[str],
    columns: Mapping[str, np.ndarray],
    ids: Any,
    meta: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write columns (star,) behind ID; ECSV keeps `meta` in its header.

    Raises
    ------
    OptionError
        The ending of `path` is neither .ecsv nor .csv.
    ShapeError
        `ids` are not one a star; None numbers the rows, from 0.
    FileKeptError
        There is a file already, and `overwrite` is False.
    """
    from astropy.table import Table

    path, n_stars = Path(path), len(next(iter(columns.values())))
    if path.suffix.lower() not in STAR_TABLE_SUFFIXES:
        raise OptionError(f"path should end in one of {', '.join(STAR_TABLE_SUFFIXES)}, got {path.name!r}: rename it.")
    ids = np.arange(n_stars) if ids is None else np.asarray(ids)
    if ids.shape != (n_stars,):
        raise ShapeError(f"ids should have shape ({n_stars},), one a star, got {ids.shape}.")
    table = Table({"ID": ids, **columns}, meta=dict(meta))
    with replace_when_complete(path, overwrite=overwrite) as temporary:
        table.write(temporary, format="ascii.ecsv" if path.suffix.lower() == ".ecsv" else "ascii.csv")
