"""Which network: candidates are scored on stars held out, and the smallest good one is taken."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

import symspec as ss
from symspec.errors import DataError, EdgeOfRangeWarning, OptionError
from symspec.fitting import selection
from symspec.reports.tables import selection_table
from symspec.spectra.selections import assign_folds
from symspec.validation.scores import find_behind, find_mean, find_smallest_good, score_stars

QUIET = {"n_workers": 1, "progress": False}
SMALL = {"hidden": [(), (3,)], "priors": ["scale"], "folds": 2, "epochs": 20, "starts": 1}


def make_stars(bend, seed=0):
    """Two labels of three pixels, of which one follows a curve; one label is missing."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 3))
    y = X[:, 0] + 0.5 * X[:, 1] + bend * np.tanh(2 * X[:, 0])
    Y = np.c_[100 * y, X[:, 2] - X[:, 0]] + rng.normal(size=(60, 2)) * [15, 0.2]
    Y[7, 1] = np.nan
    errors = rng.uniform(0.5, 1.5, size=(60, 2)) * [10, 0.1]
    return ss.Spectra(
        flux=X, labels=Y, label_names=("TEFF", "FE_H"), label_units=("K", ""), label_errors=errors
    )


@pytest.fixture(scope="module")
def curved():
    return ss.select(make_stars(bend=4), **SMALL, **QUIET)


@pytest.mark.parametrize(
    ("cheap", "given", "starts"), [(1e6, {}, 3), (0, {}, 2), (1e6, {"starts": 1}, 1)]
)
def test_more_starts_are_taken_where_they_take_seconds(monkeypatch, cheap, given, starts):
    monkeypatch.setattr(selection, "CHEAP", cheap)
    words = {**SMALL, "hidden": [(2,)], "tune": False}
    del words["starts"]
    told = []
    found = ss.select(
        make_stars(bend=0), **words, **given, n_workers=1,
        progress=lambda stage, done, total, **_: told.append((stage, done, total)),
    )  # fmt: skip
    assert found.options.starts == starts
    assert ("2 tanh: training on all stars", starts, starts) in told


def score_by_hand(stars, linear):
    """Log scores of a linear network by closed forms, each star predicted without its fold."""
    spread = np.nanstd(stars.labels, axis=0)
    standardize, unstandardize = linear.reg.net.layers[0], linear.reg.net.layers[-1]
    Z = np.c_[(stars.flux - standardize.mean) / standardize.scale, np.ones(60)]
    prior = linear.reg.prior_precision
    precision = np.r_[np.full(3, prior["dense_0/kernel"]), prior["dense_0/bias"]]
    fold = assign_folds(stars, SMALL["folds"], seed=0)
    scores = np.zeros(60)
    for c in range(2):
        scale = unstandardize.scale[c]
        y = (stars.labels[:, c] - unstandardize.mean[c]) / scale
        variance = (linear.reg.sigma_noise[c] ** 2 + stars.label_errors[:, c] ** 2) / scale**2
        for k in range(SMALL["folds"]):
            known = (fold != k) & ~np.isnan(y)
            weighted = Z[known] / variance[known, None]
            A = Z[known].T @ weighted + np.diag(precision)
            w = np.linalg.solve(A, weighted.T @ y[known])
            out = fold == k
            V = np.einsum("ni,ij,nj->n", Z[out], np.linalg.inv(A), Z[out])
            density = norm.logpdf(y[out], Z[out] @ w, np.sqrt(V + variance[out]))
            scores[out] += np.nan_to_num(density + np.log(spread[c] / scale))
    return scores


def test_a_score_is_that_of_a_refit_without_the_star(curved):
    """Of a linear network by closed forms, at the noise and prior that were found."""
    linear = curved.candidates[0]
    expected = score_by_hand(make_stars(bend=4), linear)
    # the minimum is known to 1e-6 nats of decrement
    assert_allclose(linear.log_scores, expected, rtol=1e-5, atol=1e-5)
    assert linear.log_score == pytest.approx(np.mean(linear.log_scores), rel=1e-12)
    assert linear.log_score_error == pytest.approx(np.std(expected, ddof=1) / 60**0.5, rel=1e-4)


def test_a_wider_one_is_taken_for_what_is_not(curved):
    linear, wider = curved.candidates
    assert wider.is_chosen
    assert not linear.is_chosen
    assert linear.behind > 3 * linear.behind_error
    assert linear.relative_rmse > 1.5 * wider.relative_rmse
    assert wider.behind == 0
    assert linear.behind == pytest.approx(wider.log_score - linear.log_score, rel=1e-12)


def test_the_posterior_is_that_of_all_stars(curved):
    assert_array_equal(curved.laplace.theta, curved.chosen.theta)
    assert curved.laplace.reg is curved.chosen.reg
    assert curved.laplace.certificate.is_minimum
    assert curved.options.hidden == (3,)
    evidence = curved.laplace.log_marginal_likelihood()
    assert evidence == pytest.approx(curved.chosen.evidence, rel=1e-8)


def test_widening_ends_where_it_makes_worse_and_warnings_of_the_chosen_are_said(monkeypatch):
    """Labels without noise: the evidence wants less noise than it may have."""
    stars = make_stars(bend=0)
    exact = replace(stars, labels=stars.flux[:, :2] @ [[1, 2], [3, 4]], label_errors=None)
    module = "symspec.fitting.selection.find_behind"
    monkeypatch.setattr(
        module, lambda scores, _: [(0.0, 0.0), (1.0, 0.1), (0.0, 0.0)][: len(scores)]
    )
    with pytest.warns(EdgeOfRangeWarning, match="interpolates these labels"):
        tried = ss.select(exact, **SMALL | {"hidden": [(), (), ()]}, **QUIET)
    assert len(tried.candidates) == 2


def test_widening_ends_where_two_more_are_not_chosen(monkeypatch):
    """Neither is worse than the best, nor better than the smallest by more than its error."""
    monkeypatch.setattr(
        "symspec.fitting.selection.find_behind",
        lambda scores, _: [(0.1, 0.2), (0.0, 0.0), (0.05, 0.1), (0.0, 0.0)][: len(scores)],
    )
    words = {"hidden": [(), (2,), (3,), (4,)], "epochs": 1, "tune": False}
    tried = ss.select(make_stars(bend=0), **SMALL | words, **QUIET)
    assert [one.name for one in tried.candidates] == ["linear", "2 tanh", "3 tanh"]
    assert tried.chosen.name == "linear"


def test_beyond_a_linear_network_widening_ends_at_one_that_is_not_chosen(monkeypatch):
    best, worse, as_good = (0.0, 0.0), (0.5, 0.1), (0.05, 0.1)
    behind = {1: [best], 2: [worse, best], 3: [worse, as_good, best]}
    monkeypatch.setattr(
        "symspec.fitting.selection.find_behind", lambda scores, _: behind[len(scores)]
    )
    words = {"hidden": [(), (2,), (3,), (4,)], "epochs": 1, "tune": False}
    tried = ss.select(make_stars(bend=0), **SMALL | words, **QUIET)
    assert [one.name for one in tried.candidates] == ["linear", "2 tanh", "3 tanh"]
    assert tried.chosen.name == "2 tanh"


def test_widths_of_more_than_ten_weights_a_label_are_tried_only_if_asked_for(monkeypatch):
    """Sixteen units on twelve pixels have 192 weights, and nine stars 18 labels."""
    rng = np.random.default_rng(0)
    stars = ss.Spectra(flux=rng.normal(size=(9, 12)), labels=rng.normal(size=(9, 2)))
    of_one_label = ss.Spectra(flux=stars.flux, labels=stars.labels[:, :1])
    monkeypatch.setattr(
        "symspec.fitting.selection.find_behind",
        lambda scores, _: [(1.0, 0.1)] * (len(scores) - 1) + [(0.0, 0.0)],
    )
    words = {"epochs": 1, "tune": False, "folds": 2, "starts": 1} | QUIET
    tried = ss.select(stars, **words)  # nine stars span nine pixels: 144 weights
    assert [one.name for one in tried.candidates] == ["linear", "4 tanh", "8 tanh", "16 tanh"]
    tried = ss.select(of_one_label, **words)
    assert [one.name for one in tried.candidates] == ["linear", "4 tanh", "8 tanh"]
    tried = ss.select(of_one_label, hidden=[(32,)], **words)
    assert [one.name for one in tried.candidates] == ["32 tanh"]


def test_the_table_tells_how_each_did(curved, capsys):
    from symspec.reports import open_console

    open_console().print(selection_table(curved.candidates))
    said = capsys.readouterr().out
    for one in curved.candidates:
        assert one.name in said
        assert f"{one.log_score:.3f}" in said
    assert "best" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 3}, "options of select should be activation, .* got 'width'"),
        ({"hidden": [(0,)]}, "a width in hidden should be a positive integer, got 0"),
        ({"hidden": []}, "should each name one candidate at least"),
        ({"priors": ["scales"]}, "did you mean 'scale'"),
        ({"folds": 61}, "at most the number of groups with labels, 60"),
    ],
)
def test_what_cannot_be_tried_is_refused(changes, words):
    with pytest.raises(OptionError, match=words):
        ss.select(make_stars(bend=0), **SMALL | changes, **QUIET)
    without = ss.Spectra(flux=make_stars(bend=0).flux)
    with pytest.raises(DataError, match="select needs labels, got spectra without"):
        ss.select(without)


# --- scores


def test_a_score_counts_known_labels_in_units_of_their_spread(curved):
    stars = make_stars(bend=4)
    prediction = curved.laplace.predict(stars, progress=False)
    spread = np.array([100.0, 2.0])
    scores = score_stars(prediction, stars.labels, spread)
    z = (stars.labels - prediction.labels) / prediction.errors
    densities = norm.logpdf(z) - np.log(prediction.errors / spread)
    assert_allclose(scores[:7], densities[:7].sum(axis=1), rtol=1e-12)
    assert scores[7] == pytest.approx(densities[7, 0], rel=1e-12)
    broken = replace(prediction, labels=np.full_like(prediction.labels, np.nan))
    assert (score_stars(broken, stars.labels, spread) == -np.inf).all()


def test_stars_of_one_group_count_as_one_for_the_standard_error():
    rng = np.random.default_rng(0)
    values = rng.normal(size=50)
    mean, error = find_mean(values, np.arange(50))
    assert (mean, error) == pytest.approx((values.mean(), values.std(ddof=1) / 50**0.5), rel=1e-12)
    repeated = find_mean(np.repeat(values, 3), np.repeat(np.arange(50), 3))
    assert repeated == pytest.approx((mean, error), rel=1e-12)


def test_networks_are_compared_star_by_star():
    hard = np.array([0.0, -10, -20, -30])
    behind = find_behind([hard, hard + 0.5, hard + np.array([0, 1, 0, 1.2])], np.arange(4))
    assert behind[2] == (0.0, 0.0)
    assert behind[0] == pytest.approx((0.55, np.std([0, 1, 0, 1.2], ddof=1) / 2), rel=1e-12)
    assert behind[1][0] == pytest.approx(0.05, rel=1e-12)
    failed = find_behind([hard, np.full(4, -np.inf)], np.arange(4))
    assert failed[1][0] == np.inf
    assert find_smallest_good(failed, [5, 1]) == 0


@pytest.mark.parametrize(
    ("behind", "sizes", "chosen"),
    [
        ([(0.2, 0.1), (0.05, 0.1), (0.0, 0.0)], [1, 2, 3], 1),
        ([(0.2, 0.1), (0.05, 0.01), (0.0, 0.0)], [1, 2, 3], 2),
        ([(0.1, 0.2), (0.0, 0.0)], [4, 4], 1),
        ([(0.0, 0.0), (0.3, 0.4)], [3, 9], 0),
    ],
    ids=["within its error", "beyond", "alike in size", "the best is the smallest"],
)
def test_the_smallest_within_a_standard_error_of_the_best_is_chosen(behind, sizes, chosen):
    assert find_smallest_good(behind, sizes) == chosen
