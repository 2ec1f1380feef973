r"""Means of labels over groups of stars, such as a cluster's metallicity, and their errors.

Flux and noise err for each star alone and average out. The weights err for all stars together:

.. math::
    V = \bar J A^{-1} \bar J^T, \qquad \bar J = \frac1n \sum_n J_n

is no smaller for a hundred like stars than for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from symspec.laplace.budget import threads_for
from symspec.laplace.leave_one_out import check_groups, complete_flux
from symspec.laplace.prediction import Prediction, standard_deviations
from symspec.networks.noise import tails
from symspec.spectra.resampling import Resampled
from symspec.spectra.spectra import Spectra

if TYPE_CHECKING:
    from symspec.laplace.posterior import LaplacePosterior


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupMeans:
    """Mean labels of groups of stars, each star of a group with the same weight.

    Attributes
    ----------
    names : numpy.ndarray, shape (group,)
        In sorted order.
    n_stars : numpy.ndarray of int, shape (group,)
    labels : numpy.ndarray, shape (group, label)
    model_cov : numpy.ndarray, shape (group, label, label)
        From the uncertainty of the weights, which the stars of a group have in common.
    flux_cov : numpy.ndarray, shape (group, label, label)
        From the errors of the flux, which stars have each by itself.
    noise_cov : numpy.ndarray, shape (group, label, label)
        Of the scatter of labels around the network: what the mean of these stars' own labels has
        beside. It is infinite for Student's t noise of at most two degrees of freedom.
    total_cov : numpy.ndarray, shape (group, label, label)
        The sum of the three.
    label_names, label_units : tuple of str
    """

    names: np.ndarray
    n_stars: np.ndarray
    labels: np.ndarray
    model_cov: np.ndarray
    flux_cov: np.ndarray
    noise_cov: np.ndarray
    total_cov: np.ndarray
    label_names: tuple[str, ...]
    label_units: tuple[str, ...]

    @property
    def errors(self) -> np.ndarray:
        """Standard deviations (group, label) of `total_cov`."""
        return standard_deviations(self.total_cov)


def predict_means(
    laplace: LaplacePosterior,
    X: ArrayLike | Spectra | Resampled,
    groups: ArrayLike | None = None,
    *,
    ivar: ArrayLike | None = None,
    center: str = "weights",
) -> GroupMeans:
    """Mean labels of groups by one network; `symspec.predict_means` says what is what."""
    prediction = laplace.predict(X, ivar=ivar, center=center, progress=False)
    n = len(prediction.labels)
    given = np.full(n, "all") if groups is None else groups
    checked = check_groups(given, n, "star", "whose mean is wanted")
    names, which, counts = np.unique(checked, return_inverse=True, return_counts=True)
    share = np.zeros((n, len(names)))
    share[np.arange(n), which] = 1 / counts[which]
    model = _find_shared(laplace, complete_flux(laplace, X, ivar), share)
    flux = _average(prediction.flux_cov, which, counts)
    noise = _average(_find_noise(prediction), which, counts)
    return GroupMeans(
        names=names,
        n_stars=counts,
        labels=share.T @ prediction.labels,
        model_cov=model,
        flux_cov=flux,
        noise_cov=noise,
        total_cov=model + flux + noise,
        label_names=prediction.label_names,
        label_units=prediction.label_units,
    )


def _find_shared(laplace: LaplacePosterior, X: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Model covariances (group, label, label) of means with these shares (star, group)."""
    n_groups = share.shape[1]
    n_labels = laplace.reg.net.n_labels
    J = np.zeros((laplace.theta.size, n_labels * n_groups))
    each = np.eye(n_labels)
    with threads_for(laplace):
        for rows, tangents in laplace.tangents(X):
            u = np.einsum("ng,cd->ncdg", share[rows], each)
            J += tangents.rmatvec(u.reshape(*u.shape[:2], -1))
        solved = laplace.inverse_hessian @ J
    V = np.einsum(
        "pcg,pdg->gcd", *(M.reshape(-1, n_labels, n_groups) for M in (J, solved)), optimize=True
    )
    return (V + V.transpose(0, 2, 1)) / 2


def _find_noise(prediction: Prediction) -> np.ndarray:
    """Covariance (star, label, label) of the noise; of Student's t not that of half widths."""
    dof = prediction.noise_dof
    if dof is None:
        return prediction.noise_cov
    scale = standard_deviations(prediction.noise_cov) / tails.find_sigma(dof)
    with np.errstate(divide="ignore"):
        variance = np.where(dof > 2, scale**2 * dof / np.maximum(dof - 2, 0), np.inf)
    return np.where(np.eye(dof.shape[1]) > 0, variance[:, :, None], 0.0)


def _average(covariance: np.ndarray, which: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Covariance (group, label, label) of means of what errs for each star alone."""
    total = np.zeros((len(counts), *covariance.shape[1:]))
    np.add.at(total, which, covariance)
    return total / counts[:, None, None] ** 2
