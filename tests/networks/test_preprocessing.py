"""Chemometric preprocessing as layers: against NumPy and SciPy, differences, structures, files."""

import numpy as np
import pytest
from differences import check_flux_jacobian, differentiate
from numpy.testing import assert_allclose, assert_array_equal
from scipy.signal import savgol_filter

import symspec as ss
from symspec.derivatives.curvature import has_elementwise_layers
from symspec.derivatives.matrices import CurvatureMatrix
from symspec.errors import DataError, OptionError, ShapeError
from symspec.fitting.start import build_start
from symspec.networks.preprocessing import make_preprocessing, parse_preprocessing

N, N_STARS = 15, 4
RNG = np.random.default_rng(5)
X = RNG.uniform(0.2, 0.9, (N_STARS, N))
REFERENCE = RNG.uniform(0.2, 0.9, N)


def fit_scatter(x):
    """MSC by NumPy's least squares."""
    a, b = np.linalg.lstsq(np.stack([np.ones(N), REFERENCE], axis=1), x, rcond=None)[0]
    return (x - a) / b


CASES = {
    "snv": (ss.SNV(), lambda x: (x - x.mean()) / x.std(ddof=1)),
    "snv-population": (ss.SNV(ddof=0), lambda x: (x - x.mean()) / x.std()),
    "snv-epsilon": (ss.SNV(epsilon=0.1), lambda x: (x - x.mean()) / (x.std(ddof=1) + 0.1)),
    "msc": (ss.MSC(REFERENCE), fit_scatter),
    "smoothed": (ss.SavitzkyGolay(5), lambda x: savgol_filter(x, 5, 2)),
    "first": (ss.SavitzkyGolay(7, 3, 1), lambda x: savgol_filter(x, 7, 3, deriv=1)),
    "second": (
        ss.SavitzkyGolay(9, 2, 2, delta=0.5),
        lambda x: savgol_filter(x, 9, 2, deriv=2, delta=0.5),
    ),
    "all-pixels": (ss.SavitzkyGolay(N, 4), lambda x: savgol_filter(x, N, 4)),
    "absorbance": (ss.Absorbance(), lambda x: -np.log10(x)),
    "of-per-cent": (ss.Absorbance(100), lambda x: -np.log10(x / 100)),
}
CHAIN = [ss.Absorbance(), ss.SNV(), ss.MSC(REFERENCE), ss.SavitzkyGolay(5, 2, 1)]


def make_network(*layers):
    return ss.Network([*layers, ss.Dense(3), ss.Activation("tanh"), ss.Dense(2)], N)


@pytest.mark.parametrize("case", CASES)
def test_spectra_come_out_as_from_numpy_and_scipy(case):
    layer, expected = CASES[case]
    net = ss.Network([layer], N)
    found = ss.compile_predict(net)(np.zeros(0), X)
    wanted = np.array([expected(x) for x in X])
    # sums in another order
    assert_allclose(found, wanted, rtol=1e-11, atol=1e-13)
    assert_allclose(ss.compile_predict(net)(np.zeros(0), X[0]), wanted[0], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_jacobians_are_those_of_central_differences(case):
    net = ss.Network([CASES[case][0]], N)
    check_flux_jacobian(net, np.zeros(0), X)


def test_jacobians_have_their_closed_forms():
    """dSNV/dx, the savgol matrix, and -1 / (x ln 10)."""
    x = X[0]
    jacobian = {
        case: ss.compile_jacobian(ss.Network([layer], N))(np.zeros(0), x)
        for case, (layer, _) in CASES.items()
    }
    y = (x - x.mean()) / x.std(ddof=1)
    centring = np.eye(N) - 1 / N
    snv = (centring - np.outer(y, y) / (N - 1)) / x.std(ddof=1)
    assert_allclose(jacobian["snv"], snv, rtol=1e-10, atol=1e-12)
    matrix = savgol_filter(np.eye(N), 7, 3, deriv=1, axis=0)
    assert_allclose(jacobian["first"], matrix, rtol=1e-11, atol=1e-13)
    assert_allclose(jacobian["absorbance"], np.diag(-1 / (x * np.log(10))), rtol=1e-13)
    r = REFERENCE - REFERENCE.mean()
    slope = (x - x.mean()) @ r / (r @ r)
    msc = centring / slope - np.outer(x - x.mean(), r / (r @ r)) / slope**2
    assert_allclose(jacobian["msc"], msc, rtol=1e-10, atol=1e-12)


@pytest.fixture(scope="module")
def chain():
    net = make_network(*CHAIN)
    rng = np.random.default_rng(2)
    reg = ss.Regression(net, sigma_noise=[0.3, 0.5], prior_precision=ss.scaled_prior(net, 0.7))
    return reg, net.init_params(rng) + 0.1, rng.normal(size=(N_STARS, 2))


@pytest.mark.parametrize("backend", ["numpy", "numba", "jax"])
def test_a_chain_is_differentiated_on_other_backends(chain, backend):
    if backend in ("numba", "jax"):
        pytest.importorskip(backend)
    reg, theta, _ = chain
    net = reg.net
    if backend == "numba":  # which compiles for long what matters to JAX alone
        net = ss.Network([*CHAIN, ss.Dense(2)], N)
        theta = theta[: net.n_params]
    predict = ss.compile_predict(net)
    numbers = differentiate(lambda x: predict(theta, x), X)
    J = ss.compile_jacobian(net, backend=backend)(theta, X)
    # differences of a step of 1e-6
    assert_allclose(J, numbers, rtol=1e-6, atol=1e-7 * np.abs(numbers).max())


def test_products_with_the_hessian_of_a_chain_are_those_of_differences(chain):
    reg, theta, Y = chain
    v = np.linspace(-1, 1, reg.net.n_params)
    product = ss.compile_hessian_vector_product(reg)(theta, X, Y, v)
    gradient = ss.compile_objective(reg)
    step = 1e-6
    along = [gradient(theta + s * step * v, X, Y)[1] for s in (1, -1)]
    assert_allclose(product, (along[0] - along[1]) / (2 * step), rtol=1e-5, atol=1e-6)


def test_a_chain_in_float32_stays_float32(chain):
    reg, theta, _ = chain
    labels = ss.compile_predict(reg.net, dtype="float32")(theta, X)
    assert labels.dtype == np.float32
    # the rounding of float32, times the condition of a derivative
    assert_allclose(labels, ss.compile_predict(reg.net)(theta, X), rtol=1e-4, atol=1e-4)


def test_layers_before_all_weights_leave_the_closed_form_of_the_hessian(chain):
    reg, theta, Y = chain
    assert has_elementwise_layers(reg.net)
    hessian = ss.compile_hessian(reg)
    assert isinstance(hessian, CurvatureMatrix)
    numbers = differentiate(lambda t: ss.compile_objective(reg)(t, X, Y)[1], theta)
    assert_allclose(hessian(theta, X, Y), numbers, rtol=1e-5, atol=1e-6 * np.abs(numbers).max())
    behind = ss.Network([ss.Dense(N), ss.SNV(), ss.Dense(2)], N)
    assert not has_elementwise_layers(behind)
    early = ss.Network([ss.Reshape((N, 1)), ss.Conv1D(1, 3), ss.Flatten(), ss.Dense(2)], N)
    assert not has_elementwise_layers(early)


def test_a_chain_comes_back_from_an_archive(tmp_path):
    layers = [*CHAIN, ss.SNV(ddof=0, epsilon=1e-8)]
    net = ss.Network([*layers, ss.Dense(2)], N)
    weights = net.init_params(np.random.default_rng(0))
    ss.write_network(tmp_path / "net.h5", net, weights)
    read, same = ss.read_network(tmp_path / "net.h5")
    assert_array_equal(same, weights)
    assert [one.kind for one in read.layers] == [one.kind for one in net.layers]
    assert_array_equal(ss.compile_predict(read)(weights, X), ss.compile_predict(net)(weights, X))


def test_flux_errors_are_those_of_the_raw_spectra(chain):
    """The flux covariance of a prediction is J S J^T with J by the raw flux."""
    reg, theta, Y = chain
    laplace = ss.fit_laplace(reg, theta, X, Y, require_minimum=False)
    ivar = np.full(X.shape, 1e6)
    flux_cov = laplace.predict(X, ivar=ivar, progress=False).flux_cov
    J = ss.compile_jacobian(reg.net)(theta, X)
    assert_allclose(flux_cov, J @ J.transpose(0, 2, 1) * 1e-6, rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ss.SNV(ddof=2), OptionError, "ddof should be an integer of at least 0|from 0 to"),
        (lambda: ss.SNV(epsilon=-1), OptionError, "epsilon should not be negative"),
        (lambda: ss.MSC(np.ones(3)), DataError, "should vary from pixel to pixel"),
        (lambda: ss.MSC([1, np.nan, 2]), DataError, "reference should be finite"),
        (lambda: ss.SavitzkyGolay(4), OptionError, "window_length should be odd, .* take 5"),
        (lambda: ss.SavitzkyGolay(5, 5), OptionError, "polyorder should be an integer from 0 to 4"),
        (lambda: ss.SavitzkyGolay(5, 2, 3), OptionError, "deriv should be .* are zero"),
        (lambda: ss.SavitzkyGolay(5, delta=0), OptionError, "delta should be a positive number"),
        (lambda: ss.Absorbance(0), OptionError, "full_scale should be a positive number"),
        (
            lambda: make_network(ss.SavitzkyGolay(17)),
            ShapeError,
            "window of 17 pixels, got spectra",
        ),
        (lambda: make_network(ss.MSC(np.arange(5.0))), ShapeError, "msc of 5 pixels stands where"),
        (
            lambda: ss.Network([ss.Reshape((N, 1)), ss.SNV(), ss.Flatten()], N),
            ShapeError,
            r"takes a spectrum \(pixel,\), got \(15, 1\): put it first",
        ),
        (lambda: ss.Network([ss.SNV()], 1), ShapeError, "two pixels and more"),
        (lambda: parse_preprocessing("snv,detrend"), OptionError, "got 'detrend': write it like"),
        (lambda: parse_preprocessing("savgol:a"), OptionError, "got 'savgol:a'"),
        (lambda: parse_preprocessing("snv:1"), OptionError, "got 'snv:1'"),
        (lambda: parse_preprocessing("center,snv"), OptionError, "should be the last word"),
        (lambda: make_preprocessing("savgol", [], X), OptionError, "should say its window"),
        (lambda: make_preprocessing("savgol", [5.5], X), OptionError, "whole numbers"),
        (lambda: make_preprocessing("absorbance", [], -X), DataError, "positive reflectance"),
    ],
)
def test_what_makes_no_layer_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_words_become_layers():
    steps = parse_preprocessing(" absorbance:100, SNV,msc,savgol:11:3:1")
    assert steps == [("absorbance", [100]), ("snv", []), ("msc", []), ("savgol", [11, 3, 1])]
    layers = [make_preprocessing(name, numbers, X) for name, numbers in steps]
    assert layers[0].full_scale == 100
    assert_allclose(layers[2].reference, X.mean(axis=0), rtol=1e-15)
    savgol = layers[3]
    assert (savgol.window_length, savgol.polyorder, savgol.deriv, savgol.delta) == (11, 3, 1, 1)
    assert parse_preprocessing("") == []


def test_centered_pixels_keep_their_relative_scales():
    stars = ss.Spectra(flux=np.c_[X, np.full(len(X), 3.0)], labels=X[:, :1])
    layers = build_start(stars, [2], "tanh", preprocess="snv,center").net.layers
    assert [type(layer).__name__ for layer in layers[:3]] == ["SNV", "Standardize", "Dense"]
    (only, *_) = build_start(stars, [2], "tanh", preprocess="center").net.layers
    found = ss.compile_predict(ss.Network([only], stars.n_pixels))(np.zeros(0), stars.flux)
    spread = np.sqrt(np.mean(stars.flux.var(axis=0)))  # the pixel that never varies among them
    assert_allclose(found, (stars.flux - stars.flux.mean(axis=0)) / spread, atol=1e-12)
    same = ss.Standardize.centering(np.full((3, 2), 4.0))
    assert_array_equal(same.scale, 4.0)
