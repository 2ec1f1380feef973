"""A network, with noise and prior where it has them, as groups and arrays of an archive."""

from __future__ import annotations

from typing import Any

import numpy as np

from symspec.files.stored.archive import Archive, write_array, write_attribute, write_strings
from symspec.files.stored.layers import read_layer, read_wavelength, write_layer, write_wavelength
from symspec.networks.layers import Layer
from symspec.networks.network import Network
from symspec.networks.noise import NOISES, GaussianNoise, Noise
from symspec.networks.regression import Regression


def write_network(file: Any, net: Network, theta: np.ndarray) -> None:
    """Write layers, labels, wavelengths and weights."""
    write_attribute(file, "n_pixels", net.n_pixels)
    write_attribute(file, "n_layers", len(net.layers))
    if net.n_labels < net.n_outputs:
        write_attribute(file, "n_labels", net.n_labels)
    write_strings(file, "label_names", net.label_names)
    write_strings(file, "label_units", net.label_units)
    write_wavelength(file, net)
    for i, layer in enumerate(net.layers):
        write_layer(file.create_group(f"layers/{i}"), layer, net.sources[i])
    for name, block in net.unpack(theta).items():
        write_array(file, f"params/{name}", block)


def write_regression(file: Any, reg: Regression) -> None:
    """Write noise and prior."""
    group = file.create_group("regression")
    if reg.noise.kind != GaussianNoise.kind:  # which a file that names none has
        write_attribute(group, "noise", reg.noise.kind)
    for name, array in reg.noise.to_arrays().items():
        write_array(group, name, array)
    for name, precision in reg.prior_precision.items():
        write_array(group, f"prior_precision/{name}", precision)


def read_network(archive: Archive) -> tuple[Network, np.ndarray]:
    """Read a network with its weights (param,)."""
    n_pixels = archive.attribute("/", "n_pixels", int)
    names = archive.strings("label_names")
    units = archive.strings("label_units")
    layers: list[Layer] = []
    for i in range(archive.attribute("/", "n_layers", int)):
        layers.append(read_layer(archive, f"layers/{i}", layers))
    n_labels = None  # all outputs are labels
    if "n_labels" in archive.tree.attrs:
        n_labels = archive.attribute("/", "n_labels", int)
    net = Network(
        layers,
        n_pixels,
        n_labels=n_labels,
        label_names=names,
        label_units=units,
        **read_wavelength(archive, n_pixels),
    )
    blocks = {}
    for block in net.layout.blocks:
        blocks[block.name] = archive.array(f"params/{block.name}", block.shape, finite=True)
    return net, net.pack(blocks)


def read_regression(archive: Archive, net: Network) -> Regression:
    """Read noise and prior of a network.

    Raises
    ------
    FileFormatError
        There are none, or they do not fit it.
    """
    if "regression" not in archive.tree:
        advice = "write it with write_network(path, net, theta, reg=reg)"
        raise archive.refusal(
            "regression", "in the file", "a network alone, without noise and prior", advice
        )
    noise = _read_noise(archive, net.n_labels)
    prior = {}
    for block in net.layout.blocks:
        name = f"regression/prior_precision/{block.name}"
        prior[block.name] = archive.array(name, block.shape if archive.find(name).shape else ())
    return Regression(net, noise=noise, prior_precision=prior)


def _read_noise(archive: Archive, n_labels: int) -> Noise:
    group = archive.find("regression")
    kind = GaussianNoise.kind  # of files that name none
    if "noise" in group.attrs:
        kind = archive.attribute("regression", "noise", str)
    if kind not in NOISES:
        known = f"one of {', '.join(NOISES)}"
        raise archive.refusal("regression@noise", known, kind, "a newer symspec wrote it, update")
    shapes = NOISES[kind].stored_shapes(group, n_labels)
    arrays = {name: archive.array(f"regression/{name}", shape) for name, shape in shapes.items()}
    return NOISES[kind].from_arrays(arrays)
