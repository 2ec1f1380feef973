"""ONNX graphs as plain Python: nodes with their options, constants, inputs and outputs."""

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
from symspec.files.importers.onnx.protobuf import FLOATS, Message, read_tensor
from symspec.files.matching import BUILD, MOST_AXES
from symspec.networks.layers import Shape

_MOST_NODES = 5_000
_MOST_NAMES = 1024  # of inputs or outputs of a graph, or of one node
_LONGEST_NAME = 200  # in errors
_OLDEST_OPSET = 9
_OWN_DOMAINS = ("", "ai.onnx")
# by type of an onnx.AttributeProto: the field of its value; others are graphs, sparse or types
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
        Name of the operation, "Gemm", after its domain if that is not ONNX's own.
    name : str
    inputs, outputs : tuple of str
        Names of arrays; empty where an optional one is omitted.
    attributes : dict
        Its options: numbers, lists of them, strings or arrays; None if of a type that symspec does
        not read, and an error, raised by `get`, if an array cannot be read.
    asked : set of str
        The options that were asked for. Others might change the operation, and are refused.
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
        """Beginning of an error about this node."""
        return f"{self.path}: node {self.name!r} ({self.op}) "

    def refusal(self, what: str, advice: str = BUILD) -> FileFormatError:
        """Make an error about this node."""
        return FileFormatError(f"{self.introduction}{what[:500].rstrip('.')}: {advice}.")

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn errors of symspec's layers into errors about this node."""
        try:
            yield
        except (DataError, OptionError, ShapeError) as error:
            raise self.refusal(f"cannot be built, as {error}") from error

    def get(self, key: str, default: Any = None) -> Any:
        """Option as it is written."""
        self.asked.add(key)
        if key not in self.attributes:
            return default
        value = self.attributes[key]
        if isinstance(value, FileFormatError):
            raise value
        if value is None:
            raise self.refusal(f"has {key} in a form that symspec does not read")
        return value

    def number(self, key: str, default: float) -> float:
        """Option that is a number, in the float32 of the format."""
        value = self.get(key, float(np.float32(default)))
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise self.refusal(f"should have a number as {key}, got {value!r}")
        return float(value)

    def count(self, key: str, default: int | None = None) -> int:
        """Option that is a whole number; it is required if there is no default."""
        value = self.get(key, default)
        if not isinstance(value, int):
            raise self.refusal(f"should have a whole number as {key}, got {value!r}")
        return value

    def counts(self, key: str, default: Sequence[int]) -> list[int]:
        """Option that is a list of whole numbers, as many as in the default."""
        value = list(self.get(key, default) or default)
        if len(value) != len(default) or not all(isinstance(n, int) for n in value):
            raise self.refusal(
                f"should have {len(default)} whole numbers as {key}, got {str(value)[:100]}"
            )
        return value

    def word(self, key: str, default: str) -> str:
        """Option that is a word."""
        value = self.get(key, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def ignore(self, *keys: str) -> None:
        """Accept options that make no difference."""
        self.asked.update(keys)

    def check_asked(self) -> None:
        """Refuse options that were not asked for."""
        if unknown := sorted(set(self.attributes) - self.asked):
            raise self.refusal(f"has {', '.join(unknown)}, of which symspec knows nothing")


@dataclass(frozen=True, kw_only=True)
class OnnxGraph:
    """The graph of a file.

    Attributes
    ----------
    path : path
    nodes : list of OnnxNode
        Each follows those whose outputs it takes.
    constants : dict of numpy.ndarray
        By name.
    unreadable : dict of FileFormatError
        The errors of constants that cannot be read, by name, to be raised where one is needed.
    inputs, outputs : dict of tuple
        Shape of one star's array by name. Outputs need not declare any: then it is None.
    n_stars : set of int
        Numbers of stars that the inputs declare, if any.
    """

    path: Path
    nodes: list[OnnxNode]
    constants: dict[str, np.ndarray]
    unreadable: dict[str, FileFormatError]
    inputs: dict[str, Shape]
    outputs: dict[str, Shape | None]
    n_stars: set[int]

    def count_uses(self) -> Counter[str]:
        """Count the nodes and outputs that take each array."""
        return Counter([name for node in self.nodes for name in node.inputs] + list(self.outputs))


def read_graph(path: Path, model: Message) -> OnnxGraph:
    """Read the graph of an `onnx.ModelProto`.

    Raises
    ------
    FileFormatError
        It is of an old version, redefines ONNX's own operations, has too many nodes, or open
        shapes.
    """
    graph = model.graph
    _check_operations(path, model)
    _check_names(path, graph)
    tensors = {tensor.name: _try_tensor(path, tensor) for tensor in graph.initializer}
    for sparse in graph.sparse_initializer:
        tensors[sparse.values.name] = FileFormatError(
            f"{path}: {sparse.values.name!r} is sparse: export it dense."
        )
    inputs = [value for value in graph.input if value.name not in tensors]
    n_stars = _find_n_stars(path, inputs)
    return OnnxGraph(
        path=path,
        nodes=[_read_node(path, i, node) for i, node in enumerate(graph.node)],
        constants={name: a for name, a in tensors.items() if isinstance(a, np.ndarray)},
        unreadable={name: a for name, a in tensors.items() if isinstance(a, FileFormatError)},
        inputs={value.name: _check_input(path, value) for value in inputs},
        outputs={value.name: _find_known(_read_lengths(value)) for value in graph.output},
        n_stars=n_stars,
    )


def _check_operations(path: Path, model: Message) -> None:
    """Refuse old versions, redefined operations and too many nodes."""
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
    if len(model.graph.node) > _MOST_NODES:
        raise FileFormatError(
            f"{path} should have {_MOST_NODES:,} nodes at most, got {len(model.graph.node):,}:"
            f" {BUILD}."
        )


def _check_names(path: Path, graph: Message) -> None:
    """Refuse names that are used twice, and too many of them."""
    for values in (graph.input, graph.output, graph.initializer):
        if len({value.name for value in values}) < len(values):
            raise FileFormatError(
                f"{path} should name each array once, got one that is there twice: it is damaged."
            )
    for part in (graph, *graph.node):
        # a graph may list its initializers as inputs
        most = _MOST_NAMES + len(graph.initializer) if part is graph else _MOST_NAMES
        if (n := max(len(part.input), len(part.output))) > most:
            raise FileFormatError(
                f"{path} should have {_MOST_NAMES:,} inputs and outputs at most, got {n:,}:"
                f" {BUILD}."
            )


def _find_n_stars(path: Path, inputs: Sequence[Message]) -> set[int]:
    """Find the number of stars that the inputs declare, which is one number or open in all."""
    declared = {value.name: _read_lengths(value) for value in inputs}
    n_stars = {lengths[0] for lengths in declared.values() if lengths}
    if len(n_stars) > 1:
        got = ", ".join(f"{name[:100]!r} {lengths}" for name, lengths in declared.items())
        raise FileFormatError(
            f"{path} should take as many stars as the first axis of all its inputs, got"
            f" {got[:500]}: those with a number may be constants that were lost when it was"
            " exported; use another version of the exporter."
        )
    return {n for n in n_stars if n is not None}


def _try_tensor(path: Path, tensor: Message) -> np.ndarray | FileFormatError:
    try:
        return read_tensor(path, tensor)
    except FileFormatError as error:
        return error


def _read_node(path: Path, i: int, node: Message) -> OnnxNode:
    is_own = node.domain in _OWN_DOMAINS and not node.overload
    op = node.op_type if is_own else f"{node.domain}.{node.op_type}"
    attributes = {attribute.name: _read_attribute(path, attribute) for attribute in node.attribute}
    name = node.name[:_LONGEST_NAME] or f"number {i}"
    return OnnxNode(
        path=path,
        op=op[:_LONGEST_NAME],
        name=name,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        attributes=attributes,
    )


def _read_attribute(path: Path, attribute: Message) -> Any:
    if attribute.ref_attr_name or attribute.type not in _FIELDS:
        return None
    value = getattr(attribute, _FIELDS[attribute.type])
    if attribute.type == _TENSOR:
        return _try_tensor(path, value)
    if attribute.type == _FLOATS:  # which may be many
        return np.fromiter(value, np.float32, len(value))
    return value if isinstance(value, int | float | bytes) else list(value)


def _read_lengths(value: Message) -> list[int | None] | None:
    """Lengths of an array's axes, None for open ones; None if the shape is not declared."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [axis.dim_value if axis.dim_value > 0 else None for axis in tensor.shape.dim]


def _find_known(lengths: list[int | None] | None) -> Shape | None:
    """Shape of one star's array, if no axis is open."""
    if not lengths:
        return None
    shape = tuple(n for n in lengths[1:] if n is not None)
    return shape if len(shape) == len(lengths) - 1 else None


def _check_input(path: Path, value: Message) -> Shape:
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
