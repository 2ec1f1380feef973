"""Error bars keep their digits where prior, noise and flux are far apart, or say what is lost."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from closed_forms import find_exact_sd
from conftest import assert_entries
from numpy.testing import assert_allclose

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.numerics.digits import Enclosure, SumsOfSquares, factorize_stacked

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from fuzz_digits import STRUCTURES, draw_case, judge


def fit_linear(X, sigma, prior, structure, **options):
    reg = ss.Regression(ss.mlp([X.shape[1], 1]), sigma_noise=sigma, prior_precision=prior)
    return ss.fit_laplace(
        reg,
        np.zeros(reg.net.n_params),
        X,
        np.zeros((len(X), 1)),
        structure=structure,
        options=options,
        require_minimum=False,
        progress=False,
    )


# --- what was wrong, with the right values

LOST = {
    "dual, hardly a prior": ("dual", (30, 6), 1.0, 0.1, 1e-12, {}),
    "auto, raw counts": ("auto", (30, 6), 1e6, 0.1, 1.0, {}),
    "auto, raw counts, more pixels": ("auto", (20, 60), 1e6, 0.1, 1.0, {}),
    "krylov, raw counts": ("krylov", (40, 30), 1e5, 0.1, 1.0, {"tolerance": 1e-7}),
    "primal, hardly a prior": ("primal", (8, 20), 1.0, 0.1, 1e-12, {}),
    "dual, more stars than pixels": ("dual", (60, 4), 1e3, 1e-3, 1e-6, {}),
}


@pytest.mark.parametrize("case", LOST)
def test_error_bars_are_those_of_the_closed_form(case):
    structure, shape, scale, sigma, prior, options = LOST[case]
    rng = np.random.default_rng(5)
    X, new = (scale * rng.normal(1, 0.2, size=(n, shape[1])) for n in (shape[0], 9))
    new[:3] = X[:3]
    prediction = fit_linear(X, sigma, prior, structure, **options).predict(new, progress=False)
    exact = find_exact_sd(X, new, sigma, prior)
    assert_allclose(np.sqrt(prediction.model_cov[:, 0, 0]), exact, rtol=1e-6)
    low, high = prediction.model_interval[:, 0].T
    assert (low <= exact * (1 + 1e-9)).all()
    assert (exact <= high * (1 + 1e-9)).all()
    assert not (prediction.flags & (ss.Flag.FAILED | ss.Flag.MODEL_ERROR_INEXACT)).any()


@pytest.mark.parametrize("sigma", [1e-1, 1e-3, 1e-5])
def test_spectra_that_are_interpolated_keep_their_error_bars(monkeypatch, sigma):
    """Where noise is next to nothing what other stars leave open may be much more than it."""
    monkeypatch.setattr("symspec.inverse_hessian.numerics.digits.DENSE_ENTRIES", 0)
    rng = np.random.default_rng(9)
    X, new = (1e3 * rng.normal(size=(n, 60)) for n in (25, 9))
    prediction = fit_linear(X, sigma, 1.0, "dual").predict(new, progress=False)
    exact = find_exact_sd(X, new, sigma, 1.0)
    assert_allclose(np.sqrt(prediction.model_cov[:, 0, 0]), exact, rtol=1e-9)
    low, high = prediction.model_interval[:, 0].T
    assert (low <= exact).all()
    assert (exact <= high).all()
    assert_allclose(low, high, rtol=1e-9)  # by the noise alone 1e-6 to 1e4 times them
    # of training stars nothing is open but the noise, whose third digit is lost below 0.1
    prediction = fit_linear(X, sigma, 1.0, "dual").predict(X, progress=False)
    is_told = (prediction.flags & (ss.Flag.MODEL_ERROR_INEXACT | ss.Flag.FAILED)) > 0
    assert (is_told == (sigma < 0.1)).all()


@pytest.mark.parametrize("seed", range(12))
def test_error_bars_are_right_or_flagged_with_a_bound_or_refused(seed):
    rng = np.random.default_rng([1, seed])
    X, X_new, Y, sizes = draw_case(rng, most_stars=25, most_pixels=25)
    exact = find_exact_sd(X, X_new, sizes["sigma"], sizes["prior"])
    for structure in STRUCTURES:
        assert "FAILED" not in judge(structure, X, X_new, Y, sizes, exact)


def test_what_float64_does_not_hold_is_flagged_with_an_interval_that_holds():
    rng = np.random.default_rng(2)
    X = 1e12 * rng.normal(size=(8, 20))
    for structure in ("primal", "dual"):
        prediction = fit_linear(X, 1e-8, 1e-12, structure).predict(X[:2], progress=False)
        assert (prediction.flags & ss.Flag.MODEL_ERROR_INEXACT).all()
        low, high = prediction.model_interval[:, 0].T
        exact = find_exact_sd(X, X[:2], 1e-8, 1e-12)
        assert (low <= exact).all()
        assert (exact <= high).all()


@pytest.mark.parametrize(
    ("structure", "scale", "prior", "words"),
    [
        ("auto", 1.0, 1.0, ""),
        ("dual", 1.0, 1e-9, " Flux, noise and prior are .* apart: sums of squares."),
        ("primal", 1.0, 1e-9, " Flux, .* factorised without sums of products."),
        ("primal", 1e12, 1e-9, " Flux, .* float64 does not hold all error bars, .* flagged."),
    ],
)
def test_the_reason_tells_scales_that_are_far_apart(structure, scale, prior, words):
    X = scale * np.random.default_rng(8).normal(size=(6, 9))
    fit = fit_linear(X, 0.1, prior, structure)
    assert re.fullmatch(rf"{fit.structure}: (as asked|.* of 8GB)\.{words}", fit.reason)


# --- the forms


def rotate(S):
    """Noise along the eigenvectors of S, in which the labels of a linear network are apart."""
    values, vectors = np.linalg.eigh(S)
    return np.sqrt(values), vectors


@pytest.mark.parametrize("structure", ["primal", "dual", "krylov"])
@pytest.mark.parametrize("prior", [1.0, 1e-9])
def test_bounds_hold_for_combinations_of_labels(structure, prior):
    rng = np.random.default_rng(3)
    X, new = 50 * rng.normal(size=(12, 7)), 50 * rng.normal(size=(4, 7))
    S = np.array([[1.0, 0.9], [0.9, 1.0]]) * 1e-4
    reg = ss.Regression(ss.mlp([7, 2]), noise_covariance=S, prior_precision=prior)
    builder = InverseBuilder(reg, X, np.zeros((12, 2)), structure=structure)
    theta = np.zeros(reg.net.n_params)
    enclosure = builder.build(theta).enclose(builder.tangents(theta, new))
    sigmas, vectors = rotate(S)
    sd = np.array([find_exact_sd(X, new, sigma, prior) for sigma in sigmas]).T
    exact = np.einsum("ck,nk,dk->ncd", vectors, sd**2, vectors)
    slack = 1e-9 * np.trace(exact, axis1=1, axis2=2)  # the closed form's own rotation
    assert (np.linalg.eigvalsh(exact - enclosure.lower)[:, 0] > -slack).all()
    assert (np.linalg.eigvalsh(enclosure.upper - exact)[:, 0] > -slack).all()


@pytest.mark.parametrize(
    "problem",
    ["tanh-2-hidden-3-labels-full-noise-missing", "elu-2-hidden-1-label-missing"],
    indirect=True,
)
def test_sums_of_squares_are_the_covariance(problem):
    p = problem
    builder = InverseBuilder(p.reg, p.X, p.Y, structure="dual")
    blocks = [tangents for _, tangents in builder.stream(p.theta).blocks()]
    sums = SumsOfSquares(blocks, 1 / p.reg.prior_precision_vector())
    enclosure = sums.enclose(builder.tangents(p.theta))
    J = p.theta_jacobian(p.theta)
    assert_entries(enclosure.value, J @ np.linalg.inv(p.ggn(p.theta)) @ J.transpose(0, 2, 1), 1e-9)
    assert_allclose(enclosure.lower, enclosure.upper, rtol=1e-9, atol=1e-12)


def test_a_stacked_factor_is_that_of_the_sum_of_products():
    rng = np.random.default_rng(4)
    F, G = rng.normal(size=(9, 5)), rng.normal(size=(3, 5))
    L = factorize_stacked(F, G)
    assert (np.diag(L) > 0).all()
    assert_allclose(L, np.linalg.cholesky(F.T @ F + G.T @ G), rtol=1e-12, atol=1e-14)


def test_a_relative_error_widens_every_combination_and_beyond_hope_only_the_prior_bounds():
    V = np.array([[[4.0, 1.9], [1.9, 1.0]]] * 2)
    prior = 3 * V
    enclosure = Enclosure.of_relative(V, np.array([[0.01, 0.02], [0.01, np.inf]]), most=prior)
    error = np.diag([0.04, 0.02])
    # any error that is known entry by entry is within the bounds
    for signs in ([1, 1], [1, -1], [-1, -1]):
        entries = np.sqrt(np.outer([0.04, 0.02], [0.04, 0.02])) * np.outer(signs, signs)
        assert np.linalg.eigvalsh(enclosure.upper[0] - V[0] - entries)[0] > -1e-12
        assert np.linalg.eigvalsh(V[0] - entries - enclosure.lower[0])[0] > -1e-12
    assert_allclose(enclosure.upper[0] - V[0], 2 * error, rtol=1e-12, atol=1e-15)
    assert (enclosure.lower[1] == 0).all()
    assert (enclosure.upper[1] == prior[1]).all()


def test_the_low_rank_form_of_all_directions_is_exact_with_hardly_a_prior():
    rng = np.random.default_rng(6)
    X, new = rng.normal(size=(30, 6)), rng.normal(size=(5, 6))
    fit = fit_linear(X, 0.1, 1e-12, "low_rank", rank=7)
    sd = np.sqrt(fit.label_covariance(new)[:, 0, 0])
    assert_allclose(sd, find_exact_sd(X, new, 0.1, 1e-12), rtol=1e-6)


def test_a_variance_without_a_digit_fails_its_label_alone(monkeypatch):
    rng = np.random.default_rng(7)
    X = rng.normal(size=(20, 3))
    reg = ss.Regression(ss.mlp([3, 2]), sigma_noise=0.1, prior_precision=1.0)
    fit = ss.fit_laplace(
        reg, np.zeros(8), X, np.zeros((20, 2)), require_minimum=False, progress=False
    )
    V = np.tile(np.diag([-1e-3, 2e-3]), (20, 1, 1))
    lost = Enclosure(value=V, lower=np.zeros_like(V), upper=np.abs(V))
    monkeypatch.setattr(type(fit.inverse_hessian), "enclose", lambda self, tangents: lost)
    prediction = fit.predict(X, progress=False)
    assert (prediction.label_flags[:, 0] & ss.Flag.FAILED).all()
    assert not (prediction.label_flags[:, 1] & ss.Flag.FAILED).any()
    assert np.isnan(prediction.model_cov[:, 0, 0]).all()
    assert (prediction.flags & ss.Flag.FAILED).all()
