"""Checks of what callers hand in, made once at the package's edges; each error says what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from symspec.errors import DataError, OptionError, ShapeError
from symspec.safety.advice import (
    advise_ivar,
    advise_labels,
    advise_pixels,
    advise_theta,
    describe_bad,
    describe_blocks,
    describe_mapping,
    describe_ragged,
    describe_wrong_kind,
)

_IVAR_REMINDER = "ivar is an INVERSE VARIANCE (1/sigma**2, 0 = no information), not a flag"


def as_float_array(value: Any, name: str, *, dtype: Any = np.float64) -> np.ndarray:
    """Turn numbers into a float array, refusing whatever NumPy would have to guess about.

    Parameters
    ----------
    value : array_like
        Integers or floats, of any shape.
    name : str
        The caller's name for it, used in the error.
    dtype : numpy dtype or None, default float64
        The floating-point type wanted; None keeps float32 and float64 as they are.

    Returns
    -------
    numpy.ndarray
        The caller's own array when it has the right type already: not to be written into.

    Raises
    ------
    DataError
        For rows of unequal lengths, objects, strings, booleans, complex numbers, a masked array
        with masked entries, or numbers too large for `dtype`.
    """
    if isinstance(value, np.ma.MaskedArray) and (count := np.ma.count_masked(value)):
        raise DataError(
            f"{name} should be a plain array, got a masked array with {count} masked values: write "
            f"NaN there, {name}.filled(np.nan){', and 0 in ivar' if name == 'flux' else ''}."
        )
    try:
        raw = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        ragged = describe_ragged(value, name)
        raise DataError(
            ragged or f"{name} should be an array of numbers, NumPy says: {error}."
        ) from error
    if dtype is None:
        dtype = raw.dtype if raw.dtype in (np.float32, np.float64) else np.float64
    if raw.dtype.kind not in "iuf":
        raise DataError(describe_wrong_kind(value, raw, name))
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged file may hold NaN that signal
        array = np.asarray(raw, dtype=dtype)
    if (
        array.dtype.itemsize < raw.dtype.itemsize
        and (bad := np.isinf(array) & np.isfinite(raw)).any()
    ):
        raise DataError(
            f"{name} should fit {array.dtype}, got {np.count_nonzero(bad)} values that are too"
            " large: rescale them or ask for float64."
        )
    return array


def check_flux(
    flux: Any,
    n_pixels: int,
    *,
    name: str = "flux",
    allow_nan: bool = False,
    dtype: Any = np.float64,
) -> np.ndarray:
    """Check spectra against the number of pixels that a network takes.

    Parameters
    ----------
    flux : array_like, shape (star, pixel) or (pixel,)
        Spectra, one a row, or one spectrum.
    n_pixels : int
        The number of pixels expected.
    name : str, default "flux"
        The caller's name for it, used in the error.
    allow_nan : bool, default False
        Let values pass that are not finite (NaN or infinite); right only where an `ivar` marks them
        with 0.

    Returns
    -------
    numpy.ndarray, shape (star, pixel) or (pixel,)
        Flux in `dtype`; the caller's own array when it is of that type already.

    Raises
    ------
    ShapeError
        When the shape is another one.
    DataError
        When there is no star, or a value is not finite.
    """
    flux = as_float_array(flux, name, dtype=dtype)
    if flux.ndim not in (1, 2) or flux.shape[-1] != n_pixels:
        raise ShapeError(
            f"{name} should have shape (star, {n_pixels}) or ({n_pixels},), got {flux.shape}: "
            f"{advise_pixels(flux.shape, n_pixels, name)}."
        )
    if flux.size == 0:
        raise DataError(
            f"{name} should hold at least one star, got shape {flux.shape}: check what selects"
            " stars."
        )
    if not allow_nan:
        check_finite(
            flux, name, ("star", "pixel"), "give ivar with 0 at these pixels, or fill them"
        )
    return flux


def check_finite(array: np.ndarray, name: str, axes: tuple[str, ...], advice: str) -> None:
    """Refuse values that are NaN or infinite.

    Parameters
    ----------
    array : numpy.ndarray
        Floats.
    name : str
        The caller's name for it, used in the error.
    axes : tuple of str
        What each axis counts, used in the error.
    advice : str
        What to do about it, without a full stop.

    Raises
    ------
    DataError
        With the count of such values and the place of the first.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        # one pass without a temporary, on all cores; squares that overflow are looked at again
        # below
        if array.flags.c_contiguous and np.isfinite(np.vdot(array, array)):
            return
    if not (good := np.isfinite(array)).all():
        raise DataError(
            f"{name} should be finite, got {describe_bad(~good, array, axes)}: {advice}."
        )


def check_labels(labels: Any, n_stars: int, n_labels: int, *, name: str = "labels") -> np.ndarray:
    """Check labels to train on, where NaN means missing.

    Parameters
    ----------
    labels : array_like, shape (star, label)
        One row a star, in the labels' own units; NaN where a label is missing.
    n_stars, n_labels : int
        The numbers expected.
    name : str, default "labels"
        The caller's name for it, used in the error.

    Returns
    -------
    numpy.ndarray, shape (star, label)
        Labels as float64; the caller's own array when it is float64 already.

    Raises
    ------
    ShapeError
        When the shape is another one.
    DataError
        When a value is infinite, or every star's value of a label is missing.
    """
    labels = as_float_array(labels, name)
    if labels.shape != (n_stars, n_labels):
        raise ShapeError(
            f"{name} should have shape ({n_stars}, {n_labels}), one row a star, got {labels.shape}:"
            f" {advise_labels(labels.shape, n_stars, n_labels, name)}."
        )
    check_not_infinite(labels, name)
    missing = np.isnan(labels).all(axis=0)
    if missing.all():
        raise DataError(
            f"{name} should hold numbers, got only missing ones (NaN): there is nothing to learn"
            " from."
        )
    if missing.any() and n_stars > 1:  # one star may lack a label
        columns = ", ".join(str(i) for i in np.flatnonzero(missing))
        raise DataError(
            f"{name} should hold at least one number for each label, got only NaN in column"
            f" {columns}: leave that label out of {name} and of the network."
        )
    return labels


def check_not_infinite(labels: np.ndarray, name: str = "labels") -> None:
    """Refuse labels that are infinite; NaN, which is a missing label, passes.

    Parameters
    ----------
    labels : numpy.ndarray, shape (star, label)
        Labels as floats.
    name : str, default "labels"
        The caller's name for it, used in the error.

    Raises
    ------
    DataError
        When a value is infinite.
    """
    if (bad := np.isinf(labels)).any():
        described = describe_bad(bad, labels, ("star", "label"))
        raise DataError(
            f"{name} should not be infinite, got {described}: write NaN for a missing label."
        )


def check_ivar(ivar: Any, flux_shape: tuple[int, ...]) -> np.ndarray:
    """Check inverse variances of flux.

    Parameters
    ----------
    ivar : array_like, shape `flux_shape`
        Inverse variance, 1/sigma**2, in inverse squares of the flux's units; 0 means no
        information.
    flux_shape : tuple of int
        Shape of the flux that it belongs to.

    Returns
    -------
    numpy.ndarray, shape `flux_shape`
        Inverse variance as float64; the caller's own array when it is float64 already.

    Raises
    ------
    ShapeError
        When the shape is not that of the flux.
    DataError
        When a value is negative, NaN or infinite, or when the values are booleans.
    """
    if getattr(ivar, "dtype", None) == np.bool_:
        raise DataError(
            f"ivar should be numbers, got booleans: {_IVAR_REMINDER}; give ivar=good / sigma**2."
        )
    ivar = as_float_array(ivar, "ivar")
    flux_shape = tuple(flux_shape)
    if ivar.shape != flux_shape:
        raise ShapeError(
            f"ivar should have the shape of the flux, {flux_shape}, got {ivar.shape}: "
            f"{advise_ivar(ivar.shape, flux_shape)}."
        )
    _refuse_ivar(np.isnan(ivar), ivar, "not be NaN", "write 0 where nothing is known")
    _refuse_ivar(ivar < 0, ivar, "not be negative", _IVAR_REMINDER)
    _refuse_ivar(
        np.isinf(ivar),
        ivar,
        "be finite",
        "1/sigma**2 is infinite where sigma is 0: write 0 if nothing is known",
    )
    return ivar


def _refuse_ivar(bad: np.ndarray, ivar: np.ndarray, rule: str, advice: str) -> None:
    if bad.any():
        raise DataError(
            f"ivar should {rule}, got {describe_bad(bad, ivar, ('star', 'pixel'))}: {advice}."
        )


def check_theta(theta: Any, n_params: int, *, dtype: Any = np.float64) -> np.ndarray:
    """Check a network's parameters, one flat array.

    Parameters
    ----------
    theta : array_like, shape (param,)
        Every weight of the network, in the order of `Network.pack`.
    n_params : int
        The number expected.

    Returns
    -------
    numpy.ndarray, shape (param,)
        Parameters in `dtype`; the caller's own array when it is of that type already.

    Raises
    ------
    ShapeError
        When it is a list or dict of blocks, or has another shape.
    DataError
        When a value is not finite.
    """
    expected = f"theta should be one flat array of shape ({n_params},)"
    if isinstance(theta, Mapping):
        raise ShapeError(
            f"{expected}, got {describe_mapping(theta)}: pack them with net.pack(params)."
        )
    if (blocks := describe_blocks(theta)) is not None:
        advice = 'net.pack({"dense_0/kernel": W0, "dense_0/bias": b0, ...})'
        raise ShapeError(f"{expected}, got {blocks}: pack them with {advice}.")
    theta = as_float_array(theta, "theta", dtype=dtype)
    if theta.shape != (n_params,):
        raise ShapeError(f"{expected}, got {theta.shape}: {advise_theta(theta.shape, n_params)}.")
    check_finite(
        theta,
        "theta",
        ("entry",),
        "its training diverged or its file is damaged, so train it again",
    )
    return theta


def check_rng(rng: Any) -> np.random.Generator:
    """Check that the source of randomness is a `numpy.random.Generator`.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.

    Returns
    -------
    numpy.random.Generator
        `rng` itself.

    Raises
    ------
    OptionError
        When it is anything else: a seed, None, the module `numpy.random` or an old `RandomState`.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    is_seed = isinstance(rng, int | np.integer) and not isinstance(rng, bool) and rng >= 0
    seed = int(rng) if is_seed else 0
    got = f"the seed {seed}" if is_seed else repr(rng)
    raise OptionError(
        f"rng should be a numpy.random.Generator, got {got}: write"
        f" rng=np.random.default_rng({seed})."
    )


def check_choice(value: Any, name: str, choices: Sequence[str]) -> str:
    """Check that an option is one of the words understood.

    Parameters
    ----------
    value : str
        The caller's word.
    name : str
        The option's name, used in the error.
    choices : sequence of str
        The words understood.

    Returns
    -------
    str
        `value` itself.

    Raises
    ------
    OptionError
        With the words understood, and the nearest one if the word looks like a slip.
    """
    if isinstance(value, str) and value in choices:
        return value
    listed = ", ".join(repr(choice) for choice in choices)
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(value.lower(), by_lower, n=1) if isinstance(value, str) else []
    hint = f"did you mean {by_lower[near[0]]!r}?" if near else "choose one of these."
    raise OptionError(f"{name} should be one of {listed}, got {value!r}: {hint}")


def check_count(value: Any, name: str, least: int = 1) -> None:
    """Refuse what is no whole number of at least so many.

    Raises
    ------
    OptionError
        With the name.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise OptionError(f"{name} should be {kind}, got {value!r}.")
