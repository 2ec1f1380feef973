"""Flags of predicted labels: their bits, meanings and limits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntFlag

import numpy as np

from symspec.errors import OptionError
from symspec.inverse_hessian.interface import InverseHessian


class Flag(IntFlag):
    """Bits of `Prediction.flags`; 0: nothing is known against the star."""

    FAILED = 1
    OUTSIDE_TRAINING_RANGE = 2
    BAD_PIXELS = 4
    NOT_AT_MINIMUM = 8
    MODEL_ERROR_INEXACT = 16
    ERROR_UNRELIABLE = 32
    NEAR_EDGE = 64
    MANY_BAD_PIXELS = 128
    LOW_SNR = 256
    OUTSIDE_TRAINING_SPECTRA = 512
    INFORMATION_MISSING = 1024
    FLUX_ERROR_NONLINEAR = 2048

    @property
    def meaning(self) -> str:
        """One line for a header."""
        return _MEANINGS[self]


_MEANINGS = {
    Flag.FAILED: "the prediction or a covariance is not finite",
    Flag.OUTSIDE_TRAINING_RANGE: "a label lies outside the range of the training labels",
    Flag.BAD_PIXELS: "pixels without information (ivar = 0) were filled, see FILL",
    Flag.NOT_AT_MINIMUM: (
        "training stopped short: a Newton step would move the label by much of its model error"
    ),
    Flag.MODEL_ERROR_INEXACT: (
        "the model's part of the error is an approximation, an upper bound or a wide interval,"
        " or has lost digits to rounding"
    ),
    Flag.ERROR_UNRELIABLE: (
        "Hamiltonian Monte Carlo contradicts this network's model error: error bars unreliable"
    ),
    Flag.NEAR_EDGE: "a label lies in the outermost part of the range of the training labels",
    Flag.MANY_BAD_PIXELS: "more than the allowed fraction of the pixels are without information",
    Flag.LOW_SNR: "the spectrum's median signal-to-noise ratio is low",
    Flag.OUTSIDE_TRAINING_SPECTRA: (
        "the spectrum is unlike the training spectra: labels and errors unreliable"
    ),
    Flag.INFORMATION_MISSING: (
        "missing pixels leave the label open by much of the training labels' spread, or by an"
        " amount that is not counted"
    ),
    Flag.FLUX_ERROR_NONLINEAR: (
        "the flux's part of the error, propagated linearly, is off by more than the allowed share"
    ),
}
LABEL_FLAGS = (
    Flag.FAILED,
    Flag.OUTSIDE_TRAINING_RANGE,
    Flag.NOT_AT_MINIMUM,
    Flag.MODEL_ERROR_INEXACT,
    Flag.ERROR_UNRELIABLE,
    Flag.NEAR_EDGE,
    Flag.INFORMATION_MISSING,
    Flag.FLUX_ERROR_NONLINEAR,
)


@dataclass(frozen=True)
class FlagOptions:
    """Limits beyond which a star is flagged.

    Attributes
    ----------
    edge : float, default 0.05
        NEAR_EDGE: a label lies inside the training range, but within this fraction of it from
        either end; 0: never.
    max_bad_fraction : float, default 0.1
        MANY_BAD_PIXELS: a greater fraction of the pixels has ivar = 0; 1: never.
    min_snr : float, default 20
        LOW_SNR: the median over good pixels of flux times root ivar is below; 0: hardly ever.
    max_distance : float, default 1.5
        OUTSIDE_TRAINING_SPECTRA: the distance in flux space is greater, in units of the distance
        that 99 % of the training spectra keep (see `TrainingSpace`); infinite: never.
    max_newton_shift : float, default 0.5
        NOT_AT_MINIMUM: a Newton step would move the label by more, in units of its model standard
        deviation (see `Prediction.newton_shift`); infinite: never.
    max_missing : float, default 0.5
        INFORMATION_MISSING: the standard deviation that missing pixels leave in the label is
        greater, in units of that of the training labels; infinite: only where it is not counted.
    max_nonlinearity : float, default 0.2
        FLUX_ERROR_NONLINEAR: the flux's part of the error, of draws through the network, and the
        linear one are apart by a greater share of the smaller of the two; infinite: never.

    Raises
    ------
    OptionError
        One of them is not a number in its range.
    """

    edge: float = 0.05
    max_bad_fraction: float = 0.1
    min_snr: float = 20.0
    max_distance: float = 1.5
    max_newton_shift: float = 0.5
    max_missing: float = 0.5
    max_nonlinearity: float = 0.2

    def __post_init__(self) -> None:
        most = {"edge": 0.5, "max_bad_fraction": 1.0}
        for field in fields(self):
            value = getattr(self, field.name)
            end = most.get(field.name, np.inf)
            is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not (is_number and 0 <= value <= end):
                limits = f"between 0 and {end:g}" if np.isfinite(end) else "of at least 0"
                raise OptionError(
                    f"{field.name} should be a number {limits}, got {value!r}: the default is"
                    f" {field.default:g}."
                )
            object.__setattr__(self, field.name, float(value))


def find_label_flags(
    labels: np.ndarray,
    total_cov: np.ndarray,
    label_range: np.ndarray,
    model_interval: np.ndarray | None = None,
    is_contradicted: np.ndarray | bool = False,
    widest: float = InverseHessian.widest,
    newton_shift: np.ndarray | None = None,
    missing: np.ndarray | None = None,
    nonlinearity: np.ndarray | None = None,
    options: FlagOptions = FlagOptions(),
) -> np.ndarray:
    """Flags (star, label) of single labels, those of `LABEL_FLAGS`.

    Parameters
    ----------
    labels, total_cov : numpy.ndarray, shapes (star, label), (star, label, label)
    label_range : numpy.ndarray, shape (2, label)
        Of the training labels.
    model_interval : numpy.ndarray, shape (star, label, 2), optional
        See `Prediction`.
    is_contradicted : bool or numpy.ndarray of bool, shape (label,)
        Whether Hamiltonian Monte Carlo contradicts the label's model error.
    widest : float
        Relative width of `model_interval` beyond which it is flagged.
    newton_shift : numpy.ndarray, shape (star, label), optional
        See `Prediction`.
    missing : numpy.ndarray, shape (star, label), optional
        Standard deviation that missing pixels leave, in units of the training labels' spread;
        infinite where it is not counted.
    nonlinearity : numpy.ndarray, shape (star, label), optional
        See `Prediction`; None where the errors are not linear ones.
    options : FlagOptions
    """
    failed = ~(np.isfinite(labels) & np.isfinite(total_cov).all(axis=2))
    low, high = label_range
    margin = options.edge * (high - low)
    with np.errstate(invalid="ignore"):
        outside = (labels < low) | (labels > high)
        near = ((labels < low + margin) | (labels > high - margin)) & ~outside
    flags = np.where(failed, Flag.FAILED, 0) | np.where(outside, Flag.OUTSIDE_TRAINING_RANGE, 0)
    flags |= np.where(near, Flag.NEAR_EDGE, 0)
    if model_interval is not None:
        least, most = np.moveaxis(model_interval, -1, 0)
        known = least >= (1 - widest) * most  # False for NaN
        flags |= np.where(known | failed.any(axis=1, keepdims=True), 0, Flag.MODEL_ERROR_INEXACT)
    flags |= np.where(is_contradicted, Flag.ERROR_UNRELIABLE, 0)
    if newton_shift is not None:
        is_far = np.abs(newton_shift) > options.max_newton_shift
        flags |= np.where(is_far, Flag.NOT_AT_MINIMUM, 0)
    if missing is not None:
        is_open = (missing > options.max_missing) | np.isinf(missing)
        flags |= np.where(is_open, Flag.INFORMATION_MISSING, 0)
    if nonlinearity is not None:
        with np.errstate(divide="ignore"):
            apart = np.maximum(nonlinearity, 1 / nonlinearity) - 1
        flags |= np.where(apart > options.max_nonlinearity, Flag.FLUX_ERROR_NONLINEAR, 0)
    return flags.astype(np.int32)


def find_flags(
    label_flags: np.ndarray,
    bad_fraction: np.ndarray,
    is_minimum: bool,
    snr: np.ndarray | None = None,
    distance: np.ndarray | None = None,
    options: FlagOptions = FlagOptions(),
) -> np.ndarray:
    """Flags (star,) of any label, of the spectrum and of the network.

    Parameters
    ----------
    label_flags : numpy.ndarray of int, shape (star, label)
        See `find_label_flags`.
    bad_fraction : numpy.ndarray, shape (star,)
        Fraction of the pixels with ivar = 0.
    is_minimum : bool
        False flags all stars.
    snr, distance : numpy.ndarray, shape (star,), optional
        Signal-to-noise ratio, and distance from the training spectra; NaN is not flagged.
    options : FlagOptions
    """
    flags = np.bitwise_or.reduce(label_flags, axis=1)
    flags |= np.where(bad_fraction > 0, Flag.BAD_PIXELS, 0)
    flags |= np.where(bad_fraction > options.max_bad_fraction, Flag.MANY_BAD_PIXELS, 0)
    if snr is not None:
        flags |= np.where(snr < options.min_snr, Flag.LOW_SNR, 0)
    if distance is not None:
        flags |= np.where(distance > options.max_distance, Flag.OUTSIDE_TRAINING_SPECTRA, 0)
    return (flags | (0 if is_minimum else Flag.NOT_AT_MINIMUM)).astype(np.int32)
