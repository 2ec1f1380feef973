"""Layers that move numbers without changing them, and layers that join several outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytensor.tensor as pt

from symspec.errors import OptionError, ShapeError
from symspec.networks.layers import Layer, reshape_tail
from symspec.networks.params import Params, Shape, Symbol
from symspec.safety.options import check_count


@dataclass(frozen=True, eq=False)
class Flatten(Layer):
    """All numbers in one axis, the last axis varying fastest."""

    elementwise = True

    def out_shape(self, *shapes: Shape) -> Shape:
        return (math.prod(shapes[-1]),)

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        return reshape_tail(x, len(shape), self.out_shape(shape)) if len(shape) > 1 else x


@dataclass(frozen=True, eq=False)
class Reshape(Layer):
    """The same numbers in another shape.

    Parameters
    ----------
    shape : tuple of int
        Of one spectrum's output, say (7214, 1) before a convolution.
    """

    elementwise = True
    shape: Shape

    def __post_init__(self) -> None:
        self._set("shape", tuple(self.shape))
        for n in self.shape:
            check_count(n, "shape")

    def out_shape(self, *shapes: Shape) -> Shape:
        if math.prod(shapes[-1]) != math.prod(self.shape):
            raise ShapeError(
                f"reshape to {self.shape} stands where there are {shapes[-1]}: the sizes differ."
            )
        return self.shape

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        return reshape_tail(x, len(shape), self.shape)


@dataclass(frozen=True, eq=False)
class Permute(Layer):
    """Axes exchanged: (position, channel) becomes (channel, position), or back."""

    def out_shape(self, *shapes: Shape) -> Shape:
        if len(shapes[-1]) != 2:
            raise ShapeError(f"permute takes two axes, (position, channel), got {shapes[-1]}.")
        return shapes[-1][::-1]

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        return x.swapaxes(-1, -2)


@dataclass(frozen=True, eq=False)
class Slice(Layer):
    """Some neighbours of the first axis: a spectrum's pixels without the photometry behind them.

    Parameters
    ----------
    start, stop : int
        From the one until before the other, counted from 0.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        check_count(self.start, "start", least=0)
        check_count(self.stop, "stop", least=self.start + 1)

    def out_shape(self, *shapes: Shape) -> Shape:
        if self.stop > shapes[-1][0]:
            raise ShapeError(f"slice until {self.stop} stands where there are {shapes[-1][0]}.")
        return (self.stop - self.start, *shapes[-1][1:])

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        return x[(..., slice(self.start, self.stop), *[slice(None)] * (len(shape) - 1))]


@dataclass(frozen=True, eq=False)
class Identity(Layer):
    """The input itself: a place to which other layers can refer."""

    elementwise = True

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        return x


@dataclass(frozen=True, eq=False)
class _Joining(Layer):
    others: tuple[Layer, ...] = ()

    def __init__(self, *others: Layer):
        for layer in others:
            if not isinstance(layer, Layer):
                raise OptionError(f"{self.kind} takes layers that stand before it, got {layer!r}.")
        self._set("others", others)


@dataclass(frozen=True, eq=False, init=False)
class From(_Joining):
    """Output of an earlier layer in place of the last one's: where another branch begins.

    Parameters
    ----------
    other : Layer
        One that stands before it in the network.

    Examples
    --------
    >>> from symspec import Concatenate, Dense, From, Identity, Network, Slice
    >>> both = Identity()
    >>> spectrum, photometry = Dense(16), Dense(4)
    >>> branches = [both, Slice(0, 100), spectrum, From(both), Slice(100, 105), photometry]
    >>> Network([*branches, Concatenate(spectrum), Dense(3)], 105).n_labels
    3
    """

    def __init__(self, other: Layer):
        super().__init__(other)

    def out_shape(self, *shapes: Shape) -> Shape:
        return shapes[0]

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        return others[0]


@dataclass(frozen=True, eq=False, init=False)
class Add(_Joining):
    """Sum of the outputs of earlier layers and of the last one: a residual connection.

    Parameters
    ----------
    *others : Layer
        They stand before it in the network.

    Examples
    --------
    >>> from symspec import Activation, Add, Dense, Network
    >>> start = Dense(8)
    >>> Network([start, Activation("tanh"), Dense(8), Add(start), Dense(3)], 100).n_params
    907
    """

    def out_shape(self, *shapes: Shape) -> Shape:
        if len(set(shapes)) > 1:
            raise ShapeError(f"add takes arrays of one shape, got {', '.join(map(str, shapes))}.")
        return shapes[-1]

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        return sum(others[1:], others[0]) + x if others else x


@dataclass(frozen=True, eq=False, init=False)
class Multiply(_Joining):
    """Product of the outputs of earlier layers and of the last one: a gate.

    An axis of length 1 takes the length of the others.

    Parameters
    ----------
    *others : Layer
        They stand before it in the network.

    Examples
    --------
    >>> from symspec import Activation, Dense, From, Identity, Multiply, Network
    >>> start, gate = Identity(), Activation("sigmoid")
    >>> layers = [start, Dense(8), gate, From(start), Dense(8), Multiply(gate), Dense(3)]
    >>> Network(layers, 100).n_labels
    3
    """

    def out_shape(self, *shapes: Shape) -> Shape:
        try:
            if len(set(map(len, shapes))) > 1:
                raise ValueError(shapes)
            return np.broadcast_shapes(*shapes)
        except ValueError:
            raise ShapeError(
                "multiply takes arrays of one shape, but for axes of length 1, got"
                f" {', '.join(map(str, shapes))}."
            ) from None

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        for other in others:
            x = x * other
        return x


@dataclass(frozen=True, eq=False, init=False)
class Concatenate(_Joining):
    """Outputs of earlier layers, and of the last one behind them, side by side along the last axis.

    Parameters
    ----------
    *others : Layer
        They stand before it in the network.
    """

    def out_shape(self, *shapes: Shape) -> Shape:
        if len({shape[:-1] for shape in shapes}) > 1:
            raise ShapeError(
                "concatenate takes arrays alike but for the last axis, got"
                f" {', '.join(map(str, shapes))}."
            )
        return (*shapes[-1][:-1], sum(shape[-1] for shape in shapes))

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        return pt.concatenate([*others, x], axis=-1)
