"""Missing pixels against dense conditional normal distributions, and against hidden real pixels."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from symspec.spectra import flux_prior
from symspec.spectra.flux_prior import MAX_REFERENCE, MIN_STARS, FluxPrior, fit_flux_prior

N_STARS, N_PIXELS, N_LABELS, N_COMPONENTS = 7, 12, 3, 4
FILLS = ("conditional", "mean")


@pytest.fixture(scope="module")
def prior():
    """One whose reference spectra have exactly the covariance F^T F + diag(d)."""
    rng = np.random.default_rng(0)
    F = rng.normal(size=(N_COMPONENTS, N_PIXELS))
    d = rng.uniform(0.05, 0.5, size=N_PIXELS)
    return FluxPrior(
        mean=rng.normal(size=N_PIXELS),
        loadings=F,
        residual_variance=d,
        reference=np.vstack([F, np.diag(np.sqrt(d))]),
    )


@pytest.fixture(scope="module")
def stars():
    """Flux, inverse variances and derivatives; nothing, all, and parts of the pixels are bad."""
    rng = np.random.default_rng(1)
    flux = rng.normal(size=(N_STARS, N_PIXELS))
    ivar = rng.uniform(0.5, 20, size=flux.shape)
    ivar[rng.random(ivar.shape) < 0.3] = 0
    ivar[0] = 2.0
    ivar[1] = 0
    ivar[2, 1:] = 0
    return flux, ivar, rng.normal(size=(N_STARS, N_LABELS, N_PIXELS))


def condition(prior, flux, ivar):
    """Mean of the bad pixels of one star given the good ones, W, and K, by dense algebra."""
    K = prior.loadings.T @ prior.loadings + np.diag(prior.residual_variance)
    b, g = np.flatnonzero(ivar == 0), np.flatnonzero(ivar > 0)
    W = K[np.ix_(b, g)] @ np.linalg.inv(K[np.ix_(g, g)] + np.diag(1 / ivar[g]))
    return prior.mean[b] + W @ (flux[g] - prior.mean[g]), W, K, b, g


def test_bad_pixels_hold_their_mean_given_the_good_ones(prior, stars):
    flux, ivar, _ = stars
    completed = prior.complete(flux, ivar)
    for n in range(N_STARS):
        mean, _, _, b, g = condition(prior, flux[n], ivar[n])
        assert_allclose(completed.flux[n, b], mean, rtol=1e-10, atol=1e-10)
        np.testing.assert_array_equal(completed.flux[n, g], flux[n, g])


def test_the_covariance_is_that_of_noise_and_of_the_conditional_distribution(prior, stars):
    """J (Sigma + C) J^T with the cross terms, every entry of the whole pixel covariance formed."""
    flux, ivar, J = stars
    seen, missing = prior.complete(flux, ivar).propagate(J)
    for n in range(N_STARS):
        _, W, K, b, g = condition(prior, flux[n], ivar[n])
        noise = np.diag(1 / ivar[n, g])
        Q = np.zeros((N_PIXELS, N_PIXELS))
        Q[np.ix_(g, g)] = noise
        Q[np.ix_(b, b)] = K[np.ix_(b, b)] - W @ K[np.ix_(g, b)]
        Q[np.ix_(g, b)] = noise @ W.T
        Q[np.ix_(b, g)] = W @ noise
        variance = np.divide(1, ivar[n], out=np.zeros(N_PIXELS), where=ivar[n] > 0)
        found = seen[n] * variance @ seen[n].T + missing[n]
        assert_allclose(found, J[n] @ Q @ J[n].T, rtol=1e-10, atol=1e-10)
        # of which the spectrum's own part is without the noise that the fill takes over
        expected = J[n][:, b] @ (Q[np.ix_(b, b)] - W @ noise @ W.T) @ J[n][:, b].T
        assert_allclose(missing[n], expected, rtol=1e-10, atol=1e-10)


def test_the_training_mean_costs_the_whole_variance_of_the_bad_pixels(prior, stars):
    flux, ivar, J = stars
    completed = prior.complete(flux, ivar, "mean")
    np.testing.assert_array_equal(completed.flux, np.where(ivar > 0, flux, prior.mean))
    seen, missing = completed.propagate(J)
    np.testing.assert_array_equal(seen, np.where(ivar[:, None] > 0, J, 0))
    K = prior.loadings.T @ prior.loadings + np.diag(prior.residual_variance)
    for n in range(N_STARS):
        J_b = np.where(ivar[n] == 0, J[n], 0)
        assert_allclose(missing[n], J_b @ K @ J_b.T, rtol=1e-10, atol=1e-10)


def test_reference_spectra_say_what_the_rule_leaves_open(prior, stars):
    """Whatever they are: hidden pixels of each are filled by the same weights, one by one."""
    rng = np.random.default_rng(2)
    flux, ivar, J = stars
    spectra = rng.standard_t(3, size=(5, N_PIXELS))
    known = replace(prior, reference=spectra / np.sqrt(5))
    _, missing = known.complete(flux, ivar).propagate(J)
    for n in range(N_STARS):
        _, W, _, b, g = condition(prior, flux[n], ivar[n])
        errors = [J[n][:, b] @ (W @ x[g] - x[b]) for x in spectra]
        expected = np.mean([np.outer(e, e) for e in errors], axis=0)
        assert_allclose(missing[n], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("fill", FILLS)
def test_errors_of_draws_are_those_of_the_filled_spectra(prior, stars, fill):
    """A spectrum with noise is filled: the error is what the filled one is away from the true."""
    rng = np.random.default_rng(3)
    _, ivar, J = stars
    truth = prior.mean + rng.normal(size=N_PIXELS)
    noise = rng.normal(size=ivar.shape) * (ivar > 0)
    completed = prior.complete(truth + noise, ivar, fill)
    errors = completed.find_errors(noise, truth - prior.mean)
    assert_allclose(errors, completed.flux - truth, rtol=1e-10, atol=1e-10)
    # to which labels respond by the two Jacobians
    seen, _ = completed.propagate(J)
    found = np.einsum("ncp,np->nc", J, errors)
    through = np.einsum("ncp,np->nc", seen, noise)
    rest = replace(prior, reference=(truth - prior.mean)[None]).complete(truth + noise, ivar, fill)
    _, square = rest.propagate(J)
    assert_allclose(np.einsum("ncc->nc", square), (found - through) ** 2, rtol=1e-9, atol=1e-10)


def test_stars_do_not_depend_on_each_other(prior, stars):
    flux, ivar, J = stars
    whole = prior.complete(flux, ivar)
    seen, missing = whole.propagate(J)
    some = np.array([4, 1])
    for one in (prior.complete(flux[some], ivar[some]), whole.pick(some)):
        assert_allclose(one.flux, whole.flux[some], rtol=1e-13)
        again = one.propagate(J[some])
        assert_allclose(again[0], seen[some], rtol=1e-12, atol=1e-14)
        assert_allclose(again[1], missing[some], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf, -9999.0, 1e30], ids=str)
@pytest.mark.parametrize("fill", FILLS)
def test_what_stands_in_a_bad_pixel_does_not_matter(prior, stars, value, fill):
    flux, ivar, _ = stars
    spoilt = np.where(ivar > 0, flux, value)
    filled = prior.complete(spoilt, ivar, fill).flux
    np.testing.assert_array_equal(filled, prior.complete(flux, ivar, fill).flux)


def test_pixels_are_worked_through_in_pieces(prior, stars, monkeypatch):
    flux, ivar, _ = stars
    whole = prior.complete(flux, ivar)
    monkeypatch.setattr(flux_prior, "OUTER_BYTES", 8 * N_COMPONENTS * (N_COMPONENTS + 1) // 2 * 5)
    assert_allclose(prior.complete(flux, ivar).root, whole.root, rtol=1e-13, atol=1e-15)


# --- what it is made from


def draw_spectra(n, rng, n_shapes=3, noise=0.02):
    """Smooth spectra of some kinds of change, with noise; the last pixel is always the same."""
    grid = np.linspace(0, 1, 60)
    shapes = 0.3 * np.array([np.sin((2 + 3 * i) * grid + i) for i in range(n_shapes)])
    flux = 1 + rng.normal(size=(n, n_shapes)) @ shapes + noise * rng.normal(size=(n, len(grid)))
    flux[:, -1] = 0.7
    return flux


def test_hidden_pixels_give_as_many_components_as_there_are():
    X = draw_spectra(800, np.random.default_rng(4), n_shapes=6)
    prior = fit_flux_prior(X, X.mean(axis=0))
    assert len(prior.loadings) == 6
    assert prior.reference.shape == (MAX_REFERENCE, 60)
    shares = np.linalg.norm(prior.loadings @ prior.loadings.T)
    assert shares > 0
    assert not prior.loadings[:, -1].any()
    assert prior.residual_variance[-1] == 0


def test_noise_alone_has_no_component():
    X = np.random.default_rng(5).normal(size=(500, 30))
    assert len(fit_flux_prior(X, X.mean(axis=0)).loadings) == 0


@pytest.mark.parametrize("n", [40, 600])
@pytest.mark.parametrize("hide", ["random", "block"])
def test_errors_of_new_spectra_are_as_large_as_is_said(n, hide):
    """Of sums over pixels, which the errors of single pixels would not give."""
    rng = np.random.default_rng(6)
    X = draw_spectra(n, rng)
    new = draw_spectra(3000, rng)
    bad = rng.random(new.shape) < 0.4
    if hide == "block":
        start = rng.integers(0, 40, size=(len(new), 1))
        bad = (np.arange(60) >= start) & (np.arange(60) < start + 20)
    J = np.broadcast_to(rng.normal(size=(1, 1, 60)), (len(new), 1, 60))
    completed = fit_flux_prior(X, X.mean(axis=0)).complete(new, np.where(bad, 0, 1e12))
    _, missing = completed.propagate(J)
    errors = np.einsum("ncp,np->nc", J, completed.flux - new)
    ratio = np.sqrt(missing.mean() / np.mean(errors**2))
    # of 20 and 256 reference spectra, four standard errors
    assert abs(ratio - 1) < 4 / np.sqrt(2 * min(n // 2, MAX_REFERENCE))


def draw_odd_spectra(n, rng):
    """Spectra of two shapes and residuals like no others: in one of four stars ten times larger."""
    s = np.where(rng.random(n) < 0.25, 0.1, 0.01)
    grid = np.linspace(0, 1, 200)
    shapes = 0.3 * np.array([np.sin(2 * grid), np.cos(3 * grid)])
    return 1 + rng.normal(size=(n, 2)) @ shapes + s[:, None] * rng.normal(size=(n, 200)), s


@pytest.mark.parametrize("kind", ["quiet", "odd"])
def test_the_errors_of_odd_stars_are_larger_than_those_of_quiet_ones(kind):
    """As their good pixels tell, star by star; with noise above all residuals nothing does."""
    rng = np.random.default_rng(11)
    X, _ = draw_odd_spectra(600, rng)
    prior = fit_flux_prior(X, X.mean(axis=0))
    new, s = draw_odd_spectra(4000, rng)
    some = s == (0.1 if kind == "odd" else 0.01)
    new = new[some]
    bad = rng.random(new.shape) < 0.3
    J = np.broadcast_to(rng.normal(size=(1, 1, 200)), (len(new), 1, 200))
    completed = prior.complete(new, np.where(bad, 0, 1e12))
    errors = np.einsum("ncp,np->nc", J, completed.flux - new)[:, 0]
    claimed = np.sqrt(completed.propagate(J)[1][:, 0, 0])
    # 256 reference spectra, and 140 good pixels a star: four standard errors
    assert_allclose(np.sqrt(np.mean(claimed**2) / np.mean(errors**2)), 1, atol=0.2)
    assert abs(np.mean(np.abs(errors) < claimed) - 0.683) < 0.08
    noisy = prior.complete(new + 3 * rng.normal(size=new.shape), np.where(bad, 0, 1 / 9))
    assert_allclose(noisy.spread, 1, atol=0.2)
    assert not np.allclose(completed.spread, 1, atol=0.2)


def test_stars_that_are_all_alike_count_alike():
    rng = np.random.default_rng(12)
    X = draw_spectra(600, rng)
    prior = fit_flux_prior(X, X.mean(axis=0))
    bad = rng.random(X.shape) < 0.4
    completed = prior.complete(draw_spectra(600, rng), np.where(bad, 0, 1e12))
    assert_allclose(completed.spread, 1, atol=0.15)
    assert_allclose(completed.ease, 1, atol=0.15)
    missing_all = prior.complete(X[:2], np.zeros((2, 60)))
    np.testing.assert_array_equal(missing_all.spread, 1)
    by_mean = prior.complete(X, np.where(bad, 0, 1e12), "mean")
    np.testing.assert_array_equal(by_mean.spread, 1)


def test_training_spectra_that_lack_pixels_themselves_do_not_make_errors_small():
    """Filled with their mean they would look less different than spectra are."""
    rng = np.random.default_rng(10)
    X, new = draw_spectra(600, rng), draw_spectra(3000, rng)
    ivar = np.where(rng.random(X.shape) < 0.3, 0, 1e12)
    mean = X.mean(axis=0, where=ivar > 0)
    prior = fit_flux_prior(np.where(ivar > 0, X, mean), mean, ivar)
    J = np.broadcast_to(rng.normal(size=(1, 1, 60)), (len(new), 1, 60))
    bad = rng.random(new.shape) < 0.4
    completed = prior.complete(new, np.where(bad, 0, 1e12))
    _, missing = completed.propagate(J)
    errors = np.einsum("ncp,np->nc", J, completed.flux - new)
    ratio = np.sqrt(missing.mean() / np.mean(errors**2))
    assert abs(ratio - 1) < 4 / np.sqrt(2 * MAX_REFERENCE)
    assert_allclose(np.sum(prior.reference**2, axis=0), X.var(axis=0), rtol=0.5, atol=1e-6)


def test_few_spectra_are_filled_by_their_mean_and_their_scatter_is_counted():
    X = draw_spectra(MIN_STARS - 1, np.random.default_rng(7))
    prior = fit_flux_prior(X, X.mean(axis=0))
    assert prior.loadings.shape == (0, 60)
    J = np.random.default_rng(8).normal(size=(1, 2, 60))
    completed = prior.complete(X[:1], np.zeros((1, 60)))
    np.testing.assert_array_equal(completed.flux[0], X.mean(axis=0))
    assert_allclose(completed.propagate(J)[1][0], J[0] @ np.cov(X.T) @ J[0].T, rtol=1e-10)


def test_one_spectrum_tells_nothing_and_equal_ones_that_nothing_varies():
    assert fit_flux_prior(np.ones((1, 5)), np.ones(5)) is None
    prior = fit_flux_prior(np.ones((50, 5)), np.ones(5))
    completed = prior.complete(np.full((1, 5), np.nan), np.zeros((1, 5)))
    np.testing.assert_array_equal(completed.flux, 1)
    assert not completed.propagate(np.ones((1, 1, 5)))[1].any()


def test_the_reference_is_of_the_most_complete_training_spectra():
    """Pixels that are filled with a mean would make spectra look less different than they are."""
    rng = np.random.default_rng(9)
    X = draw_spectra(100, rng)
    ivar = np.full(X.shape, 1e12)
    ivar[::2, :40] = 0
    X[::2, :40] = X[1::2, :40].mean(axis=0)
    prior = fit_flux_prior(X, X.mean(axis=0), ivar)
    expected = (X[1::2] - X.mean(axis=0)) / np.sqrt(50)
    assert_allclose(prior.reference[:, :-1], expected[:, :-1], rtol=1e-12)
    single = fit_flux_prior(X.astype(np.float32), X.mean(axis=0), ivar)
    assert_allclose(single.reference, prior.reference, atol=1e-6)
