"""Finished blocks of a long computation, kept in a folder, so that it can be resumed."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np

from symspec.errors import DataError
from symspec.safety.progress import Progress, be_silent

State = dict[str, np.ndarray]
SECONDS_BETWEEN = 30.0


class Blocks(Protocol):
    """Stars that are walked block by block, such as a `TangentStream`."""

    @property
    def n_stars(self) -> int: ...

    def blocks(self, start: int = 0) -> Iterable[tuple[slice, Any]]:
        """Rows and data of each block, from the one that begins at `start`."""
        ...


class Checkpoint:
    """A folder for the finished blocks of a computation, and its progress.

    Files appear whole, by renaming, at most every `SECONDS_BETWEEN` seconds and at the end of each
    stage. They hold plain arrays, and the fingerprint of the inputs that they came from.

    Parameters
    ----------
    folder : path, optional
        Created if it does not exist; without one nothing is kept.
    fingerprint : str
        Digest of everything that the result depends on, see `find_fingerprint`.
    progress : Progress, optional
        Called after each block.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        fingerprint: str = "",
        progress: Progress = be_silent,
    ):
        self.folder = None if folder is None else Path(folder)
        self.fingerprint = fingerprint
        self.progress = progress
        self._saved_at = time.monotonic()

    def load(self, stage: str) -> State | None:
        """Read the arrays that `save` last wrote for this stage, or None.

        Raises
        ------
        DataError
            They belong to other inputs, or the file is damaged.
        """
        path = self._path(stage)
        if path is None or not path.exists():
            return None
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                state = {name: file[name] for name in file.files}
            fingerprint = str(state.pop("fingerprint"))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise DataError(
                f"{path} should hold a computation's progress, but is damaged: delete it."
            ) from error
        if fingerprint != self.fingerprint:
            raise DataError(
                f"{self.folder} should hold the progress of this computation, got that of another"
                " one (other weights, stars or options): give another folder, or delete this one."
            )
        return state

    def save(self, stage: str, state: State, *, now: bool = True) -> None:
        """Keep the arrays of a stage; without `now` at most every `SECONDS_BETWEEN` seconds."""
        path = self._path(stage)
        if path is None or not (now or time.monotonic() - self._saved_at >= SECONDS_BETWEEN):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        try:
            with unfinished.open("wb") as file:
                arrays: dict[str, Any] = {**state, "fingerprint": np.array(self.fingerprint)}
                np.savez(file, **arrays)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._saved_at = time.monotonic()

    def accumulate(
        self, stage: str, walk: Blocks, state: State, add: Callable[[State, Any], None]
    ) -> State:
        """Add every block of `walk` to `state`, in place, from the last block kept on."""
        start = 0
        kept = self.load(stage)
        if kept is not None:
            start = int(kept.pop("done"))
            state = kept
        for rows, block in walk.blocks(start):
            add(state, block)
            self.progress(stage, rows.stop, walk.n_stars)
            self.save(stage, state | {"done": np.array(rows.stop)}, now=rows.stop == walk.n_stars)
        return state

    def _path(self, stage: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{stage.replace(' ', '-')}.npz"


def find_fingerprint(*parts: Any) -> str:
    """Digest of arrays, strings, numbers and dicts or tuples of them: equal for equal inputs."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Mapping):
            part = find_fingerprint(*(item for pair in sorted(part.items()) for item in pair))
        elif isinstance(part, tuple | list) and any(isinstance(x, np.ndarray) for x in part):
            part = find_fingerprint(*part)  # its repr would leave out digits and entries
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
        digest.update(b"|")
    return digest.hexdigest()
