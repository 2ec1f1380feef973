"""Arrays of an ONNX graph while it is read: constants, and signals that depend on the spectrum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from symspec.errors import FileFormatError
from symspec.files.importers.onnx.arrays import LayerGraph, Output, Signal
from symspec.files.importers.onnx.description import OnnxGraph, OnnxNode
from symspec.files.importers.onnx.scalings import flush
from symspec.files.matching import BUILD, SMALL
from symspec.networks.layers import Layer, Shape

_MOST_INTEGERS = 1024  # of an option
STARS = -(2**62)  # stands for the number of stars in constants that hold the shape of an array

Value = np.ndarray | Signal
Builder = Callable[["Translation", OnnxNode], Value | list[Signal]]
Attempt = Callable[["Translation", OnnxNode], Value | None]


class Translation:
    """The known arrays of a graph.

    An array that cannot be read has an error, which is raised only if a node takes the array:
    exporters write activations as several operations, and symspec may know the whole without its
    parts.

    Parameters
    ----------
    graph : OnnxGraph

    Attributes
    ----------
    layers : LayerGraph
    values : dict of numpy.ndarray or Signal
        Constants and signals, by name.
    errors : dict of FileFormatError
        Reasons why other arrays cannot be read, by name.
    makers : dict of OnnxNode
        The node that makes an array, by name.
    n_stars : set of int
        Numbers that stand for the number of stars, those of the exporter's example.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        self.graph = graph
        sizes = {name: math.prod(shape) for name, shape in graph.inputs.items()}
        self.layers = LayerGraph(graph.path, sum(sizes.values()))
        self.uses = graph.count_uses()
        self.makers: dict[str, OnnxNode] = {}
        self.values: dict[str, Value] = dict(graph.constants)
        self.errors = dict(graph.unreadable)
        self.n_folded = 0
        self.kernels: set[int] = set()
        self.n_stars = set(graph.n_stars)
        stop = 0
        for name, shape in graph.inputs.items():
            start = stop
            stop = stop + sizes[name]
            output = self.layers.slice(self.layers.start, start, stop)
            self.values[name] = Signal(output, shape, n_uses=self.uses[name])

    def run(self, builders: Mapping[str, Builder], attempts: Sequence[Attempt]) -> None:
        """Read all nodes.

        Parameters
        ----------
        builders : mapping of str to callable
            Function for each operation.
        attempts : sequence of callable
            Functions to try first; they return None for nodes that they cannot read.
        """
        for node in self.graph.nodes:
            self.check_order(node)
            if again := [name for name in node.outputs if name and self.is_known(name)]:
                raise node.refusal(f"makes {again[0]!r} a second time", "the file is damaged")
            made: Sequence[Value | FileFormatError]
            try:
                made = self._build(node, builders, attempts)
            except FileFormatError as error:
                # its traceback would keep arrays alive
                made = [error.with_traceback(None)] * len(node.outputs)
            for i, name in enumerate(node.outputs):
                if name and i < len(made):
                    self._keep(node, name, made[i])
                elif name:
                    self._keep(node, name, node.refusal(f"is asked for its output {name!r}"))

    def _build(
        self, node: OnnxNode, builders: Mapping[str, Builder], attempts: Sequence[Attempt]
    ) -> Sequence[Value]:
        with node.refusing():
            for attempt in attempts:
                if (value := attempt(self, node)) is not None:
                    return [value]
            if node.op not in builders:
                raise refuse_operation(node)
            made = builders[node.op](self, node)
        node.check_asked()
        return made if isinstance(made, list) else [made]

    def _keep(self, node: OnnxNode, name: str, made: Value | FileFormatError) -> None:
        """Keep what a node makes under a name."""
        self.makers[name] = node
        if isinstance(made, FileFormatError):
            self.errors[name] = made
        elif isinstance(made, Signal):
            self.values[name] = dataclasses.replace(made, n_uses=self.uses[name])
        else:
            self.values[name] = made

    # --- inputs of nodes

    def is_known(self, name: str) -> bool:
        """Whether an array is made, or cannot be read."""
        return name in self.values or name in self.errors

    def check_order(self, node: OnnxNode) -> None:
        """Refuse a node that comes before its inputs, as it does in a graph with a circle."""
        if unmade := [name for name in node.inputs if name and not self.is_known(name)]:
            raise node.refusal(
                f"takes {unmade[0]!r}, which nothing before it makes", "the file is damaged"
            )

    def find(self, node: OnnxNode, i: int) -> Value | None:
        """Input of a node by its number; None if it is omitted."""
        name = node.inputs[i] if i < len(node.inputs) else ""
        if not name:
            return None
        if name in self.errors:
            raise self.errors[name]
        return self.values[name]

    def signal(self, node: OnnxNode, i: int = 0) -> Signal:
        """Input that depends on the spectrum."""
        value = self.find(node, i)
        if not isinstance(value, Signal):
            raise node.refusal(
                f"should take what comes from the spectrum as input {i}, got a constant or nothing"
            )
        return value

    def optional_constant(self, node: OnnxNode, i: int) -> np.ndarray | None:
        """Input that does not depend on the spectrum; None if it is omitted."""
        value = self.find(node, i)
        if isinstance(value, Signal):
            raise node.refusal(
                f"should have a constant as input {i}, got what depends on the spectrum"
            )
        return value

    def constant(self, node: OnnxNode, i: int) -> np.ndarray:
        """Input that does not depend on the spectrum."""
        array = self.optional_constant(node, i)
        if array is None:
            raise node.refusal(f"has no input {i}", "the file is damaged")
        return array

    def number(self, node: OnnxNode, i: int, signal: Signal) -> float | None:
        """Constant that is one number beside a signal; None if it is omitted."""
        array = self.optional_constant(node, i)
        if array is not None and not signal.takes_number(array):
            raise node.refusal(
                f"should have one number as input {i}, got a constant of shape {array.shape}"
            )
        return None if array is None else float(array.item())

    def kernel(self, node: OnnxNode, i: int) -> np.ndarray:
        """Constant that is the kernel of no other layer."""
        array = self.constant(node, i)
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

    def integers(self, node: OnnxNode, i: int, key: str, *, with_stars: bool = False) -> list[int]:
        """Whole numbers, an input in new versions of an operation and an option in old ones.

        The number of stars may only be among them `with_stars`.
        """
        integers = self.optional_integers(node, i, key, with_stars=with_stars)
        if integers is None:
            raise node.refusal(f"has no {key}", "the file is damaged")
        return integers

    def optional_integers(
        self, node: OnnxNode, i: int, key: str, *, with_stars: bool = False
    ) -> list[int] | None:
        """Whole numbers, as in `integers`; None if they are omitted."""
        value = self.optional_constant(node, i)
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

    # --- outputs of nodes

    def flush(self, node: OnnxNode, signal: Signal) -> Output:
        """Output of a signal, with layers for its steps."""
        return flush(self.layers, node, signal)

    def put(self, node: OnnxNode, signal: Signal, layer: Layer) -> Signal:
        """Add an elementwise layer without weights that takes a signal."""
        return Signal(self.layers.put(self.flush(node, signal), layer, node.name), signal.shape)

    def put_weights(
        self,
        node: OnnxNode,
        output: Output,
        layer: Layer,
        arrays: Mapping[str, np.ndarray],
        shape: Shape,
    ) -> Signal:
        """Add a layer with weights that takes an output; return a signal of a shape."""
        want = layer.param_shapes(output.shape)
        got = {key: array.shape for key, array in arrays.items()}
        if want != got:
            raise node.refusal(
                f"should have arrays of shapes {want}, got {got}", "the file is damaged"
            )
        return Signal(self.layers.put(output, layer, node.name, arrays), shape, is_own=True)

    def charge(self, node: OnnxNode, n_bytes: int) -> None:
        """Count the memory of constants that are computed, not read."""
        self.n_folded += n_bytes
        if self.n_folded > SMALL + 4 * self.graph.path.stat().st_size:
            raise node.refusal(
                "makes constants much larger than the file",
                "it is damaged, or made to fill the memory",
            )


def check_without_stars(node: OnnxNode, array: np.ndarray) -> None:
    """Refuse arithmetic with the number of stars, which is open."""
    if array.dtype.kind == "i" and (array == STARS).any():
        raise node.refusal(
            "computes with the number of stars", "export the model so that its first axis is theirs"
        )


_ADVICE = {
    **dict.fromkeys(
        ("If", "Loop", "Scan"),
        "it holds a graph of its own, which is never run: export the model with its conditions"
        " decided, or give net= with the layers of symspec that result",
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
    """Make the error about an operation that symspec lacks."""
    if "." in node.op:
        return node.refusal(
            "is of another domain than ONNX's own, or a function of the file: export without these"
        )
    return node.refusal("is no layer of symspec's", _ADVICE.get(node.op, BUILD))
