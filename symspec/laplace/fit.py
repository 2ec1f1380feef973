"""Laplace's approximation at trained weights: the inverse Hessian, and the certificate that they are at a minimum."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from symspec.derivatives import compiled
from symspec.derivatives.functions import check_stars
from symspec.errors import NotAtMinimumError, NotAtMinimumWarning
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.interface import InverseHessian
from symspec.inverse_hessian.last_layer import split_last_layer
from symspec.laplace.certificate import Certificate, certify
from symspec.laplace.posterior import Batches, LaplacePosterior
from symspec.laplace.training_space import describe_training
from symspec.networks.regression import Regression
from symspec.safety.checkpoint import Checkpoint, find_fingerprint
from symspec.safety.checks import check_theta
from symspec.safety.progress import show_if_long

SHIFT_STARS = 4096  # training stars over which the effect of a Newton step is averaged


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
    options: Mapping[str, Any] | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = True,
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
    structure : str, default "auto"
        Exact: "primal" and "dual", Cholesky factorisations in the space of the parameters or of the
        data; "krylov", conjugate gradients on products alone, which give each error bar as an
        interval. "auto" takes the cheapest of these that fits in `memory`. Approximations, to be
        held against the exact ones by `audit_structures`: "kronecker", "ekfac" (Kronecker with
        corrected eigenvalues), "diagonal", "last_layer", and "low_rank", whose variances are upper
        bounds.
    require_minimum : bool, optional
        By default weights that are not at a minimum give a warning with the numbers, and a flag on
        every star. True raises instead, False keeps only the flags.
    backend, dtype : str
        Passes through the network; factorisations are always in float64.
    memory : str, default "8GB"
        What the factorisation may take.
    options : mapping, optional
        Of the structure. "dual": subset (use so many training stars, for upper bounds). "krylov":
        subset (stars of the preconditioner), tolerance (0.01: relative width of the intervals),
        max_iterations (200), max_seconds (for each 256 stars). "low_rank": rank (100).
    resume : path, optional
        A folder in which finished blocks are kept: the same call goes on from there after an
        interruption; primal and dual, one factorisation each, begin anew. Delete it when the result
        is safe.
    progress : bool, default True
        Show a progress bar on stderr if it takes more than three seconds.

    Raises
    ------
    NotPositiveDefiniteError
        curvature="hessian" and the Hessian has a negative eigenvalue, which the error carries.
    NotAtMinimumError
        With require_minimum=True, or an indefinite exact Hessian of the certificate.
    TooLargeError
        The exact Hessian does not fit in `memory`.
    ShapeError, DataError, OptionError
        Arguments that are not what is expected.
    """
    theta = np.array(check_theta(theta, reg.net.n_params))
    X, Y = check_stars(reg.net, X, Y)
    passes = {"backend": backend, "dtype": dtype}
    words = {
        "structure": structure,
        "curvature": curvature,
        "memory": memory,
        "options": dict(options or {}),
    }
    inputs = (theta, X, Y, reg.noise.identity(), reg.prior_precision, words, passes)
    with show_if_long(progress) as tell:
        checkpoint = Checkpoint(resume, "" if resume is None else find_fingerprint(*inputs), tell)
        builder = InverseBuilder(reg, X, Y, **words, **passes, checkpoint=checkpoint)
        inverse = builder.build(theta)
    U, certificate = _certify(builder, inverse, theta)
    _report_minimum(certificate, require_minimum)
    found = inverse, certificate, U, curvature, builder.structure, builder.reason
    return LaplacePosterior(reg, theta, *found, **_describe_training_set(X, Y), **passes)


def _describe_training_set(X: np.ndarray, Y: np.ndarray) -> dict[str, Any]:
    mean = X.mean(axis=0, dtype=np.float64)
    ends = np.array(
        [np.fmin.reduce(Y), np.fmax.reduce(Y)]
    )  # NaN, unwarned, where one star lacks a label
    return {"flux_mean": mean, "label_range": ends, "training_space": describe_training(X, mean)}


def _certify(
    builder: InverseBuilder, inverse: InverseHessian, theta: np.ndarray
) -> tuple[float, Certificate]:
    """U, and the certificate over the parameters that vary."""
    free = inverse.free
    cheap = inverse.cheap()
    passes = {"backend": builder.backend, "dtype": builder.dtype}
    reg = builder.reg
    at = theta
    X = builder.X
    inside = free
    rest = 0.0
    if inverse.structure == "last_layer":  # the others are passed through once
        head = split_last_layer(reg, theta)
        rest = reg.negative_log_prior_of_held(theta, free)
        reg = head.reg
        inside = slice(None)
        at = theta[free]
        X = head.find_features(X, **passes)

    def embed(v: np.ndarray, size: int = theta.size, where: slice = free) -> np.ndarray:
        out = np.zeros(size)
        out[where] = v.ravel()
        return out

    U, gradient = compiled.compile_objective(reg, **passes)(at, X, builder.Y)
    gradient = np.asarray(gradient[inside], np.float64)
    product = compiled.compile_hessian_vector_product(reg, **passes)
    n = free.stop - free.start
    restricted = LinearOperator((n, n), matvec=lambda v: (cheap @ embed(v))[free], dtype=np.float64)
    shift = _rms_newton_shift(builder, theta, cheap @ embed(gradient))

    def hessian_product(v: np.ndarray) -> np.ndarray:
        return product(at, X, builder.Y, embed(v, at.size, inside))[inside].astype(np.float64)

    return U + rest, certify(gradient, restricted, hessian_product, shift, len(X))


def _rms_newton_shift(builder: InverseBuilder, theta: np.ndarray, step: np.ndarray) -> np.ndarray:
    X = builder.X[:: max(1, len(builder.X) // SHIFT_STARS)]
    squares = [
        builder.tangents(theta, X[rows]).matvec(step) ** 2 for rows, _ in Batches(len(X)).blocks()
    ]
    return np.sqrt(np.concatenate(squares).mean(axis=0))


def _report_minimum(certificate: Certificate, require_minimum: bool | None) -> None:
    if certificate.is_minimum or require_minimum is False:
        return
    advice = (
        "Train on, or run symspec.polish; error bars from here are those of the linearised model"
        " and flagged on every star (require_minimum=False silences this)."
    )
    if require_minimum:
        raise NotAtMinimumError(f"the weights are {certificate.message} {advice}", certificate)
    warnings.warn(
        f"the weights are {certificate.message} {advice}", NotAtMinimumWarning, stacklevel=3
    )
