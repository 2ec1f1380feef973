"""Each flag is set at its limit, for its reason alone, and only where that can be known."""

import operator
from functools import reduce

import numpy as np
import pytest

import symspec as ss
from symspec.errors import OptionError
from symspec.laplace.flags import LABEL_FLAGS, Flag, FlagOptions, find_flags, find_label_flags

NAN, RANGE = np.nan, np.array([[4000.0, 1.0], [6000.0, 5.0]])
MISSING = Flag.INFORMATION_MISSING
OUTSIDE, NEAR, FAILED = Flag.OUTSIDE_TRAINING_RANGE, Flag.NEAR_EDGE, Flag.FAILED
NO_EDGE = FlagOptions(edge=0)

# labels of one star, a variance between them, options -> flags of each label; an edge is 100 K or
# 0.2 dex wide
LABELS = {
    "nothing-to-say": ([5000, 3], 0.5, FlagOptions(), (0, 0)),
    "at-the-ends": ([4000, 5], 0.5, FlagOptions(), (NEAR, NEAR)),
    "at-the-ends-without-an-edge": ([4000, 5], 0.5, NO_EDGE, (0, 0)),
    "inside-the-edge": ([4101, 4.79], 0.5, FlagOptions(), (0, 0)),
    "in-the-edge": ([4099, 4.81], 0.5, FlagOptions(), (NEAR, NEAR)),
    "in-a-wider-edge": ([4101, 4.81], 0.5, FlagOptions(edge=0.06), (NEAR, NEAR)),
    "below": ([3999, 3], 0.5, FlagOptions(), (OUTSIDE, 0)),
    "above-in-the-other-label": ([5000, 5.1], 0.5, FlagOptions(), (0, OUTSIDE)),
    "label-nan": ([NAN, 3], 0.5, FlagOptions(), (FAILED, 0)),
    "label-infinite": ([np.inf, 3], 0.5, FlagOptions(), (FAILED | OUTSIDE, 0)),
    "covariance-nan": ([5000, 3], NAN, FlagOptions(), (FAILED, FAILED)),
    "covariance-infinite": ([5000, 3], np.inf, FlagOptions(), (FAILED, FAILED)),
    "everything": ([9000, 1.01], NAN, FlagOptions(), (FAILED | OUTSIDE, FAILED | NEAR)),
}


@pytest.mark.parametrize(
    ("labels", "covariance", "options", "expected"), LABELS.values(), ids=LABELS
)
def test_each_label_is_flagged_for_itself(labels, covariance, options, expected):
    """The star stands between two good ones, which have nothing said of them."""
    stars = np.array([[5000.0, 3.0], labels, [5000.0, 3.0]])
    total = np.tile(np.eye(2), (3, 1, 1))
    total[1, 0, 1] = total[1, 1, 0] = covariance
    flags = find_label_flags(stars, total, RANGE, options=options)
    assert flags.tolist() == [[0, 0], list(expected), [0, 0]]
    assert flags.dtype == np.int32


def test_a_variance_that_failed_is_that_of_its_label():
    total = np.tile(np.eye(2), (2, 1, 1))
    total[1, 1, 1] = NAN
    flags = find_label_flags(np.full((2, 2), [5000.0, 3.0]), total, RANGE)
    assert flags.tolist() == [[0, 0], [0, FAILED]]


def test_a_range_that_is_not_known_flags_nothing():
    flags = find_label_flags(
        np.array([[5000.0, 3.0]]), np.eye(2)[None], np.array([[NAN, 1.0], [NAN, 2.0]])
    )
    assert flags.tolist() == [[0, OUTSIDE]]


def test_a_wide_interval_of_the_model_error_is_flagged_at_its_label_but_not_in_a_star_that_failed():
    stars = np.array([[5000.0, 3.0], [5000.0, 3.0], [NAN, 3.0]])
    good, wide = [1.0, 1.0], [1 - 1.01 * 0.05, 1.0]
    interval = np.array([[good, wide], [[NAN, NAN], [1 - 0.99 * 0.05, 1.0]], [wide, wide]])
    flags = find_label_flags(stars, np.tile(np.eye(2), (3, 1, 1)), RANGE, interval)
    assert flags.tolist() == [
        [0, Flag.MODEL_ERROR_INEXACT],
        [Flag.MODEL_ERROR_INEXACT, 0],
        [FAILED, 0],
    ]


def test_what_monte_carlo_contradicts_is_flagged_at_its_label():
    flags = find_label_flags(
        np.full((2, 2), [5000.0, 3.0]), np.tile(np.eye(2), (2, 1, 1)), RANGE, None, [False, True]
    )
    assert flags.tolist() == [[0, Flag.ERROR_UNRELIABLE]] * 2


def test_labels_that_missing_pixels_leave_open_are_flagged_and_those_of_which_nobody_knows():
    missing = np.array([[0.49, 0.51], [0.0, np.inf]])
    words = {"labels": np.full((2, 2), [5000.0, 3.0]), "label_range": RANGE, "missing": missing}
    words["total_cov"] = np.tile(np.eye(2), (2, 1, 1))
    assert find_label_flags(**words).tolist() == [[0, MISSING], [0, MISSING]]
    limits = ((0.4, [[MISSING, MISSING], [0, MISSING]]), (np.inf, [[0, 0], [0, MISSING]]))
    for most, expected in limits:
        flags = find_label_flags(**words, options=FlagOptions(max_missing=most))
        assert flags.tolist() == expected


def test_linear_errors_that_draws_contradict_are_flagged_whichever_is_larger():
    ratio = np.array([[1.19, 1.21], [1 / 1.19, 1 / 1.21], [0.0, np.inf], [1.0, 1.0]])
    words = {"labels": np.full((4, 2), [5000.0, 3.0]), "label_range": RANGE, "nonlinearity": ratio}
    words["total_cov"] = np.tile(np.eye(2), (4, 1, 1))
    bent = Flag.FLUX_ERROR_NONLINEAR
    expected = [[0, bent], [0, bent], [bent, bent], [0, 0]]
    assert find_label_flags(**words).tolist() == expected
    flags = find_label_flags(**words, options=FlagOptions(max_nonlinearity=np.inf))
    assert not flags.any()


STAR = {
    "bad_fraction": 0.0,
    "is_minimum": True,
    "snr": 50.0,
    "distance": 0.8,
    "options": FlagOptions(),
}
STARS = {
    "nothing-to-say": ({}, 0),
    "a-bad-pixel": ({"bad_fraction": 1e-4}, Flag.BAD_PIXELS),
    "as-many-as-allowed": ({"bad_fraction": 0.1}, Flag.BAD_PIXELS),
    "too-many": ({"bad_fraction": 0.11}, Flag.BAD_PIXELS | Flag.MANY_BAD_PIXELS),
    "fewer-allowed": (
        {"bad_fraction": 0.02, "options": FlagOptions(max_bad_fraction=0.01)},
        Flag.BAD_PIXELS | Flag.MANY_BAD_PIXELS,
    ),
    "all-allowed": (
        {"bad_fraction": 1.0, "options": FlagOptions(max_bad_fraction=1)},
        Flag.BAD_PIXELS,
    ),
    "noisy": ({"snr": 19.9}, Flag.LOW_SNR),
    "as-noisy-as-allowed": ({"snr": 20.0}, 0),
    "noisy-by-a-higher-limit": ({"snr": 50.0, "options": FlagOptions(min_snr=51)}, Flag.LOW_SNR),
    "noise-unknown": ({"snr": NAN}, 0),
    "distant": ({"distance": 1.6}, Flag.OUTSIDE_TRAINING_SPECTRA),
    "infinitely-distant": ({"distance": np.inf}, Flag.OUTSIDE_TRAINING_SPECTRA),
    "any-distance-allowed": ({"distance": 1e9, "options": FlagOptions(max_distance=np.inf)}, 0),
    "distance-unknown": ({"distance": NAN}, 0),
    "no-minimum": ({"is_minimum": False}, Flag.NOT_AT_MINIMUM),
}


@pytest.mark.parametrize(("changed", "expected"), STARS.values(), ids=STARS)
def test_each_star_is_flagged_for_its_spectrum(changed, expected):
    """The star is between two good ones, which get the flags of the network alone."""
    asked, many = STAR | changed, ("bad_fraction", "snr", "distance")
    arrays = {name: np.array([STAR[name], asked[name], STAR[name]]) for name in many}
    options = {name: asked[name] for name in ("is_minimum", "options")}
    if asked["options"] != FlagOptions():
        arrays["snr"][[0, 2]] = 1e3  # good by a higher limit, too
    flags = find_flags(np.zeros((3, 2), np.int32), **arrays, **options)
    others = 0 if asked["is_minimum"] else Flag.NOT_AT_MINIMUM
    assert flags.tolist() == [others, expected, others]
    assert flags.dtype == np.int32


def test_a_star_carries_what_any_of_its_labels_does():
    label_flags = np.array([[1, 2, 64], [0, 0, 0], [32, 32, 0]], np.int32)
    assert find_flags(label_flags, np.zeros(3), True).tolist() == [67, 0, 32]
    assert label_flags.tolist() == [[1, 2, 64], [0, 0, 0], [32, 32, 0]]


def test_flags_are_single_bits_with_a_meaning_each_and_keep_their_values():
    assert sorted(Flag) == [2**k for k in range(len(Flag))]
    meanings = [flag.meaning for flag in Flag]
    assert len(set(meanings)) == len(Flag)
    assert all("\n" not in m and len(m) < 120 for m in meanings)
    assert (Flag.FAILED, Flag.OUTSIDE_TRAINING_RANGE, Flag.BAD_PIXELS, Flag.NOT_AT_MINIMUM) == (
        1,
        2,
        4,
        8,
    )
    assert (
        Flag.MODEL_ERROR_INEXACT,
        Flag.ERROR_UNRELIABLE,
        Flag.NEAR_EDGE,
        Flag.MANY_BAD_PIXELS,
    ) == (16, 32, 64, 128)
    assert (Flag.LOW_SNR, Flag.OUTSIDE_TRAINING_SPECTRA) == (256, 512)
    assert (Flag.INFORMATION_MISSING, Flag.FLUX_ERROR_NONLINEAR) == (1024, 2048)


@pytest.mark.parametrize(
    "options",
    [
        {"edge": -0.1},
        {"edge": 0.6},
        {"max_bad_fraction": 1.1},
        {"min_snr": NAN},
        {"max_distance": "far"},
        {"max_missing": NAN},
        {"max_nonlinearity": -0.1},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_with_the_default(options):
    with pytest.raises(
        OptionError, match=f"{next(iter(options))} should be a number .*: the default is "
    ):
        FlagOptions(**options)


def test_options_are_floats_whatever_number_they_were_given_as():
    assert FlagOptions(min_snr=np.int64(30), edge=0) == FlagOptions(min_snr=30.0, edge=0.0)
    assert type(FlagOptions(min_snr=np.float32(30)).min_snr) is float


# --- a prediction from end to end


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(7)
    X = 1 + 0.2 * rng.normal(size=(80, 10))
    Y = [5000.0, 3.0] + X[:, :2] @ np.array([[900.0, 0.3], [100.0, 1.0]])
    net = ss.standardized(ss.mlp([10, 2], label_names=["TEFF", "LOGG"]), X, Y)
    reg = ss.Regression(net, sigma_noise=[50, 0.1], prior_precision=1.0)
    theta = ss.polish(reg, net.init_params(rng), X, Y).theta
    return ss.fit_laplace(reg, theta, X, Y), X, Y


def test_a_prediction_is_flagged_by_the_limits_that_it_carries(fitted):
    laplace, X, _ = fitted
    ivar = np.full((4, 10), 40.0**2)  # signal-to-noise of 40
    ivar[1] /= 16  # of 10
    ivar[2, :2] = 0
    X = np.stack([X.mean(axis=0)] * 4)
    X[3] += 5
    prediction = laplace.predict(X, ivar=ivar)
    assert prediction.flag_options == FlagOptions()
    np.testing.assert_allclose(prediction.snr[:2], np.median(X[0]) * np.array([40, 10]), rtol=1e-12)
    # two of ten independent pixels, of which the second label consists
    with_two_bad = Flag.BAD_PIXELS | Flag.MANY_BAD_PIXELS | Flag.INFORMATION_MISSING
    assert prediction.flags[:3].tolist() == [0, Flag.LOW_SNR, with_two_bad]
    assert prediction.flags[3] & Flag.OUTSIDE_TRAINING_SPECTRA
    assert prediction.flags[3] & OUTSIDE
    lenient = FlagOptions(
        max_bad_fraction=0.2, min_snr=9, max_distance=np.inf, edge=0, max_missing=2
    )
    again = laplace.predict(X, ivar=ivar, flag_options=lenient)
    assert again.flag_options == lenient
    assert again.flags.tolist() == [
        0,
        0,
        Flag.BAD_PIXELS,
        int(np.bitwise_or.reduce(prediction.label_flags[3])),
    ]
    np.testing.assert_array_equal(again.flux_distance, prediction.flux_distance)
    assert (
        reduce(operator.or_, prediction.label_flags.ravel().tolist())
        & ~reduce(operator.or_, LABEL_FLAGS)
        == 0
    )


def test_each_label_is_held_against_its_own_range(fitted):
    laplace, X, Y = fitted
    prediction = laplace.predict(X)
    low, high = Y.min(axis=0), Y.max(axis=0)
    outside = (prediction.labels < low) | (prediction.labels > high)
    near = ~outside & (
        np.minimum(prediction.labels - low, high - prediction.labels) < 0.05 * (high - low)
    )
    np.testing.assert_array_equal((prediction.label_flags & OUTSIDE) > 0, outside)
    np.testing.assert_array_equal((prediction.label_flags & NEAR) > 0, near)
    assert near.any()
    assert np.isnan(prediction.snr).all()  # no ivar was given
    assert not (prediction.flags & Flag.LOW_SNR).any()
