"""Long runs over many stars, piece by piece, which continue where they were interrupted or killed.

During a run, and after an interruption, there is a folder NAME.partial beside the output NAME:

- ``plan.json``: what the run depends on; another run does not touch the folder.
- ``stars_000000000-000001023.h5``, ...: one finished piece each. It appears whole and never
  changes, so that anyone may read it meanwhile. All pieces have the same names of arrays.

A piece ends in a seal, see `symspec.safety.checkpoint`: its stars, a digest of the plan, and one of
its bytes. It is verified before it is used; what is damaged, exchanged, or of another run, is
computed again, with a warning.

The input is known by a digest of its bytes, not by its size and time: that takes a second for each
gigabyte of a file, at the start of every call.

The number of stars in a piece depends on the data alone, and each piece is computed by itself. A
run that was killed a hundred times therefore ends with the same bytes as one that was not. The same
call finds the folder, computes what is missing, assembles the output, and removes the folder, also
if it was killed when the output was at its place already.
"""

from __future__ import annotations

import filecmp
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import DataError, FileKeptError
from symspec.files.run_plans import FINISHED, LOCK, PLAN, check_plan
from symspec.safety.checkpoint import find_fingerprint, has_seal, seal_file
from symspec.safety.interrupts import deferring_interrupts
from symspec.safety.memory import chunks
from symspec.safety.progress import Progress, be_silent, show_progress
from symspec.safety.whole_files import check_target, replace_when_complete
from symspec.workers.choice import open_workers
from symspec.workers.interface import Task

Arrays = Mapping[str, np.ndarray]
Show = Callable[[int, int], AbstractContextManager[Callable[[int], object]]]
PIECE_BYTES = 2**26  # of data in a piece
MOST_STARS = 4096  # in a piece


def find_piece_size(bytes_a_star: int, most: int = MOST_STARS) -> int:
    """Stars in a piece: a power of two, which depends on the size of their data alone."""
    n = min(most, max(1, PIECE_BYTES // bytes_a_star))
    return 2 ** (n.bit_length() - 1)


@contextmanager
def open_run(
    output: str | os.PathLike[str],
    plan: Mapping[str, str | float],
    n_stars: int,
    stars_a_piece: int,
    *,
    overwrite: bool = False,
    restart: bool = False,
) -> Iterator[PartialRun]:
    """Begin a run, or continue one.

    Parameters
    ----------
    output : str or path
        The file to write; a symbolic link is followed.
    plan : mapping of str to str or number
        Everything that the pieces depend on, by names that a user understands.
    n_stars, stars_a_piece : int
    overwrite : bool, default False
        Whether an output already there is to be replaced.
    restart : bool, default False
        Discard the pieces of an earlier run.

    Yields
    ------
    PartialRun
        The folder is removed if no piece was finished in the end.

    Warns
    -----
    RuntimeWarning
        A piece or the plan is damaged: it is made again.

    Raises
    ------
    DataError
        The folder holds pieces of another run, or files that are no run's.
    FileKeptError
        Another process is at work on the same output, or there is an output, not of this run, and
        `overwrite` is False.
    """
    may_exist = overwrite or (not restart and is_finished(output))
    folder = _name_folder(output)
    try:
        target = check_target(output, overwrite=may_exist)
    except FileKeptError:
        with suppress(OSError):
            folder.rmdir()  # of a run that was killed when only this was left to do
        raise
    if folder.exists() and not folder.is_dir():
        raise FileKeptError(f"{folder} should be a folder, got a file: move it away.")
    folder.mkdir(exist_ok=True)
    full_plan = {**plan, "n_stars": n_stars, "stars_a_piece": stars_a_piece}
    run = PartialRun(target, folder, n_stars, stars_a_piece, find_fingerprint(full_plan))
    with _hold(folder):
        if restart:
            run.clear()
            (folder / FINISHED).unlink(missing_ok=True)
        check_plan(folder, full_plan)
        run.drop_damaged()
        try:
            yield run
        finally:
            if folder.exists() and not run.n_done:
                run.remove()


def is_finished(output: str | os.PathLike[str]) -> bool:
    """Whether a run was killed when its output was complete, and its folder not yet removed.

    The same call finds out whether there is its own output, keeps it, and removes the folder.
    """
    return (_name_folder(output) / FINISHED).exists()


def _name_folder(output: str | os.PathLike[str]) -> Path:
    target = Path(os.path.realpath(output))
    return target.with_name(f"{target.name}.partial")


@dataclass(frozen=True)
class PartialRun:
    """The pieces of a run, finished or not.

    Attributes
    ----------
    output, folder : pathlib.Path
    n_stars, stars_a_piece : int
    digest : str
        Of the plan.
    """

    output: Path
    folder: Path
    n_stars: int
    stars_a_piece: int
    digest: str

    @property
    def pieces(self) -> list[slice]:
        """Stars of every piece, in their order."""
        return list(chunks(self.n_stars, self.stars_a_piece))

    @property
    def n_done(self) -> int:
        """Stars of the pieces that are finished."""
        return sum(rows.stop - rows.start for rows in self.pieces if self._path(rows).exists())

    def drop_damaged(self) -> None:
        """Delete pieces that are not as this run left them, with a warning of each."""
        for rows in self.pieces:
            path = self._path(rows)
            if not os.path.lexists(path) or self._is_right(rows):
                continue
            if path.is_dir():
                raise DataError(f"{path} should be a file, got a folder: move it away.")
            warnings.warn(
                f"{path} should hold stars {rows.start} to {rows.stop - 1} of this run, got a"
                " damaged piece or another one: they are computed again.",
                RuntimeWarning,
                stacklevel=2,
            )
            path.unlink()

    def compute(
        self,
        task: Task,
        *,
        scheduler: Any = None,
        stage: str = "computing",
        progress: Progress = be_silent,
        layouts: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Compute and keep the missing pieces.

        Parameters
        ----------
        task : Task
            Of slices of stars; it finds named arrays.
        scheduler : optional
            Who does it, see `symspec.workers`.
        stage : str
            What is computed, for `progress`.
        progress : Progress, optional
            Called before the first piece and after each, with the number of stars.
        layouts : mapping, optional
            By name of array, options of h5py's `create_dataset`.
        """
        missing = [rows for rows in self.pieces if not self._path(rows).exists()]
        n_done = self.n_done
        progress(stage, n_done, self.n_stars)
        if not missing:
            return
        packed = replace(task, find=_Packed(task.find, layouts or {}))
        with open_workers(scheduler) as workers, closing(workers.map(packed, missing)) as found:
            for place, content in found:
                rows = missing[place]
                with replace_when_complete(self._path(rows)) as temporary:
                    temporary.write_bytes(content)
                    seal_file(temporary, self._name_content(rows))
                n_done += rows.stop - rows.start
                progress(stage, n_done, self.n_stars)

    def open_pieces(self) -> Iterator[tuple[slice, Any]]:
        """Stars and open `h5py.File` of every piece, one after the other.

        Raises
        ------
        DataError
            A piece is damaged.
        """
        import h5py

        for rows in self.pieces:
            if not self._is_right(rows):
                raise DataError(
                    f"{self._path(rows)} should hold a finished piece, got a damaged file: run"
                    " again, and it is computed anew."
                )
            with h5py.File(self._path(rows), "r") as file:
                yield rows, file

    def load(self) -> dict[str, np.ndarray]:
        """Arrays of all pieces, joined along their first axis; they should fit in memory."""
        parts = []
        for _, file in self.open_pieces():
            parts.append({name: _decode_strings(file[name][()]) for name in file})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def finish(self, write: Callable[[Path], object], *, overwrite: bool = False) -> None:
        """Write the output, move it to its place, and remove the folder.

        Parameters
        ----------
        write : callable
            Writes the file to a given path, which ends as the output's does.
        overwrite : bool, default False

        Raises
        ------
        FileKeptError
            There is a file by now and `overwrite` is False; the pieces are kept.
        """
        assembled = self._assembled
        assembled.unlink(missing_ok=True)
        try:
            write(assembled)
            if not self._is_there(assembled):
                check_target(self.output, overwrite=overwrite)
                (self.folder / FINISHED).touch()
                os.replace(assembled, self.output)
        finally:
            assembled.unlink(missing_ok=True)
        self.remove()

    def clear(self) -> None:
        """Delete everything that a run writes, finished or not."""
        temporary = f".{'?' * 12}.*"  # of a process that was killed while it wrote
        piece = f"stars_{'?' * 9}-{'?' * 9}.h5"
        for pattern in (piece, temporary):
            for path in self.folder.glob(pattern):
                path.unlink()
        for path in (self._assembled, self.folder / PLAN):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder, except for files that are no run's."""
        self.clear()
        (self.folder / LOCK).unlink(missing_ok=True)
        (self.folder / FINISHED).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    @property
    def _assembled(self) -> Path:
        """Where the output is written: no name of a piece, whatever the output's."""
        return self.folder / f".output.{self.output.name[-40:]}"

    def _is_there(self, assembled: Path) -> bool:
        """Whether this run moved its output to its place before, and was killed then."""
        was_moved = is_finished(self.output) and self.output.is_file()
        return was_moved and filecmp.cmp(assembled, self.output, shallow=False)

    def _name_content(self, rows: slice) -> str:
        return f"stars {rows.start} to {rows.stop - 1} of the run {self.digest}"

    def _is_right(self, rows: slice) -> bool:
        return has_seal(self._path(rows), self._name_content(rows))

    def _path(self, rows: slice) -> Path:
        return self.folder / f"stars_{rows.start:09d}-{rows.stop - 1:09d}.h5"


@contextmanager
def show_pieces(
    progress: bool | Progress, show: Show | None, run: PartialRun
) -> Iterator[Progress]:
    """Follow the pieces of a run by `progress`, or by the older `show` if it is given."""
    if show is None:
        with show_progress(progress) as follow:
            yield follow
        return
    before = run.n_done
    with show(run.n_stars, before) as advance:

        def follow_pieces(stage: str, done: int, total: int | None, /, **news: float | str) -> None:
            nonlocal before
            if done > before:
                advance(done - before)
            before = done

        yield follow_pieces


@dataclass(frozen=True)
class _Packed:
    """Content of the file of a piece, whose arrays `find` finds."""

    find: Callable[[Any], Arrays]
    layouts: Mapping[str, Mapping[str, Any]]

    def __call__(self, data: Any) -> bytes:
        import h5py

        arrays = self.find(data)
        content = io.BytesIO()
        with deferring_interrupts(), h5py.File(content, "w") as file:
            for name, array in arrays.items():
                layout = self.layouts.get(name, {})
                file.create_dataset(name, data=encode_strings(array), **layout)
        return content.getvalue()


def encode_strings(array: np.ndarray) -> np.ndarray:
    """Strings as UTF-8 of fixed length, which HDF5 stores like numbers; other arrays unchanged."""
    import h5py

    if array.dtype.kind != "U":
        return array
    encoded = np.char.encode(array, "utf-8")
    return encoded.astype(h5py.string_dtype("utf-8", max(1, encoded.dtype.itemsize)))


def _decode_strings(array: np.ndarray) -> np.ndarray:
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


@contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Lock the folder; the lock of a killed process is released."""
    import fcntl  # not on Windows

    with (folder / LOCK).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileKeptError(
                f"{folder} should be free, got another process at work on it: wait for it, or"
                " choose another output."
            ) from error
        yield
