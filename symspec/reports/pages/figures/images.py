"""Pictures inside a page: SVG as data addresses, the same bytes for the same figure."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from symspec.reports.pages.figures.parts import Image
from symspec.reports.pages.figures.words import Words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (3.7, 3.0)  # inches
MARGINS = (0.78, 0.15, 0.52, 0.12)  # of a panel: left, right, below, above, in inches
MOST_VECTORS = 100  # points of one panel that are drawn as such: more become a bitmap in the SVG
DPI = 96  # pixels of a page in an inch
BITMAP_DPI = 120
_DIGITS = 6  # of places in a figure, whose last ones depend on the order of a solver's steps
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in a font of the reader's
    "svg.hashsalt": "symspec",
    "text.parse_math": False,  # names of labels may hold dollars
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@contextmanager
def page_style() -> Iterator[None]:
    """Draw in the style of a page; names in any script, which the reader's fonts will have."""
    from matplotlib import rc_context

    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def draw_panel(draw: Callable[[Axes], None], alt: str) -> Image:
    """A picture of one panel, which `draw` fills."""
    figure = new_figure(PANEL, MARGINS)
    panel = figure.subplots()
    draw(panel)
    panel.locator_params(axis="x", nbins=5)
    return as_image(figure, alt)


def new_figure(
    size: tuple[float, float], margins: tuple[float, float, float, float] | None = None
) -> Figure:
    """An empty figure, which no window knows of.

    Parameters
    ----------
    size : tuple of float
        Width and height in inches.
    margins : tuple of float, optional
        Left, right, below, above, in inches; by default what labels take.
    """
    from matplotlib.figure import Figure

    if margins is None:
        return Figure(figsize=size, layout="constrained")
    figure = Figure(figsize=size)
    left, right, below, above = margins
    figure.subplots_adjust(
        left=left / size[0],
        right=1 - right / size[0],
        bottom=below / size[1],
        top=1 - above / size[1],
    )
    return figure


def adapt_axes(figure: Figure, words: Words) -> None:
    """Have axes speak of what the page speaks of, where another room drew stars."""
    from matplotlib.ticker import FixedLocator

    for panel in figure.axes:
        panel.set_xlabel(words.adapt(panel.get_xlabel()))
        if isinstance(panel.xaxis.get_major_locator(), FixedLocator):
            texts = [label.get_text() for label in panel.get_xticklabels()]
            panel.set_xticklabels([words.adapt(text) for text in texts])


def as_image(figure: Figure, alt: str) -> Image:
    """A figure as SVG in a data address."""
    _settle(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", dpi=BITMAP_DPI, metadata={"Date": None, "Creator": None})
    width, height = figure.get_size_inches()
    address = base64.b64encode(stream.getvalue()).decode("ascii")
    return Image(
        address=f"data:image/svg+xml;base64,{address}",
        width=round(DPI * width),
        height=round(DPI * height),
        alt=alt,
    )


def _settle(figure: Figure) -> None:
    """Keep panels where the layout puts them, to digits that are always the same."""
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for panel in figure.axes:
        left, bottom, width, height = np.round(panel.get_position().bounds, _DIGITS).tolist()
        panel.set_position((left, bottom, width, height))
