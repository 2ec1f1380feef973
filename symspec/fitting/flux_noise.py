r"""The errors of training spectra, as errors of their labels.

A network learns labels from spectra that are noisy themselves, so that the scatter of the training
labels around it holds :math:`J_n \Sigma_n J_n^T`, what the noise of each spectrum does to its
label, besides the noise S that the spectra do not explain. A new star brings a noise of its flux of
its own: where S is all of that scatter, its error bar counts the noise of the flux twice. For a
network that is linear in the flux, the mean square error of a new star is exactly :math:`V + S +
J (\Sigma_\mathrm{new} - \Sigma_n) J^T` with S of that kind. Given as errors of the training labels,
:math:`J_n \Sigma_n J_n^T` is taken out of S, and noisy spectra weigh less: the effective variance
of a fit with errors in both coordinates (Orear 1982, doi:10.1119/1.12972).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.compiled import compile_jacobian
from symspec.laplace.flux_errors import FluxNoise
from symspec.networks.network import Network
from symspec.safety.label_errors import LabelsWithErrors, add_errors
from symspec.safety.memory import chunks
from symspec.spectra.flux_prior import FluxPrior, fit_flux_prior
from symspec.spectra.pixels import fill_flux
from symspec.spectra.spectra import Spectra

BLOCK_BYTES = 2**27  # of the Jacobians of some stars


def add_flux_noise(net: Network, theta: ArrayLike, stars: Spectra) -> Spectra:
    """The same stars, with what the errors of their flux do to their labels among the labels' own.

    Parameters
    ----------
    net : Network
        With the labels of the stars, in their order and units.
    theta : array_like, shape (param,)
    stars : Spectra
        With labels. Without errors of the flux, they are returned as they are.
    """
    if stars.ivar is None or stars.labels is None:
        return stars
    X = fill_flux(stars)
    prior = fit_flux_prior(X, X.mean(axis=0), stars.ivar) or FluxPrior.of_mean(X[0])
    jacobian = compile_jacobian(net, "flux")
    covariance = _find_own_covariance(stars)
    for rows in chunks(len(X), max(1, BLOCK_BYTES // (8 * X.shape[1] * net.n_labels))):
        noise = stars.flux_covariance and stars.flux_covariance.pick(rows)
        completed = prior.complete(X[rows], stars.ivar[rows])
        by_noise, by_missing = completed.propagate(jacobian(theta, completed.flux))
        covariance[rows] += FluxNoise.of(stars.ivar[rows], noise).propagate(by_noise) + by_missing
    variance = np.einsum("ncc->nc", covariance)
    variance[variance == 0] = np.nan  # where the network does not see the flux, it adds nothing
    return replace(
        stars, label_errors=None, label_covariance=covariance, missing_label_error="infer"
    )


def _find_own_covariance(stars: Spectra) -> np.ndarray:
    """Covariance (star, label, label) of the errors that labels came with; zero without any."""
    errors = stars.label_errors if stars.label_covariance is None else stars.label_covariance
    labels = add_errors(np.asarray(stars.labels), errors, missing=stars.missing_label_error)
    if isinstance(labels, LabelsWithErrors):
        return np.array(labels.covariance)
    return np.zeros((*labels.shape, labels.shape[1]))
