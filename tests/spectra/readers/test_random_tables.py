"""Tables of random form are read number by number or refused; damaged ones are refused."""

import warnings

import numpy as np
import pytest
from random_tables import DAMAGES, damage, draw_table

import symspec as ss
from symspec.errors import SymspecError

N_TABLES = 60


def compare(spectra, table):
    """What differs from the table that was written; "" where nothing does."""
    wavelength = table.wavelength
    if spectra.wavelength_medium == "vacuum":  # wavenumbers
        wavelength = 1e8 / wavelength
    order = np.argsort(wavelength)
    if spectra.flux.shape != table.flux.shape:
        return f"shape {spectra.flux.shape}"
    if not np.allclose(spectra.wavelength, wavelength[order], rtol=1e-9):
        return "wavelength"
    if not np.array_equal(np.round(spectra.flux, 8), np.round(table.flux[:, order], 8)):
        return "flux"
    if spectra.label_names != tuple(table.labels):
        return f"labels {spectra.label_names}"
    for i, values in enumerate(table.labels.values()):
        if not np.allclose(spectra.labels[:, i], values, rtol=1e-9, equal_nan=True):
            return "label"
    return "" if list(spectra.ids) == table.ids else "ids"


def read(path, text, table):
    path.write_text(text, encoding="utf-8")
    options = {}
    style = table.kind.rpartition(" ")[2]
    if style in ("plain", "X", "spc.", "abs_ref") or (
        style == "unit-before" and table.wavelength.min() > 3000
    ):
        options["wavelength_unit"] = "cm-1" if table.wavelength.min() > 3000 else "nm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ss.read_spectra(path, **options)


@pytest.mark.parametrize("seed", range(N_TABLES))
def test_a_random_table_is_read_number_by_number(tmp_path, seed):
    table = draw_table(np.random.default_rng(seed))
    assert compare(read(tmp_path / "x.txt", table.text(), table), table) == ""


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_table_is_refused(tmp_path, seed, kind):
    rng = np.random.default_rng(seed)
    table = draw_table(rng)
    with pytest.raises(SymspecError):
        read(tmp_path / "x.txt", damage(table, kind, rng), table)
