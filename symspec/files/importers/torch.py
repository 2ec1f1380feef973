"""State dicts of PyTorch, zip files of data.pkl and one member for each storage."""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError, OptionError
from symspec.files.importers.restricted_pickle import STORAGES, RefusedPickle, Tensor, read_pickle
from symspec.files.matching import (
    SMALL,
    FileArray,
    arrange_layers,
    bytes_allowed,
    fill_network,
    reading,
    refuse_without_layers,
    widen_bfloat16,
)
from symspec.networks.network import Network
from symspec.networks.shaping import Flatten, Permute, Reshape

_NESTED = ("state_dict", "model_state_dict", "model")  # its keys in checkpoints
_WHAT = "a PyTorch file"
# order of a module's tensors, by the last part of their names
_TENSORS = {"weight": 0, "bias": 1, "running_mean": 2, "running_var": 3}
_COUNTER = "num_batches_tracked"  # of BatchNorm1d, only used in training


def import_torch(
    path: str | os.PathLike[str], net: Network | None = None
) -> tuple[Network, np.ndarray]:
    """Read a state_dict of PyTorch into the layers of `net`.

    Parameters
    ----------
    path : str or path
        File of ``torch.save(model.state_dict(), path)``, or of a dict that has the state_dict under
        "state_dict", "model_state_dict" or "model". No code in it is run.
    net : Network
        The layers, in the order in which the modules were made. Kernels, (out, in) or (out, in,
        position) in the file, are transposed. PyTorch's arrays are (channel, position): give
        data_format="channels_first" to convolutions and pools, and axis=0 and epsilon=1e-5 to
        BatchNorm, whose moments are placeholders for those in the file.

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
        found = list_tensors(path, archive)
        if net is not None:
            arranged = arrange_layers(
                path, net, group_tensors(found), is_ordered=True, transpose=True
            )
            return fill_network(path, net, arranged, transpose=True)
    raise refuse_without_layers(path, found)


def group_tensors(tensors: Iterable[FileArray]) -> dict[str, list[FileArray]]:
    """Group tensors by module, "0" of "0.weight", in symspec's order inside each module."""
    modules: dict[str, list[FileArray]] = {}
    for tensor in tensors:
        module, _, kind = tensor.name.rpartition(".")
        if kind != _COUNTER:
            modules.setdefault(module, []).append(tensor)
    for own in modules.values():
        own.sort(key=lambda tensor: _TENSORS.get(tensor.name.rpartition(".")[2], len(_TENSORS)))
    return modules


def refuse_positions_first(path: str | os.PathLike[str], net: Network) -> None:
    """Refuse layers that flatten (position, channel), as PyTorch flattens (channel, position).

    The arrays of the file would fit both.

    Raises
    ------
    OptionError
        There is such a layer; the message names it.
    """
    has_positions_first = False
    for name, layer, shape, out in zip(
        net.layer_names, net.layers, net.shapes, net.shapes[1:], strict=False
    ):
        if hasattr(layer, "data_format"):
            has_positions_first = layer.data_format == "channels_last"
        elif isinstance(layer, Permute):
            has_positions_first = False  # a Permute puts channels first on purpose
        makes_vector = (
            isinstance(layer, Flatten | Reshape)
            and len(shape) == 2
            and len(out) == 1
            and min(shape) > 1
        )
        if has_positions_first and makes_vector:
            raise OptionError(
                f"net should make vectors of (channel, position) as PyTorch does, got {name} of"
                f" {shape}, (position, channel), for {path}, whose weights would fit either: give"
                " its layers data_format='channels_first' after Reshape((1, n_pixels)), or prove"
                " this order by check=(x, y)."
            )


def list_tensors(path: Path, archive: zipfile.ZipFile) -> list[FileArray]:
    """Read the pickle of a file; list its tensors in their order."""
    members = {info.filename: info for info in archive.infolist()}
    if sum(info.file_size for info in members.values()) > bytes_allowed(path):
        raise FileFormatError(
            f"{path} should unpack to {bytes_allowed(path):,} bytes at most, got a claim of more."
        )
    top = next(
        name.removesuffix("data.pkl") for name in members if re.fullmatch(r"[^/]*/data\.pkl", name)
    )
    if top + "constants.pkl" in members:
        raise FileFormatError(
            f"{path} should be a state_dict, got TorchScript, which holds code: load it in PyTorch"
            " and save torch.save(model.state_dict(), path)."
        )
    if members[top + "data.pkl"].file_size > SMALL:
        raise FileFormatError(
            f"{path}: data.pkl should take {SMALL:,} bytes at most: save the state_dict alone."
        )
    order = archive.read(top + "byteorder") if top + "byteorder" in members else b"little"
    if order not in (b"little", b"big"):
        raise FileFormatError(
            f"{path}: byteorder should be little or big, got {order[:20]!r}: copy the file again."
        )
    try:
        content = read_pickle(archive.read(top + "data.pkl"))
    except RefusedPickle as error:
        raise FileFormatError(
            f"{path} should be a state_dict of tensors, got {error}, which is not run: load the"
            " model in PyTorch and save torch.save(model.state_dict(), path)."
        ) from error
    read = _storage_reader(path, archive, members, top, is_big_endian=order == b"big")
    return [
        FileArray(str(name), t.shape, _tensor_reader(t, read))
        for name, t in _find_tensors(path, content)
    ]


def _find_tensors(path: Path, content: Any) -> list[tuple[str, Tensor]]:
    """Find the named tensors of a state_dict, or of a checkpoint that has one."""
    for place in (content, *(content.get(key) for key in _NESTED if isinstance(content, dict))):
        if (
            isinstance(place, dict)
            and place
            and all(isinstance(value, Tensor) for value in place.values())
        ):
            return list(place.items())
    keys = (
        ", ".join(map(str, list(content)[:12]))
        if isinstance(content, dict)
        else type(content).__name__
    )
    raise FileFormatError(
        f"{path} should be a dict of tensors, or have one under {', '.join(_NESTED)}, got {keys}:"
        " save torch.save(model.state_dict(), path)."
    )


def _storage_reader(
    path: Path,
    archive: zipfile.ZipFile,
    members: Mapping[str, zipfile.ZipInfo],
    top: str,
    *,
    is_big_endian: bool,
) -> Callable[[Tensor], np.ndarray]:
    def read(tensor: Tensor) -> np.ndarray:
        storage = tensor.storage
        dtype = np.dtype(STORAGES[storage.kind]).newbyteorder(">" if is_big_endian else "<")
        member = members.get(f"{top}data/{storage.key}")
        if member is None or member.file_size != storage.size * dtype.itemsize:
            held = "nothing" if member is None else f"{member.file_size:,} bytes"
            raise FileFormatError(
                f"{path}: data/{storage.key} should hold {storage.size:,} numbers of"
                f" {dtype.itemsize} bytes, got {held}: the file is damaged or incomplete, so copy"
                " it again."
            )
        numbers = np.frombuffer(archive.read(member), dtype)
        return widen_bfloat16(numbers) if storage.kind == "torch.BFloat16Storage" else numbers

    return read


def _tensor_reader(
    tensor: Tensor, read: Callable[[Tensor], np.ndarray]
) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        numbers = read(tensor)
        if not math.prod(tensor.shape):
            return np.empty(tensor.shape, numbers.dtype)
        strides = [stride * numbers.itemsize for stride in tensor.strides]
        return np.lib.stride_tricks.as_strided(
            numbers[tensor.offset :], tensor.shape, strides, writeable=False
        )

    return load
