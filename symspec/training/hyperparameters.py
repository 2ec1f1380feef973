r"""Noise and prior as one vector h: the noise's entries, then logarithms of prior precisions.

.. math:: \delta_b = \delta_b^0 e^{h_b}

The noise's are those of `symspec.networks.noise.hyperparameters`; all are zero at the start.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

from symspec.errors import EdgeOfRangeWarning, OptionError
from symspec.networks.noise.hyperparameters import MAX_LOG_FACTOR, vary_noise
from symspec.networks.regression import Regression
from symspec.safety.options import check_choice

NOISES = ("per_label", "full", "scale_and_dof", "fixed")
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
    noise : {"per_label", "full", "scale_and_dof", "fixed"}
        The scale of each label's noise, a full covariance, also the degrees of freedom of Student's
        t, or none.
    prior : {"scale", "per_layer", "per_block", "fixed"}
        One factor for all prior precisions, for those of each layer, for that of each block, or
        none.

    Attributes
    ----------
    names : list of str
        Names of the entries of h.
    factors : dict of str to list of str
        Blocks whose prior precisions share a factor that varies, by its name.

    Raises
    ------
    OptionError
        Unknown words, or a regression that does not go with them.
    """

    def __init__(self, start: Regression, noise: str = "per_label", prior: str = "scale"):
        check_choice(noise, "noise", NOISES)
        check_choice(prior, "prior", PRIORS)
        self._noise = vary_noise(start.noise, noise, start.net.label_names)
        if any(np.ndim(p) for p in start.prior_precision.values()):
            raise OptionError(
                "tune takes one prior precision a block, and the regression has one a parameter:"
                " give prior_precision as a number or as one number a block."
            )
        self.start = start
        self.is_full = noise == "full"
        self.factors = _group(list(start.prior_precision), prior)
        self._n_noise = len(self._noise.names)
        self.names = [*self._noise.names, *(f"prior_precision of {g}" for g in self.factors)]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def limits(self) -> np.ndarray:
        """Largest size of each entry of h (entry,)."""
        return np.r_[self._noise.limits, np.full(len(self.factors), MAX_LOG_FACTOR)]

    @property
    def is_noise(self) -> np.ndarray:
        """Entries of h that are the noise's, the first, of bool (entry,)."""
        return np.arange(len(self.names)) < self._n_noise

    def regression(self, h: np.ndarray) -> Regression:
        """Regression at h (entry,)."""
        logs = {
            name: log
            for names, log in zip(self.factors.values(), h[self._n_noise :], strict=True)
            for name in names
        }
        prior = {
            name: float(p * np.exp(logs.get(name, 0.0)))
            for name, p in self.start.prior_precision.items()
        }
        noise = self._noise.noise(h[: self._n_noise])
        return Regression(self.start.net, noise=noise, prior_precision=prior)

    def gradient(
        self, h: np.ndarray, by_noise: np.ndarray, by_factor: Mapping[str, float]
    ) -> np.ndarray:
        """dF/dh (entry,) from `Noise.differentiate_evidence`, and dF/d log delta by factor."""
        by_prior = [by_factor[name] for name in self.factors]
        return np.r_[self._noise.gradient(h[: self._n_noise], by_noise), by_prior]

    def sum_by_factor(self, by_block: Mapping[str, float]) -> dict[str, float]:
        """Sums over the blocks that share a factor, by its name."""
        return {
            factor: sum(by_block[name] for name in names) for factor, names in self.factors.items()
        }

    def curvature(self, n_observed: np.ndarray, n_effective: Mapping[str, float]) -> np.ndarray:
        """Approximately -d^2 F / dh^2 (entry, entry) at a maximum, without its mixed derivatives.

        Parameters
        ----------
        n_observed : numpy.ndarray, shape (label,)
            Number of stars that have each label.
        n_effective : mapping of str to float
            Effective number of parameters by factor.
        """
        by_prior = [0.5 * max(n_effective[name], MIN_COUNT) for name in self.factors]
        return np.diag(np.r_[self._noise.curvature(n_observed), by_prior])

    def warn_at_edges(self, h: np.ndarray, n_effective: Mapping[str, float]) -> None:
        """Warn of entries at the edge of their range, and of priors that switch weights off.

        Parameters
        ----------
        h : numpy.ndarray, shape (entry,)
        n_effective : mapping of str to float
            Effective number of parameters by factor.
        """
        counts = [np.inf] * self._n_noise + [n_effective[name] for name in self.factors]
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
                f"{_MEANINGS['noise' if i < self._n_noise else 'prior', value > 0]}.",
                EdgeOfRangeWarning,
                stacklevel=3,
            )


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
