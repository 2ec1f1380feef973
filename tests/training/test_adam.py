"""Adam takes Keras's steps, entry by entry, and the compiled step is that of NumPy."""

import numpy as np
import pytest
from linear_networks import rng, scalar_adam
from scipy.stats import norm

from symspec.networks.network import mlp
from symspec.networks.prior import NormalPrior
from symspec.training import adam as adam_module
from symspec.training.adam import Adam

NET = mlp([3, 2, 1])  # eleven weights
PRIORS = {
    "one number": 0.7,
    "by block": dict(
        zip((block.name for block in NET.layout.blocks), [0.5, 2.0, 0.1, 1.0], strict=True)
    ),
    "one each": np.linspace(0.1, 3.0, 11),
}


def make_adam(dtype="float64", prior=1.0, *, is_compiled=False, **settings):
    n_steps = adam_module.MIN_UPDATES if is_compiled else 0
    return Adam(NormalPrior(prior, NET.layout), dtype, n_steps=n_steps, **settings)


@pytest.fixture(params=[4, 11, 2**16], ids=["blocks", "one block", "a larger block"])
def block(request, monkeypatch):
    """Eleven entries: two full blocks and a part, one, or less than one."""
    monkeypatch.setattr(adam_module, "BLOCK", request.param)
    monkeypatch.setattr(adam_module, "COMPILED_BLOCK", request.param)


@pytest.mark.parametrize("is_compiled", [False, True], ids=["numpy", "compiled"])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adam_steps_are_the_formula_entry_by_entry(block, decay, prior, is_compiled):
    settings = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "decay": decay}
    precision = NormalPrior(PRIORS[prior], NET.layout).vector()
    start, gradients = rng().normal(size=11), rng(1).normal(size=(6, 11))
    adam = make_adam(prior=PRIORS[prior], is_compiled=is_compiled, learning_rate=0.1, **settings)
    theta, expected, m, v = start.copy(), start, None, None
    for n, gradient in enumerate(gradients):
        kept, before = gradient.copy(), theta.copy()
        loss = adam.step(theta, gradient, scale=0.25, weight=0.5)
        whole = 0.25 * (gradient + 0.5 * precision * expected)
        expected, m, v = scalar_adam(expected, [whole], rate=0.1, start=n, m=m, v=v, **settings)
        # rounding of a dozen float64 operations a step
        np.testing.assert_allclose(theta, expected, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(loss, -0.5 * norm.logpdf(before, 0, precision**-0.5).sum())
        np.testing.assert_array_equal(gradient, kept)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("prior", ["one number", "one each"])
def test_the_compiled_step_is_that_of_numpy_to_the_last_bit(dtype, prior):
    net = mlp([30, 20, 2])  # more weights than are taken at once
    n = net.n_params
    precision = {"one number": 0.7, "one each": np.linspace(0.1, 3.0, n)}[prior]
    found = []
    for n_steps in (0, 10**9):
        adam = Adam(NormalPrior(precision, net.layout), dtype, n_steps=n_steps, learning_rate=0.01)
        theta = rng().normal(size=n).astype(dtype)
        for gradient in rng(1).normal(size=(50, n)).astype(dtype):
            adam.step(theta, gradient, 1 / 3, 0.3)
        found.append([theta, adam._m, adam._v])
    np.testing.assert_array_equal(*found)


def test_many_steps_of_many_weights_are_compiled():
    is_compiled = {}
    net = mlp([100, 40, 2])
    for n_steps in (1000, 10**5):
        adam = Adam(NormalPrior(1.0, net.layout), "float32", n_steps=n_steps, learning_rate=0.1)
        is_compiled[n_steps] = adam._update is not adam_module._update
    assert is_compiled == {1000: False, 10**5: True}


def test_first_adam_step_is_the_learning_rate_whatever_the_gradient():
    theta = np.zeros(11)
    gradient = np.array([1e-3, -5.0, 1e4, *np.ones(8)])
    make_adam(learning_rate=0.01, epsilon=1e-12).step(theta, gradient)
    expected = -0.01 * np.sign(gradient)
    np.testing.assert_allclose(theta, expected, rtol=1e-7)  # epsilon / (0.03 * 1e-3)


def test_adam_keeps_float32():
    theta = np.zeros(11, np.float32)
    adam = make_adam("float32", learning_rate=0.01)
    adam.step(theta, np.ones(11, np.float32), 1 / 3, 0.5)
    assert {theta.dtype, adam._m.dtype, adam._v.dtype} == {np.dtype(np.float32)}
