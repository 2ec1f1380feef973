"""Networks of Keras: whole models (.keras, .h5) by their own description, weights-only files by the caller's layers."""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import FileFormatError
from symspec.importers.hdf5_weights import WeightFile, open_weights
from symspec.importers.keras_layers import KerasLayer, build_layers, find_n_features, order_chain, read_layers
from symspec.importers.matching import (
    StoredArray,
    arrange_layers,
    bytes_allowed,
    match_arrays,
    reading,
    refuse_without_layers,
)
from symspec.layers import Layer, Standardize, Unstandardize
from symspec.networks import Network

_WITH_ARRAYS = {"Dense": "dense", "Normalization": "normalization"}  # class -> stem of its group in Keras 3
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # the second in Keras 2.12
_NO_LAYERS = ("vars", "optimizer", "metrics", "seed_generator")
_STATISTICS = ("mean", "variance", "count")


def import_keras_hdf5(path: str | os.PathLike[str], net: Network | None = None) -> tuple[Network, np.ndarray]:
    """Read a `.h5` of Keras: a whole model, or weights only.

    Parameters
    ----------
    path : str or path
    net : Network, optional
        The layers; needed where the file has weights only.

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
    with open_weights(path) as file:
        if file.has("/", "model_config") and net is None:
            model = file.json("/", "model_config")
            layers = read_layers(path, model)
            names = set(file.words("model_weights", "layer_names"))
            arrays = {la.name: _list_of_layer(file, "model_weights", la.name) for la in layers if la.name in names}
            return _build(path, model, layers, arrays)
        if net is not None:
            return _fill(path, file, net)
        found = [array for arrays in _list_all(path, file).values() for array in arrays]
    raise refuse_without_layers(path, found)


def import_keras(path: str | os.PathLike[str], net: Network | None = None) -> tuple[Network, np.ndarray]:
    """Read a `.keras` file: a zip of config.json and model.weights.h5.

    Parameters, results and errors are those of `import_keras_hdf5`.
    """
    path = Path(path)
    with reading(path, "a .keras file"), zipfile.ZipFile(path) as archive:
        for member in ("config.json", "model.weights.h5"):
            if member not in archive.namelist():
                raise FileFormatError(f"{path} should hold {member}, got {', '.join(archive.namelist()[:8])}.")
        if sum(info.file_size for info in archive.infolist()) > bytes_allowed(path):
            raise FileFormatError(
                f"{path} should unpack to {bytes_allowed(path):,} bytes at most, got a claim of more."
            )
        model, content = json.loads(archive.read("config.json")), archive.read("model.weights.h5")
    with open_weights(path, content) as file:
        if net is not None:
            return _fill(path, file, net)
        layers = read_layers(path, model)
        return _build(path, model, layers, _list_by_class(file, layers))


def _build(
    path: Path, model: Mapping[str, Any], layers: Sequence[KerasLayer], arrays: Mapping[str, list[StoredArray]]
) -> tuple[Network, np.ndarray]:
    """Network of a model's own description."""
    chain = order_chain(path, model, layers)
    kernels = [arrays[layer.name] for layer in chain if layer.class_name == "Dense" and arrays.get(layer.name)]
    n_pixels = n = find_n_features(path, model, chain, kernels[0][0] if kernels else None)
    built: list[Layer] = []
    found: list[StoredArray] = []
    for layer in chain:
        own, its_arrays = build_layers(layer, n, arrays.get(layer.name, []))
        for one in own:
            n = one.n_out(n)
        built += own
        found += its_arrays
    net = Network(built, n_pixels)
    return net, match_arrays(path, net, found)


def _fill(path: Path, file: WeightFile, net: Network) -> tuple[Network, np.ndarray]:
    """The caller's network, with the arrays of the file in their order."""
    layers = _list_all(path, file)
    if any(isinstance(layer, Standardize | Unstandardize) for layer in net.layers):
        kept = {name: [a for a in arrays if not _is_statistic(a.name)] for name, arrays in layers.items()}
        layers = {name: arrays for name, arrays in kept.items() if arrays}
    arranged = list(layers.values()) if _says_order(file) else arrange_layers(path, net, layers)
    return net, match_arrays(path, net, [array for arrays in arranged for array in arrays])


def _is_statistic(name: str) -> bool:
    """Whether an array is of a Normalization layer, which `net` has as fixed numbers."""
    parts = name.split("/")
    in_keras_3 = parts[-2:-1] == ["vars"] and parts[-3].startswith("normalization")
    return in_keras_3 or parts[-1].partition(":")[0] in _STATISTICS


def _says_order(file: WeightFile) -> bool:
    """Whether the file lists its layers; Keras 3 numbers them by class instead."""
    return any(file.has(_find_root(file), key) for key in ("layer_names", "layer_names0"))


def _find_root(file: WeightFile) -> str:
    return "model_weights" if "model_weights" in file.children("/") else "/"


def _list_all(path: Path, file: WeightFile) -> dict[str, list[StoredArray]]:
    """Arrays of each layer that has any, by name."""
    if _says_order(file):
        root = _find_root(file)
        layers = {name: _list_of_layer(file, root, name) for name in file.words(root, "layer_names")}
    else:
        container = _find_container(file)
        names = [name for name in file.children(container) if container != "/" or name not in _NO_LAYERS]
        layers = {name: _list_vars(file, f"{container.strip('/')}/{name}".strip("/")) for name in names}
    layers = {name: arrays for name, arrays in layers.items() if arrays}
    if not layers:
        top = ", ".join(file.children("/")[:8]) or "nothing"
        raise FileFormatError(
            f"{path} should be an HDF5 file of Keras, with arrays of layers, got one with {top}: read files of "
            "symspec's own with read_network."
        )
    return layers


def _find_container(file: WeightFile) -> str:
    """Group of the layers; a model written as a class has them at the top."""
    top = file.children("/")
    return next((name for name in _CONTAINERS if name in top), "/")


def _list_of_layer(file: WeightFile, root: str, name: str) -> list[StoredArray]:
    """Arrays of one layer in an `.h5`, in the order of its weight_names."""
    group = f"{root.strip('/')}/{name}".strip("/")
    return [file.stored(f"{group}/{weight}") for weight in file.words(group, "weight_names")]


def _list_vars(file: WeightFile, group: str) -> list[StoredArray]:
    """Arrays of one layer in Keras 3's layout."""
    if not file.is_group(group) or "vars" not in file.children(group):
        return []
    return [file.stored(f"{group}/vars/{key}") for key in file.children(f"{group}/vars")]


def _list_by_class(file: WeightFile, layers: Sequence[KerasLayer]) -> dict[str, list[StoredArray]]:
    """Arrays of each layer by name: Keras 3 calls groups by class and number, dense, dense_1, ..., not by name."""
    container, counts, arrays = _find_container(file), Counter(), {}
    groups = file.children(container)
    for layer in layers:
        if (stem := _WITH_ARRAYS.get(layer.class_name)) is None:
            continue
        name = f"{stem}_{counts[stem]}" if counts[stem] else stem
        counts[stem] += 1
        if name not in groups:
            continue  # what needs arrays will miss them
        group = f"{container}/{name}"
        if "vars" in file.children(group) and file.has(f"{group}/vars", "name"):
            said = file.word(f"{group}/vars", "name")
            if said != layer.name:
                raise layer.refusal(f"should have its arrays in {group}, which are of {said!r}", "save the model again")
        arrays[layer.name] = _list_vars(file, group)
    return arrays
