"""Layers that shift and scale: by fixed or learned numbers, moments, or a continuum.

`fold_batch_norm` takes those of a batch into the weights before them, `split_fixed` those before
all weights out of the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike

from symspec.errors import DataError, OptionError, ShapeError
from symspec.networks.convolutions import Conv1D
from symspec.networks.layers import Dense, Dropout, Layer
from symspec.networks.network import Network
from symspec.networks.params import Params, Shape, Symbol
from symspec.networks.shaping import Identity
from symspec.networks.theta import as_theta
from symspec.safety.arrays import as_float_array, check_finite
from symspec.safety.options import check_count


class _Norm(Layer):
    """Normalised numbers, times gamma, plus beta."""

    scale: bool  # no fields: each normalisation has them at places of its own
    center: bool

    def _norm_shape(self, shape: Shape) -> Shape:
        """Shape of gamma and of beta."""
        raise NotImplementedError

    def param_shapes(self, shape: Shape) -> dict[str, Shape]:
        names = {"gamma": self.scale, "beta": self.center}
        return {name: self._norm_shape(shape) for name, is_there in names.items() if is_there}


@dataclass(frozen=True, eq=False)
class BatchNorm(_Norm):
    r"""Batch normalisation as it acts after training, by channel.

    .. math:: y = \gamma (x - m) / \sqrt{v + \epsilon} + \beta

    The moments m and v, the moving averages of training, are fixed; gamma and beta are parameters.

    Parameters
    ----------
    mean, variance : array_like, shape (channel,)
    epsilon : float, default 1e-3
        Keras's default; PyTorch's is 1e-5.
    scale, center : bool, default True
        Whether there are gamma and beta.
    axis : {-1, 0}, default -1
        Of the channels: the last one, or with PyTorch's (channel, position) the first.
    """

    mean: np.ndarray
    variance: np.ndarray
    epsilon: float = 1e-3
    scale: bool = True
    center: bool = True
    axis: int = -1

    def __post_init__(self) -> None:
        for name in ("mean", "variance"):
            array = np.array(as_float_array(getattr(self, name), name))
            check_finite(array, name, ("channel",) * array.ndim, "take it from the trained network")
            array.flags.writeable = False
            self._set(name, array)
        if self.mean.ndim != 1 or self.mean.shape != self.variance.shape:
            raise ShapeError(
                f"mean and variance should be vectors of one length, got {self.mean.shape},"
                f" {self.variance.shape}."
            )
        if not (self.epsilon >= 0 and (self.variance + self.epsilon > 0).all()):
            raise DataError(
                "variance + epsilon should be positive, got"
                f" {np.min(self.variance) + self.epsilon:g}."
            )
        if self.axis not in (-1, 0):
            raise OptionError(
                f"axis should be -1 (channels last) or 0 (channels first), got {self.axis!r}."
            )

    def out_shape(self, *shapes: Shape) -> Shape:
        if shapes[-1][self.axis] != self.mean.size:
            raise ShapeError(
                f"{self.kind} of {self.mean.size} channels stands where there are {shapes[-1]}."
            )
        return shapes[-1]

    def _norm_shape(self, shape: Shape) -> Shape:
        return (self.mean.size,)

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        tail = (slice(None), *[None] * (len(shape) - 1)) if self.axis == 0 else ...
        scale = (1 / np.sqrt(self.variance + self.epsilon)).astype(x.dtype)
        scale = scale * params["gamma"] if self.scale else pt.constant(scale)
        shift = -self.mean.astype(x.dtype) * scale
        shift = shift + params["beta"] if self.center else shift
        return x * scale[tail] + shift[tail]


@dataclass(frozen=True, eq=False)
class LayerNorm(_Norm):
    r"""Zero mean and unit variance over the last axes.

    .. math:: y = \gamma (x - m) / \sqrt{v + \epsilon} + \beta

    Parameters
    ----------
    epsilon : float, default 1e-3
        Keras's default; PyTorch's is 1e-5.
    scale, center : bool, default True
        Whether there are gamma and beta, of the shape of these axes.
    n_axes : int, default 1
        How many of the last axes.
    """

    epsilon: float = 1e-3
    scale: bool = True
    center: bool = True
    n_axes: int = 1

    def __post_init__(self) -> None:
        check_count(self.n_axes, "n_axes")
        if not self.epsilon >= 0:
            raise OptionError(f"epsilon should not be negative, got {self.epsilon}.")

    def _norm_shape(self, shape: Shape) -> Shape:
        if self.n_axes > len(shape):
            raise ShapeError(f"{self.kind} over {self.n_axes} axes stands where there are {shape}.")
        return shape[len(shape) - self.n_axes :]

    def n_floats(self, shape: Shape, out: Shape) -> int:
        return 3 * math.prod(out)

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        axes = tuple(range(-self.n_axes, 0))
        weight = np.asarray(1 / math.prod(self._norm_shape(shape)), x.dtype)
        x = x - pt.sum(x, axis=axes, keepdims=True) * weight
        variance = pt.sum(pt.sqr(x), axis=axes, keepdims=True) * weight
        x = x / pt.sqrt(variance + np.asarray(self.epsilon, x.dtype))
        x = x * params["gamma"] if self.scale else x
        return x + params["beta"] if self.center else x


@dataclass(frozen=True, eq=False)
class MedianNormalize(Layer):
    """Flux over its median, within the network so that derivatives know of it.

    Where the median changes hands from pixel to pixel the derivative jumps; it is that of the
    pixel, or of the mean of the two pixels, that is the median.
    """

    @property
    def is_smooth(self) -> bool:
        return False

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        if len(shape) != 1:
            raise ShapeError(f"{self.kind} takes a spectrum (pixel,), got {shape}: put it first.")
        order = pt.argsort(x, axis=-1, stable=True)
        places = np.arange(shape[0])
        middle = {(shape[0] - 1) // 2, shape[0] // 2}
        chosen = [pt.cast(pt.eq(places, order[..., i][..., None]), x.dtype) for i in sorted(middle)]
        median = pt.sum(x * sum(chosen[1:], chosen[0]), axis=-1, keepdims=True)
        return x / (median * np.asarray(1 / len(middle), x.dtype))


@dataclass(frozen=True, eq=False)
class ContinuumNormalize(Layer):
    r"""Flux over a continuum fitted to it by linear least squares.

    .. math:: y = x / (x P B)

    It is done within the network, so that derivatives know of it.

    Parameters
    ----------
    project : array_like, shape (pixel, coefficient)
        P gives the coefficients of a spectrum's continuum.
    basis : array_like, shape (coefficient, pixel)
        B gives the continuum of coefficients.
    """

    project: np.ndarray
    basis: np.ndarray

    def __post_init__(self) -> None:
        for name in ("project", "basis"):
            array = np.array(as_float_array(getattr(self, name), name))
            check_finite(array, name, ("entry",) * array.ndim, "check what it was fitted to")
            array.flags.writeable = False
            self._set(name, array)
        if self.project.ndim != 2 or self.project.shape != self.basis.shape[::-1]:
            raise ShapeError(
                "project should be (pixel, coefficient) and basis (coefficient, pixel), got"
                f" {self.project.shape}, {self.basis.shape}."
            )

    @classmethod
    def polynomial(
        cls, wavelength: Any, degree: int, *, pixels: Any = None, gaps: Any = ()
    ) -> ContinuumNormalize:
        """Continuum of Chebyshev polynomials of the wavelength, least squares of equal weights.

        Parameters
        ----------
        wavelength : array_like, shape (pixel,)
        degree : int
        pixels : array_like of bool, shape (pixel,), optional
            Those that are continuum; all by default.
        gaps : sequence of float, optional
            Wavelengths that part pieces, each with a polynomial of its own: the gaps between
            detectors.

        Raises
        ------
        DataError
            A piece has fewer continuum pixels than coefficients.
        """
        wavelength = as_float_array(wavelength, "wavelength")
        check_count(degree, "degree", least=0)
        pixels = np.ones(wavelength.shape, bool) if pixels is None else np.asarray(pixels, bool)
        piece = np.searchsorted(np.sort(np.asarray(gaps, float)), wavelength)
        n = degree + 1
        basis = np.zeros((n * (piece.max() + 1), wavelength.size))
        project = np.zeros(basis.shape[::-1])
        for i in np.unique(piece):
            here = np.flatnonzero(piece == i)
            used = here[pixels[here]]
            rows = slice(i * n, (i + 1) * n)
            if len(used) < n:
                raise DataError(
                    f"each piece should have at least {n} continuum pixels, got {len(used)} from"
                    f" {wavelength[here].min():g} to {wavelength[here].max():g}: lower degree, or"
                    " mark more pixels."
                )
            low = wavelength[here].min()
            high = wavelength[here].max()
            u = (2 * wavelength - low - high) / (high - low or 1)
            basis[rows, here] = np.polynomial.chebyshev.chebvander(u[here], degree).T
            project[used, rows] = np.linalg.pinv(basis[rows, used].T).T
        return cls(project, basis)

    def out_shape(self, *shapes: Shape) -> Shape:
        if shapes[-1] != self.project.shape[:1]:
            raise ShapeError(
                f"{self.kind} of {len(self.project)} pixels stands where there are {shapes[-1]}."
            )
        return shapes[-1]

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        return x / pt.dot(pt.dot(x, self.project.astype(x.dtype)), self.basis.astype(x.dtype))


def fold_batch_norm(net: Network, theta: ArrayLike) -> tuple[Network, np.ndarray]:
    r"""Fold batch normalisations that follow dense layers or convolutions into their weights.

    With :math:`s = \gamma / \sqrt{v + \epsilon}` a kernel becomes :math:`K s` and a bias :math:`(b
    - m) s + \beta`. Predictions stay as they are. Error bars do not: a prior acts on the folded
    weights then, and gamma and beta, which only rescale what the weights before them can do
    already, no longer add to them.

    Parameters
    ----------
    net : Network
    theta : array_like, shape (param,)

    Returns
    -------
    net : Network
        Normalisations that cannot be folded, as what comes before them is used elsewhere too, stay.
    theta : numpy.ndarray, shape (param,)
    """
    params = net.unpack(np.array(as_theta(theta, net.n_params, symbolic=False), np.float64))
    used = {source for sources in net.sources for source in sources}
    layers = list(net.layers)
    blocks = dict(params)
    for i in range(1, len(layers)):
        before = net.layers[i - 1]
        norm = net.layers[i]
        if not isinstance(before, Dense | Conv1D) or not isinstance(norm, BatchNorm):
            continue
        if i - 1 in used or not _share_channels(before, norm, net.shapes[i]):
            continue
        name = net.layer_names[i - 1]
        scale, shift = _find_affine(norm, params, net.layer_names[i])
        layers[i - 1] = replace(before, use_bias=True)
        layers[i] = Identity()
        blocks[f"{name}/kernel"] = params[f"{name}/kernel"] * scale
        blocks[f"{name}/bias"] = params.get(f"{name}/bias", 0.0) * scale + shift
    return _rebuild(net, layers, blocks)


def _share_channels(before: Dense | Conv1D, norm: BatchNorm, shape: Shape) -> bool:
    """Whether a layer with an output of this shape makes the channels that `norm` normalises."""
    is_first = isinstance(before, Conv1D) and before.data_format == "channels_first"
    return len(shape) == 1 or (norm.axis == 0) == is_first


def _find_affine(
    norm: BatchNorm, params: dict[str, np.ndarray], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Factor and shift of a normalisation."""
    scale = params.get(f"{name}/gamma", 1.0) / np.sqrt(norm.variance + norm.epsilon)
    return scale, params.get(f"{name}/beta", 0.0) - norm.mean * scale


def _rebuild(
    net: Network, layers: list[Layer], blocks: dict[str, np.ndarray]
) -> tuple[Network, np.ndarray]:
    """Network of other layers in the places of the old ones; references and blocks follow."""
    made: list[Layer] = []
    for layer, sources in zip(layers, net.sources, strict=True):
        made.append(type(layer)(*(made[source] for source in sources)) if sources else layer)
    new = net.with_layers(made)
    old_names = dict(zip(new.layer_names, net.layer_names, strict=True))
    parts = (block.name.partition("/") for block in new.layout.blocks)
    return new, new.pack(
        {f"{name}/{key}": blocks[f"{old_names[name]}/{key}"] for name, _, key in parts}
    )


def split_fixed(net: Network) -> tuple[Network | None, Network]:
    """The fixed layers before the first weights, None if there are none, and the rest.

    What makes numbers of order one of flux in any units is among the first. The rest takes what
    they make of a spectrum, and has the blocks of the whole.
    """
    n = 0
    while n < len(net.layers) - 1 and _is_fixed(net, n):
        n += 1
    goes_around = any(source < n for sources in net.sources[n:] for source in sources)
    if n == 0 or goes_around:
        return None, net
    rest = net.with_layers(net.layers[n:], net.widths[n])
    if [block.name for block in rest.layout.blocks] != [b.name for b in net.layout.blocks]:
        return None, net
    return Network(net.layers[:n], net.n_pixels), rest


def _is_fixed(net: Network, i: int) -> bool:
    """Whether a layer has no weights, draws nothing, and makes a vector."""
    has_weights = net.layer_names[i] in net.layout.layers
    return not (has_weights or isinstance(net.layers[i], Dropout) or len(net.shapes[i + 1]) > 1)
