"""Products of branches, slopes that are learnt, convolutions in groups."""

import numpy as np
import pytest
from differences import check_flux_jacobian, differentiate
from numpy.testing import assert_allclose, assert_array_equal

import symspec as ss
from symspec.errors import ShapeError
from symspec.laplace.identity import hash_network

RNG = np.random.default_rng(4)
X = RNG.normal(size=(3, 12))


def gated():
    start, gate = ss.Identity(), ss.Activation("sigmoid")
    branches = [start, ss.Dense(5), gate, ss.From(start), ss.Dense(5), ss.Multiply(gate)]
    return ss.Network([*branches, ss.Dense(2)], 12)


def squeezed():
    """A gate of one number a channel, as squeeze-and-excitation has it."""
    start, gate = ss.Reshape((6, 2)), ss.Reshape((1, 2))
    layers = [start, ss.GlobalAveragePool1D(), ss.Dense(2), ss.Activation("sigmoid"), gate]
    return ss.Network([*layers, ss.From(start), ss.Multiply(gate), ss.Flatten(), ss.Dense(2)], 12)


def sloped():
    layers = [ss.Reshape((6, 2)), ss.PReLU((1, 2)), ss.Flatten(), ss.PReLU((1,))]
    return ss.Network([*layers, ss.Dense(4), ss.PReLU((4,)), ss.Dense(2)], 12)


def grouped(data_format="channels_last"):
    shape = (3, 4) if data_format == "channels_last" else (4, 3)
    layers = [ss.Reshape(shape), ss.Conv1D(6, 2, data_format=data_format, groups=2)]
    return ss.Network([*layers, ss.Activation("tanh"), ss.Flatten(), ss.Dense(2)], 12)


NETWORKS = {"gated": gated, "squeezed": squeezed, "sloped": sloped, "grouped": grouped}


@pytest.fixture(scope="module", params=NETWORKS)
def problem(request):
    net = NETWORKS[request.param]()
    rng = np.random.default_rng(1)
    theta = net.init_params(rng) + 0.2 * rng.normal(size=net.n_params)
    reg = ss.Regression(net, sigma_noise=[0.3, 0.5], prior_precision=ss.scaled_prior(net, 0.7))
    return reg, theta, rng.normal(size=(3, 2))


def test_derivatives_are_those_of_central_differences(problem):
    reg, theta, Y = problem
    check_flux_jacobian(reg.net, theta, X)
    predict = ss.compile_predict(reg.net)
    J = ss.compile_jacobian(reg.net, "theta")(theta, X)
    assert_allclose(J, differentiate(lambda t: predict(t, X), theta), rtol=1e-6, atol=1e-7)
    H = ss.compile_hessian(reg)(theta, X, Y)
    objective = ss.compile_objective(reg)
    numbers = differentiate(lambda t: objective(t, X, Y)[1], theta)
    assert_allclose(H, numbers, rtol=1e-5, atol=1e-6 * np.abs(numbers).max())


def test_a_network_comes_back_from_an_archive(problem, tmp_path):
    reg, theta, _ = problem
    ss.write_network(tmp_path / "net.h5", reg.net, theta)
    net, same = ss.read_network(tmp_path / "net.h5")
    assert_array_equal(same, theta)
    assert_array_equal(ss.compile_predict(net)(theta, X), ss.compile_predict(reg.net)(theta, X))


def test_a_gate_multiplies():
    net = gated()
    theta = RNG.normal(size=net.n_params)
    p = net.unpack(theta)
    gate = 1 / (1 + np.exp(-(X @ p["dense_0/kernel"] + p["dense_0/bias"])))
    product = gate * (X @ p["dense_1/kernel"] + p["dense_1/bias"])
    expected = product @ p["dense_2/kernel"] + p["dense_2/bias"]
    assert_allclose(ss.compile_predict(net)(theta, X), expected, rtol=1e-12)
    start = ss.Dense(5)
    with pytest.raises(ShapeError, match=r"multiply takes arrays of one shape, .* \(5,\), \(4,\)"):
        ss.Network([start, ss.Dense(4), ss.Multiply(start)], 12)


def test_slopes_are_those_of_their_axes():
    net = ss.Network([ss.Reshape((6, 2)), ss.PReLU((1, 2)), ss.Flatten()], 12)
    slopes = np.array([0.5, -2.0])
    x = X.reshape(3, 6, 2)
    expected = np.where(x > 0, x, slopes * x).reshape(3, 12)
    assert_array_equal(ss.compile_predict(net)(slopes, X), expected)
    assert not net.is_smooth
    with pytest.raises(ShapeError, match=r"prelu with slopes \(3,\) stands where there are \(12"):
        ss.Network([ss.PReLU((3,))], 12)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("options", [{}, {"strides": 2, "padding": "same"}, {"dilation": 2}])
def test_groups_are_convolutions_of_their_own_channels(data_format, options):
    """Two groups against two convolutions side by side."""
    is_last = data_format == "channels_last"
    kernel = RNG.normal(size=(2, 2, 6))
    net = ss.Network(
        [
            ss.Reshape((6, 4) if is_last else (4, 6)),
            ss.Conv1D(6, 2, use_bias=False, data_format=data_format, groups=2, **options),
            ss.Flatten(),
        ],
        24,
    )
    x = RNG.normal(size=(3, 6, 4))
    found = ss.compile_predict(net)(
        kernel.ravel(), (x if is_last else x.transpose(0, 2, 1)).reshape(3, 24)
    )
    parts = []
    for g in range(2):
        part = ss.Network([ss.Reshape((6, 2)), ss.Conv1D(3, 2, use_bias=False, **options),
                           ss.Flatten()], 12)  # fmt: skip
        weights = kernel[:, :, 3 * g : 3 * g + 3].ravel()
        made = ss.compile_predict(part)(weights, x[:, :, 2 * g : 2 * g + 2].reshape(3, 12))
        parts.append(made.reshape(3, -1, 3))
    expected = np.concatenate(parts, axis=2)
    expected = expected if is_last else expected.transpose(0, 2, 1)
    assert_allclose(found, expected.reshape(3, -1), rtol=1e-12, atol=1e-14)


def test_groups_divide_the_channels():
    with pytest.raises(ShapeError, match="groups should divide the 4 channels that come in and"):
        ss.Network([ss.Reshape((3, 4)), ss.Conv1D(6, 2, groups=3), ss.Flatten()], 12)


def test_one_group_is_the_convolution_of_before(tmp_path):
    """Its digest, by which catalogues know networks, does not tell of groups."""
    nets = [
        ss.Network([ss.Reshape((12, 1)), ss.Conv1D(2, 3, **options), ss.Flatten()], 12)
        for options in ({}, {"groups": 1})
    ]
    theta = np.arange(8.0)
    assert hash_network(nets[0], theta) == hash_network(nets[1], theta)
    # of symspec 0.1, which had no groups
    assert hash_network(nets[0], theta) == "44976a8195ba644523d8a7644def38b3"
    ss.write_network(tmp_path / "net.h5", nets[0], theta)
    import h5py

    with h5py.File(tmp_path / "net.h5") as file:
        held = []
        file.visititems(lambda name, one: held.extend(one.attrs))
    assert "groups" not in held
