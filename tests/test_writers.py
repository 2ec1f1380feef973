"""Catalogues hold what was predicted, entry by entry, in every format, and no file is ever lost."""

import os

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import symspec
from symspec import writers
from symspec.errors import DataError, OptionError, ShapeError, SymspecError
from symspec.prediction import Flag, Prediction
from symspec.writers import FileKeptError, replace_when_complete, write_catalogue

N, NAMES, UNITS = 4, ("Teff", "log g", "[Fe/H]"), ("K", "dex", "log(Sun)")
COLUMNS = ["TEFF", "LOG_G", "FE_H"]
SUFFIXES = [".fits", ".fit", ".fits.gz", ".ecsv", ".h5", ".hdf5"]
PARTS = {"": "total_cov", "MODEL_": "model_cov", "FLUX_": "flux_cov", "NOISE_": "noise_cov"}


def build_prediction(*, flux_errors=True, names=NAMES, units=UNITS):
    rng, C = np.random.default_rng(5), len(names)

    def covariances():
        A = rng.normal(size=(N, C, C + 1)) * np.array([80.0, 0.2, 0.05])[:C, None]
        return np.einsum("nik,njk->nij", A, A)

    model, flux, noise = covariances(), covariances() * flux_errors, covariances()
    model[2, 0, 0] = np.nan  # a star that failed
    labels = rng.normal(size=(N, C)) + np.array([4800.0, 2.5, -0.3])[:C]
    labels[2] = np.nan
    flags, n_bad = np.array([0, 2, 1, 12], np.int32), np.array([0, 0, 0, 17])
    return Prediction(labels, model, flux, noise, model + flux + noise, flags, n_bad, flux_errors, names, units)


def read_table(path):
    if path.name.endswith((".h5", ".hdf5")):
        return Table.read(path, character_as_bytes=False)
    if path.name.endswith(".ecsv"):
        return Table.read(path)
    return Table.read(path, unit_parse_strict="silent")


def values(column):
    """NaN where astropy masks NaN."""
    return np.ma.filled(column, np.nan) if np.ma.isMaskedArray(column) else np.asarray(column)


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"stars{request.param}"


# --- what is in the table


def test_every_entry_comes_back_exactly(path):
    prediction, ids = build_prediction(), ["2M01", "HD 122563", "a, b", 'x "y"']
    truth = prediction.labels + 1.5
    truth[0, 1] = np.nan
    write_catalogue(path, prediction, ids, true_labels=truth)
    table = read_table(path)
    assert list(table["ID"]) == ids
    for i, name in enumerate(COLUMNS):
        np.testing.assert_array_equal(values(table[name]), prediction.labels[:, i])
        np.testing.assert_array_equal(values(table[f"{name}_TRUE"]), truth[:, i])
        for part, covariance in PARTS.items():
            error = np.sqrt(getattr(prediction, covariance)[:, i, i])
            np.testing.assert_array_equal(values(table[f"{name}_{part}ERR"]), error)
    for part, covariance in PARTS.items():
        np.testing.assert_array_equal(values(table[f"{part}COV"]), getattr(prediction, covariance))
    assert list(table["FLAGS"]) == [0, 2, 1, 12]
    assert list(table["N_BAD_PIXELS"]) == [0, 0, 0, 17]


def test_units_descriptions_and_order_are_told(path):
    write_catalogue(path, build_prediction(), true_labels=np.zeros((N, 3)))
    table = read_table(path)
    kinds = ["", "_ERR", "_MODEL_ERR", "_FLUX_ERR", "_NOISE_ERR", "_TRUE"]
    labels = [name + kind for name in COLUMNS for kind in kinds]
    assert table.colnames == [
        "ID",
        *labels,
        "COV",
        "MODEL_COV",
        "FLUX_COV",
        "NOISE_COV",
        "FLAGS",
        "N_BAD_PIXELS",
    ]
    for name, unit in zip(COLUMNS, UNITS, strict=True):
        assert {str(table[name + kind].unit) for kind in kinds} == {unit}
    assert table["COV"].unit is None
    assert all(table[name].description for name in table.colnames)
    assert table["LOG_G"].description == "predicted log g"
    assert "standard deviation" in table["LOG_G_ERR"].description
    assert "TEFF, LOG_G, FE_H" in table["COV"].description


def test_the_header_says_labels_units_errors_flags_and_version(path):
    write_catalogue(path, build_prediction(), meta={"run": 7, "network-file": "starnet.h5", "scale": 0.5})
    header = read_table(path).meta
    header = {key.upper(): value for key, value in header.items()}
    assert [header[f"LABEL{i}"] for i in (1, 2, 3)] == list(NAMES)
    assert [header[f"UNIT{i}"] for i in (1, 2, 3)] == list(UNITS)
    assert header["N_LABELS"] == 3
    assert header["SYMSPEC"] == symspec.__version__
    assert "standard deviation" in header["ERRTYPE"]
    for flag in Flag:
        assert header[f"FLAG{flag.value}"] == f"{flag.name}: {flag.meaning}"
    assert (header["RUN"], header["NETWORK-FILE"], header["SCALE"]) == (7, "starnet.h5", 0.5)


def test_without_flux_errors_there_are_no_columns_of_them(path):
    write_catalogue(path, build_prediction(flux_errors=False))
    table = read_table(path)
    assert not [name for name in table.colnames if "FLUX" in name]
    assert not table.meta["FLUXERR"]
    assert list(table["ID"]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "ids",
    [
        np.array([2**62, 2**53 + 1, 0, -5]),
        np.array([b"a", b"bb", b"c", b"d"]),
        np.array(["a", b"bb", "c", "d"], dtype=object),
        np.array(["007", "nan", "1e5", "0x1"]),
    ],
    ids=["int64", "bytes", "objects", "words like numbers"],
)
def test_ids_come_back_as_they_were(path, ids):
    write_catalogue(path, build_prediction(), ids)
    expected = [i.decode() if isinstance(i, bytes) else i for i in ids.tolist()]
    assert list(read_table(path)["ID"]) == expected


def test_one_label_and_no_units_make_a_table(path):
    prediction = build_prediction(names=("label_0",), units=("",))
    write_catalogue(path, prediction)
    table = read_table(path)
    np.testing.assert_array_equal(values(table["COV"]), prediction.total_cov)
    assert table["LABEL_0"].unit is None


def test_a_variance_below_zero_has_an_error_of_nan(path):
    prediction = build_prediction()
    prediction.model_cov[0, 1, 1] = -1e-20
    write_catalogue(path, prediction)
    table = read_table(path)
    assert np.isnan(values(table["LOG_G_MODEL_ERR"])[0])
    assert values(table["MODEL_COV"])[0, 1, 1] == -1e-20


def test_a_prediction_of_no_stars_is_refused(path):
    fields = Prediction.__dataclass_fields__
    none = {name: np.zeros((0, 3, 3)) if name.endswith("cov") else np.zeros((0, 3)) for name in fields}
    none |= {"has_flux_errors": True, "label_names": NAMES, "label_units": UNITS}
    with pytest.raises(DataError, match="at least one star"):
        write_catalogue(path, Prediction(**none))


# --- FITS, as other readers see it


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_fits_passes_verification_with_its_checksums(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write_catalogue(path, build_prediction(), meta={"note": "a long text, " * 20, "a-long-name": "y" * 90, "z": np.nan})
    with fits.open(path, checksum=True) as file:
        file.verify("exception")
        header = file["CATALOGUE"].header
        assert (header["TTYPE2"], header["TUNIT2"], header["TCOMM2"]) == ("TEFF", "K", "predicted Teff")
        assert (header["TTYPE7"], header["TUNIT7"]) == ("LOG_G", "dex")
        assert header["NOTE"].strip() == ("a long text, " * 20).strip()
        comments = "".join(header["COMMENT"])
        assert "a-long-name = " + "y" * 90 in comments
        assert "z = nan" in comments
        assert file["CATALOGUE"].data["COV"].shape == (N, 3, 3)


@pytest.mark.parametrize("where", ["ids", "meta", "unit"])
def test_fits_refuses_what_is_not_ascii_and_other_formats_take_it(tmp_path, where):
    units = ("Å", *UNITS[1:]) if where == "unit" else UNITS
    given = {"ids": ["é", "b", "c", "d"]} if where == "ids" else {"meta": {"author": "é"}} if where == "meta" else {}
    with pytest.raises(DataError, match=r"FITS holds printable ASCII only, got .*\.ecsv"):
        write_catalogue(tmp_path / "x.fits", build_prediction(units=units), **given)
    for name in ("x.ecsv", "x.h5"):
        write_catalogue(tmp_path / name, build_prediction(units=units), **given)
        table = read_table(tmp_path / name)
        assert {"ids": table["ID"][0], "meta": table.meta.get("author"), "unit": table.meta["UNIT1"]}[where] in "éÅ"


def test_hdf5_is_plain_to_h5py(tmp_path):
    prediction = build_prediction()
    write_catalogue(tmp_path / "x.h5", prediction, ["a", "b", "c", "d"])
    with h5py.File(tmp_path / "x.h5") as file:
        np.testing.assert_array_equal(file["catalogue"]["NOISE_COV"], prediction.noise_cov)
        assert file["catalogue"]["ID"].tolist() == [b"a", b"b", b"c", b"d"]


# --- what is refused


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"ids": ["a", "b"]}, ShapeError, r"ids should have shape \(4,\).*got \(2,\)"),
        ({"ids": np.zeros(4)}, DataError, "ids should be words or whole numbers, got float64"),
        ({"ids": [None, "a", "b", "c"]}, DataError, "ids should be words or whole numbers"),
        (
            {"true_labels": np.zeros((3, N))},
            ShapeError,
            r"true_labels should have shape \(4, 3\).*got \(3, 4\)",
        ),
        ({"meta": {"TFORM1": "x"}}, OptionError, "meta should not hold 'TFORM1'"),
        ({"meta": {"label1": "x"}}, OptionError, "meta should not hold 'label1'"),
        ({"meta": {"a": 1, "A": 2}}, OptionError, "meta should not hold 'A'"),
        ({"meta": {"a b": "x"}}, OptionError, "keys of meta should be of letters"),
        ({"meta": {"a": [1]}}, OptionError, "meta should hold words and numbers"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(path, given, error, words):
    with pytest.raises(error, match=words):
        write_catalogue(path, build_prediction(), **given)
    assert not os.listdir(path.parent)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("TEFF", "teff", "x"), "got TEFF, TEFF_ERR, .* twice"),
        (("TEFF", "TEFF_ERR", "x"), "got TEFF_ERR twice"),
        (("ID", "a", "b"), "got ID twice"),
        (("[X/H]", "X_H", "b"), "got X_H, .* twice"),
        (("\N{GREEK SMALL LETTER ALPHA}", "a", "b"), "ASCII ones only"),
        (("12", "a", "b"), "should have letters"),
    ],
)
def test_names_that_make_no_columns_are_refused(path, names, words):
    with pytest.raises(DataError, match=words):
        write_catalogue(path, build_prediction(names=names))


@pytest.mark.parametrize("name", ["stars", "stars.csv", "stars.gz", "fits"])
def test_an_unknown_ending_is_refused_with_those_known(tmp_path, name):
    with pytest.raises(OptionError, match=r"\.fits, \.fit, \.fits\.gz, \.ecsv, \.h5, \.hdf5.*add one"):
        write_catalogue(tmp_path / name, build_prediction())


# --- no file is lost


def test_an_existing_file_is_kept_unless_told_otherwise(path):
    path.write_bytes(b"an input")
    with pytest.raises(FileKeptError, match=r"got a file of 8 bytes, which is kept.*overwrite=True") as caught:
        write_catalogue(path, build_prediction())
    assert isinstance(caught.value, SymspecError)
    assert isinstance(caught.value, FileExistsError)
    assert path.read_bytes() == b"an input"
    write_catalogue(path, build_prediction(), overwrite=True)
    assert len(read_table(path)) == N
    assert os.listdir(path.parent) == [path.name]


def test_an_error_while_writing_leaves_the_old_file_alone(path, monkeypatch):
    def fail(temporary, columns, header):
        temporary.write_bytes(b"half a fi")
        raise OSError("no space left on device")

    path.write_bytes(b"an input")
    monkeypatch.setattr(writers, "_WRITE", dict.fromkeys(writers._WRITE, fail))
    with pytest.raises(OSError, match="no space left"):
        write_catalogue(path, build_prediction(), overwrite=True)
    assert path.read_bytes() == b"an input"
    assert os.listdir(path.parent) == [path.name]


def interrupted(path):
    with replace_when_complete(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt


def test_an_interrupt_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "x")
    assert not os.listdir(tmp_path)


def test_a_failed_renaming_leaves_the_old_file_alone(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"old")

    def fail(source, target):
        raise PermissionError("not yours")

    monkeypatch.setattr(os, "replace", fail)
    with (
        pytest.raises(PermissionError),
        replace_when_complete(tmp_path / "x", overwrite=True) as temporary,
    ):
        temporary.write_bytes(b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def overtaken(path):
    with replace_when_complete(path) as temporary:
        temporary.write_bytes(b"ours")
        path.write_bytes(b"theirs")


def test_a_file_that_appears_while_writing_is_kept(tmp_path):
    with pytest.raises(FileKeptError):
        overtaken(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["x"]


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with replace_when_complete(tmp_path / "link", overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_folders_are_refused_and_missing_ones_are_named(tmp_path):
    with (
        pytest.raises(FileKeptError, match="add a file name"),
        replace_when_complete(tmp_path, overwrite=True),
    ):
        pass
    with (
        pytest.raises(FileNotFoundError, match="create it first"),
        replace_when_complete(tmp_path / "no" / "x"),
    ):
        pass
