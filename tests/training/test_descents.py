"""Turns of L-BFGS before Newton's steps: they lower U, and lead to what is proved a minimum."""

from functools import partial

import numpy as np
import pytest
from little_noise import build_problem

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.training import marginal_likelihood
from symspec.training.descents import STEPS, DenseTurn, ProductTurn, choose_turns, descend

TURNS = [DenseTurn, ProductTurn]


@pytest.fixture(scope="module")
def problem():
    return build_problem()


def find_decrement(reg, theta, X, Y):
    """Of Gauss-Newton, from dense matrices."""
    _, g = ss.compile_objective(reg)(theta, X, Y)
    return 0.5 * g @ np.linalg.solve(ss.compile_ggn(reg)(theta, X, Y), g)


@pytest.mark.parametrize("find_turn", TURNS)
def test_a_turn_tells_the_decrement_and_lowers_u(problem, find_turn):
    reg, theta, X, Y = problem
    objective = ss.compile_objective(reg)
    counted = []

    def count(theta):
        counted.append(theta)
        return objective(theta, X, Y)

    told = []
    turn = find_turn(count, InverseBuilder(reg, X, Y), theta, lambda *step: told.append(step))
    # Cholesky factors of G whose condition is 1e6 keep nine digits
    assert turn.decrement == pytest.approx(find_decrement(reg, theta, X, Y), rel=1e-9)
    end, n_steps = turn.run()
    assert n_steps == STEPS < len(counted) < 10 * STEPS
    assert [step for step, *_ in told] == list(range(STEPS))
    values = [U for _, U, _ in told] + [objective(end, X, Y)[0]]
    assert values[0] == objective(theta, X, Y)[0] > values[-1] + 10
    assert (np.diff(values) <= 0).all()
    assert {decrement for *_, decrement in told} == {turn.decrement}


@pytest.mark.parametrize("find_turn", TURNS)
def test_turns_end_below_the_tolerance_or_where_they_are_over(problem, find_turn):
    reg, theta, X, Y = problem
    objective = partial(ss.compile_objective(reg), X=X, Y=Y)
    go = partial(descend, find_turn, objective, InverseBuilder(reg, X, Y))
    end = go(theta, 25, 1e-3)
    assert end.is_near
    assert 1 < end.n_turns < 25
    assert STEPS < end.n_steps <= STEPS * end.n_turns
    assert find_decrement(reg, end.theta, X, Y) <= 1e-3
    assert go(end.theta, 25, 1e-3).n_turns == 0
    first = go(theta, 1, 1e-3)
    assert first.n_turns == 1
    assert not first.is_near
    assert find_decrement(reg, first.theta, X, Y) > 1e-3


@pytest.mark.parametrize("find_turn", TURNS)
def test_turns_end_where_no_step_lowers_u(problem, find_turn):
    reg, theta, X, Y = problem
    _, gradient = ss.compile_objective(reg)(theta, X, Y)
    builder = InverseBuilder(reg, X, Y)
    end = descend(find_turn, lambda _: (1.0, gradient), builder, theta, 25, 0.0)
    assert (end.n_turns, end.n_steps, end.is_near) == (1, 0, False)
    np.testing.assert_array_equal(end.theta, theta)


def test_polish_ends_where_the_tolerance_is_below_rounding(problem):
    reg, theta, X, Y = problem
    result = ss.polish(reg, theta, X, Y, tolerance=1e-40, progress=False)
    assert result.reason == "no step lowers U"
    assert find_decrement(reg, result.theta, X, Y) < 1e-15


@pytest.mark.filterwarnings("ignore::symspec.SeveralMaximaWarning")
@pytest.mark.parametrize("structure", ["primal", "dual"])
def test_without_dense_matrices_tune_ends_at_a_minimum_too(problem, structure, monkeypatch):
    monkeypatch.setattr(marginal_likelihood, "DENSE_PARAMS", 0)
    reg, theta, X, Y = problem
    seen = []
    found, theta = ss.tune(
        reg, theta, X, Y, tolerance=0.1, structure=structure, progress=False,
        callback=lambda _, at: seen.append(at),
    )  # fmt: skip
    assert find_decrement(found, theta, X, Y) < 1e-10
    H = ss.compile_hessian(found)(theta, X, Y)
    assert np.linalg.eigvalsh(H)[0] > 0
    best = max(at.log_marginal_likelihood for at in seen if at.is_minimum)
    laplace = ss.fit_laplace(found, theta, X, Y, require_minimum=True)
    # weights are within the root of 2e-6 of their deviations, which F knows to first order
    assert laplace.log_marginal_likelihood() == pytest.approx(best, abs=1e-5)


def test_kinks_and_networks_whose_steps_do_not_fit_are_left_to_newton():
    smooth, kinked, large, linear = (
        ss.mlp(widths, activation=activation)
        for widths, activation in [
            ([6, 12, 1], "tanh"), ([6, 12, 1], "relu"), ([7213, 128, 3], "tanh"), ([6, 1], "tanh"),
        ]
    )  # fmt: skip
    assert choose_turns(smooth, is_dense=True) is DenseTurn
    assert choose_turns(smooth, is_dense=False) is ProductTurn
    assert choose_turns(kinked, is_dense=False) is None
    assert choose_turns(large, is_dense=False) is None
    assert choose_turns(linear, is_dense=True) is None
