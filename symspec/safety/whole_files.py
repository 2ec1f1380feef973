"""Output files: complete under their name, or not there at all, also where the disk is full."""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from symspec.errors import DiskFullError, FileKeptError
from symspec.safety.interrupts import deferring_interrupts

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SECONDS_TO_WRITE = 3600.0  # a file that is being written changes sooner
_unfinished: set[Path] = set()


@contextmanager
def replace_when_complete(
    path: str | os.PathLike[str], *, overwrite: bool = False, sync: bool = True
) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename the file written there when it is complete.

    Whatever goes wrong, the temporary file is removed, and an existing file at `path` is kept.

    Parameters
    ----------
    path : str or path
        Name of the file; a symbolic link is followed.
    overwrite : bool, default False
        Whether an existing file is replaced.
    sync : bool, default True
        Whether to wait until the disk has the file: not one of many whose seals would show what the
        end of power left of them.

    Yields
    ------
    pathlib.Path
        The temporary name, with the suffix of `path`; no file has it yet. HDF5 should write to it
        through `stream_for_hdf5`.

    Raises
    ------
    FileKeptError
        There is a file already, and `overwrite` is False; or a folder or device.
    FileNotFoundError
        The folder does not exist.
    DiskFullError
        The disk has no space for the file.
    """
    target = check_target(path, overwrite=overwrite)
    temporary = target.with_name(f".{secrets.token_hex(6)}.{target.name[-40:]}")
    _unfinished.add(temporary)
    try:
        yield temporary
        if sync:
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
        check_target(path, overwrite=overwrite)  # writing may have taken an hour
        os.replace(temporary, target)
    except OSError as error:
        written = _remove(temporary)
        if error.errno not in _FULL:
            raise
        raise _refuse_full(path, target.parent, written) from error
    except BaseException:
        _remove(temporary)
        raise
    finally:
        _unfinished.discard(temporary)


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files of processes that were killed: those that an hour has not changed."""
    for path in folder.glob(f".{'[0-9a-f]' * 12}.*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > SECONDS_TO_WRITE:
                _remove(path)


def remove_unfinished() -> None:
    """Remove the temporary files of this process, which is about to end at once."""
    for path in tuple(_unfinished):
        _remove(path)


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


@contextmanager
def replace_hdf5_when_complete(
    path: str | os.PathLike[str], *, overwrite: bool = False
) -> Iterator[io.RawIOBase]:
    """`replace_when_complete` for HDF5: yield what `stream_for_hdf5` does of the temporary file."""
    with (
        replace_when_complete(path, overwrite=overwrite) as temporary,
        stream_for_hdf5(temporary) as stream,
    ):
        yield stream


@contextmanager
def stream_for_hdf5(path: Path) -> Iterator[io.RawIOBase]:
    """Create a file for HDF5 to write through: `h5py.File(stream, "w")`, or h5netcdf.

    HDF5's library ends the process by a segmentation fault when it cannot write what it holds. The
    stream therefore keeps an error for the end of the block, where it is raised, and lets HDF5
    believe that everything was written. Ctrl-C waits for the end, too.

    Raises
    ------
    OSError
        The disk is full, or fails.
    """
    with deferring_interrupts(), path.open("xb+", buffering=0) as file:
        stream = _LastingStream(file)
        try:
            yield stream
        except Exception as error:
            if stream.error is not None:  # of which this one comes
                raise stream.error from error
            raise
        if stream.error is not None:
            raise stream.error


class _LastingStream(io.RawIOBase):
    """A file of which reads and writes never fail; `error` is the first that did."""

    def __init__(self, file: io.FileIO):
        self.error: OSError | None = None
        self._file = file
        self._place = 0
        self._size = 0  # that HDF5 believes in

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def truncate(self, size: int | None = None) -> int:
        self._size = self._place if size is None else size
        self._try(lambda: self._file.truncate(self._size))
        return self._size

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        view[:] = bytes(len(view))
        self._try(lambda: self._file.seek(self._place))
        self._try(lambda: self._file.readinto(view))
        self._place += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._try(lambda: self._file.seek(self._place))
        self._try(lambda: self._write_all(view))
        self._place += len(view)
        self._size = max(self._size, self._place)
        return len(view)

    def _write_all(self, view: memoryview) -> None:
        written = 0
        while written < len(view):  # a disk that is nearly full takes a part
            written += self._file.write(view[written:])

    def _try(self, act: Any) -> None:
        if self.error is not None:
            return
        try:
            act()
        except OSError as error:
            self.error = error


def _remove(temporary: Path) -> int:
    """Remove a file, if there is one; return its size."""
    try:
        size = temporary.stat().st_size
        temporary.unlink(missing_ok=True)
    except OSError:
        return 0
    return size


def _refuse_full(path: str | os.PathLike[str], folder: Path, written: int) -> DiskFullError:
    free = shutil.disk_usage(folder).free
    return DiskFullError(
        f"{path} should fit on its disk, got none of the space that it takes after"
        f" {written:,} bytes: {free:,} bytes are free in {folder} now that what was written is"
        " removed, so free more, or name a file elsewhere."
    )
