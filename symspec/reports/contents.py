"""The contents of a file on screen: a model with error bars, a network, or spectra."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from symspec.files.importers.descriptions import FileDescription
from symspec.laplace.budget import choose_center
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.prediction import Prediction
from symspec.mixtures.left_out import leave_out
from symspec.mixtures.posterior import AnyPosterior, CombinedPosterior, list_posteriors
from symspec.mixtures.prediction import CombinedPrediction
from symspec.networks.layers import Layer
from symspec.networks.network import Network
from symspec.networks.noise.noise import list_numbers
from symspec.networks.regression import Regression
from symspec.reports.tables import (
    certificate_line,
    describe_between,
    describe_coverage,
    format_noise,
    format_sigma,
    new_table,
    summary_table,
)
from symspec.safety.label_errors import find_labels_alone
from symspec.safety.named_arrays import Contents
from symspec.spectra.readers.unused import describe_unused
from symspec.spectra.spectra import Spectra

_CENTERS = {
    "weights": "the network as it is",
    "linearized": "linearised, at its own minimum (--center linearized)",
}
_UNTOLD = ("data_format", "epsilon")
MATRICES = {"ggn": "generalised Gauss-Newton matrix", "hessian": "exact Hessian"}


def network_table(net: Network, reg: Regression | None = None) -> Table:
    """One row a layer: its kind, width, parameters, and the prior's standard deviation."""
    columns, rows = list_layers(net, reg)
    table = new_table(f"{net.n_pixels:,} pixels -> {net.n_labels} labels", columns, left=2)
    for row in rows:
        table.add_row(*map(escape, row))
    table.add_section()
    table.add_row("all", "", "", f"{net.n_params:,}")
    return table


def list_layers(net: Network, reg: Regression | None = None) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of `network_table`, but for the last row."""
    columns = ["layer", "what", "out", "parameters"] + (["prior sigma"] if reg is not None else [])
    rows = []
    for i, (name, layer) in enumerate(zip(net.layer_names, net.layers, strict=True)):
        shapes = layer.param_shapes(net.shapes[i])
        what = ", ".join(f"{key} {' x '.join(map(str, shape))}" for key, shape in shapes.items())
        what = what or getattr(layer, "function", "") or _list_settings(layer)
        cells = [
            name,
            what,
            " x ".join(f"{n:,}" for n in net.shapes[i + 1]),
            f"{sum(map(math.prod, shapes.values())):,}",
        ]
        if reg is not None:
            sigmas = [_prior_sigma(reg.prior_precision[f"{name}/{key}"]) for key in shapes]
            cells.append(", ".join(sigmas))
        rows.append(cells)
    return columns, rows


def _list_settings(layer: Layer) -> str:
    """What a layer without parameters does: its numbers and words, or that it is fixed."""
    if hasattr(layer, "mean"):
        return "fixed"
    values = {field.name: getattr(layer, field.name) for field in fields(layer)}
    return ", ".join(
        f"{name} {value}"
        for name, value in values.items()
        if isinstance(value, int | float | str) and name not in _UNTOLD
    )


def label_table(net: Network, laplace: LaplacePosterior | None = None) -> Table:
    """One row a label: its unit, the noise, and the range of the training stars."""
    columns, rows = list_labels(net, laplace)
    table = new_table("Labels", columns, left=2)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def list_labels(
    net: Network, laplace: LaplacePosterior | None = None
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of `label_table`."""
    columns = ["label", "unit"] + ([] if laplace is None else ["sigma_noise", "trained from", "to"])
    rows = []
    for c, name in enumerate(net.label_names):
        cells = [name, net.label_units[c] or "-"]
        if laplace is not None:
            cells.append(format_sigma(laplace.reg.sigma_noise[c], 5))
            cells += [f"{value:.5g}" for value in laplace.label_range[:, c]]
        rows.append(cells)
    return columns, rows


def layout_lines(contents: Contents) -> list[str]:
    """The layout recognised, where each quantity lies in the file, and what is not read."""
    lines = [f"layout: {contents.layout}"] if contents.layout else []
    lines += [f"{quantity} from {place}" for quantity, place in contents.sources.items()]
    if contents.left_out:
        lines.append(f"not read: {describe_unused(contents.left_out)}")
    return lines


def spectra_lines(spectra: Spectra) -> list[str]:
    """Contents of a file of spectra, one line a quantity."""
    lines = [f"{spectra.n_stars:,} stars, {spectra.n_pixels:,} pixels each"]
    if spectra.wavelength is None:
        lines.append("wavelength: not in the file")
    else:
        ends = (
            f"{spectra.wavelength.min():.6g} to {spectra.wavelength.max():.6g}"
            f" {spectra.wavelength_unit}"
        )
        if spectra.wavelength_medium:
            ends += f" ({spectra.wavelength_medium})"
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
    if spectra.label_covariance is not None:
        lines.append("errors of the labels: covariances")
    elif spectra.label_errors is not None:
        known = [column[~np.isnan(column)] for column in spectra.label_errors.T]
        medians = ", ".join(f"{np.median(e):.4g}" if e.size else "none" for e in known)
        lines.append(f"errors of the labels: median {medians}")
    lines.append(f"ids: {'not in the file' if spectra.ids is None else f'{spectra.ids[0]}, ...'}")
    return (
        lines
        if spectra.labels is not None
        else [*lines, "labels: none found (others are read with --label NAME)"]
    )


def spectra_label_table(spectra: Spectra) -> Table:
    """One row a label: the number of stars that have it, and its range."""
    table = new_table("Labels", ["label", "unit", "present", "missing", "from", "to"], left=2)
    columns = () if spectra.labels is None else spectra.labels.T
    for name, unit, column in zip(spectra.label_names, spectra.label_units, columns, strict=True):
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


def foreign_table(description: FileDescription) -> Table:
    """One row a layer of another program's network, or one an array if layers are unknown."""
    has_layers = any(row.verdict for row in description.rows)
    if has_layers:
        columns = ["layer", "kind", "arrays", "read", "out", "numbers"]
        table = new_table("Layers", columns, left=4)
    else:
        table = new_table("Arrays", ["array", "shape", "numbers"], left=2)
    for row in description.rows:
        arrays = ", ".join(" x ".join(map(str, shape)) or "1" for shape in row.shapes)
        out = "?" if row.out is None else " x ".join(f"{n:,}" for n in row.out)
        cells = [row.name, row.kind, arrays, row.verdict, out] if has_layers else [row.name, arrays]
        table.add_row(*map(escape, cells), f"{row.n_numbers:,}")
    table.add_section()
    n_numbers = sum(row.n_numbers for row in description.rows)
    table.add_row("all", *[""] * (len(table.columns) - 2), f"{n_numbers:,}")
    return table


def list_networks(combined: CombinedPosterior) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of `mixture_table`."""
    columns = ["network", "its weights are", "sigma_noise", "share", "parameters", "log evidence"]
    rows = []
    pairs = zip(combined.weights, combined.posteriors, strict=True)
    for k, (share, one) in enumerate(pairs, 1):
        is_known = one.inverse_hessian.is_complete
        evidence = f"{one.log_marginal_likelihood():,.1f}" if is_known else "unknown"
        verdict = one.certificate.verdict
        cells = [verdict, format_noise(one.reg), f"{share:.3g}", f"{one.net.n_params:,}", evidence]
        rows.append([str(k), *cells])
    return columns, rows


def mixture_table(combined: CombinedPosterior) -> Table:
    """One row a network: its certificate, noise, share of the mixture, size and evidence."""
    columns, rows = list_networks(combined)
    table = new_table(f"A mixture of {len(rows)} networks", columns, left=3)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def print_mixture(console: Console, combined: CombinedPosterior, path: str) -> None:
    """Print the contents of a file of several networks."""
    n = len(combined.posteriors)
    console.print(f"[bold]{escape(path)}[/]: {n} networks with error bars", soft_wrap=True)
    console.print(mixture_table(combined))
    console.print(label_table(combined.net))
    for k, one in enumerate(combined.posteriors, 1):
        for name, verdict in zip(one.net.label_names, one.hmc_verdict, strict=False):
            console.print(f"Hamiltonian Monte Carlo, network {k}, {escape(name)}: {verdict}")
    console.print(f"One of them in full: symspec info {escape(path)} --network 1", soft_wrap=True)


def print_laplace(console: Console, laplace: LaplacePosterior, path: str) -> None:
    """Print the contents of a model's file."""
    console.print(f"[bold]{escape(path)}[/]: a network with error bars", soft_wrap=True)
    console.print(network_table(laplace.reg.net, laplace.reg))
    console.print(label_table(laplace.reg.net, laplace))
    console.print(_describe_noise(laplace.reg))
    if laplace.training_flux_cov is not None:
        console.print(_describe_counted(laplace.training_flux_cov), soft_wrap=True)
    matrix = MATRICES[laplace.curvature]
    console.print(f"Curvature: {matrix}, inverted by {escape(laplace.reason)}", soft_wrap=True)
    console.print(f"Log evidence: {laplace.log_marginal_likelihood():,.1f} nats")
    console.print(certificate_line(laplace.certificate), soft_wrap=True)
    for name, verdict in zip(laplace.reg.net.label_names, laplace.hmc_verdict, strict=False):
        console.print(f"Hamiltonian Monte Carlo, {escape(name)}: {verdict}")


def print_trained(console: Console, laplace: AnyPosterior, held_out: Spectra | None) -> None:
    """Print a model just trained, tested on stars that it has not seen."""
    _print_networks(console, laplace)
    if held_out is not None and held_out.labels is not None:
        prediction = laplace.predict(held_out)
        title = f"{len(held_out):,} stars that were not trained on"
        _print_summary(console, prediction, held_out.labels, title)
    _print_certificates(console, laplace)


def _print_networks(console: Console, laplace: AnyPosterior) -> None:
    """Layers, labels and noise of one network, or one row a network of several."""
    if isinstance(laplace, LaplacePosterior):
        console.print(network_table(laplace.reg.net, laplace.reg))
        console.print(label_table(laplace.reg.net, laplace))
        console.print(_describe_noise(laplace.reg))
    else:
        console.print(mixture_table(laplace))
        console.print(label_table(laplace.net))


def _print_summary(
    console: Console, prediction: Prediction, labels: np.ndarray, title: str
) -> None:
    console.print(summary_table(prediction, labels, title=title))
    if isinstance(prediction, CombinedPrediction):
        console.print(escape(describe_between(prediction)), soft_wrap=True)


def _print_certificates(console: Console, laplace: AnyPosterior) -> None:
    """The certificate of one network; `mixture_table` has the verdicts of several."""
    if isinstance(laplace, LaplacePosterior):
        console.print(certificate_line(laplace.certificate), soft_wrap=True)


def print_adopted(
    console: Console, laplace: AnyPosterior, scalings: Sequence[tuple[Path, str]]
) -> None:
    """Print a model of networks that came trained, with each star left out in turn.

    Parameters
    ----------
    console : Console
    laplace : LaplacePosterior or CombinedPosterior
    scalings : sequence of Path and str
        Files of the networks, and how each scales its labels.
    """
    _print_networks(console, laplace)
    for path, scaling in scalings:
        whose = path.name if len(scalings) > 1 else "the network"
        console.print(escape(f"Outputs of {whose}: {scaling}"), soft_wrap=True)
    accuracies = {one.inverse_hessian.accuracy for one in list_posteriors(laplace)}
    if "interval" not in accuracies:
        left_out = leave_out(laplace)
        labels = find_labels_alone(left_out.stars.labels)
        for center, words in _CENTERS.items():
            title = f"{len(labels):,} stars, each left out in turn: {words}"
            prediction = left_out.predict(center)
            _print_summary(console, prediction, labels, title)
            if center == choose_center(list_posteriors(laplace), "auto"):
                _advise(console, prediction, labels)
    _print_certificates(console, laplace)


def _advise(console: Console, prediction: Prediction, labels: np.ndarray) -> None:
    """Say which error bars are wrong around the centre that predictions take, and what to do."""
    wrong = describe_coverage(prediction, labels)
    for line in wrong:
        console.print(escape(line), soft_wrap=True)
    if wrong:
        console.print(
            "symspec errors ... --calibrate-on SPECTRA --leave-one-out scales them to the scatter"
            " of stars left out.",
            soft_wrap=True,
        )


def print_network(console: Console, net: Network, reg: Regression | None, path: str) -> None:
    """Print the contents of a network's file."""
    console.print(f"[bold]{escape(path)}[/]: a network without error bars", soft_wrap=True)
    console.print(network_table(net, reg))
    console.print(label_table(net))
    if reg is not None:
        console.print(_describe_noise(reg))


def _describe_noise(reg: Regression) -> str:
    return f"Noise of the labels: {reg.noise.describe()}"


def _describe_counted(training_flux_cov: np.ndarray) -> str:
    """Which flux errors count, from their covariances (center, label, label)."""
    at_weights, linearized = np.sqrt(np.diagonal(training_flux_cov, axis1=1, axis2=2))
    return (
        f"Flux errors: what exceeds the training spectra's ({list_numbers(at_weights)} in labels,"
        f" {list_numbers(linearized)} linearised), which noise and model errors hold"
    )


def print_foreign_network(console: Console, description: FileDescription, path: str) -> None:
    """Print the contents of another program's file of a network."""
    console.print(f"[bold]{escape(path)}[/]: {escape(description.format)}", soft_wrap=True)
    console.print(foreign_table(description))
    console.print(f"In Python: {escape(description.advice)}", soft_wrap=True)


def print_spectra(console: Console, spectra: Spectra, path: str, contents: Contents) -> None:
    """Print the contents of a file of spectra."""
    console.print(f"[bold]{escape(path)}[/]: spectra", soft_wrap=True)
    for line in [*spectra_lines(spectra), *layout_lines(contents)]:
        console.print(f"  {escape(line)}", soft_wrap=True)
    if spectra.labels is not None:
        console.print(spectra_label_table(spectra))


def _prior_sigma(precision: Any) -> str:
    sigma = 1 / np.sqrt(precision)
    return f"{sigma:.3g}" if np.ndim(sigma) == 0 else f"{sigma.min():.3g} to {sigma.max():.3g}"
