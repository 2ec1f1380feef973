"""State dicts of PyTorch, as torch.save writes them: a zip file of data.pkl and of one member a storage."""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError
from symspec.importers.matching import (
    SMALL,
    StoredArray,
    bytes_allowed,
    match_arrays,
    reading,
    refuse_without_layers,
)
from symspec.importers.restricted_pickle import STORAGES, RefusedPickle, Tensor, read_pickle
from symspec.networks import Network

_NESTED = ("state_dict", "model_state_dict", "model")  # where checkpoints keep it
_WHAT = "a PyTorch file"


def import_torch(path: str | os.PathLike[str], net: Network | None = None) -> tuple[Network, np.ndarray]:
    """Read a state_dict of PyTorch into the layers of `net`.

    Parameters
    ----------
    path : str or path
        Of ``torch.save(model.state_dict(), path)``, alone or inside a dict under "state_dict", "model_state_dict" or
        "model". Nothing in it is run.
    net : Network
        The layers. Kernels, (out, in) in the file, are turned.

    Returns
    -------
    Network
    theta : numpy.ndarray, shape (param,)

    Raises
    ------
    FileFormatError
        The file is damaged, holds more than tensors, or its arrays do not fit `net`.
    OptionError
        `net` is missing.
    """
    path = Path(path)
    with reading(path, _WHAT), zipfile.ZipFile(path) as archive:
        found = _list_tensors(path, archive)
        if net is not None:
            return net, match_arrays(path, net, found, transpose=True)
    raise refuse_without_layers(path, found)


def _list_tensors(path: Path, archive: zipfile.ZipFile) -> list[StoredArray]:
    members = {info.filename: info for info in archive.infolist()}
    if sum(info.file_size for info in members.values()) > bytes_allowed(path):
        raise FileFormatError(f"{path} should unpack to {bytes_allowed(path):,} bytes at most, got a claim of more.")
    top = next(name.removesuffix("data.pkl") for name in members if re.fullmatch(r"[^/]*/data\.pkl", name))
    if top + "constants.pkl" in members:
        raise FileFormatError(
            f"{path} should be a state_dict, got TorchScript, which holds code: load it in PyTorch and save "
            "torch.save(model.state_dict(), path)."
        )
    if members[top + "data.pkl"].file_size > SMALL:
        raise FileFormatError(f"{path}: data.pkl should take {SMALL:,} bytes at most: save the state_dict alone.")
    order = archive.read(top + "byteorder") if top + "byteorder" in members else b"little"
    if order not in (b"little", b"big"):
        raise FileFormatError(f"{path}: byteorder should be little or big, got {order[:20]!r}: copy the file again.")
    try:
        content = read_pickle(archive.read(top + "data.pkl"))
    except RefusedPickle as error:
        raise FileFormatError(
            f"{path} should be a state_dict of tensors, got {error}, which is not run: load the model in PyTorch and "
            "save torch.save(model.state_dict(), path)."
        ) from error
    read = _storage_reader(path, archive, members, top, "<" if order == b"little" else ">")
    return [StoredArray(str(name), t.shape, _tensor_reader(t, read)) for name, t in _find_tensors(path, content)]


def _find_tensors(path: Path, content: Any) -> list[tuple[str, Tensor]]:
    """Named tensors of a state_dict, or of a checkpoint that has one."""
    for place in (content, *(content.get(key) for key in _NESTED if isinstance(content, dict))):
        if isinstance(place, dict) and place and all(isinstance(value, Tensor) for value in place.values()):
            return list(place.items())
    keys = ", ".join(map(str, list(content)[:12])) if isinstance(content, dict) else type(content).__name__
    raise FileFormatError(
        f"{path} should be a dict of tensors, or have one under {', '.join(_NESTED)}, got {keys}: save "
        "torch.save(model.state_dict(), path)."
    )


def _storage_reader(
    path: Path, archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], top: str, order: str
) -> Callable[[Tensor], np.ndarray]:
    def read(tensor: Tensor) -> np.ndarray:
        storage = tensor.storage
        dtype = np.dtype(STORAGES[storage.kind]).newbyteorder(order)
        member = members.get(f"{top}data/{storage.key}")
        if member is None or member.file_size != storage.size * dtype.itemsize:
            held = "nothing" if member is None else f"{member.file_size:,} bytes"
            raise FileFormatError(
                f"{path}: data/{storage.key} should hold {storage.size:,} numbers of {dtype.itemsize} bytes, got {held}"
                ": the file is damaged or incomplete, so copy it again."
            )
        numbers = np.frombuffer(archive.read(member), dtype)
        return widen_bfloat16(numbers) if storage.kind == "torch.BFloat16Storage" else numbers

    return read


def widen_bfloat16(numbers: np.ndarray) -> np.ndarray:
    """Numbers of bfloat16, given as whole numbers of 16 bits, as float32: the upper half of its bits."""
    return (numbers.astype(np.uint32) << 16).view(np.float32)


def _tensor_reader(tensor: Tensor, read: Callable[[Tensor], np.ndarray]) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        numbers = read(tensor)
        if not math.prod(tensor.shape):
            return np.empty(tensor.shape, numbers.dtype)
        strides = [stride * numbers.itemsize for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides, writeable=False)

    return load
