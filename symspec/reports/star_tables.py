"""Tables with one row a star, in ECSV or CSV."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from symspec.errors import ShapeError
from symspec.files.catalogue_formats import (
    STAR_TABLES,
    find_table_format,
    list_suffixes,
    write_text_table,
)
from symspec.hmc.comparison import PROBABILITIES, THRESHOLDS, HmcComparison
from symspec.safety.arrays import as_texts
from symspec.safety.whole_files import replace_hdf5_when_complete, replace_when_complete
from symspec.validation.audit import StructureAudit
from symspec.version import __version__

if TYPE_CHECKING:
    from xarray import DataTree

STAR_TABLE_SUFFIXES = list_suffixes(STAR_TABLES)
DRAWS_SUFFIXES = (".nc", ".netcdf")


def write_star_table(
    path: str | os.PathLike[str],
    columns: Mapping[str, np.ndarray],
    ids: Any,
    meta: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write columns (star,) after ID; ECSV keeps `meta` in its header.

    Raises
    ------
    OptionError
        The suffix of `path` is neither .ecsv nor .csv.
    ShapeError
        `ids` are not one a star; None numbers the rows, from 0.
    DataError
        As `check_star_table`.
    FileKeptError
        There is a file already, and `overwrite` is False.
    """
    from astropy.table import Table

    path = Path(path)
    n_stars = len(next(iter(columns.values())))
    form = find_table_format(path, STAR_TABLES)
    ids = np.arange(n_stars) if ids is None else ids
    if np.shape(ids) != (n_stars,):
        raise ShapeError(f"ids should have shape ({n_stars},), one a star, got {np.shape(ids)}.")
    form.check(list(columns), [], as_texts(ids, "ids"))
    table = Table({"ID": np.asarray(ids), **columns}, meta=dict(meta))
    with replace_when_complete(path, overwrite=overwrite) as temporary:
        write_text_table(temporary, table, form)


def check_star_table(
    path: str | os.PathLike[str], ids: Any = None, label_names: Sequence[str] = ()
) -> None:
    """Refuse, before any work, what `write_comparison` and `write_audit` could not write.

    Parameters
    ----------
    path : str or path
        Its suffix gives the format: .ecsv or .csv.
    ids : array_like, shape (star,), optional
    label_names : sequence of str

    Raises
    ------
    OptionError
        The suffix is neither .ecsv nor .csv.
    DataError
        The format cannot hold one of the names, see `symspec.files.catalogue_formats`.
    """
    form = find_table_format(Path(path), STAR_TABLES)
    form.check(["ID", *label_names], [], () if ids is None else as_texts(ids, "ids"))


def write_draws(path: str | os.PathLike[str], draws: DataTree, *, overwrite: bool = False) -> None:
    """Write draws as NetCDF 4, for `arviz.from_netcdf` or `xarray.open_datatree`.

    Raises
    ------
    FileKeptError
        There is a file already, and `overwrite` is False.
    """
    with replace_hdf5_when_complete(path, overwrite=overwrite) as stream:
        draws.to_netcdf(stream, engine="h5netcdf")


def write_comparison(
    path: str | os.PathLike[str],
    comparison: HmcComparison,
    ids: Any = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a comparison star by star.

    The columns are ID, then for a label TEFF: TEFF_LAPLACE and TEFF_LAPLACE_SD, TEFF_HMC and
    TEFF_HMC_SD, in the label's units; TEFF_SD_RATIO and TEFF_SHIFT with their Monte Carlo errors
    (_ERR); HMC's quantiles TEFF_Q2.5 to TEFF_Q97.5; TEFF_RHAT, TEFF_ESS_BULK and TEFF_ESS_TAIL.
    ECSV keeps verdicts and thresholds in its header.

    Parameters
    ----------
    path : str or path
        Its suffix gives the format: .ecsv or .csv.
    comparison : HmcComparison
    ids : array_like, shape (star,), optional
        By default the rows' numbers, from 0.
    overwrite : bool, default False
        Whether an existing file is replaced.

    Raises
    ------
    OptionError
        The suffix is neither .ecsv nor .csv.
    ShapeError
        `ids` do not match the stars.
    FileKeptError
        There is a file already, and `overwrite` is False.
    """
    quantities = {
        "LAPLACE": comparison.laplace_mean,
        "LAPLACE_SD": comparison.laplace_sd,
        "HMC": comparison.hmc_mean,
        "HMC_SD": comparison.hmc_sd,
        "SD_RATIO": comparison.sd_ratio,
        "SD_RATIO_ERR": comparison.sd_ratio_error,
        "SHIFT": comparison.shift,
        "SHIFT_ERR": comparison.shift_error,
        **{f"Q{100 * p:g}": q for p, q in zip(PROBABILITIES, comparison.quantiles, strict=True)},
        "RHAT": comparison.rhat,
        "ESS_BULK": comparison.ess_bulk,
        "ESS_TAIL": comparison.ess_tail,
    }
    names = comparison.label_names
    columns = {
        f"{n}_{k}": values[:, c] for c, n in enumerate(names) for k, values in quantities.items()
    }
    meta = {
        "SYMSPEC": __version__,
        "VARIED": comparison.varied,
        "LAPLACE": comparison.structure,
        **{f"VERDICT_{n}": v for n, v in zip(names, comparison.verdict, strict=True)},
        "THRESHOLDS": THRESHOLDS,
        "PARETO_K": float(comparison.pareto_k),
    }
    write_star_table(path, columns, ids, meta, overwrite=overwrite)


def write_audit(
    path: str | os.PathLike[str], audit: StructureAudit, ids: Any = None, *, overwrite: bool = False
) -> None:
    """Write an audit star by star.

    The columns are ID, DISTANCE and QUANTILE, then for a label TEFF and a structure kronecker
    TEFF_EXACT, the exact standard deviation in the label's units, TEFF_EXACT_LOW, its proven lower
    bound, and TEFF_KRONECKER, the ratio to the exact one. ECSV keeps in its header how the
    structures were computed, and which were left out.

    Parameters
    ----------
    path : str or path
        Its suffix gives the format: .ecsv or .csv.
    audit : StructureAudit
    ids : array_like, shape (star,), optional
        By default the rows' numbers, from 0.
    overwrite : bool, default False
        Whether an existing file is replaced.

    Raises
    ------
    OptionError
        The suffix is neither .ecsv nor .csv.
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
    meta |= {
        f"ACCURACY_{name}": word
        for name, word in zip(audit.structures, audit.accuracy, strict=True)
    }
    meta |= {f"SKIPPED_{name}": why for name, why in audit.skipped.items()}
    write_star_table(path, columns, ids, meta, overwrite=overwrite)
