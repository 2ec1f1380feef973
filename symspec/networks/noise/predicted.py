r"""Normal noise whose standard deviations the network predicts for each star.

The first outputs are the labels' means m, the others l the logarithms of standard deviations. With
:math:`v_c = e^{2 l_c}` and the covariance E of the errors that a star's labels came with,

.. math:: y \sim \mathrm{Normal}(m, S), \qquad S = \mathrm{diag}(v) + E, \qquad P = S^{-1}

on the observed labels. The Gauss-Newton weights W are the expected information of (m, l),

.. math::
    W = \begin{pmatrix} P & 0 \\ 0 & 2\, v v^T \circ P \circ P \end{pmatrix},

since that of the l is :math:`\tfrac12 \mathrm{tr}(P\, \partial_c S\, P\, \partial_d S)` with
:math:`\partial_c S = 2 v_c e_c e_c^T`: without errors P is 1 / v and the rest 2. They depend on l,
so that log det A has a gradient by them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor import TensorVariable as Symbol

from symspec.networks.noise.elimination import eliminate
from symspec.networks.noise.noise import (
    LOG_2PI,
    FindOutputs,
    TunableNoise,
    find_no_outputs,
    find_residual,
    mark_observed,
    split_targets,
)
from symspec.networks.noise.star_noise import StarNoise
from symspec.safety.label_errors import (
    Labels,
    LabelsWithErrors,
    find_labels_alone,
    find_observed,
)

LEAST = 1e-150  # information on l where the errors of labels leave none


class PredictedNoise(TunableNoise):
    r"""Normal noise whose standard deviations are outputs of the network, for each star.

    The network has two outputs a label: first the means of all labels, then the natural logarithms
    of their standard deviations, in the same order, each standard deviation in its label's unit:
    :math:`y_c \sim \mathrm{Normal}(f_c, e^{2 f_{C + c}})` for C labels.

    Notes
    -----
    Errors that labels came with add to these variances: what the network learns is the scatter
    beyond them. The noise has no numbers of its own to be tuned; the prior of the weights keeps it
    from vanishing.

    The noise of a new star is a mixture over what the weights leave open of its logarithm l, which
    is normal with a variance V by Laplace's approximation: its variance is the mean
    :math:`e^{2 l + 2 V}`, and intervals are those of the mixture.

    Examples
    --------
    >>> from symspec import PredictedNoise, Regression, mlp
    >>> net = mlp([100, 8, 2 * 3], n_labels=3, label_names=["TEFF", "LOGG", "FE_H"])
    >>> reg = Regression(net, noise=PredictedNoise(), prior_precision=1.0)
    >>> reg.net.n_outputs, reg.net.n_labels
    (6, 3)
    """

    kind = "predicted"
    outputs_per_label = 2

    def __init__(self) -> None:
        self._n_labels = 0  # until a regression says how many

    def __repr__(self) -> str:
        return "PredictedNoise()"

    def for_labels(self, n_labels: int) -> PredictedNoise:
        noise = PredictedNoise()
        noise._n_labels = n_labels
        return noise

    @property
    def n_labels(self) -> int:
        return self._n_labels

    @property
    def covariance(self) -> np.ndarray:
        """NaN (label, label): there is none that all stars share."""
        return np.full((self.n_labels, self.n_labels), np.nan)

    # --- graphs

    def log_likelihood(self, f: Symbol, targets: Symbol) -> Symbol:
        m, log_sigma = self._split(f)
        labels, errors = split_targets(targets, self.n_labels)
        r = find_residual(m, labels)
        observed = mark_observed(labels, f.dtype)
        n_observed = pt.sum(observed, axis=-1)
        if _are_pairs(errors, labels):
            T, log_det = self._eliminate(log_sigma, labels, errors)
            z = pt.matmul(T, pt.atleast_2d(r)[:, :, None])[:, :, 0]
            squares = pt.sum(z**2, axis=-1) + log_det
            squares = squares[0] if f.ndim == 1 else squares
        else:
            root, _ = _find_scales(log_sigma, errors)
            log_variance = 2 * log_sigma if errors is None else -2 * pt.log(root)
            squares = pt.sum(observed * ((r * root) ** 2 + log_variance), axis=-1)
        return np.asarray(-0.5, f.dtype) * (squares + n_observed * np.asarray(LOG_2PI, f.dtype))

    def gradient(self, f: Symbol, targets: Symbol) -> Symbol:
        m, log_sigma = self._split(f)
        labels, errors = split_targets(targets, self.n_labels)
        if _are_pairs(errors, labels):
            v, P, Pr = self._solve(m, log_sigma, labels, errors)
            by_log = v * (pt.diagonal(P, axis1=1, axis2=2) - Pr**2)
            return pt.concatenate([-Pr, by_log], axis=1)
        root, share = _find_scales(log_sigma, errors)
        z = find_residual(m, labels) * root
        observed = mark_observed(labels, f.dtype)
        return pt.concatenate([-z * root, observed * share * (1 - z**2)], axis=-1)

    def hessian(self, f: Symbol, targets: Symbol) -> Symbol:
        m, log_sigma = self._split(f)
        labels, errors = split_targets(targets, self.n_labels)
        one = np.eye(self.n_labels, dtype=f.dtype)
        if _are_pairs(errors, labels):
            v, P, Pr = self._solve(m, log_sigma, labels, errors)
            columns = v * Pr
            mixed = 2 * P * columns[:, None]
            by_log = v * (pt.diagonal(P, axis1=1, axis2=2) - Pr**2)
            shared = 4 * columns[:, :, None] * columns[:, None] * P
            shared = shared - 2 * v[:, :, None] * v[:, None] * P**2
            return _join_blocks(P, mixed, 2 * by_log[:, :, None] * one + shared)
        root, share = _find_scales(log_sigma, errors)
        z = find_residual(m, labels) * root
        observed = mark_observed(labels, f.dtype)
        by_log = 2 * share * (1 - z**2 - share * (1 - 2 * z**2))
        diagonals = observed * root**2, 2 * share * z * root, observed * by_log
        return _join_blocks(*(diagonal[:, :, None] * one for diagonal in diagonals))

    def whiten(self, u: Symbol, f: Symbol, targets: Symbol) -> Symbol:
        r"""T_n u_n of each star, of more rows than outputs where errors are covariances.

        With :math:`P = T^T T` the rows of T for the second block of W are
        :math:`\sqrt2\, v_c T_{kc} T_{lc}`, one for each pair of k and l.
        """
        _, log_sigma = self._split(f)
        labels, errors = split_targets(targets, self.n_labels)
        if not _are_pairs(errors, labels):
            root, share = _find_scales(log_sigma, errors)
            observed = mark_observed(labels, f.dtype)
            parts = [observed * root, observed * np.asarray(np.sqrt(2), f.dtype) * share]
            roots = pt.concatenate(parts, axis=-1).astype(u.dtype)
            return u * pt.shape_padright(roots, u.ndim - roots.ndim)
        T, _ = self._eliminate(log_sigma, labels, errors)
        v = pt.exp(2 * pt.atleast_2d(log_sigma))
        pairs = np.asarray(np.sqrt(2), f.dtype) * T[:, :, None] * T[:, None] * v[:, None, None]
        B = pairs.reshape((pairs.shape[0], self.n_labels**2, self.n_labels))
        columns = pt.atleast_2d(u)[:, :, None] if u.ndim < 3 else u
        C = self.n_labels
        parts = [pt.matmul(T, columns[:, :C]), pt.matmul(B, columns[:, C:])]
        z = pt.concatenate(parts, axis=1)
        if f.ndim == 1:
            return z[0, :, 0]
        return z[:, :, 0] if u.ndim == 2 else z

    def weigh(self, u: Symbol, f: Symbol, targets: Symbol) -> Symbol:
        labels, errors = split_targets(targets, self.n_labels)
        if not _are_pairs(errors, labels):
            return self.whiten(self.whiten(u, f, targets), f, targets)
        W = self.weights(pt.atleast_2d(f), pt.atleast_2d(targets))
        z = pt.matmul(W, pt.atleast_2d(u)[:, :, None])[:, :, 0]
        return z[0] if f.ndim == 1 else z

    def _split(self, f: Symbol) -> tuple[Symbol, Symbol]:
        """Means and logarithms of standard deviations."""
        return f[..., : self.n_labels], f[..., self.n_labels :]

    def _solve(
        self, m: Symbol, log_sigma: Symbol, labels: Symbol, errors: Symbol
    ) -> tuple[Symbol, Symbol, Symbol]:
        """Variances v and P r (star, label), and P (star, label, label)."""
        T, _ = self._eliminate(log_sigma, labels, errors)
        P = pt.matmul(T.transpose((0, 2, 1)), T)
        Pr = pt.matmul(P, find_residual(m, labels)[:, :, None])[:, :, 0]
        return pt.exp(2 * log_sigma), P, Pr

    def _eliminate(
        self, log_sigma: Symbol, labels: Symbol, errors: Symbol
    ) -> tuple[Symbol, Symbol]:
        """Whiteners of S_n (star, label, label), and log det S_n (star,)."""
        C = self.n_labels
        v = pt.exp(2 * pt.atleast_2d(log_sigma))
        E = errors.astype(v.dtype).reshape((v.shape[0], C, C))
        S = v[:, :, None] * np.eye(C, dtype=v.dtype) + E
        return eliminate(S, pt.atleast_2d(mark_observed(labels, v.dtype)), C)

    # --- numbers

    def of_stars(self, labels: Labels, find_outputs: FindOutputs = find_no_outputs) -> StarNoise:
        observed = find_observed(labels)
        outputs = np.asarray(find_outputs(), np.float64)
        S, P, v = self._find_covariances(outputs, labels)
        information = 2 * v[:, :, None] * v[:, None] * P**2
        C = self.n_labels
        covariance = np.zeros((len(observed), 2 * C, 2 * C))
        covariance[:, :C, :C] = S
        covariance[:, C:, C:] = _invert(information)
        return StarNoise(np.hstack([observed, observed]), covariance)

    def _find_covariances(
        self, outputs: np.ndarray, labels: Labels
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """S and P (star, label, label), and v (star, label)."""
        v = np.exp(2 * outputs[:, self.n_labels :])
        S = v[:, :, None] * np.eye(self.n_labels)
        if isinstance(labels, LabelsWithErrors):
            S = S + labels.covariance  # which is zero for missing labels
        return S, _invert(S), v

    def constant(self, labels: Labels) -> float:
        """That of normal noise as wide as the labels scatter."""
        known = [column[~np.isnan(column)] for column in find_labels_alone(labels).T]
        spreads = [np.std(column) if column.size else 0.0 for column in known]
        logs = [np.log(spread) if spread > 0 else 0.0 for spread in spreads]
        sizes = [column.size for column in known]
        return float(np.dot(sizes, np.add(logs, LOG_2PI / 2)))

    def given(self, labels: Labels) -> np.ndarray:
        """Which labels are there, and variances or covariances of their errors, if any."""
        observed = find_observed(labels)[:, :, None].astype(np.float64)
        if not isinstance(labels, LabelsWithErrors):
            return observed
        errors = labels.errors.reshape(*labels.labels.shape, -1)
        return np.concatenate([observed, errors], axis=2)

    def negative_log_peak(self, labels: Labels) -> float:
        return 0.0  # L is all of minus the log density

    def differentiate_evidence(
        self, residuals: np.ndarray, V: np.ndarray, moves: np.ndarray, given: np.ndarray
    ) -> np.ndarray:
        """Empty: the noise has no numbers of its own."""
        return np.empty(0)

    def differentiate_weights(
        self, outputs: np.ndarray, labels: Labels, V: np.ndarray
    ) -> np.ndarray:
        r"""By l alone, with :math:`\partial_c P = -2 v_c P e_c e_c^T P`.

        .. math::
            \tfrac12 \partial_c \mathrm{tr}(W V) = -v_c (P V_m P)_{cc}
            + 4 v_c \Big[\sum_d v_d P_{cd}^2 V_{cd}
            - \sum_{de} v_d v_e P_{cd} P_{ce} P_{de} V_{de}\Big]

        with V_m and V the blocks of m and of l, over the observed labels.
        """
        C = self.n_labels
        observed = find_observed(labels)
        both = observed[:, :, None] & observed[:, None]
        _, P, v = self._find_covariances(outputs, labels)
        of_means = np.where(both, V[:, :C, :C], 0.0)
        of_logs = np.where(both, V[:, C:, C:], 0.0)
        by_means = -v * np.einsum("ncd,nde,nec->nc", P, of_means, P)
        vP = v[:, None] * P
        first = np.einsum("ncd,ncd,ncd->nc", vP, P, of_logs)
        second = np.einsum("ncd,nce,nde,nde->nc", vP, vP, P, of_logs)
        by_logs = by_means + 4 * v * (first - second)
        return np.hstack([np.zeros_like(by_logs), by_logs])

    def predict(
        self, outputs: np.ndarray, variances: np.ndarray, labels: Labels | None = None
    ) -> np.ndarray:
        r"""Mean :math:`e^{2 l + 2 V}` of the variance, the l being normal of variance V."""
        C = self.n_labels
        variance = np.exp(2 * outputs[:, C:] + 2 * variances[:, C:])
        own = variance[:, :, None] * np.eye(C)
        return own + labels.covariance if isinstance(labels, LabelsWithErrors) else own

    def find_mixture(self, outputs: np.ndarray, variances: np.ndarray) -> np.ndarray:
        C = self.n_labels
        return np.stack([np.exp(outputs[:, C:]), np.sqrt(variances[:, C:])], axis=2)

    def score(self, outputs: np.ndarray, labels: Labels) -> np.ndarray:
        observed = find_observed(labels)
        _, P, v = self._find_covariances(outputs, labels)
        r = np.nan_to_num(find_labels_alone(labels) - outputs[:, : self.n_labels])
        Pr = np.einsum("ncd,nd->nc", P, r)
        by_log = np.where(observed, v * (Pr**2 - np.einsum("ncc->nc", P)), 0.0)
        return np.hstack([Pr, by_log])

    def draw(self, f: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        m = f[..., : self.n_labels]
        return m + np.exp(f[..., self.n_labels :]) * rng.normal(size=m.shape)

    # --- what it is

    def describe(self) -> str:
        return "normal, sigma predicted by the network for each star"

    def identity(self) -> Any:
        return self.kind

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {}

    @classmethod
    def stored_shapes(cls, names: Collection[str], n_labels: int) -> dict[str, tuple[int, ...]]:
        return {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        return cls()


def _are_pairs(errors: Symbol | None, labels: Symbol) -> bool:
    """Whether labels share errors."""
    return errors is not None and errors.ndim > labels.ndim


def _join_blocks(of_means: Symbol, mixed: Symbol, of_logs: Symbol) -> Symbol:
    """Second derivatives (star, output, output) of those by means, by both, and by logarithms."""
    transposed = mixed.transpose((0, 2, 1))
    rows = [
        pt.concatenate([of_means, mixed], axis=2),
        pt.concatenate([transposed, of_logs], axis=2),
    ]
    return pt.concatenate(rows, axis=1)


def _find_scales(log_sigma: Symbol, errors: Symbol | None) -> tuple[Symbol, Symbol]:
    """Inverse root of v + e, and the share of v in it, for variances e."""
    if errors is None:
        return pt.exp(-log_sigma), pt.ones_like(log_sigma)
    variance = pt.exp(2 * log_sigma) + errors.astype(log_sigma.dtype)
    return 1 / pt.sqrt(variance), pt.exp(2 * log_sigma) / variance


def _invert(M: np.ndarray) -> np.ndarray:
    """Inverses of positive definite matrices (star, label, label) of any scales."""
    scale = np.sqrt(np.maximum(np.einsum("ncc->nc", M), LEAST))
    unit = M / scale[:, :, None] / scale[:, None]
    diagonal = np.arange(M.shape[1])
    unit[:, diagonal, diagonal] = 1.0
    return np.linalg.inv(unit) / scale[:, :, None] / scale[:, None]
