r"""Noise and prior as one vector h of logarithms and correlations, zero at the start.

.. math::
    \sigma_c = \sigma_c^0 e^{h_c} \quad\text{or}\quad
    S = R R^T,\ R = L^0 \, \mathrm{diag}(e^{h_c})\, (1 + B), \qquad
    \delta_b = \delta_b^0 e^{h_b}

with :math:`L^0` the Cholesky factor of the covariance at the start and B strictly lower triangular.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from symspec.errors import EdgeOfRangeWarning, OptionError
from symspec.networks.noise import GaussianNoise, Noise
from symspec.networks.regression import Regression
from symspec.safety.options import check_choice

MAX_FACTOR = 1e4
NOISES = ("per_label", "full", "fixed")
PRIORS = ("scale", "per_layer", "per_block", "fixed")
MIN_COUNT = 0.1  # parameters: fewer do not determine the scale of their prior

_MEANINGS = {  # by kind, and whether h is positive
    ("noise", False): (
        "the network interpolates these labels: give it fewer weights, or fix the noise or the"
        " prior"
    ),
    ("noise", True): (
        "the network explains none of these labels, or the start was far too small: start closer"
    ),
    ("prior", False): (
        "the data want these weights unbounded, or the start was far too large: start closer"
    ),
    ("prior", True): (
        "the data do not need these weights: leave them out, or keep them, near zero, at almost no"
        " harm"
    ),
}


class Hyperparameters:
    """The parameters of noise and prior that vary, as one vector h.

    Parameters
    ----------
    start : Regression
        The regression at h = 0.
    noise : {"per_label", "full", "fixed"}
        One sigma_noise a label, a full covariance, or neither.
    prior : {"scale", "per_layer", "per_block", "fixed"}
        One factor for all prior precisions, for those of each layer, for that of each block, or
        none.

    Attributes
    ----------
    names : list of str
        Names of the entries of h.

    Raises
    ------
    OptionError
        Unknown words, or a regression that does not go with them.
    """

    def __init__(self, start: Regression, noise: str = "per_label", prior: str = "scale"):
        self.noise = check_choice(noise, "noise", NOISES)
        self.prior = check_choice(prior, "prior", PRIORS)
        if not isinstance(start.noise, GaussianNoise):
            raise OptionError(
                f"tune knows the evidence of normal noise alone, got {start.noise!r}: build the"
                " Regression with sigma_noise, noise_covariance or GaussianNoise."
            )
        if noise == "per_label" and start.noise.is_full:
            raise OptionError(
                'noise="per_label" tunes one sigma_noise a label, and the regression has a full'
                ' noise_covariance: use noise="full" or "fixed", or build the Regression with'
                " sigma_noise."
            )
        if any(np.ndim(p) for p in start.prior_precision.values()):
            raise OptionError(
                "tune takes one prior precision a block, and the regression has one a parameter:"
                " give prior_precision as a number or as one number a block."
            )
        self.start = start
        self._sigma = start.noise.sigma
        self._root = np.linalg.cholesky(start.noise.covariance)
        labels = () if noise == "fixed" else start.net.label_names
        pairs = np.tril_indices(start.net.n_labels if noise == "full" else 0, -1)
        self._n_labels = len(labels)
        self._pairs = pairs
        self._groups = _group(list(start.prior_precision), prior)
        self.names = [f"sigma_noise of {name}" for name in labels]
        self.names += [
            f"noise correlation of {labels[i]} with {labels[j]}"
            for i, j in zip(*pairs, strict=True)
        ]
        self.names += [f"prior_precision of {group}" for group in self._groups]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def limits(self) -> np.ndarray:
        """Largest size of each entry of h (entry,)."""
        logarithm = np.log(MAX_FACTOR)
        return np.r_[
            np.full(self._n_labels, logarithm),
            np.full(len(self._pairs[0]), np.inf),
            [logarithm] * len(self._groups),
        ]

    @property
    def is_noise(self) -> np.ndarray:
        """Entries of h that are the noise's, the first, of bool (entry,)."""
        return np.arange(len(self.names)) < len(self.names) - len(self._groups)

    def regression(self, h: np.ndarray) -> Regression:
        """Regression at h (entry,)."""
        _, _, by_group = self._split(h)
        factors = {
            name: f
            for names, f in zip(self._groups.values(), by_group, strict=True)
            for name in names
        }
        prior = {
            name: float(p * np.exp(factors.get(name, 0.0)))
            for name, p in self.start.prior_precision.items()
        }
        return Regression(self.start.net, noise=self._noise(h), prior_precision=prior)

    def gradient(
        self, h: np.ndarray, by_covariance: np.ndarray, by_block: Mapping[str, float]
    ) -> np.ndarray:
        r"""dF/dh (entry,) from the symmetric dF/dS (label, label) and dF/d log delta_b by block.

        .. math::
            dF = \mathrm{tr}\Big(\frac{dF}{dS}\, dS\Big)
            = 2\, \mathrm{tr}\Big(R^T \frac{dF}{dS}\, dR\Big)
        """
        by_group = [sum(by_block[name] for name in names) for names in self._groups.values()]
        if self.noise == "fixed":
            return np.array(by_group)
        if self.noise == "per_label":
            variance = self._sigma**2 * np.exp(2 * h[: self._n_labels])
            return np.r_[2 * variance * np.diag(by_covariance), by_group]
        M = self._relative_root(h)
        by_M = 2 * self._root.T @ by_covariance @ self._root @ M
        by_pair = (np.exp(h[: self._n_labels])[:, None] * by_M)[self._pairs]
        return np.r_[(by_M * M).sum(axis=1), by_pair, by_group]

    def curvature(self, n_observed: np.ndarray, n_effective: Mapping[str, float]) -> np.ndarray:
        """Approximately -d^2 F / dh^2 of each entry at a maximum (entry,).

        Parameters
        ----------
        n_observed : numpy.ndarray, shape (label,)
            Number of stars that have each label.
        n_effective : mapping of str to float
            Effective number of parameters of each block.
        """
        of_pairs = np.minimum(*(n_observed[side] for side in self._pairs))
        counts = self._count(n_effective)
        return np.r_[
            2 * n_observed[: self._n_labels], of_pairs, 0.5 * np.maximum(counts, MIN_COUNT)
        ]

    def warn_at_edges(self, h: np.ndarray, n_effective: Mapping[str, float]) -> None:
        """Warn of entries at the edge of their range, and of priors that switch weights off.

        Parameters
        ----------
        h : numpy.ndarray, shape (entry,)
        n_effective : mapping of str to float
            Effective number of parameters of each block.
        """
        n_noise = len(h) - len(self._groups)
        counts = [np.inf] * n_noise + self._count(n_effective)
        for i, (name, value, limit) in enumerate(zip(self.names, h, self.limits, strict=True)):
            is_edge = abs(value) > limit - 1e-6
            if not is_edge and (counts[i] > MIN_COUNT or value <= 0):
                continue
            where = (
                "at the edge of its range"
                if is_edge
                else f"where its weights count as {counts[i]:.2g} parameters"
            )
            warnings.warn(
                f"{name} ended {where}, at {np.exp(value):.3g} times its start: "
                f"{_MEANINGS['noise' if i < n_noise else 'prior', value > 0]}.",
                EdgeOfRangeWarning,
                stacklevel=3,
            )

    def _count(self, n_effective: Mapping[str, float]) -> list[float]:
        return [sum(n_effective[name] for name in names) for names in self._groups.values()]

    def _noise(self, h: np.ndarray) -> Noise:
        if self.noise == "per_label":
            return GaussianNoise(self._sigma * np.exp(h[: self._n_labels]))
        if self.noise == "full":
            R = self._root @ self._relative_root(h)
            return GaussianNoise(covariance=R @ R.T)
        return self.start.noise

    def _relative_root(self, h: np.ndarray) -> np.ndarray:
        """diag(exp h) (1 + B), lower triangular (label, label)."""
        by_label, by_pair, _ = self._split(h)
        M = np.eye(self._n_labels)
        M[self._pairs] = by_pair
        return np.exp(by_label)[:, None] * M

    def _split(self, h: np.ndarray) -> list[np.ndarray]:
        return np.split(h, [self._n_labels, self._n_labels + len(self._pairs[0])])


def _group(blocks: list[str], prior: str) -> dict[str, list[str]]:
    """Names of the blocks that share a factor, by the name of the factor in messages."""
    if prior == "scale":
        return {"all blocks": blocks}
    if prior == "per_block":
        return {name: [name] for name in blocks}
    if prior == "fixed":
        return {}
    layers = dict.fromkeys(name.rpartition("/")[0] for name in blocks)
    return {
        layer: [name for name in blocks if name.rpartition("/")[0] == layer] for layer in layers
    }
