"""Figures: Axes in, Axes out. They draw what is given and compute next to nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from symspec.errors import OptionError, ShapeError
from symspec.laplace.audit import INSIDE, StructureAudit
from symspec.laplace.calibration import check_true_labels, coverage, sigma_mad
from symspec.laplace.prediction import Prediction
from symspec.safety.checks import as_float_array
from symspec.safety.whole_files import replace_when_complete
from symspec.spectra.line_list import strong_lines
from symspec.spectra.spectra import with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#b5402d", "#22668d", "#3d7a3a", "#7a4b94", "#8a6d1d", "#2f9e9a", "#d0679d", "#555555")
_GREY = "#888888"
_PAPER = {
    "facecolor": "white",
    "edgecolor": "none",
    "alpha": 0.8,
    "pad": 1.5,
}  # behind words in a panel
_MARKERS = "osD^vP*X"
_STRIP = 0.3  # width of the strips beside the quantiles, in units of these
_NAME_SIZE = 7.5  # points
_NAME_GAP = 1.35  # of a line's name to the next, in heights of its letters


def plot_sensitivity(
    jacobian: Any,
    wavelength: Any,
    *,
    label_names: Sequence[str],
    label_units: Sequence[str],
    lines: Mapping[str, float] | None = None,
    flux: Any = None,
    wavelength_unit: str = "Angstrom",
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw d(label)/d(flux) against wavelength, one panel a label, with the lines that a reader recognises.

    Parameters
    ----------
    jacobian : array_like, shape (label, pixel)
        Of one star, or the mean over stars, in units of the label per unit of the flux.
    wavelength : array_like, shape (pixel,), or None
        None counts pixels instead, without lines.
    label_names, label_units : sequence of str
        One a label.
    lines : dict of str to float, optional
        Names and wavelengths of lines to mark; those outside the range are left out. By default
        `symspec.spectra.line_list.strong_lines` (air) where `wavelength_unit` is "Angstrom"; ``{}``
        for none.
    flux : array_like, shape (pixel,), optional
        The spectrum, drawn in a thin panel on top.
    wavelength_unit : str, default "Angstrom"
    axes : sequence of matplotlib Axes, optional
        One a label, preceded by one for `flux` if given, from top to bottom; by default a new
        figure.

    Returns
    -------
    numpy.ndarray of matplotlib Axes

    Raises
    ------
    ShapeError
        Arrays, names or axes do not fit together.
    """
    J = as_float_array(jacobian, "jacobian")
    if J.ndim != 2 or len(label_names) != len(J) or len(label_units) != len(J):
        raise ShapeError(
            f"jacobian should have shape ({len(label_names)}, pixel), one row a label name and"
            f" unit, got {J.shape}: for many stars give one, jacobian[0], or their mean,"
            " jacobian.mean(axis=0)."
        )
    x = _check_pixels(
        np.arange(J.shape[1]) if wavelength is None else wavelength, "wavelength", J.shape[1]
    )
    spectrum = None if flux is None else _check_pixels(flux, "flux", J.shape[1])
    axes = _sensitivity_axes(len(J), spectrum is not None) if axes is None else np.atleast_1d(axes)
    if len(axes) != len(J) + (spectrum is not None):
        raise ShapeError(f"axes should be {len(J) + (spectrum is not None)} Axes, got {len(axes)}.")
    panels = list(axes)
    if spectrum is not None:
        top = panels.pop(0)
        top.plot(x, spectrum, color="black", linewidth=0.6)
        top.set_ylabel("flux")
    for i, (panel, name, unit) in enumerate(zip(panels, label_names, label_units, strict=True)):
        panel.axhline(0, color=_GREY, linewidth=0.6)
        panel.plot(x, J[i], color=_COLOURS[i % len(_COLOURS)], linewidth=0.7)
        panel.set_ylabel(f"d {name} / d flux" + (f"\n[{unit} per unit of flux]" if unit else ""))
    _finish_wavelength_axis(
        axes, x, "pixel" if wavelength is None else f"wavelength [{wavelength_unit}]"
    )
    if lines is None:
        known = wavelength is not None and wavelength_unit == "Angstrom"
        lines = strong_lines(x.min(), np.nextafter(x.max(), np.inf)) if known else {}
    _mark_lines(axes, {name: at for name, at in lines.items() if x.min() <= at <= x.max()})
    return axes


def plot_predicted_against_true(
    prediction: Prediction, true_labels: Any, *, axes: Sequence[Axes] | None = None
) -> np.ndarray:
    """Draw predicted against true labels, one panel a label, with the error bars put to the test.

    Bars are one standard deviation of the total error. Each panel tells the scatter of the
    residuals (`symspec.laplace.calibration.sigma_mad`) and how many true labels lie within the
    intervals of 68 % and 95 %.

    Parameters
    ----------
    prediction : Prediction
    true_labels : array_like, shape (star, label)
        NaN is left out.
    axes : sequence of matplotlib Axes, optional
        One a label; by default a new figure.

    Returns
    -------
    numpy.ndarray of matplotlib Axes

    Raises
    ------
    ShapeError
        `true_labels` or `axes` do not fit the prediction.
    """
    truth = check_true_labels(prediction, true_labels)
    n_labels = truth.shape[1]
    axes = label_axes(axes, n_labels, (3.7 * n_labels, 3.9))
    scatter = sigma_mad(prediction.labels - truth)
    covered = coverage(prediction, truth)
    for c, panel in enumerate(axes):
        unit = prediction.label_units[c]
        known = np.isfinite(truth[:, c]) & np.isfinite(prediction.labels[:, c])
        colour = _COLOURS[c % len(_COLOURS)]
        columns = truth[known, c], prediction.labels[known, c], prediction.errors[known, c]
        _draw_predicted_against_true(panel, *columns, colour)
        panel.set_xlabel(with_unit(f"true {prediction.label_names[c]}", unit))
        panel.set_ylabel(with_unit(f"predicted {prediction.label_names[c]}", unit))
        verdict = (
            rf"$\sigma_\mathrm{{MAD}}$ = {scatter[c]:.3g} {unit}".rstrip()
            + f"\nwithin 68 %: {100 * covered[0, c]:.0f} %\nwithin 95 %:"
            f" {100 * covered[1, c]:.0f} %"
        )
        panel.text(
            0.04, 0.96, verdict, transform=panel.transAxes, va="top", fontsize=9, bbox=_PAPER
        )
    return axes


def plot_structure_audit(
    audit: StructureAudit, *, axes: Sequence[Axes] | None = None
) -> np.ndarray:
    """Draw the ratio of each structure's standard deviation to the exact one, one panel a label.

    From left to right stars lie farther from the training set, by `StructureAudit.quantile`. Stars
    that are training stars (distance 0), or farther out than all training stars (quantile 1), are
    side by side in strips of their own, in order of distance; those outside the training set are
    shaded.

    Parameters
    ----------
    audit : StructureAudit
    axes : sequence of matplotlib Axes, optional
        One a label; by default a new figure.

    Returns
    -------
    numpy.ndarray of matplotlib Axes

    Raises
    ------
    ShapeError
        `axes` do not fit the labels.
    """
    n_labels = len(audit.label_names)
    axes = label_axes(axes, n_labels, (2.6 + 4.4 * n_labels, 4.2), sharey=True)
    places = _place_by_distance(audit)
    for c, panel in enumerate(axes):
        panel.axhline(1.0, color="black", linewidth=0.9, zorder=1)
        for i, name in enumerate(audit.structures):
            look = {
                "color": _COLOURS[i % len(_COLOURS)],
                "marker": _MARKERS[i % len(_MARKERS)],
                "label": name,
            }
            panel.plot(
                places, audit.ratio[i, :, c], linestyle="", markersize=3.5, alpha=0.75, **look
            )
        _finish_audit_panel(panel, audit)
        panel.set_title(audit.label_names[c], fontsize=10)
        panel.label_outer()
    axes[0].set_ylabel(f"standard deviation / exact ({audit.exact})")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, markerscale=1.6)
    return axes


def label_axes(
    axes: Any, n_labels: int, size: tuple[float, float], *, stacked: bool = False, **options: Any
) -> np.ndarray:
    """Axes one a label: those given, or a new figure's side by side or stacked.

    Raises
    ------
    ShapeError
        There are not as many as labels.
    """
    if axes is None:
        import matplotlib.pyplot as plt

        shape = (n_labels, 1) if stacked else (1, n_labels)
        axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False, **options)[
            1
        ].ravel()
    axes = np.atleast_1d(axes)
    if len(axes) != n_labels:
        raise ShapeError(f"axes should be {n_labels} Axes, one a label, got {len(axes)}.")
    return axes


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: float = 150) -> Path:
    """Write a figure whole or not at all: to a temporary file beside `path`, which is then renamed.

    Parameters
    ----------
    figure : matplotlib Figure
    path : str or path
        Its suffix tells the format: .png, .pdf, .svg, ... An existing file is replaced.
    dpi : float, default 150

    Returns
    -------
    pathlib.Path

    Raises
    ------
    OptionError
        The suffix is none that matplotlib writes.
    """
    path = Path(path)
    suffix = check_figure_suffix(path)
    with replace_when_complete(path, overwrite=True) as temporary:
        figure.savefig(temporary, format=suffix, dpi=dpi)
    return path


def check_figure_suffix(path: Path) -> str:
    """Format that a figure's file name asks for.

    Raises
    ------
    OptionError
        The suffix is none that matplotlib writes.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    suffix = path.suffix.lower().removeprefix(".")
    known = FigureCanvasBase.get_supported_filetypes()
    if suffix not in known:
        listed = ", ".join(f".{name}" for name in sorted(known))
        raise OptionError(
            f"{path} should end in one of {listed}: rename it, for example {path.stem}.png."
        )
    return suffix


def _check_pixels(value: Any, name: str, n_pixels: int) -> np.ndarray:
    array = as_float_array(value, name)
    if array.shape != (n_pixels,):
        raise ShapeError(
            f"{name} should have shape ({n_pixels},), one value a column of jacobian, got"
            f" {array.shape}."
        )
    return array


def _sensitivity_axes(n_labels: int, has_flux: bool) -> np.ndarray:
    import matplotlib.pyplot as plt

    heights = [0.7] * has_flux + [1.0] * n_labels
    return plt.subplots(
        len(heights),
        1,
        sharex=True,
        figsize=(10.0, 1.2 + 1.9 * sum(heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )[1][:, 0]


def _finish_wavelength_axis(axes: np.ndarray, x: np.ndarray, name: str) -> None:
    for panel in axes:
        panel.set_xlim(x.min(), x.max()) if x.size > 1 else None
        panel.label_outer()
    axes[-1].set_xlabel(name)
    axes[0].figure.align_ylabels(list(axes))


def _mark_lines(axes: np.ndarray, lines: Mapping[str, float]) -> None:
    """Mark lines in all panels and write their names above the first, moved aside where they would touch."""
    if not lines:
        return
    for panel in axes:
        for at in lines.values():
            panel.axvline(at, color=_GREY, linewidth=0.5, alpha=0.5, zorder=0)
    first = axes[0]
    low, high = first.get_xlim()
    names = sorted(lines, key=lambda name: lines[name])
    places = np.array([(lines[name] - low) / (high - low) for name in names])
    points = 72 * first.figure.get_figwidth() * first.get_position().width
    moved = _spread(places, _NAME_GAP * _NAME_SIZE / points)
    for name, place, aside in zip(names, places, moved, strict=True):
        first.annotate(
            name,
            (place, 1.0),
            xycoords="axes fraction",
            xytext=(aside, 1.12),
            textcoords="axes fraction",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=_NAME_SIZE,
            arrowprops={
                "arrowstyle": "-",
                "color": _GREY,
                "linewidth": 0.5,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def _spread(places: np.ndarray, gap: float) -> np.ndarray:
    """Nearest places, in the sense of least squares, that are `gap` apart; `places` increase from 0 to 1."""
    from scipy.optimize import isotonic_regression

    steps = gap * np.arange(places.size)
    highest = max(1.0 - steps[-1], 0.0)
    return np.clip(isotonic_regression(places - steps).x, 0.0, highest) + steps


def _place_by_distance(audit: StructureAudit) -> np.ndarray:
    """Quantiles (star,), but in strips from -0.3 to 0 and from 1 to 1.3 where there are many alike."""
    places = audit.quantile.astype(float)
    for members, start in ((audit.distance == 0, -_STRIP), (audit.quantile >= 1, 1.0)):
        n = np.count_nonzero(members)
        order = np.argsort(np.argsort(audit.distance[members], kind="stable"))
        places[members] = start + _STRIP * (0.1 + 0.8 * (order + 0.5) / max(n, 1))
    return places


def _finish_audit_panel(panel: Axes, audit: StructureAudit) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    trained = bool((audit.distance == 0).any())
    beyond = bool((audit.quantile >= 1).any())
    between = trained == beyond or bool(((audit.distance > 0) & (audit.quantile < 1)).any())
    left, right = (-0.03, 1.03) if between else (1.0, 0.0)
    left = -_STRIP if trained else left
    right = 1 + _STRIP if beyond else right
    if right > INSIDE:
        panel.axvspan(max(INSIDE, left), right, color=_GREY, alpha=0.12, linewidth=0, zorder=0)
    for edge in [0.0] * (trained and between) + [1.0] * (beyond and between):
        panel.axvline(edge, color=_GREY, linewidth=0.6, zorder=0)
    ticks = {0.0: "0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1.0: "1"} if between else {}
    ticks |= {-_STRIP / 2: "training\nstars"} if trained else {}
    ticks |= {1 + _STRIP / 2: "farther\nthan all"} if beyond else {}
    panel.set(
        xlim=(left, right), xticks=list(ticks), xticklabels=list(ticks.values()), yscale="log"
    )
    panel.set_xlabel(
        f"distance to the nearest training star, quantile\n(shaded: outside, > {INSIDE:g})"
    )
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())


def _draw_predicted_against_true(
    panel: Axes, truth: np.ndarray, predicted: np.ndarray, error: np.ndarray, colour: str
) -> None:
    bars = {"ecolor": colour, "elinewidth": 0.6, "alpha": 0.25}
    panel.errorbar(truth, predicted, yerr=error, fmt="none", zorder=1, **bars)
    panel.plot(truth, predicted, ".", color=colour, markersize=3, zorder=2)
    if truth.size:
        low = min(truth.min(), predicted.min())
        high = max(truth.max(), predicted.max())
        margin = 0.05 * (high - low) or 1.0
        limits = low - margin, high + margin
        panel.plot(limits, limits, color="black", linewidth=0.8, zorder=3)
        panel.set(xlim=limits, ylim=limits)
    panel.set_box_aspect(1)
    panel.locator_params(nbins=5)
