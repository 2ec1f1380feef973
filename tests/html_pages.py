"""A page as a reader's program sees it: elements, texts, tables with their numbers."""

from functools import partial
from html.parser import HTMLParser
from types import SimpleNamespace

from symspec.reports.pages.figures import (
    calibration_figures,
    derivative_figures,
    sample_figures,
)
from symspec.reports.pages.figures.parts import Image

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Elements of a page in their order, each with its attributes and the text inside it."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.html = html
        self.elements = []
        self._open = []
        self.feed(html)
        assert self._open == []  # every element is closed

    def handle_starttag(self, tag, attrs):
        element = SimpleNamespace(tag=tag, attributes=dict(attrs), text="", inside=list(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop().tag == tag

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def find(self, *tags, inside=None):
        return [
            one
            for one in self.elements
            if one.tag in tags and (inside is None or inside in one.inside)
        ]

    @property
    def text(self):
        """All that a reader reads: neither scripts nor styles."""
        hidden = self.find("script", "style")
        body = self.find("body")[0].text
        for one in hidden:
            body = body.replace(one.text, "")
        return " ".join(body.split())

    def tables(self, caption):
        """Rows of the tables whose caption has these words: numbers where cells are numbers."""
        return [
            self._rows(table)
            for table in self.find("table")
            if caption in self.find("caption", inside=table)[0].text
        ]

    def _rows(self, table):
        rows = []
        for row in self.find("tr", inside=table):
            cells = []
            for cell in self.find("td", "th", inside=row):
                numbers = self.find("data", inside=cell)
                value = float(numbers[0].attributes["value"]) if numbers else cell.text.strip()
                cells.append(value)
            rows.append(cells)
        header, *others = rows
        return [dict(zip(header, row, strict=True)) for row in others]


def leave_undrawn(monkeypatch):
    """Have pages without pictures, where numbers alone are looked at: drawing takes seconds."""
    stands_in = partial(Image, address="data:image/svg+xml;base64,", width=1, height=1)
    for figures in (sample_figures, calibration_figures):
        monkeypatch.setattr(figures, "draw_panel", lambda draw, alt: stands_in(alt=alt))
    monkeypatch.setattr(derivative_figures, "_draw_image", lambda *_: stands_in(alt="derivatives"))
