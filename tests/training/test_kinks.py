"""At kinks: minima that are known on paper, and ReLU networks below whose end nothing is found."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize, nnls

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.training.steps.bundles import Bundle, Place, find_least
from symspec.training.steps.kinks import go_on, minimize_at_kinks

SIGN = {True: 1.0, False: -1.0}


def absolute(x):
    return abs(x[0]), np.sign(x) + (x == 0)


def ridge(x):
    """max(|x|, y^2)."""
    if abs(x[0]) > x[1] ** 2:
        return abs(x[0]), np.array([SIGN[x[0] > 0], 0.0])
    return x[1] ** 2, np.array([0.0, 2 * x[1]])


def crooked_valley(x):
    """|1 - x| + 8 |x^2 - y|, least at (1, 1)."""
    side = SIGN[x[0] > 1]
    above = 8 * SIGN[x[0] ** 2 > x[1]]
    value = abs(1 - x[0]) + 8 * abs(x[0] ** 2 - x[1])
    return value, np.array([side + 2 * above * x[0], -above])


def folded(x):
    """(x - 3)^2 + |y - x|, least at (3, 3): a bowl along a fold."""
    side = SIGN[x[1] > x[0]]
    return (x[0] - 3) ** 2 + abs(x[1] - x[0]), np.array([2 * (x[0] - 3) - side, side])


def roof(x):
    """x^2 - |x|: a kink at 0 that leads down on both sides."""
    return x[0] ** 2 - abs(x[0]), np.array([2 * x[0] - SIGN[x[0] > 0]])


def slope_with_step(x):
    """|x| + 2 x + x^2 / 100: a kink at 0 on the way down to -50."""
    return abs(x[0]) + 2 * x[0] + 0.01 * x[0] ** 2, np.array([SIGN[x[0] > 0] + 2 + 0.02 * x[0]])


def pyramid(x):
    """The largest of |x_i| and its own square, in five dimensions."""
    i = int(np.argmax(np.abs(x)))
    gradient = np.zeros_like(x)
    gradient[i] = np.sign(x[i]) + 2 * x[i]
    return abs(x[i]) + x[i] ** 2, gradient


MINIMA = {
    "absolute": (absolute, [1.7], [0.0], True),
    "ridge": (ridge, [0.3, -2.0], [0.0, 0.0], None),  # the piece y^2 has no gradient there
    "crooked-valley": (crooked_valley, [-1.2, 1.0], [1.0, 1.0], True),
    "folded": (folded, [-2.0, 5.0], [3.0, 3.0], True),
    "roof-from-its-ridge": (roof, [0.0], [-0.5], False),
    "slope-from-its-step": (slope_with_step, [0.0], [-50.0], False),
    "pyramid": (pyramid, [1.0, -0.4, 0.3, 0.9, -2.0], [0.0] * 5, True),
}


@pytest.mark.parametrize("scale", [1.0, 30.0], ids="inverse x {}".format)
@pytest.mark.parametrize("name", MINIMA)
def test_minima_known_on_paper_are_found_and_proved(name, scale):
    objective, start, minimum, is_kink = MINIMA[name]
    inverse = scale * np.eye(len(start))
    found = minimize_at_kinks(
        objective, lambda theta: inverse, np.array(start), tolerance=1e-8, max_steps=2000
    )
    assert found.is_stationary
    assert found.decrement <= 1e-8
    # the ball's radius is at most 1e-3 in the norm of the inverse's inverse
    assert_allclose(found.place.theta, minimum, atol=2e-3 * np.sqrt(scale))
    assert objective(found.place.theta)[0] == found.place.U
    assert is_kink in (None, found.n_pieces > 1)


@pytest.mark.parametrize("name", ["roof-from-its-ridge", "slope-from-its-step"])
def test_a_kink_that_is_no_minimum_is_left_not_proved(name):
    objective, start, _, _ = MINIMA[name]
    place = Place(np.array(start), *objective(np.array(start)))
    bundle = Bundle(place, np.eye(1))
    lower = bundle.settle(objective, 1e-3, 1e-8)
    assert lower.U < place.U - 1e-4
    assert bundle.decrement > 0.1


def test_a_proof_holds_within_its_ball_only():
    """Two millimetres beside the fold of |x| the ball of one sees the slope."""
    place = Place(np.array([2e-3]), *absolute(np.array([2e-3])))
    beside = Bundle(place, np.eye(1))
    lower = beside.settle(absolute, 1e-3, 1e-8)
    assert pytest.approx(1e-3) == lower.U
    assert pytest.approx(0.0, abs=1e-12) == go_on(absolute, place, lower).U
    assert beside.decrement == 0.5
    inside = Place(np.array([2e-4]), *absolute(np.array([2e-4])))
    bundle = Bundle(inside, np.eye(1))
    assert bundle.settle(absolute, 1e-3, 1e-8) is None
    assert bundle.decrement == 0.0
    assert bundle.n_pieces == 2


def test_a_look_ends_with_the_calls_allowed():
    calls = []

    def count(theta):
        calls.append(theta)
        return absolute(theta)

    place = Place(np.array([2e-4]), *absolute(np.array([2e-4])))
    bundle = Bundle(place, np.eye(1))
    assert bundle.settle(count, 1e-3, 1e-8, max_calls=0) is None
    assert calls == []
    assert bundle.decrement == 0.5


def test_it_stops_after_the_steps_allowed_and_says_that_nothing_is_proved():
    found = minimize_at_kinks(
        crooked_valley,
        lambda theta: np.eye(2),
        np.array([-1.2, 1.0]),
        tolerance=1e-8,
        max_steps=5,
    )
    assert found.steps == 5
    assert not found.is_stationary
    assert found.decrement > 1e-8


@pytest.mark.parametrize("n", [1, 2, 5, 30])
@pytest.mark.parametrize("shift", [0.0, 3.0], ids=["around-zero", "beside-zero"])
def test_the_least_element_is_that_of_nonnegative_least_squares(n, shift):
    rng = np.random.default_rng(n)
    vectors = rng.normal(size=(n, 8)) + shift
    weights = find_least(vectors @ vectors.T, np.eye(n)[0])
    assert weights.min() >= 0
    assert_allclose(weights.sum(), 1.0, rtol=1e-12)
    # min |V' x|^2 + (1 - sum x)^2 over x >= 0 has its minimum along the same weights
    x, _ = nnls(np.vstack([vectors.T, np.ones(n)]), np.append(np.zeros(8), 1.0))
    least = vectors.T @ (x / x.sum())
    found = vectors.T @ weights
    assert_allclose(found @ found, least @ least, rtol=1e-5, atol=1e-12)


def test_vectors_that_depend_on_each_other_have_a_least_element():
    vectors = np.array([[1.0, 1.0], [1.0, 1.0], [-1.0, 1.0], [3.0, 1.0], [0.0, 1.0]])
    weights = find_least(vectors @ vectors.T, np.eye(5)[0])
    assert_allclose(vectors.T @ weights, [0.0, 1.0], atol=1e-6)


def build_problem(activation, hidden, n_stars=60):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_stars, 4))
    Y = np.c_[np.sin(X[:, 0]) + X[:, 1] * X[:, 2], np.abs(X[:, 3]) - X[:, 0]]
    if activation == "max-pool":
        layers = [ss.Reshape((4, 1)), ss.Conv1D(2, 2, padding="same"), ss.Activation("tanh")]
        layers += [ss.MaxPool1D(2), ss.Flatten(), ss.Dense(2)]
        net = ss.Network(layers, n_pixels=4)
    else:
        net = ss.mlp([4, *hidden, 2], activation=activation)
    reg = ss.Regression(net, sigma_noise=0.2, prior_precision=1.0)
    theta = net.init_params(np.random.default_rng(1))
    return SimpleNamespace(reg=reg, X=X, Y=Y, theta=theta)


NETWORKS = {
    "relu": lambda: build_problem("relu", [6]),
    "leaky-relu": lambda: build_problem("leaky_relu", [5]),
    "clip": lambda: build_problem("clip", [5]),
    "max-pool": lambda: build_problem("max-pool", []),
}


@pytest.mark.parametrize(
    ("name", "is_dense"),
    [("relu", True), ("leaky-relu", True), ("clip", True), ("max-pool", True), ("relu", False)],
)
def test_from_a_random_start_no_direction_leads_down_from_the_end(name, is_dense, monkeypatch):
    if not is_dense:  # the metric of larger networks
        monkeypatch.setattr("symspec.training.steps.kinks.DENSE_PARAMS", 0)
    p = NETWORKS[name]()
    result = ss.polish(p.reg, p.theta, p.X, p.Y)
    assert result.converged, result.reason
    assert result.newton_decrement <= 1e-6
    objective = ss.compile_objective(p.reg)
    U, g = objective(result.theta, p.X, p.Y)
    assert_allclose(result.negative_log_posterior, U, rtol=1e-12)
    inverse = InverseBuilder(p.reg, p.X, p.Y, structure="primal").build(result.theta)
    assert result.at_kink == ("kink" in result.reason)
    assert result.at_kink == (g @ (inverse @ g) / 2 > 1e-6)
    directions = inverse.draw(200, np.random.default_rng(2)) / np.sqrt(p.theta.size)
    for step in directions:
        for length in (1e-2, 1e-3, 1e-4):
            # the ball of the proof is one of 1e-3: what it may miss is below 1e-3 times |g_*|
            assert objective(result.theta + length * step, p.X, p.Y)[0] > U - 2e-6
    # and L-BFGS-B, which knows no kinks, finds nothing below from there
    further = minimize(lambda theta: objective(theta, p.X, p.Y), result.theta, jac=True)
    assert further.fun > U - 1e-4


def test_kinks_are_where_relu_networks_end():
    p = NETWORKS["leaky-relu"]()
    assert ss.polish(p.reg, p.theta, p.X, p.Y).at_kink


@pytest.mark.parametrize(
    ("layer", "is_smooth"),
    [
        (ss.Activation("relu"), False),
        (ss.Activation("leaky_relu"), False),
        (ss.Activation("clip"), False),
        (ss.Activation("selu"), False),
        (ss.Activation("elu"), True),
        (ss.Activation("elu", {"alpha": 0.5}), False),
        (ss.Activation("tanh"), True),
        (ss.Activation("gelu"), True),
        (ss.MedianNormalize(), False),
    ],
    ids=lambda value: getattr(value, "function", None) or str(value),
)
def test_a_layer_knows_whether_it_has_kinks(layer, is_smooth):
    assert layer.is_smooth == is_smooth
    assert ss.Network([ss.Dense(4), layer, ss.Dense(2)], n_pixels=3).is_smooth == is_smooth
    # before all weights nothing kinks that training moves
    assert ss.Network([layer, ss.Dense(4), ss.Dense(2)], n_pixels=3).is_smooth
    pooled = [ss.Reshape((4, 1)), ss.Conv1D(2, 2), ss.MaxPool1D(2), ss.Flatten(), ss.Dense(2)]
    assert not ss.Network(pooled, n_pixels=4).is_smooth
