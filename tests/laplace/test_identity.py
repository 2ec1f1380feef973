"""Digests are equal for equal networks and posteriors, and differ with all that they cover."""

from dataclasses import replace

import numpy as np
import pytest

import symspec as ss
from symspec.laplace.identity import hash_network, hash_posterior, hash_weights
from symspec.training.steps.stationary_points import LowestCurvature


def build_network(**changed):
    words = {
        "activation": "relu",
        "mean": 0.0,
        "label_names": ["a", "b"],
        "label_units": ["K", ""],
    } | changed
    layers = [
        ss.Standardize(np.full(4, words["mean"]), np.ones(4)),
        *ss.mlp([4, 3, 2], activation="relu").layers,
    ]
    layers[2] = ss.Activation(words["activation"])
    return ss.Network(layers, 4, label_names=words["label_names"], label_units=words["label_units"])


def test_the_same_network_has_the_same_digest_and_any_other_another():
    net, theta = build_network(), np.arange(23.0)
    assert hash_network(net, theta) == hash_network(build_network(), theta.astype(np.float32))
    others = [
        {"activation": "tanh"},
        {"mean": 1e-9},
        {"label_names": ["a", "c"]},
        {"label_units": ["K", "dex"]},
    ]
    digests = [hash_network(build_network(**other), theta) for other in others]
    digests += [hash_network(net, theta), hash_network(net, np.nextafter(theta, 99))]
    assert len(set(digests)) == len(digests)


@pytest.fixture(scope="module")
def laplace():
    rng = np.random.default_rng(0)
    X, net = rng.normal(size=(30, 4)), build_network()
    reg = ss.Regression(net, sigma_noise=1.0, prior_precision=1.0)
    return ss.fit_laplace(
        reg, net.init_params(rng), X, rng.normal(size=(30, 2)), require_minimum=False
    )


def test_a_posterior_is_known_by_all_that_its_predictions_depend_on(laplace, tmp_path):
    ss.write_laplace(tmp_path / "model.h5", laplace)
    assert hash_posterior(ss.read_laplace(tmp_path / "model.h5")) == hash_posterior(laplace)
    reg, space = laplace.reg, laplace.training_space
    changed = [
        {"theta": laplace.theta + 1e-9},
        {"reg": ss.Regression(reg.net, sigma_noise=1.1, prior_precision=1.0)},
        {"gradient": laplace.gradient + 1e-9},
        {"gradient": None},
        {"flux_mean": laplace.flux_mean + 1e-9},
        {"label_range": laplace.label_range + 1e-9},
        {"dtype": "float32"},
        {"hmc_verdict": ("agree", "Laplace too small")},
        {"training_space": None},
        {"training_space": replace(space, quantiles=space.quantiles * 1.1)},
        {"training_flux_cov": np.stack([np.eye(laplace.net.n_labels)] * 2)},
        {"exact_step": np.ones_like(laplace.theta)},
    ]
    digests = [hash_posterior(replace(laplace, **change)) for change in changed]
    assert len({*digests, hash_posterior(laplace)}) == len(changed) + 1


def test_the_weights_are_known_by_their_normal_distribution_alone(laplace):
    reg = laplace.reg
    others = [
        {"theta": laplace.theta + 1e-9},
        {"reg": ss.Regression(reg.net, sigma_noise=1.1, prior_precision=1.0)},
        {"reg": ss.Regression(reg.net, sigma_noise=1.0, prior_precision=1.1)},
        {"curvature": "hessian"},
        {"structure": "kronecker"},
    ]
    changed = [replace(laplace, **other) for other in others]
    assert len({hash_weights(one) for one in (laplace, *changed)}) == len(others) + 1
    # a posterior of other weights predicts other numbers
    assert len({hash_posterior(one) for one in (laplace, *changed)}) == len(others) + 1
    marked = replace(laplace, hmc_verdict=("agree", "Laplace too small"), backend="numba")
    assert hash_weights(marked) == hash_weights(laplace)
    assert hash_posterior(marked) != hash_posterior(laplace)


def test_stored_digests_stay_as_they_are():
    """Draws and catalogues hold them; computed by the first version that stored any."""
    net = ss.Network(ss.mlp([2, 1]).layers, 2)
    reg = ss.Regression(net, sigma_noise=0.5, prior_precision=2.0)
    X = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    zeros = np.zeros(3)
    laplace = ss.LaplacePosterior(
        reg=reg,
        theta=np.array([1.0, 2.0, 3.0]),
        inverse_hessian=DigestedInverse(),
        certificate=ss.Certificate(
            gradient_norm=0.0,
            newton_decrement=0.0,
            newton_shift=zeros[:1],
            lowest=LowestCurvature(
                smallest_ratio=1.0,
                smallest_ratio_error=0.0,
                smallest_eigenvalue=1.0,
                eigenvalue_error=0.0,
                missed=0.0,
            ),
        ),
        negative_log_posterior=0.0,
        curvature="ggn",
        structure="primal",
        reason="",
        flux_mean=X[0],
        label_range=X[:2, :1],
    )
    assert hash_network(net, laplace.theta) == "3dd9fa1f2b6a5cf2c60a2e36bb3627e3"
    assert hash_weights(laplace) == "709e99e7c5a5841202b6d23f55fd41e0"
    assert hash_posterior(laplace) == "887843cd991b0d451bd4cc0ccfd3f108"


class DigestedInverse:
    """The part of an inverse Hessian that digests are taken of."""

    def arrays(self):
        return {"cholesky": np.eye(3)}
