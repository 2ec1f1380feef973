"""What training spectra tell of missing pixels: values given the other pixels, and their errors.

A network needs every pixel, and spectra of surveys lack some. What stood there is known in part
from the pixels that are there; the rest is an error of the labels, which `Completed` propagates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from symspec.safety.memory import chunks

FILL_WORDS = {
    "conditional": "missing pixels hold their mean given the good ones",
    "mean": "missing pixels hold the training mean",
}
FILLS = tuple(FILL_WORDS)
MIN_STARS = 20  # of the training set, for components; of fewer, pixels are filled by the mean
MAX_STARS = 1000  # that give the components
MAX_REFERENCE = 256  # that are kept aside
RANKS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
LENGTHS = (1, 4, 16)  # pixels over which residuals may be alike
NEARLY_BEST = 1.1  # times the least squared error of hidden pixels: the fewest components within
HIDDEN = 0.2  # share of the pixels that are hidden at random to choose the rank
N_BLOCKS = 5  # of pixels, every other one of which is hidden in turn
IMPUTATIONS = (False, False, False, True, True)  # of training spectra: by the mean, then by draws
FLOOR = 1e-6  # of a pixel's variance; less is rounding
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
    """

    mean: np.ndarray
    loadings: np.ndarray
    residual_variance: np.ndarray
    reference: np.ndarray

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
        for stars in self._chunks(incomplete):
            lacks = bad[stars]
            deviation = np.where(lacks, 0.0, flux[stars] - self.mean)
            scores = _solve(root[stars], (weight[stars] * deviation) @ self.loadings.T)
            filled[stars] = np.where(lacks, self.mean + scores @ self.loadings, flux[stars])
        return Completed(prior=self, flux=filled, is_bad=bad, weight=weight, root=root)

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
    """

    prior: FluxPrior
    flux: np.ndarray
    is_bad: np.ndarray
    weight: np.ndarray
    root: np.ndarray

    def pick(self, stars: slice | np.ndarray) -> Completed:
        """Some of the stars."""
        return Completed(
            prior=self.prior,
            flux=self.flux[stars],
            is_bad=self.is_bad[stars],
            weight=self.weight[stars],
            root=self.root[stars],
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
            Of the second part, with the covariance K of spectra.
        """
        if not self.is_bad.any():
            return J, np.zeros((len(J), J.shape[1], J.shape[1]))
        F = self.prior.loadings
        J_b = J * self.is_bad[:, None]
        added = _multiply(_solve(self.root, _multiply(J_b, F.T)), F)
        added *= self.weight[:, None]
        added -= J_b  # J_b W at good pixels, and -J_b at bad ones
        lost = _multiply(added, self.prior.reference.T)
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
    F, d = _fit_factors(Z * varies / scale, reference * varies / scale, _hide_pixels(varies), ranks)
    d *= varies
    return FluxPrior(
        mean=mean,
        loadings=F * scale,
        residual_variance=d * scale**2,
        reference=reference * varies / np.sqrt(len(reference)),
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


def _fit_factors(
    Z: np.ndarray, reference: np.ndarray, hidden: list[np.ndarray], ranks: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Loadings (component, pixel) and residual variances (pixel,) of standardised spectra."""
    V, variances = _find_components(Z, min(ranks[-1], len(Z) // 2))
    found = []
    for k in (k for k in ranks if k <= len(V)):
        residual = reference - reference @ V[:k].T @ V[:k]
        F = np.sqrt(variances[:k])[:, None] * V[:k]
        for length in LENGTHS:
            d = length * np.maximum(np.mean(residual**2, axis=0), FLOOR)
            error = float(sum(_predict_hidden(reference, F, d, mask) for mask in hidden))
            found.append((error, F, d))
    enough = NEARLY_BEST * min(error for error, _, _ in found)
    fewest = min(len(F) for error, F, _ in found if error <= enough)
    _, F, d = min((one for one in found if len(one[1]) == fewest), key=lambda one: one[0])
    return F, d


def _hide_pixels(varies: np.ndarray) -> list[np.ndarray]:
    """Masks (pixel,) of pixels to predict from the others: at random, and in blocks."""
    n = len(varies)
    blocks = np.arange(n) * N_BLOCKS // n
    masks = [blocks == block for block in range(0, N_BLOCKS, 2)]
    masks.append(np.random.default_rng(0).random(n) < HIDDEN)
    return [mask & varies for mask in masks]


def _predict_hidden(Z: np.ndarray, F: np.ndarray, d: np.ndarray, hidden: np.ndarray) -> float:
    """Sum of the squared errors of hidden pixels, given all others."""
    w = np.where(hidden, 0.0, 1 / d)
    P = np.eye(len(F)) + (F * w) @ F.T
    scores = np.linalg.solve(P, (F * w) @ Z.T)
    return float(np.sum((Z[:, hidden] - scores.T @ F[:, hidden]) ** 2))


def _find_components(Z: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading right singular vectors (component, pixel) of Z (star, pixel), and variances."""
    n = len(Z)
    variances, U = np.linalg.eigh(Z @ Z.T / n)
    variances = variances[::-1]
    U = U[:, ::-1]
    k = min(k, int(np.count_nonzero(variances > FLOOR * variances.sum())))
    return (U[:, :k].T @ Z) / np.sqrt(n * variances[:k])[:, None], variances[:k]
