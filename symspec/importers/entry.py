"""One entry to all importers: what a file is, is told by its content."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from symspec.archives import is_archive
from symspec.archives import read_network as read_archived_network
from symspec.checks import as_float_array
from symspec.compiled import compile_predict
from symspec.errors import DataError, FileFormatError, OptionError, ShapeError
from symspec.importers.keras_files import import_keras, import_keras_hdf5
from symspec.importers.matching import bytes_allowed, reading
from symspec.importers.payne import PAYNE_ACTIVATIONS, import_payne
from symspec.importers.safetensors_files import import_safetensors
from symspec.importers.torch_files import import_torch
from symspec.networks import Network

Imported = tuple[Network, np.ndarray]
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_IMPORTERS = {
    "keras": import_keras,
    "keras_hdf5": import_keras_hdf5,
    "torch": import_torch,
    "safetensors": import_safetensors,
}
_KNOWN = "a network of The Payne (npz), Keras (.keras, .h5) or PyTorch (.pt, .safetensors)"
_FLOAT32 = 1e-5  # of the largest output; sums over many inputs are given what they lose in float32 besides


def import_network(
    path: str | os.PathLike[str],
    *,
    net: Network | None = None,
    label_names: Sequence[str] | None = None,
    label_units: Sequence[str] | None = None,
    check: tuple[Any, Any] | None = None,
    activation: str | None = None,
    pixels: slice | np.ndarray | None = None,
) -> Imported:
    """Read a trained network of another program, of which nothing need be installed and nothing is run.

    Parameters
    ----------
    path : str or path
        The Payne's npz; Keras's `.keras`, whole or weights-only `.h5` and `.weights.h5`; PyTorch's state_dict, `.pt`
        or `.safetensors`. The content decides, not the name.
    net : Network, optional
        The layers that the file was trained with: needed where a file holds weights only. For a whole Keras model
        its own description is then left unread.
    label_names, label_units : sequence of str, optional
        One an output; default those of `net`, or label_0, label_1, ... without units.
    check : pair of array_like, optional
        Input (star, pixel) and output (star, label) of the network in the program that trained it: what was imported
        must give the same to float32 accuracy.
    activation : {"leaky_relu", "sigmoid"}, optional
        For The Payne only, see `import_payne`; `check` finds it, too.
    pixels : slice or array, optional
        For The Payne only, see `import_payne`.

    Returns
    -------
    Network
    theta : numpy.ndarray, shape (param,)
        The weights as float64.

    Raises
    ------
    FileNotFoundError
        When there is nothing at `path`.
    FileFormatError
        The file is foreign or damaged, has layers that symspec has not, or its arrays do not fit `net`.
    DataError
        The network imported does not predict `check`; the message has the largest difference.
    OptionError
        An option is missing, or makes no sense for this file.
    """
    kind = find_kind(path)
    if net is not None and not isinstance(net, Network):
        raise OptionError(f"net should be a symspec.Network, got {type(net).__name__}: build it of symspec's layers.")
    if kind != "payne" and (activation is not None or pixels is not None):
        raise OptionError(f"activation and pixels are for files of The Payne, got them for {path}: leave them out.")
    if kind == "payne" and net is not None:
        raise OptionError(f"net should be left out for {path}: a file of The Payne says its own layers.")
    is_asked = kind == "payne" and check is not None and activation is None
    failures = []
    for candidate in PAYNE_ACTIVATIONS if is_asked else [activation]:
        if kind == "payne":
            read, theta = import_payne(path, activation=candidate, pixels=pixels)
        else:
            read, theta = _IMPORTERS[kind](path, net)
        read = _rename(read, label_names, label_units)
        if (failure := _compare(path, read, theta, check)) is None:
            return read, theta
        failures.append(failure)
    raise DataError(min(failures)[1])


def read_network(path: str | os.PathLike[str], **options: Any) -> Imported:
    """Read a network with its weights: symspec's own archive, or a file of another program.

    Parameters
    ----------
    path : str or path
        Of `write_network` or `write_laplace`, or any that `import_network` reads.
    **options
        Of `import_network`; none for an archive, which holds all that is needed.

    Returns
    -------
    Network
    theta : numpy.ndarray, shape (param,)

    Raises
    ------
    FileNotFoundError, FileFormatError, DataError, OptionError
        As `import_network`; also when options are given for an archive.
    """
    if find_kind(path) != "keras_hdf5" or not is_archive(path):
        return import_network(path, **options)
    if options:
        raise OptionError(f"{path} is symspec's own archive and needs no options, got {', '.join(options)}.")
    return read_archived_network(path)


def find_kind(path: str | os.PathLike[str]) -> str:
    """Tell a file of weights by its content.

    Returns
    -------
    str
        "payne", "keras", "keras_hdf5", "torch" or "safetensors".

    Raises
    ------
    FileNotFoundError, FileFormatError
        There is nothing, or nothing that is understood.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} should be a file, got nothing there: check the path and its spelling.")
    if not path.is_file() and not path.is_dir():
        raise FileFormatError(f"{path} should be a file of {_KNOWN}, got no regular file: give another.")
    if path.is_dir():
        advice = "of a TensorFlow SavedModel, save it again as model.save('model.keras')"
        raise FileFormatError(f"{path} should be a file of {_KNOWN}, got a directory: {advice}.")
    with reading(path, "a file"), path.open("rb") as stream:
        start = stream.read(4096)
    if any(start[offset:].startswith(_HDF5_MAGIC) for offset in (0, 512, 1024, 2048)):
        return "keras_hdf5"
    if start.startswith(b"PK\x03\x04"):
        return _find_kind_of_zip(path)
    if start[8:9] == b"{" and start[5:8] == b"\0\0\0":
        return "safetensors"
    got = f"a file that starts with {start[:8]!r}"
    advice = "it may be truncated, or of another format"
    if start.startswith(b"\x80"):
        got, advice = "a bare pickle, which is never opened", "save it with torch.save of PyTorch 1.6 or newer"
    raise FileFormatError(f"{path} should be {_KNOWN}, got {got}: {advice}.")


def _find_kind_of_zip(path: Path) -> str:
    with reading(path, f"a zip file of {_KNOWN}"), zipfile.ZipFile(path) as archive:
        held = {info.filename: info.file_size for info in archive.infolist()}
    if (total := sum(held.values())) > bytes_allowed(path):
        raise FileFormatError(
            f"{path} should unpack to {bytes_allowed(path):,} bytes at most, got a claim of {total:,} in a file of "
            f"{path.stat().st_size:,}: it is damaged, or made to fill the memory."
        )
    if "config.json" in held or "model.weights.h5" in held:
        return "keras"
    if "w_array_0.npy" in held:
        return "payne"
    if any(name.split("/")[1:] == ["data.pkl"] for name in held):
        return "torch"
    raise FileFormatError(f"{path} should be {_KNOWN}, got a zip file of {', '.join(list(held)[:8])}: give another.")


def _rename(net: Network, names: Sequence[str] | None, units: Sequence[str] | None) -> Network:
    names, units = net.label_names if names is None else names, net.label_units if units is None else units
    return Network(net.layers, net.n_pixels, label_names=names, label_units=units)


def _compare(
    path: str | os.PathLike[str], net: Network, theta: np.ndarray, check: tuple[Any, Any] | None
) -> tuple[float, str] | None:
    """Largest difference from the outputs known for some inputs, and what to say of it; None where all is well."""
    if check is None:
        return None
    x, y = (np.atleast_2d(as_float_array(a, name)) for a, name in zip(check, ("check[0]", "check[1]"), strict=True))
    if x.shape[1:] != (net.n_pixels,) or y.shape != (len(x), net.n_labels):
        raise ShapeError(
            f"check should be input (star, {net.n_pixels}) and output (star, {net.n_labels}), got {x.shape} and "
            f"{y.shape}: give a sample of the network's own."
        )
    got = compile_predict(net, backend="numpy")(theta, x)
    rounding = np.abs(compile_predict(net, backend="numpy", dtype="float32")(theta, x) - got).max(axis=0)
    allowed = _FLOAT32 * np.abs(y).max(axis=0) + 10 * rounding
    difference = np.abs(got - y)
    if (difference <= allowed).all():
        return None
    star, label = np.unravel_index(np.argmax(difference - allowed), difference.shape)
    return float(difference.max()), (
        f"{path} should predict check, got a largest difference of {difference.max():.3g}: "
        f"{net.label_names[label]!r} of star {star} is {got[star, label]:.8g} instead of {y[star, label]:.8g}, where "
        f"{allowed[label]:.1g} is float32 accuracy. The weights, a scaling or an activation differ."
    )
