"""What training spectra tell of missing pixels: values given the other pixels, and their errors.

A network needs every pixel, and spectra of surveys lack some. What stood there is known in part
from the pixels that are there; the rest is an error of the labels, which `Completed` propagates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from symspec.safety.memory import chunks
from symspec.spectra.covariances.factors import RANKS, fit_factors

FILL_WORDS = {
    "conditional": "missing pixels hold their mean given the good ones",
    "mean": "missing pixels hold the training mean",
}
FILLS = tuple(FILL_WORDS)
MIN_STARS = 20  # of the training set, for components; of fewer, pixels are filled by the mean
MAX_STARS = 1000  # that give the components
MAX_REFERENCE = 256  # that are kept aside
IMPUTATIONS = (False, False, False, True, True)  # of training spectra: by the mean, then by draws
OUTER_BYTES = 2**24  # of products of loadings held at once
CACHE_BYTES = 2**20  # of spectra filled at once: arrays that stay in a processor's cache


@dataclass(frozen=True, eq=False, kw_only=True)
class FluxPrior:
    r"""Spectra as a factor analysis, and spectra kept aside that say how far it is wrong.

    .. math:: x = m + F^T t + e, \qquad t \sim N(0, 1), \quad e \sim N(0, \mathrm{diag}(d)).

    The rule by which missing pixels follow from good ones is the conditional mean of this
    distribution. What the rule leaves open is not taken from it, as the residuals e of real spectra
    are neither normal nor independent: it is measured on the reference spectra, which had no part
    in F. Nothing pixel by pixel is ever formed.

    Some spectra are odder than others, all over: a star's residuals at its good pixels, over those
    of the reference spectra, say how large those at its bad ones may be. With
    :math:`q_i = v_i / (v_i + 1/\mathrm{ivar}_i)`, residuals r, k components, and
    :math:`n = \sum q_i^2 / l` independent ones among them,

    .. math::
        \hat s^2 = 1 + \frac{\sum_i q_i^2 r_i^2 / v_i - \sum_i q_i}{\sum_i q_i^2}, \qquad
        s^2 = 1 + \frac{V}{V + 2 / (n - k)} (\hat s^2 - 1),

    where V is the variance of :math:`s^2` among the reference spectra: the best linear prediction
    (credibility; Buhlmann 1967, doi:10.2143/AST.4.3.207), 1 where spectra are all alike, or where
    noise hides what they are.

    Attributes
    ----------
    mean : numpy.ndarray, shape (pixel,)
        m, in units of the flux.
    loadings : numpy.ndarray, shape (component, pixel)
        F: leading components, each times its standard deviation.
    residual_variance : numpy.ndarray, shape (pixel,)
        d, times the number of pixels over which residuals are alike, so that they do not count as
        that many independent ones.
    reference : numpy.ndarray, shape (spectrum, pixel)
        R: deviations of the reference spectra from m, divided by the root of their number. The
        covariance of spectra is :math:`K = R^T R`.
    own_variance : numpy.ndarray, shape (pixel,)
        v: mean squares of the reference spectra's residuals; l is how many times d is larger.
    oddness : numpy.ndarray, shape (spectrum,)
        :math:`\hat s^2` of the reference spectra. By default, without these two, all are alike.
    """

    mean: np.ndarray
    loadings: np.ndarray
    residual_variance: np.ndarray
    reference: np.ndarray
    own_variance: np.ndarray = field(default_factory=lambda: np.zeros(1))
    oddness: np.ndarray = field(default_factory=lambda: np.ones(1))

    @classmethod
    def of_mean(cls, mean: np.ndarray) -> FluxPrior:
        """The mean (pixel,) alone, without anything that says how far spectra are from it."""
        nothing = np.zeros((0, len(mean)))
        return cls(
            mean=mean, loadings=nothing, residual_variance=np.zeros(len(mean)), reference=nothing
        )

    def complete(self, flux: np.ndarray, ivar: np.ndarray, fill: str = "conditional") -> Completed:
        r"""Fill pixels of ivar = 0.

        With :math:`w = 1 / (d + 1/\mathrm{ivar})` at good pixels and 0 at bad ones,

        .. math::
            P = 1 + F \mathrm{diag}(w) F^T, \qquad
            \hat t = P^{-1} F \mathrm{diag}(w) (x - m), \qquad
            \hat x_b = m_b + F_b^T \hat t.

        Parameters
        ----------
        flux, ivar : numpy.ndarray, shape (star, pixel)
            What stands in a bad pixel does not matter.
        fill : {"conditional", "mean"}
            "mean" is the same with w = 0, as if no pixel told of another.
        """
        bad = ivar == 0
        incomplete = np.flatnonzero(bad.any(axis=1))
        weight = np.zeros(flux.shape)
        if fill == "conditional":
            for stars in self._chunks(incomplete):
                known = ivar[stars]
                weight[stars] = known / (1 + known * self.residual_variance)
        k = len(self.loadings)
        root = np.broadcast_to(np.eye(k), (len(flux), k, k)).copy()
        root[incomplete] = self._find_root(weight[incomplete])
        filled = np.array(flux)
        oddness = np.ones(len(flux))
        ease = self._find_usual_oddness() ** -0.5 if fill == "conditional" else np.ones(1)
        for stars in self._chunks(incomplete):
            lacks = bad[stars]
            deviation = np.where(lacks, 0.0, flux[stars] - self.mean)
            scores = _solve(root[stars], (weight[stars] * deviation) @ self.loadings.T)
            predicted = scores @ self.loadings
            filled[stars] = np.where(lacks, self.mean + predicted, flux[stars])
            if fill == "conditional":
                oddness[stars] = self._find_oddness(deviation - predicted, ivar[stars])
        spread = np.sqrt(oddness)
        return Completed(
            prior=self, flux=filled, is_bad=bad, weight=weight, root=root, spread=spread, ease=ease
        )

    def _find_oddness(self, residual: np.ndarray, ivar: np.ndarray) -> np.ndarray:
        """s^2 (star,) from residuals (star, pixel) of good pixels."""
        v = self.own_variance
        q = v * ivar
        q /= 1 + q
        squares = np.einsum("np,np->n", q, q)
        free = self._count_free(squares)
        per_variance = np.divide(1.0, v, out=np.zeros(v.shape), where=v > 0)
        excess = (q * residual) ** 2 @ np.broadcast_to(per_variance, self.mean.shape)
        excess -= q.sum(axis=1)
        found = 1 + excess / np.where(squares > 0, squares, 1.0)
        return np.maximum(self._shrink(found, free), self._find_usual_oddness().min())

    def _find_usual_oddness(self) -> np.ndarray:
        """s^2 (spectrum,) of the reference spectra."""
        return self._shrink(self.oddness, self._n_free)

    @property
    def _n_free(self) -> np.ndarray:
        """Independent residuals n - k of a whole spectrum."""
        return self._count_free(np.array(np.count_nonzero(self.own_variance)))

    def _count_free(self, squares: np.ndarray) -> np.ndarray:
        """Independent residuals n - k in sums of q^2."""
        longer = self.residual_variance.sum()
        n = squares * (self.own_variance.sum() / longer if longer > 0 else 0.0)
        return np.maximum(n - len(self.loadings), 0.0)

    def _shrink(self, oddness: np.ndarray, free: np.ndarray) -> np.ndarray:
        """The best linear prediction of s^2, of n - k `free` residuals."""
        by_chance = 2 / np.maximum(2.0, self._n_free)
        V = np.maximum(0.0, np.var(self.oddness) - by_chance) / (1 + by_chance)
        return 1 + V * free / (V * free + 2) * (oddness - 1)

    def _chunks(self, stars: np.ndarray) -> Iterator[np.ndarray]:
        size = max(8, CACHE_BYTES // (8 * len(self.mean)))
        return (stars[rows] for rows in chunks(len(stars), size))

    def _find_root(self, weight: np.ndarray) -> np.ndarray:
        """A (star, component, component), inverse Cholesky factors of P = 1 + F diag(w) F^T.

        All P are one product of matrices, for some pixels at a time.
        """
        F = self.loadings
        k = len(F)
        rows, columns = np.tril_indices(k)
        lower = np.zeros((len(weight), len(rows)))
        for pixels in chunks(F.shape[1], max(1, OUTER_BYTES // (8 * max(1, len(rows))))):
            lower += weight[:, pixels] @ (F[rows, pixels] * F[columns, pixels]).T
        P = np.zeros((len(weight), k, k))
        P[:, rows, columns] = lower
        P[:, range(k), range(k)] += 1
        return np.linalg.inv(np.linalg.cholesky(P))  # which reads the lower triangle alone


@dataclass(frozen=True, eq=False, kw_only=True)
class Completed:
    r"""Spectra whose missing pixels are filled, and what is needed to propagate their errors.

    A filled pixel is linear in the good ones, by a matrix W, and its error in their noise and in
    the spectrum:

    .. math:: \hat x_b - x_b = W (x_g - m_g + \epsilon_g) - (x_b - m_b).

    Attributes
    ----------
    prior : FluxPrior
    flux : numpy.ndarray, shape (star, pixel)
    is_bad : numpy.ndarray of bool, shape (star, pixel)
    weight : numpy.ndarray, shape (star, pixel)
    root : numpy.ndarray, shape (star, component, component)
        w, and A with :math:`P^{-1} = A^T A`, of `FluxPrior.complete`;
        :math:`W = F_b^T P^{-1} F_g \mathrm{diag}(w_g)`.
    spread : numpy.ndarray, shape (star,)
    ease : numpy.ndarray, shape (spectrum,) or (1,)
        s of the stars, and 1 / s of the reference spectra.
    """

    prior: FluxPrior
    flux: np.ndarray
    is_bad: np.ndarray
    weight: np.ndarray
    root: np.ndarray
    spread: np.ndarray
    ease: np.ndarray

    def pick(self, stars: slice | np.ndarray) -> Completed:
        """Some of the stars."""
        return Completed(
            prior=self.prior,
            flux=self.flux[stars],
            is_bad=self.is_bad[stars],
            weight=self.weight[stars],
            root=self.root[stars],
            spread=self.spread[stars],
            ease=self.ease,
        )

    def propagate(self, J: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r"""What the errors of good pixels, and the lack of bad ones, do to the labels.

        The error of the labels is

        .. math:: (J_g + J_b W) \epsilon_g + J_b (W, -1) (x - m),

        of which the two parts are independent. Where F and d describe the spectra truly, the sum of
        their covariances is :math:`J (\Sigma_x + C) J^T`, with the conditional covariance C of the
        bad pixels and with what bad and good pixels share.

        Parameters
        ----------
        J : numpy.ndarray, shape (star, label, pixel)
            Derivatives of the labels at the filled spectra.

        Returns
        -------
        noise_jacobian : numpy.ndarray, shape (star, label, pixel)
            :math:`J_g + J_b W`, zero at bad pixels.
        missing_cov : numpy.ndarray, shape (star, label, label)
            Of the second part: what the same does to each reference spectrum, times s of the star
            over s of that spectrum.
        """
        if not self.is_bad.any():
            return J, np.zeros((len(J), J.shape[1], J.shape[1]))
        F = self.prior.loadings
        J_b = J * self.is_bad[:, None]
        added = _multiply(_solve(self.root, _multiply(J_b, F.T)), F)
        added *= self.weight[:, None]
        added -= J_b  # J_b W at good pixels, and -J_b at bad ones
        lost = _multiply(added, self.prior.reference.T)
        lost *= self.spread[:, None, None] * self.ease
        added += J
        return added, lost @ lost.transpose(0, 2, 1)

    def find_errors(self, noise: np.ndarray, deviation: np.ndarray) -> np.ndarray:
        r"""Errors :math:`\hat x - x` (star, pixel) of the filled spectra.

        Parameters
        ----------
        noise : numpy.ndarray, shape (star, pixel)
            :math:`\epsilon`, 0 at bad pixels.
        deviation : numpy.ndarray, shape (pixel,) or (star, pixel)
            :math:`x - m`.
        """
        if not self.is_bad.any():
            return noise
        F = self.prior.loadings
        known = noise + deviation
        known *= self.weight
        scores = _solve(self.root, known @ F.T)
        errors = np.matmul(scores, F, out=known)
        errors -= deviation
        errors *= self.is_bad
        errors += noise
        return errors


def _multiply(stack: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Matrices (star, label, ...) times one matrix, as one product."""
    n_stars, n_labels, n = stack.shape
    product = stack.reshape(n_stars * n_labels, n) @ matrix
    return product.reshape(n_stars, n_labels, matrix.shape[1])


def _solve(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """P^-1 b = A^T A b for A (star, component, component) and rows b (star, ..., component)."""
    rows = b if b.ndim == 3 else b[:, None]
    solved = np.matmul(np.matmul(rows, A.transpose(0, 2, 1)), A)
    return solved if b.ndim == 3 else solved[:, 0]


def fit_flux_prior(
    X: np.ndarray, mean: np.ndarray, ivar: np.ndarray | None = None
) -> FluxPrior | None:
    """Describe training spectra for the filling of missing pixels.

    Half of them, at most `MAX_REFERENCE`, are kept aside: those with the fewest bad pixels, and
    else a fixed random choice. Of the others at most `MAX_STARS` give the components. Their number
    is the least that predicts pixels of the spectra kept aside nearly as well as any, of which some
    are hidden at random and some in blocks.

    Parameters
    ----------
    X : numpy.ndarray, shape (star, pixel)
        Training spectra. Bad pixels are drawn, in turns, from the distribution that follows.
    mean : numpy.ndarray, shape (pixel,)
        Of the training spectra.
    ivar : numpy.ndarray, shape (star, pixel), optional
        0 where training spectra lack pixels.

    Returns
    -------
    FluxPrior or None
        None for a single spectrum. Fewer than `MIN_STARS` give no components, and are all kept as
        reference.
    """
    if len(X) < 2:
        return None
    mean = np.asarray(mean, np.float64)
    if len(X) < MIN_STARS:
        return _describe_few(np.subtract(X, mean, dtype=np.float64), mean)
    aside, others = _set_aside(len(X), ivar)
    chosen = np.concatenate([aside, others])
    Z = np.subtract(X[chosen], mean, dtype=np.float64)
    prior = _describe(Z[: len(aside)], Z[len(aside) :], mean)
    known = None if ivar is None else ivar[chosen]
    if known is not None and (known == 0).any():
        rng = np.random.default_rng(0)
        for is_drawn in IMPUTATIONS:
            Z = _impute(prior, Z, known, rng if is_drawn else None)
            ranks = (len(prior.loadings),)
            prior = _describe(Z[: len(aside)], Z[len(aside) :], mean, ranks)
        prior = _describe(Z[: len(aside)], Z[len(aside) :], mean)
    return prior


def _impute(
    prior: FluxPrior, Z: np.ndarray, ivar: np.ndarray, rng: np.random.Generator | None
) -> np.ndarray:
    """Deviations (star, pixel) whose bad pixels are filled; with `rng` as wrong as in others."""
    completed = prior.complete(prior.mean + Z, ivar)
    if rng is None:
        return completed.flux - prior.mean
    donors = rng.integers(len(prior.reference), size=len(Z))
    deviation = prior.reference[donors] * np.sqrt(len(prior.reference))
    sigma = np.divide(1.0, np.sqrt(ivar), out=np.zeros(ivar.shape), where=ivar > 0)
    errors = completed.find_errors(sigma * rng.normal(size=Z.shape), deviation)
    return np.where(ivar == 0, completed.flux - errors - prior.mean, Z)


def _describe(
    reference: np.ndarray, Z: np.ndarray, mean: np.ndarray, ranks: tuple[int, ...] = RANKS
) -> FluxPrior:
    """Prior of deviations from the mean, of spectra kept aside and of others."""
    scale = np.sqrt((np.mean(Z**2, axis=0) + np.mean(reference**2, axis=0)) / 2)
    varies = scale > 1e-7 * np.abs(mean)  # less is rounding of a constant in float32
    scale[~varies] = 1.0
    standard = reference * varies / scale
    V, F, d, length = fit_factors(Z * varies / scale, standard, ranks)
    d *= varies
    squares = (standard - standard @ V.T @ V) ** 2
    per_variance = np.divide(length, d, out=np.zeros(d.shape), where=d > 0)
    return FluxPrior(
        mean=mean,
        loadings=F * scale,
        residual_variance=d * scale**2,
        reference=reference * varies / np.sqrt(len(reference)),
        own_variance=d / length * scale**2,
        oddness=squares @ per_variance / max(1, np.count_nonzero(varies)),
    )


def _describe_few(Z: np.ndarray, mean: np.ndarray) -> FluxPrior:
    return FluxPrior(
        mean=mean,
        loadings=np.zeros((0, len(mean))),
        residual_variance=np.mean(Z**2, axis=0),
        reference=Z / np.sqrt(len(Z) - 1),
    )


def _set_aside(n: int, ivar: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Stars of the reference, and stars of the components."""
    some = np.random.default_rng(0).permutation(n)[: MAX_STARS + MAX_REFERENCE]
    if ivar is not None:
        n_bad = np.count_nonzero(ivar[some] == 0, axis=1)
        some = some[np.argsort(n_bad, kind="stable")]
    n_aside = min(len(some) // 2, MAX_REFERENCE)
    return np.sort(some[:n_aside]), np.sort(some[n_aside:])
