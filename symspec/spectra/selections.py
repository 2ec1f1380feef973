"""Stars to train on, to test on, or evenly spaced, and their labels under a network's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError, OptionError
from symspec.safety.stars import check_flux, check_ivar
from symspec.spectra.grids import Pixels, check_grid
from symspec.spectra.pixels import fill_flux, fill_missing
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra
from symspec.spectra.wavelengths import find_label_factor


class Regressor(Pixels, Protocol):
    """Anything that takes pixels and gives labels: a network."""

    @property
    def label_names(self) -> tuple[str, ...]: ...
    @property
    def label_units(self) -> tuple[str, ...]: ...


def as_stars(
    net: Regressor, X: ArrayLike | Spectra | Resampled, Y: ArrayLike | None = None
) -> tuple[ArrayLike, ArrayLike]:
    """Flux and labels to train on, out of `Spectra` alone or out of two arrays.

    Parameters
    ----------
    net : Network
        It says on which grid the flux should be, and which labels are wanted in which order.
    X : Spectra, Resampled, or array_like of shape (star, pixel)
    Y : array_like, shape (star, label), optional
        Left out with `Spectra` and `Resampled`, which bring their labels.

    Returns
    -------
    flux : numpy.ndarray, shape (star, pixel)
        Of spectra with bad pixels filled, see `symspec.spectra.pixels.fill_flux`. An array X is
        returned as it is, unchecked, but for NaN, see `fill_missing`.
    labels : numpy.ndarray, shape (star, label)
        Of spectra those with the network's names, in its order and units; a network whose labels
        were never named takes all of them as they stand. An array Y is returned as it is,
        unchecked.

    Raises
    ------
    OptionError
        Y is missing beside an array, or given beside `Spectra`.
    ShapeError, DataError
        The spectra are on another grid than the network's, see `symspec.spectra.grids.check_grid`.
    DataError
        The spectra lack labels of the network's names, or in units that convert to its own.
    """
    if isinstance(X, Resampled):
        X = X.spectra
    if not isinstance(X, Spectra):
        if Y is None:
            raise OptionError(
                "Y should hold the labels (star, label) that go with an array of flux, got None:"
                " give Y, or Spectra with labels as X."
            )
        return fill_missing(X), Y
    if Y is not None:
        raise OptionError(
            "Y should be left out with Spectra, which bring their labels, got both: give"
            " Spectra(..., labels=..., label_names=...) alone, or the arrays X.flux and Y."
        )
    check_grid(net, X, "the spectra")
    labels = _pick_labels(X, tuple(net.label_names), tuple(net.label_units))
    return fill_flux(X), labels


def as_flux(
    net: Regressor, X: ArrayLike | Spectra | Resampled, ivar: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Flux (star, pixel) to predict from, and its inverse variance if it is known.

    Parameters
    ----------
    net : Network
    X : Spectra, Resampled, or array_like of shape (star, pixel) or (pixel,)
    ivar : array_like, shape of `X`, optional
        Of an array; Spectra and Resampled bring their own.

    Raises
    ------
    OptionError
        `ivar` is given beside `Spectra`.
    ShapeError, DataError
        Flux or ivar are not what is expected, or the spectra are on another grid than the
        network's.
    """
    if isinstance(X, Resampled):
        X = X.spectra
    if isinstance(X, Spectra):
        if ivar is not None:
            raise OptionError(
                "ivar should be left out with Spectra, which bring their own, got both: give"
                " Spectra(flux=..., ivar=...)."
            )
        check_grid(net, X, "the spectra")
        ivar = X.ivar
        X = X.flux
    flux = check_flux(X, net.n_pixels, allow_nan=ivar is not None)
    if ivar is None:
        return np.atleast_2d(flux), None
    ivar = np.atleast_2d(check_ivar(ivar, flux.shape))
    flux = np.atleast_2d(flux)
    if (bad := ~np.isfinite(flux) & (ivar > 0)).any():
        star, pixel = np.argwhere(bad)[0]
        raise DataError(
            f"flux should be finite wherever ivar is positive, got {np.count_nonzero(bad)}"
            f" values that are not (first: star {star}, pixel {pixel}): set ivar to 0 there."
        )
    return flux, ivar


def _pick_labels(spectra: Spectra, wanted: tuple[str, ...], units: tuple[str, ...]) -> np.ndarray:
    """Labels (star, label) of these names; all labels if the names are those of unnamed labels."""
    names = spectra.label_names
    labels = spectra.labels
    is_unnamed = wanted == tuple(f"label_{i}" for i in range(len(wanted)))
    has_right_number = len(names) == len(wanted)
    if labels is not None and (not is_unnamed or has_right_number):
        if is_unnamed and set(names) != set(wanted):
            return _convert_labels(labels, spectra, range(len(names)), units)
        if set(wanted) <= set(names):
            columns = [names.index(name) for name in wanted]
            return _convert_labels(labels, spectra, columns, units)
    raise DataError(
        f"the spectra should have the {len(wanted)} labels of the network, {', '.join(wanted)},"
        f" got {', '.join(names) or 'none'}: name them alike, Spectra(..., label_names=...) and"
        " Network(..., label_names=...)."
    )


def _convert_labels(
    labels: np.ndarray, spectra: Spectra, columns: Sequence[int], units: Sequence[str]
) -> np.ndarray:
    """Columns of `labels`, those of the spectra, in these units; not copied if nothing changes."""
    factors = [
        find_label_factor(spectra.label_units[i], unit, spectra.label_names[i])
        for i, unit in zip(columns, units, strict=True)
    ]
    if list(columns) != list(range(labels.shape[1])):
        labels = np.take(labels, columns, axis=1)
    return labels if set(factors) <= {1.0} else labels * factors


def split_stars(spectra: Spectra, fraction: float, seed: int) -> tuple[Spectra, Spectra | None]:
    """Set aside a random `fraction` of the stars with labels, to test on.

    Parameters
    ----------
    spectra : Spectra
        Stars without any label are left out.
    fraction : float
        0 sets none aside.
    seed : int

    Returns
    -------
    training : Spectra
    test : Spectra or None
        None for a fraction of 0.

    Raises
    ------
    DataError
        Fewer than two stars are left to train on.
    """
    labels = np.full((len(spectra), 1), np.nan) if spectra.labels is None else spectra.labels
    labelled = np.flatnonzero(~np.isnan(labels).all(axis=1))
    n_out = max(1, round(fraction * labelled.size)) if fraction > 0 else 0
    if labelled.size - n_out < 2:
        raise DataError(
            f"training needs at least two stars with labels, got {labelled.size}, of which {n_out}"
            " are set aside for validation: give more stars, or a validation of 0."
        )
    if n_out == 0:
        return spectra[labelled], None
    order = np.random.default_rng(seed).permutation(labelled)
    return spectra[np.sort(order[n_out:])], spectra[np.sort(order[:n_out])]


def match_labels(spectra: Spectra, net: Regressor) -> np.ndarray | None:
    """Labels (star, label) under the names of a network, in its units.

    NaN where the spectra lack one; None without any.

    Raises
    ------
    DataError
        A unit does not convert to that of the network.
    """
    found = [i for i, name in enumerate(net.label_names) if name in spectra.label_names]
    if spectra.labels is None or not found:
        return None
    columns = [spectra.label_names.index(net.label_names[i]) for i in found]
    units = [net.label_units[i] for i in found]
    labels = np.full((len(spectra), len(net.label_names)), np.nan)
    labels[:, found] = _convert_labels(spectra.labels, spectra, columns, units)
    return labels


def pick_evenly(n: int, most: int) -> np.ndarray:
    """Indices of at most `most` of n stars, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))
