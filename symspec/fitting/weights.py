r"""Weights of stars, as errors that their labels came with.

A label of weight w has the variance S / w, where S is the noise of labels of the largest weight,
which counts as one: beside the noise that all share it has an error of its own,

.. math:: E_n = S \left(\frac{1}{w_n} - 1\right).

As S is found from the stars, both are found in turn, until they agree.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from symspec.errors import DataError, NotAtMinimumWarning, OptionError, ShapeError
from symspec.fitting.fit import FitOptions, finish, fit_network
from symspec.fitting.start import build_start
from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.noise import GaussianNoise
from symspec.safety.progress import Progress
from symspec.spectra.spectra import Spectra

MAX_ROUNDS = 15
AGREEMENT = 0.01  # of variances, relative
SLOPES = (-50.0, 0.9)  # of the noise found by the noise assumed, logarithms


def as_weights(weights: np.ndarray, n_stars: int) -> np.ndarray:
    """Weights (star,) in units of the largest; 0 leaves a star out.

    Raises
    ------
    ShapeError, DataError
        They are not one a star, or negative, not finite, or all zero.
    """
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (n_stars,):
        raise ShapeError(f"weights should have shape ({n_stars},), got {weights.shape}.")
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise DataError(
            "weights should be finite, none negative and not all of them zero: a label of twice the"
            " weight has half the variance, and a weight of zero leaves the star out."
        )
    return weights / weights.max()


def weigh(stars: Spectra, weights: np.ndarray, variance: np.ndarray) -> Spectra:
    """Stars whose labels have errors by their weights (star,), beside noise of this variance.

    Parameters
    ----------
    stars : Spectra
        With labels, without errors of these.
    weights : numpy.ndarray, shape (star,)
        Above 0, at most 1.
    variance : numpy.ndarray, shape (label,)
    """
    if stars.has_label_errors:
        raise OptionError(
            "weights take the place of errors of the labels, got both: give one of the two."
        )
    own = (1 / weights - 1)[:, None] * variance
    errors = np.where(own > 0, np.sqrt(own), np.nan)  # none beside the noise
    return replace(stars, label_errors=errors, missing_label_error="infer")


def fit_weighted(
    stars: Spectra,
    weights: np.ndarray,
    options: FitOptions,
    *,
    seed: int = 0,
    progress: bool | Progress = True,
) -> LaplacePosterior:
    """`fit_network` of stars with weights.

    Parameters
    ----------
    stars : Spectra
        With labels, without errors of these.
    weights : numpy.ndarray, shape (star,)
        Above 0, at most 1, see `as_weights`.
    options : FitOptions
        With normal noise.
    seed, progress
        As for `fit_network`.

    Returns
    -------
    LaplacePosterior
        Its noise is S, that of labels of weight 1.

    Warns
    -----
    NotAtMinimumWarning
        The noise that was found differs from that by which the weights were taken.
    """
    assumed = np.log(_find_first_noise(stars, options))
    laplace = fit_network(
        weigh(stars, weights, np.exp(assumed)), options, seed=seed, progress=progress
    )
    if not options.tune:
        return laplace
    slope = np.zeros_like(assumed)
    for _ in range(MAX_ROUNDS):
        found = 2 * np.log(laplace.reg.sigma_noise)
        if np.abs(found - assumed).max() < AGREEMENT:
            return laplace
        step = (found - assumed) / (1 - slope)
        assumed = assumed + step
        laplace = finish(
            laplace.reg,
            laplace.theta,
            weigh(stars, weights, np.exp(assumed)),
            tune=True,
            prior=options.prior,
            structure=options.structure,
            memory=options.memory,
            progress=progress,
        )
        change = 2 * np.log(laplace.reg.sigma_noise) - found
        is_far = np.abs(step) > AGREEMENT
        slope = np.where(is_far, np.clip(change / np.where(is_far, step, 1.0), *SLOPES), slope)
    warnings.warn(
        f"the noise should agree with the weights within {AGREEMENT:.0%}, but it still changes by"
        f" {np.abs(np.expm1(found - assumed)).max():.0%} of its variance: give sigma_noise, with"
        " tune=False, or weights that differ less.",
        NotAtMinimumWarning,
        stacklevel=2,
    )
    return laplace


def _find_first_noise(stars: Spectra, options: FitOptions) -> np.ndarray:
    """Variance (label,) of the noise that a training starts from."""
    if options.predicts_noise or options.dof is not None:
        raise OptionError(
            "weights go with normal noise, of which they divide the variance: leave out dof and"
            " predicts_noise, or the weights."
        )
    reg = build_start(stars, (), "tanh", sigma_noise=options.sigma_noise)
    assert isinstance(reg.noise, GaussianNoise)
    return reg.sigma_noise**2
