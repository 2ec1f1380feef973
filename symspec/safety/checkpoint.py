"""Finished blocks of a long computation, kept in a folder, so that it can be resumed.

A file that is kept ends in a seal: a line of text that says what it holds, and a digest of all its
bytes. What was cut, changed, copied or exchanged has not the seal expected of it, and is computed
again. Readers of HDF5 and npz do not mind the line.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from symspec.errors import DataError, OptionError
from symspec.safety.progress import Progress, be_silent
from symspec.safety.whole_files import replace_when_complete

State = dict[str, np.ndarray]
SECONDS_BETWEEN = 30.0
READ_BYTES = 2**20


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
    stage. They hold plain arrays, the fingerprint of the inputs that they came from, and a seal.

    Parameters
    ----------
    folder : path, optional
        Created if it does not exist; without one nothing is kept.
    fingerprint : str
        Digest of everything that the result depends on, see `find_fingerprint`.
    progress : Progress, optional
        Called after each block.

    Raises
    ------
    OptionError
        `folder` is no folder.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        fingerprint: str = "",
        progress: Progress = be_silent,
    ):
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise OptionError(
                f"resume should be a folder, got {folder}, which is none: give another name."
            )
        self.fingerprint = fingerprint
        self.progress = progress
        self._saved_at = time.monotonic()

    def load(self, stage: str, like: State | None = None) -> State | None:
        """Read the arrays that `save` last wrote for this stage.

        None if there are none, or, with a warning, if the file is not as it was written or holds
        arrays of other names, shapes or dtypes than those of `like`.

        Raises
        ------
        DataError
            They belong to other inputs.
        """
        path = self._path(stage)
        if path is None or not path.exists():
            return None
        if path.is_dir():
            raise DataError(f"{path} should be a file, got a folder: move it away.")
        if not has_seal(path, _name_content(stage)):
            _warn_of_damage(path)
            return None
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            state = {name: file[name] for name in file.files}
        if str(state.pop("fingerprint")) != self.fingerprint:
            raise DataError(
                f"{self.folder} should hold the progress of this computation, got that of another"
                " one (another network, weights, stars or options): give another folder, or delete"
                " this one."
            )
        if like is not None and _find_layout(state) != _find_layout(like):
            _warn_of_damage(path)
            return None
        return state

    def save(self, stage: str, state: State, *, now: bool = True) -> None:
        """Keep the arrays of a stage; without `now` at most every `SECONDS_BETWEEN` seconds."""
        path = self._path(stage)
        if path is None or not (now or time.monotonic() - self._saved_at >= SECONDS_BETWEEN):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {**state, "fingerprint": np.array(self.fingerprint)}
        with replace_when_complete(path, overwrite=True) as temporary:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
            seal_file(temporary, _name_content(stage))
        self._saved_at = time.monotonic()

    def accumulate(
        self, stage: str, walk: Blocks, state: State, add: Callable[[State, Any], None]
    ) -> State:
        """Add every block of `walk` to `state`, in place, from the last block kept on."""
        start = 0
        kept = self.load(stage, like=state | {"done": np.array(0)})
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


def seal_file(path: Path, content: str) -> None:
    """Append the line that `has_seal` looks for: what the file holds, and a digest of it.

    Parameters
    ----------
    path : Path
    content : str
        One line of words.
    """
    line = _begin_seal(content)
    with path.open("rb+") as stream:
        digest = hashlib.file_digest(stream, "sha256")  # which ends at the end of the file
        digest.update(line)
        stream.write(line + digest.hexdigest().encode() + b"\n")


def has_seal(path: Path, content: str) -> bool:
    """Whether a file is as it was when `seal_file` sealed it, as holding this content."""
    line = _begin_seal(content)
    n_bytes = len(line) + 2 * hashlib.sha256().digest_size + 1
    if not path.is_file() or path.stat().st_size < n_bytes:
        return False
    with path.open("rb") as stream:
        stream.seek(-n_bytes, os.SEEK_END)
        end = stream.tell() + len(line)
        if stream.read(len(line)) != line:
            return False
        stated = stream.read()
        stream.seek(0)
        digest = hashlib.sha256()
        while n_left := end - stream.tell():
            digest.update(stream.read(min(n_left, READ_BYTES)))
        return stated == digest.hexdigest().encode() + b"\n"


def hash_file(path: Path) -> str:
    """SHA-256 of all bytes of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_fingerprint(*parts: Any) -> str:
    """Digest of values: equal for equal ones, and for no others.

    It takes numbers, strings, None, arrays with their dtype and shape, sequences, sets, mappings in
    any order, dataclasses by their fields, and whatever else has a method `identity()` that gives
    such values. Each goes in with its kind and its extent, so that none can pass for another.

    Raises
    ------
    OptionError
        A value is of another kind, so that nothing says all that it holds.
    """
    return _digest(parts).hex()


def _digest(value: Any) -> bytes:
    """Digest of one value; a container's is that of the digests of what it holds."""
    if isinstance(value, np.ndarray | np.generic):
        return _digest_array(np.asanyarray(value))
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return _join(type(value).__name__, repr(value).encode())
    if isinstance(value, Mapping):
        return _join("mapping", *sorted(_digest(item) for item in value.items()))
    if isinstance(value, Set):
        return _join("set", *sorted(_digest(item) for item in value))
    if isinstance(value, tuple | list):
        return _join("sequence", *(_digest(item) for item in value))
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if hasattr(value, "identity"):
        return _join(name, _digest(value.identity()))
    if is_dataclass(value) and not isinstance(value, type):
        held = {field.name: getattr(value, field.name) for field in fields(value)}
        return _join(name, _digest(held))
    raise OptionError(
        f"what is resumed should be known by numbers, words and arrays, got {value!r}: give it a"
        " method identity() that returns those which say all of it, or leave resume out."
    )


def _digest_array(array: np.ndarray) -> bytes:
    if isinstance(array, np.ma.MaskedArray):
        return _join("masked", _digest(array.data), _digest(np.ma.getmaskarray(array)))
    if array.dtype.hasobject:
        return _join("objects", repr(array.shape).encode(), _digest(array.ravel().tolist()))
    kind = f"array {np.lib.format.dtype_to_descr(array.dtype)} {array.shape}"
    plain = np.ascontiguousarray(array)
    return _join(kind, plain.data if array.dtype.kind in "biufc" else plain.tobytes())


def _join(kind: str, *contents: Any) -> bytes:
    """Digest of the kind of a value, ended by a zero byte, and of bytes."""
    digest = hashlib.blake2b(kind.encode() + b"\0", digest_size=16)
    for content in contents:
        digest.update(content)
    return digest.digest()


def _begin_seal(content: str) -> bytes:
    return f"\nsymspec keeps here: {content}; SHA-256 ".encode()


def _name_content(stage: str) -> str:
    return f"the progress of {stage}"


def _find_layout(state: State) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    return {name: (array.dtype, array.shape) for name, array in state.items()}


def _warn_of_damage(path: Path) -> None:
    warnings.warn(
        f"{path} should hold finished blocks of this computation, got a damaged file or that of"
        " another version: they are computed again.",
        RuntimeWarning,
        stacklevel=2,
    )
