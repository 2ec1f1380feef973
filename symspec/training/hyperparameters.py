r"""Noise and prior as one vector h of logarithms and correlations, zero at the start.

.. math::
    \sigma_c = \sigma_c^0 e^{h_c} \quad\text{or}\quad
    S = R R^T,\ R = L^0 \, \mathrm{diag}(e^{h_c})\, (1 + B), \qquad
    \delta_b = \delta_b^0 e^{h_b}

with :math:`L^0` the Cholesky factor of the covariance at the start and B strictly lower triangular;
and the climb to the h where the evidence F is largest.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from symspec.errors import EdgeOfRangeWarning, OptionError
from symspec.networks.noise import GaussianNoise, Noise
from symspec.networks.regression import Regression
from symspec.safety.options import check_choice

MAX_FACTOR = 1e4
NOISES = ("per_label", "full", "fixed")
PRIORS = ("scale", "per_layer", "per_block", "fixed")
MIN_COUNT = 0.1  # parameters: fewer do not determine the scale of their prior
LEAST_SHARE = 1e-4  # of the gain promised that a step must bring
SHORTER = 0.25  # a step that does not lead higher
FIRST_RADIUS = 0.5
LARGEST_RADIUS = 0.6
MUCH = 10.0  # nats
BREAK = 3.0  # gains promised that F falls by only where another minimum was found
SMALL = 0.05  # share of a Newton step's gain: less leads no further up to such a place

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


@dataclass(frozen=True, eq=False, kw_only=True)
class Point:
    """What is known of F at one h.

    Attributes
    ----------
    h : numpy.ndarray, shape (entry,)
    F : float
        In nats.
    gradient, curvature : numpy.ndarray, shape (entry,)
        Of F, and approximately minus its second derivatives.
    is_certain : bool
        Whether F is the evidence: its weights are at a minimum of U.
    theta : numpy.ndarray, shape (param,)
        The weights.
    n_effective : mapping of str to float
        Effective number of parameters of each block.
    """

    h: np.ndarray
    F: float
    gradient: np.ndarray
    curvature: np.ndarray
    is_certain: bool
    theta: np.ndarray
    n_effective: Mapping[str, float]

    def gain(self, free: np.ndarray) -> float:
        """Nats that a Newton step in some of the entries would gain."""
        return 0.5 * float(np.sum(self.gradient[free] ** 2 / self.curvature[free]))

    def is_above(self, other: Point, least: float = 0.0) -> bool:
        """Whether F is larger by more than `least`; an evidence is above whatever is none."""
        if self.is_certain != other.is_certain:
            return self.is_certain
        return bool(other.F + least < self.F)


class Evaluate(Protocol):
    """Searches the minimum of U at h (entry,), from weights theta (param,)."""

    def __call__(self, h: np.ndarray, theta: np.ndarray, is_near: bool = False) -> Point:
        """F there; where the minimum should be near, no long search is made, as for another."""
        ...


def climb(
    evaluate: Evaluate,
    start: Point,
    limits: np.ndarray,
    tolerance: float,
    max_evaluations: int,
    leading: np.ndarray | None = None,
) -> tuple[Point, bool]:
    """Climb by quasi-Newton steps within |h| <= limits until a Newton step gains little.

    A step that does not lead higher, or to no minimum of U, is shortened: F may end at a fold,
    where the minimum that was followed disappears. There one step is tried to whatever minimum is
    beyond, which counts if it is higher.

    Parameters
    ----------
    evaluate : callable
        The `Point` at h (entry,), searched from the weights of another point.
    start : Point
    limits : numpy.ndarray, shape (entry,)
    tolerance : float
        Of the gain, in nats.
    max_evaluations : int
    leading : numpy.ndarray of bool, shape (entry,), optional
        Entries that move alone as long as they gain much.

    Returns
    -------
    point : Point
        The highest.
    is_end : bool
        Whether F rises there but no step leads higher.
    """
    here = start
    B = np.diag(np.maximum(here.curvature, np.abs(here.gradient)))
    radius = FIRST_RADIUS
    last_rise = np.inf
    distance = 0.0  # to where the last step was refused
    is_broken = False
    leaps = False
    for _ in range(max_evaluations):
        free = find_free(here, limits)
        gain = here.gain(free)
        if gain <= tolerance:
            return here, False
        alone = leading is not None and here.gain(free & leading) > MUCH
        step = _find_step(here, B, free & leading if alone else free, limits, radius)
        promised = float(here.gradient @ step - 0.5 * step @ B @ step)
        if promised <= tolerance or (is_broken and last_rise <= SMALL * gain):
            if not (alone or is_broken):
                return here, False
            leaps = not alone
            leading = None
            is_broken = False
            radius = FIRST_RADIUS
            B = np.diag(np.maximum(here.curvature, np.abs(here.gradient)))
            continue
        there = evaluate(here.h + step, here.theta, is_broken)
        size = float(np.abs(step).max())
        if there.is_above(here, LEAST_SHARE * promised):
            B = _update(B, step, here.gradient - there.gradient)
            distance -= size
            is_broken = is_broken and distance > 0
            radius = size if is_broken else min(max(radius, 2 * size), LARGEST_RADIUS)
            last_rise = there.F - here.F
            here = there
            leaps = False
        elif leaps:
            return here, True
        else:
            is_broken |= not there.is_certain or BREAK * promised < here.F - there.F
            distance = size
            radius = SHORTER * size
            last_rise = np.inf
    return here, False


def find_free(here: Point, limits: np.ndarray) -> np.ndarray:
    """Entries (entry,) that are not held at their limit by the gradient."""
    return (np.abs(here.h) < limits - 1e-9) | (here.h * here.gradient < 0)


def _find_step(
    here: Point, B: np.ndarray, free: np.ndarray, limits: np.ndarray, radius: float
) -> np.ndarray:
    """Newton step (entry,) of the free entries, none longer than `radius` or beyond its limit."""
    step = np.zeros_like(here.h)
    step[free] = np.linalg.solve(B[np.ix_(free, free)], here.gradient[free])
    step *= min(1.0, radius / np.abs(step).max())
    return np.clip(here.h + step, -limits, limits) - here.h


def _update(B: np.ndarray, step: np.ndarray, fall: np.ndarray) -> np.ndarray:
    """Damped BFGS update of B, for the `fall` of the gradient over a step: positive definite.

    Nocedal & Wright 2006, Procedure 18.2.
    """
    Bs = B @ step
    curvature = float(step @ Bs)
    if step @ fall < 0.2 * curvature:
        share = 0.8 * curvature / (curvature - float(step @ fall))
        fall = share * fall + (1 - share) * Bs
    return B + np.outer(fall, fall) / float(step @ fall) - np.outer(Bs, Bs) / curvature
