"""A chemist's path: from a CSV table to cross-validated error bars, and on to new samples."""

import re

import numpy as np
import pytest
from astropy.table import Table
from html_pages import Page, leave_undrawn
from scipy.special import ndtr
from scipy.stats import norm
from test_cli import run

from symspec.errors import OptionError
from symspec.files.archives import read_laplace
from symspec.fitting.fit import FitOptions, fit_network
from symspec.spectra.readers.read import read_spectra

N_SAMPLES, N_REPEATS, N_PIXELS = 24, 2, 20
READ = ("--read", "wavelength_unit=nm")
WORDS = (*READ, "--hidden", 2, "--epochs", 30, "--no-tune", "--preprocess", "snv,savgol:5:2:1")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Absorbances with scatter, semicolons, decimal commas, repeats, a missing value."""
    rng = np.random.default_rng(3)
    grid = 1100 + 10 * np.arange(N_PIXELS)
    amount = rng.uniform(0.5, 1.5, N_SAMPLES)
    band = np.exp(-(((grid - 1230) / 25) ** 2))
    starch = np.exp(-(((grid - 1140) / 25) ** 2))  # the same in all, by which scatter is told
    lines = ["Instrument;NIR 5;", f"Sample;Date;Protein;{';'.join(map(str, grid))}"]
    for i in np.repeat(np.arange(N_SAMPLES), N_REPEATS):
        flux = starch + amount[i] * band + 0.003 * rng.normal(size=N_PIXELS)
        flux = rng.uniform(0.8, 1.2) * (0.5 + flux)
        protein = "NA" if i == 5 else f"{10 * amount[i]:.3f}"
        cells = [f"S{i}", "12.03.2021", protein, *(f"{f:.5f}" for f in flux)]
        lines.append(";".join(cells).replace("12.03.2021", "12-03-2021").replace(".", ","))
    path = tmp_path_factory.mktemp("chemist") / "grain.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.filterwarnings("ignore::symspec.UnusedDataWarning")
def test_one_command_gives_cross_validated_error_bars(table, tmp_path, monkeypatch):
    leave_undrawn(monkeypatch)
    catalogue = tmp_path / "held_out.ecsv"
    report = tmp_path / "page.html"
    said = run(
        "validate", table, catalogue, *WORDS, "--folds", 2, "--group", "Sample", "--workers", 1,
        "--report", report, "--object-name", "sample",
    )  # fmt: skip
    assert "46 spectra of 23 samples, each predicted while held out" in said.stdout
    words = ("RMSE", "bias", "R2", "RPD", "in 68 %", "in 95 %", "Certificate of each fold")
    for word in words:
        assert word in said.stdout
    rows = Table.read(catalogue)
    stars = read_spectra(table, group="Sample", wavelength_unit="nm")
    known = ~np.isnan(stars.labels[:, 0])
    assert list(rows["ID"]) == list(stars.ids[known])
    truth = stars.labels[known, 0]
    residuals = np.asarray(rows["PROTEIN"]) - truth
    # three times the scatter that the noise of the bands leaves; the labels' spread is 3
    assert np.sqrt(np.mean(residuals**2)) < 1.0
    assert f"{np.sqrt(np.mean(residuals**2)):.3g}" in said.stdout
    errors = np.asarray(rows["PROTEIN_ERR"])
    assert (errors > 0).all()
    z = residuals / errors
    crps = errors * (z * (2 * ndtr(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    score = norm.logpdf(residuals, scale=errors).mean()
    assert f"{crps.mean():.3g} {score:.3f}" in said.stdout
    check_page(Page(report.read_text()), residuals, crps.mean(), score)


def check_page(page, residuals, crps, score):
    [[row]] = page.tables("Predicted less known labels")
    np.testing.assert_allclose(row["RMS"], np.sqrt(np.mean(residuals**2)), rtol=1e-12)
    [[row]] = page.tables("Shares of known labels within their intervals")
    found = [row["mean log score [nats]"], row["mean CRPS"]]
    np.testing.assert_allclose(found, [score, crps], rtol=1e-10)
    [folds] = page.tables("Certificate and noise of each fold")
    assert [row["fold"] for row in folds] == ["1", "2"]
    [layers] = page.tables("Layers of each")
    assert "snv" in layers[0]["layer"]
    assert "half widths" not in page.text
    assert "46 samples, of 23 groups which were never parted, were divided" in page.text


@pytest.mark.filterwarnings("ignore::symspec.UnusedDataWarning")
def test_a_model_of_the_table_predicts_with_its_preprocessing(table, tmp_path):
    model = tmp_path / "model.h5"
    run("train", table, model, *WORDS, "--group", "Sample")
    kinds = [layer.kind for layer in read_laplace(model).reg.net.layers]
    assert kinds[:3] == ["snv", "savitzkygolay", "standardize"]
    run("errors", model, table, tmp_path / "out.ecsv", *READ)
    assert len(Table.read(tmp_path / "out.ecsv")) == N_SAMPLES * N_REPEATS


@pytest.mark.filterwarnings("ignore::symspec.UnusedDataWarning")
def test_who_trains_the_folds_may_be_said(table, tmp_path):
    said = run("validate", table, tmp_path / "out.ecsv", *WORDS, "--scheduler", "node1", code=1)
    assert re.search(r"scheduler should be None .* got 'node1'", said.stderr)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--preprocess", "snw"), "preprocessing should be absorbance, .* got 'snw'"),
        (("--group", "Sack", *READ), "should have a column 'Sack', got Sample, Date, Protein"),
        (("--structure", "kroneker"), "did you mean 'kronecker'"),
        ((), "should say the unit of its wavelengths, got numbers from 1100 to 1290"),
    ],
)
def test_mistakes_are_told_before_any_work(table, tmp_path, words, message):
    said = run("validate", table, tmp_path / "out.ecsv", *words, code=1)
    assert re.search(message, said.stderr)
    assert not (tmp_path / "out.ecsv").exists()


@pytest.mark.parametrize(
    ("noise", "kind"),
    [("gaussian", "gaussian"), ("student-t", "student_t"), ("predicted", "predicted")],
)
@pytest.mark.filterwarnings("ignore::symspec.UnusedDataWarning")
def test_folds_are_trained_with_the_noise_that_is_asked_for(table, noise, kind, monkeypatch):
    asked = {}

    def validate(stars, **options):
        asked.update(options, stars=stars)
        raise OptionError("enough")

    monkeypatch.setattr("symspec.cli.commands.validate.cross_validate", validate)
    run("validate", table, *WORDS, "--group", "Sample", "--noise", noise, code=1)
    stars = asked["stars"]
    options = {name: asked[name] for name in asked if name in FitOptions.__dataclass_fields__}
    monkeypatch.setattr("symspec.fitting.fit.run_adam", lambda *_, **__: None)
    monkeypatch.setattr("symspec.fitting.fit.finish", lambda reg, *_, **__: reg)
    assert fit_network(stars, FitOptions(**options)).noise.kind == kind
