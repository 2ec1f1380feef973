r"""The contract of every noise: the likelihood of labels, given what the network says of them.

A noise gives the log density of each star's labels, as a graph, and the matrix W_n (label, label)
that stands for its curvature in the Gauss-Newton matrix, by a whitener :math:`T_n^T T_n = W_n`.
Labels that are NaN are missing: their rows and columns of T_n and W_n are zero.

Most noise takes one output of the network a label. Where it takes more, all labels' first outputs,
which predict the labels, stand before their second ones, and W_n is (output, output).

In graphs, `targets` are what is known of the labels of each star: the labels (star, label) alone,
or followed by the errors that they came with, as `symspec.safety.label_errors.LabelsWithErrors` are
as an array. For one star the axis of stars is left out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import pytensor.tensor as pt
from pytensor.gradient import grad, pushforward
from pytensor.tensor import TensorVariable as Symbol

from symspec.errors import OptionError
from symspec.networks.noise.star_noise import StarNoise
from symspec.safety.label_errors import Labels, find_observed

LOG_2PI = float(np.log(2 * np.pi))
FindOutputs = Callable[[], np.ndarray]


def find_no_outputs() -> np.ndarray:
    """Stands for outputs of the network where noise should not need them."""
    raise OptionError("this noise depends on what the network says of each star: give its outputs.")


class Noise(ABC):
    """Contract of every noise. In graphs f is (star, output), or (output,) for one star.

    Attributes
    ----------
    kind : str
        Its name in archives, a key of `NOISES`.
    outputs_per_label : int
        Outputs of the network that it takes for each label.
    """

    kind: ClassVar[str]
    outputs_per_label: ClassVar[int] = 1

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
    def n_outputs(self) -> int:
        """Number of outputs of the network."""
        return self.outputs_per_label * self.n_labels

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
        """T_n u_n of each star; `u` is (star, output), (star, output, anything), or (output,)."""

    @abstractmethod
    def weigh(self, u: Symbol, f: Symbol, targets: Symbol) -> Symbol:
        """W_n u_n of each star; `u` has shape (star, output) or (output,)."""

    def weights(self, f: Symbol, targets: Symbol) -> Symbol:
        """W_n (star, output, output)."""
        one = pt.eye(self.n_outputs, dtype=f.dtype)[None]
        T = self.whiten(one * pt.ones_like(f)[:, :, None], f, targets)
        return pt.matmul(T.transpose((0, 2, 1)), T)

    def gradient(self, f: Symbol, targets: Symbol) -> Symbol:
        """Gradient (star, output) of minus the log density with respect to f."""
        return grad(-pt.sum(self.log_likelihood(f, targets)), f)

    def hessian(self, f: Symbol, targets: Symbol) -> Symbol:
        """Second derivatives (star, output, output) of minus the log density."""
        gradient = self.gradient(f, targets)
        units = np.eye(self.n_outputs, dtype=f.dtype)
        columns = [pushforward(gradient, f, pt.ones_like(f) * unit) for unit in units]
        return pt.stack(columns, axis=2)

    @abstractmethod
    def of_stars(self, labels: Labels, find_outputs: FindOutputs = find_no_outputs) -> StarNoise:
        """Noise of the stars that have these labels (star, label); S_n is the inverse of W_n.

        `find_outputs` gives the outputs (star, output) of the network, if they are needed.
        """

    def constant(self, labels: Labels) -> float:
        """The part of minus the log density of these labels that no weights change."""
        stars = self.of_stars(labels)
        return 0.5 * (stars.log_det + np.count_nonzero(stars.observed) * LOG_2PI)

    @abstractmethod
    def predict(
        self, outputs: np.ndarray, variances: np.ndarray, labels: Labels | None = None
    ) -> np.ndarray:
        """Covariance (star, label, label) of the noise of new stars.

        Parameters
        ----------
        outputs, variances : numpy.ndarray, shape (star, output)
            What the network says of the stars, and the variances that the weights leave it.
        labels : numpy.ndarray, shape (star, label), or LabelsWithErrors, optional
            Then it is that of these labels: their own errors add to it.
        """

    def find_mixture(self, outputs: np.ndarray, variances: np.ndarray) -> np.ndarray | None:
        """Standard deviation in the middle, and that of its logarithm (star, label, 2).

        None: there is no such mixture, as the scale of the noise is known. The arguments are those
        of `predict`.
        """
        return None

    def trust(self, residuals: np.ndarray, labels: Labels) -> np.ndarray:
        """How much each label (star, label) counts for the weights: 1 as without wide tails.

        NaN where it is missing. `residuals` are labels minus predictions.
        """
        return np.where(find_observed(labels), 1.0, np.nan)

    @abstractmethod
    def score(self, outputs: np.ndarray, labels: Labels) -> np.ndarray:
        """Gradient (star, output) of each star's log density by the outputs, as numbers.

        Zero where a label is missing.
        """

    @abstractmethod
    def draw(self, f: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Labels (..., label) drawn by the outputs f (..., output)."""

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
        """Minus the log density of all observed labels, less L."""

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
            :math:`J_n A^{-1} J_n^T`, by outputs.
        moves : numpy.ndarray, shape (star, label)
            :math:`J_n q` with :math:`q = H^{-1} \nabla \tfrac12 \log\det A`, by which the minimum
            moves; zero for a linear network.
        given : numpy.ndarray
            What `given` is for these labels.
        """

    def differentiate_weights(
        self, outputs: np.ndarray, labels: Labels, V: np.ndarray
    ) -> np.ndarray:
        r"""Gradient (star, output) of :math:`\tfrac12 \sum_n \mathrm{tr}(W_n V_n)` by the outputs.

        V (star, output, output) is held fixed. It is zero where the weights do not depend on them.
        """
        return np.zeros(outputs.shape)


def list_numbers(numbers: np.ndarray) -> str:
    """Numbers in words: "0.1, 0.2"."""
    return ", ".join(f"{number:.4g}" for number in np.atleast_1d(numbers))


def find_residual(f: Symbol, labels: Symbol) -> Symbol:
    """Labels minus f, zero where a label is missing."""
    labels = labels.astype(f.dtype)
    return pt.switch(pt.isnan(labels), pt.zeros_like(f), labels - f)


def mark_observed(labels: Symbol, dtype: str) -> Symbol:
    """1 where a label is observed, 0 where it is missing."""
    return pt.switch(pt.isnan(labels), *np.array([0.0, 1.0], dtype))


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
