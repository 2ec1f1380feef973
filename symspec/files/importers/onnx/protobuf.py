"""ONNX files as protobuf messages and arrays; no more memory is taken than the file justifies.

A message of two bytes takes a hundred in memory, so that a small file could fill it. The fields are
therefore counted before the `onnx` package parses them, which opens no other file.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError, MissingDependencyError
from symspec.files.matching import MOST_AXES, SMALL, widen_bfloat16

Message = Any  # a protobuf message: the classes of the package onnx carry no types

_LONGEST = 2**31  # bytes of a protobuf message
_MOST_FIELDS = 300_000
_VARINT = 0  # wire types
_I64 = 1
_BYTES = 2
_I32 = 5
# by onnx.TensorProto.DataType: the dtype of raw_data, and the field used instead of it
_DTYPES: dict[int, tuple[str, str]] = {
    1: ("<f4", "float_data"),
    2: ("u1", "int32_data"),
    3: ("i1", "int32_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("?", "int32_data"),
    10: ("<u2", "int32_data"),  # float16, as its two bytes; so is bfloat16
    11: ("<f8", "double_data"),
    16: ("<u2", "int32_data"),
}
_FLOAT16 = 10
BFLOAT16 = 16
FLOATS = (1, _FLOAT16, 11, BFLOAT16)
_EXTERNAL = 1  # TensorProto.DataLocation
_TOGETHER = (
    "save the model in one file, in PyTorch torch.onnx.export(..., external_data=False), or beside"
    " its data onnx.save(onnx.load(path), new_path)"
)


def import_onnx_package() -> Any:
    """Import the package onnx.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError(
            'ONNX files need the package onnx: pip install "symspec[onnx]".'
        ) from error
    return onnx


def read_model(path: Path) -> Message:
    """Read an `onnx.ModelProto`; only its fields are checked, by number and length.

    Raises
    ------
    FileFormatError
        The file is truncated, damaged or too large for one message.
    """
    onnx = import_onnx_package()
    held = path.stat().st_size
    if not 0 < held < _LONGEST:
        raise FileFormatError(
            f"{path} should be an ONNX model of 1 to {_LONGEST:,} bytes, got {held:,}: export"
            " again."
        )
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _check_fields(path, data, onnx.ModelProto.DESCRIPTOR)
        return onnx.ModelProto.FromString(data[:])


def _check_fields(path: Path, data: mmap.mmap, descriptor: Any) -> None:
    """Check that all fields end inside the messages that hold them, and are few."""
    n_fields = n_bytes = 0
    messages = [(0, len(data), descriptor)]
    while messages:
        place, end, descriptor = messages.pop()
        inner, bulk = _list_fields(descriptor)
        while place < end:
            n_fields += 1
            key, place = _read_varint(data, place)
            number = key >> 3
            wire_type = key & 7
            length, place = _read_length(path, data, place, wire_type)
            if length > end - place:
                raise FileFormatError(
                    f"{path} should hold {length:,} bytes from byte {place:,} on, got"
                    f" {max(end - place, 0):,}: it is incomplete or damaged, so copy it again."
                )
            if wire_type == _BYTES and number in inner:
                messages.append((place, place + length, inner[number]))
            elif number not in bulk:
                n_bytes += length
            place += length
            if n_fields > _MOST_FIELDS or n_bytes > SMALL:
                raise FileFormatError(
                    f"{path} should take {_MOST_FIELDS:,} fields and {SMALL:,} bytes at most to"
                    " describe its layers, got more: it is damaged, or made to fill the memory."
                )


@cache
def _list_fields(descriptor: Any) -> tuple[dict[int, Any], set[int]]:
    """List fields that are messages, and fields that take no more memory than in the file."""
    fields = descriptor.fields_by_number.items()
    inner = {
        number: field.message_type for number, field in fields if field.message_type is not None
    }
    bulk = {
        number
        for number, field in fields
        if field.type in (field.TYPE_BYTES, field.TYPE_FLOAT, field.TYPE_DOUBLE)
    }
    return inner, bulk


def _read_length(path: Path, data: mmap.mmap, place: int, wire_type: int) -> tuple[int, int]:
    """Length of a field's value in bytes, and its place."""
    if wire_type == _BYTES:
        return _read_varint(data, place)
    if wire_type == _VARINT:
        return _read_varint(data, place)[1] - place, place
    if wire_type not in (_I64, _I32):
        raise FileFormatError(
            f"{path} should be an ONNX model, got byte {place:,} of no such file: it is damaged."
        )
    return 8 if wire_type == _I64 else 4, place


def _read_varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """Number in seven bits a byte, the lowest first, and the place behind it."""
    value = shift = 0
    while shift < 64:
        byte = data[place]
        value |= (byte & 127) << shift
        place += 1
        shift += 7
        if byte < 128:
            return value, place
    raise ValueError(f"a number of more than 64 bits at byte {place:,}")


def read_tensor(path: str | os.PathLike[str], tensor: Message) -> np.ndarray:
    """Array of an `onnx.TensorProto`, without a copy if possible.

    Raises
    ------
    FileFormatError
        The numbers are in another file, which is not opened, have another type, or are not as many
        as their shape says.
    """
    name = tensor.name[:100] or "a constant"
    shape = tuple(tensor.dims)
    if tensor.data_location == _EXTERNAL or tensor.external_data:
        raise FileFormatError(
            f"{path}: {name!r} is in another file, which is not opened: {_TOGETHER}."
        )
    if tensor.data_type not in _DTYPES or tensor.HasField("segment"):
        raise FileFormatError(
            f"{path}: {name!r} should hold floats, got data of type {tensor.data_type}, as"
            " quantized and other models have: export the trained weights as float32."
        )
    dtype, field = _DTYPES[tensor.data_type]
    if any(n < 0 for n in shape) or len(shape) > MOST_AXES:
        raise FileFormatError(
            f"{path}: {name!r} should have lengths of at least 0, got {shape[:8]}: it is damaged."
        )
    raw = tensor.raw_data
    listed = getattr(tensor, field)
    itemsize = np.dtype(dtype).itemsize
    n_held = len(raw) // itemsize if raw else len(listed)
    if n_held != math.prod(shape) or len(raw) % itemsize:
        raise FileFormatError(
            f"{path}: {name!r} should hold {math.prod(shape):,} numbers of shape {shape}, got"
            f" {n_held:,}: the file is damaged or incomplete, so export it again."
        )
    numbers = np.frombuffer(raw, dtype) if raw else _take_listed(listed, dtype)
    return _widen(numbers, tensor.data_type).reshape(shape)


def _take_listed(listed: Collection[float], dtype: str) -> np.ndarray:
    """Array of a repeated field, without a list in between."""
    kind = np.float64 if np.dtype(dtype).kind == "f" else np.int64
    return np.fromiter(listed, kind, len(listed)).astype(dtype)


def _widen(numbers: np.ndarray, data_type: int) -> np.ndarray:
    if data_type == _FLOAT16:
        return numbers.view("<f2").astype(np.float32)
    if data_type == BFLOAT16:
        return widen_bfloat16(numbers)
    return numbers
