"""What the command line prints: tables and lines of text, for a terminal or a pipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from symspec.files.importers.descriptions import FileDescription
from symspec.laplace.audit import GROUPS, INSIDE, StructureAudit
from symspec.laplace.calibration import coverage, sigma_mad
from symspec.laplace.certificate import Certificate
from symspec.laplace.flags import Flag
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import Prediction, standard_deviations
from symspec.networks.network import Network
from symspec.networks.regression import Regression
from symspec.spectra.spectra import Spectra, with_unit

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
}
_PIPE_WIDTH = 110  # characters, where there is no terminal to ask


def open_console() -> Console:
    """Console on stdout, wide enough for the tables when it is a pipe or file."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in console._environ:
        console = Console(highlight=False, width=_PIPE_WIDTH)
    return console


def new_table(title: str, columns: Sequence[str], *, left: int = 1) -> Table:
    """Empty table whose first `left` columns are words and whose others are numbers."""
    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
    )
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
        Scatter of a simpler method by label, for comparison.
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
    table.caption_justify = "left"
    if baseline is not None:
        table.caption += "; ridge: scatter of ridge regression on the same stars"
    for c, name in enumerate(prediction.label_names):
        known = residuals[~np.isnan(residuals[:, c]), c]
        cells = [
            scatter[c],
            known.std() if known.size else np.nan,
            *(median[c] for median in medians),
        ]
        words = [format_number(value) for value in cells] + [
            f"{100 * value:.0f} %" for value in covered[:, c]
        ]
        if not prediction.has_flux_errors:
            words[3] = "-"
        if baseline is not None:
            words.insert(1, format_number(baseline[name]) if name in baseline else "-")
        table.add_row(escape(with_unit(name, prediction.label_units[c])), *words)
    return table


def star_table(
    prediction: Prediction,
    ids: Any = None,
    true_labels: np.ndarray | None = None,
    *,
    n_stars: int = 10,
) -> Table:
    """Labels with their total errors of the first stars, next to the truth where it is known."""
    n_all = len(prediction.labels)
    n = min(n_stars, len(prediction.labels))
    names = [
        with_unit(*words)
        for words in zip(prediction.label_names, prediction.label_units, strict=True)
    ]
    columns = [
        "star",
        *(word for name in names for word in ([name] if true_labels is None else [name, "true"])),
    ]
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


def flag_lines(prediction: Prediction) -> list[str]:
    """How many stars carry each flag, in words; one line says so when there is none."""
    n = len(prediction.flags)
    counts = {flag: int(np.count_nonzero(prediction.flags & flag)) for flag in Flag}
    lines = [
        f"{count:,} of {n:,} {flag.name}: {flag.meaning}" for flag, count in counts.items() if count
    ]
    return lines or [f"no star of {n:,} is flagged"]


def certificate_line(certificate: Certificate) -> str:
    """Verdict in words, with rich's markup."""
    colour = "green" if certificate.is_minimum else "yellow"
    return f"[{colour}]Certificate:[/] the weights are {escape(certificate.message)}"


def fold_table(certificates: Iterable[Certificate], regressions: Iterable[Regression]) -> Table:
    """One row a fold of a cross-validation: the certificate's verdict, its numbers, and the noise found."""
    table = new_table(
        "Certificate of each fold",
        ["fold", "verdict", "decrement [nats]", "smallest eigenvalue", "sigma_noise"],
        left=2,
    )
    for i, (certificate, reg) in enumerate(zip(certificates, regressions, strict=True), start=1):
        verdict = (
            "[green]at a minimum[/]" if certificate.is_minimum else "[yellow]not at a minimum[/]"
        )
        numbers = f"{certificate.newton_decrement:.2g}", f"{certificate.smallest_eigenvalue:.3g}"
        table.add_row(str(i), verdict, *numbers, ", ".join(f"{s:.3g}" for s in reg.sigma_noise))
    return table


def audit_table(audit: StructureAudit) -> Table:
    """One row a structure and label: ratios to the exact standard deviation, inside and outside the training set."""
    n_out = int(np.count_nonzero(audit.outside))
    counts = dict(zip(GROUPS, (len(audit.outside) - n_out, n_out), strict=True))
    groups = [group for group in GROUPS if counts[group]]
    title = f"Ratio to the exact model error ({audit.exact}): median (range)"
    columns = [f"{group} ({counts[group]:,} stars)" for group in groups]
    table = new_table(title, ["structure", "is", "label", *columns, "seconds"], left=3)
    table.caption = f"outside: farther from the training set than {INSIDE:.0%} of its own stars"
    table.caption_justify = "left"
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


def network_table(net: Network, reg: Regression | None = None) -> Table:
    """One row a layer: what it is, its width, its parameters, and the prior's standard deviation."""
    columns = ["layer", "what", "out", "parameters"] + (["prior sigma"] if reg is not None else [])
    table = new_table(f"{net.n_pixels:,} pixels -> {net.n_labels} labels", columns, left=2)
    for i, (name, layer) in enumerate(zip(net.layer_names, net.layers, strict=True)):
        shapes = layer.param_shapes(net.shapes[i])
        what = ", ".join(f"{key} {' x '.join(map(str, shape))}" for key, shape in shapes.items())
        what = what or getattr(layer, "function", "") or ("fixed" if hasattr(layer, "mean") else "")
        cells = [
            name,
            what,
            " x ".join(f"{n:,}" for n in net.shapes[i + 1]),
            f"{sum(map(math.prod, shapes.values())):,}",
        ]
        if reg is not None:
            cells.append(
                ", ".join(_prior_sigma(reg.prior_precision[f"{name}/{key}"]) for key in shapes)
            )
        table.add_row(*map(escape, cells))
    table.add_section()
    table.add_row("all", "", "", f"{net.n_params:,}")
    return table


def label_table(net: Network, laplace: LaplacePosterior | None = None) -> Table:
    """One row a label: its unit, the noise, and the range of the training stars."""
    columns = ["label", "unit"] + ([] if laplace is None else ["sigma_noise", "trained from", "to"])
    table = new_table("Labels", columns, left=2)
    for c, name in enumerate(net.label_names):
        numbers = (
            [] if laplace is None else [laplace.reg.sigma_noise[c], *laplace.label_range[:, c]]
        )
        table.add_row(
            escape(name), escape(net.label_units[c] or "-"), *(f"{value:.5g}" for value in numbers)
        )
    return table


def spectra_lines(spectra: Spectra) -> list[str]:
    """What a file of spectra holds, one line a quantity."""
    lines = [f"{spectra.n_stars:,} stars, {spectra.n_pixels:,} pixels each"]
    if spectra.wavelength is None:
        lines.append("wavelength: not in the file")
    else:
        ends = (
            f"{spectra.wavelength.min():.6g} to {spectra.wavelength.max():.6g}"
            f" {spectra.wavelength_unit}"
        )
        lines.append(f"wavelength: {ends}")
    if spectra.ivar is None:
        lines.append("uncertainties of the flux: not in the file")
    else:
        bad = spectra.ivar == 0
        n_stars = np.count_nonzero(bad.any(axis=1))
        n_pixels = np.count_nonzero(bad.all(axis=0))
        lines.append(
            f"bad pixels (no flux or no uncertainty): {bad.mean():.2%}, in {n_stars:,} stars; "
            f"{n_pixels:,} pixels are bad in every star"
        )
    lines.append(f"ids: {'not in the file' if spectra.ids is None else f'{spectra.ids[0]}, ...'}")
    return (
        lines
        if spectra.labels is not None
        else [*lines, "labels: none found (others are read with --label NAME)"]
    )


def spectra_label_table(spectra: Spectra) -> Table:
    """One row a label: how many stars have it, and its range."""
    table = new_table("Labels", ["label", "unit", "present", "missing", "from", "to"], left=2)
    for name, unit, column in zip(
        spectra.label_names, spectra.label_units, spectra.labels.T, strict=True
    ):
        known = column[~np.isnan(column)]
        ends = [f"{known.min():.5g}", f"{known.max():.5g}"] if known.size else ["-", "-"]
        table.add_row(
            escape(name),
            escape(unit or "-"),
            f"{known.size:,}",
            f"{column.size - known.size:,}",
            *ends,
        )
    return table


def print_laplace(console: Console, laplace: LaplacePosterior, path: str) -> None:
    """All that a model's file says of it."""
    console.print(f"[bold]{escape(path)}[/]: a network with error bars", soft_wrap=True)
    console.print(network_table(laplace.reg.net, laplace.reg))
    console.print(label_table(laplace.reg.net, laplace))
    matrix = {"ggn": "generalised Gauss-Newton matrix", "hessian": "exact Hessian"}[
        laplace.curvature
    ]
    console.print(f"Curvature: {matrix}, inverted by {escape(laplace.reason)}", soft_wrap=True)
    console.print(f"Log evidence: {laplace.log_marginal_likelihood():,.1f} nats")
    console.print(certificate_line(laplace.certificate), soft_wrap=True)
    for name, verdict in zip(laplace.reg.net.label_names, laplace.hmc_verdict, strict=False):
        console.print(f"Hamiltonian Monte Carlo, {escape(name)}: {verdict}")


def print_trained(console: Console, laplace: LaplacePosterior, held_out: Spectra | None) -> None:
    """A model just trained, put to the test on stars that it has not seen."""
    console.print(network_table(laplace.reg.net, laplace.reg))
    console.print(label_table(laplace.reg.net, laplace))
    if held_out is not None:
        prediction = laplace.predict(held_out.flux, ivar=held_out.ivar)
        title = f"{len(held_out):,} stars that were not trained on"
        console.print(summary_table(prediction, held_out.labels, title=title))
    console.print(certificate_line(laplace.certificate), soft_wrap=True)


def print_network(console: Console, net: Network, reg: Regression | None, path: str) -> None:
    """All that a network's file says of it."""
    console.print(f"[bold]{escape(path)}[/]: a network without error bars", soft_wrap=True)
    console.print(network_table(net, reg))
    console.print(label_table(net))
    if reg is not None:
        console.print(
            f"Noise of the labels: {', '.join(f'{sigma:.4g}' for sigma in reg.sigma_noise)}"
        )


def foreign_table(description: FileDescription) -> Table:
    """One row a layer of another program's network, with whether symspec reads it, or one an array without layers."""
    has_layers = any(row.verdict for row in description.rows)
    words = ["layer", "kind", "arrays", "read"] if has_layers else ["array", "shape"]
    numbers = ["out", "numbers"] if has_layers else ["numbers"]
    table = new_table("Layers" if has_layers else "Arrays", words + numbers, left=len(words))
    for row in description.rows:
        arrays = ", ".join(" x ".join(map(str, shape)) or "1" for shape in row.shapes)
        out = "?" if row.out is None else " x ".join(f"{n:,}" for n in row.out)
        cells = [row.name, row.kind, arrays, row.verdict, out] if has_layers else [row.name, arrays]
        table.add_row(*map(escape, cells), f"{row.n_numbers:,}")
    table.add_section()
    table.add_row(
        "all",
        *[""] * (len(table.columns) - 2),
        f"{sum(row.n_numbers for row in description.rows):,}",
    )
    return table


def print_foreign_network(console: Console, description: FileDescription, path: str) -> None:
    """All that another program's file of a network says of it."""
    console.print(f"[bold]{escape(path)}[/]: {escape(description.format)}", soft_wrap=True)
    console.print(foreign_table(description))
    console.print(f"In Python: {escape(description.advice)}", soft_wrap=True)


def print_spectra(console: Console, spectra: Spectra, path: str) -> None:
    """What a file of spectra holds."""
    console.print(f"[bold]{escape(path)}[/]: spectra", soft_wrap=True)
    for line in spectra_lines(spectra):
        console.print(f"  {escape(line)}", soft_wrap=True)
    if spectra.labels is not None:
        console.print(spectra_label_table(spectra))


def print_audit(console: Console, audit: StructureAudit) -> None:
    """An audit's table, why its exact structure is exact, and what was left out."""
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


def tell_written(console: Console, what: str, path: Path) -> None:
    """Line that names a file written."""
    console.print(f"Wrote {escape(what)}: [bold]{escape(str(path))}[/]", soft_wrap=True)


@contextmanager
def show_progress(what: str, n_stars: int, n_done: int = 0) -> Iterator[Callable[[int], None]]:
    """Progress bar on stderr, some stars being done already; yields what to call with the number of further ones."""
    counts = TextColumn("{task.completed:,.0f}/{task.total:,.0f} stars")
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(20), counts, rate, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=n_stars, completed=n_done, rate="")

        def advance(n: int) -> None:
            progress.advance(task, n)
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            progress.update(task, rate=f"{speed:,.0f} stars/s" if speed else "")

        yield advance


@contextmanager
def show_spinner() -> Iterator[Callable[[str], None]]:
    """Line on stderr that says what is being done; yields what to call with the words."""
    with Console(stderr=True).status("starting") as status:
        yield status.update


def describe_flags(flags: int) -> str:
    """The bits that are set, in as few words as a table has room for."""
    return ", ".join(_SHORT.get(flag, flag.name) for flag in Flag if int(flags) & flag) or "-"


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


def _prior_sigma(precision: Any) -> str:
    sigma = 1 / np.sqrt(precision)
    return f"{sigma:.3g}" if np.ndim(sigma) == 0 else f"{sigma.min():.3g} to {sigma.max():.3g}"
