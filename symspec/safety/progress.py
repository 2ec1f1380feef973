"""One protocol for the progress of long work, and the bar on stderr that follows it.

Each call of the progress looks whether the work was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, Timer
from typing import TYPE_CHECKING, Protocol

from symspec.safety.interrupts import heeding_interrupts, raise_if_interrupted

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

SECONDS_BEFORE = 3.0


class Progress(Protocol):
    """A callable that long work calls again and again with how far it is.

    Parameters
    ----------
    stage : str
        The work being done, such as "training"; one stage follows another.
    done : int
        Epochs, steps, stars, draws, ... that are finished.
    total : int or None
        Their number in all; None if it is not known before the end.
    **news : float or str
        Further numbers, such as `loss` from `train` or `decrement` from `polish`.
    """

    def __call__(self, stage: str, done: int, total: int | None, /, **news: float | str) -> object:
        """Take note; an exception raised here ends the work as Ctrl-C would."""
        ...


def be_silent(stage: str, done: int, total: int | None, /, **news: float | str) -> None:
    """Progress that nobody follows."""


@contextmanager
def show_progress(progress: bool | Progress) -> Iterator[Progress]:
    """Follow the work inside the `with` block.

    Parameters
    ----------
    progress : bool or Progress
        True: a bar on stderr, once three seconds have passed. False: silence. A callable is called.

    Yields
    ------
    Progress
        To be called by the work; after the block it does nothing.
    """
    with heeding_interrupts():
        bar = None if callable(progress) or not progress else _Bar()
        follow: Progress = progress if callable(progress) else bar or be_silent
        is_open = True

        def show(stage: str, done: int, total: int | None, /, **news: float | str) -> None:
            if is_open:
                raise_if_interrupted()
                follow(stage, done, total, **news)

        try:
            yield show
        finally:
            is_open = False
            if bar is not None:
                bar.close()


class _Bar:
    """A line for each stage, on stderr after three seconds, even within a long first step."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._lock = Lock()
        self._stages: dict[str, tuple[int, int | None, dict[str, float | str]]] = {}
        self._bar: RichProgress | None = None
        self._is_closed = False
        self._timer: Timer | None = Timer(SECONDS_BEFORE, self._open_in_time)
        self._timer.daemon = True
        self._timer.start()

    def __call__(self, stage: str, done: int, total: int | None, /, **news: float | str) -> None:
        with self._lock:
            self._stages[stage] = (done, total, news)
            if self._bar is not None:
                self._draw(self._bar, stage)
            elif time.monotonic() - self._begin >= SECONDS_BEFORE:
                self._open()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._bar is not None:
                self._bar.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            # Python forgets a thread by a callback, where an interrupt would be dropped: it has to
            # go while interrupts are heeded
            self._timer = None

    def _open_in_time(self) -> None:
        with self._lock:
            if self._bar is None and not self._is_closed:
                self._open()

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(20),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[news]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        for stage in self._stages:
            self._draw(self._bar, stage)
        self._bar.start()

    def _draw(self, bar: RichProgress, stage: str) -> None:
        done, total, news = self._stages[stage]
        tasks = {task.description: task for task in bar.tasks}
        if stage not in tasks:
            for earlier in bar.tasks:
                bar.stop_task(earlier.id)
            bar.add_task(stage, total=total, completed=done, count="", news="")
        task = tasks.get(stage, bar.tasks[-1])
        count = f"{done:,}" if total is None else f"{done:,}/{total:,}"
        speed = task.finished_speed or task.speed or 0.0
        if speed >= 1:
            count += f" ({speed:,.0f}/s)"
        bar.update(task.id, completed=done, total=total, count=count, news=describe_news(news))


def describe_news(news: dict[str, float | str]) -> str:
    """News on one line: ``loss 0.251  learning rate 0.001``."""
    words = []
    for name, value in news.items():
        text = value if isinstance(value, str) else f"{value:,.6g}"
        words.append(f"{name.replace('_', ' ')} {text}")
    return "  ".join(words)
