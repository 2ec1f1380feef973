"""Kinds of foreign networks, recognised by the content of a file."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

from symspec.errors import FileFormatError
from symspec.files.matching import bytes_allowed, reading
from symspec.safety.file_formats import is_hdf5

# how ONNX files begin: a version, which is a small number, and another of a model's fields
_ONNX_START = re.compile(rb"\x08[\x01-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]")
_KNOWN = (
    "a network of The Payne (npz), Keras (.keras, .h5), PyTorch (.pt, .safetensors) or ONNX (.onnx)"
)


def find_kind(path: str | os.PathLike[str]) -> str:
    """Recognise a foreign network by the content of its file.

    Returns
    -------
    str
        "payne", "keras", "keras_hdf5", "torch", "safetensors" or "onnx".

    Raises
    ------
    FileNotFoundError
        There is nothing at `path`.
    FileFormatError
        It is no regular file, or of another format.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} should be a file, got nothing there: check the path and its spelling."
        )
    if path.is_dir():
        advice = "of a TensorFlow SavedModel, save it again as model.save('model.keras')"
        raise FileFormatError(f"{path} should be a file of {_KNOWN}, got a directory: {advice}.")
    if not path.is_file():
        raise FileFormatError(
            f"{path} should be a file of {_KNOWN}, got no regular file: give another."
        )
    with reading(path, "a file"), path.open("rb") as stream:
        start = stream.read(4096)
    if is_hdf5(start):
        return "keras_hdf5"
    if start.startswith(b"PK\x03\x04"):
        return _find_kind_of_zip(path)
    if start[8:9] == b"{" and start[5:8] == b"\0\0\0":
        return "safetensors"
    if _ONNX_START.match(start) or path.suffix == ".onnx":  # a format without a signature
        return "onnx"
    got = f"a file that starts with {start[:8]!r}"
    advice = "it may be truncated, or of another format"
    if start.startswith(b"\x80"):
        got = "a bare pickle, which is never opened"
        advice = "save it with torch.save of PyTorch 1.6 or newer"
    raise FileFormatError(f"{path} should be {_KNOWN}, got {got}: {advice}.")


def _find_kind_of_zip(path: Path) -> str:
    with reading(path, f"a zip file of {_KNOWN}"), zipfile.ZipFile(path) as archive:
        held = {info.filename: info.file_size for info in archive.infolist()}
    if (total := sum(held.values())) > bytes_allowed(path):
        raise FileFormatError(
            f"{path} should unpack to {bytes_allowed(path):,} bytes at most, got a claim of"
            f" {total:,} in a file of {path.stat().st_size:,}: it is damaged, or made to fill the"
            " memory."
        )
    if "config.json" in held or "model.weights.h5" in held:
        return "keras"
    if "w_array_0.npy" in held:
        return "payne"
    if any(name.split("/")[1:] == ["data.pkl"] for name in held):
        return "torch"
    raise FileFormatError(
        f"{path} should be {_KNOWN}, got a zip file of {', '.join(list(held)[:8])}: give another."
    )
