"""Figures of derivatives along the spectrum, one a label, with known lines marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from symspec.networks.network import Network
from symspec.reports.pages.figures.derivatives import Derivatives
from symspec.reports.pages.figures.images import MOST_VECTORS, as_image, new_figure
from symspec.reports.pages.figures.parts import Block, Cell, Figure, Image, Number, Table, Zoom
from symspec.reports.pages.figures.words import number, percent
from symspec.reports.pages.figures.zooms import Curves, build_zoom
from symspec.reports.plots import COLOURS
from symspec.reports.sensitivity import find_lines, plot_sensitivity
from symspec.spectra.spectra import with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PER_FLUX = "per unit of flux"
PER_SCATTER = "per training scatter"
SHARE = "share of the flux error budget"
_SHORT = {SHARE: "share of budget [%]"}  # for an axis of a few letters
MOST_WINDOWS = 24  # rows of a table
_NAMES_OF_LINES = 0.85  # inches above the panels
_FLUX_PANEL = 0.6  # height, in those of the others
ZOOM_FROM = 300  # pixels that a page has room for
MOST_BYTES = 1.2e6  # of the pictures of a page
MOST_ZOOMED = 250_000  # numbers in the zoomable figures of a page, of 4 bytes


@dataclass(frozen=True, eq=False, kw_only=True)
class Grid:
    """Pixels of a network, by their wavelengths where these are known.

    Attributes
    ----------
    x : numpy.ndarray, shape (pixel,)
    name : str
        Of the axis, with its unit.
    net : Network
    lines : dict of str to float
        Names and places of known lines.
    """

    x: np.ndarray
    name: str
    net: Network
    lines: Mapping[str, float]

    @classmethod
    def of(cls, net: Network, *, mark_lines: bool) -> Grid:
        """That of a network; lines of stellar spectra are marked where asked for."""
        if net.wavelength is None:
            return cls(x=np.arange(net.n_pixels), name="pixel", net=net, lines={})
        lines = {}
        if mark_lines and net.wavelength_unit == "Angstrom":
            ends = (net.wavelength.min(), net.wavelength.max())
            known = find_lines(net.wavelength_medium)
            lines = {name: at for name, at in known.items() if ends[0] <= at <= ends[1]}
        name = f"wavelength [{net.wavelength_unit}]"
        return cls(x=net.wavelength, name=name, net=net, lines=lines)


def find_rows(c: int, one: Derivatives, scatter: np.ndarray | None) -> dict[str, np.ndarray]:
    """Derivatives (pixel,) of one label in each unit that is known, shares in percent."""
    rows = {PER_FLUX: one.jacobian[c]}
    if scatter is not None:
        rows[PER_SCATTER] = one.jacobian[c] * scatter
    if one.share is not None:
        rows[SHARE] = 100 * one.share[c]
    return rows


def derivative_figures(
    grid: Grid, derivatives: Sequence[Derivatives], scatter: np.ndarray | None
) -> list[Block]:
    """One figure a label, or its table alone once figures have taken the room that there is.

    Where there are many pixels, figures come with another one that can be zoomed.
    """
    zoomed = _choose_zoomed(grid, derivatives, scatter)
    n_zooms = _count_zooms(grid, zoomed, scatter)
    room = MOST_BYTES
    blocks: list[Block] = []
    for c in range(grid.net.n_labels):
        if room <= 0:
            blocks.append(_tabulate(c, grid, derivatives[0], scatter))
            continue
        figure = _draw_label(c, grid, derivatives, zoomed if c < n_zooms else [], scatter)
        room -= sum(len(image.address) for image in figure.images)
        blocks.append(figure)
    return blocks


def _count_numbers(grid: Grid, derivatives: Sequence[Derivatives], scatter: object) -> int:
    """Numbers in a label's zoomable figure: x, the flux, and the rows of each spectrum."""
    n_rows = 1 + (scatter is not None) + (derivatives[0].share is not None)
    return grid.x.size * (2 + n_rows * len(derivatives))


def _choose_zoomed(
    grid: Grid, derivatives: Sequence[Derivatives], scatter: np.ndarray | None
) -> Sequence[Derivatives]:
    """As many as a page has room for, but at least the first; none of few pixels."""
    if grid.x.size < ZOOM_FROM:
        return []
    some = derivatives
    while len(some) > 1 and grid.net.n_labels * _count_numbers(grid, some, scatter) > MOST_ZOOMED:
        some = some[:-1]
    return some


def _count_zooms(grid: Grid, zoomed: Sequence[Derivatives], scatter: np.ndarray | None) -> int:
    """Labels whose zoomable figures a page has room for."""
    return MOST_ZOOMED // _count_numbers(grid, zoomed, scatter) if zoomed else 0


def _draw_label(
    c: int,
    grid: Grid,
    derivatives: Sequence[Derivatives],
    zoomed: Sequence[Derivatives],
    scatter: np.ndarray | None,
) -> Figure:
    name = grid.net.label_names[c]
    rows = {one.name: find_rows(c, one, scatter) for one in derivatives}
    table = _tabulate(c, grid, derivatives[0], scatter)
    return Figure(
        caption=f"Derivatives of {name} by the flux: {', '.join(next(iter(rows.values())))}."
        f" Drawn for {_join(list(rows))}.",
        images=[_draw_image(c, grid, derivatives[0].flux, rows)],
        table=table,
        zoom=_zoom(c, grid, zoomed, scatter),
        is_wide=True,
    )


def _draw_image(
    c: int, grid: Grid, flux: np.ndarray, rows: Mapping[str, Mapping[str, np.ndarray]]
) -> Image:
    net = grid.net
    (first, of_first), *others = rows.items()
    above = _NAMES_OF_LINES if grid.lines else 0.15
    height = 1.0 + above + 1.7 * (len(of_first) + _FLUX_PANEL)
    figure = new_figure((10.0, height), (0.95, 0.35, 0.9 if others else 0.6, above))
    axes = figure.subplots(
        1 + len(of_first), 1, sharex=True, height_ratios=[_FLUX_PANEL, *[1] * len(of_first)]
    )
    panels = plot_sensitivity(
        np.array(list(of_first.values())),
        grid.x,
        label_names=[net.label_names[c]] * len(of_first),
        label_units=[net.label_units[c]] * len(of_first),
        lines=grid.lines,
        flux=flux,
        axes=axes,
    )
    panels[-1].set_xlabel(grid.name)
    for panel, kind in zip(panels[1:], of_first, strict=True):
        panel.set_ylabel(_name_axis(kind, net.label_units[c]), fontsize=8.5)
        panel.lines[1].set(color="black", label=first, zorder=3)  # the one before is at zero
        for i, (star, of_star) in enumerate(others):
            if kind in of_star:
                colour = COLOURS[i % len(COLOURS)]
                panel.plot(grid.x, of_star[kind], color=colour, linewidth=0.6, label=star)
        _rasterize(panel, grid.x.size)
    if others:
        handles, labels = panels[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8.5)
    return as_image(figure, _describe(c, grid, of_first))


def _rasterize(panel: Axes, n_pixels: int) -> None:
    for line in panel.lines:
        is_bitmap = n_pixels > MOST_VECTORS and np.size(line.get_xdata()) == n_pixels
        line.set_rasterized(is_bitmap)
        line.set_antialiased(not is_bitmap)  # shades of grey take most of a bitmap's bytes


def _name_axis(kind: str, unit: str) -> str:
    if kind == SHARE:
        return "share of flux\nerror budget [%]"
    if kind == PER_SCATTER:
        return with_unit("per training\nscatter", unit)
    return with_unit("per unit\nof flux", unit)


def _describe(c: int, grid: Grid, rows: Mapping[str, np.ndarray]) -> str:
    """The figure in words: where the mean spectrum's derivatives are largest."""
    found = []
    for kind, values in rows.items():
        at = int(np.argmax(np.abs(np.nan_to_num(values))))
        unit = "%" if kind == SHARE else grid.net.label_units[c]
        found.append(f"{kind}, {number(values[at], unit).text} at {grid.x[at]:.6g}")
    return (
        f"Derivatives of {grid.net.label_names[c]} against {grid.name}, below the mean spectrum."
        f" They are largest, {'; '.join(found)}."
    )


def _tabulate(c: int, grid: Grid, one: Derivatives, scatter: np.ndarray | None) -> Table:
    """Windows of the spectrum: largest derivatives, summed shares, and lines."""
    rows = find_rows(c, one, scatter)
    unit = grid.net.label_units[c]
    titles = {
        PER_FLUX: with_unit("largest per unit of flux", unit),
        PER_SCATTER: with_unit("largest per training scatter", unit),
        SHARE: "share of the flux error budget",
    }
    nearest = {name: np.argmin(np.abs(grid.x - at)) for name, at in grid.lines.items()}
    listed: list[list[Cell]] = []
    for part in np.array_split(np.arange(grid.x.size), min(MOST_WINDOWS, grid.x.size)):
        cells = [_sum_up(kind, values[part]) for kind, values in rows.items()]
        low, high = grid.x[part].min(), grid.x[part].max()
        inside = [name for name, pixel in nearest.items() if part[0] <= pixel <= part[-1]]
        ends = f"{low:.6g}" if part.size == 1 else f"{low:.6g} to {high:.6g}"
        listed.append([ends, *cells, *([", ".join(inside)] if grid.lines else [])])
    columns = [grid.name, *(titles[kind] for kind in rows), *(["lines"] if grid.lines else [])]
    return Table(
        caption=f"Derivatives of {grid.net.label_names[c]} at the mean spectrum, by window",
        columns=columns,
        rows=listed,
        note="'symspec jacobian' writes every pixel's derivatives.",
    )


def _sum_up(kind: str, values: np.ndarray) -> Number:
    if kind == SHARE:
        return percent(float(np.sum(values)) / 100, 1)
    return number(float(values[np.argmax(np.abs(values))]))


def _zoom(
    c: int, grid: Grid, derivatives: Sequence[Derivatives], scatter: np.ndarray | None
) -> Zoom | None:
    if not derivatives:
        return None
    curves = [
        Curves(
            name=_SHORT.get(kind) or with_unit(kind, grid.net.label_units[c]),
            values={
                one.name: rows[kind]
                for one in derivatives
                if kind in (rows := find_rows(c, one, scatter))
            },
        )
        for kind in find_rows(c, derivatives[0], scatter)
    ]
    flux = Curves(name="flux", values={derivatives[0].name: derivatives[0].flux})
    names = ", ".join(one.name for one in derivatives)
    label = f"Zoom into the derivatives of {grid.net.label_names[c]} ({names})"
    item = build_zoom(grid.x, grid.name, [flux, *curves], grid.lines)
    return Zoom(name=f"zoom-{c + 1}", label=label, item=item)


def _join(names: Sequence[str]) -> str:
    first = f"the {names[0]} (black)"
    return f"{first} and {', '.join(names[1:])}" if len(names) > 1 else first
