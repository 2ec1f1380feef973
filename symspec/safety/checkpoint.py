"""Finished blocks of a long computation in a folder, so that an interrupted one goes on where it was."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np

from symspec.errors import DataError

State = dict[str, np.ndarray]
SECONDS_BETWEEN = 30.0


class Blocks(Protocol):
    """What is walked block by block, such as a `TangentStream`."""

    @property
    def n_stars(self) -> int: ...

    def blocks(self, start: int = 0) -> Iterable[tuple[slice, Any]]:
        """Blocks from the one that begins at `start` on."""
        ...


class Checkpoint:
    """Where a computation keeps what it has finished, and tells how far it is.

    Files appear whole, by renaming, at most every `SECONDS_BETWEEN` seconds and at the end of each
    stage. They hold plain arrays, and the fingerprint of the inputs that they came from.

    Parameters
    ----------
    folder : path, optional
        Made if it is not there; without one nothing is kept.
    fingerprint : str
        Of everything that the result depends on, see `find_fingerprint`.
    tell : callable, optional
        Called with (stage, done, total) after each block.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        fingerprint: str = "",
        tell: Callable[[str, int, int], object] | None = None,
    ):
        self.folder = None if folder is None else Path(folder)
        self.fingerprint = fingerprint
        self.tell = tell
        self._saved_at = time.monotonic()

    def load(self, stage: str) -> State | None:
        """Arrays that `save` last wrote for this stage, or None.

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
        """Keep the arrays of a stage; without `now` only if the last time is long enough ago."""
        path = self._path(stage)
        if path is None or not (now or time.monotonic() - self._saved_at >= SECONDS_BETWEEN):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        try:
            with unfinished.open("wb") as file:
                np.savez(file, fingerprint=np.array(self.fingerprint), **state)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        self._saved_at = time.monotonic()

    def accumulate(
        self, stage: str, walk: Blocks, state: State, add: Callable[[State, Any], None]
    ) -> State:
        """Add every block of `walk` to `state`, in place, going on from what was kept."""
        start = 0
        kept = self.load(stage)
        if kept is not None:
            start = int(kept.pop("done"))
            state = kept
        for rows, block in walk.blocks(start):
            add(state, block)
            self.report(stage, rows.stop, walk.n_stars)
            self.save(stage, state | {"done": np.array(rows.stop)}, now=rows.stop == walk.n_stars)
        return state

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell how far a stage is."""
        if self.tell is not None:
            self.tell(stage, done, total)

    def _path(self, stage: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{stage.replace(' ', '-')}.npz"


def find_fingerprint(*parts: Any) -> str:
    """Digest of arrays, words and numbers, and of mappings of them: the same for the same inputs alone."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, dict):
            part = find_fingerprint(*(item for pair in sorted(part.items()) for item in pair))
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
        digest.update(b"|")
    return digest.hexdigest()
