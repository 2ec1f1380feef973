"""Ctrl-C and SIGTERM while the command `symspec` is being imported, which takes seconds.

Until `symspec.cli` heeds signals itself, they end the command with one line, not with a traceback.
In any other program nothing is done.
"""

import os
import signal
import sys
from pathlib import Path


def end_quietly_if_command() -> None:
    """Be interrupted with one line, if this process was started as the command."""
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
