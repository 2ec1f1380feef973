"""Whatever a library raises on a damaged file becomes one error, with the file's path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from symspec.errors import FileFormatError, SymspecError


@contextmanager
def as_format_error(
    path: str | os.PathLike[str],
    what: str,
    *,
    passing: tuple[type[Exception], ...] = (SymspecError,),
) -> Iterator[None]:
    """Turn whatever is raised while a file is read into a `FileFormatError`.

    Parameters
    ----------
    path : str or path
    what : str
        What the file should be, with its article.
    passing : tuple of type, default all errors of symspec's own
        Errors that pass as they are.
    """
    try:
        yield
    except passing:
        raise
    except Exception as error:  # a damaged file may make a library raise anything at all
        got = str(error) if isinstance(error, SymspecError) else f"{type(error).__name__}: {error}"
        raise FileFormatError(
            f"{path} should be {what} in good order, got a truncated or damaged one ({got}): copy"
            " or write it again."
        ) from error
