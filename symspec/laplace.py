"""Laplace's approximation at the trained weights: error bars of weights and predictions, with their certificate."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from symspec import compiled
from symspec.certificate import Certificate, certify
from symspec.checks import check_flux, check_ivar, check_rng, check_theta
from symspec.errors import DataError, NotAtMinimumError, NotAtMinimumWarning
from symspec.inverse_hessian import InverseBuilder, InverseHessian
from symspec.prediction import Prediction, compute_flux_covariance, fill_bad_pixels, find_flags
from symspec.regression import LOG_2PI, Regression
from symspec.tangents import compute_tangents

STARS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class LaplacePosterior:
    r"""Normal(theta, A^-1) around trained weights, and what follows for predictions.

    Attributes
    ----------
    reg : Regression
    theta : numpy.ndarray, shape (param,)
    inverse_hessian : InverseHessian
        :math:`A^{-1}` as a SciPy LinearOperator: `@`, `.diagonal()`, `.to_dense()`, `.logdet()`.
    certificate : Certificate
    negative_log_posterior : float
        U(theta) in nats.
    curvature, structure, reason : str
        What A is, how it is inverted, and in one line why so.
    flux_mean : numpy.ndarray, shape (pixel,)
        Mean training spectrum, which stands in for pixels without information.
    label_range : numpy.ndarray, shape (2, label)
        Smallest and largest training label.
    backend, dtype : str
    """

    reg: Regression
    theta: np.ndarray
    inverse_hessian: InverseHessian
    certificate: Certificate
    negative_log_posterior: float
    curvature: str
    structure: str
    reason: str
    flux_mean: np.ndarray
    label_range: np.ndarray
    backend: str = "auto"
    dtype: str = "float64"

    @property
    def _options(self) -> dict[str, str]:
        return {"backend": self.backend, "dtype": self.dtype}

    @cached_property
    def _factors(self):
        return compiled.compile_tangent_factors(self.reg.net, **self._options)

    @cached_property
    def _predict(self):
        return compiled.compile_predict(self.reg.net, **self._options)

    @cached_property
    def _flux_jacobian(self):
        return compiled.compile_jacobian(self.reg.net, "flux", **self._options)

    def label_covariance(self, X: Any) -> np.ndarray:
        r"""Covariance of the labels that comes from the weights, :math:`V = J A^{-1} J^T`.

        Parameters
        ----------
        X : array_like, shape (star, pixel) or (pixel,)

        Returns
        -------
        numpy.ndarray, shape (star, label, label) or (label, label)
            In products of the labels' units.
        """
        X = check_flux(X, self.reg.net.n_pixels, dtype=None)
        stars = X if X.ndim == 2 else X[None]
        C = self.reg.net.n_labels
        V = np.empty((len(stars), C, C))
        for rows in _batches(len(stars)):
            tangents = compute_tangents(self.reg.net, self._factors, self.theta, stars[rows])
            V[rows] = self.inverse_hessian.label_covariance(tangents)
        return V if X.ndim == 2 else V[0]

    def predict(self, X: Any, *, ivar: Any = None) -> Prediction:
        """Labels with their error budget.

        Parameters
        ----------
        X : array_like, shape (star, pixel) or (pixel,)
            Flux; a value may be NaN only where `ivar` is 0.
        ivar : array_like, optional, shape of `X`
            Inverse variance of the flux. 0 means no information: the pixel is replaced by its training mean, has no
            part in the flux covariance, and is counted in `n_bad_pixels` and the flags.

        Returns
        -------
        Prediction
            Always with a star axis, also for one spectrum.

        Raises
        ------
        ShapeError, DataError
            X or ivar is not what is expected.
        """
        X = check_flux(X, self.reg.net.n_pixels, allow_nan=ivar is not None)
        ivar = None if ivar is None else np.atleast_2d(check_ivar(ivar, X.shape))
        X = np.atleast_2d(X)
        if ivar is not None and (bad := ~np.isfinite(X) & (ivar > 0)).any():
            star, pixel = np.argwhere(bad)[0]
            raise DataError(
                f"flux should be finite wherever ivar is positive, got {np.count_nonzero(bad)} values that are not "
                f"(first: star {star}, pixel {pixel}): set ivar to 0 there."
            )
        n, C = len(X), self.reg.net.n_labels
        labels, model, flux_cov = np.empty((n, C)), np.empty((n, C, C)), np.zeros((n, C, C))
        n_bad = np.zeros(n, int) if ivar is None else np.count_nonzero(ivar == 0, axis=1)
        for rows in _batches(n):
            known = None if ivar is None else ivar[rows]
            filled = fill_bad_pixels(X[rows], known, self.flux_mean)
            labels[rows], model[rows] = self._predict(self.theta, filled), self.label_covariance(filled)
            if known is not None:
                flux_cov[rows] = compute_flux_covariance(lambda x: self._flux_jacobian(self.theta, x), filled, known)
        noise = np.broadcast_to(self.reg.noise_covariance, (n, C, C)).copy()
        total = model + flux_cov + noise
        flags = find_flags(labels, total, n_bad, self.label_range, self.certificate.is_minimum)
        names = self.reg.net.label_names, self.reg.net.label_units
        return Prediction(labels, model, flux_cov, noise, total, flags, n_bad, ivar is not None, *names)

    def sample(self, n_draws: int, *, rng: np.random.Generator) -> np.ndarray:
        """Draws of theta (draw, param) from Normal(theta, A^-1)."""
        return self.theta + self.inverse_hessian.draw(n_draws, check_rng(rng))

    def log_marginal_likelihood(self) -> float:
        r"""Laplace's estimate of log p(Y): :math:`-U - \tfrac12 \log\det A + \tfrac{P}{2} \log 2\pi`, in nats.

        MacKay (1992), doi:10.1162/neco.1992.4.3.448. Exact for a network without hidden layers.
        """
        P = self.reg.net.n_params
        return -self.negative_log_posterior + 0.5 * self.inverse_hessian.logdet() + 0.5 * P * LOG_2PI


def fit_laplace(
    reg: Regression,
    theta: Any,
    X: Any,
    Y: Any,
    *,
    curvature: str = "ggn",
    structure: str = "auto",
    require_minimum: bool | None = None,
    backend: str = "auto",
    dtype: str = "float64",
    memory: str = "8GB",
) -> LaplacePosterior:
    """Invert the Hessian at trained weights and certify that they are at a minimum.

    Parameters
    ----------
    reg : Regression
    theta : array_like, shape (param,)
        Trained weights.
    X, Y : array_like, shapes (star, pixel), (star, label)
        The training set; NaN labels are missing.
    curvature : {"ggn", "hessian"}
        The generalised Gauss-Newton matrix, always positive definite, or the exact Hessian.
    structure : {"auto", "primal", "dual"}
        Both are exact: a Cholesky factorisation in the space of the parameters, or of the data; "auto" takes
        the cheaper one.
    require_minimum : bool, optional
        By default weights that are not at a minimum give a warning with the numbers, and a flag on every star. True
        raises instead, False keeps only the flags.
    backend, dtype : str
        Passes through the network; factorisations are always in float64.
    memory : str, default "8GB"
        What the factorisation may take.

    Raises
    ------
    NotPositiveDefiniteError
        curvature="hessian" and the Hessian has a negative eigenvalue, which the error carries.
    NotAtMinimumError
        With require_minimum=True, or an indefinite exact Hessian of the certificate.
    TooLargeError
        No exact structure fits in `memory`.
    ShapeError, DataError, OptionError
        Arguments that are not what is expected.
    """
    theta = np.array(check_theta(theta, reg.net.n_params))
    X, Y = compiled.check_stars(reg.net, X, Y)
    options = {"backend": backend, "dtype": dtype}
    builder = InverseBuilder(reg, X, Y, structure=structure, curvature=curvature, memory=memory, **options)
    inverse = builder.build(theta)
    U, gradient = compiled.compile_objective(reg, **options)(theta, X, Y)
    gradient = np.asarray(gradient, np.float64)
    product = compiled.compile_hessian_vector_product(reg, **options)
    shift = _rms_newton_shift(builder, theta, X, inverse @ gradient)
    certificate = certify(gradient, inverse, lambda v: product(theta, X, Y, v).astype(np.float64), shift, len(X))
    _report_minimum(certificate, require_minimum)
    return LaplacePosterior(
        reg,
        theta,
        inverse,
        certificate,
        U,
        curvature,
        builder.structure,
        builder.reason,
        flux_mean=X.mean(axis=0, dtype=np.float64),
        label_range=np.array([np.fmin.reduce(Y), np.fmax.reduce(Y)]),  # NaN, unwarned, where one star lacks a label
        **options,
    )


def _rms_newton_shift(builder: InverseBuilder, theta: np.ndarray, X: np.ndarray, step: np.ndarray) -> np.ndarray:
    squares = sum(np.sum(builder.tangents(theta, X[rows]).matvec(step) ** 2, axis=0) for rows in _batches(len(X)))
    return np.sqrt(squares / len(X))


def _report_minimum(certificate: Certificate, require_minimum: bool | None) -> None:
    if certificate.is_minimum or require_minimum is False:
        return
    advice = (
        "Train on, or run symspec.polish; error bars from here are those of the linearised model and flagged on "
        "every star (require_minimum=False silences this)."
    )
    if require_minimum:
        raise NotAtMinimumError(f"the weights are {certificate.message} {advice}", certificate)
    warnings.warn(f"the weights are {certificate.message} {advice}", NotAtMinimumWarning, stacklevel=3)


def _batches(n: int) -> Iterator[slice]:
    return (slice(i, min(i + STARS_AT_ONCE, n)) for i in range(0, n, STARS_AT_ONCE))
