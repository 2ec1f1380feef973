"""Stars to train on: flux and labels out of Spectra, in a network's order and on its grid."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import symspec as ss
from symspec.errors import DataError, OptionError, ShapeError
from symspec.spectra.selections import (
    as_stars,
    assign_folds,
    find_groups,
    match_labels,
    pick_evenly,
    split_stars,
)

GRID = np.linspace(5000.0, 5090.0, 10)
NAMES = ("TEFF", "LOGG", "FE_H")


def build_network(label_names=NAMES, n_pixels=10, wavelength=GRID):
    return ss.Network([ss.Dense(3)], n_pixels, label_names=label_names, wavelength=wavelength)


def make_spectra(label_names=NAMES, n_labels=3, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "flux": rng.normal(1.0, 0.1, (6, 10)),
        "ivar": rng.uniform(50.0, 100.0, (6, 10)),
        "wavelength": GRID,
        "labels": rng.normal(size=(6, n_labels)),
        "label_names": label_names,
    }
    return ss.Spectra(**arrays | changes)


def test_labels_come_in_the_order_of_the_network():
    spectra = make_spectra(("FE_H", "TEFF", "LOGG"))
    _, labels, _ = as_stars(build_network(), spectra)
    assert_array_equal(labels[:, 0], spectra.labels[:, 1])
    assert_array_equal(labels[:, 1], spectra.labels[:, 2])
    assert_array_equal(labels[:, 2], spectra.labels[:, 0])


def test_labels_that_the_network_does_not_give_are_left_out():
    spectra = make_spectra(("SNR", *NAMES), n_labels=4)
    assert_array_equal(as_stars(build_network(), spectra)[1], spectra.labels[:, 1:])


@pytest.mark.parametrize(
    ("label_names", "columns"),
    [
        (("label_0", "label_1", "label_2"), [0, 1, 2]),
        (NAMES, [0, 1, 2]),
        (("label_2", "label_0", "label_1"), [1, 2, 0]),
    ],
    ids=["unnamed", "named", "numbered in another order"],
)
def test_a_network_of_unnamed_labels_takes_them_as_they_stand(label_names, columns):
    spectra = make_spectra(label_names)
    _, labels, _ = as_stars(build_network(label_names=None), spectra)
    assert_array_equal(labels, spectra.labels[:, columns])


def test_bad_pixels_take_the_mean_of_the_other_stars():
    spectra = make_spectra()
    ivar = spectra.ivar.copy()
    ivar[1, 4] = ivar[2, 4] = 0.0
    ivar[:, 7] = 0.0
    flux = spectra.flux.copy()
    flux[1, 4] = np.nan
    filled, *_ = as_stars(build_network(), make_spectra(flux=flux, ivar=ivar))
    others = (flux[0, 4] + flux[3, 4] + flux[4, 4] + flux[5, 4]) / 4
    # rounding of the sum
    np.testing.assert_allclose(filled[[1, 2], 4], others, rtol=1e-15)
    assert_array_equal(filled[:, 7], 0.0)  # no star has a good pixel there
    good = ivar > 0
    assert_array_equal(filled[good], flux[good])


def test_resampled_spectra_give_those_on_the_grid_of_the_network():
    old = make_spectra(wavelength=np.linspace(4980.0, 5110.0, 10))
    net = build_network()
    with pytest.raises(DataError, match=r"other wavelengths in the spectra .*resample them"):
        as_stars(net, old)
    resampled = ss.resample(old, net.wavelength, kind="linear")
    flux, labels, _ = as_stars(net, resampled)
    assert_array_equal(flux, resampled.spectra.flux)
    assert_array_equal(labels, old.labels)


def test_arrays_are_returned_as_they_are():
    X, Y = [[1, 2]], np.ones((1, 3))
    flux, labels, _ = as_stars(build_network(), X, Y)
    assert flux is X
    assert labels is Y


def test_spectra_without_ivar_are_neither_copied_nor_changed():
    spectra = make_spectra(ivar=None)
    flux, labels, _ = as_stars(build_network(), spectra)
    assert np.shares_memory(flux, spectra.flux)
    assert np.shares_memory(labels, spectra.labels)


@pytest.mark.parametrize(
    ("X", "Y", "error", "words"),
    [
        (np.ones((6, 10)), None, OptionError, "Y should hold the labels .* got None: give Y, or"),
        (make_spectra(), np.ones((6, 3)), OptionError, "Y should be left out with Spectra"),
        (
            make_spectra(labels=None, label_names=()),
            None,
            DataError,
            "the 3 labels of the network, TEFF, LOGG, FE_H, got none",
        ),
        (
            make_spectra(("TEFF", "LOGG"), n_labels=2),
            None,
            DataError,
            "the 3 labels of the network, TEFF, LOGG, FE_H, got TEFF, LOGG: name them alike",
        ),
        (make_spectra(()), None, DataError, "got label_0, label_1, label_2: name them alike"),
        (
            make_spectra(flux=np.ones((6, 9)), ivar=None, wavelength=None),
            None,
            ShapeError,
            "takes spectra of 10 pixels, got 9 in the spectra: resample",
        ),
    ],
    ids=["no-labels-beside-an-array", "two-labels", "none", "too-few", "unnamed", "too-short"],
)
def test_stars_that_a_network_cannot_be_trained_on_are_refused(X, Y, error, words):
    with pytest.raises(error, match=words):
        as_stars(build_network(), X, Y)


def test_an_unnamed_network_refuses_another_number_of_labels():
    net = build_network(label_names=None)
    with pytest.raises(DataError, match="the 3 labels of the network, label_0, label_1, label_2"):
        as_stars(net, make_spectra((), n_labels=4))


def test_stars_are_split_at_random_and_those_without_labels_left_out():
    labels = np.arange(60.0).reshape(20, 3)
    labels[3] = np.nan
    labels[5, 1] = np.nan
    spectra = ss.Spectra(flux=np.arange(200.0).reshape(20, 10), labels=labels)
    training, test = split_stars(spectra, 0.2, seed=1)
    assert (len(training), len(test)) == (15, 4)
    stars = np.concatenate([training.labels[:, 0], test.labels[:, 0]])
    assert sorted(stars) == [3.0 * i for i in range(20) if i != 3]
    again, _ = split_stars(spectra, 0.2, seed=1)
    assert_array_equal(again.flux, training.flux)
    everything, nothing = split_stars(spectra, 0.0, seed=1)
    assert len(everything) == 19
    assert nothing is None


@pytest.mark.parametrize("labels", [None, np.array([[1.0], [2.0], [np.nan]])], ids=["none", "two"])
def test_too_few_stars_with_labels_are_refused(labels):
    spectra = ss.Spectra(flux=np.ones((3, 4)), labels=labels)
    with pytest.raises(DataError, match="at least two stars with labels"):
        split_stars(spectra, 0.5, seed=0)


def test_labels_are_matched_by_name_and_missing_ones_are_nan():
    spectra = make_spectra()
    matched = match_labels(spectra, build_network(("LOGG", "VMIC", "TEFF")))
    assert_array_equal(matched[:, [0, 2]], spectra.labels[:, [1, 0]])
    assert np.isnan(matched[:, 1]).all()
    assert match_labels(spectra, build_network(("VMIC", "VSINI", "RV"))) is None
    assert match_labels(make_spectra(labels=None, label_names=()), build_network()) is None


@pytest.mark.parametrize(
    ("n", "most", "picked"), [(9, 3, [0, 4, 8]), (3, 9, [0, 1, 2]), (4, 1, [0])]
)
def test_stars_are_picked_evenly(n, most, picked):
    assert_array_equal(pick_evenly(n, most), picked)


# --- groups


def make_groups(groups=None, ids=None, n=12, labels=None):
    labels = np.arange(float(n))[:, None] if labels is None else labels
    return ss.Spectra(flux=np.ones((n, 4)), labels=labels, groups=groups, ids=ids)


GROUPS = ["a", "b", "c", "a", "b", "d", "e", "a", "f", "f", "g", "c"]


@pytest.mark.parametrize("name", ["groups", "ids"])
@pytest.mark.parametrize("seed", range(5))
def test_groups_are_set_aside_whole(name, seed):
    spectra = make_groups(**{name: GROUPS})
    training, test = split_stars(spectra, 0.3, seed=seed)
    assert len(training) + len(test) == 12
    assert not set(getattr(training, name)) & set(getattr(test, name))
    assert 4 <= len(test) <= 6  # 0.3 of 12, and the rest of the last group


def test_groups_are_numbered_as_they_occur():
    assert_array_equal(find_groups(make_groups(GROUPS)), [0, 1, 2, 0, 1, 3, 4, 0, 5, 5, 6, 2])
    assert_array_equal(find_groups(make_groups()), np.arange(12))
    names = ["x", "", "y", "", "x", *"uvwzrst"]
    assert_array_equal(find_groups(make_groups(ids=names))[:5], [0, 1, 2, 3, 0])
    both = make_groups(GROUPS, ids=["same"] * 12)
    assert_array_equal(find_groups(both), find_groups(make_groups(GROUPS)))


def test_stars_of_one_group_alone_cannot_be_split():
    with pytest.raises(DataError, match="stars of other groups than those set aside, got 1 groups"):
        split_stars(make_groups(["a"] * 12), 0.2, seed=0)


@pytest.mark.parametrize("seed", range(4))
def test_folds_keep_groups_together_and_are_alike_in_size(seed):
    labels = np.arange(12.0)[:, None]
    labels[6] = np.nan  # the only one of group e
    spectra = make_groups(GROUPS, labels=labels)
    fold = assign_folds(spectra, 3, seed=seed)
    assert fold[6] == -1
    for group in "abcdfg":
        assert len({fold[i] for i, own in enumerate(GROUPS) if own == group}) == 1
    sizes = np.bincount(fold[fold >= 0], minlength=3)
    assert sizes.sum() == 11
    assert sizes.max() - sizes.min() <= 1
    assert_array_equal(assign_folds(spectra, 3, seed=seed), fold)


def test_stars_without_groups_are_dealt_out_evenly():
    fold = assign_folds(make_groups(n=23), 5, seed=0)
    assert sorted(np.bincount(fold)) == [4, 4, 5, 5, 5]
    assert not np.array_equal(fold, assign_folds(make_groups(n=23), 5, seed=1))


@pytest.mark.parametrize(
    ("folds", "words"),
    [(1, "folds should be an integer of at least 2"), (8, "at most the number of groups .*, 7")],
)
def test_folds_that_cannot_be_are_refused(folds, words):
    with pytest.raises(OptionError, match=words):
        assign_folds(make_groups(GROUPS), folds, seed=0)
