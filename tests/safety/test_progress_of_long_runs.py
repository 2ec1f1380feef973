"""Audits, surveys, Jacobians and chains follow the protocol of progress, too."""

import os
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

import symspec as ss

N_STARS, N_PIXELS = 30, 6


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_STARS, N_PIXELS))
    Y = X[:, :2] + 0.1 * rng.normal(size=(N_STARS, 2))
    reg = ss.Regression(ss.mlp([N_PIXELS, 2]), sigma_noise=0.1, prior_precision=1.0)
    theta = ss.polish(reg, np.zeros(reg.net.n_params), X, Y, progress=False).theta
    laplace = ss.fit_laplace(reg, theta, X, Y, progress=False)
    return SimpleNamespace(reg=reg, theta=theta, X=X, Y=Y, laplace=laplace)


@pytest.fixture
def steps():
    return []


@pytest.fixture
def follow(steps):
    def take_note(stage, done, total, /, **news):
        steps.append((stage, done, total, news))

    return take_note


@pytest.fixture
def pieces_of_eight(monkeypatch):
    """Pieces of eight stars."""
    monkeypatch.setattr("symspec.files.surveys.find_piece_size", lambda *_: 8)
    monkeypatch.setattr("symspec.files.jacobians.find_piece_size", lambda *_: 8)


def test_an_audit_names_each_structure_before_it_is_built(problem, steps, follow):
    p, called = problem, []
    ss.audit_structures(
        p.reg, p.theta, p.X, p.Y, p.X[:3], structures=("kronecker", "diagonal"),
        progress=follow, callback=called.append,
    )  # fmt: skip
    names = ["distances", "exact", "kronecker", "diagonal"]
    expected = [("auditing", i, 4, {"structure": name}) for i, name in enumerate(names)]
    assert steps == [*expected, ("auditing", 4, 4, {})]
    assert called == names


def test_a_survey_counts_stars_from_those_that_are_done(
    problem, steps, follow, tmp_path, pieces_of_eight
):
    def stop_after_two_pieces(stage, done, total, /, **news):
        if done >= 16:
            raise KeyboardInterrupt

    spectra = ss.Spectra(flux=problem.X)
    path = tmp_path / "c.ecsv"
    with pytest.raises(KeyboardInterrupt):
        ss.predict_survey(path, problem.laplace, spectra, progress=stop_after_two_pieces)
    ss.predict_survey(path, problem.laplace, spectra, progress=follow)
    assert steps == [("predicting", done, N_STARS, {}) for done in (16, 24, 30)]


def test_the_older_show_of_a_survey_still_counts_stars_of_pieces(
    problem, tmp_path, pieces_of_eight
):
    shown = []

    @contextmanager
    def show(n_stars, n_done):
        shown.append((n_stars, n_done))
        yield shown.append

    ss.predict_survey(tmp_path / "c.ecsv", problem.laplace, ss.Spectra(flux=problem.X), show=show)
    assert shown == [(N_STARS, 0), 8, 8, 8, 6]


def test_jacobians_count_stars(problem, steps, follow, tmp_path, pieces_of_eight):
    spectra = ss.Spectra(flux=problem.X)
    ss.write_jacobian(tmp_path / "j.h5", problem.reg.net, problem.theta, spectra, progress=follow)
    assert steps == [("differentiating", done, N_STARS, {}) for done in (0, 8, 16, 24, 30)]
    assert os.listdir(tmp_path) == ["j.h5"]


@pytest.mark.usefixtures("numba_cache")
def test_chains_count_draws_of_all_chains_with_adaptation(problem, steps, follow):
    p = problem
    counts = {"n_draws": 20, "n_tune": 25, "n_chains": 2, "n_importance": 1}
    ss.run_hmc(
        p.reg, p.X, p.Y, laplace=p.laplace, seed=0, sampler="pymc", progress=follow, **counts
    )
    assert steps == [("sampling", done, 90, {}) for done in range(91)]


@pytest.mark.usefixtures("numba_cache")
def test_a_sampler_without_a_hook_tells_its_beginning_and_its_end(problem, steps, follow):
    pytest.importorskip("nutpie")
    p = problem
    counts = {"n_draws": 20, "n_tune": 25, "n_chains": 2, "n_importance": 1}
    ss.run_hmc(
        p.reg, p.X, p.Y, laplace=p.laplace, seed=0, sampler="nutpie", progress=follow, **counts
    )
    assert steps == [("sampling", 0, 90, {}), ("sampling", 90, 90, {})]
