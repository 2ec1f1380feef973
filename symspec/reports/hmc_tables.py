"""The comparison with Hamiltonian Monte Carlo on screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape

from symspec.hmc.comparison import AGREE, NOT_CONVERGED, THRESHOLDS, HmcComparison
from symspec.reports.tables import format_number, new_table
from symspec.spectra.spectra import with_unit

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLOURS = {AGREE: "green", NOT_CONVERGED: "yellow"}


def comparison_table(comparison: HmcComparison, *, title: str = "") -> Table:
    """One row a label and error bar: medians and ranges over the stars, and the verdict.

    Numbers come with their Monte Carlo errors.

    Parameters
    ----------
    comparison : HmcComparison
    title : str, optional
        By default the number of stars and what varied.
    """
    n_stars = len(comparison.hmc_mean)
    title = title or f"HMC against Laplace, {n_stars:,} stars; {comparison.varied}"
    columns = [
        "label",
        "error bar",
        "its sd",
        "HMC's sd",
        "ratio HMC / it (range)",
        "shift [sd]",
        "R-hat",
        "ESS",
    ]
    table = new_table(title, [*columns, "verdict"], left=2)
    table.columns[-1].justify = "left"
    table.caption = (
        "medians over the stars ± their Monte Carlo error; R-hat and ESS: the worst star's"
    )
    for c, (name, unit) in enumerate(
        zip(comparison.label_names, comparison.label_units, strict=True)
    ):
        colour = _COLOURS.get(comparison.verdict[c], "red")
        bars = {comparison.structure: comparison.laplace_sd} | comparison.others
        for i, (bar, sd) in enumerate(bars.items()):
            hmc_sd = comparison.hmc_sd[:, c]
            cells = [
                escape(bar),
                format_number(float(np.median(sd[:, c]))),
                format_number(float(np.median(hmc_sd))),
                _ratio(hmc_sd / sd[:, c], comparison.sd_error[:, c] / sd[:, c]),
            ]
            if i == 0:
                shift = comparison.shift[:, c]
                error = comparison.shift_error[:, c]
                cells.append(f"{np.median(shift):+.2f} ± {np.median(error):.2f}")
                cells += [
                    f"{comparison.rhat[:, c].max():.3f}",
                    f"{comparison.ess[:, c].min():,.0f}",
                ]
                cells.append(f"[{colour}]{comparison.verdict[c]}[/]")
            else:
                cells += [""] * 4
            table.add_row(escape(with_unit(name, unit)) if i == 0 else "", *cells)
    return table


def print_comparison(console: Console, comparison: HmcComparison) -> None:
    """Print the table, the numbers of draws and divergences, and the rules of the verdict."""
    console.print(comparison_table(comparison))
    share = comparison.divergences / comparison.n_draws
    console.print(
        f"{comparison.n_draws:,} draws, {comparison.divergences:,} divergent ({share:.2%})."
    )
    if not np.isnan(comparison.pareto_k):
        close = "close to" if comparison.pareto_k < 0.7 else "not close to"
        console.print(
            f"Pareto k of the Laplace draws' importance weights: {comparison.pareto_k:.2f}. In the"
            f" space of all weights Laplace's posterior is {close} the true one (0.7 divides)."
        )
    console.print(THRESHOLDS)


def _ratio(ratio: np.ndarray, error: np.ndarray) -> str:
    return (
        f"{np.median(ratio):.3f} ± {np.median(error):.3f} ({ratio.min():.2f} to {ratio.max():.2f})"
    )
