"""Folders of one file a star are read as one file of all stars would be."""

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

import symspec as ss
from symspec.cli import app
from symspec.errors import DataError, FileFormatError, OptionError, ShapeError
from symspec.files.surveys import predict_survey
from symspec.spectra.datasets import generated_stars
from symspec.spectra.readers.read import open_spectra, read_spectra

N_STARS, N_PIXELS = 7, 30
RNG = np.random.default_rng(0)
FLUX, SIGMA = RNG.normal(1, 0.1, (N_STARS, N_PIXELS)), RNG.uniform(0.01, 0.1, (N_STARS, N_PIXELS))
WAVELENGTH = np.linspace(5000.0, 5100.0, N_PIXELS)


def write_star(path, i, **replaced):
    arrays = {"flux": FLUX[i : i + 1], "sigma": SIGMA[i : i + 1], "wavelength": WAVELENGTH}
    arrays |= {"TEFF": np.array([5000.0 + i]), **replaced}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "spectra"
    folder.mkdir()
    for i in range(N_STARS):
        write_star(folder / f"star_{i:03d}.npz", i)
    return folder


def test_a_folder_is_read_as_the_stars_of_its_files(folder):
    (folder / "README.txt").write_text("not a spectrum")
    (folder / ".hidden.npz").write_text("neither")
    (folder / "more.npz").mkdir()
    spectra = read_spectra(folder, label_names=["TEFF"])
    np.testing.assert_array_equal(spectra.flux, FLUX)
    np.testing.assert_allclose(spectra.ivar, SIGMA**-2, rtol=1e-15)
    np.testing.assert_array_equal(spectra.wavelength, WAVELENGTH)
    assert spectra.labels.tolist() == [[5000.0 + i] for i in range(N_STARS)]
    assert spectra.ids.tolist() == [f"star_{i:03d}" for i in range(N_STARS)]
    assert (spectra.label_names, spectra.wavelength_unit) == (("TEFF",), "Angstrom")


def test_some_stars_of_a_folder_open_some_files(folder):
    with open_spectra(str(folder)) as file:
        assert (file.n_stars, file.n_pixels, file.has_uncertainty, file.has_ids) == (
            N_STARS,
            N_PIXELS,
            True,
            True,
        )
        for path in file.paths[:3]:
            path.unlink()
        np.testing.assert_array_equal(file.read(slice(3, None, 2)).flux, FLUX[3::2])
        with pytest.raises(FileNotFoundError):
            file.read(slice(2, 4))
        with pytest.raises(OptionError, match="a slice with a step above 0"):
            file.read(3)


def test_no_stars_are_read_as_none(folder):
    with open_spectra(folder) as file:
        assert file.read(slice(2, 2)).flux.shape == (0, N_PIXELS)


def test_names_in_the_files_are_kept(folder):
    for i in range(N_STARS):
        write_star(folder / f"star_{i:03d}.npz", i, ids=np.array([f"2M{i}"]))
    assert read_spectra(folder).ids.tolist() == [f"2M{i}" for i in range(N_STARS)]


def test_formats_may_differ_and_suffixes_go(tmp_path):
    grid = {"CRVAL1": 5000.0, "CDELT1": 1.0}
    for name, i in (("b.FITS", 1), ("a.fits.gz", 0)):
        hdus = fits.HDUList([fits.PrimaryHDU(FLUX[i]), fits.ImageHDU(SIGMA[i], name="SIGMA")])
        hdus[0].header.update(grid)
        hdus.writeto(tmp_path / name)
    arrays = {"flux": FLUX[2], "sigma": SIGMA[2], "wavelength": 5000.0 + np.arange(N_PIXELS)}
    np.savez(tmp_path / "c.npz", **arrays)
    spectra = read_spectra(tmp_path)
    np.testing.assert_array_equal(spectra.flux, FLUX[:3])
    assert spectra.ids.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("replaced", "error", "words"),
    [
        (
            {"flux": FLUX[:2], "sigma": SIGMA[:2], "TEFF": None},
            ShapeError,
            r"star_004.npz should hold one star.*got 2",
        ),
        (
            {"flux": FLUX[:1, 1:], "sigma": None, "wavelength": None},
            DataError,
            r"got n_pixels 29 in .*_004.npz and 30",
        ),
        (
            {"sigma": None},
            DataError,
            "got has_uncertainty False in .*star_004.npz and True in star_000.npz",
        ),
        (
            {"wavelength": WAVELENGTH + 0.5},
            ShapeError,
            r"on one grid, got other wavelengths in .*star_004.npz",
        ),
        ({"wavelength": None}, ShapeError, "on one grid"),
        ({"TEFF": None}, DataError, r"got label_names \(\) in"),
        ({"flux": np.array([None])}, FileFormatError, "pickle"),
    ],
    ids=["stars", "pixels", "uncertainty", "grid", "no grid", "labels", "pickle"],
)
def test_a_file_unlike_the_others_is_named(folder, replaced, error, words):
    write_star(folder / "star_004.npz", 4, **replaced)
    with open_spectra(folder) as file:
        assert file.read(slice(0, 4)).n_stars == 4
        with pytest.raises(error, match=words):
            file.read()


def test_a_folder_without_spectra_is_refused(tmp_path):
    with pytest.raises(
        DataError,
        match=r"one spectrum each, named \.h5, \.hdf5, .*\.npz, \.fits, \.fits\.gz, .*got none",
    ):
        read_spectra(tmp_path)


# --- long runs


@pytest.fixture
def laplace():
    stars = generated_stars(40, n_pixels=N_PIXELS, rng=np.random.default_rng(0))
    net = ss.standardized(ss.mlp([N_PIXELS, 4, 3], activation="tanh"), stars.flux, stars.labels)
    reg = ss.Regression(net, sigma_noise=0.1 * stars.labels.std(axis=0), prior_precision=1.0)
    theta = ss.polish(
        reg, net.init_params(np.random.default_rng(1)), stars.flux, stars.labels
    ).theta
    return ss.fit_laplace(reg, theta, stars.flux, stars.labels)


def test_a_catalogue_of_a_folder_is_that_of_the_stars(folder, laplace, tmp_path):
    spectra = read_spectra(folder)
    walked = predict_survey(tmp_path / "folder.h5", laplace, folder).prediction
    expected = laplace.predict(spectra)
    np.testing.assert_array_equal(walked.labels, expected.labels)
    np.testing.assert_array_equal(walked.errors, expected.errors)


def test_another_file_or_size_makes_another_run(folder):
    def identify():
        with open_spectra(folder) as source:
            return source.identity()["spectra"]

    before = identify()
    assert identify() == before
    write_star(folder / "star_004.npz", 4, more=np.zeros(3))
    changed = identify()
    (folder / "star_004.npz").rename(folder / "star_0040.npz")
    assert len({before, changed, identify()}) == 3


def test_the_command_line_takes_a_folder(folder, laplace, tmp_path):
    ss.write_laplace(tmp_path / "model.h5", laplace)
    run = CliRunner().invoke
    done = run(
        app.app,
        ["errors", str(tmp_path / "model.h5"), str(folder), str(tmp_path / "catalogue.fits")],
    )
    assert done.exit_code == 0, done.output
    assert len(fits.getdata(tmp_path / "catalogue.fits", 1)) == N_STARS
    told = run(app.app, ["info", str(folder)])
    assert told.exit_code == 0, told.output
    assert "7" in told.output
    inside = run(
        app.app, ["errors", str(tmp_path / "model.h5"), str(folder), str(folder / "catalogue.fits")]
    )
    assert inside.exit_code != 0
    assert "would count as one of the spectra" in " ".join(inside.output.split())
    assert not (folder / "catalogue.fits").exists()
