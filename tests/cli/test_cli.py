"""The command line as a user meets it: from spectra to a catalogue, and clear failures."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import xarray as xr
from astropy.table import Table
from typer.testing import CliRunner

import symspec
from symspec.cli import app
from symspec.derivatives.compiled import compile_jacobian, compile_outputs
from symspec.files.archives import read_laplace, read_network, read_regression, write_network
from symspec.fitting.start import build_start
from symspec.laplace.certificate import Certificate
from symspec.networks.regression import Regression
from symspec.spectra import datasets
from symspec.spectra.readers.read import read_spectra
from symspec.training.steps.stationary_points import LowestCurvature
from symspec.validation.audit import AUDITED, audit_structures

N_STARS, N_PIXELS = 60, 50
COMMANDS = tuple(
    command.name or command.callback.__name__ for command in app.app.registered_commands
)


def run(*words, code=0):
    """Run a command without colours; give its standard output and error, on one line each."""
    plain = {"COLUMNS": "200", "NO_COLOR": "1"}
    result = CliRunner().invoke(app.app, [str(word) for word in words], env=plain)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return SimpleNamespace(
        **{name: " ".join(getattr(result, name).split()) for name in ("stdout", "stderr")}
    )


def write_stars(path, stars, **replaced):
    arrays = {name: getattr(stars, name) for name in ("flux", "ivar", "wavelength", "labels")}
    names = ("label_names", "label_units", "ids")
    words = {name: [str(word) for word in getattr(stars, name)] for name in names}
    with h5py.File(path, "w") as file:
        for name, values in (arrays | words | replaced).items():
            if values is not None:
                file[name] = values
    return path


@pytest.fixture(scope="module")
def stars():
    return datasets.generated_stars(
        N_STARS, n_pixels=N_PIXELS, rng=np.random.default_rng(0), snr=50.0
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory, stars):
    """Folder with spectra, one pixel of which is bad in every star, and a model trained on them."""
    folder = tmp_path_factory.mktemp("cli")
    flux, ivar = np.array(stars.flux), np.array(stars.ivar)
    flux[2, 5] = flux[:, 9] = np.nan
    ivar[~np.isfinite(flux)] = 0
    labels = np.array(stars.labels)
    labels[4, 1] = np.nan
    write_stars(folder / "stars.h5", stars, flux=flux, ivar=ivar, labels=labels)
    words = ("--hidden", 3, "--epochs", 3, "--no-tune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("symspec.safety.progress.SECONDS_BEFORE", 0.0)
        said = run("train", folder / "stars.h5", folder / "model.h5", *words)
    files = {"stars": folder / "stars.h5", "model": folder / "model.h5"}
    return SimpleNamespace(folder=folder, said=said, ivar=ivar, **files)


# --- the way through


def test_train_tells_its_certificate_and_tests_itself_on_stars_set_aside(work):
    certificate = read_laplace(work.model).certificate
    assert (
        f"Certificate: the weights are {' '.join(certificate.message.split())}" in work.said.stdout
    )
    assert "6 stars that were not trained on" in work.said.stdout
    assert "sigma_MAD" in work.said.stdout
    assert "162/162" in work.said.stderr  # three epochs of 54 stars
    assert "epoch 3" in work.said.stderr


def test_train_without_tuning_keeps_the_noise_that_it_starts_from(work, tmp_path):
    spread = np.nanstd(read_labels(work.stars), axis=0)
    # 54 of the 60 stars: the spread of 90 % of them differs by its standard error, about 10 %
    np.testing.assert_allclose(read_laplace(work.model).reg.sigma_noise, 0.3 * spread, rtol=0.15)
    noise = ("--sigma-noise", 80, "--sigma-noise", 0.2, "--sigma-noise", 0.2)
    words = ("--hidden", 2, "--epochs", 1, "--no-tune", "--validation", 0)
    said = run("train", work.stars, tmp_path / "m.h5", *words, *noise)
    np.testing.assert_allclose(
        read_laplace(tmp_path / "m.h5").reg.sigma_noise, [80, 0.2, 0.2], rtol=1e-14
    )
    assert "not trained on" not in said.stdout


def test_train_takes_noise_with_tails_and_the_errors_of_the_labels(work, tmp_path, stars):
    rng = np.random.default_rng(0)
    errors = rng.uniform(0.5, 2, size=(60, 3)) * [50.0, 0.1, 0.1]
    path = tmp_path / "stars.npz"
    columns = {f"{name}_ERR": errors[:, i] for i, name in enumerate(stars.label_names)}
    labels = {name: stars.labels[:, i] for i, name in enumerate(stars.label_names)}
    np.savez(path, flux=stars.flux, **labels, **columns)
    median = ", ".join(f"{e:.4g}" for e in np.median(errors, axis=0))
    assert f"errors of the labels: median {median}" in run("info", path).stdout
    words = ("--hidden", 2, "--epochs", 1, "--no-tune", "--validation", 0)
    scales = [word for scale in (10, 0.1, 0.1) for word in ("--sigma-noise", scale)]
    tails = ("--noise", "student-t", "--dof", 5, *scales)
    said = run("train", path, tmp_path / "m.h5", *words, *tails)
    text = "Student's t with 5 degrees of freedom, scale 10, 0.1, 0.1"
    assert f"Noise of the labels: {text}" in said.stdout
    laplace = read_laplace(tmp_path / "m.h5")
    assert laplace.reg.noise.describe() == text
    run("train", path, tmp_path / "plain.h5", *words, *tails, "--label-errors", "none")
    plain = read_laplace(tmp_path / "plain.h5")
    columns.pop("FE_H_ERR")
    partly = tmp_path / "partly.npz"
    np.savez(partly, flux=stars.flux, **labels, **columns)
    assert "known where the label is" in run("info", partly, code=1).stderr
    said = run("info", partly, "--read", "missing_label_error=infer").stdout
    assert f"median {median.rpartition(', ')[0]}, none" in said
    assert "errors of" not in run("info", partly, "--read", "label_errors=none").stdout
    with_errors, without = (
        lap.label_covariance(stars.flux[:5])[:, 0, 0] for lap in (laplace, plain)
    )
    assert (with_errors > 2 * without).all()  # labels known to 50 K tell less than to 10 K
    refused = {
        ("--noise", "normal"): "'gaussian', 'student-t', 'predicted', got 'normal'",
        ("--label-errors", "yes"): "'auto', 'none', got 'yes'",
        ("--noise", "student-t", "--dof", 0): "dof should be finite and positive",
    }
    for options, reason in refused.items():
        assert reason in run("train", path, tmp_path / "no.h5", *options, code=1).stderr


def test_a_network_that_predicts_the_noise_says_so(work, tmp_path):
    stars = read_spectra(work.stars)
    reg = build_start(stars, [2], "tanh", predicts_noise=True)
    assert reg.net.n_outputs == 2 * reg.net.n_labels
    theta = 0.1 * reg.net.init_params(np.random.default_rng(0))
    laplace = symspec.fit_laplace(reg, theta, stars, require_minimum=False, progress=False)
    symspec.write_laplace(tmp_path / "m.h5", laplace)
    said = run("info", tmp_path / "m.h5").stdout
    assert "Noise of the labels: normal, sigma predicted by the network" in said
    assert "by star" in said
    run("errors", tmp_path / "m.h5", work.stars, tmp_path / "out.fits")
    assert "sigma predicted" in Table.read(tmp_path / "out.fits").meta["NOISE"]
    # where the weights are zero, sigma is 0.3 of the labels' spread
    outputs = compile_outputs(reg.net)(0 * theta, np.ones(reg.net.n_pixels))
    assert np.allclose(np.exp(outputs[3:]), 0.3 * np.nanstd(stars.labels, axis=0))
    words = ("--noise", "predicted", "--sigma-noise", 1, "--sigma-noise", 2)
    said = run("train", work.stars, tmp_path / "n.h5", *words, code=1)
    assert "sigma_noise should be a number or have shape (3,)" in " ".join(said.stderr.split())


def test_train_keeps_the_structure_asked_for(work, tmp_path):
    words = (
        "--hidden",
        2,
        "--epochs",
        1,
        "--no-tune",
        "--validation",
        0,
        "--structure",
        "kronecker",
    )
    run("train", work.stars, tmp_path / "m.h5", *words)
    assert read_laplace(tmp_path / "m.h5").structure == "kronecker"


def test_train_refuses_what_it_could_not_tune_or_does_not_know_before_it_trains(work, tmp_path):
    said = run("train", work.stars, tmp_path / "m.h5", "--memory", "1KB", code=1)
    assert "tuning takes an exact inverse Hessian, which should fit in 1KB" in " ".join(
        said.stderr.split()
    )
    said = run("train", work.stars, tmp_path / "m.h5", "--structure", "kroneker", code=1)
    assert "did you mean 'kronecker'?" in " ".join(said.stderr.split())
    assert "epoch" not in said.stderr


def read_labels(path):
    with h5py.File(path) as file:
        return file["labels"][()]


def test_train_tunes_by_default_and_warns_of_what_is_not_at_a_minimum(work, tmp_path, monkeypatch):
    def tune(reg, theta, stars, **_):
        tuned = Regression(
            reg.net, sigma_noise=2 * reg.sigma_noise, prior_precision=reg.prior_precision
        )
        return tuned, theta + 0.1  # not at its minimum

    monkeypatch.setattr("symspec.fitting.fit.tune_by_evidence", tune)
    words = ("--hidden", 2, "--epochs", 1, "--label", "FE_H", "--validation", 0)
    said = run("train", work.stars, tmp_path / "m.h5", *words)
    laplace = read_laplace(tmp_path / "m.h5")
    assert laplace.reg.net.label_names == ("FE_H",)
    spread = np.std(read_labels(work.stars)[:, 2])
    np.testing.assert_allclose(
        laplace.reg.sigma_noise, 2 * 0.3 * spread, rtol=1e-12
    )  # the same sums
    assert "Certificate: the weights are not at a minimum" in said.stdout


def test_the_same_seed_gives_the_same_model(work, tmp_path):
    words = ("--hidden", 3, "--epochs", 3, "--no-tune")
    run("train", work.stars, tmp_path / "again.h5", *words)
    run("train", work.stars, tmp_path / "other.h5", *words, "--seed", 1)
    theta = read_laplace(work.model).theta
    np.testing.assert_array_equal(read_laplace(tmp_path / "again.h5").theta, theta)
    assert not np.allclose(read_laplace(tmp_path / "other.h5").theta, theta)


@pytest.mark.parametrize("suffix", [".fits", ".ecsv"])
def test_errors_writes_the_predictions_of_the_model(work, tmp_path, suffix, stars):
    from astropy.io import fits
    from astropy.table import Table

    path = tmp_path / f"catalogue{suffix}"
    said = run("errors", work.model, work.stars, path)
    laplace = read_laplace(work.model)
    flux = np.where(work.ivar > 0, stars.flux, np.nan)
    expected = laplace.predict(flux, ivar=work.ivar)
    table = fits.getdata(path, 1) if suffix == ".fits" else Table.read(path)
    for c, name in enumerate(("TEFF", "LOGG", "FE_H")):
        # ECSV writes decimal digits
        np.testing.assert_allclose(table[name], expected.labels[:, c], rtol=1e-12)
        np.testing.assert_allclose(table[f"{name}_ERR"], expected.errors[:, c], rtol=1e-12)
        np.testing.assert_allclose(table[f"{name}_LO"], expected.interval(0.68)[:, c, 0])
    np.testing.assert_array_equal(table["N_BAD_PIXELS"], (work.ivar == 0).sum(axis=1))
    assert f"generated_0 {expected.labels[0, 0]:.0f} ± {expected.errors[0, 0]:.0f} " in said.stdout
    assert "60 of 60 BAD_PIXELS: pixels without information" in said.stdout
    assert f"Wrote catalogue: {path}" in said.stdout


def test_errors_takes_limits_of_flags_a_dialect_and_stars_to_calibrate_on(work, tmp_path, stars):
    words = (
        "--min-snr",
        1000,
        "--edge",
        0,
        "--max-distance",
        "inf",
        "--max-bad-fraction",
        0.01,
        "--dialect",
        "lower",
        "--interval",
        0.9,
    )
    said = run(
        "errors", work.model, work.stars, tmp_path / "c.nc", *words, "--calibrate-on", work.stars
    )
    laplace = read_laplace(work.model)
    expected = laplace.predict(np.where(work.ivar > 0, stars.flux, np.nan), ivar=work.ivar)
    with xr.open_dataset(tmp_path / "c.nc", engine="h5netcdf") as catalogue:
        limits = [catalogue.attrs[key] for key in ("MINSNR", "EDGE", "MAXDIST", "MAXBAD")]
        assert limits == [1000, 0, np.inf, 0.01]
        flags = catalogue["flags"].values
        assert (flags & 256).all()  # low signal-to-noise
        assert (flags & 128).all()  # one pixel of 50 is bad in every star
        assert not (flags & (64 | 512)).any()  # near the edge, unlike the training spectra
        np.testing.assert_allclose(catalogue["e_teff"], expected.errors[:, 0], rtol=1e-9)
        assert catalogue.attrs["INTERVAL"] == 0.9
        np.testing.assert_allclose(catalogue["teff_hi"], expected.interval(0.9)[:, 0, 1])
        np.testing.assert_allclose(catalogue["snr"], expected.snr, rtol=1e-12)
        factor = catalogue.attrs["CAL1"]
        np.testing.assert_allclose(
            catalogue["e_teff_cal"], factor * catalogue["e_teff"], rtol=1e-14
        )
        residuals = (read_labels(work.stars) - expected.labels) / expected.errors
        middle = np.nanmedian(residuals, axis=0)
        np.testing.assert_allclose(
            factor, 1.4826 * np.nanmedian(np.abs(residuals - middle), axis=0)[0], rtol=1e-7
        )
        assert catalogue.attrs["CALFROM"].startswith(
            "stars.h5: robust scatter of 60, 59, 60 residuals"
        )
    assert f"Calibrated errors are the total ones times: TEFF {factor:.3g}, LOGG" in said.stdout
    assert "60 of 60 LOW_SNR" in said.stdout
    assert (
        "min_snr should be a number of at least 0"
        in run("errors", work.model, work.stars, tmp_path / "d.nc", "--min-snr", -1, code=1).stderr
    )


def test_errors_are_around_the_centre_that_is_asked_for(work, tmp_path):
    words = ("--center", "linearized", "--max-newton-shift", 0.25)
    run("errors", work.model, work.stars, tmp_path / "c.ecsv", *words)
    stars = read_spectra(work.stars)
    expected = read_laplace(work.model).predict(stars, center="linearized")
    table = Table.read(tmp_path / "c.ecsv", format="ascii.ecsv")
    assert "linearised" in table.meta["CENTER"]
    assert table.meta["MAXSHIFT"] == 0.25
    np.testing.assert_allclose(table["TEFF"], expected.labels[:, 0], rtol=1e-9)
    np.testing.assert_allclose(table["TEFF_NEWTON_SHIFT"], expected.newton_shift[:, 0], rtol=1e-6)


def test_errors_says_that_errors_of_the_flux_are_missing(work, tmp_path, stars):
    unlabelled = dict.fromkeys(("labels", "label_names", "label_units"))
    path = write_stars(tmp_path / "plain.h5", stars, ivar=None, **unlabelled)
    said = run("errors", work.model, path, tmp_path / "c.fits")
    assert "no uncertainties of the flux: errors are those of model and noise only" in said.stdout
    assert "sigma_MAD" not in said.stdout


def test_audit_tells_every_structure_on_some_of_the_training_stars(work, tmp_path):
    path, figure = tmp_path / "audit.ecsv", tmp_path / "audit.png"
    words = ("--n-sample", 7, "--output", path, "--plot", figure)
    said = run("audit", work.model, work.stars, *words)
    assert all(name in said.stdout for name in AUDITED)
    assert "inside (7 stars)" in said.stdout
    assert "All these stars were trained on" in said.stdout
    assert f"Wrote audit: {path}" in said.stdout
    table = Table.read(path, format="ascii.ecsv")
    assert len(table) == 7
    assert all(str(name).startswith("generated_") for name in table["ID"])
    assert (table["DISTANCE"] == 0).all()
    assert (table["TEFF_DUAL_SUBSET"] >= 1 - 1e-9).all()
    assert figure.read_bytes().startswith(b"\x89PNG")
    run("audit", work.model, work.stars, *words, code=1)
    run("audit", work.model, work.stars, *words, "--overwrite")


def test_audit_compares_on_the_stars_given(work, tmp_path, stars):
    unlabelled = dict.fromkeys(("labels", "label_names", "label_units", "ivar"))
    sample = write_stars(
        tmp_path / "far.h5", stars, flux=stars.flux + 3 * (stars.flux - 1), **unlabelled
    )
    words = (
        "--sample",
        sample,
        "--structure",
        "diagonal",
        "--structure",
        "last_layer",
        "--output",
        tmp_path / "a.csv",
    )
    said = run("audit", work.model, work.stars, *words)
    assert "kronecker" not in said.stdout
    assert "trained on" not in said.stdout
    reg, theta = read_regression(work.model)
    X = np.where(work.ivar > 0, stars.flux, np.nan)
    X = np.where(
        work.ivar > 0, X, np.nan_to_num(X).sum(axis=0) / np.maximum((work.ivar > 0).sum(axis=0), 1)
    )
    far = stars.flux + 3 * (stars.flux - 1)
    expected = audit_structures(
        reg, theta, X, read_labels(work.stars), far, structures=["diagonal", "last_layer"]
    )
    table = Table.read(tmp_path / "a.csv", format="ascii.csv")
    # decimal digits, and sums in another order
    np.testing.assert_allclose(table["LOGG_LAST_LAYER"], expected.ratio[1, :, 1], rtol=1e-9)
    np.testing.assert_allclose(table["TEFF_EXACT"], expected.exact_sd[:, 0], rtol=1e-9)
    np.testing.assert_allclose(table["QUANTILE"], expected.quantile, rtol=1e-12)


@pytest.mark.usefixtures("numba_cache")
def test_hmc_compares_draws_writes_and_marks(work, tmp_path):
    path, table, figures, marked = (
        tmp_path / name for name in ("draws.nc", "table.ecsv", "figures", "marked.h5")
    )
    counts = ("--draws", 30, "--tune", 20, "--chains", 2, "--n-check", 4)
    words = (*counts, "--table", table, "--plots", figures, "--checked-model", marked)
    said = run("hmc", work.model, work.stars, path, *words)
    assert "HMC against Laplace, 4 stars; all weights" in said.stdout
    assert "HMC not converged" in said.stdout  # of 30 draws nobody could say more
    assert "Agree: median sd ratio within 10% of 1" in said.stdout
    with xr.open_datatree(path, engine="h5netcdf") as draws:
        assert draws["posterior"]["f"].shape == (2, 30, 4, 3)
        assert draws.attrs["fill"] == "missing pixels hold their mean given the good ones"
    rows = Table.read(table, format="ascii.ecsv")
    assert all(str(name).startswith("generated_") for name in rows["ID"])
    for name in ("intervals", "densities", "traces"):
        assert (figures / f"hmc_{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "Hamiltonian Monte Carlo, TEFF: HMC not converged" in run("info", marked).stdout
    assert f"{path} should not exist yet" in run("hmc", work.model, work.stars, path, code=1).stderr


@pytest.mark.parametrize(
    ("words", "fill", "flux"),
    [
        ((), "mean given the good ones", "derivatives"),
        (("--fill", "mean", "--flux-errors", "sampled"), "training mean", "draws"),
    ],
    ids=["as-by-default", "as-asked"],
)
def test_errors_says_how_missing_pixels_are_filled_and_flux_errors_propagated(
    work, tmp_path, stars, words, fill, flux
):
    run("errors", work.model, work.stars, tmp_path / "c.ecsv", *words)
    table = Table.read(tmp_path / "c.ecsv")
    assert fill in table.meta["FILL"]
    assert flux in table.meta["FLUXPROP"]
    asked = {"fill": "mean", "flux": "sampled"} if words else {}
    flux_seen = np.where(work.ivar > 0, stars.flux, np.nan)
    expected = read_laplace(work.model).predict(flux_seen, ivar=work.ivar, **asked)
    np.testing.assert_allclose(table["TEFF"], expected.labels[:, 0], rtol=1e-9)
    np.testing.assert_allclose(
        table["TEFF_FLUX_ERR"], np.sqrt(expected.flux_cov[:, 0, 0]), rtol=1e-6
    )


def test_hmc_wants_the_stars_that_the_model_was_trained_on(work, tmp_path, stars):
    others = write_stars(tmp_path / "others.h5", stars[10:])
    said = run("hmc", work.model, others, tmp_path / "draws.nc", code=1)
    assert (
        "should be those that the model was trained on, got 50 stars of another mean spectrum"
        in said.stderr
    )
    assert not (tmp_path / "draws.nc").exists()


def test_jacobian_is_that_of_the_compiled_function_and_is_plotted(
    work, tmp_path, monkeypatch, stars
):
    monkeypatch.setattr(
        "symspec.files.partial_runs.PIECE_BYTES", 16 * 8 * 3 * N_PIXELS
    )  # pieces of 16 stars
    monkeypatch.setattr("symspec.safety.progress.SECONDS_BEFORE", 0.0)
    path, figure = tmp_path / "jacobian.h5", tmp_path / "figure.png"
    said = run("jacobian", work.model, work.stars, path, "--plot", figure)
    net, theta = read_network(work.model)
    laplace = read_laplace(work.model)
    filled = laplace.flux_prior.complete(stars.flux, work.ivar).flux
    with h5py.File(path) as file:
        assert file.attrs["fill"] == "missing pixels hold their mean given the good ones"
        expected = compile_jacobian(net)(theta, filled)
        # the order of sums in a product of matrices may change with the number of rows
        np.testing.assert_allclose(file["jacobian"][()], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(file["wavelength"][()], stars.wavelength)
        np.testing.assert_array_equal(file["bad_pixel"][()], work.ivar == 0)
        assert file["ids"].asstr()[3] == "generated_3"
        assert list(file["label_units"].asstr()) == ["K", "dex", "dex"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert f"Wrote figure: {figure}" in said.stdout
    assert "differentiating" in said.stderr
    assert "60/60" in said.stderr


def test_jacobian_takes_a_network_without_error_bars_and_writes_float32(work, tmp_path):
    net, theta = read_network(work.model)
    write_network(tmp_path / "net.h5", net, theta)
    run("jacobian", tmp_path / "net.h5", work.stars, tmp_path / "j.h5", "--dtype", "float32")
    words = ("--fill", "conditional", "--overwrite")
    said = run("jacobian", tmp_path / "net.h5", work.stars, tmp_path / "j.h5", *words, code=1)
    assert 'fill="conditional" needs what training spectra tell' in said.stderr
    with h5py.File(tmp_path / "j.h5") as file:
        assert file.attrs["fill"] == "missing pixels hold the training mean"
        assert file["jacobian"].dtype == np.float32
        assert file["jacobian"].shape == (N_STARS, 3, N_PIXELS)


def test_info_tells_models_networks_and_spectra_apart(work, tmp_path):
    model = run("info", work.model).stdout
    assert "a network with error bars" in model
    assert "kernel 50 x 3, bias 3" in model
    assert "Certificate: the weights are" in model
    net, theta = read_network(work.model)
    write_network(tmp_path / "net.h5", net, theta)
    assert "a network without error bars" in run("info", tmp_path / "net.h5").stdout
    spectra = run("info", work.stars).stdout
    assert "60 stars, 50 pixels each wavelength: 3900 to 6900 Angstrom" in spectra
    assert "in 60 stars; 1 pixels are bad in every star" in spectra
    assert re.search(r"LOGG dex 59 1 ", spectra)


def test_demo_prints_what_the_demo_found(work, monkeypatch, stars, tmp_path):

    laplace = read_laplace(work.model)
    prediction = laplace.predict(stars.flux)
    bad = Certificate(
        gradient_norm=1.0,
        newton_decrement=2.0,
        newton_shift=np.ones(3),
        lowest=LowestCurvature(
            smallest_ratio=-3.0,
            smallest_ratio_error=0.25,
            smallest_eigenvalue=-9.0,
            eigenvalue_error=0.0,
            missed=0.0,
        ),
    )
    asked = {}

    def run_demo(output, **options):
        asked.update(options, output=output)
        files = {"catalogue": output / "catalogue.fits"}
        return SimpleNamespace(
            prediction=prediction,
            uncalibrated=prediction,
            spectra=stars,
            certificates=[laplace.certificate, bad],
            regressions=[laplace.reg] * 2,
            files=files,
            seconds=12.3,
        )

    monkeypatch.setattr("symspec.cli.commands.demo.run_demo", run_demo)
    said = run("demo", "--output", tmp_path, "--folds", 2, "--seed", 7).stdout
    assert asked == {"output": tmp_path, "folds": 2, "seed": 7, "progress": True}
    assert re.search(r"TEFF \[K\] \S+ 95 ", said)  # the ridge baseline beside the scatter
    assert "2 not at a minimum 2 -3 +- 0.2" in said
    assert "The first 10 of 60 stars" in said
    assert f"Wrote catalogue: {tmp_path / 'catalogue.fits'}" in said
    assert "12 s" in said


# --- failures


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("train", "stars.h5", "model.h5"),
            "which is kept: choose another name, or replace it (--overwrite on the command line",
        ),
        (("train", "stars.h5", "model.txt"), "model.txt should end in one of .h5, .hdf5"),
        (("train", "stars.h5", "stars.h5", "--overwrite"), "stars.h5 is named twice"),
        (("train", "stars.h5", "no/model.h5"), "no: create it first"),
        (("train", "nothing.h5", "new.h5"), "nothing.h5 should be a file, got nothing there"),
        (("train", "plain.h5", "new.h5"), "plain.h5 should hold labels to train on"),
        (("train", "stars.h5", "new.h5", "--activation", "tahn"), "did you mean 'tanh'?"),
        (("train", "stars.h5", "new.h5", "--label", "AGE"), "should hold the label 'AGE'"),
        (
            ("errors", "model.h5", "short.h5", "c.fits"),
            "takes spectra of 50 pixels, got 40 in short.h5",
        ),
        (("errors", "model.h5", "stars.h5", "c.txt"), "c.txt should end in one of .fits"),
        (
            ("errors", "model.h5", "stars.h5", "c.fits", "--scheduler", "lokal"),
            "scheduler should be None (this process)",
        ),
        (
            ("jacobian", "model.h5", "stars.h5", "j.h5", "--scheduler", "lokal"),
            "scheduler should be None (this process)",
        ),
        (
            ("errors", "stars.h5", "stars.h5", "c.fits"),
            "should be an HDF5 file of 'symspec laplace'",
        ),
        (("errors", "model.h5", "ambiguous.h5", "c.fits"), "say what the flux's uncertainty is"),
        (("jacobian", "model.h5", "short.h5", "j.h5"), "takes spectra of 50 pixels"),
        (
            ("jacobian", "model.h5", "stars.h5", "j.h5", "--plot", "j.what"),
            "j.what should end in one of",
        ),
        (
            ("jacobian", "model.h5", "stars.h5", "j.h5", "--plot", "j.h5"),
            "j.h5 should end in one of",
        ),
        (("audit", "model.h5", "plain.h5"), "plain.h5 should hold"),
        (
            ("audit", "model.h5", "stars.h5", "--sample", "short.h5"),
            "takes spectra of 50 pixels, got 40 in short.h5",
        ),
        (
            ("audit", "model.h5", "stars.h5", "--structure", "kfac"),
            "structures should be one of 'primal', 'dual'",
        ),
        (
            ("audit", "model.h5", "stars.h5", "--output", "a.txt"),
            "a.txt should end in one of .ecsv, .csv",
        ),
        (("audit", "model.h5", "stars.h5", "--plot", "model.h5"), "model.h5 should end in one of"),
        (
            ("audit", "model.h5", "stars.h5", "--plot", "a.pgf", "--output", "a.pgf"),
            "a.pgf should end in one of",
        ),
        (("info", "nothing.h5"), "nothing.h5 should be a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_failure_is_one_line_and_exit_code_1_and_leaves_no_file(
    work, monkeypatch, stars, words, message
):
    monkeypatch.chdir(work.folder)
    write_stars("plain.h5", stars, labels=None, label_names=None, label_units=None)
    write_stars("short.h5", stars, flux=stars.flux[:, :40], ivar=None, wavelength=None)
    write_stars("ambiguous.h5", stars, ivar=None, err=0.02 * np.ones_like(stars.flux))
    before = {path: path.read_bytes() for path in work.folder.iterdir()}
    said = run(*words, code=1)
    assert said.stderr.startswith("Error: ") or "Error: " in said.stderr
    assert message in said.stderr
    assert "Traceback" not in said.stderr
    assert {path: path.read_bytes() for path in work.folder.iterdir()} == before


def test_outputs_are_checked_before_any_work(work, monkeypatch):
    monkeypatch.chdir(work.folder)

    def refuse(*_, **__):
        raise AssertionError("spectra were read")

    for name in (
        "cli.shared.files.read_spectra",
        "files.jacobians.open_spectra",
        "files.surveys.open_spectra",
    ):
        monkeypatch.setattr(f"symspec.{name}", refuse)
    run("train", "stars.h5", "model.h5", code=1)
    run("jacobian", "model.h5", "stars.h5", "model.h5", "--overwrite", code=1)
    run("errors", "model.h5", "stars.h5", "stars.txt", code=1)


def test_a_name_for_the_uncertainty_is_taken(work, tmp_path, stars):
    path = write_stars(tmp_path / "s.h5", stars, ivar=None, err=0.02 * np.ones_like(stars.flux))
    said = run("errors", work.model, path, tmp_path / "c.ecsv", "--uncertainty", "std")
    assert "no uncertainties" not in said.stdout
    run("info", path, "--uncertainty", "std")


def test_an_interrupt_is_exit_code_130_without_a_file(work, monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("symspec.fitting.fit.finish", interrupt)
    words = ("--hidden", 2, "--epochs", 1)
    said = run("train", work.stars, tmp_path / "m.h5", *words, code=130)
    assert "Interrupted: the output was not written" in said.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_adam_runs_is_an_interrupt_too(work, monkeypatch, tmp_path):
    stopped = SimpleNamespace(stopped="interrupted", theta=None)
    monkeypatch.setattr("symspec.fitting.fit.train", lambda *_, **__: stopped)
    run("train", work.stars, tmp_path / "m.h5", "--hidden", 2, code=130)
    assert list(tmp_path.iterdir()) == []


# --- help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_runs_this_command(command):
    assert re.search(rf"Examples?: symspec {command} ", run(command, "--help").stdout)


def test_help_lists_the_commands_and_bad_usage_is_exit_code_2():
    said = run("--help").stdout
    assert all(command in said for command in COMMANDS)
    assert "Missing argument" in run("errors", "model.h5", code=2).stderr
    assert "No such option" in run("train", "a", "b", "--hiden", 3, code=2).stderr


def test_version_is_that_of_the_package():
    from symspec import __version__

    assert run("--version").stdout == f"symspec {__version__}"


def test_the_command_line_is_a_module_that_runs():
    command = [sys.executable, "-m", "symspec.cli", "--version"]
    folder = Path(symspec.__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"symspec {symspec.__version__}\n"


def test_a_warning_is_told_without_the_place_in_the_code():
    code = """
        import sys, warnings
        import symspec.cli
        from symspec.errors import SeveralMaximaWarning
        def warn(**_):
            warnings.warn("of its own", SeveralMaximaWarning)
            warnings.warn("of others", UserWarning)
        sys.modules["symspec.cli.app"].app = warn
        symspec.cli.main()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    folder = Path(symspec.__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    own, others = done.stderr.splitlines()
    assert own == "SeveralMaximaWarning: of its own"
    assert others == "<string>:7: UserWarning: of others"
