r"""The contract of every noise: the likelihood of labels, given what the network says of them.

A noise gives the log density of each star's labels, as a graph, and the matrix W_n (label, label)
that stands for its curvature in the Gauss-Newton matrix, by a whitener :math:`T_n^T T_n = W_n`.
Labels that are NaN are missing: their rows and columns of T_n and W_n are zero.

In graphs, `targets` are what is known of the labels of each star: the labels (star, label) alone,
or followed by the errors that they came with, as `symspec.safety.label_errors.LabelsWithErrors` are
as an array. For one star the axis of stars is left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import grad, pushforward
from pytensor.tensor import TensorVariable as Symbol

from symspec.networks.noise.star_noise import StarNoise
from symspec.safety.label_errors import Labels, find_observed

LOG_2PI = float(np.log(2 * np.pi))


class Noise(ABC):
    """Contract of every noise. In graphs f is (star, label), or (label,) for one star.

    Attributes
    ----------
    kind : str
        Its name in archives, a key of `NOISES`.
    """

    kind: ClassVar[str]

    @abstractmethod
    def for_labels(self, n_labels: int) -> Self:
        """Noise of `n_labels` labels.

        Raises
        ------
        ShapeError
            It is one of another number of labels.
        """

    @property
    @abstractmethod
    def covariance(self) -> np.ndarray:
        """Covariance (label, label) of the noise."""

    @property
    def n_labels(self) -> int:
        """Number of labels."""
        return len(self.covariance)

    @property
    def tail_dof(self) -> np.ndarray | None:
        """Degrees of freedom (label,) of tails like those of Student's t; None: a normal's."""
        return None

    @property
    def sigma(self) -> np.ndarray:
        """Standard deviation (label,) of the noise."""
        return np.sqrt(np.diag(self.covariance))

    @abstractmethod
    def log_likelihood(self, f: Symbol, targets: Symbol) -> Symbol:
        """Log density of each star's observed labels (star,), or a scalar for one star."""

    @abstractmethod
    def whiten(self, u: Symbol, f: Symbol, targets: Symbol) -> Symbol:
        """T_n u_n of each star; `u` is (star, label), (star, label, anything), or (label,)."""

    @abstractmethod
    def weigh(self, u: Symbol, f: Symbol, targets: Symbol) -> Symbol:
        """W_n u_n of each star; `u` has shape (star, label) or (label,)."""

    def weights(self, f: Symbol, targets: Symbol) -> Symbol:
        """W_n (star, label, label)."""
        one = pt.eye(self.n_labels, dtype=f.dtype)[None]
        T = self.whiten(one * pt.ones_like(f)[:, :, None], f, targets)
        return pt.matmul(T.transpose((0, 2, 1)), T)

    def gradient(self, f: Symbol, targets: Symbol) -> Symbol:
        """Gradient (star, label) of minus the log density with respect to f."""
        return grad(-pt.sum(self.log_likelihood(f, targets)), f)

    def hessian(self, f: Symbol, targets: Symbol) -> Symbol:
        """Second derivatives (star, label, label) of minus the log density with respect to f."""
        gradient = self.gradient(f, targets)
        units = np.eye(self.n_labels, dtype=f.dtype)
        columns = [pushforward(gradient, f, pt.ones_like(f) * unit) for unit in units]
        return pt.stack(columns, axis=2)

    @abstractmethod
    def of_stars(self, labels: Labels) -> StarNoise:
        """Noise of the stars that have these labels (star, label); S_n is the inverse of W_n."""

    @abstractmethod
    def predict(self, f: np.ndarray, labels: Labels | None = None) -> np.ndarray:
        """Covariance (star, label, label) of the noise around predictions f (star, label).

        With `labels`, that of these labels around them: their own errors add to it.
        """

    def trust(self, residuals: np.ndarray, labels: Labels) -> np.ndarray:
        """How much each label (star, label) counts for the weights: 1 as without wide tails.

        NaN where it is missing. `residuals` are labels minus predictions.
        """
        return np.where(find_observed(labels), 1.0, np.nan)

    @abstractmethod
    def score(self, f: np.ndarray, labels: Labels) -> np.ndarray:
        """Gradient of each star's log density with respect to f, of f's shape, as numbers.

        Zero where a label is missing.
        """

    @abstractmethod
    def draw(self, f: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Labels (..., label) drawn around f (..., label)."""

    @abstractmethod
    def describe(self) -> str:
        """What it is, in words, with its numbers in the order of the labels."""

    @abstractmethod
    def identity(self) -> Any:
        """Numbers that tell this noise from others, for fingerprints."""

    @abstractmethod
    def to_arrays(self) -> dict[str, np.ndarray]:
        """Arrays by name, for an archive."""

    @classmethod
    @abstractmethod
    def stored_shapes(cls, names: Collection[str], n_labels: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the arrays to read, of an archive that has arrays of these names."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Noise of the arrays that `to_arrays` gave."""


class TunableNoise(Noise):
    """Noise whose evidence is known, with its gradient.

    With r the residuals, what a star's labels add to U is L, which depends on r, and what is left
    where r is zero.
    """

    @abstractmethod
    def given(self, labels: Labels) -> np.ndarray:
        """Numbers (star, label, anything) of L, see `symspec.derivatives.weighted_sums`."""

    @abstractmethod
    def negative_log_peak(self, labels: Labels) -> float:
        """Minus the log density of all observed labels, where the network meets each."""

    @abstractmethod
    def differentiate_evidence(
        self, residuals: np.ndarray, V: np.ndarray, moves: np.ndarray, given: np.ndarray
    ) -> np.ndarray:
        r"""Gradient of the log evidence with respect to the noise's own numbers.

        Parameters
        ----------
        residuals : numpy.ndarray, shape (star, label)
            Labels less outputs; what stands at missing labels does not matter.
        V : numpy.ndarray, shape (star, label, label)
            :math:`J_n A^{-1} J_n^T`.
        moves : numpy.ndarray, shape (star, label)
            :math:`J_n q` with :math:`q = H^{-1} \nabla \tfrac12 \log\det A`, by which the minimum
            moves; zero for a linear network.
        given : numpy.ndarray
            What `given` is for these labels.
        """


def list_numbers(numbers: np.ndarray) -> str:
    """Numbers in words: "0.1, 0.2"."""
    return ", ".join(f"{number:.4g}" for number in np.atleast_1d(numbers))


def find_residual(f: Symbol, labels: Symbol) -> Symbol:
    """Labels minus f, zero where a label is missing."""
    labels = labels.astype(f.dtype)
    return pt.switch(pt.isnan(labels), pt.zeros_like(f), labels - f)


def mark_observed(labels: Symbol, dtype: str) -> Symbol:
    """1 where a label is observed, 0 where it is missing."""
    return pt.switch(pt.isnan(labels), 0.0, 1.0).astype(dtype)


def split_targets(targets: Symbol, n_labels: int) -> tuple[Symbol, Symbol | None]:
    """Labels (..., label), and the variances (..., label) or covariances of their errors, if any.

    Covariances have shape (..., label, label).
    """
    width = targets.type.shape[-1]
    if width is None or width == n_labels:
        return targets, None
    labels = targets[..., :n_labels]
    errors = targets[..., n_labels:]
    if width == 2 * n_labels:
        return labels, errors
    return labels, errors.reshape((*labels.shape[:-1], n_labels, n_labels))
