"""Figures: Axes in, Axes out. They draw what is given and compute next to nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import OptionError, ShapeError
from symspec.laplace.prediction import Prediction
from symspec.safety.whole_files import replace_when_complete
from symspec.spectra.spectra import with_unit
from symspec.validation.audit import INSIDE, StructureAudit
from symspec.validation.calibration import (
    ONE_SIGMA,
    check_true_labels,
    coverage,
    sigma_mad,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#b5402d", "#22668d", "#3d7a3a", "#7a4b94", "#8a6d1d", "#2f9e9a", "#d0679d", "#555555")
GREY = "#888888"
# behind text in a panel
_PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
_MARKERS = "osD^vP*X"
_STRIP = 0.3  # width of the strips beside the quantiles, in units of these


def plot_predicted_against_true(
    prediction: Prediction, true_labels: ArrayLike, *, axes: Sequence[Axes] | None = None
) -> np.ndarray:
    """Draw predicted against true labels, one panel a label, with the error bars put to the test.

    Bars are one standard deviation of the total error, or hold as much as that of a normal
    distribution, 68.27 %. Each panel gives the scatter of the residuals
    (`symspec.validation.calibration.sigma_mad`) and the share of true labels within the
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
    panels = label_axes(axes, n_labels, (3.7 * n_labels, 3.9))
    scatter = sigma_mad(prediction.labels - truth)
    covered = coverage(prediction, truth)
    half_width = prediction.half_width(ONE_SIGMA)
    for c, panel in enumerate(panels):
        unit = prediction.label_units[c]
        known = np.isfinite(truth[:, c]) & np.isfinite(prediction.labels[:, c])
        _draw_predicted_against_true(
            panel,
            truth[known, c],
            prediction.labels[known, c],
            half_width[known, c],
            COLOURS[c % len(COLOURS)],
        )
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
    return panels


def plot_structure_audit(
    audit: StructureAudit, *, axes: Sequence[Axes] | None = None
) -> np.ndarray:
    """Draw the ratio of each structure's standard deviation to the exact one, one panel a label.

    The distance of the stars from the training set increases from left to right, by
    `StructureAudit.quantile`. Training stars (distance 0), and stars farther out than all of them
    (quantile 1), stand side by side in strips of their own, in order of distance. The region
    outside the training set is shaded.

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
    panels = label_axes(axes, n_labels, (2.6 + 4.4 * n_labels, 4.2), sharey=True)
    places = _place_by_distance(audit)
    for c, panel in enumerate(panels):
        panel.axhline(1.0, color="black", linewidth=0.9, zorder=1)
        for i, name in enumerate(audit.structures):
            panel.plot(
                places,
                audit.ratio[i, :, c],
                color=COLOURS[i % len(COLOURS)],
                marker=_MARKERS[i % len(_MARKERS)],
                markersize=3.5,
                linestyle="",
                alpha=0.75,
                label=name,
            )
        _finish_audit_panel(panel, audit)
        panel.set_title(audit.label_names[c], fontsize=10)
        panel.label_outer()
    panels[0].set_ylabel(f"standard deviation / exact ({audit.exact})")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, markerscale=1.6)
    return panels


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
        _, grid = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False, **options)
        return grid.ravel()
    panels = np.atleast_1d(axes)
    if len(panels) != n_labels:
        raise ShapeError(f"axes should be {n_labels} Axes, one a label, got {len(panels)}.")
    return panels


def save_figure(figure: Figure, path: str | os.PathLike[str], *, dpi: float = 150) -> Path:
    """Write a figure whole or not at all: to a temporary file beside `path`, which is then renamed.

    Parameters
    ----------
    figure : matplotlib Figure
    path : str or path
        Its suffix gives the format: .png, .pdf, .svg, ... An existing file is replaced.
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


def _place_by_distance(audit: StructureAudit) -> np.ndarray:
    """Quantiles (star,), with strips from -0.3 to 0 and from 1 to 1.3 where many are alike."""
    places = audit.quantile.astype(float)
    for members, start in ((audit.distance == 0, -_STRIP), (audit.quantile >= 1, 1.0)):
        n = int(np.count_nonzero(members))
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
        panel.axvspan(max(INSIDE, left), right, color=GREY, alpha=0.12, linewidth=0, zorder=0)
    for edge in [0.0] * (trained and between) + [1.0] * (beyond and between):
        panel.axvline(edge, color=GREY, linewidth=0.6, zorder=0)
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
    panel.errorbar(
        truth,
        predicted,
        yerr=error,
        fmt="none",
        ecolor=colour,
        elinewidth=0.6,
        alpha=0.25,
        zorder=1,
    )
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
