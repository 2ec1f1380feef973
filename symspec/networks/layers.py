"""Layers: each turns a symbolic array and its named parameter blocks into the next array.

A layer is a frozen description. It says the shapes of its output and of its parameters for an input
of a given shape, (feature,) or (position, channel), and builds the graph for one spectrum or for
many with a star axis before; it holds no weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike

from symspec.errors import DataError, OptionError, ShapeError
from symspec.networks.activations import ACTIVATIONS, check_activation, is_smooth_activation
from symspec.networks.params import Params, Shape, Symbol
from symspec.safety.arrays import as_float_array
from symspec.safety.options import check_choice, check_count

ROUNDING = 1e-12  # of the mean of a column that never varies


@dataclass(frozen=True, eq=False)
class Layer:
    """Base of all layers: no parameters, and what comes out is shaped as what goes in.

    Attributes
    ----------
    elementwise : bool
        Whether each feature that comes out depends on the same feature that goes in and on nothing
        else, parameters included: where all layers between the dense ones are so, the Hessian has a
        closed form.
    others : tuple of Layer
        Layers that stand before it in the network, and whose outputs go in before that of the layer
        above.
    """

    elementwise: ClassVar[bool] = False

    @property
    def others(self) -> tuple[Layer, ...]:
        """Layers that it refers to."""
        return ()

    @property
    def is_smooth(self) -> bool:
        """Whether its output has a continuous derivative, without kinks."""
        return True

    @property
    def kind(self) -> str:
        """Name of the layer's kind, the stem of its blocks' names."""
        return type(self).__name__.lower()

    def _set(self, name: str, value: Any) -> None:
        """Set a field of this frozen description, while it is being made."""
        object.__setattr__(self, name, value)

    def out_shape(self, *shapes: Shape) -> Shape:
        """Shape of what comes out when arrays of these shapes go in, those of `others` first."""
        return shapes[-1]

    def param_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Shape of each parameter block for an input of this shape."""
        return {}

    def find_fans(self, kernel: Shape) -> tuple[int, int]:
        """Inputs of each output, and outputs of each input, of a kernel of this shape."""
        n_positions = math.prod(kernel[:-2])
        return n_positions * kernel[-2], n_positions * kernel[-1]

    def n_floats(self, shape: Shape, out: Shape) -> int:
        """Numbers in an output of shape `out`, and in intermediates from an input of `shape`."""
        return math.prod(out)

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        """Graph of the layer's output.

        Parameters
        ----------
        x : symbol
            Its input, of this shape or with axes for stars before it.
        params : mapping of str to symbol
            The layer's own blocks, without its name before theirs.
        shape : tuple of int
        *others : symbol
            Outputs of the layers of `others`.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Dense(Layer):
    r"""Fully connected layer :math:`z = x W + b` over the last axis, kernel (in, out) as in Keras.

    Parameters
    ----------
    units : int
        Features that come out.
    use_bias : bool, default True
        Whether to add b.
    """

    units: int
    use_bias: bool = True

    def __post_init__(self) -> None:
        check_count(self.units, "units")

    def out_shape(self, *shapes: Shape) -> Shape:
        return (*shapes[-1][:-1], self.units)

    def param_shapes(self, shape: Shape) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {"kernel": (shape[-1], self.units)}
        if self.use_bias:
            shapes["bias"] = (self.units,)
        return shapes

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        z = multiply_last(x, params["kernel"])
        return z + params["bias"] if self.use_bias else z


@dataclass(frozen=True, eq=False)
class Activation(Layer):
    """Elementwise function by name.

    Parameters
    ----------
    function : str
        Name of a function in `symspec.ACTIVATIONS`, such as "relu", "tanh" or "gelu".
    options : dict, optional
        Keyword arguments of that function, such as {"negative_slope": 0.1} of "leaky_relu".

    Raises
    ------
    OptionError
        The name or an option is unknown.
    """

    elementwise: ClassVar[bool] = True
    function: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_activation(self.function, self.options)

    @property
    def is_smooth(self) -> bool:
        return is_smooth_activation(self.function, self.options)

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        return ACTIVATIONS[self.function](x, **self.options)


@dataclass(frozen=True, eq=False)
class PReLU(Layer):
    r"""Leaky relu whose slopes are parameters: x where positive, :math:`\alpha x` elsewhere.

    Parameters
    ----------
    shape : tuple of int
        Of alpha, with the axes of one spectrum's array, or its last ones; of length 1 where a slope
        is shared along an axis: (1,) is one for all, (1, channel) one a channel.
    """

    shape: Shape

    def __post_init__(self) -> None:
        self._set("shape", tuple(self.shape))
        for n in self.shape:
            check_count(n, "shape")

    @property
    def is_smooth(self) -> bool:
        return False

    def out_shape(self, *shapes: Shape) -> Shape:
        last = shapes[-1][len(shapes[-1]) - len(self.shape) :]
        if len(last) < len(self.shape) or any(
            n not in (1, length) for n, length in zip(self.shape, last, strict=True)
        ):
            raise ShapeError(
                f"{self.kind} with slopes {self.shape} stands where there are {shapes[-1]}."
            )
        return shapes[-1]

    def param_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"alpha": self.shape}

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        return pt.switch(x > 0, x, params["alpha"] * x)


@dataclass(frozen=True, eq=False)
class Dropout(Layer):
    """Random zeroing of features in training, where kept ones are scaled up; else the identity.

    Parameters
    ----------
    rate : float
        Fraction zeroed, 0 <= rate < 1.
    """

    elementwise: ClassVar[bool] = True
    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise OptionError(f"rate should be at least 0 and below 1, got {self.rate}.")

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        """Return the input; a training graph passes its random mask as params["mask"]."""
        return x * params["mask"] if "mask" in params else x

    def draw_mask(self, shape: Shape, rng: np.random.Generator, dtype: str) -> np.ndarray:
        """Zeros, and 1 / (1 - rate) where a feature is kept."""
        return ((rng.random(shape) >= self.rate) / (1 - self.rate)).astype(dtype)


@dataclass(frozen=True, eq=False)
class _Affine(Layer):
    elementwise: ClassVar[bool] = True
    mean: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        mean = np.array(as_float_array(self.mean, "mean"))
        scale = np.array(as_float_array(self.scale, "scale"))
        if mean.ndim != 1 or mean.shape != scale.shape:
            raise ShapeError(
                f"mean and scale should be vectors of one length, got {mean.shape}, {scale.shape}."
            )
        if not (np.isfinite(mean).all() and np.isfinite(scale).all() and (scale > 0).all()):
            bad = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(scale) & (scale > 0)))
            raise DataError(
                f"mean should be finite and scale positive, got mean {mean[bad[0]]}, scale"
                f" {scale[bad[0]]} at position {bad[0]} ({bad.size} such): a feature that never"
                " varies carries nothing; drop it or give it scale 1."
            )
        mean.flags.writeable = scale.flags.writeable = False
        self._set("mean", mean)
        self._set("scale", scale)

    def out_shape(self, *shapes: Shape) -> Shape:
        if shapes[-1][-1] != self.mean.size:
            raise ShapeError(
                f"{self.kind} of {self.mean.size} features stands where there are {shapes[-1][-1]}."
            )
        return shapes[-1]

    @classmethod
    def of(cls, array: ArrayLike, *, constant: str = "refuse") -> Self:
        """Layer with mean and standard deviation of each column of `array` (star, feature).

        NaN is left out.

        Parameters
        ----------
        array : array_like, shape (star, feature)
        constant : {"refuse", "keep"}
            What becomes of columns that never vary: an error, or their own size for a scale (that
            of the largest scale for zeros), which follows the units as every other scale does.

        Raises
        ------
        DataError
            A column never varies, or has fewer than two numbers.
        """
        check_choice(constant, "constant", ("refuse", "keep"))
        values = as_float_array(array, "array")
        if values.ndim != 2 or (np.isfinite(values).sum(axis=0) < 2).any():
            raise DataError(
                f"{cls.__name__}.of needs (star, feature) with at least two numbers in each column,"
                f" got shape {values.shape}: a mean and a spread cannot come from one star."
            )
        mean, scale = _find_moments(values)
        flat = np.flatnonzero(scale <= ROUNDING * np.abs(mean))
        if flat.size and constant == "refuse":
            raise DataError(
                f"each column should vary from star to star, got {flat.size} of zero variance, the"
                f" first at position {flat[0]} (all {mean[flat[0]]:g}): drop these columns, or"
                f' build {cls.__name__}.of(array, constant="keep").'
            )
        scale[flat] = np.abs(mean[flat])
        scale[scale == 0] = scale.max() or 1.0
        return cls(mean, scale)


def _find_moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (feature,) of what is no NaN, to the last digits."""
    mean = np.nanmean(values, axis=0)
    mean = mean + np.nanmean(values - mean, axis=0)  # a long sum has lost some
    return mean, np.sqrt(np.nanmean((values - mean) ** 2, axis=0))


class Standardize(_Affine):
    """Fixed layer (x - mean) / scale: flux in, numbers of order one out.

    Parameters
    ----------
    mean, scale : array_like, shape (feature,)
        In the units of the flux; scale positive.
    """

    @classmethod
    def centering(cls, array: ArrayLike) -> Self:
        """Layer with the mean of each column of `array` (star, feature), and one scale for all.

        It is the root mean square of the columns' standard deviations: pixels of one unit and one
        noise stay so, where `of` would make those that hardly vary, and are noise above all, as
        large as any other. NaN is left out.

        Raises
        ------
        DataError
            A column has fewer than two numbers.
        """
        each = cls.of(array, constant="keep")
        spread = np.nanstd(as_float_array(array, "array"), axis=0)
        common = np.sqrt(np.mean(spread**2)) or each.scale.max()
        return cls(each.mean, np.full_like(each.scale, common))

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        return (x - self.mean.astype(x.dtype)) / self.scale.astype(x.dtype)


class Unstandardize(_Affine):
    """Fixed layer x * scale + mean: numbers of order one in, labels in their own units out.

    Parameters
    ----------
    mean, scale : array_like, shape (label,)
        In the units of the labels; scale positive.
    """

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        return x * self.scale.astype(x.dtype) + self.mean.astype(x.dtype)

    def for_outputs(self, n_outputs: int, log_sigma: ArrayLike | None = None) -> Unstandardize:
        """The same, with log standard deviations behind the labels if there are twice as many.

        Where the layer before gives 0 they are `log_sigma`, by default of the labels' scales.
        """
        if n_outputs != 2 * self.mean.size:
            return self
        middle = np.log(self.scale) if log_sigma is None else log_sigma
        mean = np.concatenate([self.mean, np.broadcast_to(middle, self.mean.shape)])
        return Unstandardize(mean, np.concatenate([self.scale, np.ones_like(self.scale)]))


def multiply_last(x: Symbol, W: Symbol) -> Symbol:
    """X W over the last axis."""
    return pt.matmul(x, W) if x.ndim > 2 else pt.dot(x, W)


def reshape_tail(x: Symbol, n_axes: int, tail: tuple[Any, ...]) -> Symbol:
    """`x` with other lengths in place of those of its last axes."""
    return x.reshape((*first_lengths(x, x.ndim - n_axes), *tail))


def first_lengths(x: Symbol, n_axes: int) -> list[Any]:
    """Lengths of the first axes: numbers where known, as symbolic ones are slow to vectorize."""
    return [
        x.shape[i] if length is None else length for i, length in enumerate(x.type.shape[:n_axes])
    ]
