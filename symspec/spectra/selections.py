"""Stars to train on, to test on, or evenly spaced, and their labels under a network's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import DataError, OptionError
from symspec.safety.label_errors import (
    Labels,
    LabelsWithErrors,
    add_errors,
    find_labels_alone,
)
from symspec.safety.options import check_count
from symspec.safety.stars import check_flux, check_ivar
from symspec.spectra.covariances.dense import match_covariance
from symspec.spectra.covariances.interface import FluxCovariance
from symspec.spectra.grids import Pixels, check_grid
from symspec.spectra.pixels import fill_flux, fill_missing, fill_training
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
    net: Regressor,
    X: ArrayLike | Spectra | Resampled,
    Y: ArrayLike | None = None,
    label_errors: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
) -> tuple[ArrayLike, ArrayLike | LabelsWithErrors, ArrayLike | None]:
    """Flux and labels to train on, out of `Spectra` alone or out of arrays.

    Parameters
    ----------
    net : Network
        It says on which grid the flux should be, and which labels are wanted in which order.
    X : Spectra, Resampled, or array_like of shape (star, pixel)
    Y : array_like, shape (star, label), optional
        Left out with `Spectra` and `Resampled`, which bring their labels.
    label_errors : array_like, shape (star, label) or (star, label, label), optional
        Standard deviations or covariances of errors that the labels of Y came with; `Spectra` bring
        them, too.
    ivar : array_like, shape (star, pixel), optional
        Inverse variance of an array X, 0 at bad pixels; `Spectra` bring it, too.

    Returns
    -------
    flux : numpy.ndarray, shape (star, pixel)
        With bad pixels filled, see `symspec.spectra.pixels.fill_training`. An array X without
        `ivar` is returned as it is, unchecked, but for NaN, see `fill_missing`.
    labels : numpy.ndarray, shape (star, label), or LabelsWithErrors
        Of spectra those with the network's names, in its order and units, together with their
        errors, if they have any; a network whose labels were never named takes all of them as they
        stand. An array Y is returned as it is, unchecked.
    label_errors : array_like or None
        Those of an array Y, unchecked.

    Raises
    ------
    OptionError
        Y is missing beside an array, or Y, `label_errors` or `ivar` are given beside `Spectra`.
    ShapeError, DataError
        The spectra are on another grid than the network's, see `symspec.spectra.grids.check_grid`,
        or `ivar` is not one of X.
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
        if ivar is None:
            return fill_missing(X), Y, label_errors
        filled = fill_training(*_check_errors(net, X, ivar))
        return filled.reshape(np.shape(X)), Y, label_errors
    for name, given in (("Y", Y), ("label_errors", label_errors), ("ivar", ivar)):
        if given is not None:
            raise OptionError(
                f"{name} should be left out with Spectra, which bring their own, got both: give"
                " Spectra(..., ivar=..., labels=..., label_errors=...) alone, or the arrays X.flux"
                " and Y."
            )
    check_grid(net, X, "the spectra")
    return fill_flux(X), _pick_labels(X, tuple(net.label_names), tuple(net.label_units)), None


def as_flux(
    net: Regressor,
    X: ArrayLike | Spectra | Resampled,
    ivar: ArrayLike | None = None,
    flux_covariance: FluxCovariance | ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray | None, FluxCovariance | None]:
    """Flux (star, pixel) to predict from, and its inverse variance and covariance if known.

    Parameters
    ----------
    net : Network
    X : Spectra, Resampled, or array_like of shape (star, pixel) or (pixel,)
    ivar : array_like, shape of `X`, optional
    flux_covariance : FluxCovariance or array_like, optional
        Of an array; Spectra and Resampled bring their own.

    Raises
    ------
    OptionError
        `ivar` or `flux_covariance` is given beside `Spectra`.
    ShapeError, DataError
        Flux or its errors are not what is expected, or the spectra are on another grid than the
        network's.
    """
    if isinstance(X, Resampled):
        X = X.spectra
    if isinstance(X, Spectra):
        for name, given in (("ivar", ivar), ("flux_covariance", flux_covariance)):
            if given is not None:
                raise OptionError(
                    f"{name} should be left out with Spectra, which bring their own, got both:"
                    f" give Spectra(flux=..., {name}=...)."
                )
        check_grid(net, X, "the spectra")
        ivar = X.ivar
        flux_covariance = X.flux_covariance
        X = X.flux
    flux = check_flux(X, net.n_pixels, allow_nan=ivar is not None)
    known = None
    if ivar is not None:
        flux, known = _check_errors(net, flux, ivar)
    flux = np.atleast_2d(flux)
    if flux_covariance is None:
        return flux, known, None
    covariance, known = match_covariance(flux_covariance, known, flux.shape)
    return flux, known, covariance


def _check_errors(net: Regressor, X: ArrayLike, ivar: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Flux and inverse variance (star, pixel); the former may be anything where the latter is 0."""
    flux = check_flux(X, net.n_pixels, allow_nan=True, dtype=None)
    known = np.atleast_2d(check_ivar(ivar, flux.shape))
    flux = np.atleast_2d(flux)
    if (bad := ~np.isfinite(flux) & (known > 0)).any():
        star, pixel = np.argwhere(bad)[0]
        raise DataError(
            f"flux should be finite wherever ivar is positive, got {np.count_nonzero(bad)}"
            f" values that are not (first: star {star}, pixel {pixel}): set ivar to 0 there."
        )
    return flux, known


def _pick_labels(spectra: Spectra, wanted: tuple[str, ...], units: tuple[str, ...]) -> Labels:
    """Labels of these names, with their errors; all if the names are those of unnamed labels."""
    names = spectra.label_names
    is_unnamed = wanted == tuple(f"label_{i}" for i in range(len(wanted)))
    has_right_number = len(names) == len(wanted)
    if spectra.labels is not None and (not is_unnamed or has_right_number):
        if is_unnamed and set(names) != set(wanted):
            return _convert_labels(spectra, range(len(names)), units)
        if set(wanted) <= set(names):
            return _convert_labels(spectra, [names.index(name) for name in wanted], units)
    raise DataError(
        f"the spectra should have the {len(wanted)} labels of the network, {', '.join(wanted)},"
        f" got {', '.join(names) or 'none'}: name them alike, Spectra(..., label_names=...) and"
        " Network(..., label_names=...)."
    )


def _convert_labels(spectra: Spectra, columns: Sequence[int], units: Sequence[str]) -> Labels:
    """Columns of the labels, with their errors, in these units; not copied if nothing changes."""
    factors = np.array(
        [
            find_label_factor(spectra.label_units[i], unit, spectra.label_names[i])
            for i, unit in zip(columns, units, strict=True)
        ]
    )
    labels = _take(spectra.labels, columns, factors)
    errors = _take(spectra.label_errors, columns, factors)
    if spectra.label_covariance is not None:
        pairs = np.ix_(np.arange(len(spectra)), columns, columns)
        errors = spectra.label_covariance[pairs] * np.outer(factors, factors)
    return add_errors(labels, errors, missing=spectra.missing_label_error)


def _take(values: np.ndarray | None, columns: Sequence[int], factors: np.ndarray) -> Any:
    """Columns of values (star, label) times their factors; the values themselves if these are 1."""
    if values is None:
        return None
    if list(columns) != list(range(values.shape[1])):
        values = np.take(values, columns, axis=1)
    return values if (factors == 1.0).all() else values * factors


def find_groups(spectra: Spectra) -> np.ndarray:
    """Number (star,) of the group that each star belongs to, in the order in which they occur.

    Those of `Spectra.groups`, else stars of one name, which are the same star again; a star without
    a name is alone.
    """
    names = spectra.ids if spectra.groups is None else spectra.groups
    if names is None:
        return np.arange(len(spectra))
    own = np.array([name or f"\0{i}" for i, name in enumerate(names)])
    _, first, inverse = np.unique(own, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def name_groups(spectra: Spectra) -> list[str]:
    """Names of the groups that `find_groups` numbers: those of their first stars without any."""
    _, first = np.unique(find_groups(spectra), return_index=True)
    given = [names for names in (spectra.groups, spectra.ids) if names is not None]
    return [next((str(n[star]) for n in given if n[star]), str(star)) for star in first]


def assign_folds(spectra: Spectra, folds: int, seed: int) -> np.ndarray:
    """Fold (star,) in which each star is held out, -1 for stars without any label.

    Groups (`find_groups`) stay together. They are shuffled, and each goes to the fold that has the
    fewest stars so far, large groups first.

    Parameters
    ----------
    spectra : Spectra
    folds : int
        At least 2.
    seed : int

    Raises
    ------
    OptionError
        There are fewer than two folds, or fewer groups than folds.
    """
    check_count(folds, "folds", least=2)
    labelled = _find_labelled(spectra)
    group = find_groups(spectra)[labelled]
    names, sizes = np.unique(group, return_counts=True)
    if names.size < folds:
        raise OptionError(
            f"folds should be at most the number of groups with labels, {names.size}, got {folds}:"
            " ask for fewer, or give the groups, group=, if spectra were taken for one by their"
            " names."
        )
    shuffled = np.random.default_rng(seed).permutation(names.size)
    counts = np.zeros(folds, dtype=int)
    fold_of = np.empty(names.size, dtype=int)
    for i in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[i] = np.argmin(counts)
        counts[fold_of[i]] += sizes[i]
    fold = np.full(len(spectra), -1)
    fold[labelled] = fold_of[np.searchsorted(names, group)]
    return fold


def split_stars(spectra: Spectra, fraction: float, seed: int) -> tuple[Spectra, Spectra | None]:
    """Set aside a random `fraction` of the stars with labels, to test on.

    Groups (`find_groups`) are set aside whole.

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
    labelled = _find_labelled(spectra)
    n_out = max(1, round(fraction * labelled.size)) if fraction > 0 else 0
    if labelled.size - n_out < 2:
        raise DataError(
            f"training needs at least two stars with labels, got {labelled.size}, of which {n_out}"
            " are set aside for validation: give more stars, or a validation of 0."
        )
    if n_out == 0:
        return spectra[labelled], None
    order = np.random.default_rng(seed).permutation(labelled)
    group = find_groups(spectra)
    _, first = np.unique(group[order], return_index=True)
    in_turn = group[order][np.sort(first)]  # groups as their first stars come
    sizes = np.cumsum(np.bincount(group[labelled])[in_turn])
    n_groups = int(np.searchsorted(sizes, n_out)) + 1
    is_out = np.isin(group[labelled], in_turn[:n_groups])
    if np.count_nonzero(~is_out) < 2:
        raise DataError(
            f"training needs stars of other groups than those set aside, got {in_turn.size} groups"
            f" of which {n_groups} would be set aside: give more groups, a smaller validation, or"
            " group= if spectra were taken for one by their names."
        )
    return spectra[labelled[~is_out]], spectra[labelled[is_out]]


def _find_labelled(spectra: Spectra) -> np.ndarray:
    """Places of the stars with at least one label."""
    labels = np.full((len(spectra), 1), np.nan) if spectra.labels is None else spectra.labels
    return np.flatnonzero(~np.isnan(labels).all(axis=1))


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
    labels[:, found] = find_labels_alone(_convert_labels(spectra, columns, units))
    return labels


def pick_evenly(n: int, most: int) -> np.ndarray:
    """Indices of at most `most` of n stars, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))
