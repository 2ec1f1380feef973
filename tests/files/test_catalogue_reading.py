"""A catalogue read back is the prediction that was written."""

from dataclasses import replace

import numpy as np
import pytest

import symspec as ss
from symspec.errors import FileFormatError
from symspec.files.catalogue_reading import is_catalogue, read_catalogue
from symspec.laplace.prediction import Prediction

NAMES, UNITS = ("TEFF", "[Fe/H]"), ("K", "dex")
ENDINGS = (".fits", ".fits.gz", ".ecsv", ".h5", ".nc")


@pytest.fixture
def prediction():
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(3, 6, 2, 2))
    model, flux, noise = parts @ parts.transpose(0, 1, 3, 2)
    return Prediction(
        labels=rng.normal(size=(6, 2)),
        model_cov=model,
        flux_cov=flux,
        noise_cov=noise,
        total_cov=model + flux + noise,
        flags=np.arange(6, dtype=np.int32),
        n_bad_pixels=np.arange(6),
        has_flux_errors=True,
        label_names=NAMES,
        label_units=UNITS,
        label_flags=np.arange(12, dtype=np.int32).reshape(6, 2),
        snr=rng.uniform(10, 100, 6),
        flux_distance=rng.uniform(0, 2, 6),
        newton_shift=rng.normal(size=(6, 2)),
        center="linearized",
        fill="mean",
        flux="sampled",
    )


@pytest.mark.parametrize("dialect", ["upper", "lower"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_read_is_what_was_written(tmp_path, prediction, ending, dialect):
    path = tmp_path / f"catalogue{ending}"
    truth = prediction.labels + np.array([0.5, np.nan])
    ids = [f"star {i}" for i in range(6)]
    words = {"true_labels": truth, "interval": 0.9, "dialect": dialect}
    ss.write_catalogue(path, prediction, ids, **words, meta={"NETHASH": "abc"})
    assert is_catalogue(path)
    found = read_catalogue(path)
    for name, array in prediction.to_arrays().items():
        np.testing.assert_array_equal(getattr(found.prediction, name), array, err_msg=name)
    for name in ("label_names", "label_units", "center", "fill", "flux", "has_flux_errors"):
        assert getattr(found.prediction, name) == getattr(prediction, name)
    assert list(found.ids) == ids
    np.testing.assert_array_equal(found.true_labels, truth)
    np.testing.assert_array_equal(found.interval, prediction.interval(0.9))
    assert found.level == 0.9
    assert not found.has_wide_tails
    assert found.header["NETHASH"] == "abc"


def test_what_was_left_out_is_none(tmp_path, prediction):
    bare = replace(
        prediction,
        flux_cov=np.zeros((6, 2, 2)),
        total_cov=prediction.model_cov + prediction.noise_cov,
        has_flux_errors=False,
        label_flags=None,
        newton_shift=None,
        flux_distance=None,
    )
    path = tmp_path / "catalogue.fits"
    ss.write_catalogue(path, bare)
    found = read_catalogue(path)
    assert found.prediction.label_flags is None
    assert found.prediction.newton_shift is None
    assert found.true_labels is None
    assert found.interval is None
    assert not found.prediction.has_flux_errors
    np.testing.assert_array_equal(found.prediction.flux_cov, bare.flux_cov)
    assert list(found.ids) == list("012345")


def test_noise_with_wide_tails_is_told_from_normal_noise(tmp_path, prediction):
    path = tmp_path / "catalogue.fits"
    ss.write_catalogue(path, prediction.with_noise(ss.StudentTNoise([1.0, 2.0], [3.0, 4.0])))
    assert read_catalogue(path).has_wide_tails


@pytest.mark.parametrize("ending", ENDINGS)
def test_other_files_are_no_catalogues(tmp_path, ending):
    path = tmp_path / f"stars{ending}"
    path.write_bytes(b"nothing of the kind")
    assert not is_catalogue(path)
    with pytest.raises(FileFormatError, match="should be a catalogue of symspec's"):
        read_catalogue(path)


def test_spectra_are_no_catalogue(tmp_path):
    import h5py

    path = tmp_path / "stars.h5"
    with h5py.File(path, "w") as file:
        file["flux"] = np.ones((3, 4))
    assert not is_catalogue(path)
