"""Laplace's approximation at trained weights: inverse Hessian and certificate of the minimum."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.functions import check_stars
from symspec.derivatives.threads import Threads
from symspec.errors import NotAtMinimumError, NotAtMinimumWarning
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.interface import InverseHessian
from symspec.laplace.certificate import Certificate, certify
from symspec.laplace.leave_one_out import TrainingStars
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.training_space import describe_training
from symspec.networks.regression import Regression, describe_regression
from symspec.networks.theta import check_theta
from symspec.safety.checkpoint import Checkpoint, find_fingerprint
from symspec.safety.label_errors import Labels, find_labels_alone
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.flux_prior import fit_flux_prior
from symspec.spectra.pixels import NOISELESS
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_stars
from symspec.spectra.spectra import Spectra
from symspec.version import __version__
from symspec.workers import open_workers
from symspec.workers.interface import Workers


def fit_laplace(
    reg: Regression,
    theta: ArrayLike,
    X: ArrayLike | Spectra | Resampled,
    Y: ArrayLike | None = None,
    *,
    label_errors: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    curvature: str = "ggn",
    structure: str = "auto",
    require_minimum: bool | None = None,
    backend: str = "auto",
    dtype: str = "float64",
    memory: str = "8GB",
    options: Mapping[str, Any] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: bool | Progress = True,
    scheduler: Any = None,
) -> LaplacePosterior:
    """Invert the Hessian at trained weights and certify that they are at a minimum.

    Parameters
    ----------
    reg : Regression
    theta : array_like, shape (param,)
        Trained weights.
    X, Y : array_like, shapes (star, pixel), (star, label)
        The training set; NaN labels are missing. `Spectra` may stand for both.
    label_errors : array_like, shape (star, label) or (star, label, label), optional
        Standard deviations or covariances of errors that the labels came with, in their units.
        They add to the noise. `Spectra` bring their own.
    ivar : array_like, shape (star, pixel), optional
        Inverse variance of the training flux X, of which only zeros count: such pixels are filled
        by what the other pixels and stars tell of them. `Spectra` bring their own.
    curvature : {"ggn", "hessian"}
        The generalised Gauss-Newton matrix, always positive definite, or the exact Hessian.
    structure : str, default "auto"
        Exact: "primal" and "dual", Cholesky factorisations in the space of the parameters or of the
        data; "krylov", conjugate gradients on products alone, which give each error bar as an
        interval. "auto" takes the cheapest of these that fits in `memory`. Approximations, to be
        compared with the exact ones by `audit_structures`: "kronecker", "ekfac" (Kronecker with
        corrected eigenvalues), "diagonal", "last_layer", and "low_rank", whose variances are upper
        bounds.
    require_minimum : bool, optional
        By default weights that are not at a stationary point give a warning with the numbers, and
        flags on the stars whose labels a Newton step would move. True raises instead, also at a
        saddle point, False keeps only the flags.
    backend, dtype : str
        Passes through the network; factorisations are always in float64.
    memory : str, default "8GB"
        Memory that the factorisation may take.
    options : mapping, optional
        Of the structure. "dual": subset (number of training stars used, for upper bounds); scratch
        (a folder, where a kernel beyond `memory` is factorised in tiles, which the result needs:
        the same call continues after an interruption), max_hours (24: refused if it is estimated to
        take longer), stars_a_tile. "krylov": subset (stars of the preconditioner), tolerance (0.01:
        relative width of the intervals), max_iterations (200), max_seconds (for each 256 stars),
        scratch (a folder for the kernel, in the dtype of `dtype`: many stars then take little more
        than one), max_hours (as above). "low_rank": rank (100).
    resume : path, optional
        A folder that keeps finished blocks: the same call continues from there after an
        interruption. Primal and dual, one factorisation each, start again (but not with
        `scratch`). Another call, in any argument but `require_minimum` and `progress`, is refused;
        damaged files are computed again, with a warning. Delete the folder when the result is safe.
    progress : bool or Progress, default True
        True: a bar on stderr if it takes more than three seconds. A callable is called with
        (stage, done, total) after each block.
    scheduler : None, "local", str or distributed.Client, optional
        Who sums over the stars, this process by default, see `symspec.workers`: for "kronecker",
        "ekfac", "diagonal" and "last_layer" what is factorised, and U and its gradient for every
        structure but "dual" in memory. Blocks of stars and the order of their sums are the same.

    Raises
    ------
    NotPositiveDefiniteError
        curvature="hessian" and the Hessian has a negative eigenvalue, which the error carries.
    NotAtMinimumError
        With require_minimum=True, or an indefinite exact Hessian of the certificate.
    TooLargeError
        The exact Hessian does not fit in `memory`, or tiles not on the disk or in max_hours.
    ShapeError, DataError, OptionError
        Arguments that are not what is expected, or `resume` holds the progress of another fit.
    """
    theta = np.array(check_theta(theta, reg.net.n_params))
    known = _find_ivar(X) if ivar is None else np.atleast_2d(ivar)
    X, Y = check_stars(reg.net, *as_stars(reg.net, X, Y, label_errors, ivar))
    options = _write_out_paths(options or {})
    fingerprint = ""
    if resume is not None:
        how = {"structure": structure, "curvature": curvature, "memory": memory, "options": options}
        passes = {"backend": backend, "dtype": dtype}
        regression = describe_regression(reg)
        fingerprint = find_fingerprint("fit", __version__, regression, theta, X, Y, how, passes)
    threads = Threads(reg.net).for_matrices(len(X))
    with show_progress(progress) as show, threads, _open_others(scheduler) as workers:
        builder = InverseBuilder(
            reg,
            X,
            Y,
            structure=structure,
            curvature=curvature,
            backend=backend,
            dtype=dtype,
            memory=memory,
            options=options,
            checkpoint=Checkpoint(resume, fingerprint, show),
            workers=workers,
        )
        inverse = builder.build(theta)
        certified = certify(builder, inverse, theta)
        laplace = _build_posterior(builder, known, theta, inverse, *certified)
    _report_minimum(laplace.certificate, require_minimum)
    return laplace


def _write_out_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in options.items()
    }


def _open_others(scheduler: Any) -> AbstractContextManager[Workers | None]:
    """Workers that are asked for; None for this process, which adds up in place."""
    return nullcontext() if scheduler is None else open_workers(scheduler)


def _find_ivar(X: ArrayLike | Spectra | Resampled) -> np.ndarray | None:
    """Inverse variance of training spectra; of arrays with NaN 0 there, and without noise."""
    spectra = X.spectra if isinstance(X, Resampled) else X
    if isinstance(spectra, Spectra):
        return spectra.ivar
    flux = np.atleast_2d(np.asarray(spectra))
    if flux.dtype.kind != "f" or not np.isnan(np.sum(flux)):
        return None
    return np.where(np.isnan(flux), 0.0, NOISELESS)


def _build_posterior(
    builder: InverseBuilder,
    ivar: np.ndarray | None,
    theta: np.ndarray,
    inverse: InverseHessian,
    U: float,
    gradient: np.ndarray,
    certificate: Certificate,
    exact_step: np.ndarray | None,
) -> LaplacePosterior:
    flux_mean = builder.X.mean(axis=0, dtype=np.float64)
    return LaplacePosterior(
        reg=builder.reg,
        theta=theta,
        inverse_hessian=inverse,
        certificate=certificate,
        gradient=gradient,
        exact_step=exact_step,
        negative_log_posterior=U,
        curvature=builder.curvature,
        structure=builder.structure,
        reason=" ".join(filter(None, (builder.reason, inverse.remark))),
        flux_mean=flux_mean,
        label_range=_find_label_range(builder.Y),
        backend=builder.backend,
        dtype=builder.dtype,
        training_space=describe_training(builder.X, flux_mean),
        flux_prior=fit_flux_prior(builder.X, flux_mean, ivar),
        label_spread=_find_label_spread(find_labels_alone(builder.Y)),
        training_stars=TrainingStars(builder.X, builder.Y),
    )


def _find_label_range(Y: Labels) -> np.ndarray:
    """Smallest and largest training label (2, label); NaN for a label that no star has."""
    labels = find_labels_alone(Y)
    return np.array([np.fmin.reduce(labels), np.fmax.reduce(labels)])


def _find_label_spread(labels: np.ndarray) -> np.ndarray:
    """Standard deviation (label,) of the training labels that are known; 0 without any."""
    known = ~np.isnan(labels)
    n = np.maximum(known.sum(axis=0), 1)
    deviation = np.where(known, labels - np.where(known, labels, 0.0).sum(axis=0) / n, 0.0)
    return np.sqrt(np.sum(deviation**2, axis=0) / n)


def _report_minimum(certificate: Certificate, require_minimum: bool | None) -> None:
    """Warn, or raise, unless the weights are at a minimum as far as is known.

    Only `require_minimum` is worth a search for the Hessian's sign.
    """
    if require_minimum is False:
        return
    is_saddle = certificate.known is not None and certificate.sign != "positive"
    is_saddle &= certificate.n_pieces == 1  # at a kink the Hessian of one piece says little
    is_far = not certificate.is_stationary
    if not (is_far or is_saddle or (require_minimum and not certificate.is_minimum)):
        return
    advice = (
        "Train on, or run symspec.polish; error bars from here are those of the linearised model,"
        " and stars whose labels a Newton step would move much are flagged (require_minimum=False"
        " silences this)."
    )
    if require_minimum:
        raise NotAtMinimumError(f"the weights are {certificate.message} {advice}", certificate)
    warnings.warn(
        f"the weights are {certificate.message} {advice}", NotAtMinimumWarning, stacklevel=3
    )
