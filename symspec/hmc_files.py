"""Draws of Hamiltonian Monte Carlo as NetCDF, and their comparison with Laplace as a table, one row a star."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from symspec.hmc_comparison import PROBABILITIES, THRESHOLDS, HmcComparison
from symspec.star_tables import write_star_table
from symspec.version import __version__
from symspec.writers import replace_when_complete

if TYPE_CHECKING:
    from xarray import DataTree

DRAWS_SUFFIXES = (".nc", ".netcdf")


def write_draws(path: str | os.PathLike[str], draws: DataTree, *, overwrite: bool = False) -> None:
    """Write draws as NetCDF 4, for `arviz.from_netcdf` or `xarray.open_datatree`.

    Raises
    ------
    FileKeptError
        There is a file already, and `overwrite` is False.
    """
    with replace_when_complete(path, overwrite=overwrite) as temporary:
        draws.to_netcdf(temporary, engine="h5netcdf")


def write_comparison(
    path: str | os.PathLike[str], comparison: HmcComparison, ids: Any = None, *, overwrite: bool = False
) -> None:
    """Write a comparison star by star.

    The columns are ID, then for a label TEFF: TEFF_LAPLACE and TEFF_LAPLACE_SD, TEFF_HMC and TEFF_HMC_SD, in the
    label's units; TEFF_SD_RATIO and TEFF_SHIFT with their Monte Carlo errors (_ERR); HMC's quantiles TEFF_Q2.5 to
    TEFF_Q97.5; TEFF_RHAT, TEFF_ESS_BULK and TEFF_ESS_TAIL. ECSV keeps verdicts and thresholds in its header.

    Parameters
    ----------
    path : str or path
        Its ending says the format: .ecsv or .csv.
    comparison : HmcComparison
    ids : array_like, shape (star,), optional
        Default: the rows' numbers, from 0.
    overwrite : bool, default False
        Whether a file already there is replaced.

    Raises
    ------
    OptionError
        The ending is none that can be written.
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
    columns = {f"{n}_{k}": values[:, c] for c, n in enumerate(names) for k, values in quantities.items()}
    meta = {"SYMSPEC": __version__, "VARIED": comparison.varied, "LAPLACE": comparison.structure}
    meta |= {f"VERDICT_{n}": v for n, v in zip(names, comparison.verdict, strict=True)}
    meta |= {"THRESHOLDS": THRESHOLDS, "PARETO_K": float(comparison.pareto_k)}
    write_star_table(path, columns, ids, meta, overwrite=overwrite)
