"""Layers of symspec as a graph, and the list that they become.

Shapes and the order of axes are those of ONNX's graph, without the axis of stars. Numbers are in C
order, so that an operation that only changes a shape needs no layer until another one asks for that
shape.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from symspec.files.matching import FileArray, check_floats, list_slots, make_network
from symspec.networks.layers import Layer, Shape
from symspec.networks.network import Network
from symspec.networks.shaping import (
    Add,
    Concatenate,
    Flatten,
    From,
    Identity,
    Multiply,
    Permute,
    Reshape,
    Slice,
)

# "add", "mul" or "div", and a constant with as many axes as the array that it acts on
Step = tuple[str, np.ndarray]


@dataclass(eq=False)
class Output:
    """Output of a layer.

    Attributes
    ----------
    layer : Layer or type
        Layers that join several outputs are classes, `Add`, `Multiply` or `Concatenate`: their
        instances are made when all layers are in a row.
    sources : tuple of Output
        Inputs of the layer.
    shape : tuple of int
    name : str
        Name of the node that the layer is made for.
    arrays : dict of numpy.ndarray
        Weights of the layer, by the names of its blocks.
    views : dict of Output
        The same numbers in other shapes.
    has_weights : bool
        Whether it depends on any weights.
    """

    layer: Layer | type[Add] | type[Multiply] | type[Concatenate]
    sources: tuple[Output, ...]
    shape: Shape
    name: str = ""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    views: dict[Shape, Output] = field(default_factory=dict)
    has_weights: bool = False

    def __post_init__(self) -> None:
        self.has_weights = bool(self.arrays) or any(source.has_weights for source in self.sources)


@dataclass(frozen=True, eq=False)
class Signal:
    """An array of the graph that depends on the spectrum, for one star.

    Attributes
    ----------
    output : Output
        The output that the array is computed from.
    shape : tuple of int
        Shape in the graph.
    steps : tuple of (str, numpy.ndarray)
        Sums and products with constants since that output, which have no layer yet.
    is_own : bool
        Whether nothing else takes the output or an intermediate step, so that steps may be folded
        into the weights of its layer.
    n_uses : int
        Number of nodes and outputs that take the signal itself.
    """

    output: Output
    shape: Shape
    steps: tuple[Step, ...] = ()
    is_own: bool = False
    n_uses: int = 1

    @property
    def rank(self) -> int:
        """Number of axes, without that of the stars."""
        return len(self.shape)

    def takes_number(self, array: np.ndarray) -> bool:
        """Whether a constant is one number that does not add axes to this array."""
        return array.size == 1 and array.ndim <= self.rank + 1


class LayerGraph:
    """Layers that are added one by one, and a count of the numbers that they take.

    Parameters
    ----------
    path : str or path
        Used in errors.
    n_inputs : int
        Length of one star's input.

    Attributes
    ----------
    start : Output
        The flat vector of all inputs.
    settled : dict of Output
        Output of the steps of a signal, once they have layers.
    """

    def __init__(self, path: str | os.PathLike[str], n_inputs: int) -> None:
        self.path = path
        self.n_floats = 0
        self.count(n_inputs)
        self.start = Output(Identity(), (), (n_inputs,))
        self.settled: dict[Signal, Output] = {}

    def count(self, n: int) -> None:
        """Count numbers of a star, or of constants that a layer will hold.

        Raises
        ------
        FileFormatError
            There are too many in all.
        """
        self.n_floats += n
        check_floats(self.path, self.n_floats)

    def put(
        self,
        source: Output,
        layer: Layer,
        name: str = "",
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> Output:
        """Add a layer, with its weights, that takes an output."""
        shape = tuple(layer.out_shape(source.shape))
        self.count(layer.n_floats(source.shape, shape))
        return Output(layer, (source,), shape, name, dict(arrays or {}))

    def view(self, output: Output, shape: Shape) -> Output:
        """Give the numbers of an output another shape."""
        if output.shape == shape:
            return output
        if shape not in output.views:
            is_view = isinstance(output.layer, Flatten | Reshape)
            source = output.sources[0] if is_view else output
            flat = len(shape) == 1 and len(source.shape) > 1
            layer = Flatten() if flat else Reshape(shape)
            output.views[shape] = source if source.shape == shape else self.put(source, layer)
        return output.views[shape]

    def swap(self, output: Output) -> Output:
        """Exchange the two axes."""
        if isinstance(output.layer, Permute):
            return output.sources[0]
        return self.put(output, Permute())

    def slice(self, output: Output, start: int, stop: int) -> Output:
        """Take neighbours along the first axis."""
        if (start, stop) == (0, output.shape[0]):
            return output
        return self.put(output, Slice(start, stop))

    def add(self, outputs: Sequence[Output]) -> Output:
        """Add outputs of one shape."""
        self.count(math.prod(outputs[0].shape))
        return Output(Add, tuple(outputs), outputs[0].shape)

    def multiply(self, outputs: Sequence[Output]) -> Output:
        """Multiply outputs of one shape, but for axes of length 1."""
        shape = np.broadcast_shapes(*(output.shape for output in outputs))
        self.count(math.prod(shape))
        return Output(Multiply, tuple(outputs), shape)

    def join(self, outputs: Sequence[Output]) -> Output:
        """Concatenate outputs along the last axis."""
        if len(outputs) == 1:
            return outputs[0]
        shape = (*outputs[0].shape[:-1], sum(output.shape[-1] for output in outputs))
        self.count(math.prod(shape))
        return Output(Concatenate, tuple(outputs), shape)

    def finish(self, end: Output) -> tuple[Network, list[FileArray]]:
        """Build the network that ends in an output; with its weights in the order of layers."""
        layers, origins = _arrange(end)
        net = make_network(layers, self.start.shape[0])
        found = []
        for layer, shape in zip(net.layers, net.shapes, strict=False):
            for slot in list_slots(layer.kind, layer, shape):
                origin = origins[layer]
                key = slot.name.partition("/")[2]
                array = origin.arrays[key] if key in origin.arrays else getattr(layer, key)
                found.append(FileArray.of(f"{origin.name} {key}", array))
        return net, found


def _arrange(end: Output) -> tuple[list[Layer], dict[Layer, Output]]:
    """Put layers in a row, branch by branch, each behind its inputs; with the output of each."""
    layers: list[Layer] = []
    places: dict[Output, Layer] = {}
    last: Output | None = None
    waiting = [end]
    while waiting:
        output = waiting[-1]
        if output in places:
            waiting.pop()
            continue
        missing = [source for source in output.sources if source not in places]
        if missing:
            waiting += missing[::-1]
            continue
        waiting.pop()
        sources = list(output.sources)
        if output.layer in (Add, Multiply):  # which do not depend on the order
            sources.sort(key=lambda source: source is last)
        if sources and sources[-1] is not last:
            layers.append(From(places[sources[-1]]))
        layer = output.layer
        if isinstance(layer, type):
            layer = layer(*(places[source] for source in sources[:-1]))
        layers.append(layer)
        places[output] = layer
        last = output
    return layers, {layer: output for output, layer in places.items()}
