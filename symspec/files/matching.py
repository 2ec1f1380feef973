"""Arrays found in a foreign file, laid against what a network takes from it, by order and shape."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from symspec.errors import FileFormatError, OptionError, SymspecError, TooLargeError
from symspec.networks.layers import Layer, Shape
from symspec.networks.network import Network
from symspec.networks.normalizations import BatchNorm
from symspec.safety.checks import check_finite

LARGEST_RATIO = 50  # of what a file unpacks to: weights of 32 bits hardly shrink
LARGEST = 2**27  # numbers that one star may take on its way through a network: 1 GiB
HELD = 16  # times that constants of a layer count towards it, as they take memory from the start
SMALL = 16 * 2**20  # bytes; as little as this needs no further check
MOMENTS = ("mean", "variance")
_TRANSPOSED = "the kernels are (in, out) where (out, in) was expected, or the other way round"


@dataclass(frozen=True)
class StoredArray:
    """One array of a file, not read yet.

    Attributes
    ----------
    name : str
        As the file has it.
    shape : tuple of int
        As the file declares it.
    read : callable
        Reads the numbers; raises a `FileFormatError` when that cannot be done safely.
    """

    name: str
    shape: Shape
    read: Callable[[], np.ndarray]


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
        """Array whose axes run the other way if it is a kernel: (out, in) or (out, in, position) as PyTorch has it."""
        return array.T if self.name.endswith("/kernel") else array

    def shape_in_file(self, transpose: bool) -> Shape:
        """Shape in a file that may keep kernels so."""
        return self.shape[::-1] if transpose and self.name.endswith("/kernel") else self.shape


def list_slots(name: str, layer: Layer, shape: Shape) -> list[Slot]:
    """What a layer that sees this shape takes from a file, in the order of Keras and PyTorch."""
    shapes = layer.param_shapes(shape)
    if isinstance(layer, BatchNorm):
        shapes = shapes | {key: getattr(layer, key).shape for key in MOMENTS}
    return [Slot(f"{name}/{key}", own) for key, own in shapes.items()]


@contextmanager
def reading(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into a `FileFormatError`.

    Parameters
    ----------
    path : str or path
    what : str
        What the file should be, with its article.
    """
    try:
        yield
    except (FileFormatError, TooLargeError):
        raise
    # what a damaged file claims may break a layer's rules, or make the libraries below raise
    # anything at all
    except Exception as error:
        got = str(error) if isinstance(error, SymspecError) else f"{type(error).__name__}: {error}"
        raise FileFormatError(
            f"{path} should be {what} in good order, got a damaged one ({got}): write or copy it"
            " again."
        ) from error


def bytes_allowed(path: str | os.PathLike[str]) -> int:
    """Bytes that a file may unpack to, all in all."""
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


def make_network(layers: Sequence[Layer], n_pixels: int) -> Network:
    """Network of a row of layers, without the first one, which is what comes in, where no other refers to it."""
    first, *rest = layers
    is_needed = not rest or any(first in layer.others for layer in rest)
    return Network(layers if is_needed else rest, n_pixels)


def fill_network(
    path: str | os.PathLike[str],
    net: Network,
    found: Sequence[StoredArray],
    *,
    transpose: bool = False,
) -> tuple[Network, np.ndarray]:
    """Read the arrays of a file into the layers of `net`, first to first and last to last.

    Parameters
    ----------
    path : str or path
        Used in errors.
    net : Network
        The moments of its BatchNorm layers only hold the place of those in the file.
    found : sequence of StoredArray
        In the order of the layers; of each kernel and bias, or gamma, beta, mean and variance.
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
        Numbers or shapes of the arrays are not those of the layers (a table says which), or a
        number is not finite.
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
        return replace_moments(net, arrays), net.pack(
            {block.name: arrays[block.name] for block in net.layout.blocks}
        )


def _slots_by_layer(net: Network) -> list[list[Slot]]:
    """Slots of each layer that has any."""
    slots = map(list_slots, net.layer_names, net.layers, net.shapes)
    return [own for own in slots if own]


def replace_moments(net: Network, arrays: Mapping[str, np.ndarray]) -> Network:
    """The same layers, those of BatchNorm with moments out of `arrays`, and references to them led there."""
    layers: list[Layer] = []
    for name, layer, sources in zip(net.layer_names, net.layers, net.sources, strict=True):
        if isinstance(layer, BatchNorm):
            layer = dataclasses.replace(layer, **{key: arrays[f"{name}/{key}"] for key in MOMENTS})
        elif layer.others:
            layer = type(layer)(*(layers[place] for place in sources))
        layers.append(layer)
    return net.with_layers(layers)


def read_finite(path: str | os.PathLike[str], stored: StoredArray) -> np.ndarray:
    """Read one array as float64, refusing what is not finite."""
    with reading(path, "a file of weights"):
        array = stored.read()
        if array.dtype.kind != "f":
            raise FileFormatError(
                f"{path}: {stored.name!r} should hold floats, got {array.dtype}: export the trained"
                " weights as floats."
            )
        with np.errstate(invalid="ignore"):  # of some NaN, which is refused below
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
    found: Sequence[StoredArray],
    transpose: bool,
) -> str:
    expected = [slot.shape_in_file(transpose) for slot in slots]
    rows = []
    is_wrong = []
    for i in range(max(len(slots), len(found))):
        want = f"{slots[i].name} {expected[i]}" if i < len(slots) else "nothing"
        got = f"{found[i].name} {found[i].shape}" if i < len(found) else "nothing"
        is_wrong.append(i >= len(slots) or i >= len(found) or expected[i] != found[i].shape)
        rows.append(f"  {'!' if is_wrong[-1] else ' '} expected {want}, found {got}")
    first = is_wrong.index(True)
    start = max(0, first - 3)  # what fits before the first mismatch needs no telling
    shown = rows[start : start + 24]
    shown = [f"    ({start} before these fit)"] * bool(start) + shown
    shown += [f"    ({len(rows) - start - 24} more)"] * (len(rows) - start > 24)
    is_turned = len(slots) == len(found) and all(
        want in (a.shape, a.shape[::-1]) for want, a in zip(expected, found, strict=True)
    )
    advice = (
        _TRANSPOSED if is_turned else "give net= with the layers that the file was trained with"
    )
    turned = ", kernels as (out, in)" if transpose else ""
    wanted = f"{len(slots)} arrays of a network {net.describe()} in this order{turned}"
    return f"{path} should hold the {wanted}, got {len(found)}: {advice}.\n" + "\n".join(shown)


def refuse_without_layers(
    path: str | os.PathLike[str], found: Sequence[StoredArray]
) -> OptionError:
    """Error about a missing `net`, to be raised."""
    shapes = ", ".join(f"{array.name} {array.shape}" for array in found[:12])
    return OptionError(
        f"net should be given for {path}, a file of weights without a description of its layers,"
        f" which holds {shapes or 'no arrays'}: build it, e.g. symspec.mlp([n_pixels, ...,"
        " n_labels], activation='relu')."
    )


def natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Key that sorts numbers inside names as numbers: layer 2 before layer 10, and "dense" before "dense_1"."""
    parts = re.split(r"(\d+)", name)
    return [
        (part.isdigit(), int(part[:18]) if part.isdigit() else 0, part) for part in parts if part
    ]


def arrange_layers(
    path: str | os.PathLike[str],
    net: Network,
    layers: Mapping[str, list[StoredArray]],
    *,
    is_ordered: bool,
    transpose: bool = False,
) -> list[StoredArray]:
    """Arrays of a file in the order of the layers of `net`.

    The order of the file is taken where it says one, by itself or by names that differ in numbers
    only. Where there is none, or it does not fit, shapes tell the layers apart if they leave no
    choice.

    Parameters
    ----------
    path : str or path
        Used in errors.
    net : Network
    layers : mapping of str to list of StoredArray
        Arrays of each layer by its name, in the order of the file or of the names.
    is_ordered : bool
        Whether the order of the file is that in which the layers were made.
    transpose : bool, default False
        Whether the file keeps kernels as (out, in).

    Raises
    ------
    FileFormatError
        Layers of equal shapes have names that do not say which comes first.
    """
    in_order = [array for own in layers.values() for array in own]
    has_order = is_ordered or _are_alike(layers)
    want = [tuple(slot.shape_in_file(transpose) for slot in own) for own in _slots_by_layer(net)]
    held = {name: tuple(array.shape for array in own) for name, own in layers.items()}
    fits = [shape for own in want for shape in own] == [array.shape for array in in_order]
    if (has_order and fits) or sorted(want) != sorted(held.values()):
        return in_order  # which will be explained where it does not fit
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
    """Whether names differ in numbers only: "dense" counts as the one before "dense_1"."""
    return len({re.sub(r"_?\d+", "", name) for name in names}) <= 1
