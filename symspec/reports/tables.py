"""Tables and lines of text for a terminal or a pipe: predictions, folds and audits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from symspec.laplace.certificate import Certificate
from symspec.laplace.flags import Flag
from symspec.laplace.prediction import Prediction, standard_deviations
from symspec.mixtures.prediction import CombinedPrediction
from symspec.networks.network import Network
from symspec.networks.regression import Regression
from symspec.reports.stacked_tables import StackedTable
from symspec.spectra.spectra import with_unit
from symspec.validation.audit import GROUPS, INSIDE, StructureAudit
from symspec.validation.calibration import coverage, find_binomial_error, sigma_mad
from symspec.validation.outliers import Outliers
from symspec.validation.scores import Candidate

_SHORT = {
    Flag.FAILED: "failed",
    Flag.OUTSIDE_TRAINING_RANGE: "outside",
    Flag.BAD_PIXELS: "bad pixels",
    Flag.NOT_AT_MINIMUM: "no minimum",
    Flag.MODEL_ERROR_INEXACT: "inexact",
    Flag.ERROR_UNRELIABLE: "unreliable",
    Flag.NEAR_EDGE: "near edge",
    Flag.MANY_BAD_PIXELS: "many bad pixels",
    Flag.LOW_SNR: "low S/N",
    Flag.OUTSIDE_TRAINING_SPECTRA: "unlike training",
    Flag.INFORMATION_MISSING: "too little seen",
    Flag.FLUX_ERROR_NONLINEAR: "not linear",
}
LEVEL = 0.68
FAR_OFF = 0.1  # of a coverage: error bars a fourth too large, or a fifth too small
_PIPE_WIDTH = 110  # characters, where there is no terminal to ask


def open_console() -> Console:
    """Console on stdout, wide enough for the tables when it is a pipe or file."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in console._environ:
        console = Console(highlight=False, width=_PIPE_WIDTH)
    return console


def new_table(title: str, columns: Sequence[str], *, left: int = 1) -> Table:
    """Empty table whose first `left` columns are text and whose others are numbers."""
    table = StackedTable(escape(title), left)
    for i, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if i < left else "right", overflow="fold")
    return table


def summary_table(
    prediction: Prediction,
    true_labels: np.ndarray,
    *,
    title: str,
    baseline: Mapping[str, float] | None = None,
) -> Table:
    """One row a label: scatter against the truth, the error budget's medians, and coverage.

    Parameters
    ----------
    prediction : Prediction
    true_labels : numpy.ndarray, shape (star, label)
        NaN where the truth is not known.
    title : str
    baseline : dict of str to float, optional
        Scatter of a simpler method for each label, for comparison.
    """
    residuals = prediction.labels - true_labels
    scatter = sigma_mad(residuals)
    covered = coverage(prediction, true_labels)
    parts = (prediction.model_cov, prediction.flux_cov, prediction.noise_cov, prediction.total_cov)
    medians = [np.median(standard_deviations(part), axis=0) for part in parts]
    names = ["label", "sigma_MAD", "std", "model", "flux", "noise", "total", "in 68 %", "in 95 %"]
    if baseline is not None:
        names.insert(2, "ridge")
    table = new_table(title, names)
    table.caption = "model, flux, noise, total: median errors"
    if baseline is not None:
        table.caption += "; ridge: scatter of ridge regression on the same stars"
    for c, name in enumerate(prediction.label_names):
        known = residuals[~np.isnan(residuals[:, c]), c]
        cells = [
            scatter[c],
            known.std() if known.size else np.nan,
            *(median[c] for median in medians),
        ]
        texts = [format_number(value) for value in cells]
        texts += [f"{100 * value:.0f} %" for value in covered[:, c]]
        if not prediction.has_flux_errors:
            texts[3] = "-"
        if baseline is not None:
            texts.insert(1, format_number(baseline[name]) if name in baseline else "-")
        table.add_row(escape(with_unit(name, prediction.label_units[c])), *texts)
    return table


def describe_coverage(prediction: Prediction, true_labels: np.ndarray) -> list[str]:
    """A line for each label of which intervals hold far fewer true values than they say, or more.

    That is by more than `FAR_OFF`, and by more than chance may be.
    """
    shares = coverage(prediction, true_labels, (LEVEL,))[0]
    n_known = (~np.isnan(true_labels)).sum(axis=0)
    lines = []
    for name, share, n in zip(prediction.label_names, shares, n_known, strict=True):
        chance = 4 * find_binomial_error(LEVEL, n)
        if abs(share - LEVEL) > max(FAR_OFF, chance):
            size = "small" if share < LEVEL else "large"
            lines.append(
                f"{name}: error bars are too {size}: intervals of {100 * LEVEL:.0f} % hold"
                f" {100 * share:.0f} % of the labels."
            )
    return lines


def star_table(
    prediction: Prediction,
    ids: Any = None,
    true_labels: np.ndarray | None = None,
    *,
    n_stars: int = 10,
) -> Table:
    """Labels of the first stars with their total errors, next to the truth where it is known."""
    n_all = len(prediction.labels)
    n = min(n_stars, len(prediction.labels))
    names = [
        with_unit(name, unit)
        for name, unit in zip(prediction.label_names, prediction.label_units, strict=True)
    ]
    columns = ["star"]
    for name in names:
        columns += [name] if true_labels is None else [name, "true"]
    title = f"The first {n} of {n_all:,} stars" if n < n_all else f"{n_all:,} stars"
    table = new_table(f"{title}, with total errors", [*columns, "flags"])
    table.columns[-1].justify = "left"
    errors = prediction.errors
    for star in range(n):
        cells = [str(star) if ids is None else str(ids[star])]
        for c in range(len(names)):
            value = prediction.labels[star, c]
            error = errors[star, c]
            cells.append(format_with_error(value, error))
            if true_labels is not None:
                cells.append(format_to(true_labels[star, c], error))
        table.add_row(*map(escape, cells), escape(describe_flags(prediction.flags[star])))
    return table


def outlier_table(outliers: Outliers, net: Network, ids: Any = None) -> Table:
    """One row a training label, those that the noise gave the least weight first."""
    columns = ["star", "label", "value", "predicted", "residual", "weight"]
    n = len(outliers.star)
    table = new_table(f"The {n} training labels of least weight", columns, left=2)
    table.caption = "weight: 1 as without wide tails; none is left out"
    for i, star in enumerate(outliers.star):
        c = outliers.label[i]
        name = with_unit(net.label_names[c], net.label_units[c])
        numbers = [outliers.value[i], outliers.predicted[i], outliers.residual[i]]
        cells = [str(star) if ids is None else str(ids[star]), name]
        cells += [format_number(number) for number in numbers]
        table.add_row(*map(escape, cells), f"{outliers.trust[i]:.3f}")
    return table


def flag_lines(prediction: Prediction) -> list[str]:
    """Number of stars with each flag, a line each; one line says so if no star has any."""
    n = len(prediction.flags)
    counts = {flag: int(np.count_nonzero(prediction.flags & flag)) for flag in Flag}
    lines = [
        f"{count:,} of {n:,} {flag.name}: {flag.meaning}" for flag, count in counts.items() if count
    ]
    return lines or [f"no star of {n:,} is flagged"]


def describe_between(prediction: CombinedPrediction) -> str:
    """One line on a mixture: how much of each label's model error lies between the networks."""
    shares = np.nanmedian(prediction.between_share, axis=0)
    named = zip(prediction.label_names, shares, strict=True)
    listed = ", ".join(f"{name} {100 * share:.0f} %" for name, share in named)
    return (
        f"A mixture of {len(prediction.parts)} networks: what lies between them of the model's"
        f" variance (median): {listed}"
    )


def certificate_line(certificate: Certificate) -> str:
    """The certificate's message, with rich's markup."""
    colour = "green" if certificate.is_minimum else "yellow"
    return f"[{colour}]Certificate:[/] the weights are {escape(certificate.message)}"


def name_networks(n_folds: int, n_networks: int) -> list[str]:
    """The number of the fold of each network, and its own where a fold has several."""
    folds = [str(fold) for fold in range(1, n_folds + 1)]
    if n_networks == 1:
        return folds
    return [f"{fold}, network {k}" for fold in folds for k in range(1, n_networks + 1)]


def fold_table(
    certificates: Sequence[Certificate], regressions: Sequence[Regression], *, n_networks: int = 1
) -> Table:
    """One row a network of a cross-validation, `n_networks` a fold: certificate, and noise."""
    table = new_table(
        "Certificate of each fold",
        ["fold", "verdict", "decrement [nats]", "lowest curvature ratio", "sigma_noise"],
        left=2,
    )
    names = name_networks(len(certificates) // n_networks, n_networks)
    for name, certificate, reg in zip(names, certificates, regressions, strict=True):
        colour = "green" if certificate.is_minimum else "yellow"
        verdict = f"[{colour}]{certificate.verdict}[/]"
        ratio = f"{certificate.smallest_ratio:.2g} +- {certificate.smallest_ratio_error:.1g}"
        decrement = f"{certificate.newton_decrement:.2g}"
        table.add_row(name, verdict, decrement, ratio, format_noise(reg))
    return table


def selection_table(candidates: Sequence[Candidate]) -> Table:
    """One row a network that was tried; the one chosen is bold."""
    columns = ["network", "weights", "log score", "behind", "RMSE", "in 68, 95 %", "evidence", "s"]
    n = len(candidates[0].log_scores)
    title = f"Networks tried, each scored on {n:,} stars while they were held out"
    table = new_table(title, columns)
    table.caption = (
        "log score: nats a star; behind: the best; RMSE: over the spread of the labels; bold: the"
        " smallest that is no more behind than its standard error"
    )
    for one in candidates:
        covered = [f"{100 * share:.0f}" for share in np.nanmean(one.coverage, axis=1)]
        cells = [
            escape(one.name),
            f"{one.n_params:,}",
            f"{one.log_score:.3f}",
            "best" if one.behind == 0 else f"{one.behind:.3f} ± {one.behind_error:.3f}",
            f"{one.relative_rmse:.3f}",
            ", ".join(covered),
            f"{one.evidence:,.1f}",
            f"{one.seconds:,.0f}",
        ]
        table.add_row(*cells, style="bold" if one.is_chosen else None)
    return table


def audit_table(audit: StructureAudit) -> Table:
    """One row a structure and label: ratios to the exact standard deviation.

    Stars inside and outside the training set have columns of their own.
    """
    n_out = int(np.count_nonzero(audit.outside))
    counts = dict(zip(GROUPS, (len(audit.outside) - n_out, n_out), strict=True))
    groups = [group for group in GROUPS if counts[group]]
    title = f"Ratio to the exact model error ({audit.exact}): median (range)"
    columns = [f"{group} ({counts[group]:,} stars)" for group in groups]
    table = new_table(title, ["structure", "is", "label", *columns, "seconds"], left=3)
    table.caption = f"outside: farther from the training set than {INSIDE:.0%} of its own stars"
    rows = {(row.structure, row.label, row.group): row for row in audit.summarize()}
    for name, accuracy, seconds in zip(
        audit.structures, audit.accuracy, audit.seconds, strict=True
    ):
        first = [name, accuracy]
        last = f"{seconds:.2g}"
        for label in audit.label_names:
            of_label = [rows[name, label, group] for group in groups]
            numbers = [
                [format_number(v) for v in (r.median, r.minimum, r.maximum)] for r in of_label
            ]
            cells = [f"{median} ({low} to {high})" for median, low, high in numbers]
            table.add_row(*first, escape(label), *cells, last)
            first = ["", ""]
            last = ""
    return table


def print_audit(console: Console, audit: StructureAudit) -> None:
    """Print an audit's table, the choice of its exact structure, and what was left out."""
    console.print(audit_table(audit))
    console.print(f"Exact: {escape(audit.reason)}", soft_wrap=True)
    ends = audit.exact_interval
    width = float(np.max(1 - ends[..., 0] / ends[..., 1]))
    if width > 0:
        console.print(
            f"Its intervals are at most {width:.2%} of the standard deviation wide; the upper end"
            " is taken."
        )
    if not audit.distance.any():
        console.print(
            "All these stars were trained on: audit others, whose ratios may be quite different."
        )
    for name, why in audit.skipped.items():
        console.print(f"[yellow]Left out:[/] {escape(name)}: {escape(why)}", soft_wrap=True)


def print_written(console: Console, what: str, path: Path) -> None:
    """Print the line that names a file written."""
    console.print(f"Wrote {escape(what)}: [bold]{escape(str(path))}[/]", soft_wrap=True)


def describe_flags(flags: int) -> str:
    """Short names of the flags that are set, as a table has room for; "-" without any."""
    return ", ".join(_SHORT[flag] for flag in Flag if int(flags) & flag) or "-"


def format_number(value: float) -> str:
    """Three digits, but never as 1.4e+03."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def format_with_error(value: float, error: float) -> str:
    """Value and error, the latter to two digits: "4981 ± 92", "4.31 ± 0.25"."""
    return f"{format_to(value, error)} ± {format_to(error, error)}"


def format_to(value: float, error: float) -> str:
    """Value to the second digit of its error; "-" where it is missing."""
    if math.isnan(value):
        return "-"
    if not (math.isfinite(error) and error > 0):
        return f"{value:.5g}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(error)))}f}"


def format_noise(reg: Regression) -> str:
    """Standard deviation of each label's noise, and degrees of freedom where it has tails."""
    noise = ", ".join(format_sigma(s, 3) for s in reg.sigma_noise)
    if reg.noise.tail_dof is None:
        return noise
    return f"{noise} (dof {', '.join(f'{dof:.2g}' for dof in reg.noise.tail_dof)})"


def format_sigma(sigma: float, digits: int) -> str:
    """A noise's standard deviation; "by star" where the network predicts it."""
    return "by star" if math.isnan(sigma) else f"{sigma:.{digits}g}"
