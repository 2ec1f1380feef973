"""Files of Keras: whole models (.keras, .h5) describe their layers, weights-only files do not."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError
from symspec.files.importers.keras.description import KerasLayer, read_layers, read_model
from symspec.files.importers.keras.graphs import build_network
from symspec.files.importers.keras.hdf5_weights import WeightFile, open_weights
from symspec.files.importers.keras.layers import VARIABLES, count_variables
from symspec.files.matching import (
    FileArray,
    Heads,
    arrange_layers,
    bytes_allowed,
    fill_network,
    reading,
    refuse_without_layers,
)
from symspec.networks.layers import Standardize, Unstandardize
from symspec.networks.network import Network
from symspec.safety.hdf5_files import MOST_OBJECTS

_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # the second in Keras 2.12
_NO_LAYERS = ("vars", "optimizer", "metrics", "seed_generator")
_STATISTICS = ("mean", "variance", "count")

Arrays = dict[str, list[FileArray]]


@dataclass(frozen=True)
class KerasFile:
    """An open file of Keras.

    Attributes
    ----------
    weights : WeightFile
    description : object
        The model's JSON; None if there are only weights.
    list_arrays : callable
        Lists the arrays of each layer of a model by the layer's place.
    """

    weights: WeightFile
    description: Any
    list_arrays: Callable[[KerasLayer], Arrays]


@contextmanager
def open_keras_hdf5(path: Path) -> Iterator[KerasFile]:
    """Open a `.h5` of Keras: a whole model, or weights only."""
    with open_weights(path) as weights:
        description = None
        if weights.has("/", "model_config"):
            description = weights.json("/", "model_config") or {}
        yield KerasFile(weights, description, partial(_list_by_name, weights))


@contextmanager
def open_keras_zip(path: Path) -> Iterator[KerasFile]:
    """Open a `.keras` file: a zip of config.json and model.weights.h5."""
    with reading(path, "a .keras file"), zipfile.ZipFile(path) as archive:
        for member in ("config.json", "model.weights.h5"):
            if member not in archive.namelist():
                raise FileFormatError(
                    f"{path} should hold {member}, got {', '.join(archive.namelist()[:8])}."
                )
        if sum(info.file_size for info in archive.infolist()) > bytes_allowed(path):
            raise FileFormatError(
                f"{path} should unpack to {bytes_allowed(path):,} bytes at most, got a claim of"
                " more."
            )
        description = json.loads(archive.read("config.json"))
        content = archive.read("model.weights.h5")
    with open_weights(path, content) as weights:
        yield KerasFile(weights, description, partial(_list_by_class, weights))


def import_keras(
    path: str | os.PathLike[str],
    net: Network | None = None,
    heads: Heads | None = None,
    *,
    opened: Callable[[Path], AbstractContextManager[KerasFile]] = open_keras_zip,
) -> tuple[Network, np.ndarray]:
    """Read a network of Keras.

    Parameters
    ----------
    path : str or path
    net : Network, optional
        The layers; needed if the file has only weights. The moments of its BatchNorm layers are
        placeholders for those in the file.
    heads : Heads, optional
        The outputs that are read; all by default.
    opened : {open_keras_zip, open_keras_hdf5}

    Returns
    -------
    Network
    theta : numpy.ndarray, shape (param,)

    Raises
    ------
    FileFormatError, OptionError
        As `import_network`.
    """
    path = Path(path)
    with opened(path) as file:
        if net is not None:
            return _fill(path, file.weights, net)
        if file.description is not None:
            model = read_model(path, file.description)
            return build_network(path, model, file.list_arrays(model), heads)
        found = [array for arrays in list_weights(path, file.weights).values() for array in arrays]
    raise refuse_without_layers(path, found)


def import_keras_hdf5(
    path: str | os.PathLike[str], net: Network | None = None, heads: Heads | None = None
) -> tuple[Network, np.ndarray]:
    """Read a `.h5` of Keras, as `import_keras` does."""
    return import_keras(path, net, heads, opened=open_keras_hdf5)


def _fill(path: Path, file: WeightFile, net: Network) -> tuple[Network, np.ndarray]:
    """Fill the caller's network with the arrays of the file."""
    layers = list_weights(path, file)
    if any(isinstance(layer, Standardize | Unstandardize) for layer in net.layers):
        layers = _without_statistics(layers)
    return fill_network(path, net, arrange_layers(path, net, layers, is_ordered=_says_order(file)))


def _without_statistics(layers: Arrays) -> Arrays:
    kept = {}
    for name, arrays in layers.items():
        if own := [array for array in arrays if not _is_statistic(array.name)]:
            kept[name] = own
    return kept


def _is_statistic(name: str) -> bool:
    """Whether an array belongs to a Normalization layer, whose numbers are fixed in `net`."""
    parts = name.split("/")
    in_keras_3 = parts[-2:-1] == ["vars"] and parts[-3].startswith("normalization")
    return in_keras_3 or parts[-1].partition(":")[0] in _STATISTICS


# --- all arrays of a file, by layers


def list_weights(path: Path, file: WeightFile) -> Arrays:
    """List the arrays of each layer that has any, by its name.

    Raises
    ------
    FileFormatError
        There are none.
    """
    if _says_order(file):
        layers: Arrays = {}
        for name in file.strings(_find_root(file), "layer_names"):
            for array in _list_of_layer(file, name):
                inner = array.name.rpartition("/")[0]  # a layer of a nested model
                layers.setdefault(inner, []).append(array)
    else:
        container = _find_container(file, "/")
        layers = {
            _join(*_layers_in(name)): arrays
            for name, arrays in _walk(file, container, set())
            if arrays
        }
    if not layers:
        top = ", ".join(file.children("/")[:8]) or "nothing"
        raise FileFormatError(
            f"{path} should be an HDF5 file of Keras, with arrays of layers, got one with {top}:"
            " read files of symspec's own with read_network."
        )
    return layers


def has_weights(file: WeightFile) -> bool:
    """Whether an HDF5 file looks like one of Keras."""
    if file.has("/", "model_config") or _says_order(file) or _find_container(file, "/") != "/":
        return True
    return any("vars" in file.children(name) for name in file.children("/") if file.is_group(name))


def _says_order(file: WeightFile) -> bool:
    """Whether the file lists its layers; Keras 3 numbers each class instead."""
    return any(file.has(_find_root(file), key) for key in ("layer_names", "layer_names0"))


def _find_root(file: WeightFile) -> str:
    return "model_weights" if "model_weights" in file.children("/") else "/"


def _find_container(file: WeightFile, group: str) -> str:
    """Find the group of a model's layers; a model written as a class has them in its own."""
    inside = file.children(group)
    return next((_join(group, name) for name in _CONTAINERS if name in inside), group)


def _list_of_layer(file: WeightFile, name: str) -> list[FileArray]:
    """List the arrays of one layer in an `.h5`, in the order of its weight_names."""
    group = _join(_find_root(file), name)
    return [file.stored(f"{group}/{weight}") for weight in file.strings(group, "weight_names")]


def _list_vars(file: WeightFile, group: str) -> list[FileArray]:
    """List the arrays of one layer in Keras 3's layout."""
    if not file.is_group(group) or "vars" not in file.children(group):
        return []
    return [file.stored(f"{group}/vars/{key}") for key in file.children(f"{group}/vars")]


def _walk(file: WeightFile, group: str, seen: set[Any]) -> Iterator[tuple[str, list[FileArray]]]:
    """Visit every group with its arrays, once: hard links may run in a circle."""
    if file.identity(group) in seen:
        return
    seen.add(file.identity(group))
    if len(seen) > MOST_OBJECTS:
        raise file.file.refusal("/", f"a group of {MOST_OBJECTS:,} groups at most", "more")
    yield group, _list_vars(file, group)
    for name in file.children(group):
        if name not in _NO_LAYERS and file.is_group(_join(group, name)):
            yield from _walk(file, _join(group, name), seen)


def _layers_in(group: str) -> list[str]:
    return [part for part in group.split("/") if part not in _CONTAINERS]


def _join(*parts: str) -> str:
    return "/".join(part.strip("/") for part in parts if part.strip("/"))


# --- the arrays of a model that is described


def _list_by_name(file: WeightFile, model: KerasLayer) -> Arrays:
    """List the arrays of each layer by its place, in an `.h5`."""
    names = set(file.strings(_find_root(file), "layer_names"))
    arrays: Arrays = {}
    for layer in read_layers(model):
        own = _list_of_layer(file, layer.name) if layer.name in names else []
        arrays |= _share_out(layer, own) if layer.is_model else {layer.place: own}
    return arrays


def _share_out(model: KerasLayer, arrays: Sequence[FileArray]) -> Arrays:
    """Share out the arrays of a nested model, of which an `.h5` keeps the trained ones first."""
    leaves = list(_find_leaves(model))
    rest = iter(arrays)
    shares = {leaf.place: list(islice(rest, count_variables(leaf)[0])) for leaf in leaves}
    for leaf in leaves:
        shares[leaf.place] += islice(rest, count_variables(leaf)[1])
    if more := list(rest):
        raise model.refusal(
            f"should have {len(arrays) - len(more)} arrays, got {len(arrays)}",
            "the file is damaged",
        )
    return shares


def _find_leaves(model: KerasLayer) -> Iterator[KerasLayer]:
    for layer in read_layers(model):
        yield from _find_leaves(layer) if layer.is_model else (layer,)


def _list_by_class(file: WeightFile, model: KerasLayer, group: str = "/") -> Arrays:
    """List the arrays of each layer by its place; Keras 3 names groups dense, dense_1, ..."""
    container = _find_container(file, group)
    counts: Counter[str] = Counter()
    arrays: Arrays = {}
    groups = set(file.children(container))
    for layer in read_layers(model):
        stem = _to_snake_case(layer.class_name)
        name = f"{stem}_{counts[stem]}" if counts[stem] else stem
        counts[stem] += 1
        if name not in groups or not (layer.is_model or layer.class_name in VARIABLES):
            continue  # a layer that needs arrays is refused later
        own = _join(container, name)
        if layer.is_model:
            arrays |= _list_by_class(file, layer, own)
            continue
        if "vars" in file.children(own) and file.has(f"{own}/vars", "name"):
            owner = file.string(f"{own}/vars", "name")
            if owner != layer.name:
                raise layer.refusal(
                    f"should have its arrays in {own}, which are of {owner!r}",
                    "save the model again",
                )
        arrays[layer.place] = _list_vars(file, own)
    return arrays


def _to_snake_case(class_name: str) -> str:
    """Convert BatchNormalization to batch_normalization, Conv1D to conv1d."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", class_name.rpartition(">")[2]).lower()
