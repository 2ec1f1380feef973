"""A progress bar for what turns out to take long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BEFORE = 3.0


@contextmanager
def show_if_long(enabled: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Function of (stage, done, total) that shows a bar on stderr, once three seconds have passed."""
    begin = time.monotonic()
    bar = None
    tasks = {}
    is_open = enabled

    def tell(stage: str, done: int, total: int) -> None:
        nonlocal bar
        if not is_open or time.monotonic() - begin < SECONDS_BEFORE:
            return
        if bar is None:
            from rich.console import Console
            from rich.progress import Progress

            bar = Progress(console=Console(stderr=True))
            bar.start()
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total)
        bar.update(tasks[stage], completed=done, total=total)

    try:
        yield tell
    finally:
        is_open = False
        if bar is not None:
            bar.stop()
