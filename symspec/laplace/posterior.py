"""Error bars of weights and predictions from the normal distribution around trained weights."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives import compiled
from symspec.derivatives.functions import PerStarFunction
from symspec.derivatives.tangents import Tangents, walk_tangents
from symspec.errors import OptionError
from symspec.inverse_hessian.interface import InverseHessian, log_evidence
from symspec.laplace.certificate import Certificate
from symspec.laplace.flags import FlagOptions, find_flags, find_label_flags
from symspec.laplace.identity import describe_posterior
from symspec.laplace.prediction import (
    CENTERS,
    Prediction,
    compute_flux_covariance,
    find_newton_shift,
    standard_deviations,
)
from symspec.laplace.training_space import TrainingSpace
from symspec.networks.regression import Regression
from symspec.safety.checkpoint import Checkpoint, find_fingerprint
from symspec.safety.memory import STARS_AT_ONCE, Batches
from symspec.safety.options import check_choice, check_rng
from symspec.safety.progress import Progress, show_progress
from symspec.safety.stars import check_flux
from symspec.spectra.pixels import fill_bad_pixels, find_snr
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_flux
from symspec.spectra.spectra import Spectra
from symspec.version import __version__


@dataclass(frozen=True, eq=False, kw_only=True)
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
        The kind of A, how it is inverted, and one line on the reason.
    flux_mean : numpy.ndarray, shape (pixel,)
        Mean training spectrum, which replaces pixels without information.
    label_range : numpy.ndarray, shape (2, label)
        Smallest and largest training label.
    backend, dtype : str
    hmc_verdict : tuple of str
        Verdict of `compare_hmc` for each label, see `HmcComparison.mark`; empty before it.
    training_space : TrainingSpace or None
        Description of the training spectra, to flag spectra unlike them; None if there were too
        few, or in a file without it.
    gradient : numpy.ndarray, shape (param,), or None
        Gradient of U at theta, zero for parameters that are held fixed; None in a file without it.
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
    gradient: np.ndarray | None = None

    @property
    def is_contradicted(self) -> bool:
        """Whether Hamiltonian Monte Carlo contradicts the error bars of a label."""
        return bool(self._contradicted.any())

    @property
    def _contradicted(self) -> np.ndarray:
        """Whether it does, for each label (label,)."""
        verdicts = self.hmc_verdict or ("",) * self.reg.net.n_labels
        return np.array([verdict.startswith("Laplace") for verdict in verdicts])

    def __getstate__(self) -> dict[str, Any]:
        """All but the compiled functions, which another process compiles for itself."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @property
    def _options(self) -> dict[str, str]:
        return {"backend": self.backend, "dtype": self.dtype}

    @cached_property
    def _factors(self) -> PerStarFunction:
        return compiled.compile_tangent_factors(self.reg.net, **self._options)

    @cached_property
    def _predict(self) -> PerStarFunction:
        return compiled.compile_predict(self.reg.net, **self._options)

    @cached_property
    def _flux_jacobian(self) -> PerStarFunction:
        return compiled.compile_jacobian(self.reg.net, "flux", **self._options)

    @cached_property
    def _linearized_flux_jacobian(self) -> PerStarFunction:
        return compiled.compile_linearized_flux_jacobian(
            self.reg.net, self._newton_step[0], **self._options
        )

    @cached_property
    def _newton_step(self) -> tuple[np.ndarray, list[str]]:
        """Step (param,) to the minimum of the quadratic model of U, NaN if unknown, and warnings.

        Conjugate gradients may end before the last digits, which a shift does not need.
        """
        if self.gradient is None:
            return np.full(self.theta.size, np.nan), []
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", RuntimeWarning)
            step = -(self.inverse_hessian @ self.gradient)
        return step, [str(warning.message) for warning in told]

    def tangents(
        self, X: ArrayLike, *, stars_at_once: int | None = None
    ) -> Iterator[tuple[slice, Tangents]]:
        """Derivatives of the labels by the weights at theta, some stars at a time.

        Parameters
        ----------
        X : array_like, shape (star, pixel) or (pixel,)
        stars_at_once : int, default 256

        Yields
        ------
        rows : slice
            The stars.
        tangents : Tangents
            Their df/dtheta in factors, multiplied by `matvec` and `rmatvec`.
        """
        stars = np.atleast_2d(check_flux(X, self.reg.net.n_pixels, dtype=None))
        size = stars_at_once or STARS_AT_ONCE
        return walk_tangents(self.reg.net, self._factors, self.theta, stars, size)

    def predict_labels(self, X: ArrayLike) -> np.ndarray:
        """Labels (star, label) or (label,) at theta, without error bars."""
        return self._predict(self.theta, X)

    def label_covariance(self, X: ArrayLike) -> np.ndarray:
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

    def label_covariance_bounds(self, X: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Proved lower and upper bounds of `label_covariance`, each of its shape.

        For exact structures they are apart by what rounding may do. The lower one is zero where the
        structure gives an upper bound only, and both are NaN for approximations. The bounds hold in
        Loewner order, that is for the variance of every linear combination of labels.
        """
        _, lower, upper = self._walk_tangents(X, self._enclose)
        return lower, upper

    def _walk_tangents(
        self, X: ArrayLike, function: Callable[[Tangents], Sequence[np.ndarray]]
    ) -> list[np.ndarray]:
        X = check_flux(X, self.reg.net.n_pixels, dtype=None)
        parts = [function(tangents) for _, tangents in self.tangents(X)]
        C = self.reg.net.n_labels
        joined = [np.concatenate(part) for part in zip(*parts, strict=True)] or [
            np.empty((0, C, C))
        ] * 3
        return joined if X.ndim == 2 else [part[0] for part in joined]

    def predict(
        self,
        X: ArrayLike | Spectra | Resampled,
        *,
        ivar: ArrayLike | None = None,
        center: str = "weights",
        flag_options: FlagOptions | None = None,
        resume: str | os.PathLike[str] | None = None,
        progress: bool | Progress = True,
    ) -> Prediction:
        """Labels with their error budget.

        Parameters
        ----------
        X : array_like, shape (star, pixel) or (pixel,), Spectra or Resampled
            Flux; a value may be NaN only where `ivar` is 0. Resampling correlates the errors of
            neighbouring pixels: for `Resampled`, their whole covariance is propagated.
        ivar : array_like, optional, shape of `X`
            Inverse variance of the flux; Spectra and Resampled bring their own. 0 means no
            information: the pixel is replaced by its training mean, left out of the flux
            covariance, and counted in `n_bad_pixels` and the flags.
        center : {"weights", "linearized"}
            What the error bars are around: the labels that the network gives at theta, or those of
            the network linearised there, at its own minimum. The model errors of
            curvature="ggn" are exactly those of the linearised network, wherever training stopped
            (Immer, Korzepa & Bauer 2021; Antoran et al. 2022). The centres are apart by
            `Prediction.newton_shift`.
        flag_options : FlagOptions, optional
            Limits beyond which stars are flagged.
        resume : path, optional
            A folder that keeps finished stars: the same call continues from there after an
            interruption. Another posterior or other spectra are refused; `flag_options` may change,
            as flags are found at the end. Damaged files are computed again, with a warning. Delete
            the folder when the result is safe.
        progress : bool or Progress, default True
            True: a bar on stderr if it takes more than three seconds. A callable is called with
            (stage, done, total) after each batch of stars.

        Returns
        -------
        Prediction
            Always with a star axis, also for one spectrum.

        Raises
        ------
        ShapeError, DataError
            X or ivar is not what is expected, or `resume` holds the progress of something else.
        OptionError
            The posterior has no linearised centre: curvature="hessian", an inverse Hessian of a
            subset of the training stars, or a file of symspec 0.1.
        """
        is_linearized = self._check_center(center)
        resampled = X if isinstance(X, Resampled) else None
        flux, ivar = as_flux(self.reg.net, X, ivar)
        n = len(flux)
        C = self.reg.net.n_labels

        def add(state: dict[str, np.ndarray], rows: slice) -> None:
            known = None if ivar is None else ivar[rows]
            filled = fill_bad_pixels(flux[rows], known, self.flux_mean)
            state["labels"][rows] = self._predict(self.theta, filled)
            found = self._model_error(filled)
            state["model"][rows], state["interval"][rows], state["step"][rows] = found
            if is_linearized:
                state["labels"][rows] += state["step"][rows]
            if known is not None:
                J = self._linearized_flux_jacobian if is_linearized else self._flux_jacobian
                jacobian = partial(J, self.theta)
                flux_cov = compute_flux_covariance(jacobian, filled, known, resampled, rows)
                state["flux"][rows] = flux_cov

        zeros = {
            "labels": np.zeros((n, C)),
            "model": np.zeros((n, C, C)),
            "flux": np.zeros((n, C, C)),
            "interval": np.zeros((n, C, 2)),
            "step": np.zeros((n, C)),
        }
        fingerprint = ""
        if resume is not None:
            what = ("prediction", __version__, center, describe_posterior(self))
            fingerprint = find_fingerprint(*what, flux, ivar, resampled)
        with show_progress(progress) as show:
            checkpoint = Checkpoint(resume, fingerprint, show)
            state = checkpoint.accumulate("prediction", Batches(n), zeros, add)
        return self._sum_up(flux, ivar, state, center, flag_options or FlagOptions())

    def _sum_up(
        self,
        X: np.ndarray,
        ivar: np.ndarray | None,
        computed: Mapping[str, np.ndarray],
        center: str,
        options: FlagOptions,
    ) -> Prediction:
        """Total errors and flags of stars whose labels and covariances are computed."""
        net = self.reg.net
        noise_cov = self.reg.noise.predict(computed["labels"])
        total_cov = computed["model"] + computed["flux"] + noise_cov
        n_bad = np.zeros(len(X), int) if ivar is None else np.count_nonzero(ivar == 0, axis=1)
        snr = find_snr(X, ivar)
        space = self.training_space
        distance = None if space is None else space.find_distances(X, ivar)
        shift = None
        if self.gradient is not None:
            shift = find_newton_shift(computed["step"], computed["model"])
        label_flags = find_label_flags(
            computed["labels"],
            total_cov,
            self.label_range,
            model_interval=computed["interval"],
            is_contradicted=self._contradicted,
            widest=self.inverse_hessian.widest,
            newton_shift=shift if center == "weights" else None,
            options=options,
        )
        is_known = self.gradient is not None or self.certificate.is_minimum
        bad_fraction = n_bad / net.n_pixels
        flags = find_flags(label_flags, bad_fraction, is_known, snr, distance, options)
        return Prediction(
            labels=computed["labels"],
            model_cov=computed["model"],
            flux_cov=computed["flux"],
            noise_cov=noise_cov,
            total_cov=total_cov,
            flags=flags,
            n_bad_pixels=n_bad,
            has_flux_errors=ivar is not None,
            label_names=net.label_names,
            label_units=net.label_units,
            model_interval=computed["interval"],
            label_flags=label_flags,
            snr=snr,
            flux_distance=distance,
            newton_shift=shift,
            flag_options=options,
            center=center,
        )

    def _check_center(self, center: str) -> bool:
        """Whether it is the linearised one, which there is."""
        if check_choice(center, "center", CENTERS) == "weights":
            return False
        if self.curvature != "ggn" or not self.inverse_hessian.is_complete or self.gradient is None:
            raise OptionError(
                'center="linearized" should be asked of a posterior of curvature="ggn" from all'
                " training stars and with the gradient of U, which this one is not: call"
                " fit_laplace again."
            )
        for words in self._newton_step[1]:
            warnings.warn(words, RuntimeWarning, stacklevel=3)
        return True

    def _model_error(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Covariance (star, label, label), interval of the deviations, change by a Newton step."""
        V, lower, upper, step = self._walk_tangents(X, self._enclose_and_step)
        variances = np.einsum("ncc->nc", V)
        variances[~(variances >= 0)] = np.nan  # no digit is left
        ends = (standard_deviations(np.maximum(lower, 0)), standard_deviations(upper))
        return V, np.stack(ends, axis=-1), step

    def _enclose_and_step(self, tangents: Tangents) -> tuple[np.ndarray, ...]:
        return *self._enclose(tangents), tangents.matvec(self._newton_step[0])

    def _enclose(self, tangents: Tangents) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        enclosure = self.inverse_hessian.enclose(tangents)
        return enclosure.value, enclosure.lower, enclosure.upper

    def sample(self, n_draws: int, *, rng: np.random.Generator) -> np.ndarray:
        """Draws of theta (draw, param) from Normal(theta, A^-1)."""
        return self.theta + self.inverse_hessian.draw(n_draws, check_rng(rng))

    def log_marginal_likelihood(self) -> float:
        r"""Laplace's estimate of log p(Y), in nats.

        .. math:: \log p(Y) \approx -U - \tfrac12 \log\det A + \tfrac{P}{2} \log 2\pi

        MacKay (1992), doi:10.1162/neco.1992.4.3.448. Exact for a network without hidden layers. For
        structure="last_layer" U and P are those of the last layer's parameters, given the others.
        For "krylov" it is an estimate with the standard error
        `inverse_hessian.logdet_standard_error() / 2`.

        Raises
        ------
        OptionError
            The inverse Hessian comes from a subset of the training stars.
        """
        inverse = self.inverse_hessian
        if not inverse.is_complete:
            raise OptionError(
                "the log marginal likelihood needs all training stars, got the inverse Hessian of a"
                ' subset: use structure="krylov".'
            )
        return log_evidence(self.reg, self.theta, self.negative_log_posterior, inverse)
