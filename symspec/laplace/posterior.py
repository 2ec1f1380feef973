"""Laplace's approximation around trained weights: error bars of weights and predictions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from symspec.derivatives import compiled
from symspec.derivatives.tangents import Tangents, compute_tangents
from symspec.errors import DataError, OptionError
from symspec.inverse_hessian.interface import InverseHessian, log_evidence
from symspec.laplace.certificate import Certificate
from symspec.laplace.flags import FlagOptions, find_flags, find_label_flags
from symspec.laplace.prediction import Prediction, compute_flux_covariance, standard_deviations
from symspec.laplace.training_space import TrainingSpace
from symspec.networks.regression import Regression
from symspec.safety.checkpoint import Checkpoint, find_fingerprint
from symspec.safety.checks import check_flux, check_ivar, check_rng
from symspec.safety.progress import show_if_long
from symspec.spectra.pixels import fill_bad_pixels, find_snr
from symspec.spectra.resampling import Resampled, propagate_through
from symspec.spectra.spectra import Spectra

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
    hmc_verdict : tuple of str
        What `compare_hmc` found for each label, see `HmcComparison.mark`; empty where nobody has
        looked.
    training_space : TrainingSpace or None
        What tells spectra unlike the training spectra; None for few of these, or in a file that
        lacks it.
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
    hmc_verdict: tuple[str, ...] = ()
    training_space: TrainingSpace | None = None

    @property
    def is_contradicted(self) -> bool:
        """Whether Hamiltonian Monte Carlo found error bars of a label too small, too large, or off centre."""
        return any(self._contradicted)

    @property
    def _contradicted(self) -> list[bool]:
        return [
            word.startswith("Laplace") for word in self.hmc_verdict or [""] * self.reg.net.n_labels
        ]

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
            In products of the labels' units. For structure="krylov" the upper end of
            `label_covariance_bounds`.
        """
        return self._walk_tangents(
            X, lambda tangents: [self.inverse_hessian.label_covariance(tangents)]
        )[0]

    def label_covariance_bounds(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Covariances (star, label, label) or (label, label) between which `label_covariance` is proved to lie.

        Both are the covariance itself for exact structures; the lower one is zero where it is an
        upper bound, and both are NaN for approximations. "Between" is in the order of positive
        matrices, so that it holds for every linear combination of labels.
        """
        lower, upper = self._walk_tangents(X, self.inverse_hessian.label_covariance_bounds)
        return lower, upper

    def _walk_tangents(
        self, X: Any, function: Callable[[Tangents], Sequence[np.ndarray]]
    ) -> list[np.ndarray]:
        X = check_flux(X, self.reg.net.n_pixels, dtype=None)
        stars = X if X.ndim == 2 else X[None]
        parts = [
            function(compute_tangents(self.reg.net, self._factors, self.theta, stars[rows]))
            for rows, _ in Batches(len(stars)).blocks()
        ]
        C = self.reg.net.n_labels
        joined = [np.concatenate(part) for part in zip(*parts, strict=True)] or [
            np.empty((0, C, C))
        ] * 2
        return joined if X.ndim == 2 else [part[0] for part in joined]

    def predict(
        self,
        X: Any,
        *,
        ivar: Any = None,
        flag_options: FlagOptions | None = None,
        resume: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> Prediction:
        """Labels with their error budget.

        Parameters
        ----------
        X : array_like, shape (star, pixel) or (pixel,), Spectra or Resampled
            Flux; a value may be NaN only where `ivar` is 0. Of resampled spectra the errors, which
            the resampling has made depend on each other from pixel to pixel, are taken with their
            whole covariance.
        ivar : array_like, optional, shape of `X`
            Inverse variance of the flux; Spectra and Resampled bring their own. 0 means no
            information: the pixel is replaced by its training mean, has no part in the flux
            covariance, and is counted in `n_bad_pixels` and the flags.
        flag_options : FlagOptions, optional
            Limits beyond which stars are flagged, in place of the usual ones.
        resume : path, optional
            A folder in which finished stars are kept: the same call goes on from there after an
            interruption. Delete it when the result is safe.
        progress : bool, default True
            Show a progress bar on stderr if it takes more than three seconds.

        Returns
        -------
        Prediction
            Always with a star axis, also for one spectrum.

        Raises
        ------
        ShapeError, DataError
            X or ivar is not what is expected, or `resume` holds the progress of something else.
        """
        resampled = X if isinstance(X, Resampled) else None
        X, ivar = self._check_stars(X if resampled is None else resampled.spectra, ivar)
        n = len(X)
        C = self.reg.net.n_labels
        n_bad = np.zeros(n, int) if ivar is None else np.count_nonzero(ivar == 0, axis=1)

        def add(state: dict[str, np.ndarray], rows: slice) -> None:
            known = None if ivar is None else ivar[rows]
            filled = fill_bad_pixels(X[rows], known, self.flux_mean)
            state["labels"][rows] = self._predict(self.theta, filled)
            state["model"][rows], state["interval"][rows] = self._model_error(filled)
            if known is not None:
                state["flux"][rows] = self._flux_error(filled, known, resampled, rows)

        shapes = {"labels": (n, C), "model": (n, C, C), "flux": (n, C, C), "interval": (n, C, 2)}
        fingerprint = "" if resume is None else find_fingerprint(self.theta, X, ivar, self.reason)
        with show_if_long(progress) as tell:
            checkpoint = Checkpoint(resume, fingerprint, tell)
            zeros = {k: np.zeros(s) for k, s in shapes.items()}
            state = checkpoint.accumulate("prediction", Batches(n), zeros, add)
        labels, model, flux_cov, interval = (state[k] for k in shapes)
        noise = self.reg.noise.predict(labels)
        total = model + flux_cov + noise
        limits = flag_options or FlagOptions()
        snr = find_snr(X, ivar)
        space = self.training_space
        distance = None if space is None else space.find_distances(X, ivar)
        label_flags = find_label_flags(
            labels, total, self.label_range, interval, self._contradicted, limits
        )
        bad_fraction = n_bad / self.reg.net.n_pixels
        flags = find_flags(
            label_flags, bad_fraction, self.certificate.is_minimum, snr, distance, limits
        )
        parts = labels, model, flux_cov, noise, total, flags, n_bad, ivar is not None
        names = self.reg.net.label_names, self.reg.net.label_units
        return Prediction(*parts, *names, interval, label_flags, snr, distance, limits)

    def _check_stars(self, X: Any, ivar: Any) -> tuple[np.ndarray, np.ndarray | None]:
        if isinstance(X, Spectra):
            ivar = X.ivar
            X = X.flux
        X = check_flux(X, self.reg.net.n_pixels, allow_nan=ivar is not None)
        ivar = None if ivar is None else np.atleast_2d(check_ivar(ivar, X.shape))
        X = np.atleast_2d(X)
        if ivar is not None and (bad := ~np.isfinite(X) & (ivar > 0)).any():
            star, pixel = np.argwhere(bad)[0]
            raise DataError(
                f"flux should be finite wherever ivar is positive, got {np.count_nonzero(bad)}"
                f" values that are not (first: star {star}, pixel {pixel}): set ivar to 0 there."
            )
        return X, ivar

    def _flux_error(
        self, X: np.ndarray, ivar: np.ndarray, resampled: Resampled | None, rows: slice
    ) -> np.ndarray:
        """Covariance (star, label, label) from the errors of the flux."""
        if resampled is None:
            return compute_flux_covariance(partial(self._flux_jacobian, self.theta), X, ivar)
        J = self._flux_jacobian(self.theta, X)
        return propagate_through(J, resampled.matrix, resampled.source_ivar[rows])

    def _model_error(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Covariance (star, label, label), and the interval (star, label, 2) of its standard deviations."""
        if self.inverse_hessian.accuracy == "approximate":
            V = self.label_covariance(X)
            return V, np.full((*V.shape[:2], 2), np.nan)
        lower, upper = self.label_covariance_bounds(X)
        return upper, np.stack([standard_deviations(lower), standard_deviations(upper)], axis=-1)

    def sample(self, n_draws: int, *, rng: np.random.Generator) -> np.ndarray:
        """Draws of theta (draw, param) from Normal(theta, A^-1)."""
        return self.theta + self.inverse_hessian.draw(n_draws, check_rng(rng))

    def log_marginal_likelihood(self) -> float:
        r"""Laplace's estimate of log p(Y): :math:`-U - \tfrac12 \log\det A + \tfrac{P}{2} \log 2\pi`, in nats.

        MacKay (1992), doi:10.1162/neco.1992.4.3.448. Exact for a network without hidden layers. For
        structure="last_layer" U and P are those of the last layer's parameters, the others being
        given; for "krylov" it is an estimate whose standard error is
        `inverse_hessian.logdet_standard_error() / 2`.

        Raises
        ------
        OptionError
            The inverse Hessian comes from a subset of the training stars.
        """
        inverse = self.inverse_hessian
        if inverse.structure == "dual" and inverse.accuracy != "exact":
            raise OptionError(
                "the log marginal likelihood needs all training stars, got the inverse Hessian of a"
                ' subset: use structure="krylov".'
            )
        return log_evidence(self.reg, self.theta, self.negative_log_posterior, inverse)


@dataclass(frozen=True)
class Batches:
    """Stars to be walked a few at a time."""

    n_stars: int

    def blocks(self, start: int = 0) -> Iterator[tuple[slice, slice]]:
        for first in range(start, self.n_stars, STARS_AT_ONCE):
            rows = slice(first, min(first + STARS_AT_ONCE, self.n_stars))
            yield rows, rows
