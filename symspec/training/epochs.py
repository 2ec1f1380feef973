"""Mini-batch training with Adam: the negative log posterior, a share of it at a time.

A batch of B of the N training stars stands for a share of U: the likelihood of its stars and B / N
of the prior. Adam is given the gradient of that share divided by B, that of U / N on average over
batches, so that learning rates mean what they mean in Keras; losses are told in nats per star.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from symspec.derivatives import graphs
from symspec.derivatives.backends import choose_backend
from symspec.derivatives.compiled import compile_training_objective
from symspec.derivatives.functions import SumFunction, check_stars
from symspec.errors import DataError, DivergedError, OptionError
from symspec.networks.network import Network, dropout_layers
from symspec.networks.regression import Regression
from symspec.safety.checks import check_flux, check_labels, check_rng, check_theta
from symspec.training.adam import Adam


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainResult:
    """What training gives.

    Attributes
    ----------
    theta : numpy.ndarray, shape (param,)
        The weights at the end of the best epoch, float64.
    history : dict of str to list of float
        One number an epoch. "loss": U / N in nats per star, added up over the epoch's batches while
        the weights moved, with dropout if there is any. "validation_loss" (only with validation):
        negative log LIKELIHOOD per validation star, without the prior and without dropout, at the
        end of the epoch. "learning_rate": that of the epoch's last step, decay included.
    epochs_run : int
        Complete epochs.
    stopped : {"epochs", "patience", "interrupted"}
        Why training ended: all epochs done, no improvement for `patience` epochs, or Ctrl-C.
    best_epoch : int
        The epoch, counted from 1, of the lowest validation loss, or of the lowest loss without
        validation; 0 where no epoch was completed and `theta` is the start.
    """

    theta: np.ndarray = field(repr=False)
    history: dict[str, list[float]] = field(repr=False)
    epochs_run: int
    stopped: str
    best_epoch: int


def train(
    reg: Regression,
    X: Any,
    Y: Any,
    *,
    theta: Any = None,
    init: str = "he_normal",
    validation: Any = None,
    epochs: int = 100,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    decay: float = 0.0,
    patience: int | None = None,
    reduce_lr_patience: int | None = None,
    reduce_lr_factor: float = 0.5,
    min_learning_rate: float = 0.0,
    rng: np.random.Generator,
    progress: bool = True,
    backend: str = "auto",
    dtype: str = "float32",
) -> TrainResult:
    r"""Train by Adam on mini-batches, towards the minimum of the negative log posterior U.

    A step follows the gradient of U per star, as the B stars of the batch b know it,

    .. math:: -\frac1B \left[\sum_{n \in b} \log p(y_n | x_n, \theta) + \frac{B}{N} \log p(\theta)\right],

    whatever B is (the last batch of an epoch may be smaller). Stars are shuffled in every epoch.

    Parameters
    ----------
    reg : Regression
    X : array_like, shape (star, pixel)
        Flux.
    Y : array_like, shape (star, label)
        Labels in their own units; NaN = missing.
    theta : array_like, shape (param,), optional
        Where to start; by default drawn by `reg.net.init_params(rng, init)`.
    init : str, default "he_normal"
        Used when `theta` is not given: "he_normal" suits ReLU, "glorot_uniform" tanh and sigmoid.
    validation : tuple (X, Y) or float, optional
        Stars to watch and not to train on, or the fraction of the stars given to set aside (drawn
        by `rng`).
    epochs : int, default 100
    batch_size : int, default 64
        One larger than the number of stars is that number.
    learning_rate, beta_1, beta_2, epsilon : float
        Adam's, with Keras's defaults.
    decay : float, default 0
        Step t, counted from 0, has the rate learning_rate / (1 + decay t), as Keras 2's `decay`.
    patience : int, optional
        Stop after so many epochs without a lower validation loss (loss, without validation).
    reduce_lr_patience : int, optional
        Multiply the learning rate by `reduce_lr_factor`, down to `min_learning_rate`, after so many
        epochs without a lower one, and again after as many.
    reduce_lr_factor, min_learning_rate : float
    rng : numpy.random.Generator
        For the first weights, the split, the shuffling and dropout: the same seed gives the same
        weights.
    progress : bool, default True
        Show a progress bar on stderr.
    backend : {"auto", "numpy", "c", "numba", "jax"}
        See `choose_backend`.
    dtype : {"float32", "float64"}
        Of the passes and of Adam's averages.

    Returns
    -------
    TrainResult
        With the weights of the best epoch, also after Ctrl-C.

    Raises
    ------
    ShapeError, DataError
        Arrays are not what the regression takes, or there are fewer than two stars to train on.
    OptionError
        An option is out of its range, or `rng` is no generator.
    DivergedError
        The loss became infinite or NaN.

    References
    ----------
    Kingma & Ba 2015, arXiv:1412.6980 (Adam). Srivastava et al. 2014, JMLR 15, 1929 (dropout).
    """
    check_rng(rng)
    _check_counts(epochs, batch_size, patience, reduce_lr_patience)
    _check_rates(learning_rate, beta_1, beta_2, epsilon, decay, reduce_lr_factor, min_learning_rate)
    choose_backend(backend)
    stars, held_out = _split_stars(reg.net, X, Y, validation, rng)
    start = (
        reg.net.init_params(rng, init) if theta is None else check_theta(theta, reg.net.n_params)
    )
    loss = _TrainingLoss(reg, stars, backend, dtype)
    watched = loss if held_out is None else _ValidationLoss(reg, held_out, backend, dtype)
    rates = {
        "learning_rate": float(learning_rate),
        "beta_1": beta_1,
        "beta_2": beta_2,
        "epsilon": epsilon,
    }
    adam = Adam(start.size, dtype, decay=decay, **rates)
    training = _Training(np.array(start, dtype), adam, loss, watched)
    schedule = _Schedule(
        patience, reduce_lr_patience, float(reduce_lr_factor), float(min_learning_rate)
    )
    with (
        _show_progress(progress, epochs, len(stars)) as show,
        np.errstate(over="ignore", invalid="ignore"),
    ):
        stopped = training.run(epochs, min(batch_size, len(stars)), schedule, rng, show)
    theta = training.best_theta.astype(np.float64)
    return TrainResult(
        theta=theta,
        history=training.history,
        epochs_run=training.epoch,
        stopped=stopped,
        best_epoch=training.best_epoch,
    )


@dataclass(frozen=True, eq=False)
class _Stars:
    """Some rows of flux and labels, left where they lie."""

    flux: np.ndarray
    labels: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return self.rows.size

    def take(self, places: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        return self.flux[self.rows[places]], self.labels[self.rows[places]]


class _TrainingLoss:
    """A batch's share of U and its gradient, with dropout."""

    def __init__(self, reg: Regression, stars: _Stars, backend: str, dtype: str):
        self.stars = stars
        self.dtype = dtype
        self.name = "loss"
        self.dropouts = tuple(dropout_layers(reg.net).values())
        self.objective = compile_training_objective(reg, backend=backend, dtype=dtype)

    def share(
        self, theta: np.ndarray, places: np.ndarray, rng: np.random.Generator
    ) -> tuple[float, np.ndarray]:
        U = 0.0
        gradient = np.empty(0)
        for i in range(0, places.size, self.objective.chunk):
            X, Y = self.stars.take(places[i : i + self.objective.chunk])
            masks = [
                layer.draw_mask((len(X), *shape), rng, self.dtype) for layer, shape in self.dropouts
            ]
            value, part = self.objective.of_batch(theta, X, Y, len(X) / len(self.stars), *masks)
            U += float(value)
            gradient = gradient + part if i else part
        return U, gradient


class _ValidationLoss:
    """Negative log likelihood per star: U without the prior."""

    def __init__(self, reg: Regression, stars: _Stars, backend: str, dtype: str):
        def build(params, flux, labels, prior_weight):
            return [graphs.build_negative_log_posterior(reg, params, flux, labels, prior_weight)]

        self.stars = stars
        self.name = "validation_loss"
        self.function = SumFunction(reg, build, 2, backend, dtype)

    def per_star(self, theta: np.ndarray) -> float:
        n = len(self.stars)
        size = self.function.chunk
        parts = (slice(i, min(i + size, n)) for i in range(0, n, size))
        return (
            sum(float(self.function.of_batch(theta, *self.stars.take(p), 0.0)[0]) for p in parts)
            / n
        )


class _Training:
    """Weights on their way, and the best so far."""

    def __init__(
        self,
        theta: np.ndarray,
        adam: Adam,
        loss: _TrainingLoss,
        watched: _TrainingLoss | _ValidationLoss,
    ):
        self.theta = theta
        self.adam = adam
        self.loss = loss
        self.watched = watched
        self.best_theta = theta.copy()
        self.best_epoch = 0
        self.best = np.inf
        self.epoch = 0
        self.history: dict[str, list[float]] = {
            name: [] for name in ("loss", watched.name, "learning_rate")
        }

    def run(
        self, epochs: int, batch_size: int, schedule: _Schedule, rng: np.random.Generator, show: Any
    ) -> str:
        """Train epoch by epoch; the word says why it ended."""
        try:
            while self.epoch < epochs:
                self.end_epoch(self.run_epoch(batch_size, rng, show))
                show(0, self.history)
                if schedule.is_over(self.epoch, self.best_epoch):
                    return "patience"
                schedule.reduce_rate(self.adam, self.epoch, self.best_epoch)
        except KeyboardInterrupt:
            return "interrupted"
        return "epochs"

    def run_epoch(self, batch_size: int, rng: np.random.Generator, show: Any) -> dict[str, float]:
        n = len(self.loss.stars)
        total = 0.0
        rate = 0.0
        order = rng.permutation(n)
        for i in range(0, n, batch_size):
            places = order[i : i + batch_size]
            U, gradient = self.loss.share(self.theta, places, rng)
            self.check_finite(U)
            total = total + U
            rate = self.adam.decayed_rate
            self.adam.step(self.theta, gradient, 1 / places.size)
            show(places.size, None)
        self.check_finite(float(np.sum(self.theta)))
        losses = {"loss": total / n, "learning_rate": rate}
        if isinstance(self.watched, _ValidationLoss):
            losses["validation_loss"] = self.watched.per_star(self.theta)
            self.check_finite(losses["validation_loss"])
        return losses

    def end_epoch(self, losses: dict[str, float]) -> None:
        self.epoch += 1
        for name, values in self.history.items():
            values.append(losses[name])
        if losses[self.watched.name] < self.best:
            self.best = losses[self.watched.name]
            self.best_epoch = self.epoch
            np.copyto(self.best_theta, self.theta)

    def check_finite(self, value: float) -> None:
        if not np.isfinite(value):
            epoch = self.epoch + 1
            rate = self.adam.decayed_rate
            raise DivergedError(
                f"the loss should stay finite, got {value} in epoch {epoch}, after"
                f" {self.adam.iterations} steps: lower learning_rate (it was {rate:.3g}, try"
                f" {rate / 10:.3g}) and let the network standardise flux and labels (see"
                " `standardized`).",
                epoch,
            )


@dataclass
class _Schedule:
    """When to give up and when to slow down, counted as Keras's callbacks do."""

    patience: int | None
    reduce_patience: int | None
    factor: float
    min_rate: float
    last_reduced: int = 0

    def is_over(self, epoch: int, best_epoch: int) -> bool:
        return self.patience is not None and epoch - best_epoch >= self.patience

    def reduce_rate(self, adam: Adam, epoch: int, best_epoch: int) -> None:
        if (
            self.reduce_patience is None
            or epoch - max(best_epoch, self.last_reduced) < self.reduce_patience
        ):
            return
        adam.learning_rate = max(adam.learning_rate * self.factor, self.min_rate)
        self.last_reduced = epoch


def _split_stars(
    net: Network, X: Any, Y: Any, validation: Any, rng: np.random.Generator
) -> tuple[_Stars, _Stars | None]:
    X, Y = check_stars(net, X, Y)
    n = len(X)
    held_out = None
    if n < 2:
        raise DataError(
            f"train needs at least two stars, got {n}: X should have shape (star, {net.n_pixels})."
        )
    rows = np.arange(n)
    if isinstance(validation, float | np.floating) and 0 < validation < 1:
        n_out = max(1, round(validation * n))
        if n - n_out < 2:
            raise DataError(
                f"train needs at least two stars, got {n - n_out} of {n} after"
                f" validation={validation:g} was set aside: give a smaller fraction."
            )
        order = rng.permutation(n)
        held_out = _Stars(X, Y, np.sort(order[:n_out]))
        rows = np.sort(order[n_out:])
        check_labels(Y[rows], rows.size, net.n_labels, name="labels left to train on")
        if np.isnan(Y[held_out.rows]).all():
            raise DataError(
                f"the {n_out} validation stars have no label at all: give a larger fraction."
            )
    elif isinstance(validation, tuple | list) and len(validation) == 2:
        held_out = _check_validation(net, *validation)
    elif validation is not None:
        raise OptionError(
            "validation should be a pair (X, Y) or a fraction between 0 and 1 (both excluded), got "
            f"{repr(validation) if np.isscalar(validation) else type(validation).__name__}."
        )
    return _Stars(X, Y, rows), held_out


def _check_validation(net: Network, X: Any, Y: Any) -> _Stars:
    X = check_flux(X, net.n_pixels, name="validation flux", dtype=None)
    X = X[None] if X.ndim == 1 else X
    Y = np.asarray(Y)[None] if np.ndim(Y) == 1 else Y
    return _Stars(
        X, check_labels(Y, len(X), net.n_labels, name="validation labels"), np.arange(len(X))
    )


def _check_counts(epochs: Any, batch_size: Any, patience: Any, reduce_lr_patience: Any) -> None:
    counts = {"epochs": epochs, "batch_size": batch_size}
    waits = {"patience": patience, "reduce_lr_patience": reduce_lr_patience}
    for name, value in (counts | {k: v for k, v in waits.items() if v is not None}).items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            also = " or None" if name in waits else ""
            raise OptionError(f"{name} should be a positive integer{also}, got {value!r}.")


def _check_rates(
    learning_rate: Any,
    beta_1: Any,
    beta_2: Any,
    epsilon: Any,
    decay: Any,
    factor: Any,
    min_learning_rate: Any,
) -> None:
    _check_number(learning_rate, "learning_rate", "positive", lambda x: x > 0)
    _check_number(beta_1, "beta_1", "at least 0 and below 1", lambda x: 0 <= x < 1)
    _check_number(beta_2, "beta_2", "at least 0 and below 1", lambda x: 0 <= x < 1)
    _check_number(epsilon, "epsilon", "positive", lambda x: x > 0)
    _check_number(decay, "decay", "zero or positive", lambda x: x >= 0)
    _check_number(
        factor, "reduce_lr_factor", "between 0 and 1 (both excluded)", lambda x: 0 < x < 1
    )
    in_range = f"between 0 and learning_rate ({learning_rate:g})"
    _check_number(
        min_learning_rate, "min_learning_rate", in_range, lambda x: 0 <= x <= learning_rate
    )


def _check_number(value: Any, name: str, rule: str, is_good: Callable[[Any], bool]) -> None:
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(
        value, bool
    )
    if not (is_number and np.isfinite(value) and is_good(value)):
        raise OptionError(f"{name} should be a number, {rule}, got {value!r}.")


@contextmanager
def _show_progress(
    enabled: bool, epochs: int, n_stars: int
) -> Iterator[Callable[[int, Any], None]]:
    if not enabled:
        yield lambda stars, history: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    width = len(f"epoch {epochs}/{epochs}")
    epoch_column = TextColumn("epoch {task.fields[epoch]}", table_column=Column(min_width=width))
    news_column = TextColumn("{task.fields[news]}", table_column=Column(no_wrap=True))
    columns = (epoch_column, BarColumn(6), news_column, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=epochs * n_stars, epoch=f"1/{epochs}", news="")
        names = {"loss": "loss", "validation_loss": "validation", "learning_rate": "lr"}
        losses = ""

        def show(stars: int, history: dict[str, list[float]] | None) -> None:
            nonlocal losses
            if history is not None:
                losses = "  ".join(
                    f"{names[name]} {values[-1]:.4g}" for name, values in history.items()
                )
            speed = bar.tasks[0].speed
            epoch = min(int(bar.tasks[0].completed) // n_stars + 1, epochs)
            rate = f"  {speed:.0f} stars/s" if speed else ""
            bar.update(task, advance=stars, epoch=f"{epoch}/{epochs}", news=losses + rate)

        yield show
