"""Ctrl-C and SIGTERM end a command within seconds, with one line and exit code 130 or 143."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread

from symspec.safety.interrupts import find_signal, heeding_interrupts, is_keeping
from symspec.safety.whole_files import remove_unfinished

SECONDS_TO_END = 1.2  # in good order; then the command ends at once
SECONDS_TO_KEEP = 60.0  # what the work has until then, see `keep_on_interrupt`
_NUMBERS = (signal.SIGINT, signal.SIGTERM)


def _say_to_start_again() -> str:
    return "the output was not written; the same command starts again."


@dataclass
class _Ending:
    """What the one line is to say, whether it was said, and the exit code once it is known."""

    find_advice: Callable[[], str] = _say_to_start_again
    is_said: bool = False
    code: int | None = None


_ending = _Ending()


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Turn signals into `KeyboardInterrupt`; end the process if that has not ended it in time.

    A second signal ends it at once. After the block, where nothing is left to do, they are ignored.
    """
    # a command in the background is started with some of them ignored
    numbers = [number for number in _NUMBERS if signal.getsignal(number) != signal.SIG_IGN]
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    Thread(target=_watch, args=(receiver,), daemon=True).start()
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forget)
    try:
        with heeding_interrupts(numbers):
            try:
                yield
            except (SystemExit, KeyboardInterrupt) as end:
                if find_signal() is None:
                    raise
                if not _ending.is_said:  # it fell between the options and the work
                    say_interrupted()
                _ending.code = find_exit_code()
                raise SystemExit(_ending.code) from end
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        sender.close()


@contextmanager
def going_on(find_advice: Callable[[], str]) -> Iterator[None]:
    """Say, should the block be interrupted, how to go on.

    Parameters
    ----------
    find_advice : callable
        Gives the end of the line that begins with "Interrupted:".
    """
    before = _ending.find_advice
    _ending.find_advice = find_advice
    is_interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        is_interrupted = True  # it stays as it is, for the line is said outside
        raise
    finally:
        if not is_interrupted:
            _ending.find_advice = before


def say_interrupted() -> None:
    """Write the one line on stderr."""
    advice = _ending.find_advice()
    _ending.is_said = True
    _ending.find_advice = _say_to_start_again
    sys.stderr.write(f"Interrupted: {advice}\n")
    sys.stderr.flush()


def find_exit_code() -> int:
    """Exit code of a command that a signal ended."""
    return _ending.code or 128 + (find_signal() or signal.SIGINT)


def _watch(receiver: socket.socket) -> None:
    """Wait for a signal, then for the end of the process, which this thread does not live to see.

    Python tells it of a signal even while the main thread is at work in a library. After one, it
    does not wait for what Python does once `heeding_signals` is over.
    """
    number = _receive(receiver, None)
    if not number:
        return
    again = _receive(receiver, SECONDS_TO_END)
    if not again and find_signal() is not None and is_keeping():
        _receive(receiver, SECONDS_TO_KEEP)
    if not _ending.is_said:
        say_interrupted()
    for child in multiprocessing.active_children():
        child.terminate()
    remove_unfinished()
    os._exit(128 + number)


def _receive(receiver: socket.socket, seconds: float | None) -> int:
    """Number of the next signal that ends a command; 0 if none comes in time, or before the end."""
    receiver.settimeout(seconds)
    while True:
        try:
            received = receiver.recv(1)
        except TimeoutError:
            return 0
        if not received:
            return 0
        if received[0] in _NUMBERS:
            return received[0]


def _forget() -> None:
    """Leave signals to a process that was forked, which shares the sender."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
