"""Layers over positions, normalisations and branches, each against loops in NumPy."""

import itertools
import subprocess
import sys

import numpy as np
import pytensor.tensor as pt
import pytest
from differences import check_flux_jacobian
from numpy.testing import assert_allclose

import symspec as ss
from symspec.errors import DataError, OptionError, ShapeError
from symspec.networks.windows import FirstLargest, Slide, Unslide

N_STARS, N_POSITIONS, N_CHANNELS = 3, 13, 2
FIRST, LAST = "channels_first", "channels_last"


def run(layers, X, shape, theta=None, seed=0):
    """Output of layers on X (star, *shape), flattened, and theta."""
    net = ss.Network([ss.Reshape(shape), *layers, ss.Flatten()], X[0].size)
    theta = np.random.default_rng(seed).normal(size=net.n_params) if theta is None else theta
    return ss.compile_predict(net)(theta, X.reshape(len(X), -1)), net.unpack(theta)


def draw(seed=1, shape=(N_POSITIONS, N_CHANNELS)):
    return np.random.default_rng(seed).normal(size=(N_STARS, *shape))


def pad(length, size, stride, padding):
    """Positions before, and how many windows, as Keras's documentation has them."""
    if padding == "same":
        n = -(-length // stride)
        return max((n - 1) * stride + size - length, 0) // 2, n
    before, after = {"valid": (0, 0), "causal": (size - 1, 0)}.get(padding, padding)
    return before, (before + length + after - size) // stride + 1


def convolve(x, kernel, bias, stride, dilation, padding):
    size, n_in, n_out = kernel.shape
    before, n = pad(len(x), (size - 1) * dilation + 1, stride, padding)
    out = np.zeros((n, n_out))
    for t, k, c, f in itertools.product(range(n), range(size), range(n_in), range(n_out)):
        place = t * stride + k * dilation - before
        if 0 <= place < len(x):
            out[t, f] += x[place, c] * kernel[k, c, f]
    return out + bias


@pytest.mark.parametrize("data_format", [LAST, FIRST])
@pytest.mark.parametrize(
    ("size", "filters", "stride", "dilation", "padding"),
    [
        (1, 3, 1, 1, "valid"),
        (4, 3, 1, 1, "same"),
        (4, 70, 1, 1, "same"),
        (3, 2, 2, 1, "same"),
        (3, 3, 3, 1, "valid"),
        (5, 1, 1, 2, "causal"),
        (2, 3, 4, 1, "valid"),
        (3, 2, 1, 3, (1, 4)),
        (13, 2, 1, 1, "valid"),
        (6, 200, 2, 2, (5, 0)),
        (17, 2, 1, 1, "same"),
    ],
)
def test_convolutions_are_sums_over_kernel_and_channels(
    size, filters, stride, dilation, padding, data_format
):
    layer = ss.Conv1D(
        filters, size, strides=stride, padding=padding, dilation=dilation, data_format=data_format
    )
    x = draw()
    shape = x[0].shape if data_format == LAST else x[0].T.shape
    given = x if data_format == LAST else x.transpose(0, 2, 1)
    out, params = run([layer], given, shape)
    expected = [
        convolve(
            star, params["conv1d_0/kernel"], params["conv1d_0/bias"], stride, dilation, padding
        )
        for star in x
    ]
    expected = [e if data_format == LAST else e.T for e in expected]
    assert_allclose(out, np.array(expected).reshape(N_STARS, -1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("data_format", [LAST, FIRST])
@pytest.mark.parametrize(
    ("size", "filters", "stride"), [(1, 1, 1), (3, 2, 1), (2, 3, 2), (4, 1, 3), (13, 2, 1)]
)
def test_locally_connected_windows_have_a_kernel_each(size, filters, stride, data_format):
    layer = ss.LocallyConnected1D(filters, size, strides=stride, data_format=data_format)
    x = draw()
    given = x if data_format == LAST else x.transpose(0, 2, 1)
    out, params = run([layer], given, given[0].shape)
    kernel, bias = params["locallyconnected1d_0/kernel"], params["locallyconnected1d_0/bias"]
    expected = np.array(
        [
            [
                x[i, t * stride : t * stride + size].ravel() @ kernel[t] + bias[t]
                for t in range(len(bias))
            ]
            for i in range(3)
        ]
    )
    expected = expected if data_format == LAST else expected.transpose(0, 2, 1)
    assert len(bias) == (N_POSITIONS - size) // stride + 1
    assert_allclose(out, expected.reshape(N_STARS, -1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [ss.Conv1D, ss.LocallyConnected1D, ss.MaxPool1D, ss.AveragePool1D])
def test_a_stride_beyond_the_end_takes_no_memory(kind):
    words = (2, 3) if kind in (ss.Conv1D, ss.LocallyConnected1D) else (3,)
    x, theta = draw(), np.arange(14.0) if len(words) == 2 else np.empty(0)
    outputs = [
        run([kind(*words, strides=stride)], x, x[0].shape, theta)[0] for stride in (11, 10**12)
    ]
    assert_allclose(*outputs, rtol=0)
    net = ss.Network(
        [ss.Reshape(x[0].shape), kind(*words, strides=10**12), ss.Flatten()], x[0].size
    )
    check_flux_jacobian(net, theta, x.reshape(len(x), -1))


def pool(x, size, stride, padding, reduce):
    before, n = pad(len(x), size, stride, padding)
    places = [np.arange(t * stride - before, t * stride - before + size) for t in range(n)]
    return np.array([reduce(x[p[(p >= 0) & (p < len(x))]], size) for p in places])


POOLS = [
    (2, None, "valid"),
    (4, None, "same"),
    (3, 2, "valid"),
    (3, 1, "same"),
    (2, 5, "valid"),
    (3, 2, (1, 2)),
]


@pytest.mark.parametrize("data_format", [LAST, FIRST])
@pytest.mark.parametrize(("size", "stride", "padding"), POOLS)
@pytest.mark.parametrize("kind", ["max", "average", "average with padding"])
def test_pools_take_the_positions_of_their_windows(size, stride, padding, kind, data_format):
    reduce = {
        "max": lambda w, _: w.max(axis=0),
        "average": lambda w, _: w.mean(axis=0),
        "average with padding": lambda w, n: w.sum(axis=0) / n,
    }[kind]
    options = {"strides": stride, "padding": padding, "data_format": data_format}
    layer = ss.MaxPool1D(size, **options)
    if kind != "max":
        layer = ss.AveragePool1D(size, **options, count_padding=kind != "average")
    x = draw() - 5  # below the zeros of a padding
    expected = np.array([pool(star, size, stride or size, padding, reduce) for star in x])
    if data_format == FIRST:
        x, expected = x.transpose(0, 2, 1), expected.transpose(0, 2, 1)
    out, _ = run([layer], x, x[0].shape)
    assert_allclose(out, expected.reshape(N_STARS, -1), rtol=1e-13)


def test_of_equal_numbers_the_first_is_the_largest_and_has_the_derivative():
    net = ss.Network([ss.Reshape((6, 1)), ss.MaxPool1D(3), ss.Flatten()], 6)
    J = ss.compile_jacobian(net)(np.empty(0), np.array([1.0, 1, 1, 0, 2, 2]))
    assert_allclose(J, [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]], rtol=0)


def test_what_is_not_a_number_comes_through_pools():
    """Flux is checked, but a diverged network must not look like one that works."""
    net = ss.Network([ss.Reshape((6, 1)), ss.Dense(1), ss.MaxPool1D(3), ss.Flatten()], 6)
    x, theta = pt.vector(shape=(6,)), np.array([1.0, 0.0])
    out = net(theta, x).eval({x: np.array([1.0, np.nan, 1, 0, 2, 2])})
    assert np.isnan(out).tolist() == [True, False]


def test_averages_over_all_positions_and_zeros_around_them():
    x = draw()
    out, _ = run([ss.GlobalAveragePool1D()], x, x[0].shape)
    assert_allclose(out, x.mean(axis=1), rtol=1e-13)
    x = x.transpose(0, 2, 1)
    out, _ = run([ss.GlobalAveragePool1D(data_format=FIRST)], x, x[0].shape)
    assert_allclose(out, x.mean(axis=2), rtol=1e-13)
    out, _ = run([ss.ZeroPadding1D((2, 1), data_format=FIRST)], x, x[0].shape)
    assert_allclose(out, np.pad(x, [(0, 0), (0, 0), (2, 1)]).reshape(N_STARS, -1), rtol=0)


@pytest.mark.parametrize("axis", [-1, 0])
def test_batch_normalisation_shifts_and_scales_channels(axis):
    rng = np.random.default_rng(3)
    mean, variance = rng.normal(size=N_CHANNELS), rng.uniform(0.5, 2, N_CHANNELS)
    x = draw() if axis == -1 else draw().transpose(0, 2, 1)
    out, params = run([ss.BatchNorm(mean, variance, 1e-3, axis=axis)], x, x[0].shape)
    y = np.moveaxis(x, 1, 2) if axis == 0 else x
    y = (
        params["batchnorm_0/gamma"] * (y - mean) / np.sqrt(variance + 1e-3)
        + params["batchnorm_0/beta"]
    )
    y = np.moveaxis(y, 1, 2) if axis == 0 else y
    assert_allclose(out, y.reshape(N_STARS, -1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("n_axes", [1, 2])
def test_layer_normalisation_has_zero_mean_and_unit_variance(n_axes):
    x, axes = draw(), tuple(range(3 - n_axes, 3))
    out, params = run([ss.LayerNorm(1e-3, n_axes=n_axes)], x, x[0].shape)
    y = (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + 1e-3)
    y = y * params["layernorm_0/gamma"] + params["layernorm_0/beta"]
    assert_allclose(out, y.reshape(N_STARS, -1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_pixels", [7, 8])
def test_flux_over_its_median(n_pixels):
    X = np.random.default_rng(4).uniform(1, 2, (N_STARS, n_pixels))
    net = ss.Network([ss.MedianNormalize()], n_pixels)
    assert_allclose(
        ss.compile_predict(net)(np.empty(0), X), X / np.median(X, axis=1, keepdims=True), rtol=1e-14
    )
    check_flux_jacobian(net, np.empty(0), X)


def test_flux_over_polynomials_fitted_to_continuum_pixels():
    rng, wavelength = np.random.default_rng(5), np.linspace(4000, 5000, 40)
    pixels, gap = rng.random(40) > 0.3, 4400.0
    X = rng.uniform(1, 2, (N_STARS, 40))
    net = ss.Network(
        [ss.ContinuumNormalize.polynomial(wavelength, 2, pixels=pixels, gaps=[gap])], 40
    )
    expected = np.empty_like(X)
    for here in (wavelength <= gap, wavelength > gap):
        for star in range(N_STARS):
            fitted = np.polyfit(wavelength[here & pixels] - 4500, X[star, here & pixels], 2)
            expected[star, here] = X[star, here] / np.polyval(fitted, wavelength[here] - 4500)
    assert_allclose(ss.compile_predict(net)(np.empty(0), X), expected, rtol=1e-9)
    check_flux_jacobian(net, np.empty(0), X)


def test_branches_meet_where_they_are_told_to():
    both, start = ss.Identity(), ss.Dense(4)
    photometry, tower = ss.Dense(4), ss.Activation("tanh")
    layers = [both, ss.Slice(0, 6), start, ss.Activation("tanh"), ss.Dense(4), ss.Add(start), tower]
    layers += [ss.From(both), ss.Slice(6, 9), photometry, ss.Concatenate(tower, start), ss.Dense(2)]
    net = ss.Network(layers, 9)
    theta, X = (
        net.init_params(np.random.default_rng(0)),
        np.random.default_rng(1).normal(size=(N_STARS, 9)),
    )
    W = {name: array for name, array in net.unpack(theta).items() if name.endswith("kernel")}
    first = X[:, :6] @ W["dense_0/kernel"]
    top = np.tanh(first + np.tanh(first) @ W["dense_1/kernel"])
    joined = np.hstack([top, first, X[:, 6:] @ W["dense_2/kernel"]])
    assert_allclose(ss.compile_predict(net)(theta, X), joined @ W["dense_3/kernel"], rtol=1e-12)
    moved = ss.standardized(net, X, np.eye(3)[:, :2]).sources  # references go with their layers
    assert (net.sources[5], net.sources[10]) == ((2,), (6, 2))
    assert (moved[6], moved[11]) == ((3,), (7, 3))


@pytest.mark.parametrize("seed", range(20))
def test_windows_and_their_adjoint_are_transposes(seed):
    """Sums of products agree, for geometries drawn at random: <Slide x, y> = <x, Unslide y>."""
    rng = np.random.default_rng(seed)
    length, size, stride = rng.integers(1, 12, 3)
    before, n, n_channels = rng.integers(0, 5), rng.integers(1, 9), rng.integers(1, 4)
    geometry = [int(g) for g in (length, before, n, size, stride)]
    x, y = rng.normal(size=(2, length, n_channels)), rng.normal(size=(2, n, size * n_channels))
    slid, unslid = Slide(*geometry)(x).eval(), Unslide(*geometry)(y).eval()
    assert slid.shape == y.shape
    assert unslid.shape == x.shape
    assert_allclose(np.vdot(slid, y), np.vdot(x, unslid), rtol=1e-12)


def test_first_largest_marks_one_position_of_each_window():
    x = np.array([[[1.0, 2], [3, 2], [3, 1]]])
    assert FirstLargest()(x).eval().tolist() == [[[0, 1], [1, 0], [0, 0]]]


# --- bad input


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: ss.Conv1D(0, 3), OptionError, "filters should be a positive integer, got 0"),
        (lambda: ss.Conv1D(3, 3, padding="full"), OptionError, "padding should be one of"),
        (
            lambda: ss.Conv1D(3, 3, padding=-1),
            OptionError,
            "padding should be an integer of at least 0",
        ),
        (lambda: ss.Conv1D(3, 3, data_format="NCW"), OptionError, "data_format"),
        (
            lambda: ss.LocallyConnected1D(3, 0),
            OptionError,
            "kernel_size should be a positive integer, got 0",
        ),
        (
            lambda: ss.Network([ss.Reshape((9, 1)), ss.LocallyConnected1D(3, 10)], 9),
            ShapeError,
            "10 positions",
        ),
        (
            lambda: ss.MaxPool1D(2, padding=2),
            OptionError,
            "padding should be less than pool_size 2",
        ),
        (lambda: ss.MaxPool1D(2, padding="causal"), OptionError, "padding should be one of"),
        (lambda: ss.Network([ss.Conv1D(3, 3), ss.Flatten()], 9), ShapeError, "put Reshape"),
        (
            lambda: ss.Network([ss.Reshape((9, 1)), ss.Conv1D(3, 10), ss.Flatten()], 9),
            ShapeError,
            "10 positions",
        ),
        (
            lambda: ss.Network([ss.Reshape((9, 1)), ss.Conv1D(3, 2)], 9),
            ShapeError,
            r"put Flatten\(\)",
        ),
        (lambda: ss.Network([ss.Reshape((4, 2))], 9), ShapeError, "the sizes differ"),
        (lambda: ss.Network([ss.Slice(2, 10)], 9), ShapeError, "slice until 10"),
        (lambda: ss.Slice(3, 3), OptionError, "stop should be an integer of at least 4"),
        (lambda: ss.Network([ss.Dense(2), ss.Add(ss.Dense(2))], 9), OptionError, "stand before it"),
        (lambda: ss.Add(3), OptionError, "takes layers"),
        (
            lambda: ss.Network([d := ss.Dense(2), ss.Dense(3), ss.Add(d)], 9),
            ShapeError,
            "one shape",
        ),
        (lambda: ss.BatchNorm([0.0], [-1.0]), DataError, "should be positive"),
        (lambda: ss.BatchNorm([0.0, 1], [1.0]), ShapeError, "one length"),
        (
            lambda: ss.Network([ss.BatchNorm([0.0], [1.0])], 9),
            ShapeError,
            "batchnorm of 1 channels",
        ),
        (lambda: ss.LayerNorm(n_axes=0), OptionError, "n_axes"),
        (
            lambda: ss.ContinuumNormalize.polynomial(np.arange(5.0), 5),
            DataError,
            "at least 6 continuum pixels",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_words(build, error, words):
    with pytest.raises(error, match=words):
        build()


PLAIN_JAX = """
import sys, numpy as np, pytensor, pytensor.tensor as pt, symspec as ss
layers = [ss.Reshape((12, 1)), ss.Conv1D(2, 3), ss.MaxPool1D(2), ss.Flatten(), ss.Dense(1)]
net = ss.Network(layers, 12)
theta, flux = pt.vector("theta"), pt.matrix("flux")
labels = net(theta, flux)
plain = pytensor.function([theta, flux], labels, mode="FAST_COMPILE")
assert "jax" not in sys.modules
fn = pytensor.function([theta, flux], labels, mode="JAX")
rng = np.random.default_rng(0)
weights, X = net.init_params(rng), rng.normal(size=(3, 12))
print(np.abs(np.asarray(fn(weights, X)) - plain(weights, X)).max() < 1e-12)
"""


def test_a_graph_is_compiled_for_jax_by_pytensor_alone():
    """In a process where symspec has compiled nothing for JAX."""
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_JAX], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True"], done.stderr
