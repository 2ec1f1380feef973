"""Figures that can be zoomed: items for BokehJS, equal for equal numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from symspec.reports.plots import COLOURS, GREY

_HEIGHT = 180  # pixels of a page
_LEGEND = 45
_TOOLS = "xbox_zoom,xpan,xwheel_zoom,reset"


@dataclass(frozen=True, eq=False, kw_only=True)
class Curves:
    """Curves of one panel (pixel,) by the names of their stars; `name` is that of the y axis."""

    name: str
    values: Mapping[str, np.ndarray]


def build_zoom(
    x: np.ndarray, x_name: str, curves: Sequence[Curves], lines: Mapping[str, float]
) -> dict[str, Any]:
    """What `Bokeh.embed.embed_item` takes: panels one above the other, which zoom together.

    Lines are named in the first panel, stars in the second.
    """
    from bokeh.embed import json_item
    from bokeh.layouts import gridplot
    from bokeh.models import ColumnDataSource, Range1d

    columns = {f"{i}/{name}": y for i, one in enumerate(curves) for name, y in one.values.items()}
    source = ColumnDataSource({name: np.float32(y) for name, y in {"x": x, **columns}.items()})
    x_range = Range1d(float(x.min()), float(x.max()), bounds="auto")
    panels = [_draw(source, i, one, x_range, has_legend=i == 1) for i, one in enumerate(curves)]
    for panel in panels:
        _mark(panel, lines, has_names=panel is panels[0])
    panels[-1].xaxis.axis_label = x_name
    grid = gridplot(
        [[panel] for panel in panels],
        sizing_mode="stretch_width",
        merge_tools=True,
        toolbar_options={"logo": None},
    )
    return _number_anew(json_item(grid))


@cache
def read_bokeh() -> str:
    """BokehJS, the part of it that draws figures."""
    from bokeh.resources import Resources

    return "\n".join(Resources(mode="inline", components=["bokeh"], minified=True).js_raw)


def _draw(source: Any, number: int, curves: Curves, x_range: Any, *, has_legend: bool) -> Any:
    from bokeh.plotting import figure

    panel = figure(
        height=_HEIGHT + _LEGEND * has_legend,
        sizing_mode="stretch_width",
        x_range=x_range,
        tools=_TOOLS,
        active_drag="xbox_zoom",
        output_backend="canvas",
    )
    for i, name in reversed(list(enumerate(curves.values))):  # the first on top
        colour = "black" if i == 0 else COLOURS[(i - 1) % len(COLOURS)]
        legend = {"legend_label": name} if has_legend and len(curves.values) > 1 else {}
        panel.line("x", f"{number}/{name}", source=source, line_color=colour, **legend)
    panel.axis.axis_label_text_font_style = "normal"
    panel.yaxis.axis_label = curves.name
    panel.yaxis.axis_label_text_font_size = "9pt"
    if panel.legend:
        panel.legend.orientation = "horizontal"
        panel.legend[0].items = panel.legend[0].items[::-1]
        panel.add_layout(panel.legend[0], "above")
    return panel


def _mark(panel: Any, lines: Mapping[str, float], *, has_names: bool) -> None:
    from bokeh.models import Label, Span

    for name, at in lines.items():
        panel.add_layout(Span(location=at, dimension="height", line_color=GREY, line_width=0.5))
        if has_names:
            panel.add_layout(_name_line(Label, name, at))


def _name_line(label: Any, name: str, at: float) -> Any:
    return label(
        x=at, y=4, y_units="screen", text=name, angle=np.pi / 2, text_font_size="8pt",
        text_color="#333333", background_fill_color="white", background_fill_alpha=0.7,
    )  # fmt: skip


def _number_anew(item: Any) -> Any:
    """The same with models numbered from 1: Bokeh counts all of a process's."""
    numbers: dict[str, str] = {}

    def rename(value: Any, key: str = "") -> Any:
        if isinstance(value, Mapping):
            return {name: rename(part, name) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [rename(part) for part in value]
        if key in ("id", "root_id") and isinstance(value, str):
            return numbers.setdefault(value, f"m{len(numbers) + 1}")
        return value

    return rename(item)
