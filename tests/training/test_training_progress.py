"""Every way to a minimum follows one protocol of progress."""

import numpy as np
import pytest
from linear_networks import build_linear, build_small, make_stars, rng

from symspec.laplace.fit import fit_laplace
from symspec.training.epochs import train
from symspec.training.evidence import tune
from symspec.training.minimization import minimize
from symspec.training.newton import polish


@pytest.fixture
def steps():
    return []


@pytest.fixture
def follow(steps):
    def take_note(stage, done, total, /, **news):
        steps.append((stage, done, total, news))

    return take_note


def test_training_counts_stars_and_tells_the_losses_of_the_last_epoch(steps, follow):
    options = {"validation": 0.25, "epochs": 2, "batch_size": 8, "rng": rng()}
    fit = train(build_linear(), *make_stars(32), **options, progress=follow)
    # two epochs of three batches of the 24 stars that are left, and the end of each epoch
    assert [done for _, done, _, _ in steps] == [8, 16, 24, 24, 32, 40, 48, 48]
    assert {(stage, total) for stage, _, total, _ in steps} == {("training", 48)}
    assert [news["epoch"] for _, _, _, news in steps] == [1, 1, 1, 1, 2, 2, 2, 2]
    assert set(steps[0][3]) == {"epoch"}
    for at, epoch in ((3, 0), (6, 0), (7, 1)):
        losses = {name: values[epoch] for name, values in fit.history.items()}
        assert steps[at][3] == {"epoch": steps[at][3]["epoch"], **losses}


def test_minimising_tells_iterations_with_U_and_the_norm_of_its_gradient(steps, follow):
    result = minimize(build_small(), build_small().net.init_params(rng()), *make_stars(20),
                      method="trust-krylov", progress=follow)  # fmt: skip
    assert [done for _, done, _, _ in steps] == list(range(1, result.nit + 1))
    assert {(stage, total) for stage, _, total, _ in steps} == {
        ("minimizing by trust-krylov", None)
    }
    assert steps[-1][3]["U"] == result.fun
    assert steps[-1][3]["gradient_norm"] == pytest.approx(np.linalg.norm(result.jac), rel=1e-12)


def test_polishing_tells_each_step_to_progress_and_callback(steps, follow):
    called = []
    reg, (X, Y) = build_small(), make_stars(20)
    start = reg.net.init_params(rng())
    result = polish(reg, start, X, Y, progress=follow, callback=lambda *step: called.append(step))
    assert steps[0] == ("Newton steps", 0, None, {})
    # of the weights in the span of the spectra: U is that of the whole but for a constant
    assert [(done, news["U"], news["decrement"]) for _, done, _, news in steps[1:]] == called
    assert called[-1][0] == result.iterations
    assert called[-1][2] == result.newton_decrement


@pytest.mark.parametrize("structure", ["auto", "kronecker"])
def test_tuning_tells_each_evaluation_to_progress_and_callback(steps, follow, structure):
    found = []
    reg, (X, Y) = build_small(), make_stars(20)
    tune(
        reg,
        reg.net.init_params(rng()),
        X,
        Y,
        structure=structure,
        max_evaluations=3,
        progress=follow,
        callback=lambda _, evidence: found.append(evidence),
    )
    assert {(stage, total) for stage, _, total, _ in steps} == {("tuning noise and prior", None)}
    assert [done for _, done, _, _ in steps] == list(range(len(found) + 1))
    assert [news["log_evidence"] for _, _, _, news in steps[1:]] == [
        evidence.log_marginal_likelihood for evidence in found
    ]
    assert [news["decrement"] for _, _, _, news in steps[1:]] == [
        evidence.newton_decrement for evidence in found
    ]
    assert len(found) >= 2


def test_inverting_tells_its_blocks_and_nothing_after_its_end(steps, follow):
    reg, (X, Y) = build_small(), make_stars(20)
    theta = reg.net.init_params(rng())
    options = {"structure": "kronecker", "require_minimum": False}
    laplace = fit_laplace(reg, theta, X, Y, **options, progress=follow)
    assert steps
    assert all(done == total == 20 for _, done, total, _ in steps)  # one block holds all stars
    n_steps = len(steps)
    laplace.predict(X, progress=follow)
    assert steps[n_steps:] == [("prediction", 20, 20, {})]
    laplace.predict(X, progress=False)
    assert len(steps) == n_steps + 1


RUNS = {
    "train": lambda reg, theta, stars, **p: train(reg, *stars, epochs=1, rng=rng(), **p),
    "minimize": lambda reg, theta, stars, **p: minimize(reg, theta, *stars, **p),
    "polish": lambda reg, theta, stars, **p: polish(reg, theta, *stars, **p),
    "tune": lambda reg, theta, stars, **p: tune(reg, theta, *stars, **p),
}


@pytest.mark.parametrize("name", RUNS)
def test_bars_go_to_stderr_and_false_is_silence(name, capfd, monkeypatch):
    monkeypatch.setattr("symspec.safety.progress.SECONDS_BEFORE", 0.0)
    monkeypatch.setenv("COLUMNS", "200")
    reg = build_linear()
    theta, stars = np.zeros(10), make_stars(40)
    RUNS[name](reg, theta, stars, progress=False)
    assert capfd.readouterr() == ("", "")
    RUNS[name](reg, theta, stars)
    out, err = capfd.readouterr()
    assert out == ""
    words = {
        "train": ("training", "40/40", "epoch 1", "loss", "learning rate 0.001"),
        "minimize": ("L-BFGS-B", "gradient norm"),
        "polish": ("Newton steps", "decrement"),
        "tune": ("tuning noise and prior", "log evidence"),
    }
    for word in words[name]:
        assert word in err
