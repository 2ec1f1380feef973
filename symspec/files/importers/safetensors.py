"""Files of safetensors.

They hold the length of a JSON header (8 bytes, little-endian), the header and the numbers.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError
from symspec.files.importers.torch import group_tensors
from symspec.files.matching import (
    MOST_AXES,
    FileArray,
    arrange_layers,
    fill_network,
    is_count,
    natural_order,
    reading,
    refuse_without_layers,
    widen_bfloat16,
)
from symspec.networks.network import Network

_LONGEST_HEADER = 100 * 10**6  # bytes, by the format
_DTYPES = {  # bfloat16 as its two bytes
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
_WHAT = "a safetensors file"


def import_safetensors(
    path: str | os.PathLike[str], net: Network | None = None
) -> tuple[Network, np.ndarray]:
    """Read a PyTorch state_dict in a safetensors file into the layers of `net`.

    Such a file does not keep the order of its tensors. Layers are ordered by the numbers in their
    names or, if there are none, by their shapes if these are unambiguous.

    Parameters
    ----------
    path : str or path
    net : Network
        The layers, as in `import_torch`.

    Returns
    -------
    Network
    theta : numpy.ndarray, shape (param,)

    Raises
    ------
    FileFormatError
        The file is damaged, its arrays do not fit `net`, or their order is unclear.
    OptionError
        `net` is missing.
    """
    path = Path(path)
    with reading(path, _WHAT):
        found = list_safetensors(path)
        if net is not None:
            arranged = arrange_layers(
                path, net, group_tensors(found), is_ordered=False, transpose=True
            )
            return fill_network(path, net, arranged, transpose=True)
    raise refuse_without_layers(path, found)


def list_safetensors(path: Path) -> list[FileArray]:
    """Read and check the header; list the tensors in the order of the numbers in their names."""
    held = path.stat().st_size
    with path.open("rb") as stream:
        n_header = int.from_bytes(stream.read(8), "little")
        if n_header > min(_LONGEST_HEADER, held - 8):
            raise FileFormatError(
                f"{path} should hold a header of {n_header:,} bytes, got a file of {held:,}: it is"
                " incomplete or damaged, so copy it again."
            )
        header = json.loads(stream.read(n_header), object_pairs_hook=_refuse_doubles)
    header.pop("__metadata__", None)
    start = 8 + n_header
    tensors = []
    spans = []
    for name, entry in header.items():
        dtype, shape, begin, end = _read_entry(path, name, entry)
        spans.append((begin, end))
        read = _reader(path, start + begin, dtype, shape, entry["dtype"])
        tensors.append(FileArray(name, shape, read))
    spans.sort()
    ends = [0, *(end for _, end in spans)]
    if [begin for begin, _ in spans] != ends[:-1] or ends[-1] != held - start:
        raise FileFormatError(
            f"{path} should hold {ends[-1]:,} bytes of numbers without gap or overlap, got"
            f" {held - start:,}: it is incomplete or damaged, so copy it again."
        )
    return sorted(tensors, key=lambda tensor: natural_order(tensor.name))


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name is twice in the header")
    return dict(pairs)


def _read_entry(path: Path, name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Check a tensor's entry in the header; return type, shape and range of bytes."""
    kind = entry["dtype"]
    shape = entry["shape"]
    begin, end = entry["data_offsets"]
    if kind not in _DTYPES:
        raise FileFormatError(
            f"{path}: {name!r} should be of {', '.join(_DTYPES)}, got {kind!r}: save it as F32."
        )
    dtype = np.dtype(_DTYPES[kind])
    are_counts = len(shape) <= MOST_AXES and all(map(is_count, (begin, end, *shape)))
    if not are_counts or end - begin != dtype.itemsize * math.prod(shape):
        raise FileFormatError(
            f"{path}: {name!r} of shape {shape} and type {kind} should have data_offsets that fit"
            f" it, got {begin} to {end}: the file is damaged, so copy it again."
        )
    return dtype, tuple(shape), begin, end


def _reader(
    path: Path, place: int, dtype: np.dtype, shape: tuple[int, ...], kind: str
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        numbers = np.fromfile(path, dtype, math.prod(shape), offset=place).reshape(shape)
        return widen_bfloat16(numbers) if kind == "BF16" else numbers

    return read
