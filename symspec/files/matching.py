"""Arrays of a foreign file, matched by order and shape to those that a network takes."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from symspec.errors import FileFormatError, OptionError, TooLargeError
from symspec.networks.layers import Layer, Shape
from symspec.networks.network import Network
from symspec.networks.normalizations import BatchNorm
from symspec.safety.arrays import check_finite
from symspec.safety.file_formats import as_format_error

LARGEST_RATIO = 50  # of unpacked to packed bytes: weights of 32 bits hardly shrink
LARGEST = 2**27  # numbers that one star may take on its way through a network: 1 GiB
HELD = 16  # weight of a layer's constants in that sum, as they take memory from the start
SMALL = 16 * 2**20  # bytes that need no further check
MOST_AXES = 32  # of one array
MOMENTS = ("mean", "variance")
_NAMES_SHOWN = 16  # outputs
_ROWS_SHOWN = 24  # rows of a table of mismatches
BUILD = "build the network of symspec's layers and give it as net="  # advice in errors
_TRANSPOSED = "the kernels are (in, out) where (out, in) was expected, or the other way round"


class OutputsError(OptionError):
    """The outputs that are asked for are not those of the model: no fault of its file."""


@dataclass(frozen=True)
class FileArray:
    """One array of a file, perhaps not read yet.

    Attributes
    ----------
    name : str
        Its name in the file.
    shape : tuple of int
        The shape that the file declares.
    read : callable
        Reads the numbers; raises a `FileFormatError` when that is not safe.
    """

    name: str
    shape: Shape
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> FileArray:
        """Wrap an array that has been read."""
        return cls(name, array.shape, lambda: array)


@dataclass(frozen=True)
class Slot:
    """One array that a network takes from a file.

    Attributes
    ----------
    name : str
        "conv1d_0/kernel", a block of parameters, or "batchnorm_0/mean", fixed numbers.
    shape : tuple of int
    """

    name: str
    shape: Shape

    def turn(self, array: np.ndarray) -> np.ndarray:
        """Reverse the axes of a kernel, PyTorch's (out, in) or (out, in, position).

        Slopes, of which PyTorch has a vector, take the shape of this slot.
        """
        if self.name.endswith("/alpha"):
            return array.reshape(self.shape)
        return array.T if self.name.endswith("/kernel") else array

    def shape_in_file(self, transpose: bool) -> Shape:
        """Shape in a file, which may keep kernels with their axes reversed, and slopes in one."""
        if transpose and self.name.endswith("/alpha"):
            return (math.prod(self.shape),)
        return self.shape[::-1] if transpose and self.name.endswith("/kernel") else self.shape


def list_slots(name: str, layer: Layer, shape: Shape) -> list[Slot]:
    """List the arrays that a layer which sees this shape takes, in Keras's and PyTorch's order."""
    shapes = layer.param_shapes(shape)
    if isinstance(layer, BatchNorm):
        shapes = shapes | {key: getattr(layer, key).shape for key in MOMENTS}
    return [Slot(f"{name}/{key}", own) for key, own in shapes.items()]


def reading(path: str | os.PathLike[str], what: str) -> AbstractContextManager[None]:
    """Turn whatever goes wrong while a network is read into a `FileFormatError`.

    That includes errors of symspec's layers, whose rules a damaged file may break.

    Parameters
    ----------
    path : str or path
    what : str
        What the file should be, with its article.
    """
    return as_format_error(path, what, passing=(FileFormatError, TooLargeError, OutputsError))


@contextmanager
def naming_outputs(names: Sequence[str]) -> Iterator[None]:
    """Add the names of all outputs to an error about a network that has several."""
    try:
        yield
    except FileFormatError as error:
        if len(names) < 2:
            raise
        listed = ", ".join(str(name)[:100] for name in names[:_NAMES_SHOWN])
        raise FileFormatError(f"{error} The network has {len(names)} outputs: {listed}.") from error


def is_count(value: object) -> bool:
    """Whether a file declares a whole number that may be a length or a place."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def widen_bfloat16(numbers: np.ndarray) -> np.ndarray:
    """Convert bfloat16, given as unsigned 16-bit integers, to float32, whose upper half it is."""
    return (numbers.astype(np.uint32) << 16).view(np.float32)


def bytes_allowed(path: str | os.PathLike[str]) -> int:
    """Most bytes that a file may unpack to, all arrays together."""
    return max(SMALL, LARGEST_RATIO * Path(path).stat().st_size)


def check_floats(path: str | os.PathLike[str], n: int) -> None:
    """Refuse a network through which one star would take too many numbers.

    Raises
    ------
    FileFormatError
        There are more than `LARGEST`.
    """
    if n > LARGEST:
        raise FileFormatError(
            f"{path} should take {LARGEST:,} numbers a star at most on its way through the layers,"
            f" got {n:,}: it is damaged, or made to fill the memory."
        )


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Names of the outputs of a model that are read.

    Attributes
    ----------
    labels : tuple of str
        Those that are labels; empty for all that are not the noise's.
    noise : tuple of str
        Those behind the labels.
    """

    labels: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()

    def find(self, path: str | os.PathLike[str], names: Sequence[str]) -> tuple[list[int], int]:
        """Places of the outputs among those of these names, and how many of them are labels.

        Raises
        ------
        OutputsError
            There is no such output, or one is named twice.
        """
        labels = self.labels or [name for name in names if name not in self.noise]
        chosen = [*labels, *self.noise]
        wrong = [name for name in chosen if names.count(name) != 1 or chosen.count(name) != 1]
        if wrong or not labels:
            raise OutputsError(
                f"{path} has the outputs {', '.join(map(repr, names))}, got"
                f" {', '.join(map(repr, chosen))}: name each that is to be read once, labels among"
                " them."
            )
        return [names.index(name) for name in chosen], len(labels)


def make_network(layers: Sequence[Layer], n_pixels: int) -> Network:
    """Build a network of layers, the first of which is its input, left out unless referred to."""
    first, *rest = layers
    is_needed = not rest or any(first in layer.others for layer in rest)
    return Network(layers if is_needed else rest, n_pixels)


def fill_network(
    path: str | os.PathLike[str],
    net: Network,
    found: Sequence[FileArray],
    *,
    transpose: bool = False,
) -> tuple[Network, np.ndarray]:
    """Read the arrays of a file into the layers of `net`, in order.

    Parameters
    ----------
    path : str or path
        Used in errors.
    net : Network
        The moments of its BatchNorm layers are placeholders for those in the file.
    found : sequence of FileArray
        In the order of the layers; for each its kernel and bias, or gamma, beta, mean and variance.
    transpose : bool, default False
        Whether the file keeps kernels as (out, in) and (out, in, position).

    Returns
    -------
    Network
        `net`, with the moments of the file.
    theta : numpy.ndarray, shape (param,)

    Raises
    ------
    FileFormatError
        The arrays do not fit the layers in number or shape (a table says where), or a number is
        not finite.
    """
    slots = [slot for own in _slots_by_layer(net) for slot in own]
    expected = [slot.shape_in_file(transpose) for slot in slots]
    if expected != [array.shape for array in found]:
        raise FileFormatError(_explain(path, net, slots, found, transpose))
    if 2 * net.n_params > bytes_allowed(path):
        raise FileFormatError(
            f"{path} should hold {net.n_params:,} weights, got {Path(path).stat().st_size:,} bytes:"
            " it is damaged."
        )
    arrays = {}
    for slot, stored in zip(slots, found, strict=True):
        array = read_finite(path, stored)
        arrays[slot.name] = slot.turn(array) if transpose else array
    with reading(path, "a file of weights"):
        theta = net.pack({block.name: arrays[block.name] for block in net.layout.blocks})
        return replace_moments(net, arrays), theta


def _slots_by_layer(net: Network) -> list[list[Slot]]:
    """List the slots of each layer that has any."""
    slots = map(list_slots, net.layer_names, net.layers, net.shapes)
    return [own for own in slots if own]


def replace_moments(net: Network, arrays: Mapping[str, np.ndarray]) -> Network:
    """Rebuild the network with BatchNorm's moments from `arrays`; references follow."""
    layers: list[Layer] = []
    for name, layer, sources in zip(net.layer_names, net.layers, net.sources, strict=True):
        if isinstance(layer, BatchNorm):
            layer = dataclasses.replace(
                layer, mean=arrays[f"{name}/mean"], variance=arrays[f"{name}/variance"]
            )
        elif layer.others:
            layer = type(layer)(*(layers[place] for place in sources))
        layers.append(layer)
    return net.with_layers(layers)


def read_finite(path: str | os.PathLike[str], stored: FileArray) -> np.ndarray:
    """Read one array as float64; refuse numbers that are not finite."""
    with reading(path, "a file of weights"):
        array = stored.read()
        if array.dtype.kind != "f":
            raise FileFormatError(
                f"{path}: {stored.name!r} should hold floats, got {array.dtype}: export the trained"
                " weights as floats."
            )
        with np.errstate(invalid="ignore"):  # a signalling NaN, refused below
            array = np.asarray(array, np.float64)
        check_finite(
            array,
            stored.name,
            ("entry",) * array.ndim,
            "its training diverged or the file is damaged",
        )
    return array


def _explain(
    path: str | os.PathLike[str],
    net: Network,
    slots: Sequence[Slot],
    found: Sequence[FileArray],
    transpose: bool,
) -> str:
    """Explain how the arrays differ from the slots, with a table around the first mismatch."""
    expected = [slot.shape_in_file(transpose) for slot in slots]
    rows = []
    wrong = []
    for i in range(max(len(slots), len(found))):
        want = f"{slots[i].name} {expected[i]}" if i < len(slots) else "nothing"
        got = f"{found[i].name} {found[i].shape}" if i < len(found) else "nothing"
        fits = i < len(slots) and i < len(found) and expected[i] == found[i].shape
        rows.append(f"  {' ' if fits else '!'} expected {want}, found {got}")
        if not fits:
            wrong.append(i)
    start = max(0, wrong[0] - 3)
    shown = rows[start : start + _ROWS_SHOWN]
    if start > 0:
        shown.insert(0, f"    ({start} before these fit)")
    if len(rows) > start + _ROWS_SHOWN:
        shown.append(f"    ({len(rows) - start - _ROWS_SHOWN} more)")
    is_turned = len(slots) == len(found) and all(
        want in (a.shape, a.shape[::-1]) for want, a in zip(expected, found, strict=True)
    )
    advice = (
        _TRANSPOSED if is_turned else "give net= with the layers that the file was trained with"
    )
    turned = ", kernels as (out, in)" if transpose else ""
    wanted = f"{len(slots)} arrays of a network {net.describe()} in this order{turned}"
    return f"{path} should hold the {wanted}, got {len(found)}: {advice}.\n" + "\n".join(shown)


def refuse_without_layers(path: str | os.PathLike[str], found: Sequence[FileArray]) -> OptionError:
    """Make the error about a missing `net`."""
    shapes = ", ".join(f"{array.name} {array.shape}" for array in found[:12])
    return OptionError(
        f"net should be given for {path}, a file of weights without a description of its layers,"
        f" which holds {shapes or 'no arrays'}: build it, e.g. symspec.mlp([n_pixels, ...,"
        " n_labels], activation='relu')."
    )


def natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that orders numbers inside names by value: "dense", "dense_2", "dense_10"."""
    parts = re.split(r"(\d+)", name)
    return [
        (part.isdigit(), int(part[:18]) if part.isdigit() else 0, part) for part in parts if part
    ]


def arrange_layers(
    path: str | os.PathLike[str],
    net: Network,
    layers: Mapping[str, list[FileArray]],
    *,
    is_ordered: bool,
    transpose: bool = False,
) -> list[FileArray]:
    """Put the arrays of a file into the order of the layers of `net`.

    A file may give the order itself, or by names that differ in their numbers only. Where it gives
    none, or one that does not fit, layers are told apart by shape if their shapes are unambiguous.

    Parameters
    ----------
    path : str or path
        Used in errors.
    net : Network
    layers : mapping of str to list of FileArray
        Arrays of each layer by its name, in the order of the file or of the names.
    is_ordered : bool
        Whether the order of the file is that in which the layers were made.
    transpose : bool, default False
        Whether the file keeps kernels as (out, in).

    Raises
    ------
    FileFormatError
        Layers of equal shapes have names that do not give their order.
    """
    in_order = [array for own in layers.values() for array in own]
    has_order = is_ordered or _are_alike(layers)
    want = [tuple(slot.shape_in_file(transpose) for slot in own) for own in _slots_by_layer(net)]
    held = {name: tuple(array.shape for array in own) for name, own in layers.items()}
    fits = [shape for own in want for shape in own] == [array.shape for array in in_order]
    if (has_order and fits) or sorted(want) != sorted(held.values()):
        return in_order  # `fill_network` explains where it does not fit
    waiting = {shapes: [name for name in layers if held[name] == shapes] for shapes in want}
    if unclear := [alike for alike in waiting.values() if not _are_alike(alike)]:
        if has_order:
            return in_order
        raise FileFormatError(
            f"{path} should tell the order of its layers, got layers of equal shapes named"
            f" {', '.join(unclear[0])}, of which any may come first: save a sequential model, whose"
            " layers are numbered, or in PyTorch with torch.save, which keeps the order."
        )
    return [array for shapes in want for array in layers[waiting[shapes].pop(0)]]


def _are_alike(names: Iterable[str]) -> bool:
    """Whether names differ in their numbers only, as "dense" and "dense_1" do."""
    return len({re.sub(r"_?\d+", "", name) for name in names}) <= 1
