"""Figures that say whether error bars are true: coverage, and probability integral transform."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from symspec.reports.pages.figures.images import draw_panel
from symspec.reports.pages.figures.parts import Figure, Image, Table
from symspec.reports.pages.figures.sample_figures import Rows, draw_labels
from symspec.reports.pages.figures.samples import Sample, find_coverage
from symspec.reports.pages.figures.words import Words, count, number, percent
from symspec.reports.plots import COLOURS, GREY
from symspec.validation.calibration import find_binomial_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# of the curve of coverage
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.68, 0.8, 0.9, 0.95, 0.99)
PIT_BINS = 10


def coverage_figure(sample: Sample) -> Figure:
    """Shares of labels within intervals of many levels, with what chance allows."""
    pit = sample.find_pit()
    known = ~np.isnan(np.asarray(sample.true_labels))
    names = sample.prediction.label_names

    def draw_label(c: int) -> tuple[Image, Rows]:
        n = int(known[:, c].sum())
        found = find_coverage(pit[:, c], known[:, c], LEVELS)
        errors = np.array([find_binomial_error(level, n) for level in LEVELS])

        def draw(panel: Axes) -> None:
            levels = 100 * np.array(LEVELS)
            panel.plot([0, 100], [0, 100], color="black", linewidth=0.8)
            ends = [np.clip(levels + 200 * sign * errors, 0, 100) for sign in (-1, 1)]
            panel.fill_between(levels, *ends, color=GREY, alpha=0.35, linewidth=0)
            panel.plot(levels, 100 * found, "o-", color=COLOURS[c % len(COLOURS)], ms=4)
            panel.set(xlim=(0, 100), ylim=(0, 102))
            panel.set(xlabel="level of the interval [%]", ylabel=f"{names[c]} inside [%]")

        at = dict(zip(LEVELS, found, strict=True))
        alt = (
            f"{names[c]}: share of {n:,} known labels within their intervals against the level:"
            f" {percent(at[0.68]).text} in 68 %, {percent(at[0.95]).text} in 95 %."
        )
        rows: Rows = [
            [names[c], percent(level), percent(share, 1), percent(error, 1)]
            for level, share, error in zip(LEVELS, found, errors, strict=True)
        ]
        return draw_panel(draw, alt), rows

    images, rows = draw_labels(len(names), draw_label)
    return Figure(
        caption="Coverage: shares of known labels within the intervals of each level. True error"
        " bars stay on the line, within two binomial errors of it (grey).",
        images=images,
        table=Table(
            caption="Coverage of the intervals",
            columns=["label", "level", "inside", "binomial error"],
            rows=rows,
        ),
    )


def pit_figure(sample: Sample, words: Words) -> Figure:
    """Histograms of the probability integral transform, with what chance allows."""
    pit = sample.find_pit()
    names = sample.prediction.label_names

    def draw_label(c: int) -> tuple[Image, Rows]:
        values = pit[np.isfinite(pit[:, c]), c]
        edges = np.linspace(0, 1, PIT_BINS + 1)
        counts = np.histogram(values, edges)[0]
        expected = values.size / PIT_BINS
        error = values.size * find_binomial_error(1 / PIT_BINS, values.size)

        def draw(panel: Axes) -> None:
            if values.size:
                ends = (expected - 2 * error, expected + 2 * error)
                panel.axhspan(*ends, color=GREY, alpha=0.35, linewidth=0)
            panel.axhline(expected, color="black", linewidth=0.8)
            panel.stairs(counts, edges, fill=True, color=COLOURS[c % len(COLOURS)], alpha=0.6)
            panel.set(xlim=(0, 1), xlabel=f"PIT of {names[c]}", ylabel=words.many)
            panel.set_ylim(bottom=0)

        alt = (
            f"{names[c]}: histogram of the probability integral transform of {values.size:,} known"
            f" labels: {counts.min()} to {counts.max()} in each of {PIT_BINS} bins, where"
            f" {number(expected).text} are expected."
        )
        rows: Rows = [
            [names[c], f"{low:.1f} to {high:.1f}", count(int(n)), number(expected)]
            for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)
        ]
        return draw_panel(draw, alt), rows

    images, rows = draw_labels(len(names), draw_label)
    return Figure(
        caption="Probability integral transform (PIT): the probability, by the error bars, of a"
        " label below the known one. It is uniform where they are true; errors that are too large"
        " heap it up in the middle, errors that are too small at both ends. Grey: two binomial"
        " errors.",
        images=images,
        table=Table(
            caption="Histogram of the probability integral transform",
            columns=["label", "PIT", words.many, "expected"],
            rows=rows,
        ),
    )
