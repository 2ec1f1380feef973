"""Network: a stack of layers over one flat parameter vector, as a PyTensor graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike

from symspec.errors import DataError, OptionError, ShapeError
from symspec.networks.layers import (
    Activation,
    Dense,
    Dropout,
    Layer,
    Standardize,
    Unstandardize,
)
from symspec.networks.params import Compilable, ParamLayout, Params, Shape, Symbol
from symspec.networks.theta import as_theta, draw_weights
from symspec.safety.arrays import as_float_array, as_texts
from symspec.safety.options import check_count, check_rng
from symspec.safety.stars import check_medium, check_wavelength

LABELS_SHOWN = 8


class Network(Compilable):
    """Regression network: flux (pixel,) -> labels (label,), or (star, pixel) -> (star, label).

    Parameters
    ----------
    layers : sequence of Layer
        From flux to labels. Put `Standardize` first and `Unstandardize` last to have flux and
        labels in their own units at both ends (or see `standardized`).
    n_pixels : int
        Pixels of one spectrum.
    n_labels : int, optional
        How many of the last layer's outputs are labels, the first ones; all by default. What is
        behind them is for the noise: `PredictedNoise` takes a log standard deviation for each.
    label_names, label_units : sequence of str, optional
        One a label; default label_0, label_1, ... and no units.
    wavelength : array_like, shape (pixel,), optional
        The grid that it takes spectra on: those on others are refused, or resampled.
    wavelength_unit : str, default "Angstrom"
    wavelength_medium : {"air", "vacuum"}, optional
        That of `wavelength`: spectra on the other are refused, or converted by resampling.

    Attributes
    ----------
    layout : ParamLayout
        The blocks of `theta`: layer by layer, kernel (in, out) in C order, then bias; named
        dense_0/kernel, ...
    n_params, n_pixels, n_outputs, n_labels : int
    shapes : list of tuple of int
        Of one spectrum, and of what each layer makes of it.
    dense_shapes : dict of str to (int, int)
        Features (in, out) by name of each `Dense` that acts on a vector: their derivatives
        factorise.

    Raises
    ------
    OptionError
        No layers, something that is not a layer, one that refers to a layer that does not stand
        before it, or names that do not match the number of labels.
    ShapeError
        A layer does not take what comes to it, or what comes out at the end is no vector.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        n_pixels: int,
        *,
        n_labels: int | None = None,
        label_names: Sequence[str] | None = None,
        label_units: Sequence[str] | None = None,
        wavelength: ArrayLike | None = None,
        wavelength_unit: str = "Angstrom",
        wavelength_medium: str | None = None,
    ):
        check_count(n_pixels, "n_pixels")
        self.layers = tuple(layers)
        self.n_pixels = int(n_pixels)
        self.layer_names = _name_layers(self.layers)
        self.sources = _find_sources(self.layers)
        self.shapes: list[Shape] = [(self.n_pixels,)]
        blocks: dict[str, Shape] = {}
        self.dense_shapes: dict[str, tuple[int, int]] = {}
        for name, layer, sources in zip(self.layer_names, self.layers, self.sources, strict=True):
            shape = self.shapes[-1]
            blocks |= {f"{name}/{key}": block for key, block in layer.param_shapes(shape).items()}
            if isinstance(layer, Dense) and len(shape) == 1:
                self.dense_shapes[name] = (shape[0], int(layer.units))
            self.shapes.append(
                tuple(map(int, layer.out_shape(*(self.shapes[i + 1] for i in sources), shape)))
            )
        if len(self.shapes[-1]) != 1:
            raise ShapeError(
                f"layers should end in a vector of labels, got {self.shapes[-1]}: put Flatten()"
                " before."
            )
        self.layout = ParamLayout(blocks, factored=self.dense_shapes)
        self.n_params = self.layout.n_params
        self.n_outputs = self.shapes[-1][0]
        check_count(n_labels, "n_labels", most=self.n_outputs, or_none=True)
        self.n_labels = n_labels or self.n_outputs
        self.label_names = _check_words(label_names, self.n_labels, "label_names")
        self.label_units = _check_words(label_units, self.n_labels, "label_units")
        self.wavelength = _check_wavelength(wavelength, self.n_pixels, wavelength_unit)
        self.wavelength_unit = wavelength_unit
        self.wavelength_medium = check_medium(wavelength_medium)

    def with_layers(self, layers: Sequence[Layer], n_pixels: int | None = None) -> Network:
        """Network of other layers with the same labels, and the same pixels unless told others."""
        return Network(
            layers,
            n_pixels or self.n_pixels,
            n_labels=self.n_labels,
            label_names=self.label_names,
            label_units=self.label_units,
            **(self._grid if n_pixels is None else {}),
        )

    def with_n_labels(self, n_labels: int) -> Network:
        """The same network, of which the first `n_labels` outputs are the labels."""
        if n_labels == self.n_labels:
            return self
        return Network(self.layers, self.n_pixels, n_labels=n_labels, **self._grid)

    def can_have(self, n_labels: int) -> bool:
        """Whether it has as many labels, or nobody has said how many of its outputs are labels."""
        is_open = self.n_labels == self.n_outputs and not any(self.label_units)
        is_unnamed = self.label_names == _name_labels(self.n_labels)
        return n_labels == self.n_labels or (is_open and is_unnamed)

    @property
    def _grid(self) -> dict[str, Any]:
        return {
            "wavelength": self.wavelength,
            "wavelength_unit": self.wavelength_unit,
            "wavelength_medium": self.wavelength_medium,
        }

    @property
    def widths(self) -> list[int]:
        """Numbers in one spectrum, and in what each layer makes of it."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def floats_per_star(self) -> int:
        """Numbers that one star takes on its way through the network."""
        layers = zip(self.layers, pairwise(self.shapes), strict=True)
        return self.n_pixels + sum(layer.n_floats(shape, out) for layer, (shape, out) in layers)

    @property
    def is_smooth(self) -> bool:
        """Whether its labels have a continuous gradient: no layer after the first weights kinks."""
        first = next(iter(self.layout.layers), self.layer_names[-1])
        return all(layer.is_smooth for layer in self.layers[self.layer_names.index(first) :])

    def __repr__(self) -> str:
        shown = ", ".join(self.label_names[:LABELS_SHOWN])
        if self.n_labels > LABELS_SHOWN:
            shown += f", ... ({self.n_labels:,})"
        return f"Network({self.describe()}, {self.n_params:,} parameters, labels {shown})"

    def describe(self) -> str:
        """Sizes of input and of outputs of layers with parameters, such as 100-16x8-32-3."""
        outputs = zip(self.layer_names, self.shapes[1:], strict=True)
        made = [shape for name, shape in outputs if name in self.layout.layers]
        return "-".join("x".join(map(str, shape)) for shape in [self.shapes[0], *made])

    def __call__(self, theta: Any, flux: Any) -> Symbol:
        """Graph of all outputs (output,) or (star, output): the labels, and what is behind them.

        Parameters
        ----------
        theta : symbolic vector (param,)
        flux : symbolic (pixel,) or (star, pixel)

        Raises
        ------
        ShapeError
            `theta` is not one vector, or flux has the wrong number of pixels or axes.
        """
        return self.build(self.layout.unpack(as_theta(theta, self.n_params)), flux)

    def build(self, params: Params, flux: Any) -> Symbol:
        """Graph of the outputs of named blocks; in training each Dropout has a block "mask"."""
        return self.build_with_taps(params, flux)[0]

    def build_labels(self, params: Params, flux: Any) -> Symbol:
        """Graph of the labels alone, the first outputs."""
        outputs = self.build(params, flux)
        return outputs if self.n_labels == self.n_outputs else outputs[..., : self.n_labels]

    def build_with_taps(
        self, params: Params, flux: Any
    ) -> tuple[Symbol, dict[str, tuple[Symbol, Symbol]]]:
        """Outputs, and (input, output) of the layers of `dense_shapes`, where Jacobians factor."""
        outputs = [_as_flux(flux, self.n_pixels)]
        taps: dict[str, tuple[Symbol, Symbol]] = {}
        for i, (name, layer) in enumerate(zip(self.layer_names, self.layers, strict=True)):
            own = {
                k.removeprefix(name + "/"): v for k, v in params.items() if k.startswith(name + "/")
            }
            others = [outputs[source + 1] for source in self.sources[i]]
            outputs.append(layer.build(outputs[-1], own, self.shapes[i], *others))
            if name in self.dense_shapes:
                taps[name] = (outputs[-2], outputs[-1])
        return outputs[-1], taps

    def init_params(self, rng: np.random.Generator, init: str = "he_normal") -> np.ndarray:
        r"""Draw `theta` (param,): kernels by one of Keras's initialisers, biases 0, gammas 1.

        A kernel's variance is gain / fan, with fan in, or (in + out) / 2 for glorot, times the
        kernel's positions if it is a convolution's; normals are cut at two standard deviations and
        rescaled, as Keras does.

        Raises
        ------
        OptionError
            `init` is none of he_normal, he_uniform, glorot_normal, glorot_uniform, lecun_normal,
            lecun_uniform.
        """
        return draw_weights(self.layout, self.find_fans(), check_rng(rng), init)

    def find_fans(self) -> dict[str, tuple[int, int]]:
        """Fan-in and fan-out of each kernel, by its block's name."""
        layers = dict(zip(self.layer_names, self.layers, strict=True))
        kernels = [block for block in self.layout.blocks if block.name.endswith("/kernel")]
        return {
            block.name: layers[block.name.removesuffix("/kernel")].find_fans(block.shape)
            for block in kernels
        }

    def pack(self, params: Mapping[str, np.ndarray]) -> np.ndarray:
        """Flat `theta` (param,) of named arrays, such as "dense_0/kernel" (in, out)."""
        return self.layout.pack(params)

    def unpack(self, theta: Any) -> dict[str, Any]:
        """Named arrays, as views, of a flat `theta` (param,)."""
        return self.layout.unpack(as_theta(theta, self.n_params, symbolic=False))


def mlp(
    sizes: Sequence[int],
    *,
    activation: str = "relu",
    n_labels: int | None = None,
    label_names: Sequence[str] | None = None,
    label_units: Sequence[str] | None = None,
) -> Network:
    """Multilayer perceptron with a linear output.

    Parameters
    ----------
    sizes : sequence of int
        Pixels, hidden widths, labels: `[7213, 2048, 32, 3]`.
    activation : str, default "relu"
        After every hidden layer; the names of `Activation`.
    n_labels : int, optional
        See `Network`: 3 for `[7213, 2048, 32, 6]` with `PredictedNoise`.
    label_names, label_units : sequence of str, optional

    Examples
    --------
    >>> mlp([100, 8, 2]).n_params
    826
    """
    if len(sizes) < 2:
        raise OptionError(f"sizes should hold at least pixels and labels, got {list(sizes)}.")
    layers: list[Layer] = []
    for units in sizes[1:-1]:
        layers += [Dense(units), Activation(activation)]
    layers.append(Dense(sizes[-1]))
    if activation:
        Activation(activation)  # refuse an unknown word for networks without hidden layers, too
    return Network(
        layers, sizes[0], n_labels=n_labels, label_names=label_names, label_units=label_units
    )


def standardized(net: Network, flux: ArrayLike, labels: ArrayLike) -> Network:
    """Put the network between fixed layers that take flux and give labels in their own units.

    Parameters
    ----------
    net : Network
        Its parameters and their order stay as they are.
    flux : array_like, shape (star, pixel)
        Training spectra, whose mean and standard deviation are taken pixel by pixel.
    labels : array_like, shape (star, label)
        Training labels; NaN is left out. A network with twice as many outputs has log standard
        deviations behind the labels, which come out in the units of the labels, too.

    Raises
    ------
    DataError
        A pixel or label never varies, or there is one star only.
    """
    scaling = Unstandardize.of(labels).for_outputs(net.n_outputs)
    return net.with_layers([Standardize.of(flux), *net.layers, scaling])


def dropout_layers(net: Network) -> dict[str, tuple[Dropout, Shape]]:
    """The Dropout layers by name, with the shape of what each sees."""
    return {
        name: (layer, shape)
        for name, layer, shape in zip(net.layer_names, net.layers, net.shapes[:-1], strict=True)
        if isinstance(layer, Dropout)
    }


def _find_sources(layers: Sequence[Layer]) -> list[tuple[int, ...]]:
    """Places of the layers that each layer refers to, where they stand last before it."""
    places: dict[int, int] = {}
    sources = []
    for i, layer in enumerate(layers):
        if unknown := [other for other in layer.others if id(other) not in places]:
            raise OptionError(
                f"{layer.kind} should refer to layers that stand before it in the same network, got"
                f" {unknown[0]!r}: give the layer itself that is in the list."
            )
        sources.append(tuple(places[id(other)] for other in layer.others))
        places[id(layer)] = i
    return sources


def _name_layers(layers: Sequence[Layer]) -> list[str]:
    if not layers:
        raise OptionError(
            "layers should hold at least one layer, got none: a linear model is [Dense(n_labels)]."
        )
    names = []
    counts: dict[str, int] = {}
    for layer in layers:
        if not isinstance(layer, Layer):
            raise OptionError(f"layers should hold layers such as Dense(32), got {layer!r}.")
        i = counts[layer.kind] = counts.get(layer.kind, -1) + 1
        names.append(f"{layer.kind}_{i}")
    return names


def _name_labels(n: int) -> tuple[str, ...]:
    return tuple(f"label_{i}" for i in range(n))


def _check_words(words: Sequence[str] | None, n: int, name: str) -> tuple[str, ...]:
    if words is None:
        return _name_labels(n) if name == "label_names" else ("",) * n
    if isinstance(words, str) or len(words) != n:
        raise OptionError(f"{name} should be {n} words, one a label, got {words!r}.")
    return as_texts([str(word) for word in words], name)


def _check_wavelength(wavelength: ArrayLike | None, n_pixels: int, unit: str) -> np.ndarray | None:
    if wavelength is None:
        return None
    grid = np.array(as_float_array(wavelength, "wavelength", unit=unit))
    if grid.shape != (n_pixels,):
        raise ShapeError(
            f"wavelength should have shape ({n_pixels},), one a pixel, got {grid.shape}."
        )
    check_wavelength(grid)
    if not (np.diff(grid) > 0).all():
        raise DataError(
            "wavelength should rise from pixel to pixel: sort the pixels by wavelength."
        )
    grid.flags.writeable = False
    return grid


def _as_flux(flux: Any, n_pixels: int) -> Symbol:
    flux = pt.as_tensor_variable(flux)
    length = flux.type.shape[-1] if flux.ndim else None
    if flux.ndim not in (1, 2) or length not in (None, n_pixels):
        raise ShapeError(
            f"flux should have shape (star, {n_pixels}) or ({n_pixels},), got {flux.type.shape}:"
            " give one spectrum as a vector or several as the rows of a matrix."
        )
    return flux if flux.dtype.startswith("float") else flux.astype("float64")
