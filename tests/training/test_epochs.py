"""Training takes Keras's steps towards U; minimisers arrive at the closed form of a linear network."""

import numpy as np
import pytest
from scipy.optimize import OptimizeResult
from scipy.stats import norm

from symspec.derivatives.compiled import compile_objective
from symspec.derivatives.functions import SumFunction
from symspec.errors import DataError, DivergedError, OptionError, ShapeError, TooLargeError
from symspec.networks.layers import Dense, Dropout
from symspec.networks.network import Network, mlp
from symspec.networks.regression import Regression
from symspec.training import adam as adam_module
from symspec.training.adam import Adam
from symspec.training.epochs import train
from symspec.training.minimization import HESSIAN_METHODS, METHODS, PRODUCT_METHODS, minimize

SIGMA = np.array([0.5, 2.0])
KERNEL_PRECISION, BIAS_PRECISION = 3.0, 0.7


def rng(seed=0):
    return np.random.default_rng(seed)


def make_stars(n, n_pixels=4, n_labels=2, seed=1):
    source = rng(seed)
    X = source.normal(size=(n, n_pixels))
    Y = X @ source.normal(size=(n_pixels, n_labels)) + 1.5 + 0.3 * source.normal(size=(n, n_labels))
    return X, Y


def solve_ridge(X, Y):
    """Normal equations of the linear network, label by label, on the stars that have the label."""
    A = np.column_stack([X, np.ones(len(X))])
    prior = np.diag([KERNEL_PRECISION] * X.shape[1] + [BIAS_PRECISION])
    W = []
    for y, sigma in zip(Y.T, SIGMA, strict=True):
        seen = ~np.isnan(y)
        H = A[seen].T @ A[seen] / sigma**2 + prior
        W.append(np.linalg.solve(H, A[seen].T @ y[seen] / sigma**2))
    W = np.array(W).T
    return np.concatenate([W[:-1].ravel(), W[-1]])


def share_of_U(theta, X, Y, weight):
    """U's share of some stars and its gradient for the linear network, written out."""
    W, b = theta[:8].reshape(4, 2), theta[8:]
    r = X @ W + b - Y
    precision = np.array([KERNEL_PRECISION] * 8 + [BIAS_PRECISION] * 2)
    U = (
        -norm.logpdf(Y, X @ W + b, SIGMA).sum()
        - weight * norm.logpdf(theta, 0, precision**-0.5).sum()
    )
    g = np.concatenate([(X.T @ (r / SIGMA**2)).ravel(), (r / SIGMA**2).sum(axis=0)])
    return U, g + weight * precision * theta


def scalar_adam(theta, gradients, *, rate, beta_1, beta_2, epsilon, decay, start=0, m=None, v=None):
    """Keras's update, one entry and one step at a time."""
    theta = [float(x) for x in theta]
    m, v = m or [0.0] * len(theta), v or [0.0] * len(theta)
    for t, g in enumerate(gradients, start=start + 1):
        lr = rate / (1 + decay * (t - 1)) * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        for i in range(len(theta)):
            m[i] = beta_1 * m[i] + (1 - beta_1) * g[i]
            v[i] = beta_2 * v[i] + (1 - beta_2) * g[i] ** 2
            theta[i] -= lr * m[i] / (np.sqrt(v[i]) + epsilon)
    return np.array(theta), m, v


@pytest.fixture(scope="module")
def linear():
    prior = {"dense_0/kernel": KERNEL_PRECISION, "dense_0/bias": BIAS_PRECISION}
    return Regression(mlp([4, 2]), sigma_noise=SIGMA, prior_precision=prior)


@pytest.fixture(scope="module")
def small():
    return Regression(mlp([4, 5, 2], activation="tanh"), sigma_noise=0.5, prior_precision=1.0)


@pytest.fixture(scope="module")
def stars():
    return make_stars(40)


@pytest.fixture
def interrupt_after(monkeypatch):
    """Raise KeyboardInterrupt in the k-th call of a sum over stars."""
    original, calls = SumFunction.of_batch, []

    def set_limit(k):
        def of_batch(self, *args):
            calls.append(1)
            if len(calls) > k:
                raise KeyboardInterrupt
            return original(self, *args)

        monkeypatch.setattr(SumFunction, "of_batch", of_batch)

    return set_limit


# --- Adam


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adam_steps_are_the_formula_entry_by_entry(monkeypatch, decay):
    monkeypatch.setattr(adam_module, "BLOCK", 4)  # 11 entries: two full blocks and a part
    settings = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "decay": decay}
    start, gradients = rng().normal(size=11), rng(1).normal(size=(6, 11))
    adam, theta = Adam(11, "float64", learning_rate=0.1, **settings), start.copy()
    for n, gradient in enumerate(gradients, start=1):
        kept = gradient.copy()
        adam.step(theta, gradient, scale=0.25)
        expected, _, _ = scalar_adam(start, 0.25 * gradients[:n], rate=0.1, **settings)
        # rounding of a dozen float64 operations a step
        np.testing.assert_allclose(theta, expected, rtol=1e-13, atol=1e-14)
        np.testing.assert_array_equal(gradient, kept)


def test_first_adam_step_is_the_learning_rate_whatever_the_gradient():
    theta = np.zeros(3)
    Adam(3, "float64", learning_rate=0.01, epsilon=1e-12).step(theta, np.array([1e-3, -5.0, 1e4]))
    np.testing.assert_allclose(theta, [-0.01, 0.01, -0.01], rtol=1e-7)  # epsilon / (0.03 * 1e-3)


def test_adam_keeps_float32():
    theta = np.zeros(3, np.float32)
    adam = Adam(3, "float32", learning_rate=0.01)
    adam.step(theta, np.ones(3, np.float32), 1 / 3)
    assert {theta.dtype, adam._m.dtype, adam._v.dtype} == {np.dtype(np.float32)}


# --- train


@pytest.mark.parametrize(
    "batch_size", [8, 3, 100], ids=["full", "uneven_batches", "larger_than_the_sample"]
)
def test_training_takes_the_steps_written_out_by_hand(linear, batch_size):
    """Equal stars, so that shuffling changes nothing; batches of 3, 3, 2 weigh the prior 3/8, 3/8, 2/8."""
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
    parts = train(linear, *stars, validation=stars, **settings | {"rng": rng()})
    np.testing.assert_allclose(parts.theta, whole.theta, rtol=1e-11, atol=1e-12)
    for name, values in whole.history.items():
        np.testing.assert_allclose(parts.history[name], values, rtol=1e-12)


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

    def of_batch(self, theta, flux, labels, prior_weight, *extra):
        seen[prior_weight > 0].update(flux[:, 0].tolist())
        return original(self, theta, flux, labels, prior_weight, *extra)

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

    def of_batch(self, theta, flux, labels, prior_weight, *extra):
        masks.append((prior_weight, extra))
        return original(self, theta, flux, labels, prior_weight, *extra)

    monkeypatch.setattr(SumFunction, "of_batch", of_batch)
    train(reg, X, Y, validation=(X, Y), epochs=10, batch_size=20, rng=rng(), progress=False)
    trained = [extra for weight, extra in masks if weight > 0]
    assert all(extra == () for weight, extra in masks if weight == 0)
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


def test_ctrl_c_returns_the_best_weights_so_far(linear, stars, interrupt_after):
    settings = {"batch_size": 10, "learning_rate": 0.01, "progress": False, "dtype": "float64"}
    expected = train(linear, *stars, epochs=3, rng=rng(), **settings)
    interrupt_after(3 * 4 + 2)  # four batches an epoch: in the middle of the fourth epoch
    fit = train(linear, *stars, epochs=9, rng=rng(), **settings)
    assert (fit.stopped, fit.epochs_run, fit.best_epoch) == ("interrupted", 3, 3)
    np.testing.assert_array_equal(fit.theta, expected.theta)
    assert fit.history == expected.history


def test_ctrl_c_in_the_first_epoch_returns_the_start(linear, stars, interrupt_after):
    interrupt_after(2)
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


def test_nothing_is_printed_without_progress(linear, stars, capfd):
    train(linear, *stars, epochs=1, rng=rng(), progress=False)
    minimize(linear, np.zeros(10), *stars, progress=False)
    assert capfd.readouterr() == ("", "")


def test_progress_goes_to_stderr_with_losses_and_rate(linear, stars, capfd):
    train(linear, *stars, validation=0.2, epochs=2, rng=rng())
    out, err = capfd.readouterr()
    assert out == ""
    for word in ("epoch 2/2", "loss", "validation", "lr 0.001", "stars/s"):
        assert word in err
    minimize(linear, np.zeros(10), *stars)
    out, err = capfd.readouterr()
    assert out == ""
    assert "L-BFGS-B" in err
    assert "|gradient|" in err


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


# --- minimize


# tol is the norm of the gradient, but the change of U (first three) or of the weights in a step for
# these
TOL = {"L-BFGS-B": 1e-14, "TNC": 1e-11, "SLSQP": 1e-12, "Newton-CG": 1e-8}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing"])
def test_every_method_arrives_at_the_closed_form(linear, stars, method, missing):
    X, Y = stars[0], stars[1].copy()
    if missing:
        Y[::3, 0] = np.nan
    result = minimize(
        linear, np.zeros(10), X, Y, method=method, tol=TOL.get(method, 1e-6), progress=False
    )
    # |gradient| of 1e-6 over the smallest eigenvalue of the Hessian, 8; where changes of U are
    # compared, the
    # square root of the smallest that it shows (1e-14 of 100, some steps early) over the same
    np.testing.assert_allclose(result.x, solve_ridge(X, Y), atol=1e-5 if method in TOL else 1e-6)
    U, gradient = compile_objective(linear)(result.x, X, Y)
    assert result.fun == pytest.approx(U, rel=1e-12)
    np.testing.assert_allclose(result.jac, gradient, rtol=1e-6, atol=1e-8)
    assert result.nit >= 1
    assert result.success, result.message
    assert result.message


@pytest.mark.parametrize("method", METHODS)
def test_scipy_is_handed_the_exact_derivatives(linear, stars, method, monkeypatch):
    X, Y = stars
    handed = {}

    def scipy_minimize(fun, theta, **arguments):
        handed.update(arguments, fun=fun)
        return OptimizeResult(x=theta, fun=0.0, jac=theta, grad=theta)

    monkeypatch.setattr("scipy.optimize.minimize", scipy_minimize)
    minimize(linear, np.zeros(10), X, Y, method=method, progress=False)
    theta = rng(7).normal(size=10)
    U, gradient = share_of_U(theta, X, Y, 1.0)
    assert handed["jac"] is True
    assert handed["fun"](theta)[0] == pytest.approx(U, rel=1e-12)
    np.testing.assert_allclose(handed["fun"](theta)[1], gradient, rtol=1e-10, atol=1e-10)
    # the gradient is affine in theta: its differences are the Hessian, but for rounding
    H = np.array([share_of_U(theta + e, X, Y, 1.0)[1] - gradient for e in np.eye(10)])
    if method in PRODUCT_METHODS:
        products = [handed["hessp"](theta, e) for e in np.eye(10)]
        np.testing.assert_allclose(products, H, rtol=1e-10, atol=1e-10)
    if method in HESSIAN_METHODS:
        np.testing.assert_allclose(handed["hess"](theta), H, rtol=1e-10, atol=1e-10)
    assert ("hessp" in handed, "hess" in handed) == (
        method in PRODUCT_METHODS,
        method in HESSIAN_METHODS,
    )


def test_a_hidden_layer_is_minimised_by_gradient_and_by_products_alike(small, stars):
    start = small.net.init_params(rng(2))
    values = {
        method: minimize(small, start, *stars, method=method, progress=False, tol=1e-7)
        for method in ("BFGS", "trust-krylov")
    }
    for result in values.values():
        assert np.abs(result.jac).max() < 1e-5
        assert result.fun < compile_objective(small)(start, *stars)[0]


def test_max_iterations_is_obeyed(small, stars):
    start = small.net.init_params(rng())
    for method in ("L-BFGS-B", "trust-krylov"):
        result = minimize(small, start, *stars, method=method, max_iterations=2, progress=False)
        assert (result.nit, result.success) == (2, False)
    result = minimize(small, start, *stars, method="TNC", max_iterations=3, progress=False)
    assert result.nfev <= 4
    assert not result.success


def test_ctrl_c_returns_the_best_point_so_far(small, stars, interrupt_after):
    start = small.net.init_params(rng())
    U_start, _ = compile_objective(small)(start, *stars)
    interrupt_after(6)
    result = minimize(small, start, *stars, progress=False)
    assert (result.success, result.nfev) == (False, 6)
    assert "interrupted" in result.message
    assert result.fun < U_start


def test_ctrl_c_before_the_first_value_is_ctrl_c(linear, stars, interrupt_after):
    interrupt_after(0)
    with pytest.raises(KeyboardInterrupt):
        minimize(linear, np.zeros(10), *stars, progress=False)


def test_the_interrupted_result_is_that_of_its_point(small, stars, interrupt_after):
    start = small.net.init_params(rng())
    objective = compile_objective(small)
    interrupt_after(4)
    result = minimize(small, start, *stars, method="CG", progress=False)
    interrupt_after(1000)
    U, gradient = objective(result.x, *stars)
    assert result.fun == U
    np.testing.assert_array_equal(result.jac, gradient)


BAD_MINIMIZE = {
    "gradient_free": (
        {"method": "Nelder-Mead"},
        OptionError,
        "'Nelder-Mead' uses none .*choose one of L-BFGS-B",
    ),
    "unknown": ({"method": "l-bfgs-b"}, OptionError, "did you mean 'L-BFGS-B'"),
    "not_a_word": ({"method": None}, OptionError, "method should be one of"),
    "options": ({"options": "maxiter"}, OptionError, "options should be a dict"),
    "twice": ({"options": {"maxiter": 3}, "max_iterations": 3}, OptionError, "say the same thing"),
    "iterations": (
        {"max_iterations": 0},
        OptionError,
        "max_iterations should be a positive integer, got 0",
    ),
    "backend": ({"backend": "torch"}, OptionError, "backend should be one of"),
    "theta": (
        {"theta": [np.zeros((4, 2)), np.zeros(2)]},
        ShapeError,
        "theta should be one flat array .*net.pack",
    ),
    "flux": ({"X": np.ones((10, 3))}, ShapeError, "flux should have shape"),
    "infinite": (
        {"theta": np.full(10, 1e200)},
        DivergedError,
        "minimize should .* finite .*: start from weights",
    ),
}


@pytest.mark.parametrize(("changes", "error", "words"), BAD_MINIMIZE.values(), ids=BAD_MINIMIZE)
def test_minimize_refuses_in_words(linear, changes, error, words):
    arguments = {"theta": np.zeros(10), "X": X10, "Y": Y10, "progress": False} | changes
    with pytest.raises(error, match=words):
        minimize(linear, **arguments)


def test_a_matrix_too_large_is_refused_before_any_work():
    reg = Regression(mlp([3000, 1000, 2]), sigma_noise=1.0, prior_precision=1.0)
    with pytest.raises(TooLargeError, match=r"method='BFGS' keeps a matrix .*Choose \"L-BFGS-B\""):
        minimize(
            reg, np.zeros(reg.net.n_params), np.ones((2, 3000)), np.ones((2, 2)), method="BFGS"
        )
