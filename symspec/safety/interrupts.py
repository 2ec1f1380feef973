"""Ctrl-C and SIGTERM: none is dropped, none falls where a library does not survive it.

Python drops a `KeyboardInterrupt` that falls into a callback, such as those by which h5py and
PyTensor are told that an object is gone. Inside `heeding_interrupts`, which `show_progress` is, a
dropped one is sent again. One that falls into the import of a package waits for its end, as
packages in C++ abort the process. The package imports this module first, and this one none of it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from types import FrameType
from typing import Any

SECONDS_BEFORE_AGAIN = 0.05  # until an interrupt that was dropped is sent again
_IMPORTING = "<frozen importlib"  # the files of Python's own import


class _Interrupts:
    """What the process was asked to do by signals."""

    def __init__(self) -> None:
        self.asked: int | None = None  # number of the signal
        self.is_waiting = False
        self.is_dropped = False
        self.is_heeding = False
        self.n_deferring = 0
        self.n_imports = 0  # under way as the work began
        self.is_keeping = False
        self.lock = threading.Lock()  # between the work's end and what is sent again
        self.hook = sys.__unraisablehook__

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: end the work now, or where it can be ended."""
        self.asked = number
        self.is_waiting = self.n_deferring > 0
        if self.is_waiting:
            return
        if not self.is_importing(frame):
            raise KeyboardInterrupt
        self.send_later()

    def is_importing(self, frame: FrameType | None) -> bool:
        """Whether a package is being imported where the main thread stands."""
        return _count_imports(frame) > self.n_imports

    def find_dropped(self, dropped: Any) -> None:
        """Hook for exceptions that Python can raise nowhere: an interrupt is sent again."""
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            self.hook(dropped)
        elif self.asked is not None and _is_main_thread():
            self.send_later()

    def send_later(self) -> None:
        self.is_dropped = True
        again = Timer(SECONDS_BEFORE_AGAIN, self.send_again)
        again.daemon = True
        again.start()

    def forget(self) -> None:
        """Be ready for the next signal; what was sent again and has not come yet never comes."""
        with self.lock:
            self.asked = None
            self.is_waiting = False
            self.is_dropped = False
            self.is_keeping = False
            _send_to_main(ctypes.py_object())

    def send_again(self) -> None:
        with self.lock:
            if self.asked is None:  # the work has ended since
                return
            if self.is_importing(sys._current_frames().get(_find_main())):
                self.send_later()
                return
            self.is_dropped = False
            if self.n_deferring:
                self.is_waiting = True
            else:
                _send_to_main(ctypes.py_object(KeyboardInterrupt))


def _count_imports(frame: FrameType | None) -> int:
    n = 0
    while frame is not None:
        n += frame.f_code.co_filename.startswith(_IMPORTING)
        frame = frame.f_back
    return n


def _find_main() -> int:
    return threading.main_thread().ident or 0


def _send_to_main(error: Any) -> None:
    """Raise an error in the main thread; NULL takes back one that it has not noticed yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(_find_main()), error)


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
    numbers = _find_free() if numbers is None else numbers
    if not numbers or not _is_main_thread():
        yield
        return
    hook = sys.unraisablehook
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        _interrupts.is_heeding = True
        _interrupts.n_imports = _count_imports(sys._getframe())
        _interrupts.hook = hook
        sys.unraisablehook = _interrupts.find_dropped
        for number in numbers:
            signal.signal(number, _interrupts.note)
        yield
        if _interrupts.is_dropped:  # the work ended before it was sent again
            raise KeyboardInterrupt
    finally:
        _interrupts.n_deferring += 1  # what comes while all is put back waits
        _interrupts.is_waiting = False
        try:
            sys.unraisablehook = hook
            for number, handler in handlers.items():
                signal.signal(number, handler)
        finally:
            is_late = _interrupts.is_waiting
            _interrupts.n_deferring -= 1
            _interrupts.is_heeding = False
            _interrupts.forget()
    if is_late:
        raise KeyboardInterrupt


def _find_free() -> tuple[int, ...]:
    """SIGINT, unless it is heeded already or somebody else handles it."""
    is_free = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return (signal.SIGINT,) if is_free and not _interrupts.is_heeding else ()


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


def keep_on_interrupt() -> None:
    """Say that from here on the work ends, after an interrupt, by keeping what it has."""
    _interrupts.is_keeping = _is_main_thread()


def is_keeping() -> bool:
    """Whether the work has something to keep, for which it may take longer to end."""
    return _interrupts.is_keeping


def find_signal() -> int | None:
    """Number of the signal that interrupted the work, or None."""
    return _interrupts.asked


def end_quietly_if_command() -> None:
    """Be interrupted with one line, if this process was started as the command `symspec`.

    It is called as the package is imported, which takes seconds, until `symspec.cli` heeds signals
    itself. In any other program it does nothing.
    """
    is_script = Path(sys.orig_argv[1]).stem == "symspec" if len(sys.orig_argv) > 1 else False
    if not is_script and sys.orig_argv[1:3] != ["-m", "symspec.cli"]:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as of a command in the background
            signal.signal(number, _leave)


def _leave(number: int, frame: object) -> None:
    os.write(2, b"Interrupted: nothing was done yet; the same command starts again.\n")
    os._exit(128 + number)


end_quietly_if_command()
