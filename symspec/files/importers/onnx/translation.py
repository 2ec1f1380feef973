"""The arrays of an ONNX graph while it is read: constants, signals of a star, and errors where neither is known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from symspec.errors import FileFormatError
from symspec.files.importers.onnx.arrays import LayerGraph, Output, Signal
from symspec.files.importers.onnx.description import OnnxGraph, OnnxNode
from symspec.files.importers.onnx.scalings import flush
from symspec.files.matching import SMALL
from symspec.networks.layers import Layer, Shape

_MOST_INTEGERS = 1024  # of an option
STARS = -(2**62)  # stands for their number in constants that hold the shape of an array

Value = np.ndarray | Signal | FileFormatError
Builder = Callable[["Translation", OnnxNode], Value | Sequence[Value]]


class Translation:
    """What is known of a graph's arrays.

    What cannot be read is an error in their place, raised where something takes it: exporters write
    activations in several operations, of which symspec knows the whole and not all parts.

    Parameters
    ----------
    graph : OnnxGraph

    Attributes
    ----------
    layers : LayerGraph
    values : dict
        By name: a constant, a Signal, or an error.
    makers : dict of OnnxNode
        Which node makes an array, by name.
    n_stars : set of int
        Numbers that stand for that of the stars, as the file is written for so many.
    """

    def __init__(self, graph: OnnxGraph):
        self.graph = graph
        sizes = {name: math.prod(shape) for name, shape in graph.inputs.items()}
        self.layers = LayerGraph(graph.path, sum(sizes.values()))
        self.uses = graph.count_uses()
        self.makers: dict[str, OnnxNode] = {}
        self.values: dict[str, Value | None] = dict(graph.constants)
        self.n_folded = 0
        self.kernels = set()
        self.n_stars = set(graph.n_stars)
        stop = 0
        for name, shape in graph.inputs.items():
            start = stop
            stop = stop + sizes[name]
            output = self.layers.slice(self.layers.start, start, stop)
            self.values[name] = Signal(output, shape, n_uses=self.uses[name])
        self.values[""] = None

    def run(self, builders: Mapping[str, Builder], first: Sequence[Builder]) -> None:
        """Go through all nodes.

        Parameters
        ----------
        builders : mapping of str to callable
            What to do for each operation.
        first : sequence of callable
            What to try before; they give None where they know nothing of a node.
        """
        for node in self.graph.nodes:
            self.check_order(node)
            if again := [name for name in node.outputs if name in self.values and name]:
                raise node.refusal(f"makes {again[0]!r} a second time", "the file is damaged")
            try:
                values = self._build(node, builders, first)
            except FileFormatError as error:
                values = [error.with_traceback(None)] * len(
                    node.outputs
                )  # which would keep arrays alive
            for i, name in enumerate(node.outputs):
                value = (
                    values[i]
                    if i < len(values)
                    else node.refusal(f"is asked for its output {name!r}")
                )
                if isinstance(value, Signal):
                    value = dataclasses.replace(value, n_uses=self.uses[name])
                if name:
                    self.values[name], self.makers[name] = value, node

    def _build(
        self, node: OnnxNode, builders: Mapping[str, Builder], first: Sequence[Builder]
    ) -> Sequence[Value]:
        with node.refusing():
            for build in first:
                if (value := build(self, node)) is not None:
                    return [value]
            if node.op not in builders:
                raise refuse_operation(node)
            value = builders[node.op](self, node)
        node.check_asked()
        return value if isinstance(value, list) else [value]

    # --- what a node takes

    def check_order(self, node: OnnxNode) -> None:
        """Refuse a node that stands before what it takes, as graphs that run in a circle have some."""
        if unmade := [name for name in node.inputs if name not in self.values]:
            raise node.refusal(
                f"takes {unmade[0]!r}, which nothing before it makes", "the file is damaged"
            )

    def find(self, node: OnnxNode, i: int) -> np.ndarray | Signal | None:
        """The array that a node has as its input of this number; None where it is left out."""
        value = self.values[node.inputs[i]] if i < len(node.inputs) else None
        if isinstance(value, FileFormatError):
            raise value
        return value

    def signal(self, node: OnnxNode, i: int = 0) -> Signal:
        """One that depends on the spectrum."""
        value = self.find(node, i)
        if not isinstance(value, Signal):
            raise node.refusal(
                f"should take what comes from the spectrum as input {i}, got a constant or nothing"
            )
        return value

    def constant(self, node: OnnxNode, i: int, default: Any = None) -> Any:
        """One that does not, or a default where it is left out."""
        value = self.find(node, i)
        if isinstance(value, Signal):
            raise node.refusal(
                f"should have a constant as input {i}, got what depends on the spectrum"
            )
        return default if value is None else value

    def number(self, node: OnnxNode, i: int, signal: Signal) -> float | None:
        """Constant that is one number beside a signal; None where it is left out."""
        array = self.constant(node, i)
        if array is not None and not signal.takes_number(array):
            raise node.refusal(
                f"should have one number as input {i}, got a constant of shape {array.shape}"
            )
        return None if array is None else float(array.item())

    def kernel(self, node: OnnxNode, i: int) -> np.ndarray:
        """Constant that no other layer has as its kernel."""
        array = self.constant(node, i)
        if array is None:
            raise node.refusal("has no kernel", "the file is damaged")
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        if id(root) in self.kernels:
            raise node.refusal(
                f"has the kernel {node.inputs[i]!r} of another layer, and symspec's share no"
                " weights"
            )
        self.kernels.add(id(root))
        return array

    def integers(
        self, node: OnnxNode, i: int, key: str, *, with_stars: bool = False
    ) -> list[int] | None:
        """Whole numbers, which are an input in newer versions of an operation and an option in older ones.

        That of the stars may be among them only where that is said.
        """
        value = self.constant(node, i)
        value = node.get(key) if value is None else value
        if value is None:
            return None
        array = np.asarray(value)
        if array.dtype.kind not in "iu" or array.ndim > 1 or array.size > _MOST_INTEGERS:
            raise node.refusal(
                f"should have whole numbers as {key}, got {array.dtype} of shape {array.shape}"
            )
        if not with_stars:
            check_without_stars(node, array)
        return [int(n) for n in array.ravel()]

    # --- what it makes

    def flush(self, node: OnnxNode, signal: Signal) -> Output:
        """Output of a layer that gives a signal."""
        return flush(self.layers, node, signal)

    def put(self, node: OnnxNode, signal: Signal, layer: Layer) -> Signal:
        """Let a layer without weights, for which shapes make no difference, take a signal."""
        return Signal(self.layers.put(self.flush(node, signal), layer, node.name), signal.shape)

    def put_weights(
        self,
        node: OnnxNode,
        output: Output,
        layer: Layer,
        arrays: Mapping[str, np.ndarray],
        shape: Shape,
    ) -> Signal:
        """Let a layer with weights take an output; gives a signal of a shape."""
        want = layer.param_shapes(output.shape)
        got = {key: array.shape for key, array in arrays.items()}
        if want != got:
            raise node.refusal(
                f"should have arrays of shapes {want}, got {got}", "the file is damaged"
            )
        return Signal(self.layers.put(output, layer, node.name, **arrays), shape, is_own=True)

    def charge(self, node: OnnxNode, n_bytes: int) -> None:
        """Count what constants take that are no part of the file's bytes."""
        self.n_folded += n_bytes
        if self.n_folded > SMALL + 4 * self.graph.path.stat().st_size:
            raise node.refusal(
                "makes constants much larger than the file",
                "it is damaged, or made to fill the memory",
            )


def check_without_stars(node: OnnxNode, array: np.ndarray) -> None:
    """Refuse to compute with the number of stars, which is open."""
    if array.dtype.kind == "i" and (array == STARS).any():
        raise node.refusal(
            "computes with the number of stars", "export the model so that its first axis is theirs"
        )


_ADVICE = {
    **dict.fromkeys(
        ("If", "Loop", "Scan"),
        "it holds a graph of its own, which is never run: export the model with its conditions"
        " decided, or give net= with the layers of symspec that it comes to",
    ),
    **dict.fromkeys(
        (
            "QuantizeLinear",
            "DequantizeLinear",
            "QLinearConv",
            "QLinearMatMul",
            "MatMulInteger",
            "ConvInteger",
        ),
        "it is quantized: export the weights as they were trained, in float32",
    ),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "symspec has no recurrent layers"),
}


def refuse_operation(node: OnnxNode) -> FileFormatError:
    """Error about an operation that symspec has no layers for, to be raised."""
    if "." in node.op:
        return node.refusal(
            "is of another domain than ONNX's own, or a function of the file: export without these"
        )
    return node.refusal(
        "is no layer of symspec's", *([_ADVICE[node.op]] if node.op in _ADVICE else [])
    )
