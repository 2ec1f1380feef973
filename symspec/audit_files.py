"""A structure audit as a table, one row a star, in ECSV or CSV."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from symspec.audit import StructureAudit
from symspec.errors import OptionError, ShapeError
from symspec.version import __version__
from symspec.writers import replace_when_complete

AUDIT_SUFFIXES = (".ecsv", ".csv")


def write_audit(
    path: str | os.PathLike[str], audit: StructureAudit, ids: Any = None, *, overwrite: bool = False
) -> None:
    """Write an audit star by star.

    The columns are ID, DISTANCE and QUANTILE, then for a label TEFF and a structure kronecker TEFF_EXACT, the exact
    standard deviation in the label's units, TEFF_EXACT_LOW, what it is proved not to lie below, and TEFF_KRONECKER,
    the ratio to the exact one. ECSV keeps in its header how the structures were computed, and which were left out.

    Parameters
    ----------
    path : str or path
        Its ending says the format: .ecsv or .csv.
    audit : StructureAudit
    ids : array_like, shape (star,), optional
        Default: the rows' numbers, from 0.
    overwrite : bool, default False
        Whether a file already there is replaced.

    Raises
    ------
    OptionError
        The ending is none that can be written.
    ShapeError
        `ids` do not match the stars of the audit.
    FileKeptError
        There is a file already, and `overwrite` is False.
    """
    from astropy.table import Table

    path, n_stars = Path(path), len(audit.distance)
    if path.suffix.lower() not in AUDIT_SUFFIXES:
        raise OptionError(f"path should end in one of {', '.join(AUDIT_SUFFIXES)}, got {path.name!r}: rename it.")
    ids = np.arange(n_stars) if ids is None else np.asarray(ids)
    if ids.shape != (n_stars,):
        raise ShapeError(f"ids should have shape ({n_stars},), one a star of the audit, got {ids.shape}.")
    table = Table({"ID": ids, "DISTANCE": audit.distance, "QUANTILE": audit.quantile})
    for c, label in enumerate(audit.label_names):
        table[f"{label}_EXACT"] = audit.exact_sd[:, c]
        table[f"{label}_EXACT_LOW"] = audit.exact_interval[:, c, 0]
        for name, ratio in zip(audit.structures, audit.ratio, strict=True):
            table[f"{label}_{name.upper()}"] = ratio[:, c]
    table.meta = {"SYMSPEC": __version__, "EXACT": audit.reason}
    table.meta |= {f"ACCURACY_{name}": word for name, word in zip(audit.structures, audit.accuracy, strict=True)}
    table.meta |= {f"SKIPPED_{name}": why for name, why in audit.skipped.items()}
    with replace_when_complete(path, overwrite=overwrite) as temporary:
        table.write(temporary, format="ascii.ecsv" if path.suffix.lower() == ".ecsv" else "ascii.csv")
