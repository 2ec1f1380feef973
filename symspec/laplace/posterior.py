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
from symspec.derivatives.span import Response, compile_response
from symspec.derivatives.tangents import Tangents, walk_tangents
from symspec.errors import OptionError
from symspec.inverse_hessian.builder import log_evidence
from symspec.inverse_hessian.interface import InverseHessian
from symspec.laplace.budget import Budgets, Choices, check_center, choose_fill, sum_up
from symspec.laplace.certificate import Certificate
from symspec.laplace.flags import FlagOptions
from symspec.laplace.flux_errors import METHODS, ResampledCovariance
from symspec.laplace.identity import describe_posterior
from symspec.laplace.leave_one_out import LeftOut, TrainingStars, find_joint_covariance
from symspec.laplace.prediction import Prediction
from symspec.laplace.training_space import TrainingSpace
from symspec.networks.network import Network
from symspec.networks.regression import Regression
from symspec.safety.checkpoint import Checkpoint, find_fingerprint
from symspec.safety.memory import STARS_AT_ONCE
from symspec.safety.options import check_choice, check_rng
from symspec.safety.progress import Progress, show_progress
from symspec.safety.stars import check_flux
from symspec.spectra.covariances.interface import FluxCovariance
from symspec.spectra.flux_prior import FluxPrior
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_flux
from symspec.spectra.spectra import Spectra
from symspec.version import __version__

_Walk = Iterator[tuple[slice, Tangents]]


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
        The kind of A, how it is inverted, why.
    flux_mean : numpy.ndarray, shape (pixel,)
        Of the training spectra.
    label_range : numpy.ndarray, shape (2, label)
        Smallest and largest training label.
    backend, dtype : str
    hmc_verdict : tuple of str
        Of `compare_hmc` for each label, see `HmcComparison.mark`; empty before it.
    training_space : TrainingSpace or None
        To flag spectra unlike those of training; None of few, or in a file without it.
    gradient : numpy.ndarray, shape (param,), or None
        Gradient of U at theta, zero for parameters that are held fixed; None in a file without it.
    exact_step : numpy.ndarray, shape (param,), or None
        `newton_step`, where the gradient has not its digits.
    flux_prior : FluxPrior or None
        What training spectra tell of missing pixels; None of one star, or in a file without it.
    label_spread : numpy.ndarray, shape (label,), or None
        Standard deviations of training labels; None in a file without.
    training_flux_cov : numpy.ndarray, shape (center, label, label), or None
        What flux errors of training spectra do to labels, around the weights and linearised:
        `flux_cov` is what new spectra have beyond. None: all counts.
    training_stars : TrainingStars or None
        Those that it was fitted to, not copied; None if it was read from a file.
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
    exact_step: np.ndarray | None = None
    flux_prior: FluxPrior | None = None
    label_spread: np.ndarray | None = None
    training_flux_cov: np.ndarray | None = None
    training_stars: TrainingStars | None = None

    @property
    def net(self) -> Network:
        """The network."""
        return self.reg.net

    @property
    def contradicted(self) -> np.ndarray:
        """Whether Hamiltonian Monte Carlo contradicts the error bars of each label (label,)."""
        verdicts = self.hmc_verdict or ("",) * self.net.n_labels
        return np.array([verdict.startswith("Laplace") for verdict in verdicts])

    def __getstate__(self) -> dict[str, Any]:
        """All but the training stars, and compiled functions, which a process compiles itself."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)}
        return kept | {"training_stars": None}

    @property
    def _options(self) -> dict[str, str]:
        return {"backend": self.backend, "dtype": self.dtype}

    @cached_property
    def _factors(self) -> PerStarFunction:
        return compiled.compile_tangent_factors(self.net, **self._options)

    @cached_property
    def _outputs(self) -> PerStarFunction:
        return compiled.compile_outputs(self.net, **self._options)

    @cached_property
    def _response(self) -> Callable[[np.ndarray], Response]:
        return compile_response(self.net, self.theta, **self._options)

    @cached_property
    def _linearized_flux_jacobian(self) -> PerStarFunction:
        step = self.newton_step
        return compiled.compile_linearized_flux_jacobian(self.net, step, **self._options)

    @property
    def newton_step(self) -> np.ndarray:
        """Step (param,) to the minimum of the quadratic model of U; NaN if the gradient is unknown.

        Conjugate gradients may end before the last digits, which a shift does not need.
        """
        return self._solved_step[0]

    @property
    def newton_warnings(self) -> list[str]:
        """What was warned of when `newton_step` was solved for."""
        return self._solved_step[1]

    @cached_property
    def _solved_step(self) -> tuple[np.ndarray, list[str]]:
        if self.exact_step is not None:
            return self.exact_step, []
        if self.gradient is None:
            return np.full(self.theta.size, np.nan), []
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", RuntimeWarning)
            step = -(self.inverse_hessian @ self.gradient)
        return step, [str(warning.message) for warning in told]

    def tangents(self, X: ArrayLike, *, stars_at_once: int | None = None) -> _Walk:
        """Derivatives of the labels of X (star, pixel) by the weights, some stars at a time.

        Yields
        ------
        slice, Tangents
            The stars, 256 by default, and df/dtheta in factors, see `Tangents`.
        """
        for rows, tangents in self.output_tangents(X, stars_at_once):
            yield rows, tangents.take_labels(self.net.n_labels)

    def output_tangents(self, X: ArrayLike, size: int | None = None) -> _Walk:
        """`tangents` of all outputs: what is for the noise stands behind the labels."""
        X = np.atleast_2d(check_flux(X, self.net.n_pixels, dtype=None))
        return walk_tangents(self.net, self._factors, self.theta, X, size or STARS_AT_ONCE)

    def predict_labels(self, X: ArrayLike, *, center: str = "weights") -> np.ndarray:
        """Labels (star, label) or (label,) without error bars; `center` is that of `predict`."""
        return self.predict_outputs(X, center=center)[..., : self.net.n_labels]

    def predict_outputs(self, X: ArrayLike, *, center: str = "weights") -> np.ndarray:
        """All outputs of the network: what is for the noise stands behind the labels."""
        outputs: np.ndarray = self._outputs(self.theta, X)
        if center == "linearized":
            for rows, tangents in self.output_tangents(X):
                np.atleast_2d(outputs)[rows] += tangents.matvec(self.newton_step)
        return outputs

    def respond(self, X: np.ndarray, *, center: str = "weights") -> Response:
        """How the labels of X (star, pixel) follow changes of the flux."""
        if center == "weights":
            return self._response(X)
        labels = partial(self.predict_labels, center=center)
        return Response(labels, partial(self._linearized_flux_jacobian, self.theta), X)

    def label_covariance(self, X: ArrayLike) -> np.ndarray:
        r"""Covariance of the labels that comes from the weights, :math:`V = J A^{-1} J^T`.

        (star, label, label) for X (star, pixel), (label, label) for X (pixel,), in products of the
        labels' units. For structure="krylov" the upper end of `label_covariance_bounds`.
        """
        return self._walk_tangents(X, lambda t: [self.inverse_hessian.label_covariance(t)])[0]

    def label_covariance_bounds(self, X: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Proved bounds of `label_covariance`, for the variance of every combination of labels.

        Exact structures: apart by rounding; upper bounds: from zero; approximations: NaN.
        """
        lower, upper = self._walk_tangents(X, self.inverse_hessian.label_covariance_bounds)
        return lower, upper

    def _walk_tangents(
        self, X: ArrayLike, function: Callable[[Tangents], Sequence[np.ndarray]]
    ) -> list[np.ndarray]:
        X = check_flux(X, self.net.n_pixels, dtype=None)
        parts = [function(tangents) for _, tangents in self.tangents(X)]
        empty = [np.empty((0, *[self.net.n_labels] * 2))] * 2
        joined = [np.concatenate(part) for part in zip(*parts, strict=True)] or empty
        return joined if X.ndim == 2 else [part[0] for part in joined]

    def predict(
        self,
        X: ArrayLike | Spectra | Resampled,
        *,
        ivar: ArrayLike | None = None,
        flux_covariance: FluxCovariance | ArrayLike | None = None,
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
        flux_covariance : FluxCovariance or array_like, optional
            Covariance of the flux where errors of pixels are correlated, of each star or of all
            alike: (star, pixel, pixel), (pixel, pixel), `BandedCovariance` or `LowRankCovariance`,
            see `symspec.spectra.covariances`. `ivar` beside it is 0 at bad pixels, and elsewhere 1
            over its diagonal. Spectra and Resampled bring their own.
        center : {"weights", "linearized"}
            What the error bars are around: the labels that the network gives at theta, or those of
            the network linearised there, at its own minimum, whose model errors those of
            curvature="ggn" are, wherever training stopped (Immer, Korzepa & Bauer 2021; Antoran et
            al. 2022). The centres are apart by `Prediction.newton_shift`.
        fill : {"conditional", "mean"}
            Missing pixels get their mean given the good ones, or the training mean. The error of
            either counts, see `Completed.propagate`.
        flux : {"linear", "sampled"}
            By derivatives, checked by a few draws (`Prediction.nonlinearity`), or by 512 draws
            through the network, for low signal-to-noise ratios.
        flag_options : FlagOptions, optional
            Limits beyond which stars are flagged.
        resume : path, optional
            A folder that keeps finished stars, from where the same call goes on if interrupted.
            Another posterior or other spectra are refused, `flag_options` may change; damaged files
            are computed again, with a warning. Delete the folder when the result is safe.
        progress : bool or Progress, default True
            A bar on stderr after three seconds, or called with (stage, done, total) by batches.

        Returns
        -------
        Prediction
            Always with a star axis, also for one spectrum.

        Raises
        ------
        ShapeError, DataError
            X or ivar is not what is expected, or `resume` holds the progress of something else.
        OptionError
            There is no linearised centre: curvature="hessian", an inverse Hessian of a subset of
            the training stars, or a file of symspec 0.1.
        """
        check_center(self, center)
        check_choice(flux, "flux", METHODS)
        resampled = X if isinstance(X, Resampled) else None
        observed, ivar, covariance = as_flux(self.net, X, ivar, flux_covariance)
        covariance = covariance or ResampledCovariance.of(resampled)
        how = Choices(center=center, fill=choose_fill(fill, ivar, self.flux_prior), flux=flux)
        fingerprint = ""
        if resume is not None:
            what = ("prediction", __version__, how, describe_posterior(self))
            fingerprint = find_fingerprint(*what, observed, ivar, covariance)
        with show_progress(progress) as show:
            budgets = Budgets(self, observed, ivar, covariance, how)
            state = budgets.compute(Checkpoint(resume, fingerprint, show))
        return sum_up(self, observed, ivar, state, how, flag_options or FlagOptions())

    def leave_one_out(
        self,
        X: ArrayLike | Spectra | Resampled | None = None,
        Y: ArrayLike | None = None,
        *,
        label_errors: ArrayLike | None = None,
        ivar: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        center: str = "weights",
        flag_options: FlagOptions | None = None,
    ) -> Prediction:
        """Predict each training star as if it had been left out of training, without training.

        Exact for normal noise and the network linearised at theta. The features that the network
        makes of spectra have seen the star: where many weights learnt few stars, the scatter of new
        ones is larger.

        Parameters
        ----------
        X, Y, label_errors, ivar
            The training stars, as `fit_laplace` had them; by default those, if it was not read from
            a file.
        groups : array_like, shape (star,), optional
            Names or numbers: stars of one group are left out together, such as spectra of one star.
            By default each alone.
        center, flag_options
            As for `predict`.

        Returns
        -------
        Prediction
            Of the training stars, in their order; `noise_cov` holds the errors that their labels
            came with, so that `coverage` goes with the labels as they are.

        Raises
        ------
        OptionError
            curvature="hessian", an inverse Hessian of a subset of the stars, or groups with another
            structure than "primal" and "dual".
        ShapeError, DataError
            The stars or groups are not what is expected, or the posterior holds no stars.
        """
        check_center(self, center)
        return LeftOut.of(self, groups, X, Y, label_errors, ivar).predict(center, flag_options)

    def influence(
        self,
        X_new: ArrayLike | Spectra | Resampled,
        X: ArrayLike | Spectra | Resampled | None = None,
        Y: ArrayLike | None = None,
        *,
        label_errors: ArrayLike | None = None,
        ivar: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        curvature: str = "auto",
        progress: bool | Progress = True,
    ) -> np.ndarray:
        """By how much each training star moves each label of new stars, in the labels' units.

        Labels as predicted, less those without the training star: (star, label, training star),
        or (star, label, group) in the order of the groups' sorted names. `curvature` is "ggn", by
        which `leave_one_out` goes, whose arguments the others are; "hessian", as refits have it, at
        a minimum; "auto" is that up to 8,000 weights in the span of the spectra. NaN where nothing
        is left without the star. For "primal", "dual"; see `symspec.laplace.exact_influence`.
        """
        left_out = LeftOut.of(self, groups, X, Y, label_errors, ivar)
        return left_out.find_influence(X_new, curvature=curvature, progress=progress)

    def joint_covariance(self, X: ArrayLike | Spectra | Resampled) -> np.ndarray:
        """Covariance (star, label, star, label) of all labels that comes from the weights.

        Unlike noise, it does not average out. For structure="primal" and "dual".
        """
        return find_joint_covariance(self, X)

    def sample(self, n_draws: int, *, rng: np.random.Generator) -> np.ndarray:
        """Draws of theta (draw, param) from Normal(theta, A^-1)."""
        return self.theta + self.inverse_hessian.draw(n_draws, check_rng(rng))

    def log_marginal_likelihood(self) -> float:
        r"""Laplace's estimate of log p(Y), in nats.

        .. math:: \log p(Y) \approx -U - \tfrac12 \log\det A + \tfrac{P}{2} \log 2\pi

        MacKay (1992), doi:10.1162/neco.1992.4.3.448. Exact for a network without hidden layers. For
        structure="last_layer" U and P are those of the last layer alone; "krylov" gives an
        estimate, with error `inverse_hessian.logdet_standard_error() / 2`. OptionError for an
        inverse Hessian of a subset of the training stars.
        """
        if not self.inverse_hessian.is_complete:
            raise OptionError(
                "the log marginal likelihood needs all training stars, got the inverse Hessian of a"
                ' subset: use structure="krylov".'
            )
        return log_evidence(self.reg, self.theta, self.negative_log_posterior, self.inverse_hessian)
