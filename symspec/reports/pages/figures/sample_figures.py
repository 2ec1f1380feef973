"""Figures of predicted stars: their error budget, residuals, and these in units of the errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from symspec.reports.pages.figures.images import MOST_VECTORS, draw_panel
from symspec.reports.pages.figures.parts import Cell, Figure, Image, Table
from symspec.reports.pages.figures.samples import Sample, find_bins, find_median, find_scatter
from symspec.reports.pages.figures.words import Words, count, number, numbers
from symspec.reports.plots import COLOURS, GREY
from symspec.spectra.spectra import with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = list[list[Cell]]
_PART_STYLES = {
    "model": (COLOURS[0], "-"),
    "within": (COLOURS[0], "-"),
    "between": (COLOURS[3], "-."),
    "flux": (COLOURS[1], "--"),
    "noise": (COLOURS[2], ":"),
    "total": ("black", "-"),
}
MOST_PANELS = 6  # of a figure: a page has room for no more
OUTERMOST = 5.0  # z beyond which points stand at the edge


def draw_labels(
    n_labels: int, draw: Callable[[int], tuple[Image, Rows]]
) -> tuple[list[Image], Rows]:
    """Pictures of the first labels, and rows of a table of all, one label after the other."""
    drawn = [draw(c) for c in range(n_labels)]
    return [image for image, _ in drawn[:MOST_PANELS]], [row for _, rows in drawn for row in rows]


def budget_figure(sample: Sample, words: Words) -> Figure:
    """Each part of the error along the label: medians of bins."""
    budget = sample.find_budget()
    prediction = sample.prediction

    def draw_label(c: int) -> tuple[Image, Rows]:
        name = prediction.label_names[c]
        unit = prediction.label_units[c]
        errors = {part: error[:, c] for part, error in budget.items()}
        bins = list(find_bins(prediction.labels[:, c], np.isfinite(errors["total"])))
        medians = {
            part: np.array([find_median(error[one.members]) for one in bins])
            for part, error in errors.items()
        }

        def draw(panel: Axes) -> None:
            for part, values in medians.items():
                colour, line = _PART_STYLES[part]
                places = [one.x for one in bins]
                panel.plot(places, values, color=colour, linestyle=line, marker=".", label=part)
            panel.set_ylim(bottom=0)
            panel.set(xlabel=with_unit(name, unit), ylabel=with_unit("error", unit))
            panel.legend(fontsize=8, ncols=2)

        overall = [f"{part} {number(find_median(e), unit).text}" for part, e in errors.items()]
        alt = (
            f"{name}: median error by its part against {name}. Over all {words.many}:"
            f" {', '.join(overall)}."
        )
        rows: Rows = [
            [
                with_unit(name, unit),
                number(one.x),
                count(one.members.size),
                *numbers(medians[part][i] for part in medians),
            ]
            for i, one in enumerate(bins)
        ]
        return draw_panel(draw, alt), rows

    images, rows = draw_labels(len(prediction.label_names), draw_label)
    return Figure(
        caption=f"Median error by its part along each label, in bins of equally many {words.many}.",
        images=images,
        table=Table(
            caption="Median errors along the labels",
            columns=["label", "at", words.many, *budget],
            rows=rows,
        ),
    )


def residual_figure(sample: Sample, words: Words) -> Figure:
    """Residuals against the known label, in its unit."""
    residuals = sample.find_residuals()
    truth = np.asarray(sample.true_labels)
    prediction = sample.prediction

    def draw_label(c: int) -> tuple[Image, Rows]:
        name = prediction.label_names[c]
        unit = prediction.label_units[c]
        cloud = _Cloud(truth[:, c], residuals[:, c], COLOURS[c % len(COLOURS)])
        image = cloud.draw(
            with_unit(f"known {name}", unit),
            with_unit("predicted - known", unit),
            f"{name}: residuals against the known {name}, of {words.count(cloud.n)}",
        )
        return image, [[with_unit(name, unit), *row] for row in cloud.rows]

    images, rows = draw_labels(len(prediction.label_names), draw_label)
    return Figure(
        caption="Residuals against known labels. The line joins medians of bins, the band reaches"
        " one robust scatter to either side.",
        images=images,
        table=Table(
            caption="Residuals along the labels",
            columns=["label", "at", words.many, "median", "scatter"],
            rows=rows,
        ),
    )


def z_figure(sample: Sample, words: Words) -> Figure:
    """Residuals in units of their errors against the known label, or against the S/N."""
    truth = np.asarray(sample.true_labels)
    columns = [
        (f"known {name}", with_unit(f"known {name}", unit), truth[:, c])
        for c, (name, unit) in enumerate(_list_labels(sample))
    ]
    return _draw_z(sample, words, columns, "known labels")


def snr_figure(sample: Sample, words: Words) -> Figure:
    """Residuals in units of their errors against the signal-to-noise ratio."""
    name = "signal-to-noise ratio"
    columns = [(name, name, np.asarray(sample.snr))] * len(sample.prediction.label_names)
    return _draw_z(sample, words, columns, f"the {name}")


def _draw_z(
    sample: Sample, words: Words, columns: Sequence[tuple[str, str, np.ndarray]], against: str
) -> Figure:
    z = sample.find_residuals() / sample.find_deviations()
    names = sample.prediction.label_names

    def draw_label(c: int) -> tuple[Image, Rows]:
        name, axis, x = columns[c]
        cloud = _Cloud(x, z[:, c], COLOURS[c % len(COLOURS)], OUTERMOST)
        alt = f"z of {names[c]} against the {name}, of {words.count(cloud.n)}"
        image = cloud.draw(axis, f"z of {names[c]}", alt)
        return image, [[names[c], *row] for row in cloud.rows]

    images, rows = draw_labels(len(names), draw_label)
    return Figure(
        caption=f"z, the residual over its error, against {against}. True error bars keep its"
        f" median at 0 and its scatter at 1 everywhere. Points beyond {OUTERMOST:g} stand at the"
        " edge.",
        images=images,
        table=Table(
            caption=f"z along {against}",
            columns=["label", "at", words.many, "median z", "scatter of z"],
            rows=rows,
        ),
    )


def _list_labels(sample: Sample) -> list[tuple[str, str]]:
    prediction = sample.prediction
    return list(zip(prediction.label_names, prediction.label_units, strict=True))


@dataclass(eq=False)
class _Cloud:
    """Points y (star,) at x (star,), drawn with medians and scatter of bins.

    Points beyond `limit` are drawn there.
    """

    x: np.ndarray
    y: np.ndarray
    colour: str
    limit: float | None = None

    def __post_init__(self) -> None:
        self.known = np.isfinite(self.x) & np.isfinite(self.y)
        self.n = int(np.count_nonzero(self.known))
        self.bins = list(find_bins(self.x, self.known))
        self.medians = np.array([find_median(self.y[one.members]) for one in self.bins])
        self.scatters = np.array([find_scatter(self.y[one.members]) for one in self.bins])

    @property
    def rows(self) -> Rows:
        """Of each bin: place, stars, median, scatter."""
        listed = zip(self.bins, self.medians, self.scatters, strict=True)
        return [
            [number(one.x), count(one.members.size), number(median), number(scatter)]
            for one, median, scatter in listed
        ]

    def draw(self, x_name: str, y_name: str, what: str) -> Image:
        y = self.y[self.known]
        shown = y if self.limit is None else np.clip(y, -self.limit, self.limit)

        def draw(panel: Axes) -> None:
            panel.axhline(0, color="black", linewidth=0.8)
            panel.plot(
                self.x[self.known], shown, ".", color=self.colour, markersize=3, alpha=0.55,
                rasterized=self.n > MOST_VECTORS,
            )  # fmt: skip
            places = np.array([one.x for one in self.bins])
            ends = [self.medians - self.scatters, self.medians + self.scatters]
            panel.fill_between(places, *ends, color=GREY, alpha=0.35, linewidth=0)
            panel.plot(places, self.medians, color="black", marker="o", ms=3.5, linewidth=1.2)
            if self.limit is not None:
                panel.set_ylim(-1.06 * self.limit, 1.06 * self.limit)
            panel.set(xlabel=x_name, ylabel=y_name)

        median = number(find_median(y)).text
        scatter = number(find_scatter(y)).text
        return draw_panel(draw, f"{what}: median {median}, robust scatter {scatter}.")
