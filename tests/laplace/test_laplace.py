"""Laplace posteriors against dense algebra on NumPy's derivatives, and the words for bad input."""

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytensor.tensor as pt
import pytest
from conftest import assert_entries
from numpy.testing import assert_allclose
from pytensor.gradient import hessian

import symspec as ss

TANH, TANH_FULL = (
    "tanh-1-hidden-2-labels-own-units-missing",
    "tanh-2-hidden-3-labels-full-noise-missing",
)
RELU_FULL = "relu-2-hidden-3-labels-full-noise"

# float64 rounding, 1e-16, times condition numbers of up to 1e6 (labels in K beside dex), and a
# margin
SOLVED = 1e-8
N_DRAWS = 4_000


@pytest.fixture(scope="module", params=["primal", "dual"])
def fitted(request, problem):
    """Laplace's approximation at the table's weights, which are at no minimum."""
    return ss.fit_laplace(
        problem.reg,
        problem.theta,
        problem.X,
        problem.Y,
        structure=request.param,
        require_minimum=False,
    )


over_networks = pytest.mark.parametrize("problem", [TANH, TANH_FULL, RELU_FULL], indirect=True)


@pytest.fixture(scope="module")
def trained():
    """A small network at a minimum, with labels in their own units, some of them missing."""
    rng = np.random.default_rng(21)
    X = rng.normal(1, 0.1, size=(40, 4))
    Y = np.array([5000.0, 3.0]) + np.tanh((X - 1) @ rng.normal(0, 6, size=(4, 2))) * [400.0, 0.7]
    Y += rng.normal(size=Y.shape) * [40.0, 0.08]
    Y[3, 0] = Y[8, 1] = Y[11] = np.nan
    net = ss.standardized(
        ss.mlp(
            [4, 3, 2], activation="tanh", label_names=["teff", "logg"], label_units=["K", "dex"]
        ),
        X,
        Y,
    )
    reg = ss.Regression(net, sigma_noise=[40.0, 0.08], prior_precision=1.0)
    theta = ss.polish(reg, net.init_params(rng), X, Y, tolerance=1e-12).theta
    X_new = rng.normal(1, 0.1, size=(7, 4))
    ivar = rng.uniform(1e3, 1e5, size=X_new.shape)
    ivar[2, 1] = ivar[5, 0] = ivar[5, 3] = 0
    return SimpleNamespace(
        net=net,
        reg=reg,
        theta=theta,
        X=X,
        Y=Y,
        X_new=X_new,
        ivar=ivar,
        fit=ss.fit_laplace(reg, theta, X, Y),
    )


@pytest.fixture(scope="module")
def flat():
    """Weights of a tanh network at a saddle: all zero, with labels that the flux explains."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(30, 3))
    Y = X @ rng.normal(size=(3, 2))
    Y -= Y.mean(axis=0)
    net = ss.mlp([3, 2, 2], activation="tanh")
    return SimpleNamespace(
        reg=ss.Regression(net, sigma_noise=0.1, prior_precision=1.0),
        theta=np.zeros(net.n_params),
        X=X,
        Y=Y,
    )


# --- covariances ---


@over_networks
def test_the_label_covariance_is_the_jacobian_around_the_inverse(problem, fitted):
    inverse = np.linalg.inv(problem.ggn(problem.theta))
    expected = np.array([J @ inverse @ J.T for J in problem.theta_jacobian(problem.theta)])
    assert_entries(fitted.label_covariance(problem.X), expected, SOLVED)
    assert_entries(fitted.label_covariance(problem.X[2]), expected[2], SOLVED)


@over_networks
def test_the_budget_is_told_apart_and_adds_up(problem, fitted):
    inverse, ivar = np.linalg.inv(problem.ggn(problem.theta)), np.full(problem.X.shape, 400.0)
    model = np.array([J @ inverse @ J.T for J in problem.theta_jacobian(problem.theta)])
    flux = np.array([J @ J.T / 400.0 for J in problem.flux_jacobian(problem.theta)])
    noise = np.broadcast_to(problem.noise_covariance, model.shape)
    prediction = fitted.predict(problem.X, ivar=ivar)
    assert_entries(prediction.labels, problem.predict(problem.theta), 1e-11)
    assert_entries(prediction.model_cov, model, SOLVED)
    assert_entries(prediction.flux_cov, flux, 1e-11)
    assert_entries(prediction.noise_cov, noise, 1e-14)
    assert_entries(prediction.total_cov, model + flux + noise, SOLVED)
    assert_entries(prediction.errors**2, np.einsum("ncc->nc", model + flux + noise), SOLVED)
    assert prediction.has_flux_errors


@over_networks
def test_the_evidence_is_its_formula_by_brute_force(problem, fitted):
    log_det = np.linalg.slogdet(problem.ggn(problem.theta) / (2 * np.pi))[1]
    assert_allclose(
        fitted.log_marginal_likelihood(), -problem.value(problem.theta) - log_det / 2, rtol=SOLVED
    )
    assert_allclose(fitted.negative_log_posterior, problem.value(problem.theta), rtol=1e-11)


def test_without_ivar_the_flux_has_no_part_and_that_is_said(trained):
    prediction = trained.fit.predict(trained.X_new)
    assert not prediction.has_flux_errors
    assert not prediction.flux_cov.any()
    assert not prediction.n_bad_pixels.any()
    np.testing.assert_array_equal(prediction.total_cov, prediction.model_cov + prediction.noise_cov)
    assert prediction.label_names == ("teff", "logg")
    assert prediction.label_units == ("K", "dex")


def test_the_noise_of_one_star_is_its_own_array(trained):
    """A broadcast view would hand the first caller who writes into it everybody's noise."""
    prediction = trained.fit.predict(trained.X_new)
    prediction.noise_cov[0] = 0
    assert_allclose(prediction.noise_cov[1], np.diag([40.0**2, 0.08**2]), rtol=1e-14)
    assert_allclose(
        trained.fit.predict(trained.X_new).noise_cov[0], np.diag([40.0**2, 0.08**2]), rtol=1e-14
    )


def test_stars_a_few_at_a_time_are_predicted_as_all_at_once(trained, monkeypatch):
    whole = trained.fit.predict(trained.X_new, ivar=trained.ivar)
    covariance = trained.fit.label_covariance(trained.X_new)
    monkeypatch.setattr("symspec.laplace.posterior.STARS_AT_ONCE", 3)
    parts = trained.fit.predict(trained.X_new, ivar=trained.ivar)
    for name in ("labels", "model_cov", "flux_cov", "noise_cov", "total_cov"):
        # BLAS may sum products of another shape in another order
        assert_entries(getattr(parts, name), getattr(whole, name), 1e-12)
    np.testing.assert_array_equal(parts.flags, whole.flags)
    np.testing.assert_array_equal(parts.n_bad_pixels, whole.n_bad_pixels)
    assert_entries(trained.fit.label_covariance(trained.X_new), covariance, 1e-12)


def test_tangents_are_the_jacobian_of_all_stars_some_at_a_time(trained):
    theta, X = trained.fit.theta, trained.X_new
    J = ss.compile_jacobian(trained.fit.reg.net, "theta")(theta, X)
    walk = list(trained.fit.tangents(X, stars_at_once=3))
    assert [rows.stop - rows.start for rows, _ in walk[:2]] == [3, 3]
    assert walk[-1][0].stop == len(X)
    for rows, tangents in walk:
        assert_entries(tangents.dense(), J[rows], 1e-12)  # one product each, in float64
    ((rows, one),) = trained.fit.tangents(X[5])
    assert rows == slice(0, 1)
    assert_entries(one.dense(), J[5:6], 1e-12)


def test_one_spectrum_is_a_star_of_its_own(trained):
    whole = trained.fit.predict(trained.X_new, ivar=trained.ivar)
    one = trained.fit.predict(trained.X_new[5], ivar=trained.ivar[5])
    for name in ("labels", "model_cov", "flux_cov", "total_cov"):
        assert_entries(getattr(one, name), getattr(whole, name)[5:6], 1e-12)
    assert one.n_bad_pixels.tolist() == [2]
    assert one.flags.tolist() == [whole.flags[5]]
    assert trained.fit.label_covariance(trained.X_new[5]).shape == (2, 2)


def test_the_callers_arrays_are_left_alone():
    rng = np.random.default_rng(3)
    net = ss.mlp([3, 2], activation="tanh")
    reg = ss.Regression(net, sigma_noise=0.5, prior_precision=1.0)
    X, Y, ivar = rng.normal(size=(8, 3)), rng.normal(size=(8, 2)), rng.uniform(1, 9, size=(8, 3))
    Y[1, 0], X_new = np.nan, X.copy()
    X_new[0, 0], ivar[0, 0] = np.nan, 0
    theta = ss.polish(reg, net.init_params(rng), X, Y).theta
    arrays = (theta, X, Y, X_new, ivar)
    copies = [a.copy() for a in arrays]
    fit = ss.fit_laplace(reg, theta, X, Y)
    first = fit.predict(X_new, ivar=ivar)
    fit.sample(2, rng=rng)
    fit.log_marginal_likelihood()
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    theta[:] = 99.0  # nor does the posterior follow what the caller does with theirs
    np.testing.assert_array_equal(fit.predict(X_new, ivar=ivar).labels, first.labels)


def test_draws_of_the_linearised_model_have_the_label_covariance(trained):
    draws = trained.fit.sample(N_DRAWS, rng=np.random.default_rng(4))
    J = ss.compile_jacobian(trained.net, "theta")(trained.theta, trained.X_new)
    shifts = np.einsum("ncp,kp->nkc", J, draws - trained.theta)
    V = trained.fit.label_covariance(trained.X_new)
    for of_star, expected in zip(shifts, V, strict=True):
        variance = np.diag(expected)
        # Wishart: the variance of a mean of products of n normal numbers of mean zero
        error = np.sqrt((expected**2 + np.outer(variance, variance)) / N_DRAWS)
        # 7 stars with 3 different entries and 2 means: the chance that a correct one exceeds 4 is
        # 0.002
        assert np.abs((of_star.T @ of_star / N_DRAWS - expected) / error).max() < 4
        assert np.abs(of_star.mean(axis=0) / np.sqrt(variance / N_DRAWS)).max() < 4


def test_draws_come_from_the_generator_given(trained):
    first, again = (trained.fit.sample(3, rng=np.random.default_rng(5)) for _ in range(2))
    assert first.shape == (3, trained.net.n_params)
    np.testing.assert_array_equal(first, again)
    with pytest.raises(
        ss.OptionError, match=r"got the seed 5: write rng=np.random.default_rng\(5\)"
    ):
        trained.fit.sample(3, rng=5)


# --- the exact Hessian ---


def test_the_exact_hessian_is_pytensors_and_not_the_ggn(trained, compile_plainly):
    theta = pt.vector("theta", shape=(trained.net.n_params,))
    H = hessian(trained.reg.negative_log_posterior(theta, trained.X, trained.Y), theta)
    expected = np.linalg.inv(compile_plainly([theta], [H])(trained.theta)[0])
    fit = ss.fit_laplace(trained.reg, trained.theta, trained.X, trained.Y, curvature="hessian")
    assert_entries(fit.inverse_hessian.to_dense(), expected, SOLVED)
    assert_allclose(fit.inverse_hessian.logdet(), np.linalg.slogdet(expected)[1], rtol=SOLVED)
    assert (fit.curvature, fit.structure) == ("hessian", "primal")
    assert (
        np.abs(fit.inverse_hessian.diagonal() / trained.fit.inverse_hessian.diagonal() - 1).max()
        > 0.01
    )


def test_the_exact_hessian_at_a_saddle_is_refused_with_its_smallest_eigenvalue(flat):
    H = ss.compile_hessian(flat.reg)(flat.theta, flat.X, flat.Y)
    with pytest.raises(
        ss.NotPositiveDefiniteError, match=r"its smallest eigenvalue is -\d.*polish"
    ) as caught:
        ss.fit_laplace(flat.reg, flat.theta, flat.X, flat.Y, curvature="hessian")
    assert caught.value.smallest_eigenvalue < -1
    assert_allclose(caught.value.smallest_eigenvalue, np.linalg.eigvalsh(H)[0], rtol=1e-10)


def test_require_minimum_does_not_let_an_indefinite_hessian_pass(flat):
    with pytest.raises(ss.NotPositiveDefiniteError):
        ss.fit_laplace(
            flat.reg, flat.theta, flat.X, flat.Y, curvature="hessian", require_minimum=False
        )


# --- away from a minimum ---


def test_trained_weights_are_certified_without_a_word(trained):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = ss.fit_laplace(trained.reg, trained.theta, trained.X, trained.Y, require_minimum=True)
    assert fit.certificate.is_minimum
    assert not (fit.predict(trained.X_new).flags & ss.Flag.NOT_AT_MINIMUM).any()


@pytest.mark.parametrize("problem", [TANH_FULL], indirect=True)
def test_untrained_weights_warn_with_their_numbers_and_flag_what_they_move(problem):
    g, G = problem.gradient(problem.theta), problem.ggn(problem.theta)
    smallest = np.linalg.eigvalsh(problem.hessian(problem.theta))[0]
    with pytest.warns(ss.NotAtMinimumWarning) as caught:
        fit = ss.fit_laplace(problem.reg, problem.theta, problem.X, problem.Y)
    assert len(caught) == 1
    assert caught[0].filename == __file__  # it points at the caller's line
    words = str(caught[0].message)
    assert f"|gradient| {np.abs(g).max():.3g}," in words
    assert f"Newton decrement {g @ np.linalg.solve(G, g) / 2:.3g} nats (at most 0.01)" in words
    assert f"lowest eigenvalue of the Hessian {smallest:.4g}, " in words
    assert "Train on, or run symspec.polish;" in words
    assert "require_minimum=False silences this" in words
    prediction = fit.predict(problem.X)
    moved = np.abs(prediction.newton_shift) > 0.5
    assert moved.any()
    np.testing.assert_array_equal((prediction.label_flags & ss.Flag.NOT_AT_MINIMUM) > 0, moved)


@pytest.mark.parametrize("problem", [TANH_FULL], indirect=True)
def test_a_minimum_that_is_required_and_missing_is_an_error_with_the_certificate(problem):
    with pytest.raises(ss.NotAtMinimumError, match="the weights are not at a minimum: ") as caught:
        ss.fit_laplace(problem.reg, problem.theta, problem.X, problem.Y, require_minimum=True)
    certificate = caught.value.certificate
    assert not certificate.is_minimum
    assert certificate.message in str(caught.value)
    g = problem.gradient(problem.theta)
    decrement = g @ np.linalg.solve(problem.ggn(problem.theta), g) / 2
    assert_allclose(certificate.newton_decrement, decrement, rtol=SOLVED)


@pytest.mark.parametrize("problem", [TANH_FULL], indirect=True)
def test_the_warning_can_be_silenced_and_the_flags_stay(problem):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = ss.fit_laplace(
            problem.reg, problem.theta, problem.X, problem.Y, require_minimum=False
        )
    assert (fit.predict(problem.X).flags & ss.Flag.NOT_AT_MINIMUM).any()


# --- options ---


@pytest.mark.parametrize("structure", ["primal", "dual"])
def test_float32_passes_are_near_float64(trained, structure):
    options = {"structure": structure, "require_minimum": False}
    fit = ss.fit_laplace(
        trained.reg, trained.theta, trained.X, trained.Y, dtype="float32", **options
    )
    single, double = (f.predict(trained.X_new, ivar=trained.ivar) for f in (fit, trained.fit))
    # 1e-7 of float32 through some hundred sums, times the condition of what the data determine
    assert_allclose(single.labels, double.labels, rtol=1e-5)
    for name in ("model_cov", "flux_cov", "total_cov"):
        actual, expected = getattr(single, name), getattr(double, name)
        sd = np.sqrt(np.einsum("ncc->nc", expected))
        assert np.abs((actual - expected) / (sd[:, :, None] * sd[:, None, :] + 1e-300)).max() < 1e-4
    assert_allclose(fit.log_marginal_likelihood(), trained.fit.log_marginal_likelihood(), rtol=1e-4)
    assert fit.dtype == "float32"


def test_the_structure_asked_for_is_the_one_used(trained):
    for structure in ("primal", "dual"):
        fit = ss.fit_laplace(trained.reg, trained.theta, trained.X, trained.Y, structure=structure)
        assert (fit.structure, fit.inverse_hessian.structure, fit.curvature) == (
            structure,
            structure,
            "ggn",
        )
        assert fit.reason == f"{structure}: as asked."
    assert trained.fit.reason.startswith(
        f"{trained.fit.structure}: 23 parameters, 76 observed labels; "
    )


def test_what_does_not_fit_is_refused(trained):
    with pytest.raises(ss.TooLargeError, match=r"and memory='1KB' was given"):
        ss.fit_laplace(
            trained.reg, trained.theta, trained.X, trained.Y, curvature="hessian", memory="1KB"
        )


def test_where_no_factor_fits_the_choice_falls_on_products(trained):
    fit = ss.fit_laplace(trained.reg, trained.theta, trained.X, trained.Y, memory="12KB")
    assert fit.structure == "krylov"
    assert "of 12KB; products alone, each error bar between two bounds; " in fit.reason
    assert fit.reason.endswith('with structure="krylov", options={"scratch": FOLDER}.')
    lower, upper = fit.label_covariance_bounds(trained.X_new)
    exact = trained.fit.label_covariance(trained.X_new)
    assert (np.linalg.eigvalsh(upper - exact) > -1e-9 * np.linalg.norm(exact)).all()
    assert (np.linalg.eigvalsh(exact - lower) > -1e-9 * np.linalg.norm(exact)).all()


# --- one star, and bad input ---


def test_a_single_star_is_enough(trained):
    one, row = (
        ss.fit_laplace(trained.reg, trained.theta, X, Y, require_minimum=False)
        for X, Y in [(trained.X[0], trained.Y[0]), (trained.X[:1], trained.Y[:1])]
    )
    np.testing.assert_array_equal(one.inverse_hessian.to_dense(), row.inverse_hessian.to_dense())
    np.testing.assert_array_equal(one.label_range, [trained.Y[0], trained.Y[0]])


def test_a_single_star_may_lack_a_label(trained):
    fit = ss.fit_laplace(
        trained.reg, trained.theta, trained.X[:1], [[np.nan, 3.0]], require_minimum=False
    )
    prediction = fit.predict(trained.X_new)
    assert np.isfinite(prediction.total_cov).all()


BAD_TRAINING = {
    "pixels": (
        {"X": np.ones((40, 5))},
        ss.ShapeError,
        "got (40, 5): trim the last pixel or rebuild the network",
    ),
    "theta-in-blocks": (
        {"theta": [np.ones((4, 3)), np.ones(3), np.ones((3, 2)), np.ones(2)]},
        ss.ShapeError,
        "got a list of 4 arrays with shapes [(4, 3), (3,), (3, 2), (2,)]: pack them with net.pack(",
    ),
    "theta-in-a-dict": (
        {"theta": {"dense_0/kernel": np.ones((4, 3))}},
        ss.ShapeError,
        "pack them with net.pack(params)",
    ),
    "theta-of-another-network": (
        {"theta": np.ones(22)},
        ss.ShapeError,
        "belongs to another network",
    ),
    "theta-nan": (
        {"theta": np.full(23, np.nan)},
        ss.DataError,
        "theta should be finite, got 23 values",
    ),
    "labels-transposed": (
        {"Y": np.ones((2, 40))},
        ss.ShapeError,
        "got (2, 40): transpose it: labels.T",
    ),
    "labels-all-missing": (
        {"Y": np.full((40, 2), np.nan)},
        ss.DataError,
        "there is nothing to learn from",
    ),
    "one-label-missing": (
        {"Y": np.ones((40, 2)) * [np.nan, 1]},
        ss.DataError,
        "got only NaN in column 0",
    ),
    "labels-infinite": (
        {"Y": np.full((40, 2), np.inf)},
        ss.DataError,
        "labels should not be infinite",
    ),
    "flux-nan": (
        {"X": np.full((40, 4), np.nan)},
        ss.DataError,
        "flux should be finite, got 160 values",
    ),
    "structure": (
        {"structure": "dense"},
        ss.OptionError,
        "structure should be one of 'auto', 'primal', 'dual'",
    ),
    "curvature": (
        {"curvature": "Hessian"},
        ss.OptionError,
        "got 'Hessian': did you mean 'hessian'?",
    ),
    "dual-hessian": (
        {"structure": "dual", "curvature": "hessian"},
        ss.OptionError,
        (
            'structure="dual" inverts the Gauss-Newton matrix: use curvature="ggn", or'
            ' structure="primal".'
        ),
    ),
    "dtype": (
        {"dtype": "float16"},
        ss.OptionError,
        "dtype should be one of 'float64', 'float32', got 'float16'",
    ),
    "backend": ({"backend": "theano"}, ss.OptionError, "backend should be one of 'auto', 'numpy'"),
    "memory": ({"memory": "plenty"}, ss.OptionError, "memory should be a text such as"),
}


@pytest.mark.parametrize(("change", "error", "words"), BAD_TRAINING.values(), ids=BAD_TRAINING)
def test_bad_training_input_is_refused_with_advice(trained, change, error, words):
    arguments = {"theta": trained.theta, "X": trained.X, "Y": trained.Y} | change
    with pytest.raises(error, match=re.escape(words)):
        ss.fit_laplace(
            trained.reg, arguments.pop("theta"), arguments.pop("X"), arguments.pop("Y"), **arguments
        )


def with_value(array, place, value):
    array = array.copy()
    array[place] = value
    return array


ONES = np.ones((3, 4))
BAD_STARS = {
    "pixels": (
        np.ones((3, 3)),
        None,
        ss.ShapeError,
        "flux should have shape (star, 4) or (4,), got (3, 3): one pixel",
    ),
    "three-axes": (ONES[None], None, ss.ShapeError, "got (1, 3, 4): give one spectrum a row"),
    "no-star": (ONES[:0], None, ss.DataError, "at least one star"),
    "nan-without-ivar": (
        with_value(ONES, (1, 2), np.nan),
        None,
        ss.DataError,
        (
            "flux should be finite, got 1 value (first: star 1, pixel 2 is nan): give ivar with 0"
            " at these"
        ),
    ),
    "nan-with-ivar": (
        with_value(ONES, (1, 2), np.nan),
        ONES,
        ss.DataError,
        "got 1 values that are not (first: star 1, pixel 2): set ivar to 0 there.",
    ),
    "infinite-with-ivar": (
        with_value(ONES, (2, 0), np.inf),
        ONES,
        ss.DataError,
        "(first: star 2, pixel 0)",
    ),
    "negative-ivar": (ONES, -ONES, ss.DataError, "ivar should not be negative, got 12 values"),
    "nan-ivar": (ONES, ONES * np.nan, ss.DataError, "ivar should not be NaN"),
    "infinite-ivar": (ONES, ONES * np.inf, ss.DataError, "write 0 if nothing is known"),
    "mask-for-ivar": (ONES, ONES > 0, ss.DataError, "ivar should be numbers, got booleans"),
    "one-ivar": (
        ONES,
        ONES[0],
        ss.ShapeError,
        "one for every star: np.broadcast_to(ivar, flux.shape)",
    ),
    "ivar-transposed": (ONES, ONES.T, ss.ShapeError, "transpose it: ivar.T"),
}


@pytest.mark.parametrize(("X", "ivar", "error", "words"), BAD_STARS.values(), ids=BAD_STARS)
def test_stars_that_cannot_be_predicted_are_refused_with_advice(trained, X, ivar, error, words):
    with pytest.raises(error, match=re.escape(words)):
        trained.fit.predict(X, ivar=ivar)
