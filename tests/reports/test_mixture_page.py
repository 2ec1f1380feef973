"""The page on several networks: what is within them and between, and each of them by itself."""

import numpy as np
import pytest
from html_pages import Page, leave_undrawn

import symspec as ss
from symspec.mixtures.identity import hash_model
from symspec.reports.pages import write_report
from symspec.reports.pages.figures.derivatives import find_derivatives

N_PIXELS = 10
WEIGHTS = np.array([0.3, 0.7])


def generate(n, seed):
    return ss.datasets.generated_stars(
        n, n_pixels=N_PIXELS, snr=200, wavelength_range=(5150, 5300),
        rng=np.random.default_rng(seed),
    )  # fmt: skip


@pytest.fixture(scope="module")
def training():
    return generate(40, 0)


@pytest.fixture(scope="module")
def stars():
    return generate(12, 1)


@pytest.fixture(scope="module")
def combined(training):
    names = {"label_names": training.label_names, "label_units": training.label_units}
    net = ss.standardized(
        ss.mlp([N_PIXELS, 2, 3], activation="tanh", **names), training.flux, training.labels
    )
    noise = 0.3 * training.labels.std(axis=0)
    reg = ss.Regression(net, sigma_noise=noise, prior_precision=ss.scaled_prior(net, 1.0))
    thetas = [net.init_params(np.random.default_rng(seed)) for seed in range(2)]
    options = {"require_minimum": False, "progress": False}
    return ss.combine(
        [ss.fit_laplace(reg, t, training, **options) for t in thetas], weights=WEIGHTS
    )


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    leave_undrawn(monkeypatch)


@pytest.fixture(scope="module")
def prediction(combined, stars):
    return combined.predict(stars, progress=False)


def read(path):
    return Page(path.read_text(encoding="utf-8"))


def test_within_and_between_are_kept_apart_and_intervals_are_the_mixtures(
    tmp_path, combined, stars, prediction
):
    page = read(write_report(tmp_path / "page.html", combined, stars=stars))
    assert "A mixture of 2 networks takes a spectrum of 10 pixels" in page.text
    assert "Labels are the mean of those of the networks at their weights" in page.text
    [budget] = page.tables("New stars: median errors")
    parts = [one.model_cov for one in prediction.parts]
    within = np.sqrt(np.einsum("k,kncc->nc", WEIGHTS, parts))
    between = np.sqrt(np.einsum("ncc->nc", prediction.between_cov))
    for c, row in enumerate(budget):
        assert row["within"] == pytest.approx(np.median(within[:, c]), rel=1e-9)
        assert row["between"] == pytest.approx(np.median(between[:, c]), rel=1e-9)
        assert row["total"] == pytest.approx(np.median(prediction.errors[:, c]), rel=1e-9)
        covered = [row["in 68 %"], row["in 95 %"]]
        np.testing.assert_allclose(covered, ss.coverage(prediction, stars.labels)[:, c])
    [shares] = page.tables("Errors by their part")
    for label in ("TEFF [K]", "LOGG [dex]", "FE_H [dex]"):
        own = {row["part"]: row["share of the variance"] for row in shares if row["label"] == label}
        assert sum(own.values()) - own["total"] == pytest.approx(1, abs=1e-9)


def test_each_network_has_its_certificate_noise_and_share(tmp_path, combined):
    page = read(write_report(tmp_path / "page.html", combined))
    [listed] = page.tables("Networks")
    assert [row["share"] for row in listed] == pytest.approx(WEIGHTS)
    evidence = [one.log_marginal_likelihood() for one in combined.posteriors]
    assert [row["evidence"] for row in listed] == pytest.approx(evidence)
    for one in combined.posteriors:
        assert one.certificate.message in page.text
    headings = [heading.text for heading in page.find("h3")]
    # layers, noise, certificate, checks
    assert (headings.count("Network 1"), headings.count("Network 2")) == (4, 4)
    assert hash_model(combined) in page.text
    assert "'symspec audit MODEL TRAINING --network 1" in page.text


def test_derivatives_are_those_of_the_mean_label(tmp_path, combined, stars):
    page = read(write_report(tmp_path / "page.html", combined))
    [table] = page.tables("Derivatives of TEFF at the mean spectrum")
    jacobian = ss.compile_jacobian(combined.net)
    one, other = combined.posteriors
    mean = 0.3 * jacobian(one.theta, one.flux_mean) + 0.7 * jacobian(other.theta, one.flux_mean)
    values = [row["largest per unit of flux [K]"] for row in table]
    np.testing.assert_allclose(values, mean[0], rtol=1e-9)


def test_shares_of_the_flux_error_budget_are_those_of_its_variance(combined, stars, prediction):
    found = find_derivatives(combined, "weights", "conditional", stars, {"chosen": 3})
    assert [one.name for one in found] == ["mean spectrum", "chosen"]
    jacobian = ss.compile_jacobian(combined.net)
    J = np.array([jacobian(one.theta, stars.flux[3]) for one in combined.posteriors])
    np.testing.assert_allclose(found[1].jacobian, np.tensordot(WEIGHTS, J, 1), rtol=1e-9)
    variances = np.tensordot(WEIGHTS, J**2 / stars.ivar[3], 1)
    of_flux = np.diagonal(prediction.flux_cov[3])
    np.testing.assert_allclose(found[1].share, variances / of_flux[:, None], rtol=1e-9)


def test_a_catalogue_gives_the_same_numbers_without_intervals_that_it_has_not(
    tmp_path, combined, stars, prediction
):
    catalogue = tmp_path / "out.fits"
    ss.predict_survey(catalogue, combined, stars, interval=0.9, progress=False)
    page = read(write_report(tmp_path / "page.html", combined, catalogue=catalogue))
    assert "The catalogue is of this model" in page.text
    assert "or several networks are mixed" in page.text
    [budget] = page.tables("Stars of the catalogue: median errors")
    for c, row in enumerate(budget):
        between = np.median(np.sqrt(prediction.between_cov[:, c, c]))
        assert row["between"] == pytest.approx(between, rel=1e-9)
        expected = ss.coverage(prediction, stars.labels, [0.9])[0, c]
        assert row["in 90 %"] == pytest.approx(expected)
    assert page.tables("Histogram of the probability") == []
    one = combined.posteriors[0]
    with pytest.raises(ss.DataError, match="one of another network"):
        write_report(tmp_path / "other.html", one, catalogue=catalogue)


def test_training_stars_are_left_out_of_every_network(tmp_path, combined, training):
    page = read(write_report(tmp_path / "page.html", combined, training=training))
    left_out = combined.leave_one_out()
    [budget] = page.tables("Training stars, each left out in turn: median errors")
    scatter = ss.sigma_mad(left_out.labels - training.labels)
    np.testing.assert_allclose([row["scatter"] for row in budget], scatter, rtol=1e-9)
    [moved] = page.tables("Training stars that move predictions most")
    influence = combined.influence(training.flux)
    errors = combined.predict(training, progress=False).errors
    rms = np.sqrt(np.mean((influence / errors[:, :, None]) ** 2, axis=0))
    assert moved[0]["TEFF"] == pytest.approx(rms[0, rms.max(axis=0).argmax()], rel=1e-9)


def test_checks_of_one_network_are_refused(tmp_path, combined):
    with pytest.raises(ss.OptionError, match="audit is of one network, and laplace a mixture of 2"):
        write_report(tmp_path / "page.html", combined, audit=object())
