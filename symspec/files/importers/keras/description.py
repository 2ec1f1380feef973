"""Keras's description of a model (JSON): its layers and their inputs; nothing in it is run."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from symspec.errors import DataError, FileFormatError, OptionError, ShapeError
from symspec.files.matching import BUILD, FileArray
from symspec.networks.layers import Shape

MODELS = ("Sequential", "Functional", "Model")
_SHAPES = ("batch_shape", "batch_input_shape", "build_input_shape")

Call = tuple[Any, int]  # a layer's key, and which of its calls


@dataclass(frozen=True)
class KerasLayer:
    """One layer as Keras describes it, which may be a model itself.

    Attributes
    ----------
    path : str or path
        The file, for errors.
    class_name : str
        Keras's class; "ops.Add" for a function of keras.ops, "module>Class" for one that is not
        Keras's own.
    place : str
        Its name behind those of the models that it is in: "inner/dense_1".
    config : mapping
        Its options.
    inbound : object
        The origin of its inputs, as written.
    """

    path: str | os.PathLike[str]
    class_name: str
    place: str
    config: Mapping[str, Any]
    inbound: Any = None

    @property
    def name(self) -> str:
        """The last part of its place."""
        return self.place.rpartition("/")[2]

    @property
    def is_model(self) -> bool:
        """Whether it has layers of its own."""
        return self.class_name in MODELS

    def refusal(self, what: str, advice: str = BUILD) -> FileFormatError:
        """Make an error about this layer."""
        return FileFormatError(f"{self.introduction}{what[:500].rstrip('.')}: {advice}.")

    @property
    def introduction(self) -> str:
        """Beginning of an error about this layer."""
        return f"{self.path}: layer {self.place!r} ({self.class_name}) "

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn errors of symspec's layers into errors about this layer."""
        try:
            yield
        except (DataError, OptionError, ShapeError) as error:
            raise self.refusal(f"cannot be built, as {error}") from error

    def number(self, key: str, default: float | None = None) -> float:
        """Number among the options."""
        value = self.config.get(key, default)
        if isinstance(value, Mapping):  # an old form of NumPy's numbers
            value = value.get("value", value)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise self.refusal(f"should have a number as {key}, got {value!r}")
        return float(value)

    def count(self, key: str, default: Any = None) -> Any:
        """Whole number among the options, perhaps a list of one; symspec's layers check it."""
        value = self.config.get(key, default)
        return value[0] if isinstance(value, list) and len(value) == 1 else value

    def flag(self, key: str) -> bool:
        """Whether an option is on, which is the default."""
        return bool(self.config.get(key, True))

    def axes(self, key: str, rank: int, default: Any = -1) -> list[int]:
        """Axes of one star's array, ascending; Keras counts the axis of the stars, too."""
        value = self.config.get(key, default)
        listed = [] if value is None else value if isinstance(value, list) else [value]
        try:
            axes = sorted({_find_axis(axis, rank) for axis in listed})
        except TypeError:
            axes = [-1]
        if any(not 0 <= axis < rank for axis in axes):
            raise self.refusal(
                f"has {key} {value!r}, where a star's array has {rank} axes", "save the model again"
            )
        return axes


def _find_axis(axis: int, rank: int) -> int:
    """Axis of one star's array; -1 for that of the stars."""
    if axis > 0:
        return axis - 1
    return rank + axis if axis < 0 else -1


@dataclass(frozen=True, kw_only=True)
class KerasGraph:
    """The calls of a model's layers.

    Attributes
    ----------
    layers : dict of KerasLayer
        By name, or by number in a Sequential model.
    sources : dict of list
        For each call the calls whose outputs it takes.
    inputs, outputs : list
        Calls.
    """

    layers: dict[Any, KerasLayer]
    sources: dict[Call, list[Call]]
    inputs: list[Call]
    outputs: list[Call]


def read_model(path: str | os.PathLike[str], description: Any) -> KerasLayer:
    """Read a whole model's description as the layer that holds all others.

    Raises
    ------
    FileFormatError
        It is a model of another kind.
    """
    class_name = description.get("class_name") if isinstance(description, Mapping) else None
    if class_name not in MODELS:
        raise FileFormatError(
            f"{path} should be a model of type {', '.join(MODELS)}, got {class_name!r}: a model"
            " written as a class has its layers in code, which is not in the file; give net= with"
            " the layers that it has."
        )
    return KerasLayer(path, class_name, "", _options(description["config"]))


def _options(config: Any) -> Mapping[str, Any]:
    # Sequential models were once written as a list
    return {"layers": config} if isinstance(config, list) else config


def read_layers(model: KerasLayer) -> list[KerasLayer]:
    """List the layers of a model's description, in its order."""
    return [_read_layer(model, entry) for entry in model.config["layers"]]


def _read_layer(model: KerasLayer, entry: Mapping[str, Any]) -> KerasLayer:
    config = _options(entry["config"])
    class_name = str(entry["class_name"])
    module = str(entry.get("module") or "keras")
    registered = str(entry.get("registered_name") or class_name)
    is_keras = module.partition(".")[0] in ("keras", "tf_keras", "tensorflow")
    if not is_keras or registered != class_name:
        class_name = f"{module}>{registered}"
    elif ".ops." in module:
        class_name = f"ops.{class_name}"
    place = f"{model.place}/{config.get('name', entry.get('name'))}".strip("/")
    return KerasLayer(model.path, class_name, place, config, entry.get("inbound_nodes"))


def read_inner(layer: KerasLayer, entry: Mapping[str, Any]) -> KerasLayer:
    """Read a layer that is an option of another one, under the name of that one."""
    return _read_layer(layer, {**entry, "config": {**entry["config"], "name": ""}})


def read_graph(model: KerasLayer) -> KerasGraph:
    """Read which layers each layer takes its inputs from.

    Raises
    ------
    FileFormatError
        A layer has no input, or is called as in training.
    """
    listed = read_layers(model)
    if model.class_name == "Sequential":
        n = len(listed)
        return KerasGraph(
            layers=dict(enumerate(listed)),
            sources={(i, 0): [(i - 1, 0)] for i in range(n)},
            inputs=[(-1, 0)],
            outputs=[(n - 1, 0)],
        )
    layers = {layer.name: layer for layer in listed}
    sources: dict[Call, list[Call]] = {}
    for layer in listed:
        nodes = [] if layer.class_name == "InputLayer" else layer.inbound or []
        if _is_training(nodes):
            raise layer.refusal(
                "is called with training=True, so that its output is random at every call",
                "save the model with the layer called as usual",
            )
        called = [_find_calls(node) for node in nodes] or [[]]
        if layer.is_model and len(called) > 1:
            raise layer.refusal(
                f"is called {len(called)} times, and symspec's layers share no weights"
            )
        for i, calls in enumerate(called):
            sources[layer.name, i] = [_settle(layers, call) for call in calls]
    inputs, outputs = (
        [_settle(layers, call) for call in _find_calls(model.config[key])]
        for key in ("input_layers", "output_layers")
    )
    sources |= {call: [] for call in inputs}
    graph = KerasGraph(layers=layers, sources=sources, inputs=inputs, outputs=outputs)
    _check_calls(model, graph)
    return graph


def _settle(layers: Mapping[str, KerasLayer], call: Call) -> Call:
    """Call as listed: some versions of Keras count one call of a model that they do not list."""
    return (call[0], 0) if call[0] in layers and layers[call[0]].is_model else call


def _check_calls(model: KerasLayer, graph: KerasGraph) -> None:
    inputs = set(graph.inputs)
    for call, sources in graph.sources.items():
        lost = [name for name, i in sources if (name, i) not in graph.sources]
        if lost or (not sources and call not in inputs):
            raise graph.layers[call[0]].refusal(
                f"takes its input from {', '.join(map(str, lost)) or 'nothing'}",
                "the file is damaged",
            )
    has_outputs = graph.outputs and all(call in graph.sources for call in graph.outputs)
    if not graph.inputs or not has_outputs:
        raise FileFormatError(
            f"{model.path} should have inputs and outputs, got {graph.inputs} and {graph.outputs}:"
            " it is damaged."
        )


def order_calls(model: KerasLayer, graph: KerasGraph) -> list[Call]:
    """Order the calls, branch by branch, so that each follows those that it needs.

    Raises
    ------
    FileFormatError
        They run in a circle, or lead to no output.
    """
    ordered: dict[Call, None] = {}
    opened = set()
    waiting = graph.outputs[::-1]
    while waiting:
        call = waiting[-1]
        needed = [source for source in graph.sources.get(call, ()) if source not in ordered]
        if call in ordered or not needed:
            ordered[waiting.pop()] = None
        elif call in opened:
            raise graph.layers[call[0]].refusal(
                "takes its input from its own output", "the file is damaged"
            )
        else:
            opened.add(call)
            waiting += needed[::-1]
    if idle := [str(name) for name, i in graph.sources if (name, i) not in ordered]:
        outputs = ", ".join(str(name) for name, _ in graph.outputs)
        raise FileFormatError(
            f"{model.path} should lead all its layers to its outputs {outputs}, got"
            f" {', '.join(idle[:8])} beside them: save a model that ends at its last layers."
        )
    return list(ordered)


def find_needed(graph: KerasGraph, outputs: Sequence[Call]) -> set[Call]:
    """The calls that lead to some of a model's outputs, these among them."""
    needed: set[Call] = set()
    waiting = list(outputs)
    while waiting:
        call = waiting.pop()
        if call not in needed:
            needed.add(call)
            waiting += graph.sources.get(call, ())
    return needed


def _find_calls(node: Any) -> list[Call]:
    """Calls that a node refers to: [name, 0, 0, ...] of Keras 2, "keras_history" of Keras 3."""
    if isinstance(node, Mapping):
        if "keras_history" in node:
            return _find_calls(node["keras_history"])
        # Keras sorts named inputs
        return [call for key in sorted(node) for call in _find_calls(node[key])]
    if not isinstance(node, list):
        return []
    calls = []
    if len(node) >= 3 and isinstance(node[0], str) and all(isinstance(i, int) for i in node[1:3]):
        name, number, output, *node = node
        if output != 0:
            raise ValueError(f"output {output} of layer {name!r}, which has one")
        calls.append((name, number))
    return calls + [call for value in node for call in _find_calls(value)]


def _is_training(node: Any) -> bool:
    """Whether a call asks for the random output of training."""
    if isinstance(node, Mapping):
        return node.get("training") is True or any(_is_training(value) for value in node.values())
    return isinstance(node, list) and any(_is_training(value) for value in node)


def find_input_shapes(
    model: KerasLayer, graph: KerasGraph, arrays: Mapping[str, Sequence[FileArray]]
) -> list[Shape]:
    """Find the shape of one star's array at each input, at worst from the first kernel's.

    Raises
    ------
    FileFormatError
        A shape is missing or open.
    """
    if model.class_name != "Sequential":
        return [_check_shape(model, _find_shape([graph.layers[name]])) for name, _ in graph.inputs]
    first = [model]
    while first[-1].is_model and (listed := read_layers(first[-1])):
        first.append(listed[0])
    shape = _find_shape([*first[1:], model])
    if shape is None and first[-1].class_name == "Dense" and arrays.get(first[-1].place):
        shape = [None, arrays[first[-1].place][0].shape[0]]
    return [_check_shape(model, shape)]


def _find_shape(layers: Sequence[KerasLayer]) -> Any:
    written = [layer.config.get(key) for layer in layers for key in _SHAPES]
    shape = next((shape for shape in written if shape), None)
    if isinstance(shape, list) and len(shape) == 1 and isinstance(shape[0], list):
        return shape[0]
    return shape


def _check_shape(model: KerasLayer, shape: Any) -> Shape:
    lengths = shape[1:] if isinstance(shape, list) else []
    if not lengths or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in lengths):
        raise FileFormatError(
            f"{model.path} should take inputs of shape (star, pixel) or (star, pixel, channel) with"
            f" known lengths, got {shape}: save the model with its number of pixels in Input, or"
            f" {BUILD}."
        )
    return tuple(lengths)
