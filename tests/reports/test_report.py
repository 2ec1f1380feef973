"""The page for a referee: its numbers are those of arrays, and a stranger's names stay text."""

import base64
import re
from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table as AstropyTable
from browser import Browser, find_browser
from html_pages import Page, leave_undrawn
from test_hmc_plots import build_comparison

import symspec as ss
from symspec.errors import DataError, FileKeptError, OptionError, ShapeError
from symspec.reports.pages import write_report
from symspec.reports.pages.figures.derivatives import find_derivatives
from symspec.reports.pages.figures.words import Words
from symspec.validation.audit import StructureAudit

NAMES, UNITS = ("TEFF", "LOGG", "FE_H"), ("K", "dex", "dex")
N_PIXELS = 24
MOST_BYTES = 6e6


def generate(n, seed, n_pixels=N_PIXELS):
    stars = ss.datasets.generated_stars(
        n,
        n_pixels=n_pixels,
        snr=200,
        wavelength_range=(5150, 5300),
        rng=np.random.default_rng(seed),
    )
    return replace(stars, ids=np.array([f"S{seed}-{i}" for i in range(n)]))


def fit(stars, names=NAMES, units=UNITS, hidden=(2,)):
    sizes = [stars.n_pixels, *hidden, len(names)]
    net = ss.mlp(sizes, activation="tanh", label_names=names, label_units=units)
    grid = {"wavelength": stars.wavelength, "wavelength_unit": stars.wavelength_unit}
    net = ss.standardized(net, stars.flux, stars.labels)
    net = ss.Network(net.layers, stars.n_pixels, label_names=names, label_units=units, **grid)
    noise = 0.3 * stars.labels.std(axis=0)
    reg = ss.Regression(net, sigma_noise=noise, prior_precision=ss.scaled_prior(net, 1.0))
    theta = net.init_params(np.random.default_rng(0))
    return ss.fit_laplace(reg, theta, stars.flux, stars.labels, require_minimum=False)


@pytest.fixture(scope="module")
def training():
    return generate(60, 0)


@pytest.fixture(scope="module")
def laplace(training):
    return fit(training)


@pytest.fixture(scope="module")
def stars():
    """Stars with labels, of which some are unknown, and pixels, of which some are missing."""
    known = generate(50, 1)
    labels = known.labels.copy()
    labels[:4, 1] = np.nan
    ivar = known.ivar.copy()
    ivar[::3, 5:9] = 0
    return replace(known, labels=labels, ivar=ivar)


@pytest.fixture(scope="module")
def prediction(laplace, stars):
    return laplace.predict(stars)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, laplace, stars, training):
    """The page of all that these tests have."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, laplace, stars=stars, training=training)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def _undrawn(monkeypatch):
    leave_undrawn(monkeypatch)


@pytest.fixture(scope="module")
def audit():
    rng = np.random.default_rng(0)
    exact = rng.uniform(1, 2, (5, 3))
    return StructureAudit(
        structures=("diagonal",),
        accuracy=("approximate",),
        exact="primal",
        reason="few parameters",
        exact_sd=exact,
        exact_interval=np.stack([exact, exact], axis=2),
        ratio=rng.uniform(0.5, 0.9, (1, 5, 3)),
        distance=np.arange(5.0),
        quantile=np.array([0.1, 0.3, 0.5, 0.7, 0.99]),
        seconds=(1.0,),
        label_names=NAMES,
    )


# --- numbers


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("suffix", [".fits", ".ecsv"])
def test_numbers_of_the_page_are_those_of_the_catalogue(
    tmp_path, laplace, prediction, stars, suffix
):
    catalogue = tmp_path / f"catalogue{suffix}"
    ss.write_catalogue(catalogue, prediction, stars.ids, true_labels=stars.labels)
    write_report(tmp_path / "report.html", laplace, catalogue=catalogue)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    rows = AstropyTable.read(catalogue)
    [budget] = page.tables("Errors by their part")
    [residuals] = page.tables("Predicted less known labels")
    [listed] = page.tables("labels and total errors")
    columns = {"model": "{}_MODEL_ERR", "flux": "{}_FLUX_ERR", "noise": "{}_NOISE_ERR"}
    columns["total"] = "{}_ERR"
    assert len(budget) == len(NAMES) * len(columns)
    for row in budget:
        name = row["label"].split()[0]
        expected = np.quantile(rows[columns[row["part"]].format(name)], [0.16, 0.5, 0.84])
        np.testing.assert_allclose([row["16 %"], row["median"], row["84 %"]], expected, rtol=1e-12)
    for row, name in zip(residuals, NAMES, strict=True):
        difference = np.asarray(rows[name]) - np.asarray(rows[f"{name}_TRUE"])
        known = difference[np.isfinite(difference)]
        found = [row["known"], row["mean"], row["std"], row["RMS"]]
        expected = [known.size, known.mean(), known.std(), np.sqrt((known**2).mean())]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert [row["star"] for row in listed] == list(rows["ID"])
    np.testing.assert_array_equal([row["TEFF [K]"] for row in listed], rows["TEFF"])


def test_coverage_and_pit_are_those_of_the_prediction(whole, prediction, stars):
    table = whole.tables("Shares of known labels within their intervals")[0]
    expected = ss.coverage(prediction, stars.labels)
    np.testing.assert_allclose([row["in 68 %"] for row in table], expected[0], atol=1e-12)
    np.testing.assert_allclose([row["in 95 %"] for row in table], expected[1], atol=1e-12)
    density = np.nanmean(prediction.log_density(stars.labels), axis=0)
    scores = [row["mean log score [nats]"] for row in table]
    np.testing.assert_allclose(scores, density, rtol=1e-12)
    crps = np.nanmean(prediction.crps(stars.labels), axis=0)
    np.testing.assert_allclose([row["mean CRPS"] for row in table], crps, rtol=1e-12)
    histogram = whole.tables("Histogram of the probability integral transform")[0]
    pit = prediction.cdf(stars.labels)
    for name, values in zip(NAMES, pit.T, strict=True):
        counts = [row["stars"] for row in histogram if row["label"] == name]
        bins = np.histogram(values[np.isfinite(values)], np.linspace(0, 1, 11))
        np.testing.assert_array_equal(counts, bins[0])


def test_training_stars_are_left_out_in_turn(whole, laplace, training):
    left_out = laplace.leave_one_out(training)
    table = whole.tables("Predicted less known labels")[1]
    residuals = left_out.labels - training.labels
    np.testing.assert_allclose([row["mean"] for row in table], residuals.mean(axis=0), rtol=1e-10)
    z = residuals / left_out.errors
    [worst] = whole.tables("contradict all other stars")
    star, c = np.unravel_index(np.argmax(np.abs(z)), z.shape)
    assert worst[0]["star"] == training.ids[star]
    assert worst[0]["label"].startswith(NAMES[c])
    # half widths of 68.27 % are standard deviations to the digits of the level
    assert worst[0]["z"] == pytest.approx(z[star, c], rel=1e-6)


@pytest.mark.usefixtures("_undrawn")
def test_other_errors_of_the_labels_than_those_of_the_model_are_told(tmp_path, laplace, training):
    ss.write_laplace(tmp_path / "model.h5", laplace)
    model = ss.read_laplace(tmp_path / "model.h5")
    scatter = np.broadcast_to([50.0, 0.1, 0.1], training.labels.shape)
    words = "its errors of labels were others"
    for label_errors in (None, scatter):
        path = tmp_path / "report.html"
        stars = replace(training, label_errors=label_errors)
        write_report(path, model, training=stars, overwrite=True)
        page = Page(path.read_text(encoding="utf-8"))
        assert (words in page.text) == (label_errors is not None)


def test_the_most_influential_stars_are_those_that_move_predictions(
    whole, laplace, training, stars
):
    filled = laplace.flux_prior.complete(stars.flux, stars.ivar).flux
    moved = laplace.influence(filled, training) / laplace.predict(stars).errors[:, :, None]
    rms = np.sqrt((moved**2).mean(axis=0))
    [table] = whole.tables("that move predictions most")
    order = np.argsort(-rms.max(axis=0))[:10]
    assert [row["star"] for row in table] == list(training.ids[order])
    np.testing.assert_allclose([row["LOGG"] for row in table], rms[1, order], rtol=1e-9)


def test_flags_are_counted(whole, prediction):
    table = whole.tables("Stars with each flag")[0]
    counts = {row["flag"]: row["stars"] for row in table}
    for flag in ss.Flag:
        assert counts[flag.name] == np.count_nonzero(prediction.flags & flag)
    assert counts["none"] == np.count_nonzero(prediction.flags == 0)


def test_shares_of_pixels_make_up_the_error_of_the_flux(laplace, stars, prediction):
    chosen = {"good": 1, "with missing pixels": 3}
    found = find_derivatives(laplace, "weights", "conditional", stars, chosen)[1:]
    for one, star in zip(found, chosen.values(), strict=True):
        total = np.diagonal(prediction.flux_cov[star])
        missing = np.diagonal(prediction.missing_cov[star])
        np.testing.assert_allclose(one.missing_share, missing / total, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(one.share.sum(axis=1) + one.missing_share, 1, rtol=1e-12)
    good = laplace.respond(stars.flux[1:2]).J[0] ** 2 / stars.ivar[1]
    expected = good / np.diagonal(prediction.flux_cov[1])[:, None]
    np.testing.assert_allclose(found[0].share, expected, rtol=1e-9)


def test_windows_of_the_spectrum_hold_its_derivatives(whole, laplace):
    [table] = whole.tables("Derivatives of TEFF at the mean spectrum")
    J = ss.compile_jacobian(laplace.reg.net)(laplace.theta, laplace.flux_mean)[0]
    assert len(table) == N_PIXELS  # as few as windows
    values = [row["largest per unit of flux [K]"] for row in table]
    np.testing.assert_allclose(values, J, rtol=1e-9)
    scatter = [row["largest per training scatter [K]"] for row in table]
    np.testing.assert_allclose(scatter, J * laplace.training_space.scale, rtol=1e-9)
    assert sum(row["share of the flux error budget"] for row in table) == pytest.approx(1)
    assert "Mg b1" in {name for row in table for name in row["lines"].split(", ")}


# --- the page


def test_headings_are_in_order_and_everything_has_words(whole):
    ranks = [int(one.tag[1]) for one in whole.find("h1", "h2", "h3", "h4")]
    assert ranks[0] == 1
    assert ranks.count(1) == 1
    assert max(np.diff(ranks)) <= 1
    assert whole.find("html")[0].attributes["lang"] == "en"
    assert whole.find("title")[0].text
    assert all(len(one.attributes["alt"]) > 20 for one in whole.find("img"))
    for figure in whole.find("figure"):
        assert whole.find("table", inside=figure)
        assert whole.find("figcaption", inside=figure)
    assert len(whole.find("caption")) == len(whole.find("table"))
    names = [one.attributes["id"] for one in whole.elements if "id" in one.attributes]
    assert len(names) == len(set(names))
    links = [one.attributes["href"][1:] for one in whole.find("a")]
    assert set(links) <= set(names)


def find_loaded(page):
    """Addresses that a browser would ask for."""
    loaded = [
        one.attributes[name]
        for one in page.elements
        for name in ("src", "href", "srcset", "data", "action", "poster")
        if one.attributes.get(name)
    ]
    styles = " ".join(one.text for one in page.find("style"))
    return [address for address in loaded if not address.startswith(("#", "data:image/svg"))] + (
        re.findall(r"url\(|@import", styles)
    )


def test_nothing_is_loaded_and_no_other_script_could_run(whole):
    assert find_loaded(whole) == []
    [policy] = [
        one.attributes["content"]
        for one in whole.find("meta")
        if one.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "unsafe" not in policy.replace("style-src 'unsafe-inline'", "")


HOSTILE = ("<script>alert(1)</script>", "$\\frac{x", '"><img src=http://x.y/z onerror=alert(1)>')


def test_names_of_strangers_stay_text(tmp_path, training):
    model = fit(training, HOSTILE, ("<b>", "$", "&amp;"))
    stars = replace(
        training[:20],
        label_names=HOSTILE,
        label_units=("<b>", "$", "&amp;"),
        ids=np.array([f"</td><script>{i}" for i in range(20)]),
    )
    path = tmp_path / "report.html"
    title = "</title><script>alert(2)</script>"
    write_report(path, model, stars=stars, title=title, about={"<i>": "</table>"})
    page = Page(path.read_text(encoding="utf-8"))
    assert page.find("script") == []  # few pixels: no figure to zoom
    assert find_loaded(page) == []
    assert page.find("title")[0].text == title
    for name in HOSTILE:
        assert name in page.text
    assert "</td><script>19" in page.text
    assert not page.find("i")


@pytest.mark.usefixtures("_undrawn")
def test_words_follow_the_data(tmp_path, laplace, stars, training, audit):
    path = tmp_path / "report.html"
    chemistry = replace(stars, ids=np.array([f"grain {i}" for i in range(len(stars))]))
    named = replace(training, ids=np.array([f"grain {i}" for i in range(len(training))]))
    write_report(path, laplace, stars=chemistry, training=named, audit=audit, object_name="sample")
    page = Page(path.read_text(encoding="utf-8"))
    alts = " ".join(one.attributes.get("alt", "") for one in page.elements)
    assert re.findall(r"\bstars?\b", f"{page.text} {alts}", flags=re.IGNORECASE) == []
    assert "50 samples" in page.text
    assert "Mg b" not in page.text  # lines of stars are none of theirs
    [drawn] = [
        base64.b64decode(one.attributes["src"].partition(",")[2]).decode()
        for one in page.find("img")
        if one.attributes["alt"].startswith("Ratio of each structure")
    ]
    assert "nearest training sample" in drawn
    assert re.findall(r"\bstars?\b", drawn) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("star", Words("star", "stars")),
        ("galaxy", Words("galaxy", "galaxies")),
        ("day", Words("day", "days")),
        ("mix", Words("mix", "mixes")),
        ("ox / oxen", Words("ox", "oxen")),
    ],
)
def test_plurals_are_english_ones_or_given(name, expected):
    assert Words.of(name) == expected


@pytest.mark.usefixtures("_undrawn")
def test_what_is_missing_is_said_with_the_way_to_give_it(tmp_path, laplace):
    path = write_report(tmp_path / "report.html", laplace)
    page = Page(path.read_text(encoding="utf-8"))
    for heading in ("Error budget by label", "Residuals", "Are the error bars true?", "Flags"):
        assert heading in page.text
    for words in (
        "No stars were given",
        "symspec report MODEL SPECTRA report.html",
        "--training SPECTRA",
        "Hamiltonian Monte Carlo was not run on this model",
        "Structures were not audited",
        "Spectra were not given",
    ):
        assert words in page.text
    assert page.tables("Derivatives of TEFF")


@pytest.mark.usefixtures("_undrawn")
def test_audit_and_verdict_are_shown_where_they_are(tmp_path, laplace, audit):
    marked = replace(laplace, hmc_verdict=("agree", "Laplace too small", "agree"))
    path = write_report(tmp_path / "report.html", marked, audit=audit)
    page = Page(path.read_text(encoding="utf-8"))
    [table] = page.tables("Model error by each structure")
    assert table[0]["median"] == pytest.approx(np.median(audit.ratio[0, :4, 0]))
    assert "LOGG: Laplace too small" in page.text


def test_the_comparison_with_hmc_is_shown_with_its_verdict(tmp_path, laplace):
    rng = np.random.default_rng(0)
    f = rng.normal([5000.0, 4.0, 0.0], [50.0, 0.2, 0.1], size=(4, 60, 7, 3))
    mean = np.broadcast_to([5000.0, 4.0, 0.0], (7, 3))
    comparison = build_comparison(f, mean, np.broadcast_to([50.0, 0.1, 0.1], (7, 3)))
    path = write_report(tmp_path / "report.html", laplace, comparison=comparison)
    page = Page(path.read_text(encoding="utf-8"))
    [table] = page.tables("Medians over 7 stars")
    np.testing.assert_allclose(
        [row["ratio"] for row in table], np.median(comparison.sd_ratio, axis=0), rtol=1e-12
    )
    assert [row["verdict"] for row in table] == list(comparison.verdict)
    assert "LOGG: Laplace too small" in page.text


@pytest.mark.usefixtures("_undrawn")
def test_noise_with_wide_tails_of_another_model_is_not_taken_for_normal(
    tmp_path, laplace, prediction, stars
):
    wide = prediction.with_noise(ss.StudentTNoise([90.0, 0.2, 0.1], [2.0, 3.0, 4.0]))
    catalogue = tmp_path / "catalogue.fits"
    ss.write_catalogue(catalogue, wide, stars.ids, true_labels=stars.labels, interval=0.9)
    path = write_report(tmp_path / "report.html", laplace, catalogue=catalogue)
    page = Page(path.read_text(encoding="utf-8"))
    assert "wide tails" in page.text
    assert page.tables("Histogram of the probability") == []
    [table] = page.tables("Shares of known labels within their intervals")
    expected = ss.coverage(wide, stars.labels, [0.9])[0]
    np.testing.assert_allclose([row["in 90 %"] for row in table], expected, atol=1e-12)


@pytest.mark.usefixtures("_undrawn")
def test_noise_with_wide_tails_of_this_model_gives_every_interval(tmp_path, laplace, stars):
    noise = ss.StudentTNoise([300.0, 0.4, 0.2], [2.0, 3.0, 4.0])
    wide = replace(laplace, reg=laplace.reg.with_noise(noise))
    catalogue = tmp_path / "catalogue.fits"
    ss.predict_survey(catalogue, wide, stars, progress=False)
    path = write_report(tmp_path / "report.html", wide, catalogue=catalogue)
    page = Page(path.read_text(encoding="utf-8"))
    prediction = wide.predict(stars)
    [table] = page.tables("Shares of known labels within their intervals")
    shares = [[row["in 68 %"], row["in 95 %"]] for row in table]
    np.testing.assert_allclose(shares, ss.coverage(prediction, stars.labels).T, atol=1e-12)
    [residuals] = page.tables("Predicted less known labels")
    z = (prediction.labels - stars.labels) / prediction.half_width(0.682689492137086)
    scatter = [row["scatter of z"] for row in residuals]
    np.testing.assert_allclose(scatter, ss.sigma_mad(z), rtol=1e-9)


# --- files


def test_equal_input_gives_equal_bytes(tmp_path, audit):
    model = fit(generate(12, 3, 300), hidden=())  # as few pixels as are zoomed
    pages = [write_report(tmp_path / name, model, audit=audit) for name in ("a.html", "b.html")]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert "data-zoom" in pages[0].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A page of 7,213 pixels."""
    stars = generate(24, 2, 7213)
    path = tmp_path_factory.mktemp("large") / "report.html"
    return write_report(path, fit(stars, hidden=()), stars=stars, chosen=["S2-3"])


def test_thousands_of_pixels_can_be_zoomed_in_a_page_of_some_megabytes(large):
    assert large.stat().st_size < MOST_BYTES
    page = Page(large.read_text(encoding="utf-8"))
    zooms = [one for one in page.find("details") if "data-zoom" in one.attributes]
    assert len(zooms) == 3
    assert find_loaded(page) == []
    assert "Zoom into the derivatives of TEFF" in page.text


def test_a_page_that_cannot_be_written_is_refused_first(tmp_path, laplace, stars, training):
    with pytest.raises(OptionError, match=r"should end in \.html"):
        write_report(tmp_path / "report.pdf", laplace)
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(FileKeptError, match="which is kept"):
        write_report(path, laplace)
    assert path.read_text() == "mine"
    path = tmp_path / "other.html"
    with pytest.raises(DataError, match="of another mean spectrum"):
        write_report(path, laplace, training=training[:30])
    with pytest.raises(OptionError, match="catalogue should be given alone"):
        write_report(path, laplace, stars=stars, catalogue=path)
    with pytest.raises(OptionError, match="which none of 50 has"):
        write_report(path, laplace, stars=stars, chosen=["nobody"])
    with pytest.raises(ShapeError, match="stars should be those of the prediction"):
        write_report(path, laplace, stars=stars, prediction=laplace.predict(stars[:3]))
    other = replace(laplace.predict(stars), label_units=("kK", "dex", "dex"))
    with pytest.raises(DataError, match=r"got TEFF \[kK\], LOGG \[dex\]"):
        write_report(path, laplace, prediction=other)
    assert not path.exists()


@pytest.mark.usefixtures("_undrawn")
def test_a_catalogue_of_another_network_is_refused(tmp_path, laplace, training, stars):
    other = fit(training, hidden=(3,))
    catalogue = tmp_path / "catalogue.fits"
    ss.predict_survey(catalogue, other, stars, progress=False)
    with pytest.raises(DataError, match="of another network"):
        write_report(tmp_path / "report.html", laplace, catalogue=catalogue)


# --- in a browser


@pytest.fixture(scope="module")
def browser():
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium here")
    with Browser(path) as opened:
        yield opened


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_draws_the_page_and_asks_for_nothing(browser, large, width):
    browser.open(large, width)
    assert browser.requests == [large.as_uri()]
    images = "[...document.images]"
    assert browser.evaluate(f"{images}.length") > 3
    assert browser.evaluate(f"{images}.every(i => i.complete && i.naturalWidth > 0)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    browser.evaluate("document.querySelector('details[data-zoom]').open = true; 0")
    browser.wait_until(f"({COUNT_PIXELS})() > 1000")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.complaints == []
    assert browser.requests == [large.as_uri()]


# dark points of the canvases of the figure that can be zoomed, wherever in shadow trees they are
COUNT_PIXELS = """() => {
  const canvases = [];
  const walk = node => {
    for (const child of node.children) {
      if (child.tagName === "CANVAS") canvases.push(child);
      if (child.shadowRoot) walk(child.shadowRoot);
      walk(child);
    }
  };
  walk(document.querySelector("details[data-zoom]"));
  let dark = 0;
  for (const canvas of canvases) {
    if (!canvas.width || !canvas.height) continue;
    const drawn = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    for (let i = 0; i < drawn.length; i += 4)
      if (drawn[i + 3] > 128 && drawn[i] + drawn[i + 1] + drawn[i + 2] < 300) dark += 1;
  }
  return dark;
}"""
