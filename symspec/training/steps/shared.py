"""U of a regression and its stars, with shares of pieces in place of the network's choices."""

from __future__ import annotations

from typing import cast

import numpy as np

from symspec.derivatives.weighted_sums import SharedSum, compile_shared_sum
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.networks.noise.noise import TunableNoise
from symspec.safety.label_errors import find_labels_alone
from symspec.training.steps.bundles import STORED_BYTES, Vector

LEAST_KINKS = 50  # that have to fit in memory, with three vectors each


class SharedObjective:
    """U of a regression and its stars, with shares of pieces in place of choices."""

    def __init__(self, builder: InverseBuilder, shared: SharedSum):
        noise = cast(TunableNoise, builder.reg.noise)
        self._reg = builder.reg
        self._shared = shared
        self._stars = (
            np.asarray(builder.X, np.float64),
            np.nan_to_num(find_labels_alone(builder.Y)),
            noise.given(builder.Y),
        )
        self._peak = noise.negative_log_peak(builder.Y)

    def arguments(self, theta: Vector) -> np.ndarray:
        """The numbers c (star, kink) whose signs choose."""
        return self._shared.arguments(theta, self._stars[0])

    def differentiate(self, theta: Vector, shares: np.ndarray) -> tuple[float, Vector, np.ndarray]:
        """U, its gradient (param,), and its derivatives by the shares (star, kink)."""
        L, gradient, by_shares = self._shared.differentiate(theta, *self._stars, shares)
        return L + self._peak + self._reg.add_prior(gradient, theta, 1.0), gradient, by_shares

    def multiply(self, theta: Vector, shares: np.ndarray, v: Vector) -> Vector:
        """Hessian by the weights, at fixed shares, times v (param,)."""
        product = self._shared.multiply(theta, *self._stars, shares, v)
        return product + self._reg.prior_precision_vector() * v

    def rows(self, theta: Vector, shares: np.ndarray, kinks: np.ndarray) -> np.ndarray:
        """Gradients (pair, param) of the derivatives by the shares of pairs (star, kink)."""
        return self._shared.rows(theta, *self._stars, shares, kinks)


def find_shared_objective(builder: InverseBuilder) -> SharedObjective | None:
    """U with shares, if all kinks of the network are known and not too many for memory."""
    reg = builder.reg
    n_bytes = 24 * LEAST_KINKS * reg.net.n_params
    if not isinstance(reg.noise, TunableNoise) or n_bytes > STORED_BYTES:
        return None
    n_given = reg.noise.given(builder.Y).shape[-1]
    shared = compile_shared_sum(
        reg.net, kind=reg.noise.kind, n_given=n_given, backend=builder.backend
    )
    return None if shared is None else SharedObjective(builder, shared)
