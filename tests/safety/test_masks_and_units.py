"""Masks and units of arrays: never dropped, whatever states them, and wherever they go."""

import numpy as np
import pytest
from astropy import units as u
from astropy.utils.masked import Masked
from mask_and_unit_cases import find_fault, list_trials

import symspec as ss
from symspec.errors import DataError
from symspec.safety.arrays import as_float_array


@pytest.mark.parametrize(("kind", "wrapping", "sink"), list(list_trials()))
def test_no_mask_and_no_unit_is_dropped(kind, wrapping, sink):
    assert find_fault(kind, wrapping, sink) == ""


def test_wavelengths_of_spectra_are_converted_to_their_unit():
    flux = np.ones((1, 3))
    grid = [390.0, 540.0, 690.0] * u.nm
    angstrom = ss.Spectra(flux=flux, wavelength=grid)
    np.testing.assert_allclose(angstrom.wavelength, [3900.0, 5400.0, 6900.0], rtol=1e-15)
    assert angstrom.wavelength_unit == "Angstrom"
    nm = ss.Spectra(flux=flux, wavelength=grid, wavelength_unit="nm")
    assert nm.wavelength.tolist() == [390.0, 540.0, 690.0]
    with pytest.raises(DataError, match=r"wavelength should be in Angstrom, .*got GHz: convert it"):
        ss.Spectra(flux=flux, wavelength=[3.0, 2.0, 1.0] * u.GHz)


def test_each_label_is_converted_to_its_unit():
    flux = np.ones((2, 3))
    rows = [[5.5 * u.kK, 4.4 * u.dex], [5600.0 * u.K, 4.5]]
    stars = ss.Spectra(flux=flux, labels=rows, label_units=["K", "dex"])
    np.testing.assert_allclose(stars.labels, [[5500.0, 4.4], [5600.0, 4.5]], rtol=1e-15)
    with pytest.raises(DataError, match=r"labels should be in dex, .* got kK"):
        ss.Spectra(flux=flux, labels=np.ones((2, 2)) * u.kK, label_units=["K", "dex"])


def test_a_fraction_in_percent_is_a_number():
    assert as_float_array([50.0, 20.0] * u.percent, "x").tolist() == [0.5, 0.2]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flux", r"2 masked values: write NaN there, flux.filled\(np.nan\), and 0 in ivar"),
        ("ivar", r"2 masked values: write 0 there, ivar.filled\(0\)"),
        ("labels", r"2 masked values: write NaN there, labels.filled\(np.nan\)"),
    ],
)
def test_masked_values_are_refused_with_what_to_write(name, words):
    with pytest.raises(DataError, match=words):
        as_float_array(Masked(np.ones(3), [True, False, True]), name)


def test_a_unit_that_nothing_asks_for_is_refused_with_what_to_do():
    with pytest.raises(DataError, match=r"flux should be plain numbers, .* in mJy: .*flux.value"):
        as_float_array(np.ones(3) * u.mJy, "flux")


def test_a_table_with_columns_named_like_attributes_is_plain():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"unit": [1.0], "value": [2.0], "mask": [3.0], "attrs": [4.0]})
    assert as_float_array(table, "labels").tolist() == [[1.0, 2.0, 3.0, 4.0]]
