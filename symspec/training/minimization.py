"""SciPy's minimisers on the flat weights, with the exact gradient and Hessian of U."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult

from symspec.derivatives.backends import choose_backend
from symspec.derivatives.compiled import compile_hessian_vector_product, compile_objective
from symspec.derivatives.functions import check_square_fits, check_stars
from symspec.derivatives.matrices import compile_hessian
from symspec.derivatives.threads import Threads
from symspec.errors import DivergedError, OptionError, TooLargeError
from symspec.networks.regression import Regression
from symspec.networks.theta import check_theta
from symspec.safety.label_errors import Labels
from symspec.safety.options import check_choice, check_count
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.resampling import Resampled
from symspec.spectra.selections import as_stars
from symspec.spectra.spectra import Spectra

GRADIENT_METHODS = ("L-BFGS-B", "BFGS", "CG", "TNC", "SLSQP")
PRODUCT_METHODS = ("Newton-CG", "trust-ncg", "trust-krylov", "trust-constr")
HESSIAN_METHODS = ("dogleg", "trust-exact")
MATRIX_METHODS = ("BFGS", "SLSQP", *HESSIAN_METHODS)
METHODS = GRADIENT_METHODS + PRODUCT_METHODS + HESSIAN_METHODS
GRADIENT_FREE = ("nelder-mead", "powell", "cobyla", "cobyqa")
# status of the result after Ctrl-C, that of SciPy where a callback stops the work
INTERRUPTED = 99
_ADVICE = "start from weights that `train` gave, or from smaller ones, or try another method"


def minimize(
    reg: Regression,
    theta: ArrayLike,
    X: ArrayLike | Spectra | Resampled,
    Y: ArrayLike | None = None,
    *,
    label_errors: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    method: str = "L-BFGS-B",
    tol: float | None = None,
    max_iterations: int | None = None,
    options: Mapping[str, Any] | None = None,
    progress: bool | Progress = True,
    backend: str = "auto",
) -> OptimizeResult:
    """Minimise the negative log posterior U over all stars at once, in float64.

    The gradient is exact, and so is the Hessian where the method takes one: as products with
    vectors, or as a matrix (param, param).

    Parameters
    ----------
    reg : Regression
    theta : array_like, shape (param,)
        Start.
    X : array_like, shape (star, pixel), or Spectra
        Flux; `Spectra` bring their labels, and Y is left out.
    Y : array_like, shape (star, label)
        Labels in their own units; NaN = missing.
    label_errors : array_like, shape (star, label) or (star, label, label), optional
        Standard deviations or covariances of errors that the labels came with, in their units.
        They add to the noise. `Spectra` bring their own.
    ivar : array_like, shape (star, pixel), optional
        Inverse variance of the training flux X, of which only zeros count: such pixels are filled
        by what the other pixels and stars tell of them. `Spectra` bring their own.
    method : str, default "L-BFGS-B"
        With the gradient: "L-BFGS-B", "BFGS", "CG", "TNC", "SLSQP". With Hessian-vector products:
        "Newton-CG", "trust-ncg", "trust-krylov", "trust-constr". With the Hessian: "trust-exact",
        and "dogleg" for a convex U. "BFGS", "SLSQP", "dogleg" and "trust-exact" keep a matrix
        (param, param).
    tol : float, optional
        SciPy's `tol`, each method in its own way: for most the norm of the gradient of U, for
        "L-BFGS-B", "TNC" and "SLSQP" (also) the change of U in a step, for the first relative to
        what the weights add to U, whatever the units of the labels. U is a SUM over stars, known to
        about 1e-16 of itself: a method asked for more than that ends with `success` False.
    max_iterations : int, optional
        The option "maxiter"; for "TNC" "maxfun", evaluations of U.
    options : mapping, optional
        Further options of the method, see `scipy.optimize.show_options`.
    progress : bool or Progress, default True
        True: a bar on stderr if it takes more than three seconds. A callable is called with
        (stage, iteration, None, U=..., gradient_norm=...) after each iteration.
    backend : {"auto", "numpy", "c", "numba", "jax"}
        See `choose_backend`.

    Returns
    -------
    scipy.optimize.OptimizeResult
        SciPy's own: `x` (param,), `fun` (U, nats, all constants), `jac` (param,) the gradient at
        `x`, `nit`, `success`, `message`. After Ctrl-C `x` is the best point so far and `success`
        False.

    Raises
    ------
    OptionError
        An unknown method, one that uses no gradient, or bad options.
    ShapeError, DataError
        `theta`, `X` or `Y` is not what the regression takes.
    TooLargeError
        The method's matrix (param, param) would not fit in memory.
    DivergedError
        The method stepped out of the finite numbers.

    Warnings
    --------
    `hess_inv`, which BFGS and L-BFGS-B leave in the result, is a by-product of the search and no
    covariance to publish: standard deviations from it come out 2 to 17 % low for BFGS and 4 to 190
    times too large for L-BFGS-B. Use `fit_laplace` for error bars.

    References
    ----------
    Nocedal & Wright 2006, Numerical Optimization, 2nd ed., doi:10.1007/978-0-387-40065-5.
    """
    _check_method(method)
    options = _join_options(method, options, max_iterations)
    start = np.array(check_theta(theta, reg.net.n_params))
    flux, labels = check_stars(reg.net, *as_stars(reg.net, X, Y, label_errors, ivar))
    choose_backend(backend)
    if method in MATRIX_METHODS:
        _check_matrix_fits(reg, method)
    objective = compile_objective(reg, backend=backend)
    hess, hessp = _compile_curvature(reg, flux, labels, method, backend)
    quiet = np.errstate(over="ignore", invalid="ignore")
    with show_progress(progress) as show, Threads(reg.net).for_passes(len(flux)), quiet:
        stage = f"minimizing by {method}"
        search = _Search(objective, flux, labels, reg.constant(labels), stage, show)
        try:
            result = scipy.optimize.minimize(
                search.evaluate,
                start,
                method=method,
                jac=True,
                tol=tol,
                options=options,
                callback=search.count_iteration,
                hess=hess,
                hessp=hessp,
            )
        except KeyboardInterrupt:
            if search.x is None:
                raise
            return search.interrupted()
    result.fun += search.constant
    if not np.isfinite(result.fun):
        raise DivergedError(f"minimize should end at a finite U, got {result.fun}: {_ADVICE}.")
    if method == "trust-constr":
        result.jac = result.grad  # there SciPy has the constraints' Jacobians, of which are none
    return result


class _Search:
    """U without its constant, and its gradient, for SciPy; and the best point so far."""

    def __init__(
        self,
        objective: Callable[..., Any],
        X: np.ndarray,
        Y: Labels,
        constant: float,
        stage: str,
        show: Progress,
    ):
        self.objective = objective
        self.X = X
        self.Y = Y
        self.constant = constant
        self.stage = stage
        self.show = show
        self.x: np.ndarray | None = None
        self.U = np.inf
        self.gradient = np.empty(0)
        self.iterations = 0
        self.evaluations = 0

    def evaluate(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        if not np.isfinite(theta).all():
            raise DivergedError(
                f"minimize should stay among finite weights, got others after {self.iterations}"
                f" iterations: {_ADVICE}."
            )
        U, gradient = self.objective(theta, self.X, self.Y)
        self.evaluations += 1
        if self.x is None or U < self.U or np.isnan(self.U):
            self.x = np.array(theta)
            self.U = U
            self.gradient = gradient
        return U - self.constant, gradient

    def count_iteration(self, *_: Any) -> None:
        self.iterations += 1
        norm = float(np.linalg.norm(self.gradient))
        self.show(self.stage, self.iterations, None, U=float(self.U), gradient_norm=norm)

    def interrupted(self) -> OptimizeResult:
        return OptimizeResult(
            x=self.x,
            fun=self.U,
            jac=self.gradient,
            nit=self.iterations,
            nfev=self.evaluations,
            success=False,
            status=INTERRUPTED,
            message="The search was interrupted (Ctrl-C): x is the best point so far.",
        )


def _compile_curvature(
    reg: Regression, X: np.ndarray, Y: Labels, method: str, backend: str
) -> tuple[Callable[..., np.ndarray] | None, Callable[..., np.ndarray] | None]:
    """The Hessian and its product with a vector, of which a method takes at most one."""
    if method in PRODUCT_METHODS:
        product = compile_hessian_vector_product(reg, backend=backend)
        return None, lambda theta, v: product(theta, X, Y, v)
    if method in HESSIAN_METHODS:
        hessian = compile_hessian(reg, backend=backend)
        return lambda theta: hessian(theta, X, Y), None
    return None, None


def _check_method(method: Any) -> None:
    if isinstance(method, str) and method.lower() in GRADIENT_FREE:
        raise OptionError(
            "method should use the gradient, which is exact and costs no more than three"
            f" predictions, but {method!r} uses none and would not arrive with a network's weights:"
            f" choose one of {', '.join(METHODS)}."
        )
    check_choice(method, "method", METHODS)


def _join_options(method: str, options: Any, max_iterations: Any) -> dict[str, Any]:
    if options is not None and not isinstance(options, Mapping):
        raise OptionError(f"options should be a dict of the method's options, got {options!r}.")
    joined = dict(options or {})
    if max_iterations is None:
        return joined
    check_count(max_iterations, "max_iterations")
    name = "maxfun" if method == "TNC" else "maxiter"
    if name in joined:
        raise OptionError(
            f"max_iterations and options[{name!r}] say the same thing: give one of them."
        )
    return joined | {name: int(max_iterations)}


def _check_matrix_fits(reg: Regression, method: str) -> None:
    try:
        check_square_fits(reg.net, "float64")
    except TooLargeError as error:
        raise TooLargeError(
            f"method={method!r} keeps a matrix (param, param) of {reg.net.n_params:,} parameters:"
            f' {error} Choose "L-BFGS-B" or "trust-krylov", which keep vectors.'
        ) from error
