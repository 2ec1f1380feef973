"""Catalogues in FITS, HDF5 and NetCDF, as the readers of these formats see them."""

import h5py
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import QTable, Table
from catalogue_cases import (
    COLUMNS,
    UNITS,
    N,
    build_flagged,
    build_prediction,
    read_table,
)

from symspec.errors import DataError
from symspec.files.catalogues import catalogue_dataset, write_catalogue
from symspec.laplace.flags import Flag


@pytest.fixture
def flagged():
    return build_flagged()


# --- units, NetCDF, and the dataset in memory


@pytest.mark.parametrize("unit", ["dex", "dex(cm / s2)", "km / s", "%", "log(cgs)", "", "K dex"])
def test_any_unit_is_read_from_fits_without_a_warning(tmp_path, unit):
    """Warnings are errors here; units that FITS lacks are in comments, TCOMM and UNIT1."""
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


# --- FITS and HDF5


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_fits_passes_verification_with_its_checksums(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    write_catalogue(
        path,
        build_prediction(),
        meta={"note": ("a long text, " * 20).strip(), "a-long-name": "y" * 90, "z": np.nan},
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
        assert header["NOTE"] == ("a long text, " * 20).strip()
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
