"""Error bars of weights and predictions from the normal distribution around trained weights."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from symspec.laplace.flags import FlagOptions
from symspec.laplace.flux_errors import METHODS, FluxErrors, FluxNoise, find_flux_errors
from symspec.laplace.identity import describe_posterior
from symspec.laplace.prediction import (
    CENTERS,
    Choices,
    Prediction,
    begin,
    choose_fill,
    standard_deviations,
    sum_up,
)
from symspec.laplace.training_space import TrainingSpace
from symspec.networks.regression import Regression
from symspec.safety.checkpoint import Checkpoint, find_fingerprint
from symspec.safety.memory import STARS_AT_ONCE, Batches
from symspec.safety.options import check_choice, check_rng
from symspec.safety.progress import Progress, show_progress
from symspec.safety.stars import check_flux
from symspec.spectra.flux_prior import Completed, FluxPrior
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
        Mean training spectrum.
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
    flux_prior : FluxPrior or None
        What training spectra tell of missing pixels; None for one training star, or in a file
        without it.
    label_spread : numpy.ndarray, shape (label,), or None
        Standard deviations of the training labels; None in a file without them.
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
    flux_prior: FluxPrior | None = None
    label_spread: np.ndarray | None = None

    @property
    def is_contradicted(self) -> bool:
        """Whether Hamiltonian Monte Carlo contradicts the error bars of a label."""
        return bool(self.contradicted.any())

    @property
    def contradicted(self) -> np.ndarray:
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
    def _outputs(self) -> PerStarFunction:
        return compiled.compile_outputs(self.reg.net, **self._options)

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
        for rows, tangents in self.output_tangents(X, stars_at_once=stars_at_once):
            yield rows, tangents.take_labels(self.reg.net.n_labels)

    def output_tangents(
        self, X: ArrayLike, *, stars_at_once: int | None = None
    ) -> Iterator[tuple[slice, Tangents]]:
        """The same of all outputs, those for the noise, too."""
        stars = np.atleast_2d(check_flux(X, self.reg.net.n_pixels, dtype=None))
        size = stars_at_once or STARS_AT_ONCE
        return walk_tangents(self.reg.net, self._factors, self.theta, stars, size)

    def predict_labels(self, X: ArrayLike) -> np.ndarray:
        """Labels (star, label) or (label,) at theta, without error bars."""
        labels: np.ndarray = self._outputs(self.theta, X)[..., : self.reg.net.n_labels]
        return labels

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
        return self._walk_tangents(X, lambda t: [self.inverse_hessian.label_covariance(t)])[0]

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
        fill: str = "conditional",
        flux: str = "linear",
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
            information: the pixel is filled, its cost is in the flux covariance, and it is counted
            in `n_bad_pixels` and the flags.
        center : {"weights", "linearized"}
            What the error bars are around: the labels that the network gives at theta, or those of
            the network linearised there, at its own minimum. The model errors of
            curvature="ggn" are exactly those of the linearised network, wherever training stopped
            (Immer, Korzepa & Bauer 2021; Antoran et al. 2022). The centres are apart by
            `Prediction.newton_shift`.
        fill : {"conditional", "mean"}
            Missing pixels get their mean given the good ones, as the training spectra have it, or
            the training mean. The error of either counts, see `Completed.propagate`.
        flux : {"linear", "sampled"}
            Errors of the flux reach the labels by the derivatives at this spectrum, or by 512 draws
            through the network, for low signal-to-noise ratios. The linear ones are checked by a
            few draws, see `Prediction.nonlinearity`.
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
        check_choice(flux, "flux", METHODS)
        resampled = X if isinstance(X, Resampled) else None
        observed, ivar = as_flux(self.reg.net, X, ivar)
        how = Choices(center=center, fill=choose_fill(fill, ivar, self.flux_prior), flux=flux)
        prior = self.flux_prior or FluxPrior.of_mean(self.flux_mean)

        def add(state: dict[str, np.ndarray], rows: slice) -> None:
            known = None if ivar is None else ivar[rows]
            filled = observed[rows]
            if known is not None:
                completed = prior.complete(filled, known, how.fill)
                filled = completed.flux
            self._add_outputs(state, rows, filled, is_linearized)
            if known is not None:
                noise = FluxNoise.of(known, resampled, rows)
                errors = self._flux_errors(state["labels"][rows], completed, noise, how)
                for name, array in errors.to_arrays().items():
                    state[name][rows] = array

        fingerprint = ""
        if resume is not None:
            what = ("prediction", __version__, how, describe_posterior(self))
            fingerprint = find_fingerprint(*what, observed, ivar, resampled)
        with show_progress(progress) as show:
            checkpoint = Checkpoint(resume, fingerprint, show)
            start = begin(len(observed), self.reg.net.n_labels, self.reg.net.n_outputs)
            state = checkpoint.accumulate("prediction", Batches(len(observed)), start, add)
        return sum_up(self, observed, ivar, state, how, flag_options or FlagOptions())

    def _add_outputs(
        self, state: dict[str, np.ndarray], rows: slice, X: np.ndarray, is_linearized: bool
    ) -> None:
        """Outputs of some stars, with what the weights leave open of them."""
        C = self.reg.net.n_labels
        V, interval, step = self._model_error(X)
        outputs = self._outputs(self.theta, X) + (step if is_linearized else 0.0)
        state["outputs"][rows] = outputs
        state["variances"][rows] = np.einsum("ncc->nc", V)
        state["labels"][rows] = outputs[:, :C]
        state["model"][rows] = V[:, :C, :C]
        state["interval"][rows] = interval[:, :C]
        state["step"][rows] = step[:, :C]

    def _flux_errors(
        self, at_center: np.ndarray, completed: Completed, noise: FluxNoise, how: Choices
    ) -> FluxErrors:
        is_linearized = how.center == "linearized"
        jacobian = self._linearized_flux_jacobian if is_linearized else self._flux_jacobian

        def labels(X: np.ndarray) -> np.ndarray:
            found = self.predict_labels(X)
            if is_linearized:
                step = self._newton_step[0]
                found = found + np.concatenate([t.matvec(step) for _, t in self.tangents(X)])
            return found

        eps = float(np.finfo(self.dtype).eps)
        differentiate = partial(jacobian, self.theta)
        return find_flux_errors(
            labels, differentiate, at_center, completed, noise, method=how.flux, eps=eps
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
        """Covariance of the outputs, interval of their deviations, change by a Newton step."""
        parts = [self._enclose_and_step(tangents) for _, tangents in self.output_tangents(X)]
        V, lower, upper, step = (np.concatenate(part) for part in zip(*parts, strict=True))
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
