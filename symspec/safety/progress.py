"""One protocol for the progress of long work, the bar on stderr that follows it, and Ctrl-C.

Python drops a `KeyboardInterrupt` that falls into a callback, such as those by which h5py and
PyTensor are told that an object is gone. Inside `heeding_interrupts`, which `show_progress` is, a
dropped one is sent again, and each call of the progress looks whether one was asked for.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock, Timer
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

SECONDS_BEFORE = 3.0
SECONDS_BEFORE_AGAIN = 0.05  # until an interrupt that was dropped is sent again


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
    bar = None if callable(progress) or not progress else _Bar()
    follow: Progress = progress if callable(progress) else bar or be_silent
    is_open = True

    def show(stage: str, done: int, total: int | None, /, **news: float | str) -> None:
        if is_open:
            raise_if_interrupted()
            follow(stage, done, total, **news)

    try:
        with heeding_interrupts():
            yield show
    finally:
        is_open = False
        if bar is not None:
            bar.close()


class _Interrupts:
    """What the process was asked to do by signals."""

    def __init__(self) -> None:
        self.asked: int | None = None  # number of the signal
        self.is_waiting = False
        self.n_deferring = 0
        self.hook = sys.__unraisablehook__

    def note(self, number: int, frame: Any) -> None:
        """Handle a signal: end the work now, or where it can be ended."""
        self.asked = number
        self.is_waiting = self.n_deferring > 0
        if not self.is_waiting:
            raise KeyboardInterrupt

    def find_dropped(self, dropped: Any) -> None:
        """Hook for exceptions that Python can raise nowhere: an interrupt is sent again."""
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            self.hook(dropped)
        elif self.asked is not None and _is_main_thread():
            again = Timer(SECONDS_BEFORE_AGAIN, self.send_again)
            again.daemon = True
            again.start()

    def forget(self) -> None:
        """Be ready for the next signal."""
        self.asked = None
        self.is_waiting = False

    def send_again(self) -> None:
        if self.asked is None:  # the work has ended since
            return
        if self.n_deferring:
            self.is_waiting = True
        else:
            main = ctypes.c_ulong(threading.main_thread().ident or 0)
            error = ctypes.py_object(KeyboardInterrupt)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(main, error)


_interrupts = _Interrupts()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def heeding_interrupts(numbers: Sequence[int] | None = None) -> Iterator[None]:
    """Let no interrupt be dropped inside the block.

    The handlers of signals and of dropped exceptions are restored after it. Outside the main
    thread nothing is changed.

    Parameters
    ----------
    numbers : sequence of int, optional
        The signals that interrupt, each by a `KeyboardInterrupt`; by default that of Ctrl-C, unless
        somebody else handles it.
    """
    if numbers is None:
        is_free = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        numbers = (signal.SIGINT,) if is_free else ()
    if not numbers or not _is_main_thread():
        yield
        return
    handlers = {number: signal.signal(number, _interrupts.note) for number in numbers}
    hook = sys.unraisablehook
    _interrupts.hook = hook
    sys.unraisablehook = _interrupts.find_dropped
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
        _interrupts.forget()


@contextmanager
def deferring_interrupts() -> Iterator[None]:
    """Let interrupts wait for the end of the block, or for `raise_if_interrupted` in it.

    It is for libraries that do not survive one.
    """
    if not _is_main_thread():
        yield
        return
    with heeding_interrupts():
        _interrupts.n_deferring += 1
        try:
            yield
        finally:
            _interrupts.n_deferring -= 1
        if _interrupts.is_waiting and not _interrupts.n_deferring:
            raise KeyboardInterrupt


def raise_if_interrupted() -> None:
    """End the work if that was asked for, and the interrupt was dropped or had to wait.

    Raises
    ------
    KeyboardInterrupt
    """
    if _interrupts.asked is not None and _is_main_thread():
        raise KeyboardInterrupt


def find_signal() -> int | None:
    """Number of the signal that interrupted the work, or None."""
    return _interrupts.asked


class _Bar:
    """A line for each stage, on stderr after three seconds, even within a long first step."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._lock = Lock()
        self._stages: dict[str, tuple[int, int | None, dict[str, float | str]]] = {}
        self._bar: RichProgress | None = None
        self._is_closed = False
        self._timer = Timer(SECONDS_BEFORE, self._open_in_time)
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
            self._timer.cancel()
            if self._bar is not None:
                self._bar.stop()

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
