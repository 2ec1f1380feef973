"""Output files: complete under their name, or not there at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symspec.errors import FileKeptError


@contextmanager
def replace_when_complete(
    path: str | os.PathLike[str], *, overwrite: bool = False
) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename the file written there when it is complete.

    Whatever goes wrong, the temporary file is removed, and an existing file at `path` is kept.

    Parameters
    ----------
    path : str or path
        Name of the file; a symbolic link is followed.
    overwrite : bool, default False
        Whether an existing file is replaced.

    Yields
    ------
    pathlib.Path
        The temporary name, with the suffix of `path`; no file has it yet.

    Raises
    ------
    FileKeptError
        There is a file already, and `overwrite` is False; or a folder or device.
    FileNotFoundError
        The folder does not exist.
    """
    target = check_target(path, overwrite=overwrite)
    temporary = target.with_name(f".{secrets.token_hex(6)}.{target.name[-40:]}")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        check_target(path, overwrite=overwrite)  # writing may have taken an hour
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_target(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Refuse a file that may not be written; return its path with links followed.

    Raises
    ------
    FileKeptError, FileNotFoundError
        As `replace_when_complete`.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{path} should lie in a folder, got none at {target.parent}: create it first."
        )
    if target.is_symlink():
        raise FileKeptError(
            f"{path} should be the name of a file, got a link that leads back to itself: remove it."
        )
    if target.exists() and not target.is_file():
        raise FileKeptError(
            f"{path} should be the name of a file, got a folder or device: add a file name to it."
        )
    if target.exists() and not overwrite:
        raise FileKeptError(
            f"{path} should not exist yet, got a file of {target.stat().st_size} bytes, which is"
            " kept: choose another name, or replace it (--overwrite on the command line,"
            " overwrite=True in Python)."
        )
    return target
