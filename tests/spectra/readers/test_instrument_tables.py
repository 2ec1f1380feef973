"""Tables of instruments come back number by number; what they do not say is asked for."""

import re
import warnings

import numpy as np
import pytest
from instrument_tables import TABLES

from symspec.errors import (
    DataError,
    FileFormatError,
    UnusedDataWarning,
)
from symspec.spectra.readers.read import read_spectra


@pytest.fixture(params=TABLES, ids=lambda make: make.__name__)
def table(request):
    return request.param()


def test_every_number_of_an_instrument_comes_back(table, tmp_path):
    path = table.write(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spectra = read_spectra(path, **table.options)
    np.testing.assert_allclose(spectra.flux, table.flux, rtol=1e-9)  # written with ten digits
    np.testing.assert_allclose(spectra.wavelength, table.wavelength, rtol=1e-9)
    assert spectra.wavelength_unit == table.unit
    assert spectra.label_names == tuple(table.labels)
    for name, values in table.labels.items():
        found = spectra.labels[:, spectra.label_names.index(name)]
        np.testing.assert_allclose(found, values, rtol=1e-9, equal_nan=True)
    if table.ids is None:
        assert spectra.ids is None
    else:
        assert list(spectra.ids) == table.ids
    assert table.groups == (None if spectra.groups is None else list(spectra.groups))
    assert [w.category for w in caught] == ([UnusedDataWarning] if table.unread else [])
    if table.unread:
        assert re.search(table.unread, str(caught[0].message))


@pytest.mark.filterwarnings("ignore::symspec.UnusedDataWarning")
def test_what_a_table_does_not_say_is_asked_for(table, tmp_path):
    path = table.write(tmp_path)
    options = {name: value for name, value in table.options.items() if name == "group"}
    if not table.asked:
        read_spectra(path, **options)
        return
    with pytest.raises((DataError, FileFormatError), match=table.asked):
        read_spectra(path, **options)
