"""`symspec influence` against training again without the stars that it leaves out."""

import re

import numpy as np
import pytest
from astropy.table import Table
from conftest import assert_entries
from test_cli import run

import symspec as ss
from symspec.files.catalogue_formats import find_table
from symspec.spectra.selections import split_stars

N, N_NEW, N_PIXELS = 18, 3, 5
NAMES, UNITS = ("TEFF", "LOGG"), ("K", "dex")
SCALE, LEVEL = np.array([500.0, 0.5]), np.array([5000.0, 3.0])
SAMPLE = np.array([f"field {i % 6}" for i in range(N)])
# float64 rounding, 1e-16, times condition numbers of up to 1e5, and times 1e2 of cancellation
SOLVED = 1e-9


class Case:
    """A linear network on stars with missing labels and errors of labels, in files."""

    def __init__(self, folder):
        rng = np.random.default_rng(5)
        self.folder = folder
        self.X = rng.normal(size=(N + N_NEW, N_PIXELS))
        truth = self.X[:N] @ rng.normal(size=(N_PIXELS, 2))
        self.Y = LEVEL + SCALE * (truth + 0.3 * rng.normal(size=(N, 2)))
        self.Y[3, 0] = self.Y[8, 1] = np.nan
        self.errors = SCALE * rng.uniform(0.05, 0.5, size=(N, 2))
        self.ids = np.array([f"S{i}" for i in range(N)])
        net = ss.mlp([N_PIXELS, 2], label_names=NAMES, label_units=UNITS)
        net = ss.Network(
            [*net.layers, ss.Unstandardize(LEVEL, SCALE)], N_PIXELS,
            label_names=NAMES, label_units=UNITS,
        )  # fmt: skip
        self.reg = ss.Regression(net, sigma_noise=0.3 * SCALE, prior_precision=0.4)
        self.laplace = self.fit(np.ones(N, bool))
        ss.write_laplace(folder / "model.h5", self.laplace)
        columns = {name: self.Y[:, c] for c, name in enumerate(NAMES)}
        columns |= {f"{name}_ERR": self.errors[:, c] for c, name in enumerate(NAMES)}
        np.savez(folder / "stars.npz", flux=self.X[:N], ids=self.ids, sample=SAMPLE, **columns)
        np.savez(folder / "other.npz", flux=self.X[1:N], **{k: v[1:] for k, v in columns.items()})
        np.savez(folder / "new.npz", flux=self.X[N:], ids=["A", "B", "C"])
        wide = np.ones((N, N_PIXELS + 1))
        np.savez(folder / "wide.npz", flux=wide)
        np.savez(folder / "broad.npz", flux=wide, **columns)

    def fit(self, kept):
        X, Y, errors = self.X[:N][kept], self.Y[kept], self.errors[kept]
        theta = np.zeros(self.reg.net.n_params)
        theta = ss.polish(self.reg, theta, X, Y, label_errors=errors, tolerance=1e-25).theta
        return ss.fit_laplace(self.reg, theta, X, Y, label_errors=errors, progress=False)

    def run(self, *words, training="stars.npz", code=0):
        return run("influence", self.folder / "model.h5", self.folder / training, *words, code=code)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return Case(tmp_path_factory.mktemp("influence"))


def find_all_moved(case, left_out):
    """Labels of the new stars (group, star, label), less those of refits without each group."""
    new = case.X[N:]
    refits = [case.fit(~members).predict_labels(new) for members in left_out]
    return case.laplace.predict_labels(new) - np.array(refits)


@pytest.mark.parametrize(
    ("words", "names", "members"),
    [
        ((), [f"S{i}" for i in range(N)], np.eye(N, dtype=bool)),
        (
            ("--group", "sample", "--curvature", "hessian"),
            [f"field {i}" for i in range(6)],
            np.array([f"field {i}" == SAMPLE for i in range(6)]),
        ),
    ],
    ids=["stars", "groups, exact Hessian"],
)
def test_the_table_of_influence_is_that_of_refits(case, tmp_path, words, names, members):
    output = tmp_path / "moved.ecsv"
    case.run(case.folder / "new.npz", "--most", len(names), "--output", output, *words)
    rows = Table.read(output)
    assert len(rows) == N_NEW * len(names)
    moved = find_all_moved(case, members)
    errors = np.sqrt(np.einsum("scc->sc", case.laplace.label_covariance(case.X[N:])))
    for star, name in enumerate("ABC"):
        own = rows[rows["ID"] == name]
        sizes = np.abs(moved[:, star] / errors[star]).max(axis=1)
        order = np.argsort(-sizes)
        assert list(own["WITHOUT"]) == [names[i] for i in order]
        assert list(own["RANK"]) == list(range(1, len(names) + 1))
        for c, label in enumerate(NAMES):
            assert own[label].unit == UNITS[c]
            predicted = case.laplace.predict_labels(case.X[N:])[star, c]
            expected = moved[order, star, c]
            assert_entries(own[f"{label}_MOVED"], expected, SOLVED)
            assert_entries(own[f"{label}_MOVED_SD"], expected / errors[star, c], SOLVED)
            assert_entries(own[f"{label}_WITHOUT"], predicted - expected, SOLVED)
            assert_entries(own[f"{label}_MODEL_ERR"], np.full(len(own), errors[star, c]), SOLVED)


@pytest.mark.parametrize("suffix", [".ecsv", ".fits", ".h5", ".nc"])
def test_the_table_of_suspects_is_that_of_refits(case, tmp_path, suffix):
    output = tmp_path / f"suspects{suffix}"
    said = case.run("--suspects", output, "--worst", 4)
    read = find_columns(output)
    order = [list(case.ids).index(name) for name in read["ID"].astype(str)]
    refits = [case.fit(np.arange(N) != star).predict(case.X[[star]]) for star in order[:5]]
    for i, (star, refit) in enumerate(zip(order, refits, strict=False)):
        variance = np.diag(refit.total_cov[0]) + np.nan_to_num(case.errors[star]) ** 2
        known = ~np.isnan(case.Y[star])
        found = np.array([[read[f"{n}{k}"][i] for n in NAMES] for k in ("", "_WITHOUT", "_Z")])
        without = refit.labels[0]
        z = (without - case.Y[star]) / np.sqrt(variance)
        np.testing.assert_array_equal(found[0], case.Y[star])
        assert_entries(found[1], without, SOLVED)
        assert_entries(found[2][known], z[known], SOLVED)
    worst = np.nanmax(np.abs([read[f"{name}_Z"] for name in NAMES]), axis=0)
    assert (np.diff(worst) <= 0).all()
    assert f"The 4 of {2 * N - 2} training labels that contradict all others most" in said.stdout
    assert f"Wrote suspects: {output}" in said.stdout


def find_columns(path):
    if path.suffix == ".nc":
        import xarray as xr

        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            return {"ID": dataset["star"].values} | {k: v.values for k, v in dataset.items()}
    options = {"path": "catalogue"} if path.suffix == ".h5" else {}
    table = Table.read(path, **options)
    return {name: np.asarray(table[name]) for name in table.colnames}


def test_the_screen_names_stars_and_what_they_would_be(case):
    said = case.run(case.folder / "new.npz", "--choose", "B", "--most", 1)
    assert "Predictions of the 3 stars of new.npz" in said.stdout
    assert f"Predictions of the {N} stars that the model was trained on" in case.run().stdout
    assert "Star B: the training stars that moved it most" in said.stdout
    assert "A: the training" not in said.stdout
    moved = find_all_moved(case, np.eye(N, dtype=bool))[:, 1]
    errors = np.sqrt(np.diag(case.laplace.label_covariance(case.X[N + 1])))
    star, _ = np.unravel_index(np.argmax(np.abs(moved / errors)), moved.shape)
    pattern = rf"S{star} TEFF \[K\] (\d+) ([+-][\d.]+) ([+-][\d.]+) "
    without, by, share = map(float, re.search(pattern, said.stdout).groups())
    predicted = case.laplace.predict_labels(case.X[N + 1])[0]
    assert without == pytest.approx(predicted - moved[star, 0], abs=0.51)
    assert by == pytest.approx(moved[star, 0], rel=5e-3)
    assert share == pytest.approx(moved[star, 0] / errors[0], abs=5.1e-3)


def test_stars_without_names_are_called_by_their_rows_in_the_file(case, tmp_path):
    """Those of the training stars alone would be others, once some were set aside."""
    columns = {name: case.Y[:, c] for c, name in enumerate(NAMES)}
    columns |= {f"{name}_ERR": case.errors[:, c] for c, name in enumerate(NAMES)}
    np.savez(tmp_path / "unnamed.npz", flux=case.X[:N], **columns)
    everything = ss.Spectra(flux=case.X[:N], labels=case.Y, ids=np.arange(N).astype(str))
    kept = split_stars(everything, 0.3, 0)[0].ids.astype(int)
    ss.write_laplace(tmp_path / "model.h5", case.fit(np.isin(np.arange(N), kept)))
    output = tmp_path / "suspects.ecsv"
    run(
        "influence", tmp_path / "model.h5", tmp_path / "unnamed.npz", "--validation", 0.3,
        "--suspects", output,
    )  # fmt: skip
    rows = Table.read(output)
    assert sorted(map(int, rows["ID"])) == list(kept)
    own = np.array([case.Y[int(name)] for name in rows["ID"]])
    np.testing.assert_array_equal(np.transpose([rows[name] for name in NAMES]), own)


def test_a_table_is_not_taken_for_a_catalogue(case, tmp_path):
    case.run("--output", tmp_path / "moved.fits")
    assert find_table(tmp_path / "moved.fits") is None
    case.run("--output", tmp_path / "moved.fits", code=1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("other.npz", "new.npz"), "should be those that the model was trained on, got 17 stars"),
        (("new.npz", "new.npz"), "should hold the label 'TEFF', got only flux, ids"),
        (("broad.npz",), "takes spectra of 5 pixels, got 6 in broad.npz"),
        (("stars.npz", "wide.npz"), "takes spectra of 5 pixels, got 6"),
        (("stars.npz", "new.npz", "--choose", "Z"), "got 'Z', which none of 3 has"),
        (
            ("stars.npz", "--read", "label_errors=none"),
            "the labels, and the errors of labels, that",
        ),
        (("stars.npz", "--output", "moved.txt"), "should end in one of .fits"),
        (("stars.npz", "--output", "a.fits", "--suspects", "a.fits"), "is named twice"),
        (("stars.npz", "catalogue.fits"), "should hold spectra, got a catalogue of labels"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(case, monkeypatch, words, expected):
    monkeypatch.chdir(case.folder)
    prediction = case.laplace.predict(case.X[N:])
    ss.write_catalogue("catalogue.fits", prediction, overwrite=True)
    before = set(case.folder.iterdir())
    assert expected in run("influence", "model.h5", *words, code=1).stderr
    assert set(case.folder.iterdir()) == before


def test_an_approximation_has_no_influence(case, tmp_path):
    X, Y = case.X[:N], case.Y
    options = {"label_errors": case.errors, "structure": "kronecker", "progress": False}
    laplace = ss.fit_laplace(case.reg, case.laplace.theta, X, Y, **options)
    ss.write_laplace(tmp_path / "model.h5", laplace)
    said = run("influence", tmp_path / "model.h5", case.folder / "stars.npz", code=1)
    assert 'structure="primal" or "dual"' in said.stderr
