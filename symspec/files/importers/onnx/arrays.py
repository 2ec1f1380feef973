"""Layers of symspec as they are found in a graph, and the list that they become.

Shapes and the order of axes are the graph's own, without the axis of stars; numbers lie in C order,
so that what only changes a shape needs no layer until another one asks for that shape.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from symspec.files.matching import UnreadArray, check_floats, list_slots, make_network
from symspec.networks.layers import Layer, Shape
from symspec.networks.network import Network
from symspec.networks.shaping import (
    Add,
    Concatenate,
    Flatten,
    From,
    Identity,
    Permute,
    Reshape,
    Slice,
)

Step = tuple[
    str, np.ndarray
]  # "add", "mul" or "div" and by what, with as many axes as what it acts on


@dataclass(eq=False)
class Output:
    """What a layer makes of the outputs of others.

    Attributes
    ----------
    layer : Layer or type
        `Add` or `Concatenate` themselves where they join several: they are made when all layers are
        in a row.
    sources : tuple of Output
    shape : tuple of int
    name : str
        Of the node that asked for it.
    arrays : dict of numpy.ndarray
        Its weights, by the names of the layer's blocks.
    has_weights : bool
        Whether it depends on any.
    views : dict of Output
        The same numbers in other shapes.
    """

    layer: Layer | type[Layer]
    sources: tuple[Output, ...]
    shape: Shape
    name: str = ""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    views: dict[Shape, Output] = field(default_factory=dict)
    has_weights: bool = False

    def __post_init__(self):
        self.has_weights = bool(self.arrays) or any(source.has_weights for source in self.sources)


@dataclass(frozen=True, eq=False)
class Signal:
    """An array of the graph that depends on the spectrum, as far as one star sees it.

    Attributes
    ----------
    output : Output
        Whose numbers it has.
    shape : tuple of int
        As the graph has it.
    steps : tuple of (str, numpy.ndarray)
        What has been done to the numbers since, one after the other, and has no layer yet.
    is_own : bool
        Whether nobody else takes the output, or what steps make of it on the way here, so that
        steps may go into the weights of its layer.
    n_uses : int
        How many take the signal itself.
    """

    output: Output
    shape: Shape
    steps: tuple[Step, ...] = ()
    is_own: bool = False
    n_uses: int = 1

    @property
    def rank(self) -> int:
        """Axes, without that of the stars."""
        return len(self.shape)

    def takes_number(self, array: np.ndarray) -> bool:
        """Whether a constant is one number, and has no more axes than this array, which would get them, too."""
        return array.size == 1 and array.ndim <= self.rank + 1


class LayerGraph:
    """Layers that are put down one by one, and the numbers that they take.

    Parameters
    ----------
    path : str or path
        Used in errors.
    n_inputs : int
        Numbers of one star.

    Attributes
    ----------
    start : Output
        The flat vector of all inputs.
    settled : dict of Output
        What came out of the steps of a signal, where they have their layers.
    """

    def __init__(self, path: str | os.PathLike[str], n_inputs: int):
        self.path = path
        self.n_floats = 0
        self.count(n_inputs)
        self.start = Output(Identity(), (), (n_inputs,))
        self.settled: dict[Signal, Output] = {}

    def count(self, n: int) -> None:
        """Count numbers of a star, or of constants that a layer is to hold.

        Raises
        ------
        FileFormatError
            There are too many.
        """
        self.n_floats += n
        check_floats(self.path, self.n_floats)

    def put(self, source: Output, layer: Layer, name: str = "", **arrays: np.ndarray) -> Output:
        """Let a layer, with its weights if it has any, take an output."""
        shape = tuple(layer.out_shape(source.shape))
        self.count(layer.n_floats(source.shape, shape))
        return Output(layer, (source,), shape, name, arrays)

    def view(self, output: Output, shape: Shape) -> Output:
        """The same numbers in a shape."""
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
        """The two axes exchanged."""
        return (
            output.sources[0] if isinstance(output.layer, Permute) else self.put(output, Permute())
        )

    def slice(self, output: Output, start: int, stop: int) -> Output:
        """Some neighbours along the first axis."""
        return (
            output
            if (start, stop) == (0, output.shape[0])
            else self.put(output, Slice(start, stop))
        )

    def add(self, outputs: Sequence[Output]) -> Output:
        """Sum of outputs of one shape."""
        self.count(math.prod(outputs[0].shape))
        return Output(Add, tuple(outputs), outputs[0].shape)

    def join(self, outputs: Sequence[Output]) -> Output:
        """Outputs that are alike but for the last axis side by side along it."""
        if len(outputs) == 1:
            return outputs[0]
        shape = (*outputs[0].shape[:-1], sum(output.shape[-1] for output in outputs))
        self.count(math.prod(shape))
        return Output(Concatenate, tuple(outputs), shape)

    def finish(self, end: Output) -> tuple[Network, list[UnreadArray]]:
        """Network that ends in an output, and its weights in the order of its layers."""
        layers, origins = _arrange(end)
        net = make_network(layers, self.start.shape[0])
        found = []
        for layer, shape in zip(net.layers, net.shapes, strict=False):
            for slot in list_slots(layer.kind, layer, shape):
                origin = origins[layer]
                key = slot.name.partition("/")[2]
                array = origin.arrays[key] if key in origin.arrays else getattr(layer, key)
                found.append(
                    UnreadArray(f"{origin.name} {key}", array.shape, lambda array=array: array)
                )
        return net, found


def _arrange(end: Output) -> tuple[list[Layer], dict[Layer, Output]]:
    """Layers in a row, branch by branch, each behind what it takes; and whose each is."""
    layers: list[Layer] = []
    places: dict[Output, Layer] = {}
    last: Output | None = None
    waiting = [end]
    while waiting:
        output = waiting[-1]
        missing = [
            source for source in output.sources if source not in places and output not in places
        ]
        waiting += missing[::-1]
        if missing:
            continue
        waiting.pop()
        if output in places:
            continue
        sources = list(output.sources)
        if output.layer is Add:  # in which the order makes no difference
            sources.sort(key=lambda source: source is last)
        if sources and sources[-1] is not last:
            layers.append(From(places[sources[-1]]))
        is_joining = isinstance(output.layer, type)
        layer = (
            output.layer(*(places[source] for source in sources[:-1]))
            if is_joining
            else output.layer
        )
        layers.append(layer)
        places[output], last = layer, output
    return layers, {layer: output for output, layer in places.items()}
