"""From a regression and its training stars to the inverse Hessian at any weights and prior."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from functools import partial
from typing import Any

import numpy as np

from symspec.derivatives import compiled, matrices
from symspec.derivatives.tangent_stream import Elsewhere, TangentStream
from symspec.derivatives.tangents import Tangents, compute_tangents, walk_tangents
from symspec.derivatives.threads import Threads
from symspec.inverse_hessian.choice import (
    INVERSES,
    check_structure,
    choose_structure,
    parse_options,
)
from symspec.inverse_hessian.interface import InverseHessian
from symspec.inverse_hessian.numerics.digits import TRUSTED
from symspec.inverse_hessian.primal import PrimalInverse
from symspec.networks.noise import LOG_2PI
from symspec.networks.noise.star_noise import StarNoise
from symspec.networks.regression import Regression, describe_regression
from symspec.safety.checkpoint import Checkpoint, find_fingerprint
from symspec.safety.label_errors import Labels, find_observed
from symspec.safety.memory import parse_memory
from symspec.version import __version__
from symspec.workers.interface import Workers

SUBSET_SEED = 0  # subsets of the training stars are the same at each call


class InverseBuilder:
    """The inverse Hessian of one regression and training set at any theta and prior.

    It compiles once, and is the `Problem` that structures are built from.

    Parameters
    ----------
    reg : Regression
    X : numpy.ndarray, shape (star, pixel)
        Training flux.
    Y : numpy.ndarray, shape (star, label), or LabelsWithErrors
    structure : str
        One of `STRUCTURES`.
    curvature : {"ggn", "hessian"}
    backend, dtype, memory : str
    options : mapping, optional
        Of the structure, see `fit_laplace`.
    checkpoint : Checkpoint, optional
        Where finished blocks are kept.
    workers : Workers, optional
        Who sums over the stars, this process by default.

    Attributes
    ----------
    inverse : type
        The structure's class.
    structure, reason : str
        Its name, and in one line why it was taken.
    """

    def __init__(
        self,
        reg: Regression,
        X: np.ndarray,
        Y: Labels,
        *,
        structure: str = "auto",
        curvature: str = "ggn",
        backend: str = "auto",
        dtype: str = "float64",
        memory: str = "8GB",
        options: Mapping[str, Any] | None = None,
        checkpoint: Checkpoint | None = None,
        workers: Workers | None = None,
    ):
        check_structure(structure, curvature, options or {})
        self.options = parse_options(structure, options or {})
        self.reg = reg
        self.X = X
        self.Y = Y
        self.memory = parse_memory(memory)
        self.observed = find_observed(Y)
        if structure == "auto":
            n_rows = int(self.observed.sum())
            choice = choose_structure(reg.net, n_rows, curvature=curvature, memory=memory)
            structure = choice.structure
            self.reason = choice.reason
        else:
            self.reason = f"{structure}: as asked."
        self.structure = structure
        self.inverse = INVERSES[structure].form(self.options)
        self.curvature = curvature
        self.backend = backend
        self.dtype = dtype
        self.checkpoint = Checkpoint() if checkpoint is None else checkpoint
        self.workers = workers
        self._factors = compiled.compile_tangent_factors(reg.net, backend=backend, dtype=dtype)
        self._how = {"backend": backend, "dtype": dtype}
        self._hessian = self._compile_hessian()

    def with_regression(self, reg: Regression) -> InverseBuilder:
        """The same for another noise and prior around the same network."""
        other = copy(self)
        other.reg = reg
        other._hessian = other._compile_hessian()
        return other

    def with_stars(self, stars: np.ndarray) -> InverseBuilder:
        """The same, by the same structure, from some of the training stars."""
        other = copy(self)
        other.X = self.X[stars]
        other.Y = self.Y[stars]
        other.observed = self.observed[stars]
        return other

    def _compile_hessian(self) -> Callable[..., np.ndarray] | None:
        if self.curvature == "ggn":
            return None
        return matrices.compile_hessian(self.reg, backend=self.backend, dtype=self.dtype)

    def build(self, theta: np.ndarray) -> InverseHessian:
        """Inverse Hessian at `theta`.

        Raises
        ------
        NotPositiveDefiniteError
            The exact Hessian has a negative eigenvalue.
        """
        return self.inverse.build(self, theta)

    def cholesky(self, theta: np.ndarray, *, trusted: float = TRUSTED) -> np.ndarray:
        """Lower Cholesky factor of the Gauss-Newton matrix (param, param), for few parameters.

        `trusted` is the relative error that variances from it may have.
        """
        return PrimalInverse.build(self, theta, trusted=trusted).cholesky

    # --- what structures are built from

    @property
    def labelled(self) -> np.ndarray:
        """Indices of the training stars with labels."""
        return np.flatnonzero(self.observed.any(axis=1))

    def outputs(self, theta: np.ndarray, X: np.ndarray) -> np.ndarray:
        """Outputs (star, output) of the network at `theta`."""
        return compiled.compile_outputs(self.reg.net, **self._how)(theta, X)

    def noise(self, theta: np.ndarray, stars: Any = slice(None)) -> StarNoise:
        """Noise of the training stars, or of some of them, around what the network says."""
        return self.reg.noise.of_stars(self.Y[stars], lambda: self.outputs(theta, self.X[stars]))

    def tangents(self, theta: np.ndarray, X: np.ndarray | None = None) -> Tangents:
        """Tangents at `theta` of some stars, the training stars by default."""
        X = self.X if X is None else X
        return compute_tangents(self.reg.net, self._factors, theta, X)

    def walk(self, theta: np.ndarray, X: np.ndarray) -> Iterator[tuple[slice, Tangents]]:
        """Rows and tangents of the labels at `theta` of the stars X, some stars at a time."""
        for rows, tangents in walk_tangents(self.reg.net, self._factors, theta, X):
            yield rows, tangents.take_labels(self.reg.net.n_labels)

    def stream(self, theta: np.ndarray, stars: np.ndarray | None = None) -> TangentStream:
        """Whitened tangents of the labelled training stars, or of some of them, block by block."""
        return TangentStream(
            lambda some: self.tangents(theta, self.X[some]),
            self.noise(theta).whiteners,
            self.reg.net.n_params,
            self.memory / 3,
            self.labelled if stars is None else stars,
            self._find_elsewhere(theta),
        )

    def _find_elsewhere(self, theta: np.ndarray) -> Elsewhere | None:
        if self.workers is None:
            return None
        net = self.reg.net
        tangents = partial(compute_tangents, net, self._factors, theta)
        return Elsewhere(self.workers, tangents, self.X, Threads(net))

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """Exact Hessian of the negative log posterior (param, param)."""
        if self._hessian is None:
            raise ValueError('the exact Hessian is compiled for curvature="hessian" only.')
        return self._hessian(theta, self.X, self.Y).astype(np.float64)

    def identity(self, theta: np.ndarray) -> str:
        """Digest of all that the curvature at `theta` depends on, for fingerprints."""
        curvature = (self.curvature, self._how, __version__)
        return find_fingerprint(describe_regression(self.reg), theta, self.X, self.Y, curvature)

    def pick_stars(self, n: int) -> np.ndarray:
        """Indices of `n` labelled training stars at random, the same at each call.

        Smaller subsets are part of larger ones.
        """
        order = np.random.default_rng(SUBSET_SEED).permutation(self.labelled)
        return np.sort(order[:n])


def log_evidence(reg: Regression, theta: np.ndarray, U: float, inverse: InverseHessian) -> float:
    r""":math:`-U - \tfrac12 \log\det A + \tfrac{P}{2} \log 2\pi` over the P parameters that vary.

    Those that are held fixed have no prior: their part of it leaves U.
    """
    n_free = inverse.free.stop - inverse.free.start
    U -= reg.negative_log_prior_of_held(theta, inverse.free)
    return -U + 0.5 * inverse.logdet() + 0.5 * n_free * LOG_2PI
