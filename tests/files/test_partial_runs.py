"""Runs that are interrupted or killed end with the same bytes, and their pieces can be read."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.table import Table
from typer.testing import CliRunner

import symspec as ss
from symspec.cli import app
from symspec.errors import DataError, FileKeptError, OptionError, ShapeError
from symspec.files import jacobians, partial_runs, surveys
from symspec.files.jacobians import write_jacobian
from symspec.files.partial_runs import MOST_STARS, find_piece_size, open_run
from symspec.files.surveys import predict_survey
from symspec.inverse_hessian.numerics.streamed_rest import StreamedRest
from symspec.laplace.flags import FlagOptions
from symspec.spectra.datasets import generated_stars
from symspec.workers.interface import Task

PLAN = {"model": "abc", "limit": 0.5}
N_STARS, N_PIXELS = 37, 40


def same(rows):
    return rows


def squares(rows):
    """What a piece of the runs below holds."""
    return {
        "x": np.arange(rows.start, rows.stop) ** 2,
        "word": np.array([f"ü{i}" for i in range(rows.start, rows.stop)]),
    }


def write_squares(run, path):
    Path(path).write_text(" ".join(map(str, run.load()["x"])))


# --- the mechanism, on whole numbers


def test_pieces_cover_all_stars_in_their_order(tmp_path):
    with open_run(tmp_path / "out", PLAN, 10, 4) as run:
        assert run.pieces == [slice(0, 4), slice(4, 8), slice(8, 10)]
        counts = []
        run.compute(
            Task(read=same, find=squares), progress=lambda stage, done, total: counts.append(done)
        )
        assert counts == [0, 4, 8, 10]
        loaded = run.load()
        np.testing.assert_array_equal(loaded["x"], np.arange(10) ** 2)
        assert loaded["word"].tolist() == [f"ü{i}" for i in range(10)]
        run.finish(lambda path: write_squares(run, path))
    assert (tmp_path / "out").read_text() == "0 1 4 9 16 25 36 49 64 81"
    assert os.listdir(tmp_path) == ["out"]


def test_finished_pieces_are_not_computed_again(tmp_path):
    asked = []

    def stop_at_the_third(rows):
        asked.append(rows.start)
        if rows.start == 8:
            raise KeyboardInterrupt
        return squares(rows)

    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "out", PLAN, 10, 4) as run:
        run.compute(Task(read=same, find=stop_at_the_third))
    names = ["lock", "plan.json", "stars_000000000-000000003.h5", "stars_000000004-000000007.h5"]
    assert sorted(os.listdir(tmp_path / "out.partial")) == names
    with open_run(tmp_path / "out", PLAN, 10, 4) as run:
        assert run.n_done == 8
        counts = []
        task = Task(read=same, find=lambda rows: asked.append(rows.start) or squares(rows))
        run.compute(task, progress=lambda stage, done, total: counts.append(done))
        assert counts == [8, 10]
        run.finish(lambda path: write_squares(run, path))
    assert asked == [0, 4, 8, 8]
    assert (tmp_path / "out").read_text().endswith("64 81")
    assert os.listdir(tmp_path) == ["out"]


def test_a_finished_piece_is_readable_while_others_are_computed(tmp_path):
    seen = []

    def look(rows):
        for path in sorted((tmp_path / "out.partial").glob("stars_*.h5")):
            with h5py.File(path, "r") as file:
                seen.append(file["x"][0])
        return squares(rows)

    with open_run(tmp_path / "out", PLAN, 10, 4) as run:
        run.compute(Task(read=same, find=look))
    assert seen == [0, 0, 16]


def test_pieces_are_read_one_ahead_and_what_cannot_be_read_is_told_after_those_before(tmp_path):
    happened = []

    def read(rows):
        happened.append(f"read {rows.start}")
        if rows.start == 8:
            raise DataError("damaged there")
        return rows

    def find(rows):
        time.sleep(0.05)  # time enough for the other thread to read the next
        happened.append(f"found {rows.start}")
        return squares(rows)

    with (
        pytest.raises(DataError, match="damaged there"),
        open_run(tmp_path / "out", PLAN, 12, 4) as run,
    ):
        run.compute(Task(read=read, find=find))
    assert happened == ["read 0", "read 4", "found 0", "read 8", "found 4"]
    assert len(list((tmp_path / "out.partial").glob("stars_*.h5"))) == 2


def test_without_any_finished_piece_the_folder_goes(tmp_path):
    def fail(rows):
        raise ValueError("no flux")

    with pytest.raises(ValueError, match="no flux"), open_run(tmp_path / "out", PLAN, 10, 4) as run:
        run.compute(Task(read=same, find=fail))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "def"}, r"\(model was 'abc' and is 'def'\)"),
        (
            {"limit": 0.25, "dtype": "float32"},
            r"\(limit was 0.5 and is 0.25; dtype was None and is 'float32'\)",
        ),
    ],
)
def test_pieces_of_another_run_are_refused_with_what_differs(tmp_path, changed, words):
    with open_run(tmp_path / "out", PLAN, 10, 4) as run:
        run.compute(Task(read=same, find=squares))
    before = {path: path.read_bytes() for path in (tmp_path / "out.partial").iterdir()}
    with (
        pytest.raises(DataError, match=words + ".*delete the folder, or restart.*--restart"),
        open_run(tmp_path / "out", PLAN | changed, 10, 4),
    ):
        pass
    with (
        pytest.raises(DataError, match="n_stars was 10 and is 9"),
        open_run(tmp_path / "out", PLAN, 9, 4),
    ):
        pass
    assert {path: path.read_bytes() for path in (tmp_path / "out.partial").iterdir()} == before
    with open_run(tmp_path / "out", PLAN | changed, 10, 4, restart=True) as run:
        assert run.n_done == 0
        run.compute(Task(read=same, find=squares))
    assert (
        changed.items() <= json.loads((tmp_path / "out.partial" / "plan.json").read_text()).items()
    )


@pytest.mark.parametrize("restart", [False, True])
def test_two_processes_do_not_work_on_one_output(tmp_path, restart):
    with (
        open_run(tmp_path / "out", PLAN, 10, 4, restart=restart),
        pytest.raises(FileKeptError, match="another process at work on it"),
        open_run(tmp_path / "out", PLAN, 10, 4),
    ):
        pass
    with open_run(tmp_path / "out", PLAN, 10, 4):
        pass


def test_a_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.tex").write_text("text")
    with (
        pytest.raises(DataError, match=r"holds thesis\.tex: move it away"),
        open_run(tmp_path / "out", PLAN, 10, 4),
    ):
        pass
    assert (tmp_path / "out.partial" / "thesis.tex").read_text() == "text"


def test_files_that_others_put_beside_the_pieces_survive(tmp_path):
    with open_run(tmp_path / "out", PLAN, 10, 4) as run:
        run.compute(Task(read=same, find=squares))
        (run.folder / "notes.txt").write_text("mine")
        run.finish(lambda path: write_squares(run, path))
    assert os.listdir(tmp_path / "out.partial") == ["notes.txt"]


def test_what_a_killed_process_left_half_written_is_removed_in_the_end(tmp_path):
    with open_run(tmp_path / "out", PLAN, 10, 4) as run:
        run.compute(Task(read=same, find=squares))
    (tmp_path / "out.partial" / ".0123456789ab.stars_000000000-000000003.h5").write_bytes(b"half")
    (tmp_path / "out.partial" / ".output.out").write_bytes(b"assembled, but for the end")
    with open_run(tmp_path / "out", PLAN, 10, 4) as run:
        run.finish(lambda path: write_squares(run, path))
    assert os.listdir(tmp_path) == ["out"]


def test_an_output_that_appears_meanwhile_is_kept_and_so_are_the_pieces(tmp_path):
    with open_run(tmp_path / "out", PLAN, 10, 4) as run:
        run.compute(Task(read=same, find=squares))
        (tmp_path / "out").write_text("theirs")
        with pytest.raises(FileKeptError, match="which is kept"):
            run.finish(lambda path: write_squares(run, path))
    assert (tmp_path / "out").read_text() == "theirs"
    with pytest.raises(FileKeptError), open_run(tmp_path / "out", PLAN, 10, 4):
        pass
    with open_run(tmp_path / "out", PLAN, 10, 4, overwrite=True) as run:
        assert run.n_done == 10
        run.finish(lambda path: write_squares(run, path), overwrite=True)
    assert (tmp_path / "out").read_text().startswith("0 1 4")


def test_the_size_of_a_piece_depends_on_the_spectra_alone():
    assert find_piece_size(8 * 7214) == 1024  # 64 MiB are 1162 spectra
    assert find_piece_size(8 * 3 * 7214) == 256
    assert find_piece_size(10**9) == 1
    assert find_piece_size(8) == MOST_STARS
    assert find_piece_size(8, StreamedRest.stars_a_piece) == StreamedRest.stars_a_piece == 16


# --- catalogues and derivatives


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a model and a file of spectra, some pixels of which are bad."""
    folder, rng = tmp_path_factory.mktemp("survey"), np.random.default_rng(0)
    stars = generated_stars(100 + N_STARS, n_pixels=N_PIXELS, rng=rng)
    X, Y = stars.flux[:100], stars.labels[:100]
    net = ss.mlp([N_PIXELS, 4, 3], label_names=stars.label_names, label_units=stars.label_units)
    net = ss.standardized(net, X, Y)
    reg = ss.Regression(
        net, sigma_noise=[90.0, 0.2, 0.1], prior_precision=ss.scaled_prior(net, 1.0)
    )
    theta = ss.train(reg, X, Y, epochs=3, rng=rng, progress=False).theta
    laplace = ss.fit_laplace(reg, theta, X, Y, require_minimum=False)
    ss.write_laplace(folder / "model.h5", laplace)
    ivar = np.array(stars.ivar[100:])
    ivar[rng.random(ivar.shape) < 0.05] = 0
    flux = np.where(ivar > 0, stars.flux[100:], np.nan).astype(np.float32)
    rest = replace(stars[100:], flux=flux, ivar=ivar)
    with h5py.File(folder / "stars.h5", "w") as file:
        for name in ("flux", "ivar", "wavelength", "labels"):
            file[name] = getattr(rest, name)
        for name in ("ids", "label_names", "label_units"):
            file[name] = [str(word) for word in getattr(rest, name)]
    return folder, laplace, rest


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of eight stars of a catalogue, and of two of derivatives."""
    monkeypatch.setattr(partial_runs, "PIECE_BYTES", 8 * 8 * N_PIXELS)


def test_a_catalogue_made_in_pieces_holds_the_predictions_of_all(work, tmp_path, small_pieces):
    folder, laplace, stars = work
    limits, shown = FlagOptions(min_snr=101, edge=0.2), []

    def show(n_stars, n_done):
        shown.extend([n_stars, n_done])
        return nullcontext(shown.append)

    survey = predict_survey(
        tmp_path / "c.ecsv", laplace, folder / "stars.h5", flag_options=limits, show=show
    )
    expected = laplace.predict(stars.flux, ivar=stars.ivar, flag_options=limits)
    for name, value in vars(expected).items():
        found = getattr(survey.prediction, name)
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            # BLAS may sum products of another shape in another order
            np.testing.assert_allclose(
                found, value, rtol=1e-9, atol=1e-12 * np.nanmax(np.abs(value))
            )
        else:
            np.testing.assert_array_equal(found, value)
    assert shown == [N_STARS, 0, 8, 8, 8, 8, 5]
    np.testing.assert_array_equal(survey.ids, stars.ids)
    np.testing.assert_array_equal(survey.true_labels, stars.labels)
    table = Table.read(tmp_path / "c.ecsv")
    np.testing.assert_array_equal(table["TEFF"], survey.prediction.labels[:, 0])
    np.testing.assert_array_equal(table["FLAGS"], survey.prediction.flags)
    np.testing.assert_array_equal(table["LOGG_TRUE"], stars.labels[:, 1])
    assert table["ID"][4] == stars.ids[4]
    assert os.listdir(tmp_path) == ["c.ecsv"]


def test_the_header_says_where_the_numbers_come_from(work, tmp_path, small_pieces):
    folder, laplace, stars = work

    def read_header(laplace, spectra, **words):
        predict_survey(tmp_path / "c.ecsv", laplace, spectra, overwrite=True, **words)
        return Table.read(tmp_path / "c.ecsv").meta

    first = read_header(laplace, folder / "stars.h5")
    assert (first["N_PIXELS"], first["PIECE"], first["STRUCT"]) == (N_PIXELS, 8, laplace.structure)
    assert first == read_header(
        ss.read_laplace(folder / "model.h5"), stars
    )  # from memory as from the file
    other = replace(laplace, theta=laplace.theta + 1e-9)
    changed = {key for key, value in read_header(other, stars).items() if value != first[key]}
    assert changed == {"NETHASH", "MODHASH"}
    flux = np.array(stars.flux)
    flux[20, 3] += 1e-9
    changed = {
        key
        for key, value in read_header(laplace, replace(stars, flux=flux)).items()
        if value != first[key]
    }
    assert changed == {"DATAHASH"}
    marked = replace(laplace, hmc_verdict=("agree", "Laplace too small", "agree"))
    changed = {key for key, value in read_header(marked, stars).items() if value != first[key]}
    assert changed == {"MODHASH"}
    changed = {
        key: value
        for key, value in read_header(laplace, stars, flag_options=FlagOptions(min_snr=3)).items()
        if value != first[key]
    }
    assert changed == {"MINSNR": 3.0}


def test_spectra_without_errors_labels_or_ids_make_a_catalogue_too(work, tmp_path, small_pieces):
    _, laplace, stars = work
    bare = ss.Spectra(flux=np.nan_to_num(np.array(stars.flux), nan=1.0))
    survey = predict_survey(tmp_path / "c.fits", laplace, bare)
    assert not survey.prediction.has_flux_errors
    assert (survey.ids, survey.true_labels) == (None, None)
    table = Table.read(tmp_path / "c.fits")
    assert list(table["ID"]) == list(range(N_STARS))
    assert "SNR" not in table.colnames
    assert not [name for name in table.colnames if "TRUE" in name]


def test_a_table_in_memory_is_read_and_spectra_take_no_options_of_reading(work, tmp_path):
    _, laplace, stars = work
    table = Table(
        {"flux": stars.flux, "sigma": 1 / np.sqrt(np.where(stars.ivar > 0, stars.ivar, np.nan))}
    )
    survey = predict_survey(tmp_path / "c.ecsv", laplace, table, uncertainty="std")
    expected = laplace.predict(stars.flux, ivar=stars.ivar)
    np.testing.assert_allclose(survey.prediction.errors, expected.errors, rtol=1e-9)
    with pytest.raises(
        OptionError, match="uncertainty should go with a file or table to be read, got Spectra"
    ):
        predict_survey(tmp_path / "d.ecsv", laplace, stars, uncertainty="std")


def test_what_a_catalogue_cannot_hold_is_refused_before_it_is_computed(
    work, tmp_path, small_pieces
):
    _, laplace, stars = work
    ids = np.array(stars.ids)
    ids[3] = "HD 1 \N{GREEK SMALL LETTER ALPHA}"
    with pytest.raises(DataError, match="FITS holds printable ASCII only"):
        predict_survey(tmp_path / "c.fits", laplace, replace(stars, ids=ids))
    with pytest.raises(ShapeError, match="takes spectra of 40 pixels, got 39 in the spectra"):
        predict_survey(tmp_path / "c.fits", laplace, ss.Spectra(flux=np.ones((3, 39))))
    assert not os.listdir(tmp_path)
    predict_survey(tmp_path / "c.ecsv", laplace, replace(stars, ids=ids))


def test_derivatives_of_few_pixels_fill_several_pieces(tmp_path):
    net = ss.mlp([4, 2])
    theta = np.arange(net.n_params) / 8
    stars = ss.Spectra(flux=np.random.default_rng(0).normal(size=(5000, 4)))
    write_jacobian(tmp_path / "j.h5", net, theta, stars)
    with h5py.File(tmp_path / "j.h5") as file:
        kernel = net.unpack(theta)["dense_0/kernel"]
        np.testing.assert_array_equal(file["jacobian"][()], np.tile(kernel.T, (5000, 1, 1)))


@pytest.mark.parametrize(("compression", "dtype"), [("gzip", "float64"), ("none", "float32")])
def test_derivatives_made_in_pieces_are_those_of_all(
    work, tmp_path, small_pieces, monkeypatch, compression, dtype
):
    folder, laplace, stars = work
    monkeypatch.setattr(
        partial_runs, "PIECE_BYTES", 9 * 8 * 3 * N_PIXELS
    )  # eight stars, the last piece of five
    monkeypatch.setattr(jacobians, "CHUNK_BYTES", 2 * 8 * 3 * N_PIXELS)
    net, theta = laplace.reg.net, laplace.theta
    words = {"compression": compression, "dtype": dtype}
    summary = write_jacobian(tmp_path / "j.h5", net, theta, folder / "stars.h5", **words)
    filled = np.where(stars.ivar > 0, stars.flux, net.layers[0].mean)
    expected = ss.compile_jacobian(net, dtype=dtype)(theta, filled)
    rtol = 1e-9 if dtype == "float64" else 1e-4
    scale = np.abs(expected).max()
    with h5py.File(tmp_path / "j.h5") as file:
        J = file["jacobian"]
        assert (J.dtype, J.chunks) == (np.dtype(dtype), (2, 3, N_PIXELS))
        assert (J.compression, J.shuffle) == (
            (None, False) if compression == "none" else (compression, True)
        )
        np.testing.assert_allclose(J[()], expected, rtol=rtol, atol=rtol * 1e-3 * scale)
        np.testing.assert_array_equal(file["bad_pixel"][()], stars.ivar == 0)
        np.testing.assert_array_equal(file["ids"].asstr()[()], stars.ids)
        np.testing.assert_array_equal(file["wavelength"][()], stars.wavelength)
        assert file["wavelength"].attrs["unit"] == "Angstrom"
        assert file["label_names"].asstr()[()].tolist() == list(net.label_names)
        assert list(J.attrs["axes"]) == ["star", "label", "pixel"]
        assert {"network_hash", "data_hash", "symspec_version"} <= set(file.attrs)
    np.testing.assert_allclose(
        summary.mean, expected.mean(axis=0, dtype=np.float64), rtol=rtol, atol=rtol * scale
    )
    flux = np.where(stars.ivar > 0, stars.flux, 0).sum(axis=0) / (stars.ivar > 0).sum(axis=0)
    np.testing.assert_allclose(summary.flux, flux, rtol=1e-12)
    assert summary.n_stars == N_STARS
    assert os.listdir(tmp_path) == ["j.h5"]


def test_bad_pixels_need_a_mean_spectrum_and_take_the_one_given(work, tmp_path):
    _, _, stars = work
    net = ss.mlp([N_PIXELS, 2])
    theta = net.init_params(np.random.default_rng(0))
    with pytest.raises(DataError, match="pixels with ivar = 0 need the mean training spectrum"):
        write_jacobian(tmp_path / "j.h5", net, theta, stars)
    assert not os.listdir(tmp_path)
    write_jacobian(tmp_path / "j.h5", net, theta, stars, flux_mean=np.ones(N_PIXELS))
    with h5py.File(tmp_path / "j.h5") as file:
        expected = ss.compile_jacobian(net)(theta, np.where(stars.ivar > 0, stars.flux, 1.0))
        np.testing.assert_allclose(file["jacobian"][()], expected, rtol=1e-12, atol=1e-15)


# --- interrupted and killed


def run(*words, code=0):
    result = CliRunner().invoke(
        app.app, [str(word) for word in words], env={"COLUMNS": "300", "NO_COLOR": "1"}
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


COMMANDS = {"errors": "c.fits", "jacobian": "j.h5"}


@pytest.mark.parametrize(("command", "name"), COMMANDS.items())
def test_ctrl_c_keeps_the_pieces_and_says_how_to_go_on(
    work, tmp_path, small_pieces, monkeypatch, command, name
):
    folder, *_ = work
    words = (command, folder / "model.h5", folder / "stars.h5")
    run(*words, tmp_path / f"whole_{name}")
    hash_spectra, counts = surveys.hash_spectra, iter(range(100))

    def interrupt(stars):
        if next(counts) == 2:
            raise KeyboardInterrupt
        return hash_spectra(stars)

    module = surveys if command == "errors" else jacobians
    monkeypatch.setattr(module, "hash_spectra", interrupt)
    said = run(*words, tmp_path / name, code=130)
    assert (
        f"Interrupted: finished pieces are kept in {tmp_path / name}.partial; the same command"
        " resumes from there" in said
    )
    assert len(list((tmp_path / f"{name}.partial").glob("stars_*.h5"))) == 2
    monkeypatch.setattr(module, "hash_spectra", hash_spectra)
    run(*words, tmp_path / name)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole_{name}").read_bytes()


def test_another_model_other_spectra_or_options_are_told_and_restart_begins_anew(
    work, tmp_path, small_pieces
):
    folder, laplace, stars = work
    catalogue = tmp_path / "c.ecsv"
    words = ("errors", folder / "model.h5", folder / "stars.h5", catalogue)
    plan = {"min_snr": 20.0, "spectra": "some"}
    with open_run(catalogue, plan, N_STARS, 8) as unfinished:
        unfinished.compute(Task(read=same, find=squares))
    said = run(*words, code=1)
    assert "c.ecsv.partial should hold the pieces of this run, got those of another one" in said
    assert "spectra was 'some' and is" in said
    assert "min_snr" not in said
    run(*words, "--restart")
    assert os.listdir(tmp_path) == ["c.ecsv"]
    expected = laplace.predict(stars.flux[:8], ivar=stars.ivar[:8], center="linearized")
    np.testing.assert_allclose(Table.read(catalogue)["TEFF"][:8], expected.labels[:, 0], rtol=1e-12)


def test_plans_know_models_spectra_and_options_apart(work, tmp_path, small_pieces):
    folder, laplace, stars = work
    (tmp_path / "copy.h5").write_bytes((folder / "stars.h5").read_bytes())
    first = {"laplace": laplace, "spectra": tmp_path / "copy.h5"}

    def find_plan(laplace, spectra, **words):
        """The plan of a run that stops before its end."""

        def stop(n_stars, n_done):
            plans.append(json.loads((tmp_path / "c.ecsv.partial" / "plan.json").read_text()))
            raise KeyboardInterrupt

        plans = []
        with suppress(KeyboardInterrupt):
            predict_survey(tmp_path / "c.ecsv", laplace, spectra, show=stop, **words)
        return plans[0]

    def differing(**changed):
        other = find_plan(**(first | changed))
        return {name for name in plan if plan[name] != other[name]}

    plan = find_plan(**first)
    assert {
        "run",
        "model",
        "spectra",
        *asdict(FlagOptions()),
        "symspec",
        "numpy",
        "pytensor",
    } <= set(plan)
    assert differing() == set()
    assert differing(dialect="lower") == set()  # the same pieces
    assert differing(laplace=replace(laplace, theta=laplace.theta * 1.001)) == {"model"}
    assert differing(flag_options=FlagOptions(edge=0.1)) == {"edge"}
    assert differing(spectra=stars) == {"spectra"}
    os.utime(tmp_path / "copy.h5", ns=(1, 1))
    assert differing() == set()
    with h5py.File(tmp_path / "copy.h5", "r+") as file:
        file["flux"][20, 3] *= 2
    assert differing() == {"spectra"}


PROGRAM = """
import sys, symspec.files.partial_runs as partial_runs
partial_runs.PIECE_BYTES = int(sys.argv.pop(1))
from symspec.cli import main
main()
"""


@pytest.mark.parametrize(
    ("command", "name", "n_kills"), [("errors", "c.fits", 2), ("jacobian", "j.h5", 1)]
)
def test_kill_9_at_random_moments_ends_with_the_bytes_of_an_undisturbed_run(
    work, tmp_path, command, name, n_kills
):
    folder, *_ = work
    program = [
        sys.executable,
        "-c",
        PROGRAM,
        str(8 * N_PIXELS * (3 if command == "jacobian" else 1)),
    ]  # a star a piece
    words = [*program, command, folder / "model.h5", folder / "stars.h5"]
    options = {
        "cwd": Path(ss.__file__).parents[1],
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    subprocess.run([*words, tmp_path / f"whole_{name}"], check=True, **options)
    chance = random.Random(7)
    for _ in range(n_kills):
        target = count_pieces(tmp_path, name) + chance.randrange(1, 8)
        process = subprocess.Popen([*words, tmp_path / name], **options)
        while process.poll() is None and count_pieces(tmp_path, name) < target:
            time.sleep(0.001)
        time.sleep(0.01 * chance.random())  # somewhere in the next piece
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert target <= count_pieces(tmp_path, name) < N_STARS
        assert not (tmp_path / name).exists()
    subprocess.run([*words, tmp_path / name], check=True, **options)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole_{name}").read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([name, f"whole_{name}"])


def count_pieces(folder, name):
    return len(list((folder / f"{name}.partial").glob("stars_*.h5")))
