"""Scatter and coverage against loops over stars, and normal numbers whose answer is known."""

import io
import statistics
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

import symspec as ss
from symspec.errors import DataError, OptionError, ShapeError
from symspec.laplace.prediction import Prediction
from symspec.reports.tables import describe_coverage, outlier_table
from symspec.validation.calibration import coverage, sigma_mad

N_STARS, N_LABELS = 40, 3


def build_prediction(labels, errors):
    """A prediction with these errors, split unevenly among its parts, and with correlations."""
    n, C = labels.shape
    total = errors[:, :, None] * errors[:, None, :] * (0.3 + 0.7 * np.eye(C))
    return Prediction(
        labels=labels,
        model_cov=0.2 * total,
        flux_cov=0.3 * total,
        noise_cov=0.5 * total,
        total_cov=total,
        flags=np.zeros(n, np.int32),
        n_bad_pixels=np.zeros(n, int),
        has_flux_errors=True,
        label_names=tuple(f"label_{c}" for c in range(C)),
        label_units=("",) * C,
    )


@pytest.fixture
def stars():
    rng = np.random.default_rng(4)
    labels = rng.normal(size=(N_STARS, N_LABELS))
    errors = rng.uniform(0.5, 2.0, size=(N_STARS, N_LABELS))
    truth = labels + errors * rng.normal(size=labels.shape)
    truth[[1, 5], 0] = truth[7, 2] = np.nan
    return build_prediction(labels, errors), errors, truth


@pytest.mark.parametrize("levels", [(0.68, 0.95), (0.5,), (0.1, 0.9, 0.99)], ids=str)
def test_coverage_is_a_count_of_stars(stars, levels):
    prediction, errors, truth = stars
    expected = np.empty((len(levels), N_LABELS))
    for row, level in enumerate(levels):
        q = statistics.NormalDist().inv_cdf(0.5 + level / 2)
        for c in range(N_LABELS):
            seen = [n for n in range(N_STARS) if not np.isnan(truth[n, c])]
            inside = [abs(truth[n, c] - prediction.labels[n, c]) <= q * errors[n, c] for n in seen]
            expected[row, c] = sum(inside) / len(seen)
    np.testing.assert_allclose(
        coverage(prediction, truth, levels), expected, rtol=1e-14
    )  # one division


def test_honest_errors_cover_what_they_promise():
    rng, n = np.random.default_rng(0), 20_000
    errors = np.array([90.0, 0.2])[None] * rng.uniform(0.5, 2, size=(n, 2))
    labels = np.array([5000.0, 4.0]) + np.zeros((n, 2))
    found = coverage(build_prediction(labels, errors), labels + errors * rng.normal(size=(n, 2)))
    for level, fractions in zip((0.68, 0.95), found, strict=True):
        standard_error = np.sqrt(level * (1 - level) / n)
        np.testing.assert_allclose(fractions, level, atol=4 * standard_error, rtol=0)


def test_coverage_far_from_what_it_should_be_is_said_of_the_label():
    """Of 1,000 stars; of ten, which chance may leave anywhere, nothing is said."""
    rng, n = np.random.default_rng(0), 1000
    errors = np.ones((n, 4))
    labels = np.zeros((n, 4))
    truth = rng.normal(size=(n, 4)) * [1, 2.5, 0.4, np.nan]
    found = describe_coverage(build_prediction(labels, errors), truth)
    shares = 100 * coverage(build_prediction(labels, errors), truth, (0.68,))[0]
    small = "label_1: error bars are too small: intervals of 68 % hold"
    large = "label_2: error bars are too large: intervals of 68 % hold"
    assert found == [
        f"{small} {shares[1]:.0f} % of the labels.", f"{large} {shares[2]:.0f} % of the labels.",
    ]  # fmt: skip
    assert not describe_coverage(build_prediction(labels[:10], errors[:10]), truth[:10])


def test_a_label_without_truth_has_no_coverage_and_a_failed_star_is_a_miss(stars):
    prediction, _, truth = stars
    truth[:, 1] = np.nan
    before = coverage(prediction, truth)
    assert np.isnan(before[:, 1]).all()
    assert np.isfinite(before[:, [0, 2]]).all()
    inside = np.abs(truth[:, 2] - prediction.labels[:, 2]) <= 0.9 * prediction.errors[:, 2]
    failed = int(np.flatnonzero(inside)[0])
    prediction.labels[failed] = np.nan
    after = coverage(prediction, truth)
    np.testing.assert_allclose(before[:, 2] - after[:, 2], 1 / (N_STARS - 1), rtol=1e-10)


def test_coverage_refuses_other_shapes_and_levels(stars):
    prediction, _, truth = stars
    with pytest.raises(ShapeError, match=r"shape of prediction\.labels, \(40, 3\), got \(40, 2\)"):
        coverage(prediction, truth[:, :2])
    with pytest.raises(OptionError, match=r"probabilities between 0 and 1, got \(68,\)"):
        coverage(prediction, truth, (68,))


def test_sigma_mad_is_the_median_of_deviations_from_the_median():
    residuals = np.random.default_rng(2).normal(loc=3.0, size=(31, 3))
    residuals[4:9, 1] = np.nan
    expected = []
    for column in residuals.T:
        known = [float(r) for r in column if not np.isnan(r)]
        middle = statistics.median(known)
        expected.append(1.4826 * statistics.median([abs(r - middle) for r in known]))
    np.testing.assert_allclose(sigma_mad(residuals), expected, rtol=1e-14)  # the same few sums


def test_sigma_mad_of_normal_numbers_is_their_standard_deviation_whatever_the_outliers():
    n = 20_000
    residuals = np.random.default_rng(1).normal([40.0, -0.1], [95.0, 0.26], size=(n, 2))
    residuals[: n // 1000] = 1e6
    # standard error 1.17 sigma / sqrt(n) = 0.8 %, and 0.1 % of outliers shift the median by about
    # as much
    np.testing.assert_allclose(sigma_mad(residuals), [95.0, 0.26], rtol=0.03)


def test_sigma_mad_of_nothing_is_nan_and_a_vector_is_refused():
    assert np.isnan(sigma_mad(np.full((4, 1), np.nan))).all()
    with pytest.raises(ShapeError, match=r"got \(4,\): for one label give residuals\[:, None\]"):
        sigma_mad(np.zeros(4))


def test_studentized_residuals_are_those_of_a_fit_without_the_label():
    """In a linear network the closed form of leaving a label out agrees with a second fit."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(15, 4))
    Y = X @ rng.normal(size=(4, 2)) + 0.2 * rng.normal(size=(15, 2))
    net = ss.mlp([4, 2])
    reg = ss.Regression(net, sigma_noise=[0.2, 0.3], prior_precision=0.5)
    full = ss.fit_laplace(
        reg, ss.polish(reg, np.zeros(net.n_params), X, Y, tolerance=1e-14).theta, X, Y
    )
    z = ss.studentized_residuals(full.predict(X), Y)
    for star, label in ((0, 0), (7, 1)):
        less = Y.copy()
        less[star, label] = np.nan
        theta = ss.polish(reg, np.zeros(net.n_params), X, less, tolerance=1e-14).theta
        left_out = ss.fit_laplace(reg, theta, X, less).predict(X[star])
        expected = (Y[star, label] - left_out.labels[0, label]) / left_out.errors[0, label]
        np.testing.assert_allclose(z[star, label], expected, rtol=1e-8)


def test_a_calibration_finds_the_factor_by_which_errors_are_wrong():
    rng, n = np.random.default_rng(3), 20_000
    errors = np.array([90.0, 0.2, 0.1])[None] * rng.uniform(0.5, 2, size=(n, 3))
    labels = rng.normal(size=(n, 3))
    truth = labels + 5 + errors * rng.normal(size=(n, 3)) * [1.0, 2.0, 0.5]
    truth[: n // 2, 2] = np.nan
    labels[-3] = np.nan  # a star that failed tells nothing
    found = ss.calibrate_errors(build_prediction(labels, errors), truth, source="stars of clusters")
    # 1.17 / sqrt(n) is 0.8 %, for the last label 1.2 %; the shift of 5 is no scatter, but for
    # labels of small errors
    np.testing.assert_allclose(found.factor[0], 1.0, rtol=0.04)
    np.testing.assert_allclose(ss.sigma_mad((truth - labels) / errors), found.factor, rtol=1e-12)
    assert (
        found.source
        == "stars of clusters: robust scatter of 19999, 19999, 9999 residuals over their errors"
    )
    again = ss.calibrate_errors(build_prediction(labels, errors), truth - 5)
    np.testing.assert_allclose(again.factor, [1.0, 2.0, 0.5], rtol=0.05)
    assert again.source.startswith("robust scatter")


def test_calibrations_of_too_few_stars_or_of_no_numbers_are_refused(stars):
    prediction, _, truth = stars
    truth[9:, 1] = np.nan
    with pytest.raises(
        DataError, match=r"at least 10 true values of each label, got \[38, 9, 39\]"
    ):
        ss.calibrate_errors(prediction, truth)
    with pytest.raises(DataError, match="factor should be positive numbers"):
        ss.ErrorCalibration(factor=[1.0, 0.0], source="x")
    with pytest.raises(ShapeError, match=r"factor should have shape \(label,\), got \(\)"):
        ss.ErrorCalibration(factor=1.0, source="x")


def test_a_calibration_of_noise_with_wide_tails_looks_at_the_middle():
    """Labels drawn by the noise itself need no factor, though their scatter has no variance."""
    rng, n = np.random.default_rng(4), 3000
    labels = rng.normal(size=(n, 3))
    prediction = build_prediction(labels, np.ones((n, 3)))
    sigma = stats.t.ppf(stats.norm.cdf(1), 1.5)
    noise = np.tile(sigma**2 * np.eye(3), (n, 1, 1))
    prediction = replace(
        prediction,
        model_cov=0 * noise,
        noise_cov=noise,
        total_cov=noise,
        noise_dof=np.full((n, 3), 1.5),
    )
    truth = labels + [1.0, 2.0, 0.5] * rng.standard_t(1.5, size=(n, 3))
    found = ss.calibrate_errors(prediction, truth)
    np.testing.assert_allclose(found.factor, [1.0, 2.0, 0.5], rtol=0.12)  # five standard errors


def test_the_noise_that_labels_held_out_have_is_found_beside_the_errors_of_the_model():
    """Of a prediction whose own noise is five times too large."""
    rng, n = np.random.default_rng(6), 1500
    labels = rng.normal(size=(n, 3))
    sds = rng.uniform(0.1, 1.0, size=(n, 3))
    prediction = build_prediction(labels, np.ones((n, 3)))
    own = sds[:, :, None] ** 2 * np.eye(3)
    prediction = replace(prediction, model_cov=0.7 * own, flux_cov=0.3 * own)
    scale, dof = np.array([0.5, 0.2, 1.0]), np.array([1.5, 3.0, 8.0])
    truth = labels + sds * rng.normal(size=(n, 3)) + scale * rng.standard_t(dof, size=(n, 3))
    truth[:40, 1] = np.nan
    noise = ss.fit_noise(prediction, truth)
    np.testing.assert_allclose(noise.scale, scale, rtol=0.2)  # three standard errors
    np.testing.assert_allclose(noise.dof[:2], dof[:2], rtol=0.4)
    assert noise.dof[2] > 4
    found = prediction.with_noise(noise)
    np.testing.assert_allclose(found.noise_cov, np.tile(noise.covariance, (n, 1, 1)))
    np.testing.assert_allclose(found.total_cov, own + noise.covariance)
    covered = ss.coverage(found, truth)
    np.testing.assert_allclose(covered, np.repeat([[0.68], [0.95]], 3, axis=1), atol=0.03)
    # no noise near by has a larger density
    best = np.nansum(found.log_density(truth), axis=0)
    for step in ([1.05, 1.0], [1 / 1.05, 1.0], [1.0, 1.1], [1.0, 1 / 1.1]):
        other = ss.StudentTNoise(noise.scale * step[0], noise.dof * step[1])
        assert (np.nansum(prediction.with_noise(other).log_density(truth), axis=0) < best).all()
    normal = found.with_noise(ss.GaussianNoise([1.0, 1.0, 1.0]))
    assert normal.noise_dof is None
    with pytest.raises(DataError, match="takes at least 10 true values of each label"):
        ss.fit_noise(prediction, np.full((n, 3), np.nan))


def build_wrong_labels():
    """A linear network with three wrong labels, and one that is missing."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    Y = X @ rng.normal(size=(3, 2)) + [0.3, 0.5] * rng.normal(size=(40, 2))
    for star, label, step in ((5, 0, 9.0), (20, 1, -9.0), (33, 0, 5.0)):
        Y[star, label] += step
    Y[3, 1] = np.nan
    return X, Y


def test_wrong_labels_are_found_by_the_weight_that_noise_with_tails_gave_them():
    X, Y = build_wrong_labels()
    noise = ss.StudentTNoise([0.3, 0.5], 3.0)
    reg = ss.Regression(ss.mlp([3, 2]), noise=noise, prior_precision=0.5)
    theta = ss.polish(reg, np.zeros(8), X, Y, progress=False).theta
    laplace = ss.fit_laplace(reg, theta, X, Y, progress=False)
    found = ss.find_outliers(laplace, X, Y, n_worst=3)
    assert set(zip(found.star.tolist(), found.label.tolist(), strict=True)) == {
        (5, 0), (20, 1), (33, 0),
    }  # fmt: skip
    f = ss.compile_predict(reg.net)(theta, X)[found.star, found.label]
    np.testing.assert_allclose(found.value, Y[found.star, found.label])
    np.testing.assert_allclose(found.predicted, f)
    np.testing.assert_allclose(found.residual, found.value - f)
    z = found.residual / noise.scale[found.label]
    np.testing.assert_allclose(found.trust, 3 / (3 + z**2))
    assert (np.diff(found.trust) >= 0).all()
    everything = ss.find_outliers(laplace, X, Y, n_worst=100)
    assert len(everything.star) == 79  # but the one that is missing
    assert np.median(everything.trust) > 0.5
    console = Console(file=io.StringIO(), width=100)
    console.print(outlier_table(found, reg.net, [f"s{i}" for i in range(40)]))
    said = console.file.getvalue()
    assert [line.split()[0] for line in said.splitlines()[4:7]] == [f"s{i}" for i in found.star]


def test_normal_noise_trusts_all_labels_and_lists_the_largest_residuals():
    X, Y = build_wrong_labels()
    reg = ss.Regression(ss.mlp([3, 2]), sigma_noise=[0.3, 0.5], prior_precision=0.5)
    theta = ss.polish(reg, np.zeros(8), X, Y, progress=False).theta
    laplace = ss.fit_laplace(reg, theta, X, Y, progress=False)
    found = ss.find_outliers(laplace, X, Y, n_worst=5)
    z = np.abs((Y - ss.compile_predict(reg.net)(theta, X)) / [0.3, 0.5])
    assert (found.trust == 1).all()
    np.testing.assert_allclose(z[found.star, found.label], np.sort(z[~np.isnan(z)])[::-1][:5])
