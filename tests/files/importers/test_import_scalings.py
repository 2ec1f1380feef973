"""Scalings of flux and labels, and wavelengths, which a file of weights does not hold."""

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose

import symspec as ss
from symspec.errors import DataError, ShapeError

FLUX, LABELS = (np.linspace(0.8, 1.2, 6), 0.1), ([5000.0, 3.0], [800.0, 0.9])


@pytest.fixture
def trained(tmp_path):
    """Weights of a network of standardised flux and labels; its predictions in their own units."""
    rng = np.random.default_rng(0)
    net = ss.mlp([6, 4, 2], activation="tanh")
    theta = net.init_params(rng).astype(np.float32)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.attrs["layer_names"] = list(net.layout.layers)
        for layer in net.layout.layers:
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}/{key}:0" for key in ("kernel", "bias")]
            for name in group.attrs["weight_names"]:
                group[name] = net.unpack(theta)[name.removesuffix(":0")]
    X = 1 + 0.1 * rng.normal(size=(8, 6))
    Y = ss.compile_predict(net)(theta, (X - FLUX[0]) / FLUX[1]) * LABELS[1] + LABELS[0]
    return tmp_path / "weights.h5", net, X, Y


def test_scalings_make_flux_and_labels_keep_their_own_units(trained):
    path, net, X, Y = trained
    read, theta = ss.read_network(
        path,
        net=net,
        check=(X, Y),
        flux_scaling=FLUX,
        label_scaling=LABELS,
        wavelength=np.arange(6.0) + 500,
        wavelength_unit="nm",
    )
    assert_allclose(ss.compile_predict(read)(theta, X), Y, rtol=1e-12)
    assert read.wavelength_unit == "nm"
    assert_allclose(read.wavelength, np.arange(6.0) + 500, rtol=0)


def test_labels_that_were_scaled_are_told_with_the_numbers(trained):
    path, net, X, Y = trained
    advice = r"labels were scaled .* label_scaling=\(\[5000.0, 3.0\], \[800.0, 0.9\]\)"
    with pytest.raises(DataError, match=advice):
        ss.read_network(path, net=net, check=(X, Y), flux_scaling=FLUX)
    with pytest.raises(DataError, match="The weights, a scaling or an activation differ"):
        ss.read_network(path, net=net, check=(X, Y), label_scaling=LABELS)


def test_a_scaling_of_another_length_is_refused(trained):
    path, net, _, _ = trained
    with pytest.raises(
        ShapeError,
        match=r"label_scaling should be a mean and a scale, .* \(2,\), got shapes \(3,\), \(\)",
    ):
        ss.read_network(path, net=net, label_scaling=([1, 2, 3], 1.0))
