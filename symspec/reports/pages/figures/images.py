"""Pictures inside a page: SVG as data addresses, the same bytes for the same figure."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from symspec.reports.pages.figures.parts import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (4.4, 3.5)  # inches
MOST_VECTORS = 1500  # points of one panel that are drawn as such: more become a bitmap in the SVG
DPI = 96  # pixels of a page in an inch
BITMAP_DPI = 192
_STYLE = {
    "svg.fonttype": "none",  # text stays text, in a font of the reader's
    "svg.hashsalt": "symspec",
    "text.parse_math": False,  # names of labels may hold dollars
    "font.size": 9.5,
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
    figure = new_figure(PANEL)
    draw(figure.subplots())
    return as_image(figure, alt)


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of this size in inches, which no window knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def as_image(figure: Figure, alt: str) -> Image:
    """A figure as SVG in a data address."""
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
