"""A structure audit as a table, one row a star, in ECSV or CSV."""

from __future__ import annotations

import os
from typing import Any

from symspec.audit import StructureAudit
from symspec.star_tables import write_star_table
from symspec.version import __version__


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
    columns = {"DISTANCE": audit.distance, "QUANTILE": audit.quantile}
    for c, label in enumerate(audit.label_names):
        columns[f"{label}_EXACT"] = audit.exact_sd[:, c]
        columns[f"{label}_EXACT_LOW"] = audit.exact_interval[:, c, 0]
        for name, ratio in zip(audit.structures, audit.ratio, strict=True):
            columns[f"{label}_{name.upper()}"] = ratio[:, c]
    meta = {"SYMSPEC": __version__, "EXACT": audit.reason}
    meta |= {f"ACCURACY_{name}": word for name, word in zip(audit.structures, audit.accuracy, strict=True)}
    meta |= {f"SKIPPED_{name}": why for name, why in audit.skipped.items()}
    write_star_table(path, columns, ids, meta, overwrite=overwrite)
