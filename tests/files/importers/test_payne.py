"""Emulators of The Payne give the spectra of its own formula."""

import numpy as np
import pytest
from network_files import payne_arrays
from reference_networks import assert_predicts, needs

from symspec.derivatives.compiled import compile_jacobian
from symspec.errors import DataError, FileFormatError, OptionError
from symspec.files.importers.payne import import_payne
from symspec.files.importers.read import import_network


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def payne_labels(rng):
    return np.array([5500.0, 2.5, -1.0]) + rng.normal(size=(4, 3)) * [500, 1, 0.3]


def payne_spectra(arrays, labels, activation):
    """The formula of The Payne's own code, star by star."""
    spectra = []
    for star in (labels - arrays["x_min"]) / (arrays["x_max"] - arrays["x_min"]) - 0.5:
        x = star
        n = sum(name.startswith("w_") for name in arrays)
        for i in range(n):
            x = (
                np.einsum("ij,j->i", arrays[f"w_array_{i}"].astype(float), x)
                + arrays[f"b_array_{i}"]
            )
            x = activation(x) if i < n - 1 else x
        spectra.append(x)
    return np.array(spectra)


def payne_leaky_relu(z):
    return np.maximum(0, z) + 0.01 * np.minimum(0, z)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


PAYNE = {"leaky_relu": payne_leaky_relu, "sigmoid": sigmoid}


@pytest.mark.parametrize("activation", PAYNE)
def test_an_emulator_of_the_payne_gives_the_spectra_of_its_own_formula(rng, tmp_path, activation):
    arrays, labels = payne_arrays(rng), payne_labels(rng)
    np.savez(tmp_path / "nn.npz", **arrays)
    spectra = payne_spectra(arrays, labels, PAYNE[activation])
    assert_predicts(import_payne(tmp_path / "nn.npz", activation=activation), labels, spectra)
    chosen = import_payne(tmp_path / "nn.npz", activation=activation, pixels=[6, 1])
    assert_predicts(chosen, labels, spectra[:, [6, 1]])


@pytest.mark.parametrize("activation", PAYNE)
def test_a_sample_of_spectra_tells_the_activation_that_the_file_does_not_say(
    rng, tmp_path, activation
):
    arrays, labels = payne_arrays(rng), payne_labels(rng)
    np.savez(tmp_path / "nn.npz", **arrays)
    spectra = payne_spectra(arrays, labels, PAYNE[activation])
    names = [f"flux_{i}" for i in range(8)]
    net, theta = import_network(tmp_path / "nn.npz", check=(labels, spectra), label_names=names)
    assert_predicts((net, theta), labels, spectra)
    assert net.label_names == tuple(names)
    with pytest.raises(
        OptionError, match=r"activation should be given.*does not say it.*leaky_relu.*check="
    ):
        import_network(tmp_path / "nn.npz")
    with pytest.raises(DataError, match=r"should predict check, got a largest difference of 0\.00"):
        import_network(tmp_path / "nn.npz", check=(labels, spectra + 1e-3))


def emulate(arrays, labels):
    """Spectra of networks of one pixel each, as El-Badry et al. (2018) have it."""
    s = (labels - arrays["x_min"]) / (arrays["x_max"] - arrays["x_min"]) - 0.5
    inside = np.einsum("ijk,nk->nij", arrays["w_array_0"], s) + arrays["b_array_0"]
    return np.einsum("ij,nij->ni", arrays["w_array_1"], sigmoid(inside)) + arrays["b_array_1"]


def test_networks_of_one_pixel_each_become_one(rng, tmp_path):
    arrays, labels = payne_arrays(rng, (3,)), payne_labels(rng)
    arrays |= {"w_array_0": rng.normal(size=(7, 4, 3)), "b_array_0": rng.normal(size=(7, 4))}
    arrays |= {"w_array_1": rng.normal(size=(7, 4)), "b_array_1": rng.normal(size=7)}
    np.savez(tmp_path / "nn.npz", **arrays)
    spectra = emulate(arrays, labels)
    assert_predicts(import_network(tmp_path / "nn.npz"), labels, spectra)
    assert_predicts(
        import_network(tmp_path / "nn.npz", pixels=slice(2, 5)), labels, spectra[:, 2:5]
    )
    with pytest.raises(OptionError, match="pixels should choose from the 7 in the file"):
        import_network(tmp_path / "nn.npz", pixels=[7])


def test_a_third_layer_of_one_pixel_networks_is_a_number_a_pixel(rng, tmp_path):
    """Ting et al. (2018): w_array_2 sigmoid(w_array_1 sigmoid(w_array_0 s + b_0) + b_1) + b_2."""
    arrays, labels = payne_arrays(rng, (3,)), payne_labels(rng)
    shapes = {"w_array_0": (7, 4, 3), "b_array_0": (7, 4), "w_array_1": (7, 4)}
    shapes |= dict.fromkeys(("b_array_1", "w_array_2", "b_array_2"), (7,))
    arrays |= {name: rng.normal(size=shape) for name, shape in shapes.items()}
    np.savez(tmp_path / "nn.npz", **arrays)
    s = (labels - arrays["x_min"]) / (arrays["x_max"] - arrays["x_min"]) - 0.5
    inside = sigmoid(np.einsum("ijk,nk->nij", arrays["w_array_0"], s) + arrays["b_array_0"])
    outside = sigmoid(np.einsum("ij,nij->ni", arrays["w_array_1"], inside) + arrays["b_array_1"])
    assert_predicts(
        import_network(tmp_path / "nn.npz"),
        labels,
        arrays["w_array_2"] * outside + arrays["b_array_2"],
    )


has_payne, PAYNE_FILE = needs("payne_binspec/NN_normalized_spectra.npz")


@has_payne
def test_the_published_emulator_gives_its_spectrum_and_its_derivatives():
    """7,214 pixels x 5 labels, by central differences of NumPy's formula."""
    with np.load(PAYNE_FILE, allow_pickle=False) as file:
        arrays = {name: file[name].astype(float) for name in file.files}
    labels = np.array([[5000, 4.5, -0.1, 0.0, 5.0], [6100, 4.2, 0.1, 0.05, 8.0]])
    spectra = emulate(arrays, labels)
    assert spectra.shape == (2, 7214)
    assert 0.9 < np.median(spectra) < 1.05  # of a normalised spectrum
    net, theta = import_network(PAYNE_FILE)
    assert_predicts((net, theta), labels, spectra)
    assert_predicts(
        import_network(PAYNE_FILE, pixels=slice(3000, 3100)), labels, spectra[:, 3000:3100]
    )
    J = compile_jacobian(net, backend="numpy")(theta, labels)
    for i, step in enumerate(1e-5 * (arrays["x_max"] - arrays["x_min"]) * np.eye(5)):
        above = emulate(arrays, labels + step)
        below = emulate(arrays, labels - step)
        differences = (above - below) / (2 * step[i])
        # truncation 1e-10 of third derivatives, by weights up to 20, and rounding 1e-16 / 1e-5
        np.testing.assert_allclose(
            J[:, :, i], differences, rtol=1e-6, atol=1e-8 * np.abs(differences).max()
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x_max": None}, r"should hold w_array_0, b_array_0, \.\.\., x_min and x_max"),
        (
            {"b_array_1": np.zeros(4, np.float32)},
            r"! expected dense_1/bias|expected dense_1/kernel",
        ),
        ({"w_array_1": np.full((5, 6), np.nan)}, "w_array_1 should be finite"),
        ({"w_array_1": np.array([None, 1], dtype=object)}, "object array, which is a pickle"),
        ({"x_min": np.array([4000.0, 0.0, 9.0])}, "scale positive"),
        ({"x_min": np.zeros(2)}, "of one length"),
        ({"w_array_0": np.zeros(3)}, r"w_array_0 should have shape \(neuron, label\)"),
        ({"w_array_0": np.zeros((8, 4, 3))}, "a network .* for each pixel"),
        ({"w_array_0": np.array(["a"])}, "should hold numbers"),
    ],
    ids=["missing", "shape", "nan", "pickle", "range", "lengths", "axes", "pixels", "words"],
)
def test_a_broken_file_of_the_payne_is_refused(rng, tmp_path, change, words):
    arrays = payne_arrays(rng) | change
    np.savez(
        tmp_path / "nn.npz", **{name: array for name, array in arrays.items() if array is not None}
    )
    with pytest.raises(FileFormatError, match=words):
        import_network(tmp_path / "nn.npz", activation="sigmoid")
