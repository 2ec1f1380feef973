"""Content of a foreign network's file: its layers, and which of them symspec reads."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Mapping, Sequence
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
from symspec.files.matching import FileArray, reading
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


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """One layer of a foreign file, or one array of a file that does not describe its layers.

    Attributes
    ----------
    name : str
    kind : str
        Class of the layer, or "array".
    shapes : tuple of tuple of int
        Shapes of its arrays.
    out : tuple of int or None
        Shape of one star's output, if known.
    verdict : str
        "yes" if symspec reads it, or else the reason why not; empty for arrays.
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


@dataclass(frozen=True, kw_only=True)
class FileDescription:
    """The content of a foreign network's file.

    Attributes
    ----------
    format : str
        Name of the format, for people.
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
    """List the layers or arrays of a foreign network; no weights are read and nothing is run.

    Parameters
    ----------
    path : str or path
        A file of a format that `import_network` reads.

    Returns
    -------
    FileDescription
        Each layer (node) of a whole model of Keras (ONNX), with whether symspec reads it; each
        array of other files.

    Raises
    ------
    FileNotFoundError
        There is nothing at `path`.
    FileFormatError
        The file is damaged, or of another format.
    """
    path = Path(path)
    kind = find_kind(path)
    if kind in ("keras", "keras_hdf5"):
        return _describe_keras(path, kind)
    if kind == "onnx":
        return _describe_onnx(path)
    advice = _WITH_LAYERS
    if kind == "payne":
        shapes = list_payne_shapes(path)
        advice = "symspec.read_network(path, activation='leaky_relu' or 'sigmoid')"
    else:
        shapes = {array.name: array.shape for array in _list_torch(path, kind)}
    return FileDescription(format=_FORMATS[kind], rows=_list_rows(shapes), advice=advice)


def _list_torch(path: Path, kind: str) -> list[FileArray]:
    """List the tensors of a state_dict."""
    with reading(path, f"a file of {_FORMATS[kind]}"):
        if kind == "safetensors":
            return list_safetensors(path)
        with zipfile.ZipFile(path) as archive:
            return list_tensors(path, archive)


def _list_rows(shapes: Mapping[str, Shape]) -> tuple[FileRow, ...]:
    """Rows of arrays, given their shapes by name."""
    return tuple(
        FileRow(name=name, kind="array", shapes=(shape,)) for name, shape in shapes.items()
    )


def _describe_onnx(path: Path) -> FileDescription:
    rows = tuple(
        FileRow(name=name, kind=op, shapes=shapes, out=out, verdict=reason or READ)
        for name, op, shapes, out, reason in list_nodes(path)
    )
    return FileDescription(format=_FORMATS["onnx"], rows=rows, advice=_advise(rows))


def _describe_keras(path: Path, kind: str) -> FileDescription:
    with (open_keras_zip if kind == "keras" else open_keras_hdf5)(path) as file:
        if file.description is None:
            weights = list_weights(path, file.weights)
            shapes = {array.name: array.shape for own in weights.values() for array in own}
            return FileDescription(format=_WEIGHTS, rows=_list_rows(shapes), advice=_WITH_LAYERS)
        model = read_model(path, file.description)
        rows = _describe_model(model, file.list_arrays(model))
    return FileDescription(format=_FORMATS[kind], rows=rows, advice=_advise(rows))


def _advise(rows: Sequence[FileRow]) -> str:
    reads_all = all(row.verdict == READ for row in rows)
    return "symspec.read_network(path)" if reads_all else _WITH_LAYERS


def _describe_model(model: KerasLayer, arrays: Arrays) -> tuple[FileRow, ...]:
    graph = read_graph(model)
    assembly = begin_assembly(model, arrays)
    numbers = {call: i for i, call in enumerate(graph.inputs)}
    places: dict[Call, int | None] = {}
    rows = []
    for call in order_calls(model, graph):
        verdict = READ
        if call in numbers:
            places[call] = assembly.take_input(numbers[call])
        else:
            sources = [places[source] for source in graph.sources[call]]
            places[call], verdict = _try_layer(assembly, graph.layers[call[0]], sources)
        place = places[call]
        if (layer := graph.layers.get(call[0])) is not None:
            rows.append(
                FileRow(
                    name=layer.place,
                    kind=layer.class_name,
                    shapes=_list_shapes(layer, arrays),
                    out=None if place is None else assembly.shapes[place],
                    verdict=verdict,
                )
            )
    return tuple(rows)


def _list_shapes(layer: KerasLayer, arrays: Arrays) -> tuple[Shape, ...]:
    inside = [layer.place]
    if layer.is_model:
        inside = [name for name in arrays if name.startswith(f"{layer.place}/")]
    return tuple(array.shape for name in inside for array in arrays.get(name, ()))


def _try_layer(
    assembly: Assembly, layer: KerasLayer, sources: Sequence[int | None]
) -> tuple[int | None, str]:
    """Place of a layer's output, None if not known, and the verdict."""
    try:
        check_class(layer)
        known = [source for source in sources if source is not None]
        if len(known) < len(sources):
            return None, BEHIND
        return assembly.add_layer(layer, known), READ
    except FileFormatError as error:
        return None, str(error).removeprefix(layer.introduction).removeprefix(f"{layer.path}: ")
