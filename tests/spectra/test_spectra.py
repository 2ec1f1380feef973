"""Spectra keep what they are given; checks say what was expected, what came, what to do."""

import dataclasses

import numpy as np
import pytest

from symspec.errors import DataError, OptionError, ShapeError, SymspecError
from symspec.networks.theta import check_theta
from symspec.safety.arrays import as_float_array
from symspec.safety.options import check_choice, check_rng
from symspec.safety.stars import check_flux, check_ivar, check_labels
from symspec.spectra.spectra import Spectra


@pytest.fixture
def spectra():
    rng = np.random.default_rng(0)
    return Spectra(
        flux=rng.normal(size=(4, 6)),
        ivar=rng.uniform(1, 2, size=(4, 6)),
        wavelength=np.linspace(5000, 5005, 6),
        labels=rng.normal(size=(4, 2)),
        label_names=("TEFF", "LOGG"),
        label_units=("K", "dex"),
        ids=[b"a", b"b", b"c", b"d"],
    )


# --- Spectra


def test_counts_are_those_of_the_arrays(spectra):
    assert (len(spectra), spectra.n_stars, spectra.n_pixels, spectra.n_labels) == (4, 4, 6, 2)


def test_flux_alone_is_enough():
    spectra = Spectra(flux=[[1, 2, 3]])
    assert spectra.flux.dtype == np.float64
    assert (spectra.ivar, spectra.wavelength, spectra.labels, spectra.ids) == (
        None,
        None,
        None,
        None,
    )
    assert (spectra.n_labels, spectra.label_names, spectra.label_units) == (0, (), ())
    assert spectra.wavelength_unit == "Angstrom"


def test_labels_without_names_are_numbered():
    spectra = Spectra(flux=np.ones((2, 3)), labels=np.ones((2, 2)))
    assert spectra.label_names == ("label_0", "label_1")
    assert spectra.label_units == ("", "")


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (1, [1]),
        (-1, [3]),
        (np.int64(2), [2]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        ([3, 0], [3, 0]),
        (np.array([True, False, True, False]), [0, 2]),
        ([], []),
    ],
    ids=["int", "negative", "numpy-int", "slice", "reversed", "list", "mask", "none"],
)
def test_an_index_selects_stars_in_every_array_and_keeps_the_star_axis(spectra, key, rows):
    subset = spectra[key]
    for name in ("flux", "ivar", "labels", "ids"):
        np.testing.assert_array_equal(getattr(subset, name), getattr(spectra, name)[rows])
    np.testing.assert_array_equal(subset.wavelength, spectra.wavelength)
    assert (subset.label_names, subset.label_units) == (("TEFF", "LOGG"), ("K", "dex"))


def test_iteration_gives_one_star_at_a_time(spectra):
    assert [star.ids[0] for star in spectra] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        (4, IndexError, "star 4 asked for, got spectra of 4 stars"),
        ([0, -5], IndexError, "star -5 asked for"),
        ((0, 1), IndexError, "select pixels on the arrays themselves"),
        (1.5, IndexError, "takes one integer, a slice, a mask"),
        ([True, False], ShapeError, r"mask of stars should have shape \(4,\), got \(2,\)"),
    ],
)
def test_a_wrong_index_says_what_it_takes(spectra, key, error, words):
    with pytest.raises(error, match=words):
        spectra[key]


def test_the_callers_arrays_stay_writable_and_unchanged():
    flux, ivar = np.ones((2, 3)), np.ones((2, 3))
    spectra = Spectra(flux=flux, ivar=ivar)
    with pytest.raises(ValueError, match="read-only"):
        spectra.flux[0, 0] = 5.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        spectra.flux = flux
    assert flux.flags.writeable
    assert ivar.flags.writeable
    np.testing.assert_array_equal(flux, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_flux_that_is_not_finite_needs_ivar_zero(bad):
    flux = np.ones((3, 4))
    flux[1, 2] = flux[2, 0] = bad
    ivar = np.ones((3, 4))
    words = rf"got 2 values \(first: star 1, pixel 2 is {bad}\)"
    with pytest.raises(DataError, match=words + ": give ivar with 0 at these pixels, or fill them"):
        Spectra(flux=flux)
    with pytest.raises(DataError, match=words + ": set ivar to 0 at these pixels"):
        Spectra(flux=flux, ivar=ivar)
    ivar[1, 2] = ivar[2, 0] = 0.0
    np.testing.assert_array_equal(Spectra(flux=flux, ivar=ivar).flux, flux)


def test_missing_labels_are_allowed_even_when_a_star_has_none(spectra):
    labels = np.array([[np.nan, np.nan], [1.0, np.nan]])
    np.testing.assert_array_equal(Spectra(flux=np.ones((2, 3)), labels=labels).labels, labels)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (
            {"flux": np.ones(3)},
            ShapeError,
            r"shape \(star, pixel\), got \(3,\): for one star give flux\[None, :\]",
        ),
        ({"flux": np.ones((1, 2, 3))}, ShapeError, "give one row a star"),
        ({"flux": np.ones((2, 0))}, ShapeError, "at least one pixel"),
        ({"flux": None}, DataError, "flux should be an array of numbers, got None"),
        ({"ivar": np.ones((3, 2))}, ShapeError, "transpose it: ivar.T"),
        ({"ivar": -np.ones((2, 3))}, DataError, "6 values .* is an INVERSE VARIANCE"),
        (
            {"wavelength": np.ones(4)},
            ShapeError,
            r"shape \(3,\), got \(4,\): give one wavelength for each pixel",
        ),
        ({"wavelength": np.ones((2, 3))}, ShapeError, "all stars share one grid"),
        ({"wavelength": [1, np.nan, 3]}, DataError, r"1 value \(first: pixel 1 is nan\)"),
        ({"labels": np.ones(2)}, ShapeError, r"for one label labels\[:, None\]"),
        ({"labels": np.ones((3, 2))}, ShapeError, "transpose it: labels.T"),
        ({"labels": np.ones((4, 3))}, ShapeError, "select the same stars in flux and labels"),
        (
            {"labels": [[1.0], [np.inf]]},
            DataError,
            "star 1, label 0 is inf.*write NaN for a missing label",
        ),
        ({"ids": ["a"]}, ShapeError, r"ids should have shape \(2,\), one a star, got \(1,\)"),
        (
            {"label_names": ("a",)},
            ShapeError,
            "label_names should have length 0, got 1: give labels as well",
        ),
        (
            {"labels": np.ones((2, 2)), "label_units": ["K"]},
            ShapeError,
            "label_units should have length 2, got 1",
        ),
        ({"labels": np.ones((2, 2)), "label_names": ["a", "a"]}, DataError, "should all differ"),
        ({"labels": np.ones((2, 4)), "label_names": "TEFF"}, DataError, r"write \('TEFF',\)"),
        ({"labels": np.ones((2, 1)), "label_names": [b"a"]}, DataError, "convert each with str"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_advice(given, error, words):
    with pytest.raises(error, match=words):
        Spectra(**{"flux": np.ones((2, 3)), **given})


def test_ids_become_text():
    flux = np.ones((2, 3))
    assert Spectra(flux=flux, ids=[b"2M00", "2M01"]).ids.tolist() == ["2M00", "2M01"]
    assert Spectra(flux=flux, ids=np.array([b"x", b"y"], dtype=object)).ids.tolist() == ["x", "y"]
    assert Spectra(flux=flux, ids=[7, 8]).ids.tolist() == ["7", "8"]


def test_repr_is_one_line(spectra):
    assert (
        repr(spectra)
        == "Spectra(4 stars, 6 pixels, ivar, wavelength in Angstrom, labels TEFF [K], LOGG [dex])"
    )


# --- checks


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            [[1, 2, 3], [1, 2, 3, 4]],
            "rows of one length, got rows of lengths 3 and 4 .row 1 differs from row 0",
        ),
        (np.array([np.ones(3), np.ones(4)], dtype=object), "rows of lengths 3 and 4"),
        ([1.0, [2.0]], "should be an array of numbers"),
        ([["a", "b"]], "numbers, got strings such as 'a': convert them"),
        (np.array([1, None]), "an object array holding NoneType, int"),
        ({"flux": 1}, "an array of numbers, got dict"),
        (None, "got None"),
        (np.ones(3, dtype=complex), "real numbers, got complex ones"),
        (np.ones(3, dtype=bool), "got booleans"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), r"got an array of datetime64\[D\]"),
        (
            np.ma.masked_invalid([1, np.nan]),
            r"1 masked values: write NaN there, x.filled\(np.nan\)",
        ),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(value, words):
    with pytest.raises(DataError, match=words) as caught:
        as_float_array(value, "x")
    assert str(caught.value).startswith("x should")


def test_a_float64_array_is_passed_on_and_others_are_converted():
    array = np.arange(3.0)
    assert as_float_array(array, "x") is array
    assert as_float_array(np.arange(3, dtype=">i4"), "x").dtype == np.float64
    assert as_float_array(array, "x", dtype=np.float32).dtype == np.float32
    assert as_float_array(np.ma.masked_array([1.0, 2.0]), "x").tolist() == [1.0, 2.0]


def test_numbers_too_large_for_float32_are_refused():
    with pytest.raises(DataError, match="x should fit float32, got 1 values"):
        as_float_array([1e300, np.inf], "x", dtype=np.float32)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (
            (2000, 7214),
            r"got \(2000, 7214\): trim the last pixel or rebuild the network with n_pixels=7214\.",
        ),
        (
            (2000, 7212),
            "one pixel was cut: give it as well or rebuild the network with n_pixels=7212",
        ),
        ((7213, 2000), r"transpose it: flux\.T\."),
        ((2000, 4000), "resample the spectra to the network's 7213 pixels or .* n_pixels=4000"),
        ((5, 1, 7213), r"give one spectrum a row: flux.reshape\(5, 7213\)"),
        ((5, 7213, 1), r"flux.reshape\(5, 7213\)"),
        ((5, 2, 7213), r"flux.reshape\(-1, 7213\)"),
        ((5, 2, 2), "an array of two axes"),
        ((7214,), "trim the last pixel"),
        ((), "one spectrum a row"),
    ],
)
def test_the_advice_on_flux_depends_on_its_shape(shape, words):
    # a broadcast zero has the shape without the memory
    flux = np.broadcast_to(0.0, shape)
    with pytest.raises(ShapeError, match=words) as caught:
        check_flux(flux, 7213)
    assert "flux should have shape (star, 7213) or (7213,)" in str(caught.value)


def test_flux_is_finite_unless_nan_is_allowed():
    flux = np.ones((2, 3))
    assert check_flux(flux, 3) is flux
    assert check_flux([1, 2, 3], 3).shape == (3,)
    flux[1, 0] = np.nan
    assert check_flux(flux, 3, allow_nan=True) is flux
    with pytest.raises(
        DataError, match=r"X should be finite, got 1 value \(first: star 1, pixel 0 is nan\)"
    ):
        check_flux(flux, 3, name="X")
    with pytest.raises(DataError, match=r"first: pixel 0 is nan"):
        check_flux(flux[1], 3)
    with pytest.raises(DataError, match="at least one star"):
        check_flux(np.ones((0, 3)), 3)


@pytest.mark.parametrize(
    ("labels", "n_stars", "n_labels", "error", "words"),
    [
        (np.ones(5), 5, 1, ShapeError, r"give labels\[:, None\]"),
        (np.ones(5), 5, 3, ShapeError, "this is one label where 3 are expected"),
        (np.ones(3), 1, 3, ShapeError, r"give labels\[None, :\]"),
        (np.ones((3, 5)), 5, 3, ShapeError, "transpose it: labels.T"),
        (np.ones((4, 3)), 5, 3, ShapeError, "spectra of 5 stars and labels of 4"),
        (np.ones((5, 2)), 5, 3, ShapeError, "rebuild it with 2 outputs"),
        (np.ones((5, 3, 1)), 5, 3, ShapeError, "two axes"),
        ([[1.0, 2.0], [np.inf, 1.0]], 2, 2, DataError, "star 1, label 0 is inf"),
        (np.full((2, 2), np.nan), 2, 2, DataError, "nothing to learn from"),
        (
            [[1.0, np.nan], [2.0, np.nan]],
            2,
            2,
            DataError,
            "only NaN in column 1: leave that label out",
        ),
    ],
)
def test_labels_to_train_on_fill_a_matrix(labels, n_stars, n_labels, error, words):
    with pytest.raises(error, match=words):
        check_labels(labels, n_stars, n_labels)


def test_labels_may_be_missing_here_and_there():
    labels = np.array([[1.0, np.nan], [np.nan, 2.0]])
    assert check_labels(labels, 2, 2) is labels


@pytest.mark.parametrize(
    ("ivar", "error", "words"),
    [
        (
            [[1, -1], [-2, 0]],
            DataError,
            r"not be negative, got 2 values \(first: star 0, pixel 1 is -1\): ivar is an",
        ),
        (
            [[1, 1], [np.nan, 0]],
            DataError,
            r"not be NaN, got 1 value \(first: star 1, pixel 0 is nan\): write 0",
        ),
        (
            [[1, 1], [1, np.inf]],
            DataError,
            r"finite, got 1 value .*1/sigma\*\*2 is infinite where sigma is 0",
        ),
        (np.ones((2, 2), dtype=bool), DataError, r"got booleans: ivar is an INVERSE VARIANCE"),
        (np.ones((3, 2)), ShapeError, r"shape of the flux, \(2, 2\), got \(3, 2\)"),
        (np.ones(2), ShapeError, r"np.broadcast_to\(ivar, flux.shape\)"),
    ],
)
def test_ivar_is_an_inverse_variance_for_each_pixel(ivar, error, words):
    with pytest.raises(error, match=words):
        check_ivar(ivar, (2, 2))


def test_ivar_may_be_zero():
    assert check_ivar([0, 1, 2], (3,)).tolist() == [0.0, 1.0, 2.0]


BLOCKS = [np.ones((10, 8)), np.ones(8), np.ones((8, 3)), np.ones(3)]


@pytest.mark.parametrize(
    ("theta", "error", "words"),
    [
        (
            BLOCKS,
            ShapeError,
            r"shape \(115,\), got a list of 4 arrays with shapes \[\(10, 8\), \(8,\), \(8, 3\),"
            r" \(3,\)\]: "
            r'pack them with net.pack\(\{"dense_0/kernel": W0, "dense_0/bias": b0, ...\}\)\.',
        ),
        (tuple(BLOCKS), ShapeError, "got a tuple of 4 arrays"),
        (
            np.array([*BLOCKS, None], dtype=object)[:4],
            ShapeError,
            "got an object array of 4 arrays",
        ),
        (
            [[[1, 2], [3, 4]], [5, 6]],
            ShapeError,
            r"a list of 2 arrays with shapes \[\(2, 2\), \(2,\)\]",
        ),
        (
            {"dense_0/kernel": BLOCKS[0], "dense_0/bias": BLOCKS[1], "c": 1},
            ShapeError,
            (
                r"got a dict of 3 blocks \(dense_0/kernel, dense_0/bias, ...\): pack them with"
                r" net.pack\(params"
            ),
        ),
        (np.ones(116), ShapeError, r"got \(116,\): the network has 115 parameters and theta 116"),
        (np.ones((1, 115)), ShapeError, r"give theta.ravel\(\)"),
        (np.ones((7, 115)), ShapeError, r"several draws: give one, theta\[i\]"),
        (np.array(1.0), ShapeError, "net.pack"),
        (
            np.r_[np.ones(114), np.nan],
            DataError,
            r"finite, got 1 value \(first: entry 114 is nan\)",
        ),
        (None, DataError, "got None"),
    ],
)
def test_theta_is_one_flat_finite_array(theta, error, words):
    with pytest.raises(error, match=words):
        check_theta(theta, 115)


def test_theta_may_be_a_list_of_numbers():
    assert check_theta([1, 2, 3], 3).tolist() == [1.0, 2.0, 3.0]


def test_randomness_is_a_generator():
    rng = np.random.default_rng(3)
    assert check_rng(rng) is rng
    for wrong in (None, np.random, np.random.RandomState(0), True, -1):
        with pytest.raises(OptionError, match=r"write rng=np.random.default_rng\(0\)"):
            check_rng(wrong)
    with pytest.raises(
        OptionError, match=r"got the seed 42: write rng=np.random.default_rng\(42\)"
    ):
        check_rng(42)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("kroneker", r"one of 'primal', 'kronecker', got 'kroneker': did you mean 'kronecker'\?"),
        ("PRIMAL", r"did you mean 'primal'\?"),
        ("zzz", "got 'zzz': choose one of these"),
        (3, "got 3: choose one of these"),
    ],
)
def test_a_word_that_is_no_choice_gets_the_choices_and_a_guess(value, words):
    with pytest.raises(OptionError, match="structure should be .*" + words):
        check_choice(value, "structure", ("primal", "kronecker"))


def test_a_choice_is_passed_on():
    assert check_choice("primal", "structure", ("primal", "kronecker")) == "primal"


@pytest.mark.parametrize("error", [ShapeError, DataError, OptionError])
def test_our_errors_are_value_errors_too(error):
    assert issubclass(error, ValueError)
    assert issubclass(error, SymspecError)
