"""`symspec report`, and `--report` of other commands: what each of them puts on the page."""

import numpy as np
import pytest
from html_pages import Page, leave_undrawn
from test_cli import run, write_stars

import symspec as ss
from symspec.spectra.selections import split_stars

NAMES, UNITS = ("TEFF", "LOGG", "FE_H"), ("K", "dex", "dex")


def generate(n, seed):
    rng = np.random.default_rng(seed)
    return ss.datasets.generated_stars(
        n, n_pixels=12, snr=200, wavelength_range=(5150, 5300), rng=rng
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, its training stars of which some were set aside, and new stars."""
    folder = tmp_path_factory.mktemp("stars")
    stars = generate(60, 0)
    write_stars(folder / "stars.h5", stars)
    write_stars(folder / "new.h5", generate(25, 1))
    net = ss.mlp([12, 2, 3], activation="tanh", label_names=NAMES, label_units=UNITS)
    net = ss.standardized(net, stars.flux, stars.labels)
    noise, prior = 0.3 * stars.labels.std(axis=0), ss.scaled_prior(net, 1.0)
    reg = ss.Regression(net, sigma_noise=noise, prior_precision=prior)
    training, _ = split_stars(stars, 0.1, 0)
    theta = net.init_params(np.random.default_rng(0))
    laplace = ss.fit_laplace(reg, theta, training, require_minimum=False)
    ss.write_laplace(folder / "model.h5", laplace)
    return folder


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    leave_undrawn(monkeypatch)


def read_page(path):
    return Page(path.read_text(encoding="utf-8"))


def find_headings(page):
    return [one.text for one in page.find("h3")]


def test_a_catalogue_or_spectra_make_the_same_page_but_for_derivatives(folder, tmp_path):
    catalogue = tmp_path / "out.fits"
    said = run(
        "errors", folder / "model.h5", folder / "new.h5", catalogue, "--report", tmp_path / "a.html"
    )
    assert f"Wrote report: {tmp_path / 'a.html'}" in said.stdout
    run("report", folder / "model.h5", catalogue, tmp_path / "b.html")
    run("report", folder / "model.h5", folder / "new.h5", tmp_path / "c.html")
    pages = [read_page(tmp_path / f"{name}.html") for name in "abc"]
    for caption in ("Errors by their part", "Predicted less known labels", "with each flag"):
        first, second, third = (page.tables(caption) for page in pages)
        assert first == second == third
        assert first
    assert "The catalogue is of this model" in pages[1].text
    [of_spectra] = pages[0].tables("Derivatives of TEFF")
    [of_catalogue] = pages[1].tables("Derivatives of TEFF")
    assert "share of the flux error budget" in of_spectra[0]
    assert "share of the flux error budget" not in of_catalogue[0]


def test_without_spectra_those_set_aside_are_predicted_and_the_others_left_out(folder, tmp_path):
    page = tmp_path / "page.html"
    run("report", folder / "model.h5", page, "--training", folder / "stars.h5")
    found = read_page(page)
    assert "New stars" in find_headings(found)
    assert "Training stars, each left out in turn" in find_headings(found)
    [listed, _] = found.tables("labels and total errors")
    assert len(listed) == 6
    assert found.tables("that move predictions most")


def test_train_reports_stars_set_aside_and_each_of_its_own_left_out(folder, tmp_path):
    page = tmp_path / "page.html"
    said = run(
        "train", folder / "stars.h5", tmp_path / "m.h5", "--hidden", "linear", "--epochs", 1,
        "--no-tune", "--report", page,
    )  # fmt: skip
    assert f"Wrote report: {page}" in said.stdout
    found = read_page(page)
    assert "New stars" in find_headings(found)
    assert "Training stars, each left out in turn" in find_headings(found)
    of_new, of_trained = found.tables("Predicted less known labels")
    assert [of_new[0]["known"], of_trained[0]["known"]] == [6, 54]
    run("train", folder / "stars.h5", tmp_path / "n.h5", "--report", page, code=1)
    assert not (tmp_path / "n.h5").exists()


def test_audit_reports_what_it_found(folder, tmp_path):
    page = tmp_path / "page.html"
    run(
        "audit", folder / "model.h5", folder / "stars.h5", "--structure", "diagonal",
        "--report", page,
    )  # fmt: skip
    assert read_page(page).tables("Model error by each structure")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("new.h5", "stars.h5", "page.html"), "takes a catalogue or spectra, and the page"),
        (("new.h5",), "should end in one of .html, .htm"),
        (("page.html", "--object-name", "a/b/c"), "should be a word, or one and its plural"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(folder, tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    paths = [folder / word if word.endswith(".h5") else word for word in words]
    said = run("report", folder / "model.h5", *paths, code=1)
    assert expected in said.stderr
    assert not list(tmp_path.iterdir())
