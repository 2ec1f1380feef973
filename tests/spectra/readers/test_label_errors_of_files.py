"""Errors of labels beside them in files: known by their names, asked for where ambiguous."""

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from numpy.testing import assert_allclose, assert_array_equal

import symspec as ss

RNG = np.random.default_rng(0)
FLUX = 1 + 0.1 * RNG.normal(size=(4, 6))
TEFF = np.array([5000.0, 5100.0, -9999.0, 5300.0])
LOGG = np.array([4.0, 4.1, 4.2, 4.3])
SD = {"TEFF": np.array([50.0, 60.0, -9999.0, 80.0]), "LOGG": np.array([0.1, 0.2, 0.3, 0.4])}
EXPECTED = np.column_stack([np.where(TEFF < 0, np.nan, SD["TEFF"]), SD["LOGG"]])


def write(path, columns):
    arrays = {"flux": FLUX, "TEFF": TEFF, "LOGG": LOGG, **columns}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values
    elif path.suffix == ".fits":
        Table(arrays).write(path)
    else:
        names = [*(str(i) for i in range(6)), *list(arrays)[1:]]
        rows = np.column_stack([FLUX, *list(arrays.values())[1:]])
        np.savetxt(path, rows, delimiter=",", header=",".join(names), comments="")
    return path


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".fits", ".csv"])
@pytest.mark.parametrize(
    "pattern", ["{}_ERR", "E_{}", "{}_err", "e_{}", "sigma_{}", "{}_ERROR", "{}_STD"]
)
def test_errors_are_known_by_their_names(tmp_path, suffix, pattern):
    columns = {pattern.format(name): sd for name, sd in SD.items()}
    path = write(tmp_path / f"stars{suffix}", columns)
    stars = ss.read_spectra(path)
    assert stars.label_names == ("TEFF", "LOGG")
    assert_array_equal(stars.label_errors, EXPECTED)
    swapped = ss.read_spectra(path, label_names=["LOGG"])
    assert_array_equal(swapped.label_errors, EXPECTED[:, 1:])
    with ss.open_spectra(path) as file:
        assert_array_equal(file.read(slice(1, 3)).label_errors, EXPECTED[1:3])
    plain = ss.read_spectra(path, label_errors="none")
    assert plain.label_errors is None
    assert_array_equal(plain.labels, stars.labels)


def test_what_is_ambiguous_is_asked(tmp_path):
    two = {"TEFF_ERR": SD["TEFF"], "E_TEFF": 2 * SD["TEFF"], "LOGG_ERR": SD["LOGG"]}
    path = write(tmp_path / "two.npz", two)
    with pytest.raises(ss.DataError, match=r"errors of TEFF once, got TEFF_ERR, E_TEFF: keep one"):
        ss.read_spectra(path)
    assert ss.read_spectra(path, label_errors="none").label_errors is None
    one = write(tmp_path / "one.npz", {"TEFF_ERR": SD["TEFF"]})
    with pytest.raises(ss.DataError, match=r"known where the label is, got 4 values .*label 1"):
        ss.read_spectra(one)
    stars = ss.read_spectra(one, missing_label_error="infer")
    assert_array_equal(stars.label_errors[:, 0], EXPECTED[:, 0])
    assert np.isnan(stars.label_errors[:, 1]).all()
    zero = write(tmp_path / "zero.npz", {"TEFF_ERR": 0 * TEFF, "LOGG_ERR": SD["LOGG"]})
    with pytest.raises(ss.DataError, match=r"positive standard deviations.*label_errors='none'"):
        ss.read_spectra(zero)
    with pytest.raises(ss.OptionError, match="label_errors should be one of"):
        ss.read_spectra(one, label_errors="maybe")


def test_matrices_beside_the_matrix_of_labels(tmp_path):
    labels = np.column_stack([TEFF, LOGG])
    names = np.array(["A", "B"])
    np.savez(
        tmp_path / "sd.npz", flux=FLUX, labels=labels, label_names=names, label_errors=EXPECTED
    )
    stars = ss.read_spectra(tmp_path / "sd.npz", label_names=["B", "A"])
    assert_array_equal(stars.label_errors, EXPECTED[:, ::-1])
    E = np.tile([[2500.0, 1.0], [1.0, 0.04]], (4, 1, 1))
    np.savez(tmp_path / "cov.npz", flux=FLUX, labels=labels, label_names=names, label_covariance=E)
    stars = ss.read_spectra(tmp_path / "cov.npz", label_names=["B", "A"])
    assert_array_equal(stars.label_covariance, E[:, ::-1, ::-1])
    with ss.open_spectra(tmp_path / "cov.npz") as file:
        assert_array_equal(file.read(slice(2, 4)).label_covariance, E[2:])


def test_errors_in_another_unit_are_converted(tmp_path):
    table = Table({"flux": FLUX, "TEFF": TEFF, "TEFF_ERR": SD["TEFF"] / 1e3})
    table["TEFF"].unit = "K"
    table["TEFF_ERR"].unit = "kK"
    table.write(tmp_path / "units.fits")
    stars = ss.read_spectra(tmp_path / "units.fits", label_names=["TEFF"])
    known = ~np.isnan(EXPECTED[:, 0])
    assert_allclose(stars.label_errors[known, 0], EXPECTED[known, 0], rtol=1e-14)
    assert fits.getheader(tmp_path / "units.fits", 1)["TTYPE3"] == "TEFF_ERR"
