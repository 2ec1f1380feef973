"""Training takes Keras's steps towards U."""

import copy

import numpy as np
import pytest
from linear_networks import (
    SIGMA,
    build_linear,
    build_small,
    interrupt_after,
    make_stars,
    rng,
    scalar_adam,
    share_of_U,
    solve_ridge,
)
from scipy.stats import norm

from symspec.derivatives.compiled import compile_objective
from symspec.derivatives.functions import SumFunction
from symspec.errors import DataError, DivergedError, OptionError, ShapeError
from symspec.networks.layers import Dense, Dropout
from symspec.networks.network import Network, mlp, standardized
from symspec.networks.regression import Regression
from symspec.training import losses
from symspec.training.epochs import train


@pytest.fixture(scope="module")
def linear():
    return build_linear()


@pytest.fixture(scope="module")
def small():
    return build_small()


@pytest.fixture(scope="module")
def stars():
    return make_stars(40)


@pytest.mark.parametrize(
    "batch_size", [8, 3, 100], ids=["full", "uneven_batches", "larger_than_the_sample"]
)
def test_training_takes_the_steps_written_out_by_hand(linear, batch_size):
    """Equal stars: shuffling changes nothing; batches of 3, 3, 2 weigh the prior 3/8, 3/8, 2/8."""
    X, Y = (np.tile(a, (8, 1)) for a in ([0.3, -1.0, 2.0, 0.5], [1.0, -2.0]))
    start, settings = (
        rng().normal(size=10),
        {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-5, "decay": 0.1},
    )
    sizes = [3, 3, 2] if batch_size == 3 else [8]
    theta, t, m, v, losses = start, 0, None, None, []
    for _ in range(5):
        shares = []
        for B in sizes:
            U, g = share_of_U(theta, X[:B], Y[:B], B / 8)
            theta, m, v = scalar_adam(theta, [g / B], rate=0.05, start=t, m=m, v=v, **settings)
            t += 1
            shares.append(U)
        losses.append(sum(shares) / 8)
    fit = train(
        linear,
        X,
        Y,
        theta=start,
        epochs=5,
        batch_size=batch_size,
        learning_rate=0.05,
        rng=rng(),
        progress=False,
        dtype="float64",
        **settings,
    )
    assert fit.best_epoch == fit.epochs_run == 5  # so that theta is that of the last step
    np.testing.assert_allclose(fit.theta, theta, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(fit.history["loss"], losses, rtol=1e-12)
    rates = [0.05 / (1 + 0.1 * (len(sizes) * epoch - 1)) for epoch in range(1, 6)]
    np.testing.assert_allclose(fit.history["learning_rate"], rates, rtol=1e-14)


def test_full_batch_training_arrives_at_the_closed_form(linear, stars):
    X, Y = stars
    fit = train(
        linear,
        X,
        Y,
        epochs=1500,
        batch_size=40,
        learning_rate=0.05,
        rng=rng(),
        progress=False,
        dtype="float64",
        patience=50,
    )
    # Adam's steps shrink with the gradient only down to its averages: 1e-3 of weights of order one
    np.testing.assert_allclose(fit.theta, solve_ridge(X, Y), atol=1e-3)
    assert fit.history["loss"][0] > fit.history["loss"][10] > fit.history["loss"][-1]
    U, _ = compile_objective(linear)(fit.theta, X, Y)
    # the loss in nats per star is U / N
    assert fit.history["loss"][fit.best_epoch - 1] == pytest.approx(U / 40, rel=1e-5)
    assert "validation_loss" not in fit.history


def test_mini_batches_arrive_near_the_closed_form_with_missing_labels(linear, stars):
    X, Y = stars[0], stars[1].copy()
    Y[::3, 0] = np.nan
    Y[1::4, 1] = np.nan
    fit = train(
        linear,
        X,
        Y,
        epochs=400,
        batch_size=16,
        learning_rate=0.05,
        decay=0.02,
        rng=rng(),
        progress=False,
    )
    expected = solve_ridge(X, Y)
    # the rate ends at 0.05 / 25 and so do the steps to and fro; leaving the gaps out moves weights
    # by 0.1
    np.testing.assert_allclose(fit.theta, expected, atol=0.03)
    assert np.abs(expected - solve_ridge(*stars)).max() > 0.06


def test_batches_larger_than_a_chunk_are_added_up(linear, stars, monkeypatch):
    settings = {"epochs": 3, "batch_size": 40, "rng": None, "progress": False, "dtype": "float64"}
    whole = train(linear, *stars, validation=stars, **settings | {"rng": rng()})
    monkeypatch.setattr("symspec.derivatives.functions.MAX_CHUNK", 7)
    fresh = copy.deepcopy(linear)  # which has nothing compiled yet
    parts = train(fresh, *stars, validation=stars, **settings | {"rng": rng()})
    np.testing.assert_allclose(parts.theta, whole.theta, rtol=1e-11, atol=1e-12)
    for name, values in whole.history.items():
        np.testing.assert_allclose(parts.history[name], values, rtol=1e-12)


def test_stars_behind_fixed_layers_are_kept_or_made_batch_by_batch(stars, monkeypatch):
    X, Y = stars
    net = standardized(mlp([X.shape[1], 3, Y.shape[1]]), X, Y)
    reg = Regression(net, sigma_noise=0.1, prior_precision=1.0)
    options = {"epochs": 2, "batch_size": 7, "validation": 0.2, "progress": False}
    kept = train(reg, X, Y, rng=rng(), **options)
    monkeypatch.setattr(losses, "KEPT_BYTES", 0)
    made = train(reg, X, Y, rng=rng(), **options)
    np.testing.assert_array_equal(kept.theta, made.theta)
    assert kept.history == made.history


def test_validation_loss_is_the_likelihood_per_star_without_prior(linear, stars):
    X, Y = make_stars(7, seed=5)
    Y[2, 1] = np.nan
    fit = train(
        linear, *stars, validation=(X, Y), epochs=1, rng=rng(), progress=False, dtype="float64"
    )
    W, b = fit.theta[:8].reshape(4, 2), fit.theta[8:]
    expected = -np.nansum(norm.logpdf(Y, X @ W + b, SIGMA)) / 7
    assert fit.history["validation_loss"] == [pytest.approx(expected, rel=1e-12)]


def test_a_fraction_is_set_aside_and_not_trained_on(linear, stars, monkeypatch):
    X, Y = stars
    seen = {True: set(), False: set()}
    original = SumFunction.of_batch

    def of_batch(self, theta, flux, *others, **options):
        seen["into" in options].update(flux[:, 0].tolist())  # a gradient, which is used again
        return original(self, theta, flux, *others, **options)

    monkeypatch.setattr(SumFunction, "of_batch", of_batch)
    train(linear, X, Y, validation=0.2, epochs=2, batch_size=5, rng=rng(), progress=False)
    assert (len(seen[True]), len(seen[False])) == (32, 8)
    assert not seen[True] & seen[False]


def test_the_same_seed_gives_the_same_weights_bit_by_bit(small, stars):
    settings = {"validation": 0.25, "epochs": 3, "batch_size": 7, "progress": False}
    first, again, other = (train(small, *stars, rng=rng(seed), **settings) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.theta, again.theta)
    assert first.history == again.history
    assert np.abs(first.theta - other.theta).max() > 0.01


def test_the_seed_decides_the_order_of_the_stars_too(linear, stars):
    settings = {"theta": np.zeros(10), "epochs": 1, "batch_size": 7, "progress": False}
    first, other = (train(linear, *stars, rng=rng(seed), **settings).theta for seed in (3, 4))
    assert np.abs(first - other).max() > 1e-5


def test_the_callers_arrays_stay_as_they_are(small, stars):
    start = small.net.init_params(rng())
    X, Y, theta = stars[0].copy(), stars[1].copy(), start.copy()
    fit = train(small, X, Y, theta=theta, epochs=2, rng=rng(), progress=False, dtype="float64")
    for now, before in ((X, stars[0]), (Y, stars[1]), (theta, start)):
        np.testing.assert_array_equal(now, before)
    assert fit.theta.dtype == np.float64
    assert not np.shares_memory(fit.theta, theta)


def leave_the_optimum(linear, stars, **settings):
    """Start where the validation stars want to be; the training stars lead away, epoch by epoch."""
    X, Y = stars
    return train(
        linear,
        X,
        Y,
        theta=np.zeros(10),
        validation=(X, 0 * Y),
        learning_rate=0.01,
        batch_size=40,
        rng=rng(),
        progress=False,
        **settings,
    )


def test_early_stopping_restores_the_best_weights(linear, stars):
    fit = leave_the_optimum(linear, stars, epochs=50, patience=4)
    assert (fit.stopped, fit.best_epoch, fit.epochs_run) == ("patience", 1, 5)
    assert [len(values) for values in fit.history.values()] == [5, 5, 5]
    first = leave_the_optimum(linear, stars, epochs=1)
    assert first.stopped == "epochs"
    np.testing.assert_array_equal(fit.theta, first.theta)


def test_a_plateau_halves_the_rate_at_the_right_epoch(linear, stars):
    fit = leave_the_optimum(linear, stars, epochs=8, reduce_lr_patience=2, min_learning_rate=0.002)
    # best in epoch 1; two epochs without a better one end with epochs 3, 5 and 7
    rates = [0.01, 0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025, 0.002]
    np.testing.assert_allclose(fit.history["learning_rate"], rates, rtol=1e-14)
    constant = leave_the_optimum(linear, stars, epochs=8)
    assert constant.history["loss"][:4] == fit.history["loss"][:4]
    assert fit.history["loss"][7] > constant.history["loss"][7]  # smaller steps were really taken


def test_dropout_masks_are_drawn_anew_and_keep_the_mean(monkeypatch):
    net = Network([Dropout(0.2), Dense(6), Dropout(0.5), Dense(1)], 30)
    reg = Regression(net, sigma_noise=1.0, prior_precision=1.0)
    X, Y = make_stars(50, 30, 1)
    masks = []
    original = SumFunction.of_batch

    def of_batch(self, theta, flux, labels, prior_weight, *extra, **options):
        masks.append(("into" in options, extra))
        return original(self, theta, flux, labels, prior_weight, *extra, **options)

    monkeypatch.setattr(SumFunction, "of_batch", of_batch)
    train(reg, X, Y, validation=(X, Y), epochs=10, batch_size=20, rng=rng(), progress=False)
    trained = [extra for is_trained, extra in masks if is_trained]
    assert all(extra == () for is_trained, extra in masks if not is_trained)
    assert [(a.shape, b.shape) for a, b in trained[:3]] == [((n, 30), (n, 6)) for n in (20, 20, 10)]
    for k, rate in enumerate((0.2, 0.5)):
        drawn = np.concatenate([extra[k].ravel() for extra in trained])
        assert set(np.unique(drawn).tolist()) == {0.0, float(np.float32(1 / (1 - rate)))}
        error = np.sqrt(rate / (1 - rate) / drawn.size)  # standard error of the mean
        assert abs(drawn.mean() - 1) < 4 * error
    assert not np.array_equal(trained[0][0], trained[1][0])


def test_dropout_on_the_input_is_a_ridge():
    """Averaged over masks, dropout at rate p adds p / (1 - p) sum x^2 w^2: p = 1/2 halves w."""
    X = np.ones((256, 1))
    net = Network([Dropout(0.5), Dense(1, use_bias=False)], 1)
    reg = Regression(net, sigma_noise=1.0, prior_precision=1e-6)
    fit = train(
        reg,
        X,
        3 * X,
        epochs=300,
        batch_size=256,
        learning_rate=0.05,
        decay=0.02,
        rng=rng(),
        progress=False,
    )
    # one draw of 256 masks moves w by 0.15; Adam averages over many
    assert fit.theta[0] == pytest.approx(1.5, abs=0.1)


def test_ctrl_c_returns_the_best_weights_so_far(linear, stars, monkeypatch):
    settings = {"batch_size": 10, "learning_rate": 0.01, "progress": False, "dtype": "float64"}
    expected = train(linear, *stars, epochs=3, rng=rng(), **settings)
    interrupt_after(
        monkeypatch, 3 * 4 + 2
    )  # four batches an epoch: in the middle of the fourth epoch
    fit = train(linear, *stars, epochs=9, rng=rng(), **settings)
    assert (fit.stopped, fit.epochs_run, fit.best_epoch) == ("interrupted", 3, 3)
    np.testing.assert_array_equal(fit.theta, expected.theta)
    assert fit.history == expected.history


def test_ctrl_c_in_the_first_epoch_returns_the_start(linear, stars, monkeypatch):
    interrupt_after(monkeypatch, 2)
    fit = train(linear, *stars, theta=np.arange(10.0), batch_size=10, rng=rng(), progress=False)
    assert (fit.stopped, fit.epochs_run, fit.best_epoch) == ("interrupted", 0, 0)
    np.testing.assert_array_equal(fit.theta, np.arange(10.0))


def test_divergence_says_when_and_what_to_do(linear, stars):
    with pytest.raises(
        DivergedError,
        match=r"finite, got (inf|nan) in epoch 2.*lower learning_rate \(it was 1e\+30",
    ) as e:
        train(
            linear, *stars, epochs=5, batch_size=40, learning_rate=1e30, rng=rng(), progress=False
        )
    assert e.value.epoch == 2


def test_divergence_shows_in_the_validation_loss_too(linear, stars):
    with pytest.raises(DivergedError, match="in epoch 1, after 1 steps"):
        train(
            linear,
            *stars,
            validation=0.2,
            batch_size=40,
            learning_rate=1e30,
            rng=rng(),
            progress=False,
        )


BAD_OPTIONS = {
    "epochs_zero": ({"epochs": 0}, "epochs should be a positive integer, got 0"),
    "epochs_float": ({"epochs": 1.5}, "epochs should be a positive integer, got 1.5"),
    "batch_size": ({"batch_size": True}, "batch_size should be a positive integer, got True"),
    "patience": ({"patience": -1}, "patience should be a positive integer or None, got -1"),
    "plateau": (
        {"reduce_lr_patience": 0},
        "reduce_lr_patience should be a positive integer or None, got 0",
    ),
    "rate": ({"learning_rate": 0}, "learning_rate should be a number, positive, got 0"),
    "rate_word": (
        {"learning_rate": "fast"},
        "learning_rate should be a number, positive, got 'fast'",
    ),
    "rate_nan": ({"learning_rate": np.nan}, "learning_rate should be a number, positive, got nan"),
    "beta_1": ({"beta_1": 1.0}, "beta_1 should be a number, at least 0 and below 1, got 1.0"),
    "beta_2": ({"beta_2": -0.1}, "beta_2 should be a number, at least 0 and below 1, got -0.1"),
    "epsilon": ({"epsilon": 0.0}, "epsilon should be a number, positive, got 0.0"),
    "decay": ({"decay": -1}, "decay should be a number, zero or positive, got -1"),
    "factor": ({"reduce_lr_factor": 1.0}, "reduce_lr_factor should be a number, between 0 and 1"),
    "floor": (
        {"min_learning_rate": 1},
        r"min_learning_rate should be a number, between 0 and learning_rate \(0.001\)",
    ),
    "rng": ({"rng": 3}, r"write rng=np.random.default_rng\(3\)"),
    "dtype": ({"dtype": "float16"}, "dtype should be one of 'float64', 'float32', got 'float16'"),
    "init": ({"init": "he"}, "init should be one of 'he_normal'"),
    "backend": ({"backend": "torch"}, "backend should be one of 'auto', 'numpy'"),
    "fraction": (
        {"validation": 1.5},
        "validation should be a pair .* or a fraction between 0 and 1 .*got 1.5",
    ),
    "triple": ({"validation": (1, 2, 3)}, "validation should be a pair .*got tuple"),
}


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_a_bad_option_is_refused_in_words(linear, stars, options, words):
    with pytest.raises(OptionError, match=words):
        train(linear, *stars, **{"rng": rng(), "progress": False} | options)


X10, Y10 = make_stars(10)
BAD_STARS = {
    "one_star": ((X10[:1], Y10[:1]), {}, DataError, "at least two stars, got 1"),
    "one_spectrum": ((X10[0], Y10[0]), {}, DataError, "at least two stars, got 1"),
    "one_left": (
        (X10, Y10),
        {"validation": 0.9},
        DataError,
        "at least two stars, got 1 of 10 .*smaller fraction",
    ),
    "pixels": ((X10[:, :3], Y10), {}, ShapeError, r"flux should have shape \(star, 4\)"),
    "labels": ((X10, Y10[:9]), {}, ShapeError, r"labels should have shape \(10, 2\)"),
    "nan_flux": ((X10 * np.nan, Y10), {}, DataError, "flux should be finite"),
    "no_label": ((X10, Y10 * [1, np.nan]), {}, DataError, "got only NaN in column 1"),
    "validation_flux": (
        (X10, Y10),
        {"validation": (X10.T, Y10)},
        ShapeError,
        "validation flux should have shape",
    ),
    "validation_labels": (
        (X10, Y10),
        {"validation": (X10, Y10[:2])},
        ShapeError,
        "validation labels should have",
    ),
    "theta_list": ((X10, Y10), {"theta": [np.zeros((4, 2)), np.zeros(2)]}, ShapeError, "net.pack"),
    "theta_nan": ((X10, Y10), {"theta": np.full(10, np.nan)}, DataError, "theta should be finite"),
}


@pytest.mark.parametrize(("arrays", "options", "error", "words"), BAD_STARS.values(), ids=BAD_STARS)
def test_bad_stars_are_refused_in_words(linear, arrays, options, error, words):
    with pytest.raises(error, match=words):
        train(linear, *arrays, rng=rng(), progress=False, **options)


def test_a_split_that_takes_away_a_label_says_so(linear):
    Y = Y10.copy()
    Y[:9, 1] = np.nan
    with pytest.raises(DataError, match=r"labels left to train on should hold .* for each label"):
        train(
            linear, X10, Y, validation=0.7, epochs=1, rng=rng(0), progress=False
        )  # sets star 9 aside


def test_a_validation_sample_without_labels_says_so(linear):
    Y = Y10.copy()
    Y[:9] = np.nan
    with pytest.raises(DataError, match="the 1 validation stars have no label at all"):
        train(linear, X10, Y, validation=0.1, epochs=1, rng=rng(0), progress=False)
