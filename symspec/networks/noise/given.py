"""Minus log densities of labels, with the numbers of the noise as an argument of the graph.

What they are given, `TunableNoise.given` makes of labels; see `symspec.derivatives.weighted_sums`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor import TensorVariable as Symbol

from symspec.networks.noise.predicted import PredictedNoise


@dataclass(frozen=True)
class GivenWeights:
    """Normal noise of weights W_n (star, label, label)."""

    given: Symbol

    def loss(self, f: Symbol, labels: Symbol) -> Symbol:
        r = labels - f
        return 0.5 * r[:, :, None] * self.given * r[:, None, :]

    def gradient(self, f: Symbol, labels: Symbol) -> Symbol:
        return pt.matmul(self.given, (f - labels)[:, :, None])[:, :, 0]

    def hessian(self, f: Symbol, labels: Symbol) -> Symbol:
        return self.given

    def weights(self, f: Symbol, labels: Symbol) -> Symbol:
        return self.given


@dataclass(frozen=True)
class GivenScales:
    """Student's t noise of inverse squared scales and degrees of freedom (star, label, 2)."""

    given: Symbol

    def loss(self, f: Symbol, labels: Symbol) -> Symbol:
        p, dof = self._split()
        return 0.5 * (dof + 1) * pt.log1p(p * (labels - f) ** 2 / dof)

    def gradient(self, f: Symbol, labels: Symbol) -> Symbol:
        p, dof = self._split()
        r = labels - f
        return -(dof + 1) * p * r / (dof + p * r**2)

    def hessian(self, f: Symbol, labels: Symbol) -> Symbol:
        p, dof = self._split()
        z2 = p * (labels - f) ** 2
        return _put_on_diagonals((dof + 1) * p * (dof - z2) / (dof + z2) ** 2)

    def weights(self, f: Symbol, labels: Symbol) -> Symbol:
        p, dof = self._split()
        return _put_on_diagonals((dof + 1) / (dof + 3) * p)

    def _split(self) -> tuple[Symbol, Symbol]:
        return self.given[:, :, 0], self.given[:, :, 1]


@dataclass(frozen=True)
class GivenErrors:
    """Noise that the network predicts, of labels with or without errors (star, label, 1 or more).

    First stands 1 where a label is there, then the variance or covariances of its error.
    """

    given: Symbol

    def loss(self, f: Symbol, labels: Symbol) -> Symbol:
        return -self._noise.log_likelihood(f, self._find_targets(labels))

    def gradient(self, f: Symbol, labels: Symbol) -> Symbol:
        return self._noise.gradient(f, self._find_targets(labels))

    def hessian(self, f: Symbol, labels: Symbol) -> Symbol:
        return self._noise.hessian(f, self._find_targets(labels))

    def weights(self, f: Symbol, labels: Symbol) -> Symbol:
        return self._noise.weights(f, self._find_targets(labels))

    @property
    def _noise(self) -> PredictedNoise:
        return PredictedNoise().for_labels(self.given.type.shape[1])

    def _find_targets(self, labels: Symbol) -> Symbol:
        n_stars = labels.shape[0]
        _, n_labels, n_given = self.given.type.shape
        known = pt.switch(pt.neq(self.given[:, :, 0], 0.0), labels, np.nan)
        errors = self.given[:, :, 1:].reshape((n_stars, n_labels * (n_given - 1)))
        targets = pt.concatenate([known, errors], axis=1)
        return pt.specify_shape(targets, (n_stars, n_labels * n_given))


def _put_on_diagonals(values: Symbol) -> Symbol:
    return values[:, :, None] * pt.eye(values.type.shape[1])


LIKELIHOODS: dict[str, type[GivenWeights] | type[GivenScales] | type[GivenErrors]] = {
    "gaussian": GivenWeights,
    "student_t": GivenScales,
    "predicted": GivenErrors,
}
