"""Models of Keras, with branches and joins, as one list of symspec's layers.

The list holds one branch after the other: `From` returns to the layer where a branch begins, `Add`
and `Concatenate` join it with those before it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import numpy as np

from symspec.files.importers.keras.description import (
    Call,
    KerasLayer,
    find_input_shapes,
    find_needed,
    order_calls,
    read_graph,
)
from symspec.files.importers.keras.layers import (
    BUILDERS,
    arrange_arrays,
    build_layers,
    refuse_class,
)
from symspec.files.matching import (
    HELD,
    FileArray,
    Heads,
    Slot,
    check_floats,
    fill_network,
    list_slots,
    make_network,
    naming_outputs,
)
from symspec.networks.layers import Layer, Shape
from symspec.networks.network import Network
from symspec.networks.shaping import (
    Add,
    Concatenate,
    Flatten,
    From,
    Identity,
    Multiply,
    Reshape,
    Slice,
)

_NOTHING = np.zeros(0)

Arrays = Mapping[str, Sequence[FileArray]]


def build_network(
    path: str | os.PathLike[str], model: KerasLayer, arrays: Arrays, heads: Heads | None = None
) -> tuple[Network, np.ndarray]:
    """Build the network that a model describes, with its weights.

    Several inputs, say a spectrum and photometry, become one flat vector in the model's order;
    arrays (position, channel) are flattened, the channel varying fastest. Outputs alike.

    Parameters
    ----------
    path : str or path
        Used in errors.
    model : KerasLayer
    arrays : mapping of str to sequence of FileArray
        Arrays of each layer, by its place.
    heads : Heads, optional
        The outputs that are read, by the names of their layers; all by default.

    Returns
    -------
    Network
    theta : numpy.ndarray, shape (param,)

    Raises
    ------
    FileFormatError
        symspec lacks a layer, or the arrays have other shapes.
    """
    assembly = begin_assembly(model, arrays)
    names = [str(name) for name, _ in read_graph(model).outputs]
    chosen = list(range(len(names)))
    n_heads = len(names)
    if heads is not None:
        chosen, n_heads = heads.find(path, names)
    with naming_outputs(names):
        net = assembly.finish(assembly.add_model(model, assembly.take_input, chosen), n_heads)
    return fill_network(path, net, assembly.found)


def begin_assembly(model: KerasLayer, arrays: Arrays) -> Assembly:
    """Begin an assembly with a model's inputs."""
    shapes = find_input_shapes(model, read_graph(model), arrays)
    return Assembly(model, arrays, shapes)


def check_class(layer: KerasLayer) -> None:
    """Refuse a class of layers that symspec lacks.

    Raises
    ------
    FileFormatError
        The class is unknown; the message gives advice.
    """
    if not layer.is_model and layer.class_name not in BUILDERS and layer.class_name not in JOINING:
        raise refuse_class(layer)


class Assembly:
    """Layers of symspec in a row, with the shape of the output of each.

    Parameters
    ----------
    model : KerasLayer
    arrays : mapping of str to sequence of FileArray
    input_shapes : sequence of tuple of int

    Attributes
    ----------
    layers : list of Layer
        The first is the input. A layer's index in this list is its place.
    shapes : list of tuple of int
        Shape of one star's output of each.
    found : list of FileArray
        The arrays used, in the order of the layers.
    """

    def __init__(self, model: KerasLayer, arrays: Arrays, input_shapes: Sequence[Shape]):
        self.model = model
        self.arrays = arrays
        self.input_shapes = input_shapes
        self.ends = list(accumulate(math.prod(shape) for shape in input_shapes))
        self.n_floats = self.ends[-1]
        self.layers: list[Layer] = [Identity()]
        self.shapes: list[Shape] = [(self.ends[-1],)]
        self.found: list[FileArray] = []
        self.places = {id(self.layers[0]): 0}
        self.with_arrays: set[str] = set()

    def put(self, layer: Layer) -> int:
        """Append a layer that takes the output of the last one; return its place."""
        shape = self.shapes[-1]
        others = [self.shapes[self.places[id(other)]] for other in layer.others]
        out = layer.out_shape(*others, shape)
        self.n_floats += layer.n_floats(shape, out) + HELD * getattr(layer, "mean", _NOTHING).size
        check_floats(self.model.path, self.n_floats)
        self.layers.append(layer)
        self.shapes.append(tuple(out))
        self.places[id(layer)] = len(self.layers) - 1
        return len(self.layers) - 1

    def go_to(self, place: int) -> None:
        """Make the output at a place the last one."""
        if place != len(self.layers) - 1:
            self.put(From(self.layers[place]))

    def put_after(self, place: int, layer: Layer) -> int:
        """Append a layer that takes the output at a place; return its own."""
        self.go_to(place)
        return self.put(layer)

    def take_input(self, i: int) -> int:
        """Slice one of the model's inputs out of the flat vector; return its place."""
        shape = self.input_shapes[i]
        stop = self.ends[i]
        place = 0
        if len(self.input_shapes) > 1:
            place = self.put_after(0, Slice(stop - math.prod(shape), stop))
        return self.put_after(place, Reshape(shape)) if len(shape) > 1 else place

    def add_model(
        self,
        model: KerasLayer,
        start: Callable[[int], int],
        chosen: Sequence[int] | None = None,
    ) -> list[int]:
        """Append the layers of a model; return the places of its outputs.

        Parameters
        ----------
        model : KerasLayer
        start : callable
            Returns the place of an input, given its number.
        chosen : sequence of int, optional
            Numbers of the outputs; layers that lead to none of these are left out.
        """
        graph = read_graph(model)
        outputs = graph.outputs if chosen is None else [graph.outputs[i] for i in chosen]
        numbers = {call: i for i, call in enumerate(graph.inputs)}
        needed = find_needed(graph, outputs)
        places: dict[Call, int] = {}
        for call in order_calls(model, graph):
            if call not in needed:
                continue
            if call in numbers:
                places[call] = start(numbers[call])
            else:
                places[call] = self.add_layer(
                    graph.layers[call[0]], [places[c] for c in graph.sources[call]]
                )
        return [places[call] for call in outputs]

    def add_layer(self, layer: KerasLayer, places: Sequence[int]) -> int:
        """Append the equivalent of a layer of Keras that takes the outputs at these places.

        Raises
        ------
        FileFormatError
            symspec lacks such a layer.
        """
        check_class(layer)
        if layer.is_model:
            return self._add_inner(layer, places)
        if layer.class_name in JOINING:
            with layer.refusing():
                return JOINING[layer.class_name](self, layer, places)
        if len(places) != 1:
            raise layer.refusal(f"takes {len(places)} inputs", "the file is damaged")
        arrays = arrange_arrays(layer, self.arrays.get(layer.place, ()))
        self.go_to(places[0])
        built = build_layers(layer, self.shapes[-1], arrays)
        with layer.refusing():
            if self._check_arrays(layer, built, arrays):
                self.found += arrays
            for one in built:
                self.put(one)
        return len(self.layers) - 1

    def _check_arrays(
        self, layer: KerasLayer, built: Sequence[Layer], arrays: Sequence[FileArray]
    ) -> bool:
        """Check a layer's arrays against the layers built for it; tell if any are to be read."""
        slots: list[Slot] = []
        shape = self.shapes[-1]
        for one in built:
            slots += list_slots(one.kind, one, shape)
            shape = one.out_shape(shape)
        if not slots:
            return False
        if (want := [slot.shape for slot in slots]) != [array.shape for array in arrays]:
            found = ", ".join(f"{a.name} {a.shape}" for a in arrays) or "nothing"
            raise layer.refusal(
                f"should have arrays of shapes {want}, got {found}",
                "the file is damaged or quantized",
            )
        if layer.place in self.with_arrays:
            raise layer.refusal("is called twice, and symspec's layers share no weights")
        self.with_arrays.add(layer.place)
        return True

    def _add_inner(self, model: KerasLayer, places: Sequence[int]) -> int:
        n_inputs = len(read_graph(model).inputs)
        if len(places) != n_inputs:
            raise model.refusal(
                f"should have {n_inputs} inputs, got {len(places)}", "the file is damaged"
            )
        outputs = self.add_model(model, places.__getitem__)
        if len(outputs) != 1:
            raise model.refusal(f"has {len(outputs)} outputs inside another model")
        return outputs[0]

    def join(self, places: Sequence[int]) -> int:
        """Concatenate the outputs at these places along the last axis; return the place."""
        *others, last = places
        return self.put_after(last, Concatenate(*(self.layers[place] for place in others)))

    def flatten(self, place: int) -> int:
        """Flatten the output at a place; return the place of the vector."""
        return self.put_after(place, Flatten()) if len(self.shapes[place]) > 1 else place

    def finish(self, outputs: Sequence[int], n_heads: int) -> Network:
        """Build the network that ends in these outputs, flattened and joined.

        The first `n_heads` of them are the labels.
        """
        flat = [self.flatten(place) for place in outputs]
        n_labels = sum(self.shapes[place][0] for place in flat[:n_heads])
        self.go_to(flat[0] if len(flat) == 1 else self.join(flat))
        return make_network(self.layers, self.ends[-1]).with_n_labels(n_labels)


# --- layers that join several


def _add(assembly: Assembly, layer: KerasLayer, places: Sequence[int]) -> int:
    if len(places) < 2:
        raise layer.refusal("adds a constant", "use the bias of the layer before it")
    *others, last = sorted(places)  # a sum does not depend on the order
    return assembly.put_after(last, Add(*(assembly.layers[place] for place in others)))


def _multiply(assembly: Assembly, layer: KerasLayer, places: Sequence[int]) -> int:
    if len(places) < 2:
        raise layer.refusal("multiplies by a constant", "use Rescaling")
    *others, last = sorted(places)  # a product does not depend on the order
    return assembly.put_after(last, Multiply(*(assembly.layers[place] for place in others)))


def _join_by_operator(assembly: Assembly, layer: KerasLayer, places: Sequence[int]) -> int:
    """Join as Keras 2 writes a + b and a * b."""
    function = layer.config.get("function")
    if function in ("__operators__.add", "math.add"):
        return _add(assembly, layer, places)
    if function == "math.multiply":
        return _multiply(assembly, layer, places)
    raise layer.refusal(f"calls {function!r}")


def _concatenate(assembly: Assembly, layer: KerasLayer, places: Sequence[int]) -> int:
    shapes = [assembly.shapes[place] for place in places]
    rank = len(shapes[0])
    axis = layer.axes("axis", rank)
    if axis == [rank - 1]:
        return assembly.join(places)
    if axis != [0] or len({shape[1:] for shape in shapes}) > 1:
        raise layer.refusal(
            f"joins {shapes} along the axis {axis}", "symspec joins the first axis or the last one"
        )
    # the first axis varies slowest: the whole array is the flat ones, concatenated
    joined = assembly.join([assembly.flatten(place) for place in places])
    return assembly.put_after(joined, Reshape((sum(shape[0] for shape in shapes), *shapes[0][1:])))


JOINING: dict[str, Callable[[Assembly, KerasLayer, Sequence[int]], int]] = {
    "Add": _add,
    "ops.Add": _add,
    "Multiply": _multiply,
    "ops.Multiply": _multiply,
    "TFOpLambda": _join_by_operator,
    "Concatenate": _concatenate,
}
