"""One entry to all importers: the content of a file decides, not its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.compiled import compile_outputs
from symspec.errors import DataError, OptionError, ShapeError
from symspec.files.archives import read_network as read_archived_network
from symspec.files.importers.keras.files import import_keras, import_keras_hdf5
from symspec.files.importers.kinds import find_kind
from symspec.files.importers.onnx.files import import_onnx
from symspec.files.importers.payne import PAYNE_ACTIVATIONS, import_payne
from symspec.files.importers.safetensors import import_safetensors
from symspec.files.importers.torch import import_torch, refuse_positions_first
from symspec.files.matching import Heads
from symspec.files.stored.archive import is_archive
from symspec.networks.layers import Standardize, Unstandardize
from symspec.networks.network import Network
from symspec.safety.arrays import as_float_array
from symspec.safety.options import check_count

Imported = tuple[Network, np.ndarray]
_IMPORTERS: dict[str, Callable[..., Imported]] = {
    "keras": import_keras,
    "keras_hdf5": import_keras_hdf5,
    "torch": import_torch,
    "safetensors": import_safetensors,
    "onnx": import_onnx,
}
_CHANNELS_FIRST = ("torch", "safetensors")
_FLOAT32 = 1e-5  # of the largest output, besides the rounding of a pass in float32


def import_network(
    path: str | os.PathLike[str],
    *,
    net: Network | None = None,
    outputs: str | Sequence[str] | None = None,
    log_sigma: str | Sequence[str] | None = None,
    log_variance: str | Sequence[str] | None = None,
    n_labels: int | None = None,
    label_names: Sequence[str] | None = None,
    label_units: Sequence[str] | None = None,
    check: tuple[ArrayLike, ArrayLike] | None = None,
    flux_scaling: tuple[ArrayLike, ArrayLike] | None = None,
    label_scaling: tuple[ArrayLike, ArrayLike] | None = None,
    wavelength: ArrayLike | None = None,
    wavelength_unit: str = "Angstrom",
    wavelength_medium: str | None = None,
    activation: str | None = None,
    pixels: slice | ArrayLike | None = None,
) -> Imported:
    """Read a trained network of another program, which need not be installed; no code is run.

    The input of a whole model of Keras or ONNX becomes one flat vector: inputs of shape (pixel,
    channel) are flattened, the channel varying fastest, and several inputs, say a spectrum and
    photometry, are joined in the model's order. Several outputs are joined in the same way.

    Parameters
    ----------
    path : str or path
        The Payne's npz; Keras's `.keras`, whole or weights-only `.h5` and `.weights.h5`; PyTorch's
        state_dict, `.pt` or `.safetensors`; ONNX's `.onnx`, which needs the package onnx.
    net : Network, optional
        The layers that were trained, needed for files that hold only weights; a whole model's own
        description is then not read. Arrays are matched by order and shape, which cannot
        distinguish branches that are alike: `check` can. The moments of its BatchNorm layers,
        `np.zeros(c), np.ones(c)`, are placeholders for those in the file. PyTorch's arrays are
        (channel, position): give data_format="channels_first" to convolutions and pools, and axis=0
        and epsilon=1e-5 to BatchNorm.
    outputs : str or sequence of str, optional
        Names of the outputs that are labels, of a whole model with several, in this order; all by
        default, but for those named next. Others are left out, such as a classification. Keras
        calls outputs by their layers.
    log_sigma, log_variance : str or sequence of str, optional
        Names of the outputs that are logarithms of the standard deviations, or of the variances, of
        these labels, in their order. They come behind the labels, for `PredictedNoise`.
    n_labels : int, optional
        The labels are so many of the first outputs, if all come out of one layer, see `Network`.
    label_names, label_units : sequence of str, optional
        One for each label; default those of `net`, or label_0, label_1, ... without units.
    check : pair of array_like, optional
        Input (star, pixel) and output (star, label) of the network in the program that trained it,
        which the imported network must reproduce to float32 accuracy; behind the labels what else
        it gives.
    flux_scaling, label_scaling : pair of array_like, optional
        Mean and scale by which flux or labels were standardised for training, each a number or one
        per pixel (label). The network then takes flux, or gives labels, in their own units, and so
        does `check`.
    wavelength : array_like, shape (pixel,), optional
        Grid of the spectra that it takes; default that of `net`.
    wavelength_unit : str, default "Angstrom"
    wavelength_medium : {"air", "vacuum"}, optional
        Whether `wavelength` is of air or of vacuum, if that is known.
    activation : {"leaky_relu", "sigmoid"}, optional
        Only for The Payne, see `import_payne`; `check` finds it, too.
    pixels : slice or array, optional
        Only for The Payne, see `import_payne`.

    Returns
    -------
    Network
        `net` if given, with the moments of the file.
    theta : numpy.ndarray, shape (param,)
        The weights as float64.

    Raises
    ------
    FileNotFoundError
        There is nothing at `path`.
    FileFormatError
        The file is damaged or of another format, has layers that symspec lacks, or its arrays do
        not fit `net`.
    DataError
        The imported network does not predict `check`; the message gives the largest difference.
    OptionError
        An option is missing, or makes no sense for this file.
    MissingDependencyError
        The file is of ONNX, and the package onnx is not installed.
    """
    kind = find_kind(path)
    _check_options(path, kind, net, activation, pixels)
    heads = _find_heads(path, kind, net, outputs, log_sigma, log_variance)
    is_asked = kind == "payne" and check is not None and activation is None
    failures = []
    for candidate in PAYNE_ACTIVATIONS if is_asked else [activation]:
        if kind == "payne":
            read, theta = import_payne(path, activation=candidate, pixels=pixels)
        else:
            named = {} if heads is None else {"heads": heads}
            read, theta = _IMPORTERS[kind](path, net, **named)
            if check is None and kind in _CHANNELS_FIRST:
                refuse_positions_first(path, read)
        read = _complete(
            read,
            read.n_labels if n_labels is None else n_labels,
            log_variance is not None,
            label_names,
            label_units,
            flux_scaling,
            label_scaling,
            wavelength,
            wavelength_unit,
            wavelength_medium,
        )
        if (failure := _compare(path, read, theta, check)) is None:
            return read, theta
        failures.append(failure)
    raise DataError(min(failures)[1])


def read_network(path: str | os.PathLike[str], **options: Any) -> Imported:
    """Read a network with its weights from symspec's own archive or a file of another program.

    Parameters
    ----------
    path : str or path
        File that `write_network` or `write_laplace` wrote, or that `import_network` reads.
    **options
        Options of `import_network`; none for an archive, which needs none.

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
        raise OptionError(
            f"{path} is symspec's own archive and needs no options, got {', '.join(options)}."
        )
    return read_archived_network(path)


def _check_options(
    path: str | os.PathLike[str],
    kind: str,
    net: Network | None,
    activation: str | None,
    pixels: slice | ArrayLike | None,
) -> None:
    """Refuse options that make no sense for this kind of file."""
    if net is not None and not isinstance(net, Network):
        raise OptionError(
            f"net should be a symspec.Network, got {type(net).__name__}: build it of symspec's"
            " layers."
        )
    if kind != "payne" and (activation is not None or pixels is not None):
        raise OptionError(
            f"activation and pixels are for files of The Payne, got them for {path}: leave them"
            " out."
        )
    if kind == "payne" and net is not None:
        raise OptionError(
            f"net should be left out for {path}: a file of The Payne says its own layers."
        )


def _find_heads(
    path: str | os.PathLike[str],
    kind: str,
    net: Network | None,
    outputs: str | Sequence[str] | None,
    log_sigma: str | Sequence[str] | None,
    log_variance: str | Sequence[str] | None,
) -> Heads | None:
    """The outputs that are asked for by name; None if none are."""
    given = {"outputs": outputs, "log_sigma": log_sigma, "log_variance": log_variance}
    names = [name for name, value in given.items() if value is not None]
    if not names:
        return None
    if kind in ("payne", *_CHANNELS_FIRST) or net is not None:
        raise OptionError(
            f"{' and '.join(names)} name outputs of a whole model of Keras or ONNX, got them for"
            f" {'net=' if net is not None else path}: leave them out; the layers given as net= end"
            " in the outputs that they are to have."
        )
    if log_sigma is not None and log_variance is not None:
        raise OptionError("log_sigma and log_variance exclude each other: give one of them.")
    noise = log_variance if log_sigma is None else log_sigma
    return Heads(labels=_as_names(outputs), noise=_as_names(noise))


def _as_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(map(str, names))


def _complete(
    net: Network,
    n_labels: int,
    is_log_variance: bool,
    names: Sequence[str] | None,
    units: Sequence[str] | None,
    flux_scaling: tuple[ArrayLike, ArrayLike] | None,
    label_scaling: tuple[ArrayLike, ArrayLike] | None,
    wavelength: ArrayLike | None,
    wavelength_unit: str,
    wavelength_medium: str | None,
) -> Network:
    """Add to a network what its file does not say."""
    layers = list(net.layers)
    if flux_scaling is not None:
        layers.insert(0, Standardize(*_read_scaling(flux_scaling, net.n_pixels, "flux_scaling")))
    check_count(n_labels, "n_labels", most=net.n_outputs)
    n_behind = net.n_outputs - n_labels
    if is_log_variance:
        halves = np.concatenate([np.ones(n_labels), np.full(n_behind, 0.5)])
        layers.append(Unstandardize(np.zeros(net.n_outputs), halves))
    if n_behind not in (0, n_labels):
        raise ShapeError(
            f"the network should give one log standard deviation a label, got {n_behind} for"
            f" {n_labels} labels: name those of all labels, or leave them out."
        )
    if label_scaling is not None:
        scaling = Unstandardize(*_read_scaling(label_scaling, n_labels, "label_scaling"))
        layers.append(scaling.for_outputs(net.n_outputs))
    if n_labels == net.n_labels:
        names = net.label_names if names is None else names
        units = net.label_units if units is None else units
    if wavelength is None:
        wavelength = net.wavelength
        wavelength_unit = net.wavelength_unit
        wavelength_medium = net.wavelength_medium
    return Network(
        layers,
        net.n_pixels,
        n_labels=n_labels,
        label_names=names,
        label_units=units,
        wavelength=wavelength,
        wavelength_unit=wavelength_unit,
        wavelength_medium=wavelength_medium,
    )


def _read_scaling(scaling: tuple[ArrayLike, ArrayLike], n: int, name: str) -> list[np.ndarray]:
    """Mean and scale (n,) from a pair of numbers or arrays."""
    if len(scaling) != 2 or any(np.shape(part) not in ((), (n,)) for part in scaling):
        got = ", ".join(str(np.shape(part)) for part in scaling)
        raise ShapeError(
            f"{name} should be a mean and a scale, each a number or of shape ({n},), got shapes"
            f" {got}."
        )
    return [np.broadcast_to(as_float_array(part, name), n) for part in scaling]


def _compare(
    path: str | os.PathLike[str],
    net: Network,
    theta: np.ndarray,
    check: tuple[ArrayLike, ArrayLike] | None,
) -> tuple[float, str] | None:
    """Largest difference from known outputs, with a message; None if all are within accuracy."""
    if check is None:
        return None
    x, y = (
        np.atleast_2d(as_float_array(a, name))
        for a, name in zip(check, ("check[0]", "check[1]"), strict=True)
    )
    if x.shape[1:] != (net.n_pixels,) or y.shape != (len(x), net.n_outputs):
        raise ShapeError(
            f"check should be input (star, {net.n_pixels}) and output (star, {net.n_outputs}), got"
            f" {x.shape} and {y.shape}: give a sample of the network's own."
        )
    got = compile_outputs(net, backend="numpy")(theta, x)
    rounded = compile_outputs(net, backend="numpy", dtype="float32")(theta, x)
    rounding = np.abs(rounded - got).max(axis=0)
    allowed = _FLOAT32 * np.abs(y).max(axis=0) + 10 * rounding
    difference = np.abs(got - y)
    if (difference <= allowed).all():
        return None
    star, label = np.unravel_index(np.argmax(difference - allowed), difference.shape)
    names = [*net.label_names, *(f"log sigma of {name}" for name in net.label_names)]
    message = (
        f"{path} should predict check, got a largest difference of {difference.max():.3g}:"
        f" {names[label]!r} of star {star} is {got[star, label]:.8g} instead of"
        f" {y[star, label]:.8g}, where {allowed[label]:.1g} is float32 accuracy."
        f" {_explain(got, y)}"
    )
    return float(difference.max()), message


def _explain(got: np.ndarray, y: np.ndarray) -> str:
    """Explain wrong outputs (star, label), by a scaling if a straight line maps them to `y`."""
    spread = np.ptp(got, axis=0)
    if len(y) > 2 and (spread > 0).all():
        lines = [
            np.polynomial.polynomial.polyfit(g, known, 1)
            for g, known in zip(got.T, y.T, strict=True)
        ]
        mapped = np.stack([b + a * g for (b, a), g in zip(lines, got.T, strict=True)], axis=1)
        if (np.abs(mapped - y) <= 10 * _FLOAT32 * np.abs(y).max(axis=0)).all():
            mean, scale = ([float(f"{line[i]:.6g}") for line in lines] for i in (0, 1))
            return (
                f"The labels were scaled for training: give label_scaling=({mean}, {scale}), or the"
                " exact numbers."
            )
    return "The weights, a scaling or an activation differ."
