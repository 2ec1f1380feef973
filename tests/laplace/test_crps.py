"""Continuous ranked probability scores against closed forms, integrals of `cdf`, and draws."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import simpson
from scipy.special import beta

import symspec as ss
from symspec.laplace.prediction import Prediction
from symspec.mixtures.prediction import CombinedPrediction

# Simpson's rule on 4,001 points, and rounding of its sum
INTEGRATED = 1e-9
ROUNDED = 1e-13
SCALE = np.array([0.7, 2.0])
REACH = 30.0  # of the arcsinh of the points: tails beyond are below 1e-13 from 0.9 dof on


def predict(labels, variance, **noise):
    """A prediction of labels (star, label), without noise, or with this one."""
    model = np.zeros((*labels.shape, 2))
    model[:, [0, 1], [0, 1]] = variance
    bare = Prediction(
        labels=labels,
        model_cov=model,
        flux_cov=0 * model,
        noise_cov=0 * model,
        total_cov=model,
        flags=np.zeros(len(labels), np.int32),
        n_bad_pixels=np.zeros(len(labels), int),
        has_flux_errors=False,
        label_names=("a", "b"),
        label_units=("", ""),
    )
    return replace(bare, **noise)


def with_scales(prediction, sigma, spread):
    """With noise whose log scale is normal around that of sigma."""
    mixture = np.broadcast_to([sigma, spread], (*prediction.labels.shape, 2))
    own = np.zeros_like(prediction.model_cov)
    own[:, [0, 1], [0, 1]] = sigma**2 * np.exp(2 * spread**2)
    total = prediction.model_cov + own
    return replace(prediction, noise_cov=own, total_cov=total, noise_mixture=mixture)


def integrate(prediction, y):
    """Integrals of (F - 1[x >= y])^2 for the first star, from the cdf on either side of y."""
    t = np.linspace(0, REACH, 4001)
    sides = []
    for sign in (-1, 1):
        x = y + sign * np.sinh(t)[:, None]
        many = repeat(prediction, len(t))
        F = many.cdf(x) if sign < 0 else repeat(mirror(prediction), len(t)).cdf(-x)
        sides.append(simpson(F**2 * np.cosh(t)[:, None], x=t, axis=0))
    return np.sum(sides, axis=0)


def mirror(prediction):
    """The distribution of minus the labels, whose cdf keeps its digits in the other tail."""
    if isinstance(prediction, CombinedPrediction):
        parts = tuple(map(mirror, prediction.parts))
        return replace(prediction, labels=-prediction.labels, parts=parts)
    return replace(prediction, labels=-prediction.labels)


def repeat(prediction, n):
    """The first star n times."""
    if isinstance(prediction, CombinedPrediction):
        return replace(prediction, parts=tuple(repeat(part, n) for part in prediction.parts))
    return prediction.select(np.zeros(n, int))


def combine(*parts):
    weights = np.array([0.5, 0.3, 0.2])[: len(parts)]
    first = {name: getattr(parts[0], name) for name in Prediction.__dataclass_fields__}
    weights = weights / weights.sum()
    return CombinedPrediction(**first, between_cov=np.nan, parts=parts, weights=weights)


MIDDLE = np.array([[0.3, -1.0]])
NORMAL = predict(MIDDLE, [0.5, 2.0])
STUDENT = NORMAL.with_noise(ss.StudentTNoise(SCALE, dof=[0.9, 4.0]))
PREDICTED = with_scales(NORMAL, 0.8, 0.6)
NARROW = predict(np.array([[1.8, -0.9]]), [0.3, 0.2])
CASES = {
    "normal": NORMAL,
    "student-t": STUDENT,
    "nearly normal": NORMAL.with_noise(ss.StudentTNoise(SCALE, dof=[200.0, 1000.0])),
    "predicted": PREDICTED,
    "widely predicted": with_scales(NORMAL, 0.8, 1.7),
    "combined": combine(NORMAL, NARROW),
    "combined kinds": combine(STUDENT, PREDICTED, NARROW),
}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("y", [[0.3, -1.0], [0.9, -0.2], [-5.0, 9.0]], ids=str)
def test_it_is_the_integral_of_the_squared_distance_from_a_step(kind, y):
    prediction = CASES[kind]
    expected = integrate(prediction, np.array(y))
    np.testing.assert_allclose(prediction.crps([y])[0], expected, rtol=INTEGRATED)


def test_of_normal_errors_it_is_the_closed_form():
    z = np.array([[0.0, 1.5]])
    sd = np.sqrt([0.5, 2.0])
    expected = sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(NORMAL.crps(MIDDLE + sd * z), expected, rtol=ROUNDED)


def test_of_noise_alone_it_is_that_of_student_t():
    """Jordan, Krueger & Lerch 2019, doi:10.18637/jss.v090.i12, appendix A."""
    nu = np.array([1.5, 7.0])
    z = np.array([[-0.4, 3.0]])
    t = stats.t(nu)
    expected = SCALE * (
        z * (2 * t.cdf(z) - 1)
        + 2 * t.pdf(z) * (nu + z**2) / (nu - 1)
        - 2 * np.sqrt(nu) / (nu - 1) * beta(0.5, nu - 0.5) / beta(0.5, nu / 2) ** 2
    )
    prediction = predict(MIDDLE, [0.0, 0.0]).with_noise(ss.StudentTNoise(SCALE, dof=nu))
    # the quadrature leaves out probabilities of 1e-16, whose scales are large for 1.5 dof
    np.testing.assert_allclose(prediction.crps(MIDDLE + SCALE * z), expected, rtol=1e-10)


def test_draws_are_as_far_from_labels_and_from_each_other():
    rng = np.random.default_rng(0)
    n = 100_000
    prediction = NORMAL.with_noise(ss.StudentTNoise(SCALE, dof=[5.0, 8.0]))
    y = np.array([1.0, -3.0])
    draws = rng.normal(size=(2, n, 2)) * np.sqrt([0.5, 2.0]) + MIDDLE
    draws += SCALE * rng.standard_t([5.0, 8.0], size=(2, n, 2))
    each = np.abs(draws[0] - y) - 0.5 * np.abs(draws[0] - draws[1])
    error = each.std(axis=0) / np.sqrt(n)
    assert (np.abs(prediction.crps([y])[0] - each.mean(axis=0)) < 4 * error).all()


def test_missing_labels_and_failed_predictions_have_no_score():
    labels = np.repeat(MIDDLE, 3, axis=0)
    labels[1] = np.nan
    variance = np.array([[0.5, 2.0], [0.5, 2.0], [np.nan, 2.0]])
    scores = predict(labels, variance).crps([[np.nan, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(np.isnan(scores), [[True, False], [True, True], [True, False]])


@pytest.mark.parametrize("kind", CASES)
def test_many_stars_are_scored_like_one(kind, monkeypatch):
    monkeypatch.setattr("symspec.laplace.prediction.STARS_SCORED_AT_ONCE", 2)
    monkeypatch.setattr("symspec.mixtures.prediction.STARS_SCORED_AT_ONCE", 3)
    y = np.random.default_rng(1).normal(size=(7, 2))
    found = repeat(CASES[kind], 7).crps(y)
    np.testing.assert_allclose(found, [CASES[kind].crps([one])[0] for one in y], rtol=ROUNDED)


def test_of_half_a_degree_of_freedom_it_is_infinite():
    prediction = NORMAL.with_noise(ss.StudentTNoise(SCALE, dof=[0.5, 2.0]))
    np.testing.assert_array_equal(np.isinf(prediction.crps(MIDDLE)), [[True, False]])
