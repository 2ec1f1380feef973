"""Pieces of long runs are verified: what is not as it was left is made again, or refused."""

import json
import os
import shutil
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

import symspec as ss
from symspec.cli.app import app
from symspec.errors import DataError, FileKeptError
from symspec.files.partial_runs import PartialRun, is_finished, open_run
from symspec.workers.interface import Task

PLAN = {"model": "abc", "limit": 0.5}
STARS = (10, 4)  # in all, and in a piece
FIRST, SECOND, LAST = (
    f"stars_{first:09d}-{last:09d}.h5" for first, last in [(0, 3), (4, 7), (8, 9)]
)


def same(rows):
    return rows


def squares(rows):
    return {"x": np.arange(rows.start, rows.stop) ** 2}


def write_squares(run, path):
    path.write_text(" ".join(map(str, run.load()["x"])))


def start(folder, plan=PLAN, name="out"):
    """A run whose pieces are all finished, and its folder."""
    with open_run(folder / name, plan, *STARS) as run:
        run.compute(Task(read=same, find=squares))
    return folder / f"{name}.partial"


def finish(output, **words):
    """Go on to the end; which stars were computed."""
    asked = []
    with open_run(output, PLAN, *STARS, **words) as run:
        run.compute(Task(read=same, find=lambda rows: asked.append(rows.start) or squares(rows)))
        run.finish(lambda path: write_squares(run, path), overwrite=words.get("overwrite", False))
    assert output.read_text() == "0 1 4 9 16 25 36 49 64 81"
    assert not output.with_name(f"{output.name}.partial").exists()
    return asked


def rewrite(path, **arrays):
    """Another content, as h5py would leave it."""
    with h5py.File(path, "r+") as file:
        for name, array in arrays.items():
            del file[name]
            file[name] = array


def rename(folder):
    with h5py.File(folder / LAST, "r+") as file:
        file.move("x", "y")


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def swap(folder):
    for old, new in [(FIRST, "other"), (SECOND, FIRST), ("other", SECOND)]:
        (folder / old).rename(folder / new)


def take_from_another_run(folder):
    """A whole piece of the same stars, but of another plan."""
    other = start(folder.parent, PLAN | {"model": "def"}, "other")
    shutil.copy(other / SECOND, folder / SECOND)
    shutil.rmtree(other)


DAMAGES = {
    "swapped": (swap, [0, 4]),
    "copied": (lambda folder: shutil.copy(folder / FIRST, folder / SECOND), [4]),
    "longer than its stars": (lambda folder: shutil.copy(folder / FIRST, folder / LAST), [8]),
    "of another run": (take_from_another_run, [4]),
    "shortened": (lambda folder: rewrite(folder / FIRST, x=np.arange(3)), [0]),
    "other numbers": (lambda folder: rewrite(folder / FIRST, x=np.arange(4)), [0]),
    "other dtype": (lambda folder: rewrite(folder / LAST, x=np.array([64.0, np.nan])), [8]),
    "other names": (rename, [8]),
    "a bit of the header": (lambda folder: flip(folder / FIRST, 9), [0]),
    "a bit of the numbers": (lambda folder: flip(folder / FIRST, -300), [0]),
    "a bit of the seal": (lambda folder: flip(folder / FIRST, -2), [0]),
    "cut": (lambda folder: os.truncate(folder / SECOND, 700), [4]),
    "cut by a byte": (
        lambda folder: os.truncate(folder / SECOND, (folder / SECOND).stat().st_size - 1),
        [4],
    ),
    "empty": (lambda folder: os.truncate(folder / SECOND, 0), [4]),
    "text": (lambda folder: (folder / SECOND).write_text("null"), [4]),
    "a link into nothing": (
        lambda folder: (folder / SECOND).unlink() or (folder / SECOND).symlink_to("nowhere"),
        [4],
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_piece_is_told_and_computed_again(tmp_path, kind):
    damage, expected = DAMAGES[kind]
    damage(start(tmp_path))
    with pytest.warns(RuntimeWarning, match=r"stars_.*h5 should hold stars .* of this run") as told:
        assert finish(tmp_path / "out") == expected
    assert len(told) == len(expected)


def test_a_piece_that_is_damaged_meanwhile_is_not_assembled(tmp_path):
    folder = start(tmp_path)
    with open_run(tmp_path / "out", PLAN, *STARS) as run:
        flip(folder / SECOND, -300)
        with pytest.raises(DataError, match=r"7\.h5 should hold a finished piece.*anew"):
            run.finish(lambda path: write_squares(run, path))
    assert not (tmp_path / "out").exists()
    with pytest.warns(RuntimeWarning, match="stars 4 to 7"):
        assert finish(tmp_path / "out") == [4]


@pytest.mark.parametrize(
    "content",
    [b"null", b"[]", b"3", b'"text"', b"", b"{", b"\xff\xfe", b"[" * 10**5, b"0" * 2**21],
    ids=["null", "list", "number", "text", "empty", "cut", "bytes", "nested", "huge"],
)
def test_a_damaged_plan_is_written_again_and_pieces_of_the_run_are_used(tmp_path, content):
    folder = start(tmp_path)
    plan = (folder / "plan.json").read_bytes()
    take_from_another_run(folder)
    (folder / "plan.json").write_bytes(content)
    with (
        pytest.warns(RuntimeWarning, match=r"plan\.json should hold a run's plan"),
        pytest.warns(RuntimeWarning, match="stars 4 to 7"),
        open_run(tmp_path / "out", PLAN, *STARS),
    ):
        pass
    assert (folder / "plan.json").read_bytes() == plan
    assert finish(tmp_path / "out") == [4]


def test_plans_of_odd_values_are_compared_and_shown_in_short(tmp_path):
    plan = PLAN | {"limit": float("nan"), "flag": True}
    folder = start(tmp_path, plan)
    with open_run(tmp_path / "out", plan, *STARS) as run:
        assert run.n_done == 10
    with (
        pytest.raises(DataError, match="flag was True and is 1"),
        open_run(tmp_path / "out", plan | {"flag": 1}, *STARS),
    ):
        pass
    (folder / "plan.json").write_text(json.dumps({str(i): "x" * 10**4 for i in range(99)}))
    with pytest.raises(DataError) as caught, open_run(tmp_path / "out", plan, *STARS):
        pass
    assert len(str(caught.value)) < 3000


def test_folders_and_files_in_each_others_place_are_left_alone(tmp_path):
    (tmp_path / "out.partial").write_text("mine")
    with (
        pytest.raises(FileKeptError, match=r"out\.partial should be a folder, got a file"),
        open_run(tmp_path / "out", PLAN, *STARS),
    ):
        pass
    assert (tmp_path / "out.partial").read_text() == "mine"
    folder = start(tmp_path, name="other")
    (folder / FIRST).unlink()
    (folder / FIRST).mkdir()
    with (
        pytest.raises(DataError, match=r"3\.h5 should be a file, got a folder"),
        open_run(tmp_path / "other", PLAN, *STARS),
    ):
        pass


@pytest.mark.parametrize("name", [FIRST, LAST, "plan.json", "lock", "finished", ".output.out"])
def test_an_output_may_have_the_name_of_anything_in_the_folder(tmp_path, name):
    start(tmp_path, name=name)
    assert finish(tmp_path / name) == []
    assert os.listdir(tmp_path) == [name]


def test_damaged_pieces_of_catalogues_and_predictions_never_give_other_numbers(monkeypatch):
    """A share of the fuzzer among the benchmarks."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "bench")
    fuzzer = import_module("fuzz_pieces")
    monkeypatch.setattr(fuzzer, "SECONDS", 0)  # no limit
    calls = [call for call in fuzzer.CALLS if call.name in ("errors", "predict, unfinished")]
    outcomes = fuzzer.fuzz(24, seed=1, calls=calls)
    assert len(outcomes) == 24
    assert [one for one in outcomes if one[-1] not in ("right", "refused")] == []
    assert "right" in {outcome for *_, outcome in outcomes}


# --- killed when the output was at its place


class Killed(BaseException):
    pass


def finish_and_die(monkeypatch, output, n_removed):
    """Finish a run, and die when so many files of the folder are removed."""
    folder = start(output.parent)
    unlink, counts = Path.unlink, iter(range(100))

    def unlink_or_die(path, missing_ok=False):
        is_own = path.parent == folder and path.exists() and not path.name.startswith(".")
        if is_own and next(counts) >= n_removed:
            raise Killed
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink_or_die)
        with pytest.raises(Killed):
            finish(output)
    return folder


@pytest.mark.parametrize("n_removed", range(6))
def test_a_run_killed_after_its_output_was_moved_is_finished_by_the_same_call(
    tmp_path, monkeypatch, n_removed
):
    folder = finish_and_die(monkeypatch, tmp_path / "out", n_removed)
    assert is_finished(tmp_path / "out")
    pieces = {FIRST: 0, SECOND: 4, LAST: 8}
    missing = [first for name, first in pieces.items() if not (folder / name).exists()]
    assert len(missing) == min(n_removed, 3)
    before = (tmp_path / "out").stat()
    assert finish(tmp_path / "out") == missing
    after = (tmp_path / "out").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)  # it is kept
    assert not is_finished(tmp_path / "out")
    with pytest.raises(FileKeptError, match="which is kept"):
        finish(tmp_path / "out")


def test_a_folder_that_only_had_to_be_removed_is_removed(tmp_path):
    finish(tmp_path / "out")
    (tmp_path / "out.partial").mkdir()
    with pytest.raises(FileKeptError, match="which is kept"):
        finish(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(("command", "name"), [("errors", "c.fits"), ("jacobian", "j.h5")])
def test_a_command_killed_after_its_output_was_moved_ends_well(
    tmp_path, monkeypatch, command, name
):
    rng = np.random.default_rng(0)
    net = ss.mlp([3, 2])
    reg = ss.Regression(net, sigma_noise=0.1, prior_precision=1.0)
    X, Y = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    laplace = ss.fit_laplace(reg, np.ones(net.n_params), X, Y, require_minimum=False)
    ss.write_laplace(tmp_path / "model.h5", laplace)
    np.savez(tmp_path / "stars.npz", flux=X)
    words = [command, *(str(tmp_path / one) for one in ("model.h5", "stars.npz", name))]

    def die(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PartialRun, "remove", die)
        assert CliRunner().invoke(app, words).exit_code == 130
    content = (tmp_path / name).read_bytes()
    assert (tmp_path / f"{name}.partial").exists()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / name).read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == sorted(["model.h5", "stars.npz", name])
    assert CliRunner().invoke(app, words).exit_code == 1  # it exists


def test_another_output_that_stands_there_by_then_is_kept(tmp_path, monkeypatch):
    finish_and_die(monkeypatch, tmp_path / "out", 0)
    (tmp_path / "out").write_text("theirs")
    with pytest.raises(FileKeptError, match="which is kept"):
        finish(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "theirs"
    with pytest.raises(FileKeptError, match="which is kept"):
        finish(tmp_path / "out", restart=True)
    finish(tmp_path / "out", overwrite=True)
