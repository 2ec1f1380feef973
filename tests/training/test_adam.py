"""Adam takes Keras's steps, entry by entry."""

import numpy as np
import pytest
from linear_networks import rng, scalar_adam

from symspec.training import adam as adam_module
from symspec.training.adam import Adam


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
