"""Catalogues hold what was predicted, entry by entry, in every format, and no file is ever lost."""

import os
import time
from dataclasses import replace

import numpy as np
import pytest
from catalogue_cases import (
    ALL,
    COLUMNS,
    NAMES,
    PARTS,
    SUFFIXES,
    UNITS,
    N,
    build_flagged,
    build_prediction,
    read_columns,
    read_table,
    values,
)

import symspec
from symspec.errors import DataError, FileKeptError, OptionError, ShapeError, SymspecError
from symspec.files import catalogues
from symspec.files.catalogues import catalogue_dataset, write_catalogue
from symspec.laplace.flags import Flag
from symspec.laplace.prediction import Prediction
from symspec.validation.calibration import ErrorCalibration


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"stars{request.param}"


@pytest.fixture
def flagged():
    return build_flagged()


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
        # of the network's units FITS has K, and astropy knows dex, too
        told = "None" if unit == "log(Sun)" and "fit" in path.name else unit
        assert {str(table[name + kind].unit) for kind in kinds} == {told}
    assert table["COV"].unit is None
    assert all(table[name].description for name in table.colnames)
    assert table["LOG_G"].description == "predicted log g"
    assert "standard deviation" in table["LOG_G_ERR"].description
    assert "TEFF, LOG_G, FE_H" in table["COV"].description


def test_the_header_says_labels_units_errors_flags_and_version(path):
    write_catalogue(
        path, build_prediction(), meta={"run": 7, "network-file": "starnet.h5", "scale": 0.5}
    )
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
    none = {
        name: np.zeros((0, 3, 3)) if name.endswith("cov") else np.zeros((0, 3)) for name in fields
    }
    none |= {"has_flux_errors": True, "label_names": NAMES, "label_units": UNITS}
    with pytest.raises(DataError, match="at least one star"):
        write_catalogue(path, Prediction(**none))


# --- every format alike


@pytest.mark.parametrize("suffix", ALL)
def test_covariances_come_back_bit_for_bit(tmp_path, suffix):
    prediction = build_prediction()
    awkward = [-0.0, 5e-324, 1 / 3, 1.7976931348623157e308, -np.pi * 1e-300, 0.1 + 0.2]
    prediction.total_cov[:2, 1:, :] = np.reshape([awkward, awkward[::-1]], (2, 2, 3))
    prediction.flux_cov[3] = np.inf
    write_catalogue(tmp_path / f"x{suffix}", prediction)
    columns = read_columns(tmp_path / f"x{suffix}")
    for part, name in PARTS.items():
        expected, found = getattr(prediction, name), columns[f"{part}COV"]
        assert found.dtype.newbyteorder("=") == np.float64
        same = found.astype(np.float64).view(np.int64) == expected.view(np.int64)
        assert (same | (np.isnan(found) & np.isnan(expected))).all()


@pytest.mark.parametrize("suffix", ALL)
def test_the_same_input_gives_the_same_bytes_at_another_time_under_another_name(
    tmp_path, flagged, suffix
):
    words = {
        "true_labels": flagged.labels,
        "calibration": ErrorCalibration(factor=[1.1, 1.0, 0.9], source="stars of clusters"),
    }
    ids = ["a", "bb", "ccc", "d"]
    words["meta"] = {"RUN": 3, "SHARE": 0.25}
    write_catalogue(tmp_path / f"one{suffix}", flagged, ids, **words)
    time.sleep(1.01)  # gzip, checksums and others count whole seconds
    write_catalogue(tmp_path / f"another{suffix}", flagged, ids, **words)
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"another{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", ALL)
def test_calibrated_errors_stand_beside_the_raw_ones(tmp_path, suffix):
    prediction = build_prediction()
    calibration = ErrorCalibration(factor=[1.5, 2.0, 0.5], source="300 stars of clusters")
    write_catalogue(tmp_path / f"x{suffix}", prediction, calibration=calibration)
    columns = read_columns(tmp_path / f"x{suffix}")
    for i, (name, factor) in enumerate(zip(COLUMNS, (1.5, 2.0, 0.5), strict=True)):
        raw = np.sqrt(prediction.total_cov[:, i, i])
        np.testing.assert_array_equal(columns[f"{name}_ERR"], raw)
        np.testing.assert_array_equal(columns[f"{name}_CAL_ERR"], factor * raw)
    if suffix == ".ecsv":
        meta = read_table(tmp_path / "x.ecsv").meta
        assert (meta["CALFROM"], meta["CAL1"], meta["CAL3"]) == ("300 stars of clusters", 1.5, 0.5)


@pytest.mark.parametrize("suffix", ALL)
@pytest.mark.parametrize("dof", [None, 1.5], ids=["normal", "wide tails"])
def test_intervals_of_a_level_stand_beside_the_errors(tmp_path, suffix, dof):
    prediction = build_prediction()
    if dof is not None:
        prediction = replace(prediction, noise_dof=np.full((N, 3), dof))
    write_catalogue(tmp_path / f"x{suffix}", prediction, interval=0.9)
    columns = read_columns(tmp_path / f"x{suffix}")
    ends = prediction.interval(0.9)
    for i, name in enumerate(COLUMNS):
        np.testing.assert_array_equal(columns[f"{name}_LO"], ends[:, i, 0])
        np.testing.assert_array_equal(columns[f"{name}_HI"], ends[:, i, 1])
    if suffix == ".ecsv":
        table = read_table(tmp_path / "x.ecsv")
        assert table.meta["INTERVAL"] == 0.9
        assert ("68.27 %" in table.meta["ERRTYPE"]) == (dof is not None)
        assert str(table["TEFF_HI"].unit) == "K"
        lower = catalogue_dataset(prediction, interval=0.9, dialect="lower")
        np.testing.assert_array_equal(lower["teff_lo"], ends[:, 0, 0])


@pytest.mark.parametrize("level", [0.0, 68, "0.68"])
def test_an_interval_of_no_level_is_refused(tmp_path, level):
    with pytest.raises(OptionError, match="between 0 and 1, got"):
        write_catalogue(tmp_path / "x.fits", build_prediction(), interval=level)
    assert not list(tmp_path.iterdir())


def test_without_a_calibration_nothing_is_said_of_one(path):
    write_catalogue(path, build_prediction())
    table = read_table(path)
    assert not [name for name in (*table.colnames, *table.meta) if "CAL" in name.upper()]


@pytest.mark.parametrize("suffix", ALL)
def test_columns_in_lower_case_hold_the_same(tmp_path, flagged, suffix):
    words = {
        "true_labels": flagged.labels + 1,
        "calibration": ErrorCalibration(factor=[1.5, 2.0, 0.5], source="x"),
    }
    write_catalogue(tmp_path / f"upper{suffix}", flagged, **words)
    write_catalogue(tmp_path / f"lower{suffix}", flagged, **words, dialect="lower")
    upper, lower = (
        read_columns(tmp_path / f"upper{suffix}"),
        read_columns(tmp_path / f"lower{suffix}"),
    )
    if suffix == ".nc":  # the coordinate of the stars is called star
        upper, lower = (
            {k: v for k, v in columns.items() if k != "ID"} for columns in (upper, lower)
        )
    assert len(upper) == len(lower) == 3 * 8 + 4 + 4 + (suffix != ".nc")
    for (name, found), expected in zip(lower.items(), upper.values(), strict=True):
        assert name == name.lower()
        np.testing.assert_array_equal(found, expected)
    names = [
        "teff",
        "e_teff",
        "e_teff_model",
        "e_teff_flux",
        "e_teff_noise",
        "e_teff_cal",
        "f_teff",
        "teff_true",
    ]
    assert list(lower)[suffix != ".nc" :][:8] == names
    rest = [
        "cov",
        "cov_model",
        "cov_flux",
        "cov_noise",
        "flags",
        "n_bad_pixels",
        "snr",
        "flux_distance",
    ]
    assert list(lower)[-8:] == rest
    expected = [
        "TEFF",
        "TEFF_ERR",
        "TEFF_MODEL_ERR",
        "TEFF_FLUX_ERR",
        "TEFF_NOISE_ERR",
        "TEFF_CAL_ERR",
        "TEFF_FLAGS",
    ]
    assert list(upper)[suffix != ".nc" :][:7] == expected


def test_flags_of_labels_limits_and_distances_are_told(path, flagged):
    write_catalogue(path, flagged)
    table = read_table(path)
    for i, name in enumerate(COLUMNS):
        np.testing.assert_array_equal(table[f"{name}_FLAGS"], flagged.label_flags[:, i])
    np.testing.assert_array_equal(values(table["SNR"]), flagged.snr)
    np.testing.assert_array_equal(values(table["FLUX_DISTANCE"]), flagged.flux_distance)
    limits = [table.meta[key] for key in ("EDGE", "MAXBAD", "MINSNR", "MAXDIST")]
    assert limits == [0.05, 0.1, 15.0, 1.5]
    assert "NOTEVAL" not in table.meta


def test_flags_that_could_not_be_looked_at_are_named(path, flagged):
    write_catalogue(path, replace(flagged, has_flux_errors=False, flux_distance=None))
    table = read_table(path)
    assert "SNR" not in table.colnames
    assert "FLUX_DISTANCE" not in table.colnames
    told = table.meta["NOTEVAL"]
    assert "256 (no errors of the flux)" in told
    assert "512 (model without a description of its training spectra)" in told


def test_versions_are_told(path):
    from importlib.metadata import version

    write_catalogue(path, build_prediction())
    meta = read_table(path).meta
    assert (meta["NUMPY"], meta["PYTENSOR"]) == (np.__version__, version("pytensor"))


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
        (
            {"dialect": "Upper"},
            OptionError,
            "dialect should be one of 'upper', 'lower'.*did you mean 'upper'",
        ),
        (
            {"calibration": ErrorCalibration(factor=[1.0], source="x")},
            ShapeError,
            "calibration should have 3 factors",
        ),
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
    with pytest.raises(
        OptionError, match=r"\.fits, \.fit, \.fits\.gz, \.ecsv, \.h5, \.hdf5, \.nc.*add one"
    ):
        write_catalogue(tmp_path / name, build_prediction())


# --- no file is lost


def test_an_existing_file_is_kept_unless_told_otherwise(path):
    path.write_bytes(b"an input")
    with pytest.raises(
        FileKeptError, match=r"got a file of 8 bytes, which is kept.*overwrite=True"
    ) as caught:
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
    monkeypatch.setattr(catalogues, "_WRITE", dict.fromkeys(catalogues._WRITE, fail))
    with pytest.raises(OSError, match="no space left"):
        write_catalogue(path, build_prediction(), overwrite=True)
    assert path.read_bytes() == b"an input"
    assert os.listdir(path.parent) == [path.name]
