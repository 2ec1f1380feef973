"""Losses of mini-batch training: a batch's share of U with dropout, and the validation loss."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from symspec.derivatives import graphs
from symspec.derivatives.compiled import compile_predict, compile_training_objective
from symspec.derivatives.functions import SumFunction
from symspec.networks.network import dropout_layers
from symspec.networks.normalizations import split_fixed
from symspec.networks.params import Symbol
from symspec.networks.regression import Regression
from symspec.safety.memory import chunks
from symspec.training.held_out import Stars


class TrainingLoss:
    """A batch's share of U and its gradient, with dropout."""

    name = "loss"

    def __init__(self, reg: Regression, stars: Stars, backend: str, dtype: str):
        self.stars = stars
        self.dtype = dtype
        self.dropouts = tuple(dropout_layers(reg.net).values())
        self.objective = compile_training_objective(reg, backend=backend, dtype=dtype)

    def share(
        self, theta: np.ndarray, places: np.ndarray, rng: np.random.Generator
    ) -> tuple[float, np.ndarray]:
        """Share of U and its gradient (param,) of the stars at these places."""
        U = 0.0
        gradient = np.empty(0)
        for rows in chunks(places.size, self.objective.chunk):
            X, Y = self.stars.take(places[rows])
            masks = [
                layer.draw_mask((len(X), *shape), rng, self.dtype) for layer, shape in self.dropouts
            ]
            value, part = self.objective.of_batch(theta, X, Y, len(X) / len(self.stars), *masks)
            U += float(value)
            gradient = gradient + part if rows.start else part
        return U, gradient


class ValidationLoss:
    """Negative log likelihood per star: U without the prior, and without dropout."""

    name = "validation_loss"

    def __init__(self, reg: Regression, stars: Stars, backend: str, dtype: str):
        def build(
            params: dict[str, Symbol], flux: Symbol, labels: Symbol, prior_weight: Symbol
        ) -> list[Any]:
            return [graphs.build_negative_log_posterior(reg, params, flux, labels, prior_weight)]

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
        function = partial(compile_predict(fixed), np.empty(0))
        stars = replace(stars, fixed=function)
        held_out = None if held_out is None else replace(held_out, fixed=function)
    loss = TrainingLoss(reg, stars, backend, dtype)
    return loss, loss if held_out is None else ValidationLoss(reg, held_out, backend, dtype)
