"""Tables and spectra in memory, with the units, masks and uncertainties of astropy."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import (
    InverseVariance,
    NDData,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from astropy.table import MaskedColumn, QTable, Table
from astropy.utils.masked import Masked

from symspec.errors import DataError, ShapeError
from symspec.spectra.readers.read import open_spectra, read_spectra

RNG = np.random.default_rng(0)
N_STARS, N_PIXELS = 4, 9
FLUX = 1 + RNG.normal(scale=0.1, size=(N_STARS, N_PIXELS))
SIGMA = RNG.uniform(0.01, 0.1, size=(N_STARS, N_PIXELS))
WAVELENGTH = np.linspace(5000.0, 5100.0, N_PIXELS)
TEFF = RNG.uniform(4000, 7000, size=N_STARS)
KINDS = {
    "std": (StdDevUncertainty, SIGMA, 1),
    "var": (VarianceUncertainty, SIGMA**2, 2),
    "ivar": (InverseVariance, SIGMA**-2, -2),
}


# --- tables


@pytest.mark.filterwarnings("ignore::symspec.errors.UnusedDataWarning")
def test_a_table_of_one_spectrum_a_row_is_read():
    columns = {
        "id": ["a", "b", "c", "d"],
        "flux": FLUX,
        "ivar": SIGMA**-2,
        "TEFF": TEFF,
        "VSINI": TEFF / 100,
    }
    table = Table({**columns, "wavelength": np.tile(WAVELENGTH[::-1], (N_STARS, 1)) / 10})
    table["wavelength"].unit, table["VSINI"].unit = "nm", "km/s"
    spectra = read_spectra(table, label_names=["VSINI", "TEFF"])
    np.testing.assert_array_equal(spectra.flux, FLUX[:, ::-1])
    np.testing.assert_array_equal(spectra.ivar, SIGMA[:, ::-1] ** -2)
    np.testing.assert_array_equal(spectra.wavelength, WAVELENGTH / 10)
    np.testing.assert_array_equal(spectra.labels, np.stack([TEFF / 100, TEFF], axis=1))
    assert spectra.label_units == ("km / s", "K")
    assert spectra.wavelength_unit == "nm"
    assert spectra.ids.tolist() == ["a", "b", "c", "d"]
    with open_spectra(table) as opened:
        np.testing.assert_array_equal(opened.read(slice(1, 3)).flux, FLUX[1:3, ::-1])


def test_a_table_of_one_pixel_a_row_is_one_spectrum():
    table = QTable(
        {"wavelength": WAVELENGTH * u.AA, "flux": FLUX[0] * u.Jy, "std": SIGMA[0] * u.Jy}
    )
    table["id"] = np.arange(N_PIXELS)  # of a pixel, not of a star
    spectra = read_spectra(table)
    np.testing.assert_array_equal(spectra.flux, FLUX[:1])
    np.testing.assert_allclose(spectra.ivar, SIGMA[:1] ** -2, rtol=1e-14)
    np.testing.assert_array_equal(spectra.wavelength, WAVELENGTH)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [Table, QTable])
def test_units_of_flux_and_uncertainty_are_brought_together(kind, make):
    _, values, power = KINDS[kind]
    table = make({"flux": FLUX * u.Jy, kind: (values * u.Jy**power).to(u.mJy**power)})
    np.testing.assert_allclose(read_spectra(table, bad_error=9).ivar, SIGMA**-2, rtol=1e-13)
    wrong = make({"flux": FLUX * u.Jy, kind: values * u.Jy ** (power + 1)})
    with pytest.raises(
        DataError, match=rf"{kind} as {kind} should have the flux's unit, Jy, to the power {power}"
    ):
        read_spectra(wrong)


def test_a_table_whose_error_does_not_tell_is_asked_for():
    table = QTable({"flux": FLUX * u.Jy, "error": SIGMA * u.Jy})
    with pytest.raises(
        DataError, match=r'error \(which may be anything\): say it, uncertainty="std" \|'
    ):
        read_spectra(table)
    np.testing.assert_allclose(read_spectra(table, uncertainty="std").ivar, SIGMA**-2, rtol=1e-14)
    with pytest.raises(
        DataError, match="error as ivar should have the flux's unit, Jy, to the power -2, got Jy"
    ):
        read_spectra(table, uncertainty="ivar")


@pytest.mark.parametrize("masked", ["flux", "ivar"])
@pytest.mark.parametrize("as_quantity", [False, True])
def test_masked_values_are_bad_pixels_and_missing_labels(masked, as_quantity):
    mask = np.zeros(FLUX.shape, dtype=bool)
    mask[1, 2] = True
    columns = {"flux": FLUX, "ivar": SIGMA**-2}
    if as_quantity:
        columns[masked] = Masked(columns[masked], mask) * u.dimensionless_unscaled
    else:
        columns[masked] = MaskedColumn(columns[masked], mask=mask)
    columns["TEFF"] = MaskedColumn([5000, 6000, 7000, 8000], mask=[False, False, True, False])
    columns["id"] = MaskedColumn(["a", "b", "c", "d"], mask=[True, False, False, False])
    spectra = read_spectra(QTable(columns))
    np.testing.assert_array_equal(spectra.ivar == 0, mask)
    np.testing.assert_array_equal(spectra.labels[:, 0], [5000, 6000, np.nan, 8000])
    assert spectra.ids.tolist() == ["", "b", "c", "d"]


# --- spectra


def spectrum(stars, *, axis=WAVELENGTH * u.AA, uncertainty=None, mask=None, unit=u.Jy):
    return SimpleNamespace(
        flux=FLUX[stars] * unit, spectral_axis=axis, uncertainty=uncertainty, mask=mask
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stars", [0, slice(None)], ids=["one", "collection"])
def test_an_uncertainty_says_its_kind_itself(kind, stars):
    make, values, power = KINDS[kind]
    in_mjy = make((values[stars] * u.Jy**power).to(u.mJy**power))
    for uncertainty in (make(values[stars]), make(values[stars] * u.Jy**power), in_mjy):
        spectra = read_spectra(spectrum(stars, uncertainty=uncertainty), bad_error=9)
        np.testing.assert_array_equal(spectra.flux, np.atleast_2d(FLUX[stars]))
        np.testing.assert_allclose(spectra.ivar, np.atleast_2d(SIGMA[stars]) ** -2, rtol=1e-13)
        assert (
            read_spectra(
                spectrum(stars, uncertainty=uncertainty), bad_error=9, uncertainty=kind
            ).n_stars
            > 0
        )
        other = "var" if kind == "std" else "std"
        with pytest.raises(DataError, match=f"uncertainty='{other}' should agree"):
            read_spectra(spectrum(stars, uncertainty=uncertainty), uncertainty=other)
    owned = NDData(
        FLUX[stars] * u.Jy, uncertainty=make(values[stars])
    ).uncertainty  # takes its unit from the flux
    np.testing.assert_allclose(
        read_spectra(spectrum(stars, uncertainty=owned)).ivar,
        np.atleast_2d(SIGMA[stars]) ** -2,
        rtol=1e-13,
    )


def test_an_unknown_uncertainty_is_asked_for():
    one = spectrum(0, uncertainty=UnknownUncertainty(SIGMA[0]))
    with pytest.raises(
        DataError, match=r'may be anything\): say it, uncertainty="std" \| "var" \| "ivar"'
    ):
        read_spectra(one)
    np.testing.assert_allclose(
        read_spectra(one, uncertainty="std").ivar, SIGMA[:1] ** -2, rtol=1e-14
    )


def test_spectra_of_one_grid_are_stacked_and_a_missing_mask_masks_nothing():
    mask = np.arange(N_PIXELS) == 3
    spectra = [
        spectrum(i, uncertainty=StdDevUncertainty(SIGMA[i]), mask=mask if i == 2 else None)
        for i in range(4)
    ]
    read = read_spectra(spectra)
    np.testing.assert_array_equal(read.flux, FLUX)
    expected = SIGMA**-2.0
    expected[2, 3] = 0
    np.testing.assert_allclose(read.ivar, expected, rtol=1e-14)
    with open_spectra(spectra) as opened:
        np.testing.assert_array_equal(opened.read(slice(2, 4)).ivar, read.ivar[2:])
    bits = [SimpleNamespace(**{**vars(one), "mask": np.where(mask, 6, 0)}) for one in spectra]
    assert np.count_nonzero(read_spectra(bits, mask_bits=(1,)).ivar == 0) == N_STARS
    assert np.count_nonzero(read_spectra(bits, mask_bits=(0, 3)).ivar == 0) == 0


@pytest.mark.parametrize(
    ("axis", "unit"),
    [
        (WAVELENGTH[::-1] / 10 * u.nm, "nm"),
        ((WAVELENGTH * u.AA).to(u.um), "um"),
        ((WAVELENGTH * u.AA).to(u.THz, u.spectral()), "Angstrom"),
        ((WAVELENGTH * u.AA).to(u.eV, u.spectral()), "Angstrom"),
        ((WAVELENGTH * u.AA).to(1 / u.cm, u.spectral()), "Angstrom"),
    ],
    ids=lambda value: str(getattr(value, "unit", value)),
)
def test_a_spectral_axis_of_any_kind_becomes_rising_wavelengths(axis, unit):
    read = read_spectra(spectrum(0, axis=axis))
    assert read.wavelength_unit == unit
    np.testing.assert_allclose(
        (read.wavelength * u.Unit(unit)).to_value(u.AA), WAVELENGTH, rtol=1e-12
    )
    falling = axis.to_value(u.AA, u.spectral())[0] > 5050
    np.testing.assert_array_equal(read.flux[0], FLUX[0, ::-1] if falling else FLUX[0])


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ([], DataError, "should be a path, an astropy Table, or objects with flux .*, got list"),
        (FLUX, DataError, "got ndarray: use symspec.Spectra for plain arrays"),
        (
            ["a.fits", "b.fits"],
            DataError,
            "got a list with other things in it: read each on its own",
        ),
        (
            [spectrum(0), spectrum(1, unit=u.mJy)],
            DataError,
            r"got flux \[Jy\], mask, .* in spectrum 0, flux \[mJy\]",
        ),
        (
            [spectrum(0), spectrum(1, uncertainty=InverseVariance(SIGMA[1]))],
            DataError,
            "should hold the same",
        ),
        (
            [spectrum(0), spectrum(1, axis=(WAVELENGTH + 1) * u.AA)],
            ShapeError,
            "another for spectrum 1 than for",
        ),
        (
            spectrum(0, axis=WAVELENGTH * u.km / u.s),
            DataError,
            "spectral_axis should be wavelengths, or frequencies",
        ),
        (
            spectrum(0, axis=WAVELENGTH[1:] * u.AA),
            ShapeError,
            r"wavelength should have shape \(9,\), got \(8,\)",
        ),
        (
            spectrum((slice(None), None)),
            ShapeError,
            r"flux should have shape \(star, pixel\), got \(4, 1, 9\)",
        ),
        (
            spectrum(0, mask=np.ones(N_PIXELS, bool)),
            DataError,
            "masked pixels should come with the flux's uncertainty",
        ),
        (
            Table({"a": [1.0]}),
            "FileFormatError",
            "a Table should hold the flux under one of the names",
        ),
    ],
)
def test_what_is_no_spectrum_is_refused(source, error, words):
    expected = ValueError if isinstance(error, str) else error
    with pytest.raises(expected, match=words):
        read_spectra(source)


def test_the_callers_arrays_are_not_written_into():
    flux, sigma = FLUX.copy(), SIGMA.copy()
    flux[0, 0], sigma[1, 1] = -9999, 999
    kept = flux.copy(), sigma.copy()
    read_spectra(Table({"flux": flux, "std": sigma}, copy=False))
    read_spectra(
        SimpleNamespace(
            flux=flux, spectral_axis=WAVELENGTH * u.AA, uncertainty=StdDevUncertainty(sigma)
        )
    )
    np.testing.assert_array_equal(flux, kept[0])
    np.testing.assert_array_equal(sigma, kept[1])
