r"""What chemometrics does to spectra before a model, as fixed layers with exact derivatives.

Inside the network they leave nothing to be done by hand to new spectra, and derivatives and errors
of the flux are those of the spectra as they were measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike

from symspec.errors import DataError, OptionError, ShapeError
from symspec.networks.layers import Layer, Standardize
from symspec.networks.params import Params, Shape, Symbol
from symspec.networks.windows import Slide
from symspec.safety.arrays import as_float_array, check_finite
from symspec.safety.options import check_count


class _OfSpectrum(Layer):
    """Base of layers that take a spectrum (pixel,) and give one."""

    def out_shape(self, *shapes: Shape) -> Shape:
        if len(shapes[-1]) != 1:
            raise ShapeError(
                f"{self.kind} takes a spectrum (pixel,), got {shapes[-1]}: put it first."
            )
        return shapes[-1]

    def n_floats(self, shape: Shape, out: Shape) -> int:
        return 3 * math.prod(out)


@dataclass(frozen=True, eq=False)
class SNV(_OfSpectrum):
    r"""Standard normal variate: each spectrum less its mean, over its own standard deviation.

    .. math::
        y = (x - \bar x) / (s + \epsilon), \qquad s^2 = \frac{1}{n - d} \sum_i (x_i - \bar x)^2

    Barnes, Dhanoa and Lister 1989, Applied Spectroscopy 43, 772, `doi:10.1366/0003702894202201`.

    Parameters
    ----------
    ddof : {1, 0}, default 1
        d; 1 as in the paper, 0 as `numpy.std` has it by default.
    epsilon : float, default 0.0
        What some programs add against division by zero.

    Examples
    --------
    >>> import numpy as np
    >>> import symspec as ss
    >>> net = ss.Network([ss.SNV()], 3)
    >>> ss.compile_predict(net)(np.zeros(0), np.array([1.0, 2.0, 6.0])).round(3)
    array([-0.756, -0.378,  1.134])
    """

    ddof: int = 1
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        check_count(self.ddof, "ddof", least=0, most=1)
        if not self.epsilon >= 0:
            raise OptionError(f"epsilon should not be negative, got {self.epsilon}.")

    def out_shape(self, *shapes: Shape) -> Shape:
        if shapes[-1] == (1,):
            raise ShapeError("snv takes spectra of two pixels and more, got one.")
        return super().out_shape(*shapes)

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        x = _center(x, shape[0])
        weight = np.asarray(1 / (shape[0] - self.ddof), x.dtype)
        deviation = pt.sqrt(pt.sum(pt.sqr(x), axis=-1, keepdims=True) * weight)
        return x / (deviation + np.asarray(self.epsilon, x.dtype) if self.epsilon else deviation)


@dataclass(frozen=True, eq=False)
class MSC(_OfSpectrum):
    r"""Multiplicative scatter correction: each spectrum as its reference, by a straight line.

    Least squares of :math:`x_i = a + b\, r_i` over the pixels give

    .. math:: y = (x - a) / b

    Geladi, MacDougall and Martens 1985, Applied Spectroscopy 39, 491,
    `doi:10.1366/0003702854248656`.

    Parameters
    ----------
    reference : array_like, shape (pixel,)
        r, such as the mean of the training spectra: see `of`.

    Raises
    ------
    DataError
        It is not finite, or one and the same at all pixels.
    """

    reference: np.ndarray

    def __post_init__(self) -> None:
        reference = np.array(as_float_array(self.reference, "reference"))
        check_finite(reference, "reference", ("pixel",) * reference.ndim, "give a mean spectrum")
        if reference.ndim != 1:
            raise ShapeError(f"reference should have shape (pixel,), got {reference.shape}.")
        if not np.ptp(reference) > 0:
            raise DataError(
                "reference should vary from pixel to pixel, got the same number at all: give a mean"
                " spectrum."
            )
        reference.flags.writeable = False
        self._set("reference", reference)

    @classmethod
    def of(cls, flux: ArrayLike) -> Self:
        """Layer whose reference is the mean of spectra (star, pixel); NaN is left out."""
        values = as_float_array(flux, "flux")
        if values.ndim != 2 or not np.isfinite(values).any(axis=0).all():
            raise DataError(
                "MSC.of needs spectra (star, pixel) with a number in each pixel, got shape"
                f" {values.shape}: give the training spectra."
            )
        return cls(np.nanmean(values, axis=0))

    def out_shape(self, *shapes: Shape) -> Shape:
        shape = super().out_shape(*shapes)
        if shape != self.reference.shape:
            raise ShapeError(
                f"{self.kind} of {self.reference.size} pixels stands where there are {shape}."
            )
        return shape

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        mean = self.reference.mean()
        r = self.reference - mean
        x = _center(x, shape[0])
        slope = pt.sum(x * (r / (r @ r)).astype(x.dtype), axis=-1, keepdims=True)
        return x / slope + np.asarray(mean, x.dtype)


@dataclass(frozen=True, eq=False)
class SavitzkyGolay(_OfSpectrum):
    r"""Smoothed spectrum, or a derivative of it, by polynomials fitted in a moving window.

    A fixed linear map, that of ``scipy.signal.savgol_filter(x, ..., mode="interp")``: pixels nearer
    to an end than half a window take the polynomial of the first or the last window.

    Savitzky and Golay 1964, Analytical Chemistry 36, 1627, `doi:10.1021/ac60214a047`.

    Parameters
    ----------
    window_length : int
        Pixels of a window, an odd number.
    polyorder : int, default 2
        Degree of the polynomials, less than `window_length`.
    deriv : int, default 0
        Order of the derivative; 0 smooths.
    delta : float, default 1.0
        Distance of the pixels, in whose unit the derivative is; 1: per pixel.

    Raises
    ------
    OptionError
        The numbers do not go together.
    """

    window_length: int
    polyorder: int = 2
    deriv: int = 0
    delta: float = 1.0

    def __post_init__(self) -> None:
        check_count(self.window_length, "window_length", least=3)
        if self.window_length % 2 == 0:
            raise OptionError(
                f"window_length should be odd, so that a pixel is in the middle, got"
                f" {self.window_length}: take {self.window_length + 1}."
            )
        check_count(self.polyorder, "polyorder", least=0, most=self.window_length - 1)
        check_count(
            self.deriv, "deriv", least=0, most=self.polyorder,
            advice="the derivatives beyond the degree of the polynomials are zero",
        )  # fmt: skip
        if not (math.isfinite(self.delta) and self.delta > 0):
            raise OptionError(f"delta should be a positive number, got {self.delta!r}.")

    def out_shape(self, *shapes: Shape) -> Shape:
        shape = super().out_shape(*shapes)
        if shape[0] < self.window_length:
            raise ShapeError(
                f"{self.kind} has a window of {self.window_length} pixels, got spectra of"
                f" {shape[0]}: take a shorter window_length."
            )
        return shape

    def n_floats(self, shape: Shape, out: Shape) -> int:
        return (self.window_length + 1) * math.prod(out)

    @cached_property
    def matrices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Maps of the first window to pixels before its middle, any to it, the last behind it."""
        from scipy.signal import savgol_coeffs, savgol_filter

        numbers = (self.window_length, self.polyorder)
        middle = savgol_coeffs(*numbers, deriv=self.deriv, delta=self.delta, use="dot")
        unit = np.eye(self.window_length)
        of_window = savgol_filter(unit, *numbers, deriv=self.deriv, delta=self.delta, mode="interp")
        half = self.window_length // 2
        return of_window[:, :half], middle, of_window[:, half + 1 :]

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        first, middle, last = (matrix.astype(x.dtype) for matrix in self.matrices)
        n_windows = shape[0] - self.window_length + 1
        windows = Slide(shape[0], 0, n_windows, self.window_length, 1)(x[..., None])
        # sums rather than products of matrices, which JAX refuses behind others
        parts = [
            pt.sum(x[..., : self.window_length, None] * first, axis=-2),
            pt.sum(windows * middle, axis=-1),
            pt.sum(x[..., -self.window_length :, None] * last, axis=-2),
        ]
        return pt.concatenate(parts, axis=-1)


@dataclass(frozen=True, eq=False)
class Absorbance(Layer):
    r"""Absorbance of reflectance or transmittance, :math:`y = -\log_{10}(x / x_0)`.

    Parameters
    ----------
    full_scale : float, default 1.0
        x_0, the number that stands for all of the light: 100 for per cent.

    Raises
    ------
    OptionError
        It is not positive.
    """

    elementwise: ClassVar[bool] = True
    full_scale: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.full_scale) and self.full_scale > 0):
            raise OptionError(
                f"full_scale should be a positive number, got {self.full_scale!r}: 1 for fractions,"
                " 100 for per cent."
            )

    def build(self, x: Symbol, params: Params, shape: Shape, *others: Symbol) -> Symbol:
        factor = np.asarray(1 / math.log(10), x.dtype)
        return (np.asarray(math.log(self.full_scale), x.dtype) - pt.log(x)) * factor


def parse_preprocessing(text: str) -> list[tuple[str, list[float]]]:
    """Take the words of ``--preprocess`` to pieces: names and numbers, in their order.

    Parameters
    ----------
    text : str
        Such as ``"absorbance,snv,savgol:11:2:1"``: names between commas, numbers after colons, in
        the order of the layer's parameters. "center", in the last place, is how the network
        standardises what comes: each pixel less its mean over the training spectra, all over one
        scale, in place of each over its own.

    Raises
    ------
    OptionError
        A name is unknown, a number none, or "center" not the last word.
    """
    steps = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, *numbers = word.split(":")
        try:
            if name.lower() not in _MOST_NUMBERS or len(numbers) > _MOST_NUMBERS[name.lower()]:
                raise ValueError(word)
            steps.append((name.lower(), [float(number) for number in numbers]))
        except ValueError:
            raise OptionError(
                "preprocessing should be absorbance, absorbance:100 (of per cent), snv, msc,"
                " savgol:WINDOW:ORDER:DERIVATIVE, center, one after the other between commas, got"
                f' {word!r}: write it like "snv,savgol:11:2:1".'
            ) from None
    if "center" in (name for name, _ in steps[:-1]):
        raise OptionError(
            f'"center" should be the last word of the preprocessing, got {text!r}: it is how the'
            " network standardises the pixels that come."
        )
    return steps


_MOST_NUMBERS = {"absorbance": 1, "snv": 0, "msc": 0, "savgol": 3, "center": 0}


def make_preprocessing(name: str, numbers: list[float], flux: np.ndarray) -> Layer:
    """A layer of `parse_preprocessing`, for spectra (star, pixel) as they come to it.

    Raises
    ------
    OptionError, DataError
        As the layer.
    """
    if name == "msc":
        return MSC.of(flux)
    if name == "snv":
        return SNV()
    if name == "center":
        return Standardize.centering(flux)
    if name == "absorbance":
        if not (flux[np.isfinite(flux)] > 0).all():
            raise DataError(
                "absorbance is that of positive reflectance or transmittance, got"
                f" {np.nanmin(flux):.6g}: leave absorbance out if the spectra are absorbances, or"
                " correct them."
            )
        return Absorbance(*numbers)
    if not all(number.is_integer() for number in numbers):
        raise OptionError(f"savgol should have whole numbers, got {numbers}.")
    if not numbers:
        raise OptionError('savgol should say its window, such as "savgol:11:2:1", got none.')
    return SavitzkyGolay(*map(int, numbers))


def _center(x: Symbol, n: int) -> Symbol:
    """Spectra less their means."""
    return x - pt.sum(x, axis=-1, keepdims=True) * np.asarray(1 / n, x.dtype)
