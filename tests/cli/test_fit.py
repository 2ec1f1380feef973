"""`symspec fit`: from a network's file and its spectra to a model that every command takes."""

import numpy as np
import pytest
from astropy.table import Table
from html_pages import Page
from test_cli import run, write_stars

import symspec as ss
from symspec.files import read_laplace
from symspec.files.catalogue_reading import read_catalogue
from symspec.reports.tables import format_number


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with spectra and a network stopped early, which gives z-scores and has no names."""
    folder = tmp_path_factory.mktemp("fit")
    stars = ss.datasets.generated_stars(
        120, n_pixels=20, snr=200, wavelength_range=(5150, 5300), rng=np.random.default_rng(0)
    )
    write_stars(folder / "stars.h5", stars)
    net = ss.standardized(ss.mlp([20, 6, 3], activation="relu"), stars.flux, stars.labels)
    reg = ss.Regression(net, sigma_noise=0.1 * stars.labels.std(axis=0), prior_precision=1.0)
    theta = ss.train(reg, stars, epochs=150, learning_rate=1e-2, rng=np.random.default_rng(1),
                     progress=False).theta  # fmt: skip
    ss.write_network(folder / "net.h5", ss.Network(net.layers[:-1], 20), theta)
    return folder


@pytest.fixture(scope="module")
def said(work):
    report = ("--report", work / "report.html", "--object-name", "sample")
    return run("fit", work / "net.h5", work / "stars.h5", work / "model.h5", *report)


def test_it_tells_what_it_found_and_what_stars_left_out_say(work, said):
    assert "Outputs of the network: z-scores of these labels (mean" in said.stdout
    assert "120 stars, each left out in turn: the network as it is" in said.stdout
    laplace = read_laplace(work / "model.h5")
    assert laplace.reg.noise.describe() in said.stdout
    stars = ss.read_spectra(work / "stars.h5")
    left_out = laplace.leave_one_out(stars)
    inside = 100 * ss.coverage(left_out, stars.labels)[:, 0]
    assert f"{inside[0]:.0f} % {inside[1]:.0f} %" in said.stdout


def test_the_report_holds_each_star_left_out(work, said):
    assert f"Wrote report: {work / 'report.html'}" in said.stdout
    page = Page((work / "report.html").read_text(encoding="utf-8"))
    [budget] = page.tables("Training samples, each left out in turn: median errors")
    assert [row["known"] for row in budget] == [120] * 3
    for row in budget:
        cells = [format_number(row[part]) for part in ("noise", "total")]
        assert " ".join(cells) in said.stdout  # of the table of stars left out


@pytest.mark.usefixtures("said")
def test_the_other_commands_take_the_model(work):
    run("errors", work / "model.h5", work / "stars.h5", work / "out.fits")
    catalogue = read_catalogue(work / "out.fits").prediction
    assert catalogue.center == "linearized"  # as the network was stopped early
    run("jacobian", work / "model.h5", work / "stars.h5", work / "jacobian.h5")
    laplace = read_laplace(work / "model.h5")
    stars = ss.read_spectra(work / "stars.h5")
    prediction = laplace.predict(stars, center="linearized", progress=False)
    np.testing.assert_allclose(catalogue.labels, prediction.labels, rtol=1e-9)
    np.testing.assert_allclose(catalogue.errors, prediction.errors, rtol=1e-9)
    assert laplace.reg.net.label_names == ("TEFF", "LOGG", "FE_H")
    assert laplace.reg.net.label_units == ("K", "dex", "dex")


@pytest.mark.usefixtures("said")
def test_flux_errors_count_beyond_training_or_all_of_them(work):
    assert read_laplace(work / "model.h5").training_flux_cov is not None
    assert "exceeds the training spectra's" in run("info", work / "model.h5").stdout
    words = ("fit", work / "net.h5", work / "stars.h5", work / "all.h5")
    run(*words, "--count-flux-errors", "all")
    assert read_laplace(work / "all.h5").training_flux_cov is None
    assert "Flux errors" not in run("info", work / "all.h5").stdout


@pytest.mark.usefixtures("said")
def test_errors_are_calibrated_by_training_stars_left_out(work):
    words = ("errors", work / "model.h5", work / "stars.h5", work / "calibrated.h5")
    run(*words, "--calibrate-on", work / "stars.h5", "--leave-one-out")
    laplace = read_laplace(work / "model.h5")
    stars = ss.read_spectra(work / "stars.h5")
    left_out = laplace.leave_one_out(stars, center="linearized")
    flux = laplace.predict(stars, center="linearized").flux_cov
    errors = np.sqrt(np.einsum("ncc->nc", left_out.total_cov + flux))
    expected = ss.sigma_mad((stars.labels - left_out.labels) / errors)
    rows = Table.read(work / "calibrated.h5", path="catalogue")
    found = rows["TEFF_CAL_ERR"] / rows["TEFF_ERR"]
    np.testing.assert_allclose(found, expected[0], rtol=1e-10)
    refused = run(*words, "--leave-one-out", "--overwrite", code=1)
    assert "add --calibrate-on FILE" in refused.stderr


@pytest.mark.usefixtures("said")
def test_a_scaling_that_is_given_is_taken(work):
    pairs = ("5000,1000", "3,1", "-0.5,0.5")
    words = [word for pair in pairs for word in ("--label-scaling", pair)]
    told = run("fit", work / "net.h5", work / "stars.h5", work / "given.h5", *words)
    assert "as given (mean 5000, 3, -0.5; scale 1000, 1, 0.5)" in told.stdout
    refused = run(
        "fit", work / "net.h5", work / "stars.h5", work / "no.h5", "--label-scaling", "5000", code=1
    )
    assert "--label-scaling should be MEAN,SCALE" in refused.stderr


def test_a_network_on_other_labels_is_refused_before_the_work(work):
    words = ("--label", "LOGG", "--label", "TEFF", "--label", "FE_H")
    refused = run("fit", work / "net.h5", work / "stars.h5", work / "no.h5", *words, code=1)
    assert "but they follow TEFF, LOGG, FE_H better" in refused.stderr
    two = run("fit", work / "net.h5", work / "stars.h5", work / "no.h5", "--label", "TEFF", code=1)
    assert "should have 3 labels, one for each output of the network, got 1" in two.stderr
    assert not (work / "no.h5").exists()
