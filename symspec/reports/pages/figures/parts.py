"""What a page is made of: sections of paragraphs, lists, tables and figures, without any HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar


@dataclass(frozen=True)
class Number:
    """A number with all its digits, and as it is written."""

    value: float
    text: str


Cell = str | Number


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `kind` is "text", or "warning" for what a reader should not miss."""

    text: str
    kind: str = "text"
    block: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class Listing:
    """A list of sentences."""

    items: Sequence[str]
    block: ClassVar[str] = "listing"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column names the rows; `is_folded` ones open at a click."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    is_folded: bool = False
    block: ClassVar[str] = "table"


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture as the address that holds it, its size in pixels of a page, and it in words."""

    address: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True, kw_only=True)
class Zoom:
    """A figure for a program: what `Bokeh.embed.embed_item` takes, and what it shows in words."""

    name: str
    label: str
    item: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Pictures side by side under one caption, and the same as a table."""

    caption: str
    images: Sequence[Image]
    table: Table
    zoom: Zoom | None = None
    is_wide: bool = False
    block: ClassVar[str] = "figure"


Block = Paragraph | Listing | Table | Figure


@dataclass(frozen=True)
class Part:
    """Blocks under a heading of the second rank."""

    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """Blocks under a heading of the first rank, and parts of it; `name` is what links lead to."""

    name: str
    heading: str
    blocks: Sequence[Block]
    parts: Sequence[Part] = ()


@dataclass(frozen=True)
class Page:
    """A title, and sections from top to bottom."""

    title: str
    sections: Sequence[Section]

    def without_zooms(self) -> Page:
        """The same with figures that stand still."""

        def still(blocks: Sequence[Block]) -> list[Block]:
            return [replace(one, zoom=None) if isinstance(one, Figure) else one for one in blocks]

        sections = [
            replace(
                section,
                blocks=still(section.blocks),
                parts=[replace(part, blocks=still(part.blocks)) for part in section.parts],
            )
            for section in self.sections
        ]
        return replace(self, sections=sections)

    @property
    def zooms(self) -> list[Zoom]:
        """Those of all figures."""
        blocks = [
            block
            for section in self.sections
            for blocks in (section.blocks, *(part.blocks for part in section.parts))
            for block in blocks
        ]
        return [block.zoom for block in blocks if isinstance(block, Figure) and block.zoom]
