"""Theta is flat, layer by layer, kernel in C order, then bias; initialisers are Keras's."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from symspec.derivatives.compiled import compile_predict
from symspec.derivatives.machine import calls
from symspec.errors import DataError, OptionError, ShapeError
from symspec.networks.convolutions import Conv1D, LocallyConnected1D
from symspec.networks.layers import Activation, Dense, Dropout, Standardize
from symspec.networks.network import Network, dropout_layers, mlp
from symspec.networks.params import ParamLayout
from symspec.networks.prior import scaled_prior
from symspec.networks.shaping import Flatten, Reshape


@pytest.fixture
def net():
    return mlp([4, 3, 2], activation="tanh")


# --- the layout


def test_theta_is_each_kernel_row_by_row_and_then_its_bias(net):
    params = net.unpack(np.arange(23))
    assert list(params) == ["dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias"]
    assert_array_equal(params["dense_0/kernel"], [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]])
    assert_array_equal(params["dense_0/bias"], [12, 13, 14])
    assert_array_equal(params["dense_1/kernel"], [[15, 16], [17, 18], [19, 20]])
    assert_array_equal(params["dense_1/bias"], [21, 22])
    assert net.n_params == 23


def test_packing_undoes_unpacking_whatever_the_order_of_the_dict(net):
    theta = np.random.default_rng(0).normal(size=23)
    params = net.unpack(theta)
    assert_array_equal(net.pack(params), theta)
    assert_array_equal(net.pack(dict(reversed(params.items()))), theta)


def test_packing_a_kernel_in_fortran_order_keeps_its_entries(net):
    params = net.unpack(np.arange(23.0))
    assert_array_equal(
        net.pack({k: np.asfortranarray(p) for k, p in params.items()}), np.arange(23)
    )


def test_unpacked_blocks_are_views_of_theta(net):
    theta = np.zeros(23)
    net.unpack(theta)["dense_1/bias"][1] = 5
    assert theta[22] == 5


def test_symbolic_blocks_join_to_the_same_vector(net, compile_plainly):
    theta = pt.vector("theta")
    joined = compile_plainly([theta], net.layout.join(net.layout.unpack(theta)))
    assert_array_equal(joined(np.arange(23.0)), np.arange(23))


def test_a_layer_without_bias_has_only_its_kernel():
    net = Network([Dense(3, use_bias=False), Dropout(0.1), Activation("relu"), Dense(1)], 2)
    assert [(b.name, b.shape, b.offset) for b in net.layout.blocks] == [
        ("dense_0/kernel", (2, 3), 0),
        ("dense_1/kernel", (3, 1), 6),
        ("dense_1/bias", (1,), 9),
    ]
    assert net.dense_shapes == {"dense_0": (2, 3), "dense_1": (3, 1)}
    assert [(name, width) for name, (_, width) in dropout_layers(net).items()] == [
        ("dropout_0", (3,))
    ]


def test_expanding_repeats_a_blocks_number_for_each_of_its_parameters():
    layout = ParamLayout({"a": (2, 2), "b": (3,)})
    assert_array_equal(layout.expand({"a": 5, "b": [1, 2, 3]}), [5, 5, 5, 5, 1, 2, 3])


def test_a_network_of_seventeen_million_parameters_counts_them_without_making_them():
    assert mlp([7213, 2048, 512, 512, 512, 3], activation="relu").n_params == sum(
        (n + 1) * m for n, m in [(7213, 2048), (2048, 512), (512, 512), (512, 512), (512, 3)]
    )


BLOCKS = {
    "dense_0/kernel": np.ones((4, 3)),
    "dense_0/bias": np.ones(3),
    "dense_1/kernel": np.ones((3, 2)),
    "dense_1/bias": np.ones(2),
}


@pytest.mark.parametrize(
    ("error", "change", "words"),
    [
        (
            ShapeError,
            {"dense_0/kernel": np.ones((3, 4))},
            r"shape \(4, 3\), got \(3, 4\). It looks transposed .*pass its .T",
        ),
        (
            ShapeError,
            {"dense_0/kernel": np.ones((4, 2))},
            r"dense_0/kernel should have shape \(4, 3\), got \(4, 2\)\.$",
        ),
        (
            ShapeError,
            {"dense_1/bias": np.ones((2, 1))},
            r"dense_1/bias should have shape \(2,\), got \(2, 1\)",
        ),
        (
            DataError,
            {"dense_2/bias": np.ones(2)},
            r"none are missing and \['dense_2/bias'\] are unknown",
        ),
        (DataError, {"dense_1/bias": None}, r"\['dense_1/bias'\] are missing and none are unknown"),
    ],
    ids=["transposed", "wrong kernel", "wrong bias", "unknown block", "missing block"],
)
def test_blocks_that_do_not_fit_are_refused_in_words(net, error, change, words):
    params = {name: block for name, block in (BLOCKS | change).items() if block is not None}
    with pytest.raises(error, match=words):
        net.pack(params)


# --- initial parameters


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        ("he_normal", 2 / 40),
        ("he_uniform", 2 / 40),
        ("glorot_normal", 2 / (40 + 10)),
        ("glorot_uniform", 2 / (40 + 10)),
        ("lecun_normal", 1 / 40),
        ("lecun_uniform", 1 / 40),
    ],
)
def test_kernels_have_the_variance_and_the_bound_of_keras(init, variance):
    net, rng = mlp([40, 10], activation="relu"), np.random.default_rng(8)
    draws = np.array([net.unpack(net.init_params(rng, init))["dense_0/kernel"] for _ in range(100)])
    n, sd = draws.size, np.sqrt(variance)
    # five standard errors; neither distribution has a kurtosis above the normal's 3
    assert abs(draws.mean()) < 5 * sd / np.sqrt(n)
    assert abs(draws.var() / variance - 1) < 5 * np.sqrt(2 / n)
    bound = np.sqrt(3) * sd if init.endswith("uniform") else 2 * sd / 0.87962566103423978
    # none beyond the bound, and with 40,000 draws some that nearly reach it
    assert 0.99 * bound < np.abs(draws).max() <= bound * (1 + 1e-15)


@pytest.mark.parametrize(
    "layer", [Dense(50), Conv1D(5, 3), LocallyConnected1D(5, 3)], ids=lambda layer: layer.kind
)
def test_what_comes_out_of_a_layer_is_as_large_as_what_goes_in(layer):
    """Initial kernels and draws from the scaled prior: the sum over a fan-in of 1/fan-in is 1."""
    rng = np.random.default_rng(0)
    net = Network([Reshape((400, 2)), layer, Flatten()] if layer.kind != "dense" else [layer], 800)
    (kernel,) = (block for block in net.layout.blocks if block.name.endswith("/kernel"))
    flux, predict = rng.normal(size=(50, 800)), compile_predict(net)
    drawn = np.zeros(net.n_params)
    drawn[kernel.slice] = rng.normal(size=kernel.size) / np.sqrt(
        scaled_prior(net, 1.0)[kernel.name]
    )
    for theta in (net.init_params(rng, "lecun_normal"), drawn):
        assert predict(theta, flux).std() == pytest.approx(
            1, rel=0.3
        )  # 30 numbers of a kernel have 13 % of scatter


def test_initial_biases_are_zero_and_every_layer_has_its_own_fan(net):
    wide = mlp([200, 100, 50], activation="relu")
    params = wide.unpack(wide.init_params(np.random.default_rng(0)))
    assert not params["dense_0/bias"].any()
    assert not params["dense_1/bias"].any()
    # 5000 draws or more: 10 % is five standard errors of a standard deviation
    assert_allclose(params["dense_0/kernel"].std(), np.sqrt(2 / 200), rtol=0.1)
    assert_allclose(params["dense_1/kernel"].std(), np.sqrt(2 / 100), rtol=0.1)


def test_the_same_seed_draws_the_same_parameters_and_a_used_generator_draws_others(net):
    rng = np.random.default_rng(4)
    first, second = net.init_params(rng), net.init_params(rng)
    assert_array_equal(first, net.init_params(np.random.default_rng(4)))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("rng", "init", "words"),
    [
        (np.random.default_rng(0), "he_nrmal", "init should be one of .*did you mean 'he_normal'?"),
        (np.random.default_rng(0), "zeros", "init should be one of 'he_normal', .*got 'zeros'"),
        (7, "he_normal", r"got the seed 7: write rng=np.random.default_rng\(7\)"),
        (None, "he_normal", "rng should be a numpy.random.Generator, got None"),
    ],
    ids=["slip", "unknown", "seed", "none"],
)
def test_initial_parameters_need_a_known_word_and_a_generator(net, rng, init, words):
    with pytest.raises(OptionError, match=words):
        net.init_params(rng, init)


# --- building


def test_names_and_units_of_labels_are_kept_or_made_up():
    net = mlp([4, 2], label_names=["TEFF", "LOGG"], label_units=["K", "dex"])
    assert (net.label_names, net.label_units) == (("TEFF", "LOGG"), ("K", "dex"))
    assert mlp([4, 2]).label_names == ("label_0", "label_1")
    assert mlp([4, 2]).label_units == ("", "")


def test_mlp_is_dense_layers_with_the_activation_between_and_a_linear_output(net):
    assert net.layer_names == ["dense_0", "activation_0", "dense_1"]
    assert net.widths == [4, 3, 3, 2]
    assert repr(net) == "Network(4-3-2, 23 parameters, labels label_0, label_1)"
    assert repr(mlp([2, 7000])).endswith("label_6, label_7, ... (7,000))")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Network([], 4), "at least one layer, got none"),
        (lambda: Network([Dense(3), "relu"], 4), r"layers such as Dense\(32\), got 'relu'"),
        (lambda: Network([Dense], 4), r"layers such as Dense\(32\)"),
        (lambda: Network([Dense(3)], 0), "n_pixels should be a positive integer, got 0"),
        (lambda: Network([Dense(3)], 4.0), "n_pixels should be a positive integer, got 4.0"),
        (lambda: mlp([4]), r"at least pixels and labels, got \[4\]"),
        (lambda: mlp([4, 0, 2]), "units should be a positive integer, got 0"),
        (
            lambda: mlp([4, 2], label_names=["TEFF"]),
            r"label_names should be 2 words, one a label, got \['TEFF'\]",
        ),
        (
            lambda: mlp([4, 4], label_names="TEFF"),
            "label_names should be 4 words, one a label, got 'TEFF'",
        ),
        (lambda: mlp([4, 2], label_units=["K", "", ""]), "label_units should be 2 words"),
    ],
    ids=[
        "no layers",
        "word as layer",
        "class as layer",
        "no pixels",
        "float pixels",
        "one size",
        "no units",
        "one name",
        "letters",
        "three units",
    ],
)
def test_a_network_that_makes_no_sense_is_refused_in_words(build, words):
    with pytest.raises(OptionError, match=words):
        build()


# --- symbolic calls


def test_a_matrix_of_flux_gives_a_row_of_labels_for_each_of_its_rows(net, compile_plainly):
    rng = np.random.default_rng(0)
    theta, x, X = pt.vector("theta"), pt.vector("x"), pt.matrix("X")
    t, flux = rng.normal(size=23), rng.normal(size=(5, 4))
    one, many = (
        compile_plainly([theta, x], net(theta, x)),
        compile_plainly([theta, X], net(theta, X)),
    )
    assert one(t, flux[0]).shape == (2,)
    assert_allclose(many(t, flux), [one(t, row) for row in flux], rtol=1e-13)


def test_numbers_may_stand_for_symbols_and_integers_for_flux(net, compile_plainly, monkeypatch):
    monkeypatch.setattr(calls, "TANH", np.tanh)  # which constants meet
    t, flux = np.linspace(-1, 1, 23), np.arange(8).reshape(2, 4)
    theta, X = pt.vector("theta"), pt.matrix("X")
    expected = compile_plainly([theta, X], net(theta, X))(t, flux.astype(float))
    assert_array_equal(compile_plainly([], net(t, flux))(), expected)


def test_a_single_precision_graph_stays_single(net):
    fixed = Network([Standardize(np.zeros(4), np.ones(4)), *net.layers], 4)
    assert fixed(pt.fvector("theta"), pt.fmatrix("X")).dtype == "float32"


@pytest.mark.parametrize(
    ("flux", "words"),
    [
        (
            pt.matrix(shape=(None, 5)),
            r"shape \(star, 4\) or \(4,\), got \(None, 5\): give one spectrum as a vector",
        ),
        (pt.vector(shape=(3,)), r"got \(3,\)"),
        (np.ones((4, 3)), r"got \(4, 3\)"),
        (pt.tensor3(), "several as the rows of a matrix"),
        (pt.scalar(), r"got \(\)"),
    ],
    ids=["pixel too many", "pixel too few", "transposed", "three axes", "number"],
)
def test_symbolic_flux_of_another_shape_is_refused_in_words(net, flux, words):
    with pytest.raises(ShapeError, match=words):
        net(pt.vector(), flux)


W = [np.ones((4, 3)), np.ones(3), np.ones((3, 2)), np.ones(2)]


@pytest.mark.parametrize(
    ("theta", "words"),
    [
        (W, r"one flat vector of 23 parameters, got 4 arrays of shapes \[\(4, 3\).*net.pack\("),
        (tuple(W), r"got 4 arrays .*net.pack\("),
        (BLOCKS, r"got 4 arrays of shapes \[\(4, 3\).*net.pack\("),
        (pt.vector(shape=(22,)), "23 parameters, got 22"),
        (np.ones(24), "23 parameters, got 24"),
        (pt.matrix(), "23 parameters, got 2 axes"),
        (pt.scalar(), "23 parameters, got 0 axes"),
    ],
    ids=["list", "tuple", "dict", "short", "long", "matrix", "number"],
)
def test_symbolic_theta_that_is_not_one_flat_vector_is_refused_in_words(net, theta, words):
    with pytest.raises(ShapeError, match=words):
        net(theta, pt.matrix())


@pytest.mark.parametrize(
    "theta",
    [W, BLOCKS, np.ones(22), np.ones((23, 1)), 1.0],
    ids=["list", "dict", "short", "matrix", "number"],
)
def test_unpacking_anything_but_one_flat_vector_is_refused(net, theta):
    with pytest.raises(ShapeError, match="one flat vector of 23 parameters"):
        net.unpack(theta)


def test_a_shape_known_only_at_run_time_is_checked_there(net, compile_plainly):
    theta, X = pt.vector("theta"), pt.matrix("X")
    f = compile_plainly([theta, X], net(theta, X))
    with pytest.raises((ValueError, AssertionError)):
        f(np.ones(23), np.ones((2, 5)))


def test_building_a_network_does_not_change_pytensors_settings(net):
    before = pytensor.config.floatX
    net(pt.fvector(), pt.fmatrix())
    assert pytensor.config.floatX == before == "float64"
