"""The scaling of the labels that a network learnt, found from its outputs."""

import numpy as np
import pytest

import symspec as ss
from symspec.fitting import find_label_scaling

NAMES = ("TEFF", "LOGG", "FE_H")
N = 200


def make_labels():
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(N, 3)) * [800.0, 1.0, 0.4] + [5500.0, 3.0, -0.5]
    labels[:20, 1] = np.nan
    return labels


LABELS = make_labels()
NOISE = 0.05 * np.random.default_rng(1).normal(size=LABELS.shape) * np.nanstd(LABELS, axis=0)
LOW, HIGH = np.nanmin(LABELS, axis=0), np.nanmax(LABELS, axis=0)
RULES = {
    "labels in their own units": (np.zeros(3), np.ones(3)),
    "z-scores": (np.nanmean(LABELS, axis=0), np.nanstd(LABELS, axis=0)),
    "range taken to 0 to 1": (LOW, HIGH - LOW),
    "range taken to -1 to 1": ((LOW + HIGH) / 2, (HIGH - LOW) / 2),
    "range taken to -0.5 to 0.5": ((LOW + HIGH) / 2, HIGH - LOW),
    "mean taken off": (np.nanmean(LABELS, axis=0), np.ones(3)),
}


def outputs_of(mean, scale):
    """What a network gives that learnt (labels - mean) / scale; for missing labels, too."""
    found = (LABELS + NOISE - mean) / scale
    return np.where(np.isnan(found), 0.1, found)


@pytest.mark.parametrize("words", RULES)
def test_rules_that_people_use_are_found_exactly(words):
    mean, scale = RULES[words]
    found = find_label_scaling(outputs_of(mean, scale), LABELS, NAMES)
    assert words in found.rule
    np.testing.assert_array_equal(found.mean, mean)
    np.testing.assert_array_equal(found.scale, scale)
    assert found.is_none == (words == "labels in their own units")
    assert words in found.describe()
    # a robust scatter of 180 residuals or more is known to 1.2 / sqrt(180) = 9 %; four of these
    np.testing.assert_allclose(found.scatter, 0.05 * np.nanstd(LABELS, axis=0), rtol=0.36)


def test_any_other_straight_line_is_found_whatever_outliers_do():
    mean, scale = np.array([5000.0, 2.0, -1.0]), np.array([1000.0, 5.0, -2.0])
    outputs = outputs_of(mean, scale)
    outputs[:10] = 50.0
    found = find_label_scaling(outputs, LABELS, NAMES)
    assert "straight line" in found.rule
    # a slope of 190 stars at 5 % noise is known to 0.4 %, the mean to about that times the spread
    np.testing.assert_allclose(found.scale, scale, rtol=0.02)
    assert (np.abs(found.mean - mean) < 0.1 * np.nanstd(LABELS, axis=0)).all()


def test_outputs_in_another_order_are_refused_and_their_order_is_told():
    outputs = outputs_of(0.0, 1.0)[:, [2, 0, 1]]
    with pytest.raises(ss.DataError, match="but they follow FE_H, TEFF, LOGG better"):
        find_label_scaling(outputs, LABELS, NAMES)


def test_outputs_that_tell_nothing_are_refused():
    rng = np.random.default_rng(2)
    for outputs in (rng.normal(size=LABELS.shape), np.ones(LABELS.shape)):
        with pytest.raises(ss.DataError, match=r"should follow .* of the label's scatter"):
            find_label_scaling(outputs, LABELS, NAMES)


def test_outputs_that_are_not_finite_and_few_labels_are_refused():
    outputs = outputs_of(0.0, 1.0)
    outputs[3, 1] = np.inf
    with pytest.raises(ss.DataError, match="finite numbers"):
        find_label_scaling(outputs, LABELS, NAMES)
    few = LABELS.copy()
    few[9:, 2] = np.nan
    with pytest.raises(ss.DataError, match=r"at least 10 stars with each label, got \[200, 180, 9"):
        find_label_scaling(outputs, few, NAMES)
