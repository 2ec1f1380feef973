"""The figure of a network's sensitivity: derivatives of labels by pixels, with known lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import ShapeError
from symspec.reports.plots import COLOURS, GREY
from symspec.safety.arrays import as_float_array
from symspec.spectra.line_list import strong_lines
from symspec.spectra.wavelengths import convert_medium

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAME_SIZE = 7.5  # points
_NAME_GAP = 1.35  # of a line's name to the next, in heights of its letters


def plot_sensitivity(
    jacobian: ArrayLike,
    wavelength: ArrayLike | None,
    *,
    label_names: Sequence[str],
    label_units: Sequence[str],
    lines: Mapping[str, float] | None = None,
    flux: ArrayLike | None = None,
    wavelength_unit: str = "Angstrom",
    wavelength_medium: str | None = None,
    axes: Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw d(label)/d(flux) against wavelength, one panel a label, with known lines marked.

    Parameters
    ----------
    jacobian : array_like, shape (label, pixel)
        Jacobian of one star, or the mean over stars, in units of the label per unit of flux.
    wavelength : array_like, shape (pixel,), or None
        None counts pixels instead, without lines.
    label_names, label_units : sequence of str
        One a label.
    lines : dict of str to float, optional
        Names and wavelengths of lines to mark; those outside the range are left out. By default
        `symspec.spectra.line_list.strong_lines` where `wavelength_unit` is "Angstrom", in vacuum
        where `wavelength_medium` says so and else in air; ``{}`` for none.
    flux : array_like, shape (pixel,), optional
        The spectrum, drawn in a thin panel on top.
    wavelength_unit : str, default "Angstrom"
    wavelength_medium : {"air", "vacuum"}, optional
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
    n_pixels = J.shape[1]
    pixels = np.arange(n_pixels) if wavelength is None else wavelength
    x = _check_pixels(pixels, "wavelength", n_pixels)
    spectrum = None if flux is None else _check_pixels(flux, "flux", n_pixels)
    every = _find_axes(axes, len(J), spectrum is not None)
    panels = list(every)
    if spectrum is not None:
        top = panels.pop(0)
        top.plot(x, spectrum, color="black", linewidth=0.6)
        top.set_ylabel("flux")
    for i, (panel, name, unit) in enumerate(zip(panels, label_names, label_units, strict=True)):
        panel.axhline(0, color=GREY, linewidth=0.6)
        panel.plot(x, J[i], color=COLOURS[i % len(COLOURS)], linewidth=0.7)
        panel.set_ylabel(f"d {name} / d flux" + (f"\n[{unit} per unit of flux]" if unit else ""))
    name = "pixel" if wavelength is None else f"wavelength [{wavelength_unit}]"
    _finish_wavelength_axis(every, x, name)
    if lines is None:
        known = wavelength is not None and wavelength_unit == "Angstrom"
        lines = find_lines(wavelength_medium) if known else {}
    _mark_lines(every, {name: at for name, at in lines.items() if x.min() <= at <= x.max()})
    return every


def find_lines(medium: str | None) -> dict[str, float]:
    """Strong lines in Angstrom of this medium, or of air where it is not known."""
    lines = strong_lines()
    found = convert_medium(np.array([*lines.values()]), "Angstrom", "air", medium)
    return dict(zip(lines, found.tolist(), strict=True))


def _check_pixels(value: ArrayLike, name: str, n_pixels: int) -> np.ndarray:
    array = as_float_array(value, name)
    if array.shape != (n_pixels,):
        raise ShapeError(
            f"{name} should have shape ({n_pixels},), one value a column of jacobian, got"
            f" {array.shape}."
        )
    return array


def _find_axes(axes: Any, n_labels: int, has_flux: bool) -> np.ndarray:
    """The axes given, or those of a new figure: one for the flux, if there is any, one a label."""
    heights = [1.0] * n_labels
    if has_flux:
        heights.insert(0, 0.7)
    if axes is None:
        import matplotlib.pyplot as plt

        _, grid = plt.subplots(
            len(heights),
            1,
            sharex=True,
            figsize=(10.0, 1.2 + 1.9 * sum(heights)),
            height_ratios=heights,
            layout="constrained",
            squeeze=False,
        )
        return grid[:, 0]
    panels = np.atleast_1d(axes)
    if len(panels) != len(heights):
        raise ShapeError(f"axes should be {len(heights)} Axes, got {len(panels)}.")
    return panels


def _finish_wavelength_axis(axes: np.ndarray, x: np.ndarray, name: str) -> None:
    for panel in axes:
        if x.size > 1:
            panel.set_xlim(x.min(), x.max())
        panel.label_outer()
    axes[-1].set_xlabel(name)
    axes[0].figure.align_ylabels(list(axes))


def _mark_lines(axes: np.ndarray, lines: Mapping[str, float]) -> None:
    """Mark lines in all panels; write their names above the first, apart from each other."""
    if not lines:
        return
    for panel in axes:
        for at in lines.values():
            panel.axvline(at, color=GREY, linewidth=0.5, alpha=0.5, zorder=0)
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
                "color": GREY,
                "linewidth": 0.5,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def _spread(places: np.ndarray, gap: float) -> np.ndarray:
    """Nearest places, by least squares, that are `gap` apart; `places` increase from 0 to 1."""
    from scipy.optimize import isotonic_regression

    steps = gap * np.arange(places.size)
    highest = max(1.0 - steps[-1], 0.0)
    return np.clip(isotonic_regression(places - steps).x, 0.0, highest) + steps
