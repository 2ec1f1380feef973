"""An ONNX graph as plain numbers and words: its nodes with their options, its constants, its inputs and outputs."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import DataError, FileFormatError, OptionError, ShapeError
from symspec.files.importers.onnx.protobuf import FLOATS, MOST_AXES, read_tensor
from symspec.files.matching import BUILD
from symspec.networks.layers import Shape

_MOST_NODES = 5_000
_MOST_NAMES = 1024  # of inputs or outputs of a graph, or of one node
_LONGEST_NAME = 200  # in errors
_OLDEST_OPSET = 9
_OWN_DOMAINS = ("", "ai.onnx")
# the field of onnx.AttributeProto that holds a value, by the number of its type; others are graphs,
# sparse or types
_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}
_TENSOR = 4
_FLOATS = 6


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One operation of a graph.

    Attributes
    ----------
    path : str or path
        The file, for errors.
    op : str
        What it does, "Gemm"; with its domain where that is not ONNX's own.
    name : str
    inputs, outputs : tuple of str
        Names of arrays; empty where an optional one is left out.
    attributes : dict
        Its options: numbers, lists of them, words or arrays; None where symspec reads no such
        thing.
    asked : set of str
        The options that were asked for. One that nobody asked for may change what the operation
        does.
    """

    path: str | os.PathLike[str]
    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    asked: set[str] = field(default_factory=set)

    @property
    def introduction(self) -> str:
        """Words that an error about this node begins with."""
        return f"{self.path}: node {self.name!r} ({self.op}) "

    def refusal(self, what: str, advice: str = BUILD) -> FileFormatError:
        """Error about this node, to be raised."""
        return FileFormatError(f"{self.introduction}{what[:500].rstrip('.')}: {advice}.")

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn what symspec's layers refuse into an error about this node."""
        try:
            yield
        except (DataError, OptionError, ShapeError) as error:
            raise self.refusal(f"cannot be built, as {error}") from error

    def get(self, key: str, default: Any = None) -> Any:
        """An option as it is written."""
        self.asked.add(key)
        if key in self.attributes and self.attributes[key] is None:
            raise self.refusal(f"has {key} in a form that symspec does not read")
        return self.attributes.get(key, default)

    def number(self, key: str, default: float) -> float:
        """One number, in float32 as the format has it."""
        value = self.get(key, float(np.float32(default)))
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise self.refusal(f"should have a number as {key}, got {value!r}")
        return float(value)

    def count(self, key: str, default: int | None = None) -> int:
        """One whole number, which has to be there if there is no default."""
        value = self.get(key, default)
        if not isinstance(value, int):
            raise self.refusal(f"should have a whole number as {key}, got {value!r}")
        return value

    def counts(self, key: str, default: Sequence[int]) -> list[int]:
        """Whole numbers, as many as by default."""
        value = list(self.get(key, default) or default)
        if len(value) != len(default) or not all(isinstance(n, int) for n in value):
            raise self.refusal(
                f"should have {len(default)} whole numbers as {key}, got {str(value)[:100]}"
            )
        return value

    def word(self, key: str, default: str) -> str:
        """One word."""
        value = self.get(key, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def ignore(self, *keys: str) -> None:
        """Ask for options that make no difference here."""
        self.asked.update(keys)

    def check_asked(self) -> None:
        """Refuse options that nobody asked for."""
        if unknown := sorted(set(self.attributes) - self.asked):
            raise self.refusal(f"has {', '.join(unknown)}, of which symspec knows nothing")


@dataclass(frozen=True)
class OnnxGraph:
    """What a file says of its network.

    Attributes
    ----------
    path : path
    nodes : list of OnnxNode
        Each stands behind those whose outputs it takes.
    constants : dict of numpy.ndarray or FileFormatError
        By name; an error in place of what cannot be read, to be raised where it is needed.
    inputs, outputs : dict of tuple
        Shape of one star's array by name, None where it is not said. Outputs may not be said at
        all.
    n_stars : set of int
        Numbers of stars that the inputs are said to have, where they are.
    """

    path: Path
    nodes: list[OnnxNode]
    constants: dict[str, np.ndarray | FileFormatError]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape | None]
    n_stars: set[int]

    def count_uses(self) -> Counter[str]:
        """How many take each array, the outputs included."""
        return Counter([name for node in self.nodes for name in node.inputs] + list(self.outputs))


def read_graph(path: Path, model: Any) -> OnnxGraph:
    """Take a graph out of an `onnx.ModelProto`.

    Raises
    ------
    FileFormatError
        It is of an old version, shadows ONNX's own operations, has too many nodes, or open shapes.
    """
    graph = model.graph
    versions = [opset.version for opset in model.opset_import if opset.domain in _OWN_DOMAINS]
    if not versions or max(versions) < _OLDEST_OPSET:
        raise FileFormatError(
            f"{path} should have an opset of {_OLDEST_OPSET} or newer, got"
            f" {max(versions, default='none')}: export it again with opset_version={_OLDEST_OPSET}"
            " or more."
        )
    if any(function.domain in _OWN_DOMAINS for function in model.functions):
        raise FileFormatError(
            f"{path} should keep ONNX's own operations, got functions in their place: {BUILD}."
        )
    if len(graph.node) > _MOST_NODES:
        raise FileFormatError(
            f"{path} should have {_MOST_NODES:,} nodes at most, got {len(graph.node):,}: {BUILD}."
        )
    for values in (graph.input, graph.output, graph.initializer):
        if len({value.name for value in values}) < len(values):
            raise FileFormatError(
                f"{path} should name each array once, got one that is there twice: it is damaged."
            )
    for part in (graph, *graph.node):
        if (n := max(len(part.input), len(part.output))) > _MOST_NAMES + len(graph.initializer) * (
            part is graph
        ):
            raise FileFormatError(
                f"{path} should have {_MOST_NAMES:,} inputs and outputs at most, got {n:,}:"
                f" {BUILD}."
            )
    constants = {tensor.name: _try_tensor(path, tensor) for tensor in graph.initializer}
    for sparse in graph.sparse_initializer:
        constants[sparse.values.name] = FileFormatError(
            f"{path}: {sparse.values.name!r} is sparse: export it dense."
        )
    declared = {
        value.name: _read_lengths(value) for value in graph.input if value.name not in constants
    }
    n_stars = {lengths[0] for lengths in declared.values() if lengths}
    if len(n_stars) > 1:
        got = ", ".join(f"{name[:100]!r} {lengths}" for name, lengths in declared.items())
        raise FileFormatError(
            f"{path} should take as many stars as the first axis of all its inputs, got"
            f" {got[:500]}: those with a number may be constants that were lost when it was"
            " exported; use another version of the exporter."
        )
    return OnnxGraph(
        path=path,
        nodes=[_read_node(path, i, node) for i, node in enumerate(graph.node)],
        constants=constants,
        inputs={
            value.name: _check_input(path, value) for value in graph.input if value.name in declared
        },
        outputs={value.name: _find_known(_read_lengths(value)) for value in graph.output},
        n_stars=n_stars - {None},
    )


def _try_tensor(path: Path, tensor: Any) -> np.ndarray | FileFormatError:
    try:
        return read_tensor(path, tensor)
    except FileFormatError as error:
        return error


def _read_node(path: Path, i: int, node: Any) -> OnnxNode:
    op = (
        node.op_type
        if node.domain in _OWN_DOMAINS and not node.overload
        else f"{node.domain}.{node.op_type}"
    )
    attributes = {attribute.name: _read_attribute(path, attribute) for attribute in node.attribute}
    name = node.name[:_LONGEST_NAME] or f"number {i}"
    return OnnxNode(
        path, op[:_LONGEST_NAME], name, tuple(node.input), tuple(node.output), attributes
    )


def _read_attribute(path: Path, attribute: Any) -> Any:
    if attribute.ref_attr_name or attribute.type not in _FIELDS:
        return None
    value = getattr(attribute, _FIELDS[attribute.type])
    if attribute.type == _TENSOR:
        return _try_tensor(path, value)
    if attribute.type == _FLOATS:  # which may be many
        return np.fromiter(value, np.float32, len(value))
    return value if isinstance(value, int | float | bytes) else list(value)


def _read_lengths(value: Any) -> list[int | None] | None:
    """Lengths of an array's axes, None where they are open; None where nothing is said."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [axis.dim_value if axis.dim_value > 0 else None for axis in tensor.shape.dim]


def _find_known(lengths: list[int | None] | None) -> Shape | None:
    """Shape of one star's array, if all of it is said."""
    return None if not lengths or None in lengths[1:] else tuple(lengths[1:])


def _check_input(path: Path, value: Any) -> Shape:
    kind = value.type.WhichOneof("value")
    lengths = _read_lengths(value)
    if kind != "tensor_type" or value.type.tensor_type.elem_type not in FLOATS:
        what = f"type {value.type.tensor_type.elem_type}" if kind == "tensor_type" else str(kind)
        raise FileFormatError(
            f"{path} should take arrays of floats, got {what} as {value.name[:100]!r}: export it"
            " for float32 spectra."
        )
    shape = _find_known(lengths)
    if not shape or len(shape) > MOST_AXES:
        raise FileFormatError(
            f"{path} should take inputs of shape (star, pixel) with a known number of pixels, got"
            f" {str(lengths)[:100]} as {value.name[:100]!r}: export the model with an example of"
            " that shape, only its first axis open."
        )
    return shape
