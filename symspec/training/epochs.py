"""Mini-batch training with Adam, towards the minimum of the negative log posterior U.

A batch of B of the N training stars has a share of U: the likelihood of its stars and B / N of the
prior. Adam takes the gradient of that share divided by B, on average that of U / N, so that
learning rates mean what they mean in Keras. Losses are in nats per star.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.backends import choose_backend
from symspec.derivatives.threads import Threads
from symspec.errors import DivergedError
from symspec.networks.regression import Regression
from symspec.networks.theta import check_theta
from symspec.safety.options import check_count, check_number, check_rng
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra
from symspec.training.adam import Adam
from symspec.training.losses import (
    TrainingLoss,
    ValidationLoss,
    compile_losses,
    hold_out_stars,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainResult:
    """Result of `train`.

    Attributes
    ----------
    theta : numpy.ndarray, shape (param,)
        The weights at the end of the best epoch, float64.
    history : dict of str to list of float
        One number an epoch. "loss": U / N in nats per star, summed over the epoch's batches while
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
    X: ArrayLike | Spectra | Resampled,
    Y: ArrayLike | None = None,
    *,
    label_errors: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    theta: ArrayLike | None = None,
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
    progress: bool | Progress = True,
    backend: str = "auto",
    dtype: str = "float32",
) -> TrainResult:
    r"""Train by Adam on mini-batches, towards the minimum of the negative log posterior U.

    A step follows the gradient of the loss of the batch b, which has B of the N stars,

    .. math::
        -\frac1B \left[\sum_{n \in b} \log p(y_n | x_n, \theta)
        + \frac{B}{N} \log p(\theta)\right],

    also where the last batch of an epoch is smaller. Stars are shuffled in every epoch.

    Parameters
    ----------
    reg : Regression
    X : array_like, shape (star, pixel), or Spectra
        Flux. `Spectra` bring their labels: Y is then left out, bad pixels are filled with the mean
        of the good ones, and labels are matched to the network's by their names.
    Y : array_like, shape (star, label)
        Labels in their own units; NaN = missing.
    label_errors : array_like, shape (star, label) or (star, label, label), optional
        Standard deviations or covariances of errors that the labels came with, in their units.
        They add to the noise. `Spectra` bring their own.
    ivar : array_like, shape (star, pixel), optional
        Inverse variance of the training flux X, of which only zeros count: such pixels are filled
        by what the other pixels and stars tell of them. `Spectra` bring their own.
    theta : array_like, shape (param,), optional
        Start; by default drawn by `reg.net.init_params(rng, init)`.
    init : str, default "he_normal"
        Used when `theta` is not given: "he_normal" suits ReLU, "glorot_uniform" tanh and sigmoid.
    validation : tuple (X, Y), Spectra or float, optional
        Stars to watch and not to train on (bad pixels of `Spectra` are filled with the training
        mean), or the fraction of the stars given to set aside, drawn by `rng`.
    epochs : int, default 100
    batch_size : int, default 64
        At most the number of stars.
    learning_rate, beta_1, beta_2, epsilon : float
        Adam's, with Keras's defaults.
    decay : float, default 0
        Step t, counted from 0, has the rate learning_rate / (1 + decay t), as Keras 2's `decay`.
    patience : int, optional
        Stop after this many epochs without a lower validation loss (loss, without validation).
    reduce_lr_patience : int, optional
        Multiply the learning rate by `reduce_lr_factor`, down to `min_learning_rate`, after this
        many epochs without a lower one, and again after as many.
    reduce_lr_factor, min_learning_rate : float
    rng : numpy.random.Generator
        For the first weights, the split, the shuffling and dropout: the same seed gives the same
        weights.
    progress : bool or Progress, default True
        True: a bar on stderr if it takes more than three seconds. A callable is called with
        ("training", done, total, epoch=..., loss=..., ...) after each batch; done and total count
        stars, losses are those of the last complete epoch.
    backend : {"auto", "numpy", "c", "numba", "jax"}
        See `choose_backend`.
    dtype : {"float32", "float64"}
        Precision of the passes through the weights and of Adam's averages; fixed layers before the
        first weights, such as `Standardize`, run in float64.

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
    check_count(epochs, "epochs")
    check_count(batch_size, "batch_size")
    _check_rates(learning_rate, beta_1, beta_2, epsilon, decay)
    schedule = _Schedule(patience, reduce_lr_patience, reduce_lr_factor, min_learning_rate)
    schedule.check(learning_rate)
    choose_backend(backend)
    stars, held_out = hold_out_stars(reg.net, X, Y, label_errors, ivar, validation, rng)
    given = reg.net.init_params(rng, init) if theta is None else theta
    start = check_theta(given, reg.net.n_params)
    loss, watched = compile_losses(reg, stars, held_out, backend, dtype)
    adam = Adam(
        reg.prior,
        dtype,
        n_steps=epochs * -(-len(stars) // batch_size),
        learning_rate=float(learning_rate),
        beta_1=beta_1,
        beta_2=beta_2,
        epsilon=epsilon,
        decay=decay,
    )
    training = _Training(np.array(start, dtype), adam, loss, watched)
    with show_progress(progress) as show, Threads(reg.net).for_loops(min(batch_size, len(stars))):
        return training.result(training.run(epochs, batch_size, schedule, rng, show))


class _Training:
    """The weights in training, and the best so far."""

    def __init__(
        self,
        theta: np.ndarray,
        adam: Adam,
        loss: TrainingLoss,
        watched: TrainingLoss | ValidationLoss,
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

    @np.errstate(over="ignore", invalid="ignore")
    def run(
        self,
        epochs: int,
        batch_size: int,
        schedule: _Schedule,
        rng: np.random.Generator,
        show: Progress,
    ) -> str:
        """Train epoch by epoch; return why it ended: "epochs", "patience" or "interrupted"."""
        try:
            while self.epoch < epochs:
                self.end_epoch(self.run_epoch(epochs, batch_size, rng, show))
                self.report(self.epoch * len(self.loss.stars), epochs, show)
                if schedule.is_over(self.epoch, self.best_epoch):
                    return "patience"
                schedule.reduce_rate(self.adam, self.epoch, self.best_epoch)
        except KeyboardInterrupt:
            return "interrupted"
        return "epochs"

    def run_epoch(
        self, epochs: int, batch_size: int, rng: np.random.Generator, show: Progress
    ) -> dict[str, float]:
        """Train on each star once; return the losses."""
        n = len(self.loss.stars)
        total = 0.0
        rate = 0.0
        order = rng.permutation(n)
        for i in range(0, n, batch_size):
            places = order[i : i + batch_size]
            L, gradient = self.loss.of_batch(self.theta, places, rng)
            self.check_finite(L)
            rate = self.adam.decayed_rate
            scale, weight = 1 / places.size, places.size / n
            total += L + self.adam.step(self.theta, gradient, scale, weight)
            self.report(n * self.epoch + i + places.size, epochs, show)
        self.check_finite(float(np.sum(self.theta)))
        losses = {"loss": total / n, "learning_rate": rate}
        if isinstance(self.watched, ValidationLoss):
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

    def report(self, done: int, epochs: int, show: Progress) -> None:
        """Show how many stars are done, and the losses of the last complete epoch."""
        n = len(self.loss.stars)
        losses = {name: values[-1] for name, values in self.history.items() if values}
        show("training", done, n * epochs, epoch=-(-done // n), **losses)

    def result(self, stopped: str) -> TrainResult:
        return TrainResult(
            theta=self.best_theta.astype(np.float64),
            history=self.history,
            epochs_run=self.epoch,
            stopped=stopped,
            best_epoch=self.best_epoch,
        )

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
    """When to stop and when to lower the learning rate, counted as Keras's callbacks do."""

    patience: int | None
    reduce_patience: int | None
    factor: float
    min_rate: float
    last_reduced: int = 0

    def check(self, learning_rate: float) -> None:
        """Refuse options out of range."""
        check_count(self.patience, "patience", or_none=True)
        check_count(self.reduce_patience, "reduce_lr_patience", or_none=True)
        check_number(
            self.factor,
            "reduce_lr_factor",
            "between 0 and 1 (both excluded)",
            lambda x: 0 < x < 1,
        )
        check_number(
            self.min_rate,
            "min_learning_rate",
            f"between 0 and learning_rate ({learning_rate:g})",
            lambda x: 0 <= x <= learning_rate,
        )

    def is_over(self, epoch: int, best_epoch: int) -> bool:
        return self.patience is not None and epoch - best_epoch >= self.patience

    def reduce_rate(self, adam: Adam, epoch: int, best_epoch: int) -> None:
        """Lower the rate of `adam` if it is time to."""
        if self.reduce_patience is None:
            return
        if epoch - max(best_epoch, self.last_reduced) < self.reduce_patience:
            return
        adam.learning_rate = max(adam.learning_rate * float(self.factor), float(self.min_rate))
        self.last_reduced = epoch


def _check_rates(
    learning_rate: float, beta_1: float, beta_2: float, epsilon: float, decay: float
) -> None:
    check_number(learning_rate, "learning_rate", "positive", lambda x: x > 0)
    check_number(beta_1, "beta_1", "at least 0 and below 1", lambda x: 0 <= x < 1)
    check_number(beta_2, "beta_2", "at least 0 and below 1", lambda x: 0 <= x < 1)
    check_number(epsilon, "epsilon", "positive", lambda x: x > 0)
    check_number(decay, "decay", "zero or positive", lambda x: x >= 0)
