"""Files of an earlier version are read with its numbers; its interrupted runs begin anew."""

# files_of_version_0_1/ was written by symspec 0.1.0 (commit f528665; NumPy 2.5, PyTensor 3.3) from
# some tens of generated stars, by a script that is not kept. Runs were interrupted after one piece
# or block; expected.json holds, to the last bit, what that version read and computed of each file.

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from astropy.table import Table

import symspec as ss
from symspec.derivatives.machine import calls
from symspec.laplace.flags import Flag

FILES = Path(__file__).parent / "files_of_version_0_1"
EXPECTED = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
# what is computed from the same numbers differs by rounding alone, where another BLAS or processor
# sums in another order: up to some thousand roundings of 1e-16, or of 6e-8 in float32
RTOL = {"float64": 1e-12, "float32": 1e-4}
VERSIONS = ("symspec", "numpy", "pytensor")
REWORDED = ("FLAG4", "FLAG8", "FLAG16")  # their meanings say more today
NEW = {
    "CENTER",
    "NOISE",
    "MAXSHIFT",
    "FILL",
    "FLUXPROP",
    "MAXMISS",
    "MAXNONL",
    "FLAG1024",
    "FLAG2048",
}
NEW_FLAGS = Flag.INFORMATION_MISSING | Flag.FLUX_ERROR_NONLINEAR
RTOL_OF_BOUNDS = 1e-6  # they are apart by rounding today
CHECKSUMS = ("CHECKSUM", "DATASUM")  # of FITS, other with the last bit


@pytest.fixture(autouse=True)
def numpys_tanh(monkeypatch):
    """The tanh of those versions: saturated units have what rounding leaves of 1 - tanh^2."""
    monkeypatch.setattr(calls, "TANH", np.tanh)


def entries(folder):
    return [name for name in EXPECTED if name.startswith(f"{folder}/")]


def assert_same(found, expected, place=""):
    """Number by number and word by word, without any tolerance; names are attributes or keys."""
    if isinstance(expected, dict):
        if isinstance(found, Mapping):
            assert sorted(found) == sorted(expected), place
        for name, value in expected.items():
            one = found[name] if isinstance(found, Mapping) else getattr(found, name)
            assert_same(one, value, f"{place}/{name}")
    elif expected is None or isinstance(expected, str):
        assert found == expected, place
    else:
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected), err_msg=place)


def assert_close(found, expected, *, dtype="float64", place=""):
    """Within `RTOL` of the largest such number among the stars; a covariance, of what bounds it."""
    found, expected = np.asarray(found), np.asarray(expected)
    if expected.dtype.kind != "f":
        assert_same(found, expected, place)
        return
    assert found.shape == expected.shape, place
    sizes = np.nan_to_num(np.abs(expected))
    if "cov" in place.lower():
        sd = np.sqrt(np.diagonal(expected, axis1=1, axis2=2))
        sizes = sd[:, :, None] * sd[:, None, :]
    elif sizes.ndim > 1:
        sizes = sizes.max(axis=0)
    rtol = max(RTOL[dtype], RTOL_OF_BOUNDS if "interval" in place.lower() else 0)
    near = np.abs(found - expected) <= rtol * sizes
    far = ~near & ~(np.isnan(found) & np.isnan(expected))
    assert not far.any(), f"{place}: {found[far]} should be {expected[far]}"


def predict(laplace, spectra, **options):
    """With the warning that the cost of the missing pixels is not counted, which is said first."""
    with pytest.warns(ss.MissingPixelsWarning, match=r"not\s+counted in the errors"):
        prediction = laplace.predict(spectra, progress=False, **options)
    assert prediction.fill == "uncounted"
    assert not prediction.missing_cov.any()
    return prediction


# --- posteriors and networks


@pytest.mark.parametrize("name", entries("posteriors"))
def test_a_posterior_is_read_and_predicts_as_it_did(name):
    laplace, expected = ss.read_laplace(FILES / name), EXPECTED[name]
    reg, inverse, passes = laplace.reg, laplace.inverse_hessian, {"dtype": laplace.dtype}
    certificate = expected["read"]["certificate"]
    # the words are of today, and the largest eigenvalue is no more
    known = {
        key: certificate[key] for key in certificate.keys() - {"message", "largest_eigenvalue"}
    }
    assert_same(laplace, expected["read"] | {"certificate": known})
    assert_same(reg.prior_precision_vector(), expected["prior_precision_vector"])
    assert repr(reg.net) == expected["network"]
    spectra = ss.read_spectra(FILES / "new.h5")
    prediction = predict(laplace, spectra)
    lacks = (spectra.ivar == 0).any(axis=1)
    assert ((prediction.label_flags & Flag.INFORMATION_MISSING > 0) == lacks[:, None]).all()
    for word, value in expected["prediction"].items():
        if value is None:
            assert getattr(prediction, word) is None
        elif "flags" in word:
            assert_same(getattr(prediction, word) & ~NEW_FLAGS, value, word)
        else:
            assert_close(getattr(prediction, word), value, place=word, **passes)
    assert_close(inverse.logdet(), expected["logdet"])
    assert_close(inverse.diagonal(), expected["diagonal"])
    if expected["log_evidence"] is not None:  # as a subset of the training stars has none
        assert_close(laplace.log_marginal_likelihood(), expected["log_evidence"])


@pytest.mark.parametrize("name", entries("posteriors"))
def test_network_and_regression_are_read_from_a_posterior(name):
    expected = EXPECTED[name]["read"]
    net, theta = ss.read_network(FILES / name)
    reg, again = ss.read_regression(FILES / name)
    for weights in (theta, again):
        assert_same(weights, expected["theta"])
    assert_same(net, expected["reg"]["net"])
    assert_same(reg, expected["reg"])


@pytest.mark.parametrize("name", entries("networks"))
def test_a_network_is_read_layer_by_layer_and_gives_the_same_labels(name):
    (net, theta), expected = ss.read_network(FILES / name), EXPECTED[name]
    assert_same(net, expected["read"])
    assert_same(theta, expected["theta"])
    assert repr(net) == expected["network"]
    shapes = {block: list(np.shape(values)) for block, values in net.unpack(theta).items()}
    assert list(shapes.items()) == list(expected["blocks"].items())
    for layer, (kind, values, others) in zip(net.layers, expected["layers"], strict=True):
        assert type(layer) is getattr(ss, kind)
        assert_same(layer, values, kind)
        assert [net.layers.index(other) for other in layer.others] == others
    flux = np.array(expected["flux"])
    assert_close(ss.compile_predict(net)(theta, flux), expected["labels"])
    if "regression" in expected:
        assert_same(ss.read_regression(FILES / name)[0], expected["regression"])
    else:
        with pytest.raises(ss.FileFormatError, match="'regression' should be in the file"):
            ss.read_regression(FILES / name)


LATER = {"SNV", "MSC", "SavitzkyGolay", "Absorbance", "PReLU", "Multiply"}  # kinds of layers


def test_every_kind_of_layer_is_among_the_networks():
    kept = {kind for name in entries("networks") for kind, *_ in EXPECTED[name]["layers"]}
    public = {value for value in vars(ss).values() if isinstance(value, type)}
    assert kept == {kind.__name__ for kind in public if issubclass(kind, ss.Layer)} - {
        "Layer",
        *LATER,
    }


# --- spectra


@pytest.mark.parametrize("name", entries("spectra"))
def test_spectra_are_read_as_they_were(name):
    expected = EXPECTED[name]
    spectra = ss.read_spectra(FILES / name.partition(",")[0], **expected["options"])
    for word, value in expected["read"].items():
        if word in ("ivar", "wavelength") and value is not None:
            # powers, whose last bit is the processor's; where ivar is 0 it stays so
            np.testing.assert_allclose(getattr(spectra, word), value, rtol=1e-15, err_msg=word)
        else:
            assert_same(getattr(spectra, word), value, word)
    with ss.open_spectra(FILES / name.partition(",")[0], **expected["options"]) as file:
        assert_same(file.read(slice(0, 1)).flux, expected["read"]["flux"][:1])


# --- catalogues


def read_catalogue(path):
    return Table.read(path, **({"path": "catalogue"} if path.suffix == ".h5" else {}))


def assert_tables_agree(found, expected, n_same=0):
    """The first `n_same` stars to the last bit, the others closely; headers but for versions."""
    assert found.colnames == expected.colnames
    assert found.meta.keys() - NEW == expected.meta.keys()
    for key, word in expected.meta.items():
        assert (
            found.meta[key] == word or key.lower() in VERSIONS or key in (*CHECKSUMS, *REWORDED)
        ), key
    for name in expected.colnames:
        a, b = found[name], expected[name]
        assert (a.dtype, a.unit, a.description) == (b.dtype, b.unit, b.description)
        if "flags" in name.lower() or name.lower().startswith("f_"):
            a = a & ~np.int32(NEW_FLAGS)
        np.testing.assert_array_equal(a[:n_same], b[:n_same], err_msg=name)
        assert_close(np.ma.filled(a), np.ma.filled(b), place=name)


@pytest.mark.parametrize("name", sorted(os.listdir(FILES / "catalogues")))
def test_a_catalogue_is_written_as_it_was(name, tmp_path):
    laplace = ss.read_laplace(FILES / "posteriors/primal.h5")
    spectra = ss.read_spectra(FILES / "new.h5")
    words = EXPECTED["catalogues"]
    calibration = ss.ErrorCalibration(factor=np.array(words["factor"]), source=words["source"])
    more = {"dialect": name.partition(".")[0], "true_labels": words["true_labels"]}
    more |= {"calibration": calibration, "meta": words["meta"]}
    prediction = predict(laplace, spectra)
    ss.write_catalogue(tmp_path / name, prediction, spectra.ids, **more)
    written, kept = (read_catalogue(folder / name) for folder in (tmp_path, FILES / "catalogues"))
    assert_tables_agree(written, kept)


# --- long runs: pieces of that version have no seal and are of another plan


def take_up(folder, output, tmp_path):
    """The run as it was left, under the versions of today."""
    run = tmp_path / folder
    shutil.copytree(FILES / folder, run, ignore=shutil.ignore_patterns(output))
    path = run / f"{output}.partial" / "plan.json"
    today = (ss.__version__, version("numpy"), version("pytensor"))
    path.write_text(
        json.dumps(json.loads(path.read_text()) | dict(zip(VERSIONS, today, strict=True)))
    )
    return run


def read_folder(folder):
    return {path: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def test_an_interrupted_survey_is_refused_and_gives_the_same_catalogue_anew(tmp_path):
    run = take_up("survey", "catalogue.fits.gz", tmp_path)
    laplace = ss.read_laplace(FILES / "posteriors/krylov.h5")
    words = {"flag_options": ss.FlagOptions(min_snr=30.0), "dialect": "lower"}
    path = run / "catalogue.fits.gz"
    kept = read_folder(run / "catalogue.fits.gz.partial")
    with pytest.raises(ss.DataError, match=r"spectra was '.* bytes, modified .*' and is 'SHA-256"):
        ss.predict_survey(path, laplace, run / "stars.h5", **words)
    assert read_folder(run / "catalogue.fits.gz.partial") == kept
    with pytest.warns(ss.MissingPixelsWarning):
        survey = ss.predict_survey(path, laplace, run / "stars.h5", restart=True, **words)
    assert sorted(os.listdir(run)) == ["catalogue.fits.gz", "stars.h5"]
    found, expected = Table.read(path), Table.read(FILES / "survey/catalogue.fits.gz")
    assert_tables_agree(found, expected)
    np.testing.assert_array_equal(survey.ids, expected["id"])
    np.testing.assert_array_equal(survey.prediction.labels[:, 0], found["logg"])


def test_interrupted_derivatives_are_refused_and_the_same_anew(tmp_path):
    run = take_up("jacobian", "jacobian.h5", tmp_path)
    net, theta = ss.read_network(run / "network.h5")
    words = (run / "jacobian.h5", net, theta, run / "stars.h5")
    kept = read_folder(run / "jacobian.h5.partial")
    with pytest.raises(ss.DataError, match=r"spectra was '.* bytes, modified .*' and is 'SHA-256"):
        ss.write_jacobian(*words)
    assert read_folder(run / "jacobian.h5.partial") == kept
    summary = ss.write_jacobian(*words, restart=True)
    assert sorted(os.listdir(run)) == ["jacobian.h5", "network.h5", "stars.h5"]
    assert_close(summary.mean, EXPECTED["jacobian"]["mean"])
    assert_close(summary.flux, EXPECTED["jacobian"]["flux"])
    with h5py.File(run / "jacobian.h5") as a, h5py.File(FILES / "jacobian/jacobian.h5") as b:
        assert sorted(a) == sorted(b)
        for name in b:
            assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape)
            assert_close(a[name][()], b[name][()], place=name)
            assert_same(dict(a[name].attrs), dict(b[name].attrs), name)
        assert a.attrs.keys() == {*b.attrs.keys(), "fill"}  # which is said since
        assert a.attrs["fill"] == "missing pixels hold the training mean"
        for name in ("content", "network_hash", "data_hash"):
            assert a.attrs[name] == b.attrs[name]


# --- fits and predictions: what that version kept says too little of where it comes from


def fit(structure, folder):
    reg, theta = ss.read_regression(FILES / "resume/network.h5")
    stars = ss.read_spectra(FILES / "resume/stars.h5")
    options = EXPECTED[f"resume/{structure}"]["options"]
    words = {"structure": structure, "options": options, "require_minimum": False}
    words |= {"progress": False, "resume": folder}
    return ss.fit_laplace(reg, theta, stars.flux, stars.labels, **words)


@pytest.mark.parametrize("name", entries("resume"))
def test_blocks_that_were_kept_are_told_and_computed_again(name, tmp_path):
    structure, expected = name.removeprefix("resume/"), EXPECTED[name]
    folder = shutil.copytree(FILES / name / "fit", tmp_path / "fit")
    new = ss.read_spectra(FILES / "resume/new.h5")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        laplace = fit(structure, folder)
        prediction = laplace.predict(new, progress=False)
    if structure != "krylov":  # whose files have other names today
        assert "should hold finished blocks" in str(told[0].message)
    assert_close(laplace.inverse_hessian.logdet(), expected["logdet"])
    assert_close(laplace.inverse_hessian.diagonal(), expected["diagonal"])
    for word in ("labels", "model_cov", "total_cov", "model_interval"):
        assert_close(getattr(prediction, word), expected[word], place=word)


def test_stars_that_were_kept_are_told_and_predicted_again(tmp_path):
    name = "posteriors/low_rank.h5"
    folder = shutil.copytree(FILES / "prediction", tmp_path / "prediction")
    laplace, new = ss.read_laplace(FILES / name), ss.read_spectra(FILES / "new.h5")
    with pytest.warns(RuntimeWarning, match="should hold finished blocks .* computed again"):
        prediction = predict(laplace, new, resume=folder)
    expected = EXPECTED[name]["prediction"]
    for word in ("labels", "model_cov", "flux_cov", "total_cov", "model_interval"):
        assert_close(getattr(prediction, word), expected[word], place=word)


# --- draws of Hamiltonian Monte Carlo


def test_draws_are_compared_with_the_posterior_that_they_were_made_of():
    # f is found by a digest of the spectra, and Pareto's k by one of the posterior; left out are
    # R-hat, effective sizes and Monte Carlo errors, which are ArviZ's
    laplace, expected = ss.read_laplace(FILES / "hmc/laplace.h5"), EXPECTED["hmc"]
    with xr.open_datatree(FILES / "hmc/draws.nc", engine="h5netcdf") as draws:
        comparison = ss.compare_hmc(laplace, draws, np.array(expected["flux"]))
    for word, value in expected["comparison"].items():
        assert_close(getattr(comparison, word), value, place=word)
