"""Spectra read in pieces are those read whole, in the memory of a piece."""

import tracemalloc

import h5py
import numpy as np
import pytest
from astropy.io import fits

from symspec.errors import DataError, OptionError, ShapeError
from symspec.spectra.pixels import find_bad_bits, find_ivar
from symspec.spectra.readers.read import open_spectra, read_spectra

N_STARS, N_PIXELS = 23, 11
RNG = np.random.default_rng(0)
FLUX = 1 + RNG.normal(scale=0.1, size=(N_STARS, N_PIXELS))
SIGMA = RNG.uniform(0.01, 0.1, size=(N_STARS, N_PIXELS))
SIGMA[3, 4] = 999
MASK = RNG.random(FLUX.shape) < 0.1
WAVELENGTH = np.linspace(5000.0, 5100.0, N_PIXELS)
LABELS = RNG.normal(size=(N_STARS, 2))
LABELS[5, 1] = np.nan
IDS = np.array([f"star {i}" for i in range(N_STARS)])
ARRAYS = {
    "flux": FLUX,
    "sigma": SIGMA,
    "mask": MASK,
    "wavelength": WAVELENGTH[::-1],
    "TEFF": LABELS[:, 0],
    "LOGG": LABELS[:, 1],
    "ids": IDS.astype("S"),
}


def write_hdf5(path, arrays, **options):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **(options if array.ndim == 2 else {}))
    return path


def write_npz(path, arrays):
    with path.open("wb") as stream:
        np.savez(stream, **arrays)
    return path


def write_fortran_npz(path, arrays):
    return write_npz(path, {name: np.asfortranarray(array) for name, array in arrays.items()})


def write_compressed_npz(path, arrays):
    with path.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    return path


def write_table(path, arrays):
    forms = {"flux": "11D", "sigma": "11D", "mask": "11L", "TEFF": "D", "LOGG": "D", "ids": "8A"}
    columns = [fits.Column(name, form, array=arrays[name]) for name, form in forms.items()]
    grid = fits.ImageHDU(arrays["wavelength"], name="WAVELENGTH")
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns), grid]).writeto(path)
    return path


def write_images(path, arrays):
    images = [
        fits.ImageHDU(np.asarray(arrays[name], float), name=name)
        for name in ("sigma", "mask", "wavelength")
    ]
    forms = {"TEFF": "D", "LOGG": "D", "ids": "8A"}
    columns = [fits.Column(name, form, array=arrays[name]) for name, form in forms.items()]
    table = fits.BinTableHDU.from_columns(columns)
    fits.HDUList([fits.PrimaryHDU(arrays["flux"]), *images, table]).writeto(path)
    return path


WRITERS = {
    "hdf5": write_hdf5,
    "hdf5 in chunks": lambda path, arrays: write_hdf5(
        path, arrays, chunks=(4, 5), compression="gzip"
    ),
    "npz": write_npz,
    "npz in Fortran order": write_fortran_npz,
    "compressed npz": write_compressed_npz,
    "fits table": write_table,
    "fits images": write_images,
}


@pytest.fixture(params=WRITERS)
def path(request, tmp_path):
    return WRITERS[request.param](tmp_path / "spectra", ARRAYS)


def test_pieces_are_the_whole(path):
    with open_spectra(path) as file:
        assert (file.n_stars, file.n_pixels) == (N_STARS, N_PIXELS)
        assert (file.has_ids, file.has_uncertainty) == (True, True)
        assert (file.label_names, file.label_units) == (("TEFF", "LOGG"), ("K", "dex"))
        np.testing.assert_array_equal(file.wavelength, WAVELENGTH)
        assert file.wavelength_unit == "Angstrom"
        assert "23 stars, 11 pixels" in repr(file)
        for ends in [(0, 5), (20, 30), (7, 8), (None,), (1, 20, 4), (-3, None), (5, 5)]:
            part = file.read(rows := slice(*ends))
            np.testing.assert_array_equal(part.flux, FLUX[rows, ::-1])
            expected = np.where(MASK | (SIGMA == 999), 0, SIGMA**-2.0)[rows, ::-1]
            np.testing.assert_allclose(part.ivar, expected, rtol=1e-14)
            np.testing.assert_array_equal(part.labels, LABELS[rows])
            np.testing.assert_array_equal(part.ids, IDS[rows])
            np.testing.assert_array_equal(part.wavelength, WAVELENGTH)
    whole = read_spectra(path)
    np.testing.assert_array_equal(whole.flux, FLUX[:, ::-1])
    assert whole.n_stars == N_STARS


def test_rows_are_a_slice_forwards(path):
    with open_spectra(path) as file:
        for rows in (3, slice(5, 1, -1), np.arange(3), None):
            with pytest.raises(OptionError, match="rows should be a slice with a step above 0"):
                file.read(rows)


def test_a_closed_file_says_so(path):
    with open_spectra(path) as file:
        pass
    with pytest.raises(
        OptionError, match="should be open, got a closed file: read inside the with block"
    ):
        file.read(slice(0, 3))


def test_an_error_of_the_with_block_is_left_alone(path):
    with pytest.raises(ZeroDivisionError) as caught, open_spectra(path):
        raise ZeroDivisionError
    assert not hasattr(caught.value, "__notes__")


def test_a_label_matrix_is_read_by_rows_and_columns(tmp_path):
    arrays = {"flux": FLUX, "labels": LABELS, "label_names": np.array([b"a", b"b"])}
    for write in (write_hdf5, write_npz):
        with open_spectra(write(tmp_path / "x", arrays), label_names=["b"]) as file:
            np.testing.assert_array_equal(file.read(slice(4, 9)).labels, LABELS[4:9, 1:])


def test_csv_is_read_in_pieces_too(tmp_path):
    header = ",".join(["id", "TEFF", *(str(w) for w in WAVELENGTH[::-1])])
    rows = [
        ",".join([IDS[i], repr(float(LABELS[i, 0])), *(repr(float(f)) for f in FLUX[i])])
        for i in range(N_STARS)
    ]
    path = tmp_path / "x.csv"
    path.write_text("\n".join([header, *rows]))
    with open_spectra(path) as file:
        part = file.read(slice(3, 6))
    np.testing.assert_array_equal(part.flux, FLUX[3:6, ::-1])
    np.testing.assert_array_equal(part.labels, LABELS[3:6, :1])
    assert part.ids.tolist() == IDS[3:6].tolist()
    assert part.label_units == ("K",)


@pytest.mark.parametrize(
    ("arrays", "error", "words"),
    [
        (
            {"sigma": SIGMA[:-1]},
            ShapeError,
            r"sigma should have the shape of the flux, \(23, 11\), got \(22, 11\)",
        ),
        (
            {"mask": MASK.T},
            ShapeError,
            r"mask should have the shape of the flux, \(23, 11\), got \(11, 23\)",
        ),
        ({"TEFF": LABELS[:-1, 0]}, ShapeError, "select the same stars"),
        (
            {"ids": IDS[1:].astype("S")},
            ShapeError,
            r"ids should have shape \(23,\), one a star, got \(22,\)",
        ),
        (
            {"wavelength": WAVELENGTH[1:]},
            ShapeError,
            r"wavelength should have shape \(11,\), got \(10,\)",
        ),
        (
            {"wavelength": np.r_[WAVELENGTH[:-1], 1.0]},
            DataError,
            "got unordered ones at 1 places .first: pixel 9 is",
        ),
        (
            {"wavelength": np.r_[5000.0, WAVELENGTH[:-1]]},
            DataError,
            "got twice the same at 1 places .first: pixel 0",
        ),
        ({"wavelength": np.r_[WAVELENGTH[:-1], np.nan]}, DataError, "wavelength should be finite"),
        (
            {"wavelength_unit": np.array([b"pixels"])},
            DataError,
            "astropy.units knows, got 'pixels'",
        ),
        ({"bitmask": MASK}, DataError, "got bitmask, mask: keep one of them"),
    ],
)
def test_arrays_that_do_not_fit_are_found_when_the_file_is_opened(tmp_path, arrays, error, words):
    path = write_hdf5(tmp_path / "x", {"flux": FLUX, "mask": MASK, "sigma": SIGMA} | arrays)
    with pytest.raises(error, match=words) as caught, open_spectra(path):
        pass
    assert str(path) in caught.value.__notes__[0]


# --- bad pixels


MARKS = {
    "flux nan": ("flux", np.nan),
    "flux inf": ("flux", -np.inf),
    "flux missing": ("flux", -9999.0),
    "error nan": ("error", np.nan),
    "error missing": ("error", -9999.0),
    "masked": ("mask", True),
}


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("kind", ["std", "var", "ivar"])
def test_the_rule_of_bad_pixels_is_one(kind, mark):
    flux, error, mask = FLUX.copy(), np.ones(FLUX.shape), np.zeros(FLUX.shape, dtype=bool)
    name, value = MARKS[mark]
    {"flux": flux, "error": error, "mask": mask}[name][2, 3] = value
    expected = np.ones(FLUX.shape)
    expected[2, 3] = 0
    np.testing.assert_array_equal(find_ivar(flux, error, kind, mask=mask), expected)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.int32, np.uint32, np.int64, np.uint64, ">i4"]
)
def test_every_bit_is_told_from_the_others(dtype):
    n_bits = 8 * np.dtype(dtype).itemsize
    mask = np.array(
        [1 << bit for bit in range(n_bits)], dtype=f"u{np.dtype(dtype).itemsize}"
    ).astype(dtype)[None]
    assert find_bad_bits(mask, "mask", None).all()
    for bit in range(n_bits):
        found = find_bad_bits(mask, "mask", (bit,))
        np.testing.assert_array_equal(np.flatnonzero(found), [bit])
    with pytest.raises(OptionError, match=rf"0 to {n_bits - 1} for mask of .*, got \[{n_bits}\]"):
        find_bad_bits(mask, "mask", (0, n_bits))


def test_masks_may_be_booleans_numbers_or_not_count():
    mask = np.array([[0.0, 1.0, np.nan, 2.0]])
    np.testing.assert_array_equal(find_bad_bits(mask, "mask", None), [[False, True, True, True]])
    np.testing.assert_array_equal(
        find_bad_bits(mask > 0, "mask", None), [[False, True, False, True]]
    )
    assert not find_bad_bits(mask, "mask", ()).any()
    for bad in (mask, mask > 0):
        with pytest.raises(
            DataError, match=r"mask_bits=\(1,\) asks for bits of a bitmask, got mask of"
        ):
            find_bad_bits(bad, "mask", (1,))
    with pytest.raises(DataError, match="mask should hold booleans or integers, got <U1"):
        find_bad_bits(np.array([["x"]]), "mask", None)


@pytest.mark.parametrize("name", ["mask", "BAD_PIXEL", "bitmask"])
@pytest.mark.parametrize("write", [write_hdf5, write_npz])
def test_a_mask_of_any_name_known_counts(tmp_path, name, write):
    path = write(tmp_path / "x", {"flux": FLUX, "sigma": SIGMA, name: MASK * 5})
    ivar = read_spectra(path, bad_error=np.inf).ivar
    np.testing.assert_array_equal(ivar == 0, MASK)
    assert (read_spectra(path, mask_bits=[1], bad_error=np.inf).ivar > 0).all()
    np.testing.assert_array_equal(
        read_spectra(path, mask_bits=[2], bad_error=np.inf).ivar == 0, MASK
    )


def test_a_mask_without_an_uncertainty_is_no_ivar(tmp_path):
    path = write_npz(tmp_path / "x", {"flux": FLUX, "mask": MASK})
    with pytest.raises(
        DataError, match=r"masked pixels should come with .*, got \d+ .*mask_bits=\(\)"
    ):
        read_spectra(path)
    assert read_spectra(path, mask_bits=()).ivar is None
    assert read_spectra(write_npz(path, {"flux": FLUX, "mask": MASK & False})).ivar is None


@pytest.mark.parametrize("bits", [3, "12", (1.5,), (True,), (-1,), [1024, -1]])
def test_bits_are_numbers_from_zero(tmp_path, bits):
    with pytest.raises(OptionError, match="mask_bits should be a sequence of bit numbers"):
        read_spectra(tmp_path / "x", mask_bits=bits)


# --- memory


LARGE, WIDE = 4000, 500


def write_large(path, form):
    """4,000 stars of 500 pixels: 8 MB of flux, and as much of errors, in float32."""
    values = np.random.default_rng(1).uniform(0.5, 1.5, size=(LARGE, WIDE)).astype(np.float32)
    if form == "fits table":
        columns = [
            fits.Column("flux", f"{WIDE}E", array=values),
            fits.Column("sigma", f"{WIDE}E", array=values),
        ]
        fits.BinTableHDU.from_columns(columns).writeto(path)
    elif form == "fits images":
        fits.HDUList([fits.PrimaryHDU(values), fits.ImageHDU(values, name="sigma")]).writeto(path)
    else:
        {"hdf5": write_hdf5, "npz": write_npz}[form](path, {"flux": values, "sigma": values})
    return values


@pytest.mark.parametrize("form", ["hdf5", "npz", "fits table", "fits images"])
def test_rows_cost_the_memory_of_those_rows(tmp_path, form):
    values = write_large(path := tmp_path / "large", form)
    with open_spectra(path) as file:
        file.read(slice(0, 2))  # what is imported late, and kept of the file, is not counted
        tracemalloc.start()
        spectra = file.read(slice(2000, 2100))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    np.testing.assert_array_equal(spectra.flux, values[2000:2100])
    # flux and ivar in float64, and what they were made from: far from the 16 MB of the file in
    # float64
    assert peak < 8 * 100 * WIDE * 8


def test_a_mask_of_the_pixels_is_that_of_every_star(tmp_path):
    path = write_hdf5(
        tmp_path / "x",
        {"flux": FLUX, "sigma": SIGMA, "mask": MASK[0], "wavelength": WAVELENGTH[::-1]},
    )
    with open_spectra(path, bad_error=np.inf) as file:
        for rows in (slice(3, 5), slice(None)):
            part = file.read(rows)
            np.testing.assert_array_equal(part.ivar == 0, np.tile(MASK[0, ::-1], (part.n_stars, 1)))
