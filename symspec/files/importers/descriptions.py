"""What is in a foreign file of a network, and which of its layers symspec has."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from symspec.errors import FileFormatError
from symspec.files.importers.keras.description import (
    Call,
    KerasLayer,
    order_calls,
    read_graph,
    read_model,
)
from symspec.files.importers.keras.files import (
    has_weights,
    list_weights,
    open_keras_hdf5,
    open_keras_zip,
)
from symspec.files.importers.keras.graphs import Arrays, Assembly, begin_assembly, check_class
from symspec.files.importers.kinds import find_kind
from symspec.files.importers.onnx.files import list_nodes
from symspec.files.importers.payne import list_payne_shapes
from symspec.files.importers.safetensors import list_safetensors
from symspec.files.importers.torch import list_tensors
from symspec.files.matching import StoredArray, reading
from symspec.networks.layers import Shape

_FORMATS = {
    "payne": "emulator of The Payne",
    "keras": "whole model of Keras (.keras)",
    "keras_hdf5": "whole model of Keras (.h5)",
    "torch": "state_dict of PyTorch",
    "safetensors": "weights in safetensors",
    "onnx": "model of ONNX",
}
_WEIGHTS = "weights of Keras (.h5)"
READ = "yes"
BEHIND = "perhaps; a layer before it is not read"
_WITH_LAYERS = (
    "symspec.read_network(path, net=symspec.Network([...], n_pixels)), with the layers that were"
    " trained"
)


@dataclass(frozen=True)
class FileRow:
    """One layer of a foreign file, or one array where the file does not describe its layers.

    Attributes
    ----------
    name : str
    kind : str
        Class of the layer, or "array".
    shapes : tuple of tuple of int
        Of its arrays.
    out : tuple of int or None
        Shape of what comes out, of one star, if that is known.
    verdict : str
        "yes" where symspec reads it, or why not; empty for arrays.
    """

    name: str
    kind: str
    shapes: tuple[Shape, ...]
    out: Shape | None = None
    verdict: str = ""

    @property
    def n_numbers(self) -> int:
        """Numbers in its arrays."""
        return sum(map(math.prod, self.shapes))


@dataclass(frozen=True)
class FileDescription:
    """A foreign file of a network.

    Attributes
    ----------
    format : str
        In words.
    rows : tuple of FileRow
    advice : str
        How to read it.
    """

    format: str
    rows: tuple[FileRow, ...]
    advice: str


def is_foreign_network(path: str | os.PathLike[str]) -> bool:
    """Whether a file looks like a network of another program, damaged or not."""
    try:
        kind = find_kind(path)
        if kind != "keras_hdf5":
            return True
        with open_keras_hdf5(Path(path)) as file:
            return has_weights(file.weights)
    except (FileFormatError, OSError):
        return False


def describe_file(path: str | os.PathLike[str]) -> FileDescription:
    """Tell what is in a network's file of another program; weights stay unread, and nothing is run.

    Parameters
    ----------
    path : str or path
        Of the formats of `import_network`.

    Returns
    -------
    FileDescription
        Of a whole model of Keras or ONNX each layer or node, with whether symspec reads it; of
        other files each array.

    Raises
    ------
    FileNotFoundError, FileFormatError
        There is nothing, or nothing that is understood.
    """
    path, kind = Path(path), find_kind(path)
    if kind in ("keras", "keras_hdf5"):
        return _describe_keras(path, kind)
    if kind == "onnx":
        rows = tuple(FileRow(*row, verdict or READ) for *row, verdict in list_nodes(path))
        return FileDescription(_FORMATS[kind], rows, _advise(rows))
    if kind == "payne":
        rows = tuple(
            FileRow(name, "array", (shape,)) for name, shape in list_payne_shapes(path).items()
        )
        return FileDescription(
            _FORMATS[kind], rows, "symspec.read_network(path, activation='leaky_relu' or 'sigmoid')"
        )
    with reading(path, f"a file of {_FORMATS[kind]}"):
        if kind == "safetensors":
            found = list_safetensors(path)
        else:
            with zipfile.ZipFile(path) as archive:
                found = list_tensors(path, archive)
    return FileDescription(_FORMATS[kind], _list_rows(found), _WITH_LAYERS)


def _list_rows(arrays: Sequence[StoredArray]) -> tuple[FileRow, ...]:
    return tuple(FileRow(array.name, "array", (array.shape,)) for array in arrays)


def _describe_keras(path: Path, kind: str) -> FileDescription:
    with (open_keras_zip if kind == "keras" else open_keras_hdf5)(path) as file:
        if file.description is None:
            found = [array for own in list_weights(path, file.weights).values() for array in own]
            return FileDescription(_WEIGHTS, _list_rows(found), _WITH_LAYERS)
        model = read_model(path, file.description)
        rows = _describe_model(model, file.list_arrays(model))
    return FileDescription(_FORMATS[kind], rows, _advise(rows))


def _advise(rows: Sequence[FileRow]) -> str:
    return (
        "symspec.read_network(path)" if all(row.verdict == READ for row in rows) else _WITH_LAYERS
    )


def _describe_model(model: KerasLayer, arrays: Arrays) -> tuple[FileRow, ...]:
    graph = read_graph(model)
    assembly = begin_assembly(model, arrays)
    numbers = {call: i for i, call in enumerate(graph.inputs)}
    places: dict[Call, int | None] = {}
    rows = []
    for call in order_calls(model, graph):
        layer = graph.layers.get(call[0])
        if call in numbers:
            places[call], verdict = assembly.take_input(numbers[call]), READ
        else:
            places[call], verdict = _try_layer(
                assembly, layer, [places[source] for source in graph.sources[call]]
            )
        if layer is not None:
            place = places[call]
            out = None if place is None else assembly.shapes[place]
            rows.append(
                FileRow(layer.place, layer.class_name, _list_shapes(layer, arrays), out, verdict)
            )
    return tuple(rows)


def _list_shapes(layer: KerasLayer, arrays: Arrays) -> tuple[Shape, ...]:
    inside = (
        [name for name in arrays if name.startswith(f"{layer.place}/")]
        if layer.is_model
        else [layer.place]
    )
    return tuple(array.shape for name in inside for array in arrays.get(name, ()))


def _try_layer(
    assembly: Assembly, layer: KerasLayer, sources: Sequence[int | None]
) -> tuple[int | None, str]:
    """Place of what a layer becomes, None where that is not known, and the verdict."""
    try:
        check_class(layer)
        known = [source for source in sources if source is not None]
        return (
            (None, BEHIND)
            if len(known) < len(sources)
            else (assembly.add_layer(layer, known), READ)
        )
    except FileFormatError as error:
        return None, str(error).removeprefix(layer.introduction).removeprefix(f"{layer.path}: ")
