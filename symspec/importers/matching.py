"""Arrays found in a foreign file, laid against the blocks of a network by order and shape."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from symspec.checks import check_finite
from symspec.errors import FileFormatError, OptionError, SymspecError, TooLargeError
from symspec.networks import Network

LARGEST_RATIO = 50  # of what a file unpacks to: weights of 32 bits hardly shrink
SMALL = 16 * 2**20  # bytes; as little as this needs no further check
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
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


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
    # what a damaged file claims may break a layer's rules, or make the libraries below raise anything at all
    except Exception as error:
        got = str(error) if isinstance(error, SymspecError) else f"{type(error).__name__}: {error}"
        raise FileFormatError(
            f"{path} should be {what} in good order, got a damaged one ({got}): write or copy it again."
        ) from error


def bytes_allowed(path: str | os.PathLike[str]) -> int:
    """Bytes that a file may unpack to, all in all."""
    return max(SMALL, LARGEST_RATIO * Path(path).stat().st_size)


def match_arrays(
    path: str | os.PathLike[str], net: Network, found: Sequence[StoredArray], *, transpose: bool = False
) -> np.ndarray:
    """Read the arrays of a file into the blocks of `net`, first to first and last to last.

    Parameters
    ----------
    path : str or path
        Used in errors.
    net : Network
    found : sequence of StoredArray
        In the order of the layers, kernel before bias.
    transpose : bool, default False
        Whether the file keeps kernels as (out, in).

    Returns
    -------
    theta : numpy.ndarray, shape (param,)

    Raises
    ------
    FileFormatError
        Numbers or shapes of the arrays are not those of the blocks (a table says which), or a number is not finite.
    """
    expected = [block.shape[::-1] if transpose else block.shape for block in net.layout.blocks]
    if expected != [array.shape for array in found]:
        raise FileFormatError(_explain(path, net, expected, found, transpose))
    if 2 * net.n_params > bytes_allowed(path):
        raise FileFormatError(
            f"{path} should hold {net.n_params:,} weights, got {Path(path).stat().st_size:,} bytes: it is damaged."
        )
    blocks = {}
    for block, stored in zip(net.layout.blocks, found, strict=True):
        array = read_finite(path, stored)
        blocks[block.name] = array.T if transpose else array
    return net.pack(blocks)


def read_finite(path: str | os.PathLike[str], stored: StoredArray) -> np.ndarray:
    """Read one array as float64, refusing what is not finite."""
    with reading(path, "a file of weights"):
        array = stored.read()
        if array.dtype.kind != "f":
            raise FileFormatError(
                f"{path}: {stored.name!r} should hold floats, got {array.dtype}: export the trained weights as floats."
            )
        with np.errstate(invalid="ignore"):  # of some NaN, which is refused below
            array = np.asarray(array, np.float64)
        check_finite(array, stored.name, ("entry",) * array.ndim, "its training diverged or the file is damaged")
    return array


def _explain(
    path: str | os.PathLike[str],
    net: Network,
    expected: Sequence[tuple[int, ...]],
    found: Sequence[StoredArray],
    transpose: bool,
) -> str:
    blocks = [block.name for block in net.layout.blocks]
    rows, is_wrong = [], []
    for i in range(max(len(blocks), len(found))):
        want = f"{blocks[i]} {expected[i]}" if i < len(blocks) else "nothing"
        got = f"{found[i].name} {found[i].shape}" if i < len(found) else "nothing"
        is_wrong.append(i >= len(blocks) or i >= len(found) or expected[i] != found[i].shape)
        rows.append(f"  {'!' if is_wrong[-1] else ' '} expected {want}, found {got}")
    first = is_wrong.index(True)
    start = max(0, first - 3)  # what fits before the first mismatch needs no telling
    shown = rows[start : start + 24]
    shown = [f"    ({start} before these fit)"] * bool(start) + shown
    shown += [f"    ({len(rows) - start - 24} more)"] * (len(rows) - start > 24)
    is_turned = len(blocks) == len(found) and all(
        want in (a.shape, a.shape[::-1]) for want, a in zip(expected, found, strict=True)
    )
    advice = _TRANSPOSED if is_turned else "give net= with the layers that the file was trained with"
    turned = ", kernels as (out, in)" if transpose else ""
    sizes = "-".join(str(size) for size in [net.n_pixels, *(out for _, out in net.dense_shapes.values())])
    wanted = f"{len(blocks)} arrays of a network {sizes} in this order{turned}"
    return f"{path} should hold the {wanted}, got {len(found)}: {advice}.\n" + "\n".join(shown)


def refuse_without_layers(path: str | os.PathLike[str], found: Sequence[StoredArray]) -> OptionError:
    """Error about a missing `net`, to be raised."""
    shapes = ", ".join(f"{array.name} {array.shape}" for array in found[:12])
    return OptionError(
        f"net should be given for {path}, a file of weights without a description of its layers, which holds "
        f"{shapes or 'no arrays'}: build it, e.g. symspec.mlp([n_pixels, ..., n_labels], activation='relu')."
    )


def natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Key that sorts numbers inside names as numbers: layer 2 before layer 10, and "dense" before "dense_1"."""
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part[:18]) if part.isdigit() else 0, part) for part in parts if part]


def arrange_layers(
    path: str | os.PathLike[str], net: Network, layers: Mapping[str, list[StoredArray]], *, transpose: bool = False
) -> list[list[StoredArray]]:
    """Put layers whose file does not keep their order into the order of `net`.

    Where their names differ in numbers only, these say it; else their shapes do, if they leave no choice.

    Parameters
    ----------
    path : str or path
        Used in errors.
    net : Network
    layers : mapping of str to list of StoredArray
        Arrays of each layer by its name, in natural order of the names.
    transpose : bool, default False
        Whether the file keeps kernels as (out, in).

    Raises
    ------
    FileFormatError
        Layers of equal shapes have names that do not say which comes first.
    """
    if len(set(map(_without_numbers, layers))) <= 1:
        return list(layers.values())
    by_layer = itertools.groupby(net.layout.blocks, key=lambda block: block.name.partition("/")[0])
    want = [tuple(b.shape[::-1] if transpose else b.shape for b in blocks) for _, blocks in by_layer]
    held = {name: tuple(array.shape for array in own) for name, own in layers.items()}
    if sorted(want) != sorted(held.values()):
        return list(layers.values())  # which will not fit, and will be explained
    waiting = {shapes: [name for name in layers if held[name] == shapes] for shapes in want}
    for alike in waiting.values():
        if len(set(map(_without_numbers, alike))) > 1:
            raise FileFormatError(
                f"{path} should tell the order of its layers, got layers of equal shapes named {', '.join(alike)}, of "
                "which any may come first: save a sequential model, whose layers are numbered, or in PyTorch with "
                "torch.save, which keeps the order."
            )
    return [layers[waiting[shapes].pop(0)] for shapes in want]


def _without_numbers(name: str) -> str:
    return re.sub(r"_?\d+", "", name)  # "dense" counts as the one before "dense_1"
