"""Catalogues hold what was predicted, entry by entry, in every format, and no file is ever lost."""

import os
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import QTable, Table

import symspec
from symspec.errors import DataError, FileKeptError, OptionError, ShapeError, SymspecError
from symspec.files import catalogues
from symspec.files.catalogues import catalogue_dataset, write_catalogue
from symspec.laplace.calibration import ErrorCalibration
from symspec.laplace.flags import Flag, FlagOptions
from symspec.laplace.prediction import Prediction
from symspec.safety.whole_files import replace_when_complete

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
    return Prediction(
        labels=labels,
        model_cov=model,
        flux_cov=flux,
        noise_cov=noise,
        total_cov=model + flux + noise,
        flags=flags,
        n_bad_pixels=n_bad,
        has_flux_errors=flux_errors,
        label_names=names,
        label_units=units,
    )


def read_table(path):
    if path.name.endswith((".h5", ".hdf5")):
        return Table.read(path, character_as_bytes=False)
    return Table.read(path)


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


# --- FITS, as other readers see it


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_fits_passes_verification_with_its_checksums(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write_catalogue(
        path,
        build_prediction(),
        meta={"note": "a long text, " * 20, "a-long-name": "y" * 90, "z": np.nan},
    )
    with fits.open(path, checksum=True) as file:
        file.verify("exception")
        header = file["CATALOGUE"].header
        assert (header["TTYPE2"], header["TUNIT2"], header["TCOMM2"]) == (
            "TEFF",
            "K",
            "predicted Teff",
        )
        assert (header["TTYPE7"], header["TCOMM7"]) == ("LOG_G", "predicted log g [dex]")
        assert header["TCOMM12"] == "predicted [Fe/H] [log(Sun)]"
        assert [key for key in header if key.startswith("TUNIT")] == [
            f"TUNIT{i}" for i in range(2, 7)
        ]
        assert header["NOTE"].strip() == ("a long text, " * 20).strip()
        comments = "".join(header["COMMENT"])
        assert "a-long-name = " + "y" * 90 in comments
        assert "z = nan" in comments
        assert file["CATALOGUE"].data["COV"].shape == (N, 3, 3)


@pytest.mark.parametrize("where", ["ids", "meta", "unit"])
def test_fits_refuses_what_is_not_ascii_and_other_formats_take_it(tmp_path, where):
    units = ("Å", *UNITS[1:]) if where == "unit" else UNITS
    given = (
        {"ids": ["é", "b", "c", "d"]}
        if where == "ids"
        else {"meta": {"author": "é"}}
        if where == "meta"
        else {}
    )
    with pytest.raises(DataError, match=r"FITS holds printable ASCII only, got .*\.ecsv"):
        write_catalogue(tmp_path / "x.fits", build_prediction(units=units), **given)
    for name in ("x.ecsv", "x.h5"):
        write_catalogue(tmp_path / name, build_prediction(units=units), **given)
        table = read_table(tmp_path / name)
        assert {
            "ids": table["ID"][0],
            "meta": table.meta.get("author"),
            "unit": table.meta["UNIT1"],
        }[where] in "éÅ"


def test_hdf5_is_plain_to_h5py(tmp_path):
    prediction = build_prediction()
    write_catalogue(tmp_path / "x.h5", prediction, ["a", "b", "c", "d"])
    with h5py.File(tmp_path / "x.h5") as file:
        np.testing.assert_array_equal(file["catalogue"]["NOISE_COV"], prediction.noise_cov)
        assert file["catalogue"]["ID"].tolist() == [b"a", b"b", b"c", b"d"]


# --- every format alike


ALL = [*SUFFIXES, ".nc"]


def read_columns(path):
    """Columns by name as plain arrays."""
    if path.suffix != ".nc":
        table = read_table(path)
        return {name: values(table[name]) for name in table.colnames}
    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        return {"ID": dataset["star"].values} | {
            name: v.values for name, v in dataset.data_vars.items()
        }


@pytest.fixture
def flagged():
    """A prediction with all that one may carry."""
    label_flags = np.array([[0, 64, 0], [2, 0, 0], [1, 1, 1], [0, 0, 0]], np.int32)
    known = {
        "snr": np.array([100.0, 12.5, np.nan, 40.0]),
        "flux_distance": np.array([0.3, 1.9, np.inf, np.nan]),
    }
    return replace(
        build_prediction(), label_flags=label_flags, flag_options=FlagOptions(min_snr=15), **known
    )


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


# --- FITS and NetCDF, as their own readers see them


@pytest.mark.parametrize("unit", ["dex", "dex(cm / s2)", "km / s", "%", "log(cgs)", "", "K dex"])
def test_any_unit_is_read_from_fits_without_a_warning(tmp_path, unit):
    """Warnings are errors here; what FITS lacks, astropy finds in comments, and others in TCOMM and UNIT1."""
    prediction = build_prediction(names=("x",), units=(unit,))
    write_catalogue(tmp_path / "x.fits", prediction)
    for table in (Table.read(tmp_path / "x.fits"), QTable.read(tmp_path / "x.fits")):
        found = table["X"].unit
        assert (str(found) if found is not None else "") in {
            unit,
            "0.01" if unit == "%" else unit,
            "",
        }
        assert (found is None) == (unit in ("log(cgs)", ""))
        assert table.meta["UNIT1"] == unit
    with fits.open(tmp_path / "x.fits", checksum=True) as file:
        file.verify("exception")
        header = file[1].header
        in_standard = unit in ("km / s", "%")
        assert ("TUNIT2" in header) == in_standard
        assert header["TCOMM2"] == "predicted x" + (
            f" [{unit}]" if unit and not in_standard else ""
        )
        assert not [key for key in header if "DATE" in key]


def test_netcdf_has_coordinates_units_and_the_header(tmp_path, flagged):
    ids = ["a", "bb", "ccc", "d"]
    write_catalogue(tmp_path / "x.nc", flagged, ids, meta={"RUN": 3})
    with xr.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as dataset:
        assert dict(dataset.sizes) == {"star": 4, "label": 3, "other_label": 3}
        assert dataset["star"].values.tolist() == ids
        assert dataset["label"].values.tolist() == dataset["other_label"].values.tolist() == COLUMNS
        assert [dataset[name].attrs["units"] for name in COLUMNS] == list(UNITS)
        assert dataset["LOG_G_ERR"].attrs == {
            "long_name": "total standard deviation of LOG_G",
            "units": "dex",
        }
        assert "units" not in dataset["COV"].attrs
        one = dataset["MODEL_COV"].sel(star="d", label="TEFF", other_label="FE_H")
        assert one.item() == flagged.model_cov[3, 0, 2]
        assert (dataset.attrs["LABEL2"], dataset.attrs["FLUXERR"], dataset.attrs["RUN"]) == (
            "log g",
            1,
            3,
        )
        assert dataset["FLAGS"].attrs["flag_masks"].tolist() == [flag.value for flag in Flag]
        assert dataset["TEFF_FLAGS"].attrs["flag_meanings"].split() == [flag.name for flag in Flag]


def test_labels_without_names_of_their_own_make_a_dataset():
    """Called label_0, label_1, label_2 by default, none of which may be a dimension's name."""
    dataset = catalogue_dataset(
        build_prediction(names=("label_0", "label_1", "label_2")), dialect="lower"
    )
    assert {"label_0", "label_1", "label_2"} <= set(dataset.data_vars)
    assert dataset["cov"].dims == ("star", "label", "other_label")


def test_the_dataset_in_memory_is_that_of_the_file(tmp_path, flagged):
    words = {"true_labels": flagged.labels, "dialect": "lower", "meta": {"run": 3}}
    dataset = catalogue_dataset(flagged, **words)
    write_catalogue(tmp_path / "x.nc", flagged, **words)
    with xr.open_dataset(tmp_path / "x.nc", engine="h5netcdf") as written:
        xr.testing.assert_equal(dataset, written)
    assert dataset["star"].values.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(dataset["e_teff"], flagged.errors[:, 0])
    with_bits = [
        name for name, variable in dataset.data_vars.items() if "flag_masks" in variable.attrs
    ]
    assert with_bits == ["f_teff", "f_log_g", "f_fe_h", "flags"]


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
