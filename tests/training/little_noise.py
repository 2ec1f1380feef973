"""A network that could interpolate its stars, from weights far from any minimum."""

import numpy as np

import symspec as ss


def build_problem():
    """Sixty stars of six inputs with little noise, and a network that could interpolate them."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, 6))
    Y = (np.sin(2 * X[:, :1]) + X[:, 1:2] * X[:, 2:3]) + 0.05 * rng.normal(size=(60, 1))
    net = ss.standardized(ss.mlp([6, 12, 1], activation="tanh"), X, Y)
    reg = ss.Regression(
        net, sigma_noise=0.3 * Y.std(axis=0), prior_precision=ss.scaled_prior(net, 1.0)
    )
    return reg, net.init_params(np.random.default_rng(0), "glorot_uniform"), X, Y
