"""What mini-batch training walks and watches: stars, some of them held out, and their losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.compiled import compile_predict, compile_training_objective
from symspec.derivatives.functions import SumFunction, check_stars
from symspec.errors import DataError, OptionError
from symspec.networks.network import Network, dropout_layers
from symspec.networks.normalizations import split_fixed
from symspec.networks.params import Symbol
from symspec.networks.regression import Regression
from symspec.safety.label_errors import Labels, LabelsWithErrors, find_labels_alone, find_observed
from symspec.safety.memory import STARS_AT_ONCE, chunks
from symspec.safety.stars import check_flux, check_labels
from symspec.spectra.pixels import fill_others
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_stars
from symspec.spectra.spectra import Spectra

KEPT_BYTES = 2**31  # of stars behind fixed layers


@dataclass(frozen=True, eq=False)
class Stars:
    """Some rows of flux and labels, which are not copied.

    Attributes
    ----------
    flux : numpy.ndarray, shape (star, pixel)
    labels : numpy.ndarray, shape (star, label), or LabelsWithErrors
    rows : numpy.ndarray of int
        The rows of both that belong to it.
    fixed : callable, optional
        Makes of flux (star, pixel) what the weights see, batch by batch.
    """

    flux: np.ndarray
    labels: Labels
    rows: np.ndarray
    fixed: Callable[[np.ndarray], np.ndarray] | None = None

    def __len__(self) -> int:
        return self.rows.size

    def take(self, places: np.ndarray | slice) -> tuple[np.ndarray, Labels]:
        """Flux, through the fixed layers, and labels of the stars at these places among `rows`."""
        rows = self.rows[places]
        flux = self.flux.take(rows, axis=0)  # which takes half as long as an index
        return flux if self.fixed is None else self.fixed(flux), self.labels[rows]

    def behind(self, fixed: Callable[[np.ndarray], np.ndarray], width: int, dtype: str) -> Stars:
        """The same stars as the weights see them, behind fixed layers that make `width` numbers.

        They are kept in `dtype`, or made batch by batch where that takes more than `KEPT_BYTES`.
        """
        if len(self) * width * np.dtype(dtype).itemsize > KEPT_BYTES:
            return replace(self, fixed=fixed)
        seen = np.empty((len(self), width), dtype)
        for places in chunks(len(self), STARS_AT_ONCE):
            seen[places] = fixed(self.flux[self.rows[places]])
        return Stars(seen, self.labels[self.rows], np.arange(len(self)))


def hold_out_stars(
    net: Network,
    X: ArrayLike | Spectra | Resampled,
    Y: ArrayLike | None,
    label_errors: ArrayLike | None,
    ivar: ArrayLike | None,
    validation: Any,
    rng: np.random.Generator,
) -> tuple[Stars, Stars | None]:
    """Stars to train on, and stars to watch, if there are any.

    Parameters
    ----------
    net : Network
    X, Y, label_errors, ivar : array_like or None
        As for `train`, or Spectra alone.
    validation : tuple (X, Y), Spectra, float or None
        As for `train`.
    rng : numpy.random.Generator
        Draws the stars held out where `validation` is a fraction.

    Raises
    ------
    ShapeError, DataError
        Arrays are not what the network takes, or there are fewer than two stars to train on.
    OptionError
        `validation` is anything else.
    """
    flux, labels = check_stars(net, *as_stars(net, X, Y, label_errors, ivar))
    n = len(flux)
    if n < 2:
        raise DataError(
            f"train needs at least two stars, got {n}: X should have shape (star, {net.n_pixels})."
        )
    everything = Stars(flux, labels, np.arange(n))
    if validation is None:
        return everything, None
    if isinstance(validation, float | np.floating) and 0 < validation < 1:
        return _split(net, everything, float(validation), rng)
    if isinstance(validation, Resampled):
        validation = validation.spectra
    if isinstance(validation, Spectra):
        _, truth, _ = as_stars(net, validation)
        return everything, _check_validation(net, fill_others(validation, flux), truth)
    if isinstance(validation, tuple | list) and len(validation) == 2:
        return everything, _check_validation(net, *validation)
    got = repr(validation) if np.isscalar(validation) else type(validation).__name__
    raise OptionError(
        "validation should be a pair (X, Y), Spectra, or a fraction between 0 and 1 (both"
        f" excluded), got {got}."
    )


def _split(
    net: Network, stars: Stars, fraction: float, rng: np.random.Generator
) -> tuple[Stars, Stars]:
    """Hold out a random fraction of the stars."""
    n = len(stars)
    n_out = max(1, round(fraction * n))
    if n - n_out < 2:
        raise DataError(
            f"train needs at least two stars, got {n - n_out} of {n} after"
            f" validation={fraction:g} was set aside: give a smaller fraction."
        )
    order = rng.permutation(n)
    out = np.sort(order[:n_out])
    rows = np.sort(order[n_out:])
    left = find_labels_alone(stars.labels)[rows]
    check_labels(left, rows.size, net.n_labels, name="labels left to train on")
    if not find_observed(stars.labels)[out].any():
        raise DataError(
            f"the {n_out} validation stars have no label at all: give a larger fraction."
        )
    return Stars(stars.flux, stars.labels, rows), Stars(stars.flux, stars.labels, out)


def _check_validation(net: Network, X: ArrayLike, Y: ArrayLike | LabelsWithErrors) -> Stars:
    flux = np.atleast_2d(check_flux(X, net.n_pixels, name="validation flux", dtype=None))
    rows = np.arange(len(flux))
    if isinstance(Y, LabelsWithErrors):
        check_labels(Y.labels, len(flux), net.n_labels, name="validation labels")
        return Stars(flux, Y, rows)
    labels = np.asarray(Y)[None] if np.ndim(Y) == 1 else Y
    labels = check_labels(labels, len(flux), net.n_labels, name="validation labels")
    return Stars(flux, labels, rows)


class TrainingLoss:
    """Minus the log likelihood of a batch and its gradient, with dropout."""

    name = "loss"

    def __init__(self, reg: Regression, stars: Stars, backend: str, dtype: str):
        self.stars = stars
        self.dtype = dtype
        self.dropouts = tuple(dropout_layers(reg.net).values())
        self.objective = compile_training_objective(reg, backend=backend, dtype=dtype)
        self._gradient: np.ndarray | None = None

    def of_batch(
        self, theta: np.ndarray, places: np.ndarray, rng: np.random.Generator
    ) -> tuple[float, np.ndarray]:
        """Loss and its gradient (param,) of the stars at these places.

        The gradient holds until the next call, which may write where it is.
        """
        L = 0.0
        gradient = np.empty(0)
        for rows in chunks(places.size, self.objective.chunk):
            X, Y = self.stars.take(places[rows])
            masks = [
                layer.draw_mask((len(X), *shape), rng, self.dtype) for layer, shape in self.dropouts
            ]
            into, self._gradient = self._gradient, None
            value, part = self.objective.of_batch(theta, X, Y, 0.0, *masks, into=into)
            L += float(value)
            gradient = gradient + part if rows.start else part
        self._gradient = gradient
        return L, gradient


class ValidationLoss:
    """Negative log likelihood per star: U without the prior, and without dropout."""

    name = "validation_loss"

    def __init__(self, reg: Regression, stars: Stars, backend: str, dtype: str):
        def build(params: dict[str, Symbol], flux: Symbol, labels: Symbol) -> list[Any]:
            return [reg.negative_log_likelihood(params, flux, labels)]

        self.stars = stars
        self.function = SumFunction(reg, build, 2, backend, dtype)

    def per_star(self, theta: np.ndarray) -> float:
        """Loss in nats per star."""
        total = 0.0
        for rows in chunks(len(self.stars), self.function.chunk):
            total += float(self.function.of_batch(theta, *self.stars.take(rows), 0.0)[0])
        return total / len(self.stars)


def compile_losses(
    reg: Regression, stars: Stars, held_out: Stars | None, backend: str, dtype: str
) -> tuple[TrainingLoss, TrainingLoss | ValidationLoss]:
    """The loss to train by, and the one to watch.

    Fixed layers before the first weights run in float64 whatever `dtype` is: how flux is rounded
    before its mean is subtracted depends on its units.
    """
    fixed, rest = split_fixed(reg.net)
    if fixed is not None:
        reg = reg.with_network(rest)
        seen = (partial(compile_predict(fixed), np.empty(0)), rest.n_pixels, dtype)
        stars = stars.behind(*seen)
        held_out = None if held_out is None else held_out.behind(*seen)
    loss = TrainingLoss(reg, stars, backend, dtype)
    return loss, loss if held_out is None else ValidationLoss(reg, held_out, backend, dtype)
