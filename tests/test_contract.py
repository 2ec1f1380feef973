"""Public names, keywords and shapes that scripts outside are written against, on a tiny problem.

Names may be added under their heading here and in `symspec.__all__`; none may go, and no shape may
change. That the numbers are right is tested in the rooms.
"""

import importlib
import inspect
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytensor.tensor as pt
import pytest
import scipy.optimize
import scipy.sparse.linalg
import xarray as xr
from typer.main import get_command

import symspec as ss

CONTRACT = {
    "networks": "Network mlp standardized ACTIVATIONS Layer Standardize Unstandardize Dense Conv1D"
    " LocallyConnected1D ZeroPadding1D MaxPool1D AveragePool1D GlobalAveragePool1D Flatten"
    " Reshape Permute Slice Identity From Add Multiply Concatenate BatchNorm LayerNorm"
    " MedianNormalize ContinuumNormalize SNV MSC SavitzkyGolay Absorbance Dropout Activation"
    " PReLU fold_batch_norm",
    "the model": "Regression GaussianNoise PredictedNoise StudentTNoise scaled_prior"
    " prior_precision_from_weight_decay",
    "compiled functions": "compile_predict compile_jacobian compile_objective"
    " compile_hessian_vector_product compile_ggn_vector_product compile_hessian compile_ggn",
    "training": "train TrainResult minimize polish PolishResult tune",
    "error bars": "fit_laplace LaplacePosterior Certificate Prediction Flag FlagOptions"
    " audit_structures StructureAudit sandwich_covariance validate Validation select Selection"
    " coverage"
    " calibrate_errors jackknife_intervals combine CombinedPosterior CombinedPrediction"
    " predict_means GroupMeans"
    " ErrorCalibration sigma_mad studentized_residuals find_outliers Outliers fit_noise",
    "HMC": "pymc_model run_hmc compare_hmc HmcComparison",
    "spectra": "Spectra read_spectra open_spectra BandedCovariance LowRankCovariance resample"
    " Resampled datasets",
    "files": "read_network write_network import_network import_payne read_regression read_laplace"
    " write_laplace write_catalogue catalogue_dataset predict_survey write_jacobian",
    "reports": "write_report",
    "errors and warnings": "SymspecError ShapeError DataError OptionError FileFormatError"
    " FileKeptError MissingDependencyError TooLargeError DiskFullError DivergedError"
    " NotAtMinimumError NotPositiveDefiniteError WorkersError NotAtMinimumWarning"
    " MissingPixelsWarning EdgeOfRangeWarning SeveralMaximaWarning UnsettledEvidenceWarning"
    " UnfinishedEvidenceWarning"
    " UnusedDataWarning ValuesDroppedWarning AssumedUnitWarning",
}
# positional names in their order, then "*", then those that go by keyword
SIGNATURES = {
    "Network": "layers n_pixels * label_names label_units wavelength wavelength_unit",
    "mlp": "sizes * activation label_names label_units",
    "standardized": "net flux labels",
    "Standardize": "mean scale",
    "Unstandardize": "mean scale",
    "Regression": "net * sigma_noise noise_covariance prior_precision",
    "scaled_prior": "net precision",
    "compile_predict": "net * backend dtype",
    "compile_jacobian": "net wrt * backend dtype",
    "compile_objective": "reg * backend dtype",
    "compile_hessian_vector_product": "reg * backend dtype",
    "compile_ggn_vector_product": "reg * backend dtype",
    "compile_hessian": "reg * backend dtype",
    "compile_ggn": "reg * backend dtype",
    "train": "reg X Y * label_errors ivar validation epochs batch_size learning_rate rng progress"
    " theta init"
    " beta_1 beta_2 epsilon decay patience reduce_lr_patience reduce_lr_factor min_learning_rate"
    " backend dtype",
    "minimize": "reg theta X Y * label_errors ivar method tol max_iterations options progress"
    " backend",
    "polish": "reg theta X Y * label_errors ivar tolerance max_iterations structure backend memory"
    " progress callback",
    "tune": "reg theta X Y * label_errors ivar noise prior move starts rng tolerance"
    " max_evaluations structure backend memory options progress callback",
    "fit_laplace": "reg theta X Y * label_errors ivar curvature structure require_minimum backend"
    " dtype memory"
    " options resume progress scheduler",
    "validate": "spectra * folds groups seed n_workers scheduler progress",
    "select": "spectra * hidden priors folds groups seed n_workers progress",
    "audit_structures": "reg theta X Y X_sample * label_errors ivar structures options backend"
    " dtype memory progress callback",
    "sandwich_covariance": "laplace X_train Y_train X * label_errors ivar X_new",
    "pymc_model": "reg X Y * label_errors ivar laplace subset X_check sigma_noise prior_precision"
    " blocks",
    "run_hmc": "reg X Y * label_errors ivar laplace seed X_check subset n_draws n_chains n_tune"
    " n_importance sampler"
    " target_accept theta_every max_hours memory progress",
    "compare_hmc": "laplace draws X * others",
    "Spectra": "* flux ivar wavelength labels label_names label_units ids wavelength_unit"
    " label_errors label_covariance missing_label_error flux_covariance",
    "read_spectra": "source * label_names uncertainty bad_error mask_bits wavelength_unit hdu"
    " apstar",
    "resample": "spectra wavelength * kind wavelength_unit",
    "write_network": "path net theta * reg overwrite",
    "read_network": "path",
    "write_catalogue": "path prediction ids * overwrite true_labels calibration dialect meta",
    "predict_survey": "path laplace spectra * center fill flux_errors flag_options calibration"
    " dialect resample overwrite restart progress show scheduler",
    "write_jacobian": "path net theta spectra * flux_mean flux_prior fill dtype backend compression"
    " resample overwrite restart progress show scheduler",
    "write_report": "path laplace * stars prediction",
    "LaplacePosterior.predict": "self X * ivar flux_covariance center fill flux flag_options"
    " resume progress",
    "LaplacePosterior.sample": "self n_draws * rng",
    "LaplacePosterior.label_covariance": "self X",
}
ROOMS = {  # paths of modules that scripts import from, with one name of each
    "symspec.networks": "mlp",
    "symspec.spectra": "Spectra",
    "symspec.spectra.readers": "read_spectra",
    "symspec.derivatives": "compile_jacobian",
    "symspec.inverse_hessian": "InverseHessian",
    "symspec.training": "tune",
    "symspec.laplace": "fit_laplace",
    "symspec.validation": "coverage",
    "symspec.hmc": "run_hmc",
    "symspec.files": "write_catalogue",
    "symspec.errors": "SymspecError",
    "symspec.cli": "main",
}
COMMANDS = {
    "demo",
    "train",
    "fit",
    "validate",
    "errors",
    "jacobian",
    "influence",
    "audit",
    "hmc",
    "report",
    "info",
}
# what `import symspec` loads beside the standard library; numpy.f2py takes charset_normalizer along
LOADED = {"symspec", "numpy", "scipy", "pytensor", "threadpoolctl"}
MAY_LOAD = LOADED | {"charset_normalizer", "cython_runtime"}
STRUCTURES = (
    "auto",
    "primal",
    "dual",
    "krylov",
    "kronecker",
    "diagonal",
    "last_layer",
    "low_rank",
)
N, D, C, HIDDEN = 12, 6, 2, 3
P = (D + 1) * HIDDEN + (HIDDEN + 1) * C
NAMES, UNITS = ("TEFF", "LOGG"), ("K", "dex")


@pytest.fixture(scope="module")
def tiny():
    """A regression at its minimum, with its stars."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, D))
    Y = np.tanh(X[:, :C]) + 0.1 * rng.normal(size=(N, C))
    net = ss.mlp([D, HIDDEN, C], activation="tanh", label_names=NAMES, label_units=UNITS)
    reg = ss.Regression(net, sigma_noise=[0.1, 0.2], prior_precision=1.0)
    theta = ss.polish(reg, net.init_params(rng), X, Y).theta
    return SimpleNamespace(net=net, reg=reg, theta=theta, X=X, Y=Y, ivar=np.full((N, D), 1e4))


@pytest.fixture(scope="module")
def laplace(tiny):
    return ss.fit_laplace(tiny.reg, tiny.theta, tiny.X, tiny.Y, progress=False)


@pytest.fixture(scope="module")
def prediction(tiny, laplace):
    return laplace.predict(tiny.X, ivar=tiny.ivar)


# --- names


def test_the_public_names_are_those_of_the_contract():
    names = [name for heading in CONTRACT.values() for name in heading.split()]
    assert len(names) == len(set(names))
    assert set(ss.__all__) == set(names)
    assert len(ss.__all__) == len(names)


def test_a_star_import_gives_the_public_names_and_nothing_else():
    namespace = {}
    exec("from symspec import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(ss.__all__)


def test_the_estimator_is_there_when_it_is_asked_for():
    assert ss.SpectraRegressor.__name__ == "SpectraRegressor"


def test_no_public_name_is_a_module_but_datasets():
    modules = {name for name in ss.__all__ if isinstance(getattr(ss, name), types.ModuleType)}
    assert modules == {"datasets"}


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_takes_what_the_contract_says(name):
    owner, _, method = name.partition(".")
    called = getattr(getattr(ss, owner), method) if method else getattr(ss, owner)
    parameters = inspect.signature(called).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = [p for p in parameters if p.kind not in variadic]
    positional = [p.name for p in named if p.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD]
    by_keyword = {p.name for p in named if p.kind == inspect.Parameter.KEYWORD_ONLY}
    before, _, after = SIGNATURES[name].partition("*")
    assert positional == before.split()
    assert by_keyword >= set(after.split())


@pytest.mark.parametrize("path", ROOMS)
def test_a_room_shows_its_names(path):
    assert hasattr(importlib.import_module(path), ROOMS[path])


def test_every_command_is_there():
    from symspec.cli.app import app

    assert set(get_command(app).commands) >= COMMANDS


def test_importing_the_package_loads_only_what_it_stands_on():
    program = (
        "import sys, symspec\n"
        "names = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(*(name for name in names if not name.startswith('_')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(ss.__file__).parents[1],
    )
    assert LOADED <= set(done.stdout.split()) <= MAY_LOAD


# --- networks and the model


def test_a_network_says_what_it_takes_and_gives(tiny):
    assert (tiny.net.n_params, tiny.net.n_pixels, tiny.net.n_labels) == (P, D, C)
    assert tuple(tiny.net.label_names) == NAMES
    assert tuple(tiny.net.label_units) == UNITS


def test_a_network_is_an_expression_for_one_spectrum_and_for_many(tiny):
    one = tiny.net(tiny.theta, pt.as_tensor(tiny.X[0]))
    many = tiny.net(tiny.theta, pt.as_tensor(tiny.X))
    assert (one.ndim, many.ndim) == (1, 2)


@pytest.mark.parametrize("init", ["he_normal", "glorot_uniform"])
def test_weights_start_at_draws(tiny, init):
    assert tiny.net.init_params(np.random.default_rng(0), init=init).shape == (P,)


def test_weights_are_flat_layer_by_layer_kernels_in_c_order_before_biases(tiny):
    blocks = tiny.net.unpack(tiny.theta)
    shapes = {name: np.shape(block) for name, block in blocks.items()}
    assert shapes == {
        "dense_0/kernel": (D, HIDDEN),
        "dense_0/bias": (HIDDEN,),
        "dense_1/kernel": (HIDDEN, C),
        "dense_1/bias": (C,),
    }
    assert list(blocks) == list(shapes)
    assert np.array_equal(np.concatenate([b.ravel() for b in blocks.values()]), tiny.theta)
    assert np.array_equal(tiny.net.pack(blocks), tiny.theta)


def test_layers_stack_with_fixed_scalings_and_every_kind_of_position():
    layers = [
        ss.Standardize(np.zeros(8), np.ones(8)),
        ss.Reshape((8, 1)),
        ss.Conv1D(2, 3, padding="same"),
        ss.BatchNorm(np.zeros(2), np.ones(2)),
        ss.Activation("relu"),
        ss.MaxPool1D(2),
        ss.AveragePool1D(2),
        ss.Flatten(),
        ss.Dropout(0.5),
        ss.Dense(C),
        ss.Unstandardize(np.zeros(C), np.ones(C)),
    ]
    net = ss.Network(layers, 8, label_names=NAMES, label_units=UNITS)
    theta = net.init_params(np.random.default_rng(0))
    assert ss.compile_predict(net)(theta, np.ones((N, 8))).shape == (N, C)


@pytest.mark.parametrize(
    "noise",
    [{"sigma_noise": 0.1}, {"sigma_noise": [0.1, 0.2]}, {"noise_covariance": np.eye(C)}],
    ids=["number", "per-label", "covariance"],
)
def test_noise_is_a_number_one_a_label_or_a_covariance(tiny, noise):
    reg = ss.Regression(tiny.net, prior_precision=1.0, **noise)
    U = reg.negative_log_posterior(tiny.theta, tiny.X, tiny.Y)
    value, gradient = ss.compile_objective(reg)(tiny.theta, tiny.X, tiny.Y)
    assert U.ndim == 0
    assert np.ndim(value) == 0
    assert gradient.shape == (P,)


# --- compiled functions


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("compile_function", "shape"),
    [
        (ss.compile_predict, (C,)),
        (ss.compile_jacobian, (C, D)),
        (lambda net, **words: ss.compile_jacobian(net, "flux", **words), (C, D)),
        (lambda net, **words: ss.compile_jacobian(net, wrt="theta", **words), (C, P)),
    ],
    ids=["predict", "jacobian", "flux", "theta"],
)
def test_functions_of_stars_put_the_star_first_and_drop_it_for_one(
    tiny, compile_function, shape, dtype
):
    function = compile_function(tiny.net, backend="auto", dtype=dtype)
    assert function(tiny.theta, tiny.X).shape == (N, *shape)
    assert function(tiny.theta, tiny.X[0]).shape == shape
    assert function(tiny.theta, tiny.X).dtype == dtype


@pytest.mark.parametrize(
    "compile_function", [ss.compile_hessian_vector_product, ss.compile_ggn_vector_product]
)
def test_products_are_vectors(tiny, compile_function):
    product = compile_function(tiny.reg, backend="auto")
    assert product(tiny.theta, tiny.X, tiny.Y, np.ones(P)).shape == (P,)
    assert product(tiny.theta, tiny.X[0], tiny.Y[0], np.ones(P)).shape == (P,)


@pytest.mark.parametrize("compile_function", [ss.compile_hessian, ss.compile_ggn])
def test_matrices_are_square(tiny, compile_function):
    matrix = compile_function(tiny.reg, backend="auto")
    assert matrix(tiny.theta, tiny.X, tiny.Y).shape == (P, P)
    assert matrix(tiny.theta, tiny.X[0], tiny.Y[0]).shape == (P, P)


# --- training


def test_train_gives_weights_and_losses(tiny):
    rng = np.random.default_rng(1)
    held_out = tiny.X[:4], tiny.Y[:4]
    options = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-3, "progress": False}
    fit = ss.train(tiny.reg, tiny.X, tiny.Y, validation=held_out, rng=rng, **options)
    assert isinstance(fit, ss.TrainResult)
    assert fit.theta.shape == (P,)
    assert {len(losses) for losses in fit.history.values()} == {3}


def test_minimize_gives_what_scipy_gives(tiny):
    found = ss.minimize(tiny.reg, tiny.theta, tiny.X, tiny.Y, method="L-BFGS-B", progress=False)
    assert isinstance(found, scipy.optimize.OptimizeResult)
    assert found.x.shape == (P,)


def test_polish_and_tune_give_weights(tiny):
    assert ss.polish(tiny.reg, tiny.theta, tiny.X, tiny.Y).theta.shape == (P,)
    reg, theta = ss.tune(tiny.reg, tiny.theta, tiny.X, tiny.Y, max_evaluations=2)
    assert isinstance(reg, ss.Regression)
    assert np.shape(reg.sigma_noise) == (C,)
    assert theta.shape == (P,)


def test_spectra_stand_for_flux_and_labels(tiny):
    stars = ss.Spectra(flux=tiny.X, labels=tiny.Y, label_names=NAMES, label_units=UNITS)
    rng = np.random.default_rng(1)
    fit = ss.train(tiny.reg, stars, validation=stars, epochs=1, rng=rng, progress=False)
    assert fit.theta.shape == (P,)
    assert ss.minimize(tiny.reg, tiny.theta, stars, progress=False).x.shape == (P,)
    assert ss.polish(tiny.reg, tiny.theta, stars).theta.shape == (P,)
    laplace = ss.fit_laplace(tiny.reg, tiny.theta, stars, progress=False)
    assert laplace.predict(stars).labels.shape == (N, C)


# --- error bars


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_is_an_operator_and_gives_covariances(tiny, structure):
    laplace = ss.fit_laplace(
        tiny.reg, tiny.theta, tiny.X, tiny.Y, structure=structure, progress=False
    )
    assert isinstance(laplace, ss.LaplacePosterior)
    inverse = laplace.inverse_hessian
    assert isinstance(inverse, scipy.sparse.linalg.LinearOperator)
    assert inverse.shape == (P, P)
    assert (inverse @ np.ones(P)).shape == (P,)
    assert inverse.diagonal().shape == (P,)
    assert inverse.to_dense().shape == (P, P)
    assert np.isfinite(inverse.logdet())
    assert laplace.label_covariance(tiny.X).shape == (N, C, C)
    assert laplace.label_covariance(tiny.X[0]).shape == (C, C)


def test_a_posterior_has_certificate_evidence_and_draws(tiny, laplace):
    certificate = laplace.certificate
    numbers = (
        certificate.gradient_norm,
        certificate.newton_decrement,
        certificate.smallest_eigenvalue,
    )
    assert np.isfinite(numbers).all()
    assert certificate.is_minimum
    assert certificate.message.startswith("at a minimum")
    assert isinstance(laplace.log_marginal_likelihood(), float)
    assert laplace.sample(5, rng=np.random.default_rng(0)).shape == (5, P)


def test_the_exact_hessian_is_the_other_curvature(tiny):
    laplace = ss.fit_laplace(
        tiny.reg, tiny.theta, tiny.X, tiny.Y, curvature="hessian", dtype="float64", progress=False
    )
    assert laplace.curvature == "hessian"


def test_weights_that_are_not_at_a_minimum_warn_raise_or_are_flagged(tiny):
    def fit(require_minimum):
        return ss.fit_laplace(
            tiny.reg,
            tiny.theta + 0.1,
            tiny.X,
            tiny.Y,
            require_minimum=require_minimum,
            progress=False,
        )

    with pytest.warns(ss.NotAtMinimumWarning):
        fit(None)
    with pytest.raises(ss.NotAtMinimumError):
        fit(True)
    prediction = fit(False).predict(tiny.X)
    moved = np.abs(prediction.newton_shift) > 0.5
    assert moved.any()
    np.testing.assert_array_equal((prediction.label_flags & ss.Flag.NOT_AT_MINIMUM) > 0, moved)


def test_a_prediction_has_its_parts_apart(prediction):
    assert isinstance(prediction, ss.Prediction)
    assert prediction.labels.shape == prediction.errors.shape == (N, C)
    for part in ("model_cov", "flux_cov", "noise_cov", "total_cov"):
        assert getattr(prediction, part).shape == (N, C, C)
    assert prediction.flags.shape == prediction.n_bad_pixels.shape == (N,)
    assert prediction.model_interval.shape == (N, C, 2)
    assert prediction.label_flags.shape == (N, C)
    assert prediction.snr.shape == (N,)
    assert prediction.has_flux_errors


def test_a_prediction_of_one_spectrum_keeps_the_star_axis(tiny, laplace):
    assert laplace.predict(tiny.X[0]).labels.shape == (1, C)


def test_the_audit_has_a_ratio_for_every_structure(tiny):
    audit = ss.audit_structures(
        tiny.reg, tiny.theta, tiny.X, tiny.Y, tiny.X[:5], structures=["kronecker", "diagonal"]
    )
    assert audit.structures == ("kronecker", "diagonal")
    assert audit.ratio.shape == (2, 5, C)


def test_checks_against_known_labels_are_by_label(tiny, laplace, prediction):
    assert ss.sandwich_covariance(laplace, tiny.X, tiny.Y, tiny.X[:5]).shape == (5, C, C)
    assert ss.coverage(prediction, tiny.Y).shape == (2, C)
    assert ss.calibrate_errors(prediction, tiny.Y).factor.shape == (C,)
    assert ss.sigma_mad(prediction.labels - tiny.Y).shape == (C,)
    assert ss.studentized_residuals(prediction, tiny.Y).shape == (N, C)


# --- HMC


def test_the_pymc_model_whitens_or_not(tiny, laplace):
    import pymc as pm

    plain = ss.pymc_model(tiny.reg, tiny.X, tiny.Y)
    white = ss.pymc_model(tiny.reg, tiny.X, tiny.Y, laplace=laplace, X_check=tiny.X[:5])
    assert isinstance(plain, pm.Model)
    assert {"flux", "labels", "theta"} <= set(plain.named_vars)
    assert {"theta", "f"} <= set(white.named_vars)


def test_the_comparison_is_by_star_and_label(tiny, laplace):
    draws = laplace.sample(100, rng=np.random.default_rng(0)).reshape(2, 50, P)
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset({"theta": (("chain", "draw", "param"), draws)}),
            "sample_stats": xr.Dataset({"diverging": (("chain", "draw"), np.zeros((2, 50), bool))}),
        }
    )
    check = ss.compare_hmc(laplace, tree, tiny.X[:5], others={"again": laplace})
    assert isinstance(check, ss.HmcComparison)
    for name in ("sd_ratio", "shift", "rhat", "ess", "hmc_mean", "hmc_sd", "laplace_sd"):
        assert getattr(check, name).shape == (5, C)
    assert check.divergences == 0
    assert len(check.verdict) == C
    assert check.mark(laplace).hmc_verdict == check.verdict


# --- files


def test_spectra_come_back_from_a_file(tmp_path):
    flux = np.arange(30.0).reshape(5, 6)
    np.savez(
        tmp_path / "stars.npz",
        flux=flux,
        ivar=np.ones((5, 6)),
        wavelength=np.linspace(5150, 5300, 6),
        labels=np.ones((5, C)),
        label_names=NAMES,
        label_units=UNITS,
        ids=[f"star {i}" for i in range(5)],
    )
    spectra = ss.read_spectra(tmp_path / "stars.npz")
    assert isinstance(spectra, ss.Spectra)
    assert spectra.flux.shape == spectra.ivar.shape == (5, 6)
    assert spectra.wavelength.shape == (6,)
    assert spectra.labels.shape == (5, C)
    assert tuple(spectra.label_names) == NAMES
    assert tuple(spectra.label_units) == UNITS
    assert spectra.ids.shape == (5,)
    with ss.open_spectra(tmp_path / "stars.npz") as file:
        assert file.read(slice(1, 3)).flux.shape == (2, 6)
    resampled = ss.resample(spectra, np.linspace(5170, 5280, 4))
    assert resampled.spectra.flux.shape == (5, 4)


def test_networks_and_posteriors_come_back_from_their_files(tiny, laplace, tmp_path):
    ss.write_network(tmp_path / "network.h5", tiny.net, tiny.theta, reg=tiny.reg)
    net, theta = ss.read_network(tmp_path / "network.h5")
    reg, again = ss.read_regression(tmp_path / "network.h5")
    assert (net.n_params, net.label_names) == (P, tiny.net.label_names)
    assert np.array_equal(theta, tiny.theta)
    assert np.array_equal(again, tiny.theta)
    assert np.array_equal(reg.sigma_noise, tiny.reg.sigma_noise)
    ss.write_laplace(tmp_path / "model.h5", laplace)
    read = ss.read_laplace(tmp_path / "model.h5")
    assert np.array_equal(read.label_covariance(tiny.X), laplace.label_covariance(tiny.X))


@pytest.mark.parametrize("suffix", ["fits", "ecsv", "h5"])
def test_a_catalogue_is_written_in_every_format(prediction, tmp_path, suffix):
    path = tmp_path / f"catalogue.{suffix}"
    ss.write_catalogue(path, prediction, [f"star {i}" for i in range(N)])
    assert path.stat().st_size > 0
    with pytest.raises(ss.FileKeptError):
        ss.write_catalogue(path, prediction)


def test_long_runs_give_what_short_ones_give(tiny, laplace, prediction, tmp_path):
    stars = ss.Spectra(flux=tiny.X, ivar=tiny.ivar)
    survey = ss.predict_survey(tmp_path / "catalogue.fits", laplace, stars)
    assert np.array_equal(survey.prediction.total_cov, prediction.total_cov)
    summary = ss.write_jacobian(tmp_path / "jacobian.h5", tiny.net, tiny.theta, stars)
    assert summary.mean.shape == (C, D)
