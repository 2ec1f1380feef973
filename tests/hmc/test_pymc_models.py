"""The PyMC model has the regression's density in every parametrisation, and PyMC's own habits."""

import numpy as np
import pymc as pm
import pytest
import xarray as xr
from numpy.testing import assert_allclose

import symspec as ss
from symspec.hmc.subsets import find_basis
from symspec.hmc.whitening import find_last_layer_whitening, find_whitening
from symspec.inverse_hessian.last_layer import split_last_layer

S = np.array([[0.10, 0.02], [0.02, 0.30]])


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    missing = Y.copy()
    missing[3, 1] = np.nan
    missing[8] = np.nan
    return X, Y, missing


@pytest.fixture(scope="module")
def reg():
    net = ss.mlp([4, 3, 2], activation="tanh", label_names=["TEFF", "LOGG"])
    return ss.Regression(net, sigma_noise=[0.3, 0.5], prior_precision=ss.scaled_prior(net, 2.0))


@pytest.fixture(scope="module")
def theta(reg, data):
    return ss.polish(
        reg, 0.3 * np.random.default_rng(1).normal(size=reg.net.n_params), *data[:2]
    ).theta


def fit(reg, theta, data, structure="primal", **options):
    words = {
        "structure": structure,
        "options": options,
        "progress": False,
        "require_minimum": False,
    }
    return ss.fit_laplace(reg, theta, *data[:2], **words)


def logp(model, **values):
    """The model's log density without PyMC's compiler, which takes seconds."""
    return float(
        model.compile_fn(model.logp(jacobian=False), mode="FAST_COMPILE", on_unused_input="ignore")(
            values
        )
    )


def U(reg, theta, X, Y):
    return ss.compile_objective(reg)(theta, X, Y)[0]


def test_compile_logp_is_minus_the_negative_log_posterior(reg, theta, data):
    X, Y, _ = data
    model = ss.pymc_model(reg, X, Y)
    assert_allclose(model.compile_logp()({"theta": theta}), -U(reg, theta, X, Y), rtol=1e-13)
    assert isinstance(model, pm.Model)


@pytest.mark.parametrize("noise", ["sigma", "covariance"])
@pytest.mark.parametrize("which", ["complete", "missing"])
@pytest.mark.parametrize("sizes", [[4, 2], [4, 3, 2], [4, 5, 3, 2]])
def test_the_log_density_is_minus_the_negative_log_posterior(data, noise, which, sizes):
    X, Y = data[0], data[1] if which == "complete" else data[2]
    net = ss.mlp(sizes, activation="tanh")
    words = {"sigma_noise": [0.3, 0.5]} if noise == "sigma" else {"noise_covariance": S}
    reg = ss.Regression(net, prior_precision=ss.scaled_prior(net, 2.0), **words)
    theta = np.random.default_rng(2).normal(size=net.n_params)
    assert_allclose(logp(ss.pymc_model(reg, X, Y), theta=theta), -U(reg, theta, X, Y), rtol=1e-12)


@pytest.mark.parametrize(
    "structure", ["primal", "kronecker", "ekfac", "diagonal", "low_rank", "dual"]
)
def test_whitening_adds_the_log_jacobian_alone(reg, theta, data, structure):
    laplace = fit(reg, theta, data, structure)
    model, whitening = ss.pymc_model(reg, *data[:2], laplace=laplace), find_whitening(laplace)
    z = 0.5 * np.random.default_rng(3).normal(size=theta.size)
    expected = whitening.log_det - U(reg, whitening.find_theta(z), *data[:2])
    assert_allclose(logp(model, theta_whitened=z), expected, rtol=1e-11)


def test_the_last_layer_alone_has_the_density_of_the_whole_with_the_rest_held(reg, theta, data):
    X, Y, _ = data
    laplace = fit(reg, theta, data)
    model = ss.pymc_model(reg, X, Y, laplace=laplace, subset="last_layer")
    free = split_last_layer(reg, theta).free
    whitening = find_last_layer_whitening(laplace, free)
    zs = np.random.default_rng(4).normal(size=(3, free.stop - free.start))
    wholes = [np.r_[theta[: free.start], whitening.find_theta(z)] for z in zs]
    found = [logp(model, theta_whitened=z) for z in zs]
    expected = [-U(reg, whole, X, Y) for whole in wholes]
    assert_allclose(np.diff(found), np.diff(expected), rtol=1e-9)
    assert "features" in model.named_vars
    assert "flux" not in model.named_vars
    assert model.coords["param"] == (
        "dense_1/kernel[0,0]",
        "dense_1/kernel[0,1]",
        "dense_1/kernel[1,0]",
        "dense_1/kernel[1,1]",
        "dense_1/kernel[2,0]",
        "dense_1/kernel[2,1]",
        "dense_1/bias[0]",
        "dense_1/bias[1]",
    )


def test_directions_have_the_density_of_the_whole_along_them(reg, theta, data):
    X, Y, _ = data
    laplace = fit(reg, theta, data)
    model, basis = ss.pymc_model(reg, X, Y, laplace=laplace, subset=3), find_basis(laplace, 3)[0]
    zs = np.random.default_rng(5).normal(size=(3, 3))
    expected = [-U(reg, theta + basis @ z, X, Y) for z in zs]
    assert_allclose(np.diff([logp(model, z=z) for z in zs]), np.diff(expected), rtol=1e-8)


def test_one_variable_a_block(reg, theta, data):
    model = ss.pymc_model(reg, *data[:2], blocks=True)
    values = {name.replace("/", "_"): block for name, block in reg.net.unpack(theta).items()}
    assert_allclose(logp(model, **values), -U(reg, theta, *data[:2]), rtol=1e-12)
    assert model.named_vars_to_dims["dense_0_kernel"] == ("dense_0_input", "dense_0_unit")
    assert [v.name for v in model.free_RVs] == list(values)


def test_a_distribution_can_stand_where_a_number_can(reg, theta, data):
    X, Y, _ = data
    scale, precision = pm.HalfNormal.dist(1.0, shape=2), pm.Gamma.dist(2.0, 1.0)
    prior = {"dense_0": precision, "dense_1/kernel": 3.0, "dense_1/bias": 1.5}
    model = ss.pymc_model(reg, X, Y, sigma_noise=scale, prior_precision=prior)
    sigma, delta = np.array([0.4, 0.2]), 0.7
    given = ss.Regression(reg.net, sigma_noise=sigma, prior_precision=prior | {"dense_0": delta})
    values = {
        "theta": theta,
        "sigma_noise_log__": np.log(sigma),
        "prior_precision_dense_0_log__": np.log(delta),
    }
    priors = pm.logp(pm.HalfNormal.dist(1.0), sigma).sum() + pm.logp(pm.Gamma.dist(2.0, 1.0), delta)
    assert_allclose(
        logp(model, **values), -U(given, theta, X, Y) + priors.eval(mode="FAST_COMPILE"), rtol=1e-12
    )
    assert model.named_vars_to_dims["sigma_noise"] == ("label",)


@pytest.mark.parametrize("subset", ["all", "last_layer", 3])
def test_log_likelihoods_of_draws_are_computed(reg, theta, data, subset):
    X, Y, _ = data
    laplace = fit(reg, theta, data)
    model = ss.pymc_model(reg, X, Y, laplace=laplace, subset=subset)
    (free,) = model.free_RVs
    start = model.initial_point(1)[free.name]
    draws = xr.DataTree.from_dict(
        {"posterior": xr.Dataset({free.name: (("chain", "draw", "param"), start[None, None])})}
    )
    found = pm.compute_log_likelihood(
        draws,
        model=model,
        progressbar=False,
        extend_inferencedata=False,
        compile_kwargs={"mode": "FAST_COMPILE"},
    )
    likelihood = logp(model, **{free.name: start}) - float(
        model.compile_fn(model.varlogp, mode="FAST_COMPILE")({free.name: start})
    )
    assert found["y"].shape == (1, 1, *Y.shape)
    assert_allclose(found["y"].sum(), likelihood, rtol=1e-12)


@pytest.mark.parametrize("scale", [pm.HalfNormal.dist(1.0), pm.HalfNormal.dist(1.0, shape=2)])
def test_a_distribution_of_the_noise_has_dims_that_samplers_take(reg, data, scale):
    model = ss.pymc_model(reg, *data[:2], sigma_noise=scale)
    dims = model.named_vars_to_dims.get("sigma_noise", ())
    assert dims == ("label",) * scale.ndim


def test_whitening_goes_with_a_prior_on_the_prior(reg, theta, data):
    X, Y, _ = data
    laplace = fit(reg, theta, data)
    model = ss.pymc_model(reg, X, Y, laplace=laplace, prior_precision=pm.Gamma.dist(2.0, 1.0))
    z, delta, whitening = np.full(theta.size, 0.1), 0.7, find_whitening(laplace)
    given = ss.Regression(reg.net, sigma_noise=reg.sigma_noise, prior_precision=delta)
    expected = whitening.log_det - U(given, whitening.find_theta(z), X, Y)
    expected += pm.logp(pm.Gamma.dist(2.0, 1.0), delta).eval(mode="FAST_COMPILE")
    assert_allclose(
        logp(model, theta_whitened=z, prior_precision_log__=np.log(delta)), expected, rtol=1e-11
    )


def test_it_joins_a_model_that_is_open(reg, theta, data):
    with pm.Model() as model:
        scale = pm.HalfNormal("scale", 1.0)
        assert ss.pymc_model(reg, *data[:2], sigma_noise=scale * np.array([1.0, 2.0])) is model
    given = ss.Regression(reg.net, sigma_noise=[0.3, 0.6], prior_precision=reg.prior_precision)
    prior = pm.logp(pm.HalfNormal.dist(1.0), 0.3).eval(mode="FAST_COMPILE")
    found = logp(model, theta=theta, scale_log__=np.log(0.3))
    assert_allclose(found, -U(given, theta, *data[:2]) + prior, rtol=1e-12)


@pytest.mark.parametrize("which", [1, 2])
@pytest.mark.parametrize("noise", ["sigma", "covariance"])
def test_data_can_be_swapped_to_predict_new_stars(reg, theta, data, which, noise):
    words = {"sigma_noise": [0.3, 0.5]} if noise == "sigma" else {"noise_covariance": S}
    reg = ss.Regression(reg.net, prior_precision=1.0, **words)
    new = np.random.default_rng(6).normal(size=(7, 4))
    with ss.pymc_model(reg, data[0], data[which]) as model:
        pm.set_data({"flux": new})
        weights = pm.do(model, {"theta": theta})
    draws = pm.draw(weights["y"], draws=4000, random_seed=1, mode="FAST_COMPILE")
    assert draws.shape == (4000, 7, 2)
    # 4,000 draws: means to 5 standard errors, covariances to 5 * sqrt(2 / 4000) of the variances
    se = reg.sigma_noise / np.sqrt(4000)
    assert (np.abs(draws.mean(axis=0) - ss.compile_predict(reg.net)(theta, new)) < 5 * se).all()
    covariance = np.cov((draws - draws.mean(axis=0)).reshape(-1, 2).T)
    limit = 5 * np.sqrt(2 / draws[..., 0].size) * np.outer(reg.sigma_noise, reg.sigma_noise)
    assert (np.abs(covariance - reg.noise_covariance) < limit).all()


def test_whitened_chains_start_from_laplace_draws_each_from_its_own(reg, theta, data):
    laplace = fit(reg, theta, data)
    model = ss.pymc_model(reg, *data[:2], laplace=laplace)
    starts = np.array([model.initial_point(seed)["theta_whitened"] for seed in range(20)])
    assert len(np.unique(starts[:, 0])) == 20
    # unit normals: 20 x 23 of them
    assert abs(starts.mean()) < 5 / np.sqrt(starts.size)
    assert abs(starts.std() - 1) < 5 / np.sqrt(2 * starts.size)


def test_prior_draws_are_those_of_the_prior_whatever_the_coordinates(reg, theta, data):
    laplace = fit(reg, theta, data)
    model = ss.pymc_model(reg, *data[:2], laplace=laplace)
    draws = pm.draw(model["theta"], draws=500, random_seed=2, mode="FAST_COMPILE")
    z = draws * np.sqrt(reg.prior_precision_vector())
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.std() - 1) < 5 / np.sqrt(2 * z.size)


def test_outputs_for_chosen_stars_come_with_every_draw(reg, theta, data):
    X, Y, _ = data
    laplace = fit(reg, theta, data)
    for subset, name in (("all", "theta_whitened"), ("last_layer", "theta_whitened"), (3, "z")):
        model = ss.pymc_model(reg, X, Y, laplace=laplace, subset=subset, X_check=X[:5])
        f = model.compile_fn(model["f"], inputs=[model[name]], mode="FAST_COMPILE", point_fn=False)
        zero = np.zeros(model.initial_point(0)[name].shape)
        assert_allclose(f(zero), ss.compile_predict(reg.net)(theta, X[:5]), rtol=1e-10)
        assert model.named_vars_to_dims["f"] == ("check_star", "label")


def test_options_that_exclude_each_other_are_refused(reg, theta, data):
    X, Y, _ = data
    laplace = fit(reg, theta, data)
    with pytest.raises(
        ss.OptionError, match=r"subset='last_layer' holds the other weights .* give laplace"
    ):
        ss.pymc_model(reg, X, Y, subset="last_layer")
    with pytest.raises(ss.OptionError, match="whitening mixes all parameters: drop one"):
        ss.pymc_model(reg, X, Y, laplace=laplace, blocks=True)
    with pytest.raises(ss.OptionError, match="a subset of directions has a fixed prior"):
        ss.pymc_model(reg, X, Y, laplace=laplace, subset=2, prior_precision=pm.Gamma.dist(2.0, 1.0))
    with pytest.raises(ss.OptionError, match=r"depends on a distribution made by \.dist"):
        ss.pymc_model(reg, X, Y, sigma_noise=2 * pm.HalfNormal.dist(1.0))
    other = ss.Regression(ss.mlp([4, 5, 2]), sigma_noise=1.0, prior_precision=1.0)
    with pytest.raises(ss.OptionError, match="laplace should be of the network of reg"):
        ss.pymc_model(other, X, Y, laplace=laplace)


def test_a_model_without_data_or_of_a_wrong_noise_is_refused(reg, data):
    X, Y, _ = data
    with pytest.raises(ss.DataError, match="flux should hold at least one star"):
        ss.pymc_model(reg, X[:0], Y[:0])
    with pytest.raises(ss.DataError, match="labels should hold numbers, got only missing ones"):
        ss.pymc_model(reg, X, np.full_like(Y, np.nan))
    with pytest.raises(
        ss.DataError, match="sigma_noise is a standard deviation and should be positive"
    ):
        ss.pymc_model(reg, X, Y, sigma_noise=-1.0)
    with pytest.raises(
        ss.OptionError, match=r"prior_precision should name the blocks .*\['dense_9'\] are unknown"
    ):
        ss.pymc_model(reg, X, Y, prior_precision={"dense_0": 1.0, "dense_1": 1.0, "dense_9": 2.0})


def test_spectra_stand_for_flux_and_labels(reg, theta, data):
    X, Y = data[:2]
    stars = ss.Spectra(flux=X, labels=Y, label_names=reg.net.label_names)
    expected = ss.pymc_model(reg, X, Y).compile_logp()({"theta": theta})
    assert ss.pymc_model(reg, stars).compile_logp()({"theta": theta}) == expected
    with pytest.raises(ss.OptionError, match="Y should be left out with Spectra"):
        ss.pymc_model(reg, stars, Y)
