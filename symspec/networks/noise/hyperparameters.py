r"""The numbers of a noise as one vector h of logarithms and correlations, zero at the start.

.. math::
    \sigma_c = \sigma_c^0 e^{h_c} \quad\text{or}\quad
    S = R R^T,\ R = L^0 \, \mathrm{diag}(e^{h_c})\, (1 + B) \quad\text{or}\quad
    s_c = s_c^0 e^{h_c},\ \nu_c = \nu_c^0 e^{h_{C + c}}

with :math:`L^0` the Cholesky factor of the covariance at the start and B strictly lower triangular.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from symspec.errors import OptionError
from symspec.networks.noise.gaussian import GaussianNoise
from symspec.networks.noise.noise import Noise
from symspec.networks.noise.predicted import PredictedNoise
from symspec.networks.noise.student_t import StudentTNoise

MAX_LOG_FACTOR = float(np.log(1e4))
DOF_COUNT = 0.05  # share of the labels that tell the degrees of freedom, which are told by tails


class NoiseHyperparameters(ABC):
    """The numbers of a noise that vary, as one vector h.

    Attributes
    ----------
    names : list of str
        Of the entries of h.
    limits : numpy.ndarray, shape (entry,)
        Largest size of each entry.
    """

    names: list[str]
    limits: np.ndarray

    @abstractmethod
    def noise(self, h: np.ndarray) -> Noise:
        """Noise at h (entry,)."""

    @abstractmethod
    def gradient(self, h: np.ndarray, by_noise: np.ndarray) -> np.ndarray:
        """dF/dh (entry,) from what `Noise.differentiate_evidence` gives."""

    @abstractmethod
    def curvature(self, n_observed: np.ndarray) -> np.ndarray:
        """Approximately -d^2 F / dh^2 of each entry, from the number of stars with each label."""


class _Fixed(NoiseHyperparameters):
    def __init__(self, start: Noise):
        self._start = start
        self.names = []
        self.limits = np.empty(0)

    def noise(self, h: np.ndarray) -> Noise:
        return self._start

    def gradient(self, h: np.ndarray, by_noise: np.ndarray) -> np.ndarray:
        return np.empty(0)

    def curvature(self, n_observed: np.ndarray) -> np.ndarray:
        return np.empty(0)


class _PerLabel(NoiseHyperparameters):
    """One standard deviation a label."""

    def __init__(self, start: GaussianNoise, labels: tuple[str, ...]):
        self._sigma = start.sigma
        self.names = [f"sigma_noise of {name}" for name in labels]
        self.limits = np.full(len(labels), MAX_LOG_FACTOR)

    def noise(self, h: np.ndarray) -> Noise:
        return GaussianNoise(self._sigma * np.exp(h))

    def gradient(self, h: np.ndarray, by_noise: np.ndarray) -> np.ndarray:
        return 2 * self._sigma**2 * np.exp(2 * h) * np.diag(by_noise)

    def curvature(self, n_observed: np.ndarray) -> np.ndarray:
        return 2.0 * n_observed


class _Full(NoiseHyperparameters):
    r"""A full covariance.

    From the symmetric dF/dS,
    :math:`dF = \mathrm{tr}(\frac{dF}{dS}\, dS) = 2\, \mathrm{tr}(R^T \frac{dF}{dS}\, dR)`.
    """

    def __init__(self, start: GaussianNoise, labels: tuple[str, ...]):
        self._root = np.linalg.cholesky(start.covariance)
        self._n = len(labels)
        self._pairs = np.tril_indices(self._n, -1)
        self.names = [f"sigma_noise of {name}" for name in labels]
        self.names += [
            f"noise correlation of {labels[i]} with {labels[j]}"
            for i, j in zip(*self._pairs, strict=True)
        ]
        n_pairs = len(self._pairs[0])
        self.limits = np.r_[np.full(self._n, MAX_LOG_FACTOR), np.full(n_pairs, np.inf)]

    def noise(self, h: np.ndarray) -> Noise:
        R = self._root @ self._relative_root(h)
        return GaussianNoise(covariance=R @ R.T)

    def gradient(self, h: np.ndarray, by_noise: np.ndarray) -> np.ndarray:
        M = self._relative_root(h)
        by_M = 2 * self._root.T @ by_noise @ self._root @ M
        by_pair = (np.exp(h[: self._n])[:, None] * by_M)[self._pairs]
        return np.r_[(by_M * M).sum(axis=1), by_pair]

    def curvature(self, n_observed: np.ndarray) -> np.ndarray:
        return np.r_[2 * n_observed, np.minimum(*(n_observed[side] for side in self._pairs))]

    def _relative_root(self, h: np.ndarray) -> np.ndarray:
        """diag(exp h) (1 + B), lower triangular (label, label)."""
        M = np.eye(self._n)
        M[self._pairs] = h[self._n :]
        return np.exp(h[: self._n])[:, None] * M


class _StudentT(NoiseHyperparameters):
    """Scale of each label, and its degrees of freedom unless these stay."""

    def __init__(self, start: StudentTNoise, labels: tuple[str, ...], varies_dof: bool):
        self._start = start
        self._n = len(labels)
        self.names = [f"scale of {name}" for name in labels]
        if varies_dof:
            self.names += [f"degrees of freedom of {name}" for name in labels]
        self.limits = np.full(len(self.names), MAX_LOG_FACTOR)

    def noise(self, h: np.ndarray) -> Noise:
        return StudentTNoise(self._start.scale * np.exp(h[: self._n]), self._find_dof(h))

    def gradient(self, h: np.ndarray, by_noise: np.ndarray) -> np.ndarray:
        by_squared_scale, by_dof = by_noise
        tau = self._start.scale**2 * np.exp(2 * h[: self._n])
        by_log_dof = self._find_dof(h) * by_dof
        return np.r_[2 * tau * by_squared_scale, by_log_dof][: len(h)]

    def curvature(self, n_observed: np.ndarray) -> np.ndarray:
        return np.r_[n_observed, DOF_COUNT * n_observed][: len(self.names)]

    def _find_dof(self, h: np.ndarray) -> np.ndarray:
        if len(h) == self._n:
            return self._start.dof
        return self._start.dof * np.exp(h[self._n :])


def vary_noise(start: Noise, kind: str, labels: tuple[str, ...]) -> NoiseHyperparameters:
    """The numbers of the noise `start` of these labels that vary.

    Parameters
    ----------
    start : Noise
    kind : {"per_label", "full", "scale_and_dof", "fixed"}
    labels : tuple of str

    Raises
    ------
    OptionError
        The noise does not go with `kind`.
    """
    if kind == "fixed" and isinstance(start, GaussianNoise | StudentTNoise):
        return _Fixed(start)
    if isinstance(start, PredictedNoise) and kind in ("fixed", "per_label"):
        return _Fixed(start)  # it has no number a label
    if isinstance(start, StudentTNoise) and kind in ("per_label", "scale_and_dof"):
        return _StudentT(start, labels, kind == "scale_and_dof")
    if isinstance(start, GaussianNoise) and kind == "full":
        return _Full(start, labels)
    if isinstance(start, GaussianNoise) and kind == "per_label" and not start.is_full:
        return _PerLabel(start, labels)
    if isinstance(start, GaussianNoise) and start.is_full:
        raise OptionError(
            f"noise={kind!r} tunes one number a label, and the regression has a full"
            ' noise_covariance: use noise="full" or "fixed", or build the Regression with'
            " sigma_noise."
        )
    goes_with = {"full": "normal noise", "scale_and_dof": "Student's t noise"}
    raise OptionError(
        f"noise={kind!r} goes with {goes_with.get(kind, 'normal and Student t noise')}, got"
        f' {start!r}: use noise="per_label" or "fixed", or build the Regression with GaussianNoise'
        " or StudentTNoise."
    )
