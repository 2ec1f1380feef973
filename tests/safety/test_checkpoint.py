"""Blocks are kept whole, belong to one computation, and resuming it gives the same bits."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
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
from symspec.safety import checkpoint, memory

structure, folder, result, die_after = sys.argv[1:]
checkpoint.SECONDS_BETWEEN = 0.0
posterior.STARS_AT_ONCE = memory.STARS_AT_ONCE = tangent_stream.BLOCK_STARS = 16
save, saved = checkpoint.Checkpoint.save, []

def save_and_die(self, stage, state, *, now=True):
    save(self, stage, state, now=now)
    saved.append(stage.partition(" ")[0])
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


def damage(path):
    """Ways in which a file stops being what was written, by name."""
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    yield "cut", whole[:100]
    yield "without its last byte", whole[:-1]
    yield "longer", whole + b"x"
    yield "empty", b""
    yield "a bit flipped", bytes(flipped)
    yield "without its seal", whole[: whole.index(b"\nsymspec keeps here")]
    yield "of another kind", b"null"


def test_what_is_damaged_is_told_and_done_again(tmp_path):
    checkpoint = Checkpoint(tmp_path, "a")
    path = tmp_path / "sums.npz"
    checkpoint.accumulate("sums", Walk(), {"sum": np.zeros(())}, add)
    for name, content in list(damage(path)):
        path.write_bytes(content)
        with pytest.warns(RuntimeWarning, match=r"sums\.npz should hold finished blocks"):
            again = checkpoint.accumulate("sums", Walk(), {"sum": np.zeros(())}, add)
        assert again["sum"] == 45, name
        assert checkpoint.load("sums")["sum"] == 45, name


def test_the_file_of_another_stage_or_layout_is_not_taken(tmp_path):
    checkpoint = Checkpoint(tmp_path, "a")
    for stage in ("sums", "others"):
        checkpoint.accumulate(stage, Walk(), {"sum": np.ones(())}, add)
    (tmp_path / "sums.npz").write_bytes((tmp_path / "others.npz").read_bytes())
    with pytest.warns(RuntimeWarning, match="that of another version"):
        assert checkpoint.load("sums") is None
    checkpoint.save("sums", {"sum": np.zeros(2), "done": np.array(10)})
    with pytest.warns(RuntimeWarning, match="that of another version"):
        assert checkpoint.accumulate("sums", Walk(), {"sum": np.zeros(())}, add)["sum"] == 45


def test_resume_is_a_folder(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(ss.OptionError, match=r"resume should be a folder, got .*file"):
        Checkpoint(tmp_path / "file", "a")
    (tmp_path / "sums.npz").mkdir()
    with pytest.raises(ss.DataError, match=r"sums\.npz should be a file, got a folder"):
        Checkpoint(tmp_path, "a").load("sums")


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


@dataclass
class Point:
    x: float
    y: object = None


@dataclass
class Place(Point):
    pass


class Known:
    def __init__(self, *values):
        self.values = values

    def identity(self):
        return self.values


A = np.arange(6.0)
LONG = np.arange(2000.0)
# each differs from all others
INPUTS = [
    (), (None,), ("None",), ("",), (b"",), ((),), ({},), (set(),), (0,), (0.0,), (-0.0,), (False,),
    ("0",), (0j,), (np.nan,), ("nan",), (1,), (True,), (1.0,), (np.float32(1),), (np.array(1.0),),
    (np.array([1.0]),), (np.array(1),), ("ab", "c"), ("a", "bc"), ("abc",), (("ab", "c"),),
    (("ab",), "c"), ("ab", ("c",)), ("ab", ("c", ())), ("a", "b|c"), ("a|", "bc"), ("'ab'|'c'",),
    (A,), (A.astype(np.float32),), (A.astype(">f4"),), (A.reshape(2, 3),), (A.reshape(3, 2).T,),
    (A.tolist(),), (A[:3], A[3:]), (A[:4], A[4:]), ((A[:3], A[3:]),), (A.tobytes(),), (A, None),
    (A, "x"), (A, {"x": 1}), (A, {"x": 2}), (A, {"x": 1.0}), (A, {"y": 1}), (np.nextafter(A, 9),),
    ((A, "x"),), ([np.nextafter(A, 9), "x"],), ({"x": A},), ({"x": {"x": A}},), ({"x": [A]},),
    ({"x": {"y": 1}, "y": 2},), ({"x": {"y": 2}, "y": 1},), ({"x": 1, "y": 2},),
    ({"x": 2, "y": 1},), (("x", 1, "y", 2),), ({("x", 1): ("y", 2)},), ({1: "x"},), ({"1": "x"},),
    ({None: "x"},),
    (LONG,), (LONG + (np.arange(2000) == 1000),), (((LONG,),),),
    (((LONG + (np.arange(2000) == 1000),),),),  # whose repr is the same
    (np.array([A, None, "x"], object),), (np.array([A, None, "y"], object),),
    (np.array(["a", "b"]),), (np.array(["a", "c"]),), (["a", "b"],),
    (np.array(["2020-01-01"], "M8[D]"),), (np.array(["2020-01-01"], "M8[s]"),),
    (np.zeros(2, [("a", "f8"), ("b", "f8")]),), (np.zeros(2, [("b", "f8"), ("a", "f8")]),),
    (np.ma.array(A, mask=A > 2),), (np.ma.array(A, mask=A > 3),), (np.zeros((0, 3)),),
    (np.zeros((3, 0)),), (np.zeros(0, np.float32),), (Point(1.0),), (Place(1.0),), (Point(1),),
    (Point(1.0, A),), (Point(1.0, Point(1.0)),), (Known(),), (Known(1.0),), (Known(A),),
    (Known(1.0, None),), (ss.GaussianNoise(0.1),), (ss.GaussianNoise(0.2),),
    (ss.Spectra(flux=[A]),), (ss.Spectra(flux=[A], ivar=[A]),), ((ss.Spectra(flux=[A]),) * 2,),
    ((ss.Spectra(flux=[A]), ss.Spectra(flux=[A + 1])),),
]  # fmt: skip


def test_fingerprints_tell_inputs_apart():
    fingerprints = {}
    for parts in INPUTS:
        other = fingerprints.setdefault(find_fingerprint(*parts), parts)
        assert other is parts, f"{parts!r} passes for {other!r}"


def test_equal_inputs_have_equal_fingerprints():
    pairs = [
        ({"x": 1, "y": A}, {"y": A.copy(), "x": 1}),
        ({"a", "b", "c"}, {"c", "b", "a"}),
        (A[::2], A[::2].copy()),
        (A.reshape(2, 3), np.asfortranarray(A.reshape(2, 3))),
        ([1, "a"], (1, "a")),
        (np.float64(2), np.array(2.0)),
        (Point(1.0, A), Point(1.0, A.copy())),
        (Known(A), Known(A.copy())),
    ]
    for one, other in pairs:
        assert find_fingerprint(one) == find_fingerprint(other), f"{one!r} {other!r}"


def test_what_does_not_say_all_that_it_holds_has_no_fingerprint():
    for value in (object(), lambda x: x, Point):
        with pytest.raises(ss.OptionError, match=r"give it a method identity\(\)"):
            find_fingerprint({"x": [value]})
