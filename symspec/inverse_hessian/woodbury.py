"""A^-1 in the space of the data, whatever form the factor of the kernel has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from symspec.derivatives.tangents import Tangents
from symspec.inverse_hessian.interface import CrossCovariance, InverseHessian
from symspec.inverse_hessian.numerics.digits import (
    NOTICED,
    TRUSTED,
    Enclosure,
    SumsOfSquares,
    describe_condition,
    loses_digits,
    round_difference,
)
from symspec.inverse_hessian.primal import PrimalInverse, find_last_layer
from symspec.networks.noise.star_noise import StarNoise
from symspec.networks.params import ParamLayout
from symspec.networks.regression import Regression
from symspec.safety.memory import chunks

DRAW_BYTES = 2**27  # of draws that are conditioned together
Rows = list[np.ndarray]  # vectors with an entry a row of the kernel, in one piece or in blocks


class WoodburyInverse(InverseHessian):
    r"""A^-1 by the Woodbury identity, with the tangent kernel K = J Lambda^-1 J^T of the stars.

    A is the Gauss-Newton matrix:

    .. math::
        A^{-1} = \Lambda^{-1} - \Lambda^{-1} J^T M^{-1} J \Lambda^{-1}, \qquad M = K + S = L L^T,

        \log\det A^{-1} = -\log\det \Lambda - \log\det M + \log\det S.

    Parameters
    ----------
    layout : ParamLayout
        Of the network.
    variance : dict of str to float or numpy.ndarray
        Prior variance of each block, the diagonal of Lambda^-1.
    noise : StarNoise
        Of the training stars; its covariances make the diagonal blocks of S.
    is_subset : bool
        Whether there are other stars; variances are then upper bounds.
    """

    widest = NOTICED

    def __init__(
        self, layout: ParamLayout, variance: dict[str, Any], noise: StarNoise, is_subset: bool
    ):
        super().__init__(layout.n_params)
        self.accuracy = "upper bound" if is_subset else "exact"
        self.is_complete = not is_subset
        self.layout = layout
        self.variance = variance
        self.noise = noise
        self.observed = noise.observed
        self._variance_vector = layout.expand(variance)

    # --- what depends on the form of the factor

    @abstractmethod
    def _tangent(self, V: np.ndarray) -> Rows:
        """J V over the observed rows (row, ...) for V (param, ...)."""

    @abstractmethod
    def _tangent_transposed(self, u: Rows) -> np.ndarray:
        """J^T u (param, ...) for u (row, ...) over the observed rows."""

    @abstractmethod
    def _take_rows(self, values: np.ndarray) -> Rows:
        """The observed ones of values (star, label, ...), copied."""

    @abstractmethod
    def _solve_M(self, b: Rows) -> Rows:
        """M^-1 b."""

    @abstractmethod
    def _reduce(self, tangents: Tangents) -> Rows:
        """L^-1 K_X* (row, label and star) for other stars, in Fortran order."""

    def _find_pulled(self, reduced: Rows) -> np.ndarray | None:
        r""":math:`\sum_i \alpha_i^2 M_{ii}` (label and star) of alpha = L^-T L^-1 K_X*.

        None where that takes another pass through the factor.
        """
        return None

    @abstractmethod
    def _log_det_factor(self) -> float:
        """Log det L."""

    @abstractmethod
    def _walk(self) -> Iterator[tuple[slice, Tangents]]:
        """Training stars, as the noise has them, and their tangents, some at a time."""

    @abstractmethod
    def _own_kernel(self) -> np.ndarray:
        """Blocks (star, label, label) of K of each training star with itself."""

    @property
    def _may_sum_squares(self) -> bool:
        """Whether the form that keeps more digits fits."""
        return False

    @cached_property
    def _sums_of_squares(self) -> SumsOfSquares:
        """The form that keeps more digits."""
        raise NotImplementedError(f"{type(self).__name__} has no sums of squares.")

    # --- what follows

    def _matmat(self, V: np.ndarray) -> np.ndarray:
        V = V * self._variance_vector[:, None]
        gain = self._tangent_transposed(self._solve_M(self._tangent(V)))
        gain *= self._variance_vector[:, None]
        return np.subtract(V, gain, out=gain)

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        return self._matmat(v.reshape(-1, 1))[:, 0]

    def find_step(self, theta: np.ndarray, score: Callable[[], np.ndarray]) -> np.ndarray | None:
        r"""Newton step from the stars' score s (star, output).

        .. math::
            \theta + \delta = \Lambda^{-1} J^T M^{-1} (J \theta + S s)

        is :math:`\delta = -A^{-1} g` without the difference of two large vectors, of which nothing
        is left where noise is very small beside what the prior lets the labels of all stars vary
        together. Elsewhere the gradient does better, as it vanishes at a minimum.
        """
        if not (self.is_complete and self._is_stiff):
            return None
        data = self._tangent(theta[:, None])
        s = score()
        S = np.broadcast_to(self.noise.covariance, (*s.shape, s.shape[1]))
        pulls = np.einsum("ncd,nd->nc", S, s)
        for part, pull in zip(data, self._take_rows(pulls[:, :, None]), strict=True):
            part += pull
        end = self._tangent_transposed(self._solve_M(data))[:, 0]
        return self._variance_vector * end - theta

    def logdet(self) -> float:
        log_det_prior = -float(np.log(self._variance_vector).sum())
        return -log_det_prior - 2.0 * self._log_det_factor() + self.noise.log_det

    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """Draws by Matheron's rule: prior draws, each conditioned on data simulated from it."""
        out = np.empty((n_draws, self.shape[0]))
        for some in chunks(n_draws, max(1, DRAW_BYTES // (8 * self.shape[0]))):
            noise = []
            for theta in out[some]:
                theta[:] = np.sqrt(self._variance_vector) * rng.normal(size=len(theta))
                noise.append(self.noise.draw(rng))
            data = self._take_rows(np.stack(noise, axis=-1))
            for part, simulated in zip(data, self._tangent(out[some].T), strict=True):
                part += simulated
            gain = self._tangent_transposed(self._solve_M(data))
            out[some] -= (self._variance_vector[:, None] * gain).T
        return out

    def label_covariance(self, tangents: Tangents) -> np.ndarray:
        return self.enclose(tangents).value

    def enclose(self, tangents: Tangents) -> Enclosure:
        prior = tangents.own_gram(self.variance)
        V = prior.copy()
        reduced = self._reduce(tangents)
        for part in reduced:
            Z = part.T.reshape(tangents.n_labels, tangents.n_stars, -1)
            V -= np.einsum("cni,dni->ncd", Z, Z, optimize=True)
        relative = round_difference(V, prior, self.condition, self._n_terms)
        poor = ~(relative < TRUSTED).all(axis=1)
        if poor.any() and not self._may_sum_squares:
            pulled = self._find_pulled(reduced)
            if pulled is not None:
                pulled = pulled.reshape(V.shape[1::-1]).T
                known = round_difference(V, prior, self.condition, self._n_terms, pulled)
                relative = np.fmin(relative, known)
        enclosure = Enclosure.of_relative(V, relative, most=prior)
        if poor.any() and self._may_sum_squares:
            enclosure.replace(poor, self._sums_of_squares.enclose(tangents[poor]))
        if not self.is_complete:
            enclosure.lower[:] = 0
        return enclosure

    def cross_covariance(self) -> CrossCovariance:
        if not self.is_complete:
            return super().cross_covariance()

        def covariance(tangents: Tangents, other: Tangents) -> np.ndarray:
            Z = self._reduce(tangents)
            W = Z if other is tangents else self._reduce(other)
            C = tangents.gram(other, self.variance)
            for left, right in zip(Z, W, strict=True):
                C -= left.T @ right
            C = C.reshape(-1, tangents.n_stars, other.n_labels, other.n_stars)
            return C.transpose(1, 0, 3, 2)

        return covariance

    def of_last_layer(self, reg: Regression) -> PrimalInverse:
        if not self.is_complete:
            return super().of_last_layer(reg)
        layer, free = find_last_layer(reg.net.layout)
        A = np.diag(reg.prior_precision_vector()[free])
        for stars, tangents in self._walk():
            whitened = tangents.of_layer(layer).whiten(self.noise.whiteners[stars])
            J = whitened.dense().reshape(-1, len(A))
            A += J.T @ J
        return PrimalInverse.factorize(A)

    @property
    def _n_terms(self) -> int:
        widths = [layer.n_in + layer.n_out for layer in self.layout.layers.values()]
        return self.n_rows + sum(widths)

    @cached_property
    def condition(self) -> float:
        """Largest ratio of what the prior and the noise let a label vary to the noise alone."""
        kernel = np.diagonal(self._own_kernel(), axis1=1, axis2=2)
        precision = np.diagonal(self.noise.weights, axis1=1, axis2=2)
        return 1 + float(np.max(np.sum(kernel * precision, axis=1), initial=0.0))

    @property
    def _is_stiff(self) -> bool:
        """Whether the labels of all stars together may lose digits: their prior variances add."""
        return loses_digits(self.condition * self.n_rows, self._n_terms)

    @property
    def remark(self) -> str:
        form = ""
        if loses_digits(self.condition, self._n_terms):
            flagged = "error bars may lose digits, and are flagged then"
            form = "sums of squares" if self._may_sum_squares else flagged
        return describe_condition(self.condition, form)

    @property
    def n_rows(self) -> int:
        return int(self.observed.sum())


def invert_prior(reg: Regression) -> dict[str, Any]:
    """Prior variance of each block."""
    return {name: 1 / np.asarray(p) for name, p in reg.prior_precision.items()}
