"""What changes of the flux do to labels, many at once."""

import numpy as np
import pytest

import symspec as ss
from symspec.derivatives.span import compile_response

NETS = {
    "a dense first layer": ss.mlp([7, 4, 2], activation="tanh"),
    "standardised": ss.Network(
        [ss.Standardize(np.ones(7), np.full(7, 2.0)), ss.Dense(4), ss.Activation("tanh")], 7
    ),
    "a layer before": ss.Network([ss.Activation("tanh"), ss.Dense(2)], 7),
}


@pytest.mark.parametrize("name", NETS)
def test_changes_are_those_of_the_network(name):
    net = NETS[name]
    rng = np.random.default_rng(0)
    theta = net.init_params(rng)
    X, errors = rng.normal(size=(3, 7)), rng.normal(size=(5, 3, 7))
    response = compile_response(net, theta)(X)
    predict, jacobian = ss.compile_predict(net), ss.compile_jacobian(net)
    for stars in (np.arange(3), np.array([2, 0])):
        picked = response.pick(stars)
        found = picked.find_changes(errors[:, stars])
        for e, linear, below, above in zip(errors[:, stars], *found, strict=True):
            J = jacobian(theta, X[stars])
            np.testing.assert_allclose(linear, np.einsum("ncp,np->nc", J, e), atol=1e-13)
            np.testing.assert_allclose(below, predict(theta, X[stars] - e), atol=1e-13)
            np.testing.assert_allclose(above, predict(theta, X[stars] + e), atol=1e-13)
