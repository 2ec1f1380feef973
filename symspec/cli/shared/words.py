"""Words on stderr, beside what a command prints."""

from __future__ import annotations

from rich.console import Console


def say(text: str) -> None:
    """Print a line with rich's markup on stderr."""
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)
