r"""Emulators of The Payne: npz files of ``w_array_0``, ``b_array_0``, ..., ``x_min``, ``x_max``.

Labels in, flux out: :math:`s = (x - x_{min}) / (x_{max} - x_{min}) - 1/2`, then :math:`a_0 = f(W_0
s + b_0)`, ..., flux :math:`= W_n a_{n-1} + b_n`, kernels (out, in). Ting et al. (2019),
doi:10.3847/1538-4357/ab2331. Either all pixels share the hidden layers, or each pixel has a network
of its own (El-Badry et al. 2018, doi:10.1093/mnras/sty240), whose arrays have the pixel as their
first axis.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import FileFormatError, OptionError
from symspec.files.matching import FileArray, fill_network, reading
from symspec.networks.convolutions import LocallyConnected1D
from symspec.networks.layers import Activation, Dense, Layer, Standardize
from symspec.networks.network import Network
from symspec.networks.shaping import Flatten, Reshape
from symspec.safety.arrays import check_finite
from symspec.safety.named_arrays import open_npz
from symspec.safety.options import check_choice

# the file does not say which; both are in use
PAYNE_ACTIVATIONS: dict[str, dict[str, Any]] = {
    "leaky_relu": {"negative_slope": 0.01},
    "sigmoid": {},
}
_WHAT = "an npz file of The Payne"


def import_payne(
    path: str | os.PathLike[str],
    *,
    activation: str | None = None,
    pixels: slice | ArrayLike | None = None,
) -> tuple[Network, np.ndarray]:
    """Read an emulator of The Payne, which predicts flux from labels in their own units.

    Parameters
    ----------
    path : str or path
    activation : {"leaky_relu", "sigmoid"}, optional
        Activation of the hidden layers, which the file does not name: "leaky_relu" (slope 0.01)
        since The Payne's pixels share their layers, "sigmoid" before. The default for networks of
        one pixel each is "sigmoid".
    pixels : slice or array of int or bool, optional
        Pixels to predict; default all.

    Returns
    -------
    Network
        Its inputs ("pixels") are a star's labels, and its outputs ("labels") the flux.
    theta : numpy.ndarray, shape (param,)

    Raises
    ------
    FileFormatError
        The file is damaged, or its arrays do not fit each other.
    OptionError
        `activation` is missing, or `pixels` are not in the file.
    """
    kernels, biases, low, high = _read(path)
    is_per_pixel = kernels[0].ndim == 3
    name = _choose_activation(path, activation, is_per_pixel)
    function = Activation(name, PAYNE_ACTIVATIONS[name])
    chosen = _find_pixels(pixels, len(biases[-1]))
    of_pixels = slice(None) if is_per_pixel else slice(-1, None)
    for arrays in (kernels, biases):
        arrays[of_pixels] = [array[chosen] for array in arrays[of_pixels]]
    with reading(path, _WHAT):
        if is_per_pixel:
            layers, arrays = _build_per_pixel(path, kernels, biases, function)
        else:
            layers, arrays = _build_shared(kernels, biases, function)
        net = Network([Standardize((low + high) / 2, high - low), *layers], len(low))
    names = [f"{kind}_array_{i}" for i in range(len(kernels)) for kind in "wb"]
    found = list(map(FileArray.of, names, arrays))
    return fill_network(path, net, found, transpose=True)


def list_payne_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Find the shapes of the arrays by name; no array is read."""
    with reading(path, _WHAT), open_npz(path) as file:
        return {name: tuple(file.find_shape(name)) for name in file.names}


def _choose_activation(
    path: str | os.PathLike[str], activation: str | None, is_per_pixel: bool
) -> str:
    if activation is not None:
        return check_choice(activation, "activation", tuple(PAYNE_ACTIVATIONS))
    if not is_per_pixel:
        raise OptionError(
            f"activation should be given for {path}, which does not say it: 'leaky_relu' for files"
            " of The Payne's present code, 'sigmoid' for older ones; or give check=(labels, flux),"
            " which tells them apart."
        )
    return "sigmoid"


def _read(
    path: str | os.PathLike[str],
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    with reading(path, _WHAT), open_npz(path) as file:
        n_layers = sum(name.startswith("w_array_") for name in file.names)
        names = [f"{kind}_array_{i}" for kind in "wb" for i in range(n_layers)] + ["x_min", "x_max"]
        missing = [name for name in names if name not in file.names]
        if missing or n_layers < 2:
            raise FileFormatError(
                f"{path} should hold w_array_0, b_array_0, ..., x_min and x_max, got"
                f" {', '.join(file.names[:20])}: give a file that The Payne's training wrote."
            )
        arrays = {name: _as_floats(path, name, file.load(name)) for name in names}
    low = arrays["x_min"].ravel()
    high = arrays["x_max"].ravel()
    if low.shape != high.shape:
        raise FileFormatError(
            f"{path}: x_min and x_max should be of one length, got {low.size} and {high.size}."
        )
    kernels, biases = ([arrays[f"{kind}_array_{i}"] for i in range(n_layers)] for kind in "wb")
    _check_axes(path, kernels, biases)
    return kernels, biases, low, high


def _check_axes(
    path: str | os.PathLike[str], kernels: list[np.ndarray], biases: list[np.ndarray]
) -> None:
    n_layers = len(kernels)
    if kernels[0].ndim not in (2, 3) or not biases[-1].ndim:
        raise FileFormatError(
            f"{path}: w_array_0 should have shape (neuron, label) or (pixel, neuron, label) and"
            f" b_array_{n_layers - 1} (pixel,), got {kernels[0].shape} and {biases[-1].shape}: the"
            " file is of another program."
        )
    of_pixels = [*kernels, *biases] if kernels[0].ndim == 3 else [kernels[-1], biases[-1]]
    if any(a.shape[:1] != biases[-1].shape for a in of_pixels):
        raise FileFormatError(
            f"{path} should hold a network (pixel, neuron, label) for each pixel, or one with"
            f" (pixel, neuron) last, got kernels of shapes {[w.shape for w in kernels]} and biases"
            f" of {[b.shape for b in biases]}: damaged."
        )


def _as_floats(path: str | os.PathLike[str], name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise FileFormatError(
            f"{path}: {name!r} should hold numbers, got {array.dtype}: write the file again."
        )
    array = np.asarray(array, np.float64)
    check_finite(
        array, name, ("entry",) * array.ndim, "its training diverged or the file is damaged"
    )
    return array


def _find_pixels(pixels: slice | ArrayLike | None, n_pixels: int) -> np.ndarray:
    if pixels is None:
        return np.arange(n_pixels)
    try:
        chosen = np.arange(n_pixels)[pixels if isinstance(pixels, slice) else np.asarray(pixels)]
    except (IndexError, TypeError, ValueError) as error:
        raise OptionError(
            f"pixels should choose from the {n_pixels} in the file, got {pixels!r}: give slice(0,"
            f" 100), whole numbers below {n_pixels}, or one boolean a pixel."
        ) from error
    if chosen.ndim != 1 or chosen.size == 0:
        raise OptionError(
            f"pixels should choose one or more of the {n_pixels} in the file, got {pixels!r}."
        )
    return chosen


def _build_shared(
    kernels: list[np.ndarray], biases: list[np.ndarray], function: Activation
) -> tuple[list[Layer], list[np.ndarray]]:
    """Build layers that all pixels share but for the last; with their arrays."""
    layers: list[Layer] = [layer for b in biases for layer in (Dense(b.size), function)]
    return layers[:-1], [array for pair in zip(kernels, biases, strict=True) for array in pair]


def _as_kernels(array: np.ndarray) -> np.ndarray:
    """Array (pixel, in) or (pixel,), of layers with one output, as (pixel, out, in)."""
    if array.ndim == 3:
        return array
    return array[:, None, :] if array.ndim == 2 else array[:, None, None]


def _build_per_pixel(
    path: str | os.PathLike[str],
    kernels: list[np.ndarray],
    biases: list[np.ndarray],
    function: Activation,
) -> tuple[list[Layer], list[np.ndarray]]:
    """Build layers of one network a pixel; with their arrays.

    The first layer sees all labels, the others see their own pixel.
    """
    n = len(biases[-1])
    shaped = [_as_kernels(w) for w in kernels]
    flat = [b.reshape(n, -1) for b in biases]
    widths = [shaped[0].shape[2], *(b.shape[1] for b in flat)]
    expected = [(n, n_out, n_in) for n_in, n_out in pairwise(widths)]
    if [w.shape for w in shaped] != expected or widths[-1] != 1:
        raise FileFormatError(
            f"{path} should hold a network (pixel, neuron, label) for each pixel, got kernels of"
            f" shapes {[w.shape for w in kernels]} and biases of {[b.shape for b in biases]}: the"
            " file is damaged."
        )
    layers: list[Layer] = [Dense(n * widths[1]), Reshape((n, widths[1]))]
    arrays = [shaped[0].reshape(-1, widths[0]), flat[0].ravel()]
    for width, w, b in zip(widths[2:], shaped[1:], flat[1:], strict=True):
        layers += [function, LocallyConnected1D(width, 1)]
        arrays += [np.moveaxis(w, 0, -1), b]  # (out, in, pixel): the file's order is (out, in)
    return [*layers, Flatten()], arrays
