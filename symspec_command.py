"""The command `symspec`, which heeds Ctrl-C from its first moment on.

It lies beside the package, whose import takes seconds.
"""

import os
import signal


def main() -> None:
    """Entry point of the command `symspec`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as of a command in the background
            signal.signal(number, _leave)
    from symspec.cli import main as run

    run()


def _leave(number: int, frame: object) -> None:
    os.write(2, b"Interrupted: nothing was done yet; the same command starts again.\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
