"""Cross-validation: each star is predicted by a refit that saw nothing of its group."""

import os
import warnings
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_info

import symspec as ss
from symspec.errors import DataError, OptionError, WorkersError
from symspec.fitting.fit import FitOptions, fit_network
from symspec.fitting.folds import Processes, run_folds
from symspec.spectra.selections import assign_folds

OPTIONS = {"hidden": (2,), "epochs": 5, "tune": False}
QUIET = {"n_workers": 1, "progress": False}
GROUPS = np.repeat(np.arange(20), 3)


def make_stars(seed=0):
    """Three spectra of each of 20 samples, which differ by noise alone."""
    rng = np.random.default_rng(seed)
    flux = rng.normal(size=(20, 6))
    labels = flux[:, :2] @ [[2.0, 0.5], [-1.0, 1.0]] + 5
    labels[3, 1] = np.nan
    flux = np.repeat(flux, 3, axis=0) + 0.01 * rng.normal(size=(60, 6))
    return ss.Spectra(
        flux=flux + 10,
        labels=np.repeat(labels, 3, axis=0),
        label_names=("fat", "water"),
        ids=[f"scan {i}" for i in range(60)],
        groups=GROUPS.astype(str),
    )


@pytest.fixture(scope="module")
def result():
    return ss.validate(make_stars(), folds=2, seed=1, preprocess="snv,msc", **OPTIONS, **QUIET)


def test_a_fold_is_a_refit_without_its_groups(result):
    """By hand: fitted to the other fold, and asked about the flux held out."""
    stars = make_stars()
    assert_array_equal(result.fold, assign_folds(stars, 2, seed=1))
    held_out = result.fold == 1
    assert not set(GROUPS[held_out]) & set(GROUPS[~held_out])
    options = FitOptions(preprocess="snv,msc", **OPTIONS)
    laplace = fit_network(stars[~held_out], options, seed=2, progress=False)
    prediction = laplace.predict(stars.flux[held_out], progress=False)
    # the same computation
    assert_allclose(result.prediction.labels[held_out], prediction.labels, rtol=1e-12)
    assert_allclose(result.prediction.total_cov[held_out], prediction.total_cov, rtol=1e-10)
    assert len(result.certificates) == len(result.regressions) == 2


def test_preprocessing_is_learnt_of_the_training_stars_alone(result):
    flux = make_stars().flux
    for k, reg in enumerate(result.regressions):
        x = flux[result.fold != k]
        x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, ddof=1, keepdims=True)
        assert_allclose(reg.net.layers[1].reference, x.mean(axis=0), rtol=1e-12, atol=1e-14)


def test_groups_may_be_given_and_stars_without_labels_are_left_out():
    stars = make_stars()
    labels = np.array(stars.labels)
    labels[:3] = np.nan
    stars = replace(stars, labels=labels, groups=None)
    found = ss.validate(stars, folds=2, groups=GROUPS, **OPTIONS, **QUIET)
    assert list(found.spectra.ids) == [f"scan {i}" for i in range(3, 60)]
    assert len(found.prediction.labels) == 57
    for group in range(1, 20):
        assert len(set(found.fold[GROUPS[3:] == group])) == 1


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"width": 3}, OptionError, "options of validate should be hidden, .* got 'width'"),
        ({"folds": 21}, OptionError, "at most the number of groups with labels, 20"),
    ],
)
def test_what_cannot_be_validated_is_refused(changes, error, words):
    with pytest.raises(error, match=words):
        ss.validate(make_stars(), **{**OPTIONS, **QUIET, **changes})
    with pytest.raises(DataError, match="validation needs labels, got spectra without"):
        ss.validate(replace(make_stars(), labels=None, label_names=(), label_units=()))


def test_processes_give_results_in_their_order():
    steps = []
    done = run_folds(
        abs, [-9, 1, -4], n_workers=2, progress=lambda stage, n, of: steps.append((n, of))
    )
    assert done == [9, 1, 4]
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_process_that_dies_is_told_with_what_helps():
    with pytest.raises(WorkersError, match='below `if __name__ == "__main__":`'):
        run_folds(os._exit, [1, 1], n_workers=2, progress=False)


def find_process(_):
    return os.getpid()


def test_processes_do_one_set_of_jobs_after_another():
    show = lambda *step: None  # noqa: E731
    with Processes(1) as here:
        assert here.run(find_process, [0, 1], show, "") == [os.getpid()] * 2
    with Processes(2) as processes:
        found = [processes.run(find_process, [0], show, "") for _ in range(3)]
    assert found[0] == found[1] == found[2] != [os.getpid()]


def warn(text):
    warnings.warn(text, ss.SeveralMaximaWarning, stacklevel=1)


def test_a_process_warns_without_the_place_in_the_code(capfd):
    run_folds(warn, ["of the first", "of the second"], n_workers=2, progress=False)
    lines = sorted(capfd.readouterr().err.splitlines())
    assert lines == [f"SeveralMaximaWarning: of the {which}" for which in ("first", "second")]


def count_threads(_):
    return [library["num_threads"] for library in threadpool_info()]


def test_a_process_has_one_thread_of_each_blas(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    (counts, _) = run_folds(count_threads, [0, 1], n_workers=2, progress=False)
    assert len(counts) >= 2
    assert set(counts) == {1}
