"""The evidence counts at minima alone: the climb, its ends, several starts, and what is said."""

from dataclasses import replace

import numpy as np
import pytest
from little_noise import build_problem
from scipy.linalg import eigh

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.training import marginal_likelihood
from symspec.training.climb import Point, _find_step, climb
from symspec.training.hyperparameters import Hyperparameters
from symspec.training.marginal_likelihood import MarginalLikelihood

LIMITS = np.full(2, 9.0)
TOP = np.array([1.5, -0.8])
CURVATURE = np.array([[40.0, 6.0], [6.0, 3.0]])


def make_point(h, F, gradient, *, is_certain=True):
    curvature = np.diag(np.diag(CURVATURE))
    return Point(h=h, F=F, gradient=gradient, curvature=curvature, is_certain=is_certain,
                 theta=h, n_effective={})  # fmt: skip


def smooth(h, theta, is_near=False):
    off = h - TOP
    return make_point(h, -0.5 * off @ CURVATURE @ off, -CURVATURE @ off)


def end_at_fold(beyond):
    """The smooth F up to h_0 = 0.7; what is beyond differs in F, or is no minimum."""

    def evaluate(h, theta, is_near=False):
        there = smooth(h, theta)
        return there if h[0] < 0.7 else beyond(there)

    return evaluate


def test_the_climb_ends_at_the_maximum():
    seen = []

    def evaluate(h, theta, is_near=False):
        seen.append(h)
        return smooth(h, theta)

    end, is_end = climb(evaluate, smooth(np.zeros(2), None), LIMITS, 1e-6, 40)
    assert not is_end
    assert end.F > -1e-4
    assert len(seen) < 30


def test_the_noise_goes_first():
    seen = []

    def evaluate(h, theta, is_near=False):
        seen.append(h)
        return smooth(h, theta)

    end, _ = climb(evaluate, smooth(np.zeros(2), None), LIMITS, 1e-6, 40, np.array([True, False]))
    assert seen[0][1] == 0 != seen[0][0]
    assert end.F > -1e-4


@pytest.mark.parametrize("seed", range(40))
def test_a_step_that_meets_limits_still_promises_a_gain(seed):
    """Entries are coupled: cut off at its limit, a step of one made those of others a loss."""
    rng = np.random.default_rng(seed)
    limits = np.array([1.0, 2.0, 9.0])
    # near their limits, most of them
    h = limits * rng.choice([-1, 1], size=3) * rng.uniform(0, 1, size=3) ** 0.1
    root = rng.normal(size=(3, 3))
    B = root @ root.T + 1e-2 * np.eye(3)
    here = replace(smooth(np.zeros(2), None), h=h, gradient=rng.normal(size=3))
    step, promised = _find_step(here, B, np.full(3, True), limits, 0.5)
    assert (np.abs(h + step) <= limits + 1e-12).all()
    assert np.abs(step).max() <= 0.5 + 1e-12
    assert promised == pytest.approx(here.gradient @ step - 0.5 * step @ B @ step)
    assert promised > 0


def test_the_climb_stays_within_the_limits():
    limits = np.array([0.5, 0.5])
    end, is_end = climb(smooth, smooth(np.zeros(2), None), limits, 1e-6, 40)
    # the maximum on the box: h_0 at its edge, h_1 where the slope vanishes or at its edge
    np.testing.assert_allclose(end.h, [0.5, 0.5], atol=1e-6)
    assert not is_end


@pytest.mark.parametrize(
    "beyond",
    [
        lambda there: replace(there, F=there.F - 100.0),
        lambda there: replace(there, F=there.F + 100.0, is_certain=False),
    ],
    ids=["another minimum of less evidence", "no minimum"],
)
def test_beyond_a_fold_nothing_counts_that_is_lower_or_no_minimum(beyond):
    start = smooth(np.zeros(2), None)
    end, is_end = climb(end_at_fold(beyond), start, LIMITS, 1e-3, 60)
    assert is_end
    assert end.is_certain
    assert start.F < end.F == smooth(end.h, None).F
    assert end.h[0] < 0.7


def test_another_minimum_of_more_evidence_is_followed():
    evaluate = end_at_fold(lambda there: replace(there, F=there.F + 5.0))
    end, is_end = climb(evaluate, smooth(np.zeros(2), None), LIMITS, 1e-6, 60)
    assert not is_end
    assert end.F > 5.0 - 1e-4


def test_a_search_that_ends_high_above_goes_on():
    """It is given up where it would take long, unless much is to be gained there."""
    briefly = []

    def evaluate(h, theta, is_near=False):
        there = smooth(h, theta)
        high = replace(there, F=there.F + 20.0, is_certain=not is_near)
        briefly.append(is_near)
        return high if h[0] >= 0.7 else there

    end, is_end = climb(evaluate, smooth(np.zeros(2), None), LIMITS, 1e-6, 60)
    assert not is_end
    assert end.F > 19.9
    assert briefly[0]
    assert not all(briefly)


@pytest.mark.parametrize("is_certain", [True, False])
def test_what_was_known_roughly_counts_exactly_before_a_step_is_refused(is_certain):
    """Roughly F may be too large, and of weights on the way down a valley without a near end."""

    def evaluate(h, theta, is_near=False):
        there = smooth(h, theta)
        return there if h.any() else replace(there, is_certain=is_certain)

    start = smooth(np.zeros(2), None)
    start = replace(start, F=start.F + 100.0, is_rough=True)
    end, is_end = climb(evaluate, start, LIMITS, 1e-6, 40, np.array([True, False]))
    assert not is_end
    assert end.is_certain
    assert not end.is_rough
    assert end.F > -1e-4


def test_a_step_that_is_refused_tells_of_the_curvature():
    """What F was thought to gain by it is known better: the next step ends where F is largest."""
    seen = []

    def evaluate(h, theta=None, is_near=False):
        seen.append(h)
        return make_point(
            h, 4 * h[0] - 10 * h[0] ** 2 - 0.5 * h[1] ** 2, np.array([4 - 20 * h[0], -h[1]])
        )

    start = replace(evaluate(np.zeros(2)), curvature=np.eye(2))
    end, _ = climb(evaluate, start, LIMITS, 1e-6, 40)
    assert seen[1][0] == 0.5
    np.testing.assert_allclose(seen[2], [0.2, 0], atol=1e-12)
    np.testing.assert_allclose(end.F, 0.4)
    assert len(seen) == 3


def test_entries_that_join_the_noise_begin_with_short_steps():
    seen = []

    def evaluate(h, theta=None, is_near=False):
        seen.append(h)
        off = h - np.array([1.0, 2.0])
        curvature = np.diag([100.0, 10.0])
        return make_point(h, -0.5 * off @ curvature @ off, -curvature @ off)

    end, _ = climb(evaluate, evaluate(np.zeros(2)), LIMITS, 1e-6, 40, np.array([True, False]))
    first, second = [h for h in seen if h[1]][:2]
    assert first[1] == pytest.approx(0.25)
    assert second[1] - first[1] == pytest.approx(0.6)  # the first gained what was promised
    np.testing.assert_allclose(end.h, [1, 2], atol=1e-3)


def test_noise_that_leads_no_higher_leads_no_longer():
    seen = []

    def evaluate(h, theta, is_near=False):
        seen.append(h)
        there = smooth(h, theta)
        return replace(there, F=there.F - 50.0) if h[1] == 0 else there

    end, _ = climb(evaluate, smooth(np.zeros(2), None), LIMITS, 1e-6, 40, np.array([True, False]))
    assert [h[1] == 0 for h in seen[:2]] == [True, False]
    assert end.F > -1e-4


@pytest.fixture(scope="module")
def problem():
    return build_problem()


def find_evidence(reg, theta, X, Y):
    """Laplace's, and proof from dense matrices that it is taken at a minimum."""
    G, H = (compile_it(reg)(theta, X, Y) for compile_it in (ss.compile_ggn, ss.compile_hessian))
    _, g = ss.compile_objective(reg)(theta, X, Y)
    assert 0.5 * g @ np.linalg.solve(G, g) < 1e-10
    assert eigh(H, G, eigvals_only=True)[0] > 0
    return ss.fit_laplace(reg, theta, X, Y, require_minimum=True).log_marginal_likelihood()


@pytest.mark.filterwarnings("ignore::symspec.SeveralMaximaWarning")
def test_a_network_of_many_minima_ends_at_one_and_further_starts_lose_nothing(problem):
    reg, theta, X, Y = problem
    steps = []
    words = {"tolerance": 0.1, "max_evaluations": 15, "progress": False}
    evidence = find_evidence(*ss.tune(reg, theta, X, Y, **words), X, Y)
    words["progress"] = lambda *step, **news: steps.append(news)
    several = ss.tune(reg, theta, X, Y, starts=3, **words)
    assert find_evidence(*several, X, Y) >= evidence - 1e-6
    again = ss.tune(reg, theta, X, Y, starts=3, **words | {"progress": False})
    np.testing.assert_array_equal(again[1], several[1])
    assert [news["start"] for news in steps[1:]] == sorted(news["start"] for news in steps[1:])
    best = {}
    for news in steps[1:-1]:
        if news["decrement"] < 1e-9:
            start = news["start"]
            best[start] = max(best.get(start, -np.inf), news["log_evidence"])
    assert set(best) == {1, 2, 3}
    assert steps[-1]["log_evidence"] == pytest.approx(max(best.values()), abs=1e-6)
    assert steps[-1]["spread"] == pytest.approx(max(best.values()) - min(best.values()), abs=1e-6)


def follow_starts(reg, theta, X, Y, **words):
    """What `tune` returns, the evidences at minima, and the first prior of each climb."""
    seen = []
    found = ss.tune(reg, theta, X, Y, callback=lambda *at: seen.append(at), progress=False, **words)
    name = next(iter(reg.prior_precision))
    priors = [
        float(at.prior_precision[name])
        for at, _ in seen
        if np.array_equal(at.sigma_noise, reg.sigma_noise)
    ]
    evidences = [at.log_marginal_likelihood for _, at in seen if at.is_minimum]
    return found, evidences, list(dict.fromkeys(priors))


def build_far_prior(factor):
    """A network that could interpolate its stars, and a prior `factor` times what is usual."""
    rng = np.random.default_rng(4)
    X = rng.normal(size=(60, 4))
    Y = np.c_[np.sin(2 * X[:, 0]) + X[:, 1], X[:, 2] * X[:, 3]] + 0.1 * rng.normal(size=(60, 2))
    net = ss.standardized(ss.mlp([4, 6, 2], activation="tanh"), X, Y)
    prior = ss.scaled_prior(net, factor)
    reg = ss.Regression(net, sigma_noise=0.3 * Y.std(axis=0), prior_precision=prior)
    return reg, net.init_params(rng, "glorot_uniform"), X, Y


def test_where_the_prior_was_far_off_priors_between_are_starts_too():
    reg, theta, X, Y = build_far_prior(10.0)
    (found, weights), evidences, priors = follow_starts(reg, theta, X, Y)
    assert find_evidence(found, weights, X, Y) == pytest.approx(max(evidences), abs=1e-3)
    changes = np.log(priors) - np.log(priors[0])
    assert changes[2] == pytest.approx(1.5 * changes[1])  # three quarters of the way, and half
    assert len(changes) == 3
    assert changes[1] < -0.5 * np.log(10)
    assert len(follow_starts(found, weights, X, Y)[2]) == 1


def test_every_other_start_has_a_weaker_prior():
    reg, theta, X, Y = build_far_prior(30.0)
    one = follow_starts(reg, theta, X, Y)
    several = follow_starts(reg, theta, X, Y, starts=3)
    assert len(one[2]) == 1
    assert several[2] == pytest.approx([one[2][0], one[2][0] / 10])
    # where the prior is too strong, what is found first says that the spectra tell nothing
    assert find_evidence(*several[0], X, Y) > find_evidence(*one[0], X, Y) + 20


def test_weights_at_no_minimum_are_told_with_the_numbers(problem, monkeypatch):
    search = marginal_likelihood.minimize_by_descents

    def stop_early(*args, **words):
        result, inverse = search(*args, **words)
        stuck = {"converged": False, "newton_decrement": 0.25, "reason": "no step lowers U"}
        return replace(result, **stuck), inverse

    monkeypatch.setattr(marginal_likelihood, "minimize_by_descents", stop_early)
    reg, theta, X, Y = problem
    with pytest.warns(ss.NotAtMinimumWarning, match=r"no step lowers U \(decrement 0\.25 nats\)"):
        ss.tune(reg, theta, X, Y, max_evaluations=2, progress=False)


def test_where_a_weak_prior_has_no_minimum_within_reach_a_stronger_one_has(monkeypatch):
    monkeypatch.setattr(marginal_likelihood, "FAR_TURNS", 2)
    rng = np.random.default_rng(3)
    X = rng.normal(size=(20, 3))
    Y = np.sin(X[:, :1]) + 0.3 * rng.normal(size=(20, 1))
    net = ss.standardized(ss.mlp([3, 5, 2], activation="tanh", n_labels=1), X, Y)
    prior = ss.scaled_prior(net, 0.01)
    reg = ss.Regression(net, noise=ss.PredictedNoise(), prior_precision=prior)
    seen = []
    theta = net.init_params(rng)
    words = {"tolerance": 0.1, "progress": False, "callback": lambda _, at: seen.append(at)}
    found, theta = ss.tune(reg, theta, X, Y, **words)
    assert not seen[0].is_minimum
    best = max(at.log_marginal_likelihood for at in seen if at.is_minimum)
    assert find_evidence(found, theta, X, Y) == pytest.approx(best, abs=1e-6)
    assert all(found.prior_precision[name] > 10 * prior[name] for name in prior)


def test_starts_are_counted(problem):
    reg, theta, X, Y = problem
    with pytest.raises(ss.OptionError, match="starts should be a positive integer, got 0"):
        ss.tune(reg, theta, X, Y, starts=0)


def build_saddle():
    """A tanh network of labels of mean zero: at theta = 0 U has no slope, and falls along pairs."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(30, 3))
    Y = X @ rng.normal(size=(3, 2)) + 0.1 * rng.normal(size=(30, 2))
    net = ss.mlp([3, 2, 2], activation="tanh")
    reg = ss.Regression(net, sigma_noise=1.0, prior_precision=1.0)
    return reg, np.zeros(net.n_params), X, Y - Y.mean(axis=0)


def test_from_a_saddle_point_that_no_solution_shows_the_end_is_at_a_minimum(monkeypatch):
    monkeypatch.setattr(marginal_likelihood, "DENSE_PARAMS", 0)
    reg, theta, X, Y = build_saddle()
    seen = []
    words = {"tolerance": 1e-3, "prior": "fixed", "progress": False}
    found = ss.tune(reg, theta, X, Y, callback=lambda _, at: seen.append(at), **words)
    rough, first = seen[:2]
    np.testing.assert_array_equal([rough.theta, first.theta], [theta, theta])
    assert first.is_minimum  # as far as that was looked at
    evidence = find_evidence(*found, X, Y)
    assert evidence > first.log_marginal_likelihood + 10
    again = ss.tune(*found, X, Y, **words)
    assert find_evidence(*again, X, Y) == pytest.approx(evidence, abs=2e-3)


@pytest.fixture
def beside_saddle(monkeypatch):
    """F by products without turns, and weights beside the saddle point."""
    monkeypatch.setattr(marginal_likelihood, "DENSE_PARAMS", 0)
    reg, theta, X, Y = build_saddle()
    start = MarginalLikelihood(InverseBuilder(reg, X, Y), Hyperparameters(reg))
    monkeypatch.setattr(start, "_find_turn", None)
    return start, theta + 1e-6 * np.random.default_rng(0).normal(size=theta.size)


def test_beside_a_saddle_point_solving_with_the_hessian_tells_it(beside_saddle):
    start, near = beside_saddle
    there, _ = start.minimize(near, tolerance=1e-5, looks_for_saddles=False)
    assert there.converged
    evidence = start.evaluate(near)
    assert evidence.is_minimum
    assert start.objective(evidence.theta)[0] < start.objective(near)[0] - 1
    H = ss.compile_hessian(start.reg)(evidence.theta, start.X, start.Y)
    assert np.linalg.eigvalsh(H)[0] > 0


@pytest.mark.parametrize("at_kink", [False, True])
def test_a_hessian_that_falls_tells_of_a_saddle_point_but_at_a_kink(
    at_kink, beside_saddle, monkeypatch
):
    start, near = beside_saddle
    result, inverse = start.minimize(near, tolerance=1e-5, looks_for_saddles=False)
    stays = replace(result, at_kink=at_kink), inverse
    monkeypatch.setattr(start, "minimize", lambda *_, **__: stays)
    assert start.evaluate(near).is_minimum == at_kink


@pytest.mark.parametrize("structure", ["primal", "dual"])
def test_far_from_the_noise_the_evidence_is_rough_and_at_the_end_it_is_not(structure):
    rng = np.random.default_rng(4)
    X = rng.normal(size=(40, 3))
    Y = np.tanh(X[:, :1]) + 0.02 * rng.normal(size=(40, 1))
    reg = ss.Regression(ss.mlp([3, 4, 1], activation="tanh"), sigma_noise=2.0, prior_precision=1.0)
    theta = reg.net.init_params(rng)
    builder = InverseBuilder(reg, X, Y, structure=structure)
    start = MarginalLikelihood(builder, Hyperparameters(reg))
    rough = start.evaluate_roughly(theta)
    assert start.can_be_rough
    assert not rough.is_minimum
    assert rough.newton_decrement <= marginal_likelihood.ROUGH
    # central differences with steps of 1e-3, along the move of the minimum as G tells it
    at = rough.theta
    gradient = start.differentiate_at_fixed_weights(at)
    for k, e in enumerate(1e-3 * np.eye(2)):
        above, below = (start.at(start.h + sign * e) for sign in (1, -1))
        move = -(builder.build(at) @ (above.objective(at)[1] - below.objective(at)[1])) / 2
        ends = [start.find_log_evidence(w) + start.objective(w)[0] for w in (at + move, at - move)]
        gradient[k] += (ends[0] - ends[1]) / 2e-3
    np.testing.assert_allclose(rough.gradient, gradient, rtol=1e-5)

    seen = []
    ss.tune(
        reg, theta, X, Y, structure=structure, progress=False,
        callback=lambda _, evidence: seen.append(evidence.is_minimum),
    )  # fmt: skip
    assert not seen[0]
    assert seen[-1]
