"""Layers and grids in symspec's own files: fields of each kind as numbers, strings, arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from symspec.errors import OptionError
from symspec.files.stored.archive import Archive, write_array, write_attribute, write_strings
from symspec.networks.convolutions import (
    AveragePool1D,
    Conv1D,
    GlobalAveragePool1D,
    LocallyConnected1D,
    MaxPool1D,
    ZeroPadding1D,
)
from symspec.networks.layers import (
    Activation,
    Dense,
    Dropout,
    Layer,
    PReLU,
    Standardize,
    Unstandardize,
)
from symspec.networks.network import Network
from symspec.networks.normalizations import (
    BatchNorm,
    ContinuumNormalize,
    LayerNorm,
    MedianNormalize,
)
from symspec.networks.preprocessing import MSC, SNV, Absorbance, SavitzkyGolay
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

VECTOR = "vector"  # array (n,)
MATRIX = "matrix"  # array (m, n)
OPTIONS = "options"  # numbers by name
SIZES = "sizes"  # whole numbers: "2", "3,4"
PADDING = "padding"  # a word, one whole number, or two: "same", "1", "3,4"
_POOL = {"pool_size": int, "strides": int, "padding": PADDING, "data_format": str}
_NORM = {"epsilon": float, "scale": bool, "center": bool}
_AFFINE = {"mean": VECTOR, "scale": VECTOR}
_SAVITZKY_GOLAY = {"window_length": int, "polyorder": int, "deriv": int, "delta": float}
_CONVOLUTION = {
    "filters": int,
    "kernel_size": int,
    "strides": int,
    "use_bias": bool,
    "data_format": str,
}

# fields that layers of earlier versions had not, with what they were then
LATER = {"groups": 1}
# the class of each kind of layer, and the types of its fields
LAYERS: dict[str, tuple[Callable[..., Layer], dict[str, Any]]] = {
    layer.__name__.lower(): (layer, fields)
    for layer, fields in (
        (Dense, {"units": int, "use_bias": bool}),
        (Activation, {"function": str, "options": OPTIONS}),
        (Dropout, {"rate": float}),
        (PReLU, {"shape": SIZES}),
        (Standardize, _AFFINE),
        (Unstandardize, _AFFINE),
        (Conv1D, {**_CONVOLUTION, "padding": PADDING, "dilation": int, "groups": int}),
        (LocallyConnected1D, _CONVOLUTION),
        (MaxPool1D, _POOL),
        (AveragePool1D, {**_POOL, "count_padding": bool}),
        (GlobalAveragePool1D, {"data_format": str}),
        (ZeroPadding1D, {"padding": PADDING, "data_format": str}),
        (BatchNorm, {"mean": VECTOR, "variance": VECTOR, **_NORM, "axis": int}),
        (LayerNorm, {**_NORM, "n_axes": int}),
        (MedianNormalize, {}),
        (ContinuumNormalize, {"project": MATRIX, "basis": MATRIX}),
        (SNV, {"ddof": int, "epsilon": float}),
        (MSC, {"reference": VECTOR}),
        (SavitzkyGolay, _SAVITZKY_GOLAY),
        (Absorbance, {"full_scale": float}),
        (Flatten, {}),
        (Reshape, {"shape": SIZES}),
        (Permute, {}),
        (Slice, {"start": int, "stop": int}),
        (Identity, {}),
        (From, {}),
        (Add, {}),
        (Multiply, {}),
        (Concatenate, {}),
    )
}


def check_layers(layers: Sequence[Layer]) -> None:
    """Refuse layers that a reader would know nothing of.

    Raises
    ------
    OptionError
        There is one; the message names its class.
    """
    for layer in layers:
        if type(layer) is not LAYERS.get(layer.kind, (None,))[0]:
            raise OptionError(
                f"layers should be of {', '.join(c.__name__ for c, _ in LAYERS.values())} to be"
                f" written, got {type(layer).__name__}, of which a reader would know nothing: build"
                " the network of these."
            )


def write_layer(group: Any, layer: Layer, sources: Sequence[int]) -> None:
    """Write a layer's kind, its fields and the places of the layers that it refers to."""
    write_attribute(group, "kind", layer.kind)
    if layer.others:
        write_attribute(group, "others", _join(sources))
    for name, kind in LAYERS[layer.kind][1].items():
        value = getattr(layer, name)
        if name in LATER and value == LATER[name]:
            continue
        if kind in (VECTOR, MATRIX):
            write_array(group, name, value)
        elif kind == OPTIONS:
            group.create_group(name).attrs.update(
                {key: float(number) for key, number in value.items()}
            )
        elif kind in (SIZES, PADDING):
            write_attribute(
                group, name, value if isinstance(value, str) else _join(np.atleast_1d(value))
            )
        else:
            write_attribute(group, name, kind(value))


def read_layer(archive: Archive, place: str, before: Sequence[Layer]) -> Layer:
    """Read the layer of a group, which may refer to layers `before` it.

    Raises
    ------
    FileFormatError
        It is of an unknown kind, or damaged.
    """
    kind = archive.attribute(place, "kind", str)
    if kind not in LAYERS:
        advice = "it was written by a newer symspec, so install that one"
        raise archive.refusal(f"{place}@kind", f"one of {', '.join(LAYERS)}", repr(kind), advice)
    constructor, fields = LAYERS[kind]
    held = archive.find(place).attrs
    values = {
        name: _read_field(archive, place, name, of)
        for name, of in fields.items()
        if name not in LATER or name in held
    }
    others = _read_others(archive, place, before) if "others" in archive.find(place).attrs else ()
    return constructor(*others, **values)


def _read_others(archive: Archive, place: str, before: Sequence[Layer]) -> list[Layer]:
    """Read which layers `before` it a layer refers to."""
    places = _read_sizes(archive, place, "others")
    if isinstance(places, str) or any(not 0 <= i < len(before) for i in places):
        raise archive.refusal(
            f"{place}@others", f"places of the {len(before)} layers before", f"{places}"
        )
    return [before[i] for i in places]


def _read_field(archive: Archive, place: str, name: str, kind: Any) -> Any:
    if kind in (VECTOR, MATRIX):
        return archive.array(f"{place}/{name}", (None,) * (1 if kind == VECTOR else 2))
    if kind == OPTIONS:
        inside = f"{place}/{name}"
        return {key: archive.attribute(inside, key, float) for key in archive.find(inside).attrs}
    if kind == SIZES:
        return _read_sizes(archive, place, name)
    if kind == PADDING:
        sizes = _read_sizes(archive, place, name)
        return sizes if isinstance(sizes, str) or len(sizes) > 1 else sizes[0]
    return archive.attribute(place, name, kind)


def _read_sizes(archive: Archive, place: str, name: str) -> str | tuple[int, ...]:
    text = archive.attribute(place, name, str)
    numbers = text.split(",")
    return tuple(map(int, numbers)) if all(n.isdecimal() and len(n) < 12 for n in numbers) else text


def _join(numbers: Sequence[int]) -> str:
    return ",".join(str(int(n)) for n in numbers)


def write_wavelength(file: Any, net: Network) -> None:
    """Write the grid that a network takes spectra on, if it is known."""
    if net.wavelength is None:
        return
    write_array(file, "wavelength", net.wavelength)
    write_attribute(file["wavelength"], "unit", net.wavelength_unit)
    if net.wavelength_medium is not None:
        write_strings(file, "wavelength_medium", [net.wavelength_medium])


def read_wavelength(archive: Archive, n_pixels: int) -> dict[str, Any]:
    """The grid of a network by the names of `Network`'s arguments; empty without one."""
    if "wavelength" not in archive.tree:
        return {}
    grid = {
        "wavelength": archive.array("wavelength", (n_pixels,)),
        "wavelength_unit": archive.attribute("wavelength", "unit", str),
    }
    if "wavelength_medium" in archive.tree:
        grid["wavelength_medium"] = archive.strings("wavelength_medium")[0]
    return grid
