"""Blocks are kept whole, belong to one computation, and resuming it gives the same bits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import symspec as ss
from symspec.safety.checkpoint import Checkpoint, find_fingerprint

PROGRAM = """
import os, signal, sys
import numpy as np
import symspec as ss
from symspec.derivatives import tangent_stream
from symspec.laplace import posterior
from symspec.safety import checkpoint

structure, folder, result, die_after = sys.argv[1:]
checkpoint.SECONDS_BETWEEN = 0.0
posterior.STARS_AT_ONCE = tangent_stream.BLOCK_STARS = 16
save, saved = checkpoint.Checkpoint.save, []

def save_and_die(self, stage, state, *, now=True):
    save(self, stage, state, now=now)
    saved.append(stage.split()[0])
    if self.folder is not None and f"{saved[-1]} {saved.count(saved[-1])}" == die_after:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.Checkpoint.save = save_and_die
rng = np.random.default_rng(0)
net = ss.mlp([6, 8, 2], activation="tanh")
reg = ss.Regression(net, sigma_noise=0.2, prior_precision=1.0)
X, Y, X_new = rng.normal(size=(100, 6)), rng.normal(size=(100, 2)), rng.normal(size=(70, 6))
options = {"subset": 10, "tolerance": 1e-4} if structure == "krylov" else {}
keep = None if folder == "-" else folder
fit = ss.fit_laplace(reg, net.init_params(rng), X, Y, structure=structure, options=options,
                     require_minimum=False, resume=keep and keep + "/fit")
prediction = fit.predict(X_new, ivar=np.full(X_new.shape, 100.0), resume=keep and keep + "/stars")
parts = {name: getattr(prediction, name) for name in ("total_cov", "model_interval", "labels")}
np.savez(result, **parts)
"""


def run(*args):
    command = [sys.executable, "-c", PROGRAM, *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(Path(ss.__file__).parents[1])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("structure", "deaths"),
    [("kronecker", ["kronecker 3", "prediction 2"]), ("krylov", ["krylov 2", "prediction 2"])],
    ids=["kronecker", "krylov"],
)
def test_killed_twice_and_started_again_it_gives_the_same_bits(structure, deaths, tmp_path):
    whole, resumed, folder = tmp_path / "whole.npz", tmp_path / "resumed.npz", tmp_path / "kept"
    done = run(structure, "-", whole, "never")
    assert done.returncode == 0, done.stderr
    for death in deaths:
        assert run(structure, folder, resumed, death).returncode == -signal.SIGKILL
        assert not resumed.exists()
    done = run(structure, folder, resumed, "never")
    assert done.returncode == 0, done.stderr
    with np.load(whole) as expected, np.load(resumed) as actual:
        for name in expected.files:
            np.testing.assert_array_equal(actual[name], expected[name])


class Walk:
    """Ten numbers, three at a time."""

    n_stars = 10

    def blocks(self, start=0):
        for first in range(start, 10, 3):
            rows = slice(first, min(first + 3, 10))
            yield rows, np.arange(10)[rows]


def add(state, numbers):
    state["sum"] += numbers.sum()


def test_a_sum_goes_on_from_the_last_block_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("symspec.safety.checkpoint.SECONDS_BETWEEN", 0.0)
    seen = []

    def add_until(state, numbers):
        if numbers[0] == 6:
            raise KeyboardInterrupt
        add(state, numbers)

    with pytest.raises(KeyboardInterrupt):
        Checkpoint(tmp_path, "a").accumulate("sums", Walk(), {"sum": np.zeros(())}, add_until)
    checkpoint = Checkpoint(tmp_path, "a", lambda *told: seen.append(told))
    assert checkpoint.accumulate("sums", Walk(), {"sum": np.zeros(())}, add)["sum"] == 45
    assert seen == [("sums", 9, 10), ("sums", 10, 10)]
    assert [p.name for p in tmp_path.iterdir()] == ["sums.npz"]


def test_what_is_finished_is_not_done_again(tmp_path):
    Checkpoint(tmp_path, "a").accumulate("sums", Walk(), {"sum": np.zeros(())}, add)
    state = Checkpoint(tmp_path, "a").accumulate(
        "sums", Walk(), {"sum": np.zeros(())}, lambda *_: pytest.fail("again")
    )
    assert state["sum"] == 45


def test_between_saves_time_passes(tmp_path):
    checkpoint = Checkpoint(tmp_path, "a")
    checkpoint.save("stage", {"x": np.ones(2)}, now=False)
    assert not any(tmp_path.iterdir())
    checkpoint.save("stage", {"x": np.ones(2)})
    np.testing.assert_array_equal(checkpoint.load("stage")["x"], np.ones(2))


def test_without_a_folder_nothing_is_kept():
    checkpoint = Checkpoint()
    checkpoint.save("stage", {"x": np.ones(2)})
    assert checkpoint.load("stage") is None


def test_a_damaged_file_is_refused(tmp_path):
    checkpoint = Checkpoint(tmp_path, "a")
    checkpoint.save("stage", {"x": np.ones(2)})
    path = tmp_path / "stage.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ss.DataError, match="progress, but is damaged: delete it"):
        checkpoint.load("stage")


def test_an_interrupted_save_leaves_the_last_one(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, "a")
    checkpoint.save("stage", {"x": np.ones(2)})

    def fail(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save("stage", {"x": np.zeros(2)})
    np.testing.assert_array_equal(checkpoint.load("stage")["x"], np.ones(2))
    assert len(list(tmp_path.iterdir())) == 1


def test_fingerprints_tell_inputs_apart():
    a = np.arange(6.0)
    inputs = [
        (a,), (a.astype(np.float32),), (a.reshape(2, 3),), (a, "x"), (a, {"x": 1}), (a, {"x": 2}),
        (a + 1e-300,), (a, None), (np.nextafter(a, 9),), ((a, "x"),), ([np.nextafter(a, 9), "x"],),
    ]  # fmt: skip
    fingerprints = [find_fingerprint(*parts) for parts in inputs]
    assert len(set(fingerprints)) == len(inputs)
    assert find_fingerprint({"x": 1, "y": a}) == find_fingerprint({"y": a.copy(), "x": 1})
