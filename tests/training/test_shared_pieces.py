"""Along kinks: minima known on paper, at vertices too, and shares of pieces in networks."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import lsq_linear

import symspec as ss
from symspec.derivatives.weighted_sums import compile_shared_sum
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.safety.label_errors import add_errors
from symspec.training.steps.boxes import maximize_in_box
from symspec.training.steps.bundles import Place
from symspec.training.steps.pieces import PieceSteps
from symspec.training.steps.shared import find_shared_objective


class Bent:
    """|theta|^2 / 2 + sum of w |c|, with shares m of the side of positive c: w (2 m - 1) c.

    Parameters
    ----------
    weights : array_like, shape (kink,)
    arguments : callable
        c (kink,), and its Jacobian (kink, param), at theta.
    curvatures : callable, optional
        Sum of the second derivatives of c, weighed: (param, param) at weights (kink,).
    """

    def __init__(self, weights, arguments, curvatures=None):
        self.weights = np.array(weights, float)
        self.find = arguments
        self.curvatures = curvatures

    def __call__(self, theta):
        c, J = self.find(theta)
        sides = self.weights * np.where(c > 0, 1.0, -1.0)
        return float(theta @ theta / 2 + sides @ c), theta + sides @ J

    def arguments(self, theta):
        return self.find(theta)[0][None]

    def differentiate(self, theta, shares):
        c, J = self.find(theta)
        slopes = self.weights * (2 * shares[0] - 1)
        by_shares = (2 * self.weights * c)[None]
        return float(theta @ theta / 2 + slopes @ c), theta + slopes @ J, by_shares

    def multiply(self, theta, shares, v):
        if self.curvatures is None:
            return v
        return v + self.curvatures(self.weights * (2 * shares[0] - 1)) @ v

    def rows(self, theta, shares, kinks):
        return (2 * self.weights[:, None] * self.find(theta)[1])[kinks[:, 1]]


def lines_through(point, n, seed=0):
    """Numbers c that all vanish at a point."""
    J = np.random.default_rng(seed).normal(size=(n, len(point)))
    return lambda theta: (J @ (theta - point), J)


def valley(theta):
    """Numbers 1 - x and x^2 - y."""
    x, y = theta
    return np.array([1 - x, x**2 - y]), np.array([[-1.0, 0.0], [2 * x, -1.0]])


MINIMA = {
    "one-kink": (Bent([2.0], lambda t: (t - 0.7, np.eye(1))), [5.0], [0.7]),
    "beside-it": (Bent([0.1], lambda t: (t - 3.0, np.eye(1))), [-4.0], [0.1]),
    "fold": (Bent([1.0], lambda t: (t[:1] - t[1:] - 1.0, np.array([[1.0, -1.0]]))), [4.0, 1.0],
             [0.5, -0.5]),
    "vertex": (Bent([2.0, 2.0], lines_through([0.5, -0.2], 2)), [3.0, 4.0], [0.5, -0.2]),
    "more-kinks-than-parameters": (
        Bent([2.0] * 7, lines_through([0.5, -0.2], 7)), [3.0, 4.0], [0.5, -0.2],
    ),
    "twenty-kinks-of-ten-parameters": (
        Bent([3.0] * 20, lines_through(np.linspace(-1, 1, 10), 20)), np.ones(10),
        np.linspace(-1, 1, 10),
    ),
    "crooked-valley": (
        Bent([5.0, 8.0], valley, lambda w: np.diag([2 * w[1], 0.0])), [-1.2, 1.0], [1.0, 1.0],
    ),
    # along y = x^2 it is x^2 / 2 + x^4 / 2 + 0.1 |1 - x|, least where x + 2 x^3 = 0.1
    "curved-fold": (
        Bent([0.1, 8.0], valley, lambda w: np.diag([2 * w[1], 0.0])), [-1.2, 1.0],
        [0.0981103, 0.0981103**2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MINIMA)
def test_minima_known_on_paper_are_found_and_proved(name):
    bent, start, minimum = MINIMA[name]
    start = np.array(start)
    place = Place(start, *bent(start))
    steps = PieceSteps(bent, bent, lambda theta: np.eye(len(start)), place)
    assert steps.run(1e-12, 200)
    assert steps.decrement <= 1e-12
    assert_allclose(steps.place.theta, minimum, atol=2e-6)
    assert (steps.n_pieces > 1) == (name != "beside-it")


def test_a_saddle_on_a_fold_is_left():
    """|y| - x^2 + x^4 / 2: at the origin, on the fold, U curves down along x."""

    class Saddle(Bent):
        def __call__(self, theta):
            U, g = super().__call__(theta)
            return U - theta @ theta / 2 + self.along(theta[0])[0], g - theta + self.slope(theta)

        def along(self, x):
            return x**4 / 2 - x**2, 2 * x**3 - 2 * x

        def slope(self, theta):
            return np.array([self.along(theta[0])[1], 0.0])

        def differentiate(self, theta, shares):
            U, g, by_shares = super().differentiate(theta, shares)
            U += self.along(theta[0])[0] - theta @ theta / 2
            return U, g - theta + self.slope(theta), by_shares

        def multiply(self, theta, shares, v):
            return np.array([(6 * theta[0] ** 2 - 2) * v[0], 0.0])

    saddle = Saddle([1.0], lambda theta: (theta[1:], np.array([[0.0, 1.0]])))
    start = np.array([0.0, 0.3])
    steps = PieceSteps(saddle, saddle, lambda theta: np.eye(2), Place(start, *saddle(start)))
    assert steps.run(1e-10, 100)
    assert_allclose(np.abs(steps.place.theta), [1.0, 0.0], atol=1e-4)


def test_it_stops_after_the_steps_allowed_and_says_that_nothing_is_proved():
    bent, start, _ = MINIMA["crooked-valley"]
    place = Place(np.array(start), *bent(np.array(start)))
    steps = PieceSteps(bent, bent, lambda theta: np.eye(2), place)
    assert not steps.run(1e-12, 1)
    assert steps.steps == 1


@pytest.mark.parametrize("n", [1, 4, 30])
def test_the_maximum_in_a_box_is_that_of_bounded_least_squares(n):
    rng = np.random.default_rng(n)
    B = rng.normal(size=(n + 2, n))
    b = rng.normal(size=n + 2)
    low = -rng.uniform(size=n)
    high = rng.uniform(size=n)
    x = maximize_in_box(B.T @ B, B.T @ b, low, high, np.zeros(n))
    assert_allclose(x, lsq_linear(B, b, (low, high), tol=1e-14).x, atol=1e-6)


def build(kind):
    if kind == "max-pool":
        layers = [ss.Reshape((6, 1)), ss.Conv1D(2, 2), ss.Activation("tanh")]
        layers += [ss.MaxPool1D(3, padding=1), ss.Flatten(), ss.Dense(2)]
        net = ss.Network(layers, n_pixels=6)
    else:
        net = ss.mlp([6, 5, 4, 2], activation=kind)
    rng = np.random.default_rng(3)
    X = rng.normal(size=(9, 6))
    Y = rng.normal(size=(9, 2))
    Y[2, 1] = np.nan
    reg = ss.Regression(net, sigma_noise=[0.3, 0.5], prior_precision=2.0)
    theta = rng.normal(size=net.n_params)
    return reg, theta, X, Y


@pytest.mark.parametrize("kind", ["relu", "leaky_relu", "clip", "max-pool"])
def test_shares_of_the_choices_made_give_u_itself_and_their_derivatives_are_exact(kind):
    reg, theta, X, Y = build(kind)
    shared = find_shared_objective(InverseBuilder(reg, X, Y))
    c = shared.arguments(theta)
    shares = (c > 0).astype(float)
    U, gradient, _ = shared.differentiate(theta, shares)
    expected, g = ss.compile_objective(reg)(theta, X, Y)
    assert_allclose(U, expected, rtol=1e-12)
    assert_allclose(gradient, g, rtol=1e-10, atol=1e-10)
    H = ss.compile_hessian(reg)(theta, X, Y)
    v = np.random.default_rng(0).normal(size=theta.size)
    assert_allclose(shared.multiply(theta, shares, v), H @ v, rtol=1e-8, atol=1e-8)
    # shares inside their box, at the kinks that are nearest: rows are mixed derivatives
    nearest = np.argsort(np.abs(c), axis=None)[:12]
    kinks = np.stack(np.unravel_index(nearest, c.shape), axis=1)
    shares[tuple(kinks.T)] = 0.5
    slopes = shared.differentiate(theta, shares)[2]
    for kink, row in zip(kinks, shared.rows(theta, shares, kinks), strict=True):
        step = np.zeros_like(shares)
        step[tuple(kink)] = 1e-4
        U_up, g_up, _ = shared.differentiate(theta, shares + step)
        U_down, g_down, _ = shared.differentiate(theta, shares - step)
        # errors of central differences: rounding of U, 1e-12 of some thousand nats, over the step
        assert_allclose((U_up - U_down) / 2e-4, slopes[tuple(kink)], rtol=1e-6, atol=1e-4)
        assert_allclose((g_up - g_down) / 2e-4, row, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    "layer", [ss.Activation("selu"), ss.MedianNormalize()], ids=["selu", "median"]
)
def test_kinks_of_other_kinds_are_not_known(layer):
    net = ss.Network([ss.Dense(4), layer, ss.Dense(2)], n_pixels=3)
    assert compile_shared_sum(net) is None


@pytest.mark.parametrize(
    ("noise", "n_outputs", "error"),
    [(ss.PredictedNoise(), 4, None), (ss.GaussianNoise(sigma=[0.2, 0.3]), 2, 0.1)],
    ids=["predicted", "label-errors"],
)
def test_shares_go_with_other_noises(noise, n_outputs, error):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12, 4))
    Y = rng.normal(size=(12, 2))
    errors = None if error is None else np.full((12, 2), error)
    layers = [ss.Dense(3), ss.Activation("relu"), ss.Dense(n_outputs)]
    reg = ss.Regression(ss.Network(layers, n_pixels=4, n_labels=2), noise=noise, prior_precision=1)
    theta = reg.net.init_params(rng)
    shared = find_shared_objective(InverseBuilder(reg, X, add_errors(Y, errors)))
    U, gradient, _ = shared.differentiate(theta, (shared.arguments(theta) > 0).astype(float))
    expected, g = ss.compile_objective(reg)(theta, X, Y, label_errors=errors)
    assert_allclose(U, expected, rtol=1e-12)
    assert_allclose(gradient, g, rtol=1e-10, atol=1e-10)
