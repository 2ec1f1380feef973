"""Networks and Laplace posteriors as plain arrays in one HDF5 file.

Everything is a dataset or an attribute under a name that says what it is, so that any HDF5 reader
can use it: ``params/dense_0/kernel`` (in, out), ``layers/0``, ``regression/noise_covariance``, ...
What is read predicts as what was written, bit by bit.
"""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

import numpy as np

from symspec.derivatives.backends import BACKENDS
from symspec.derivatives.functions import DTYPES
from symspec.errors import OptionError
from symspec.files.archive_format import (
    Archive,
    create_archive,
    open_archive,
    write_array,
    write_attribute,
    write_words,
)
from symspec.files.inverse_archives import INVERSES
from symspec.files.layer_archives import check_layers, read_layer, write_layer
from symspec.inverse_hessian.choice import CURVATURES
from symspec.laplace.certificate import Certificate
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.training_space import TrainingSpace
from symspec.networks.layers import Layer
from symspec.networks.network import Network
from symspec.networks.noise import NOISES, GaussianNoise, Noise
from symspec.networks.regression import Regression
from symspec.safety.checks import check_choice, check_theta

NETWORK = "symspec network"
LAPLACE = "symspec laplace"


def write_network(
    path: str | os.PathLike[str],
    net: Network,
    theta: Any,
    *,
    reg: Regression | None = None,
    overwrite: bool = False,
) -> None:
    """Write a network with its weights.

    Parameters
    ----------
    path : str or path
        The file, HDF5 whatever its name.
    net : Network
    theta : array_like, shape (param,)
    reg : Regression, optional
        Its noise and prior are written too; `read_regression` gives them back.
    overwrite : bool, default False
        Whether a file already there is replaced.

    Raises
    ------
    FileKeptError
        There is a file already, and `overwrite` is False.
    OptionError
        `reg` is of another network, or a layer is none of symspec's own.
    ShapeError, DataError
        `theta` does not fit the network.
    """
    theta = check_theta(theta, net.n_params)
    check_layers(net.layers)
    if reg is not None and reg.net is not net:
        raise OptionError(
            f"reg should be a regression of net, {net!r}, got one of {reg.net!r}: give net=reg.net."
        )
    with create_archive(path, NETWORK, overwrite=overwrite) as file:
        _write_network(file, net, theta)
        if reg is not None:
            _write_regression(file, reg)


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether an HDF5 file says that symspec wrote it; one that cannot be opened is taken for such, to be told of."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            kind = file.attrs.get("format")
    except (OSError, RuntimeError):
        return True
    return (kind.decode(errors="replace") if isinstance(kind, bytes) else kind) in (
        NETWORK,
        LAPLACE,
    )


def read_network(path: str | os.PathLike[str]) -> tuple[Network, np.ndarray]:
    """Read a network with its weights, from a file of `write_network` or `write_laplace`.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    Network
    theta : numpy.ndarray, shape (param,)

    Raises
    ------
    FileNotFoundError
        When there is nothing at `path`.
    FileFormatError
        The file is foreign, damaged, of a newer version, or its arrays do not fit its layers.
    """
    with open_archive(path, (NETWORK, LAPLACE)) as archive:
        return _read_network(archive)


def read_regression(path: str | os.PathLike[str]) -> tuple[Regression, np.ndarray]:
    """Read a regression (network, noise and prior) with its weights.

    Parameters
    ----------
    path : str or path
        Of `write_network` with `reg`, or of `write_laplace`.

    Returns
    -------
    Regression
    theta : numpy.ndarray, shape (param,)

    Raises
    ------
    FileNotFoundError, FileFormatError
        As `read_network`; also when the file holds no regression.
    """
    with open_archive(path, (NETWORK, LAPLACE)) as archive:
        net, theta = _read_network(archive)
        return _read_regression(archive, net), theta


def write_laplace(
    path: str | os.PathLike[str], laplace: LaplacePosterior, *, overwrite: bool = False
) -> None:
    """Write a Laplace posterior: network, weights, noise, prior, inverse Hessian and certificate.

    Parameters
    ----------
    path : str or path
        The file, HDF5 whatever its name. As large as the factors: 8 bytes x n_params^2 for
        "primal", or 8 bytes x n_rows^2 for "dual", n_rows being the observed labels of all training
        stars; "krylov" keeps the tangents of all training stars, 8 bytes x (inputs + labels x
        outputs of all layers) for each.
    laplace : LaplacePosterior
    overwrite : bool, default False
        Whether a file already there is replaced.

    Raises
    ------
    FileKeptError
        There is a file already, and `overwrite` is False.
    OptionError
        A layer, or the structure of the inverse Hessian, is none of symspec's own.
    """
    check_layers(laplace.reg.net.layers)
    check_choice(laplace.structure, "laplace.structure", tuple(INVERSES))
    with create_archive(path, LAPLACE, overwrite=overwrite) as file:
        _write_network(file, laplace.reg.net, laplace.theta)
        _write_regression(file, laplace.reg)
        group = file.create_group("laplace")
        write_attribute(group, "negative_log_posterior", float(laplace.negative_log_posterior))
        for word in ("curvature", "structure", "reason", "backend", "dtype"):
            write_attribute(group, word, getattr(laplace, word))
        write_array(group, "flux_mean", laplace.flux_mean)
        write_array(group, "label_range", laplace.label_range)
        if laplace.hmc_verdict:
            write_words(group, "hmc_verdict", laplace.hmc_verdict)
        _write_certificate(group.create_group("certificate"), laplace.certificate)
        if laplace.training_space is not None:
            _write_training_space(group.create_group("training_space"), laplace.training_space)
        for name, array in laplace.inverse_hessian.arrays().items():
            write_array(group, f"inverse_hessian/{name}", array)


def read_laplace(path: str | os.PathLike[str]) -> LaplacePosterior:
    """Read a Laplace posterior, whose predictions and draws are those of the one written, bit by bit.

    Parameters
    ----------
    path : str or path
        Of `write_laplace`.

    Returns
    -------
    LaplacePosterior

    Raises
    ------
    FileNotFoundError, FileFormatError
        As `read_network`.
    """
    with open_archive(path, (LAPLACE,)) as archive:
        net, theta = _read_network(archive)
        reg = _read_regression(archive, net)
        choices = {
            "curvature": CURVATURES,
            "structure": tuple(INVERSES),
            "backend": BACKENDS,
            "dtype": DTYPES,
        }
        words = {
            k: check_choice(archive.attribute("laplace", k, str), k, known)
            for k, known in choices.items()
        }
        is_checked = "hmc_verdict" in archive.find("laplace")
        return LaplacePosterior(
            reg=reg,
            theta=theta,
            inverse_hessian=INVERSES[words["structure"]](archive, reg),
            certificate=_read_certificate(archive, net.n_labels),
            negative_log_posterior=archive.attribute("laplace", "negative_log_posterior", float),
            reason=archive.attribute("laplace", "reason", str),
            flux_mean=archive.array("laplace/flux_mean", (net.n_pixels,), finite=True),
            label_range=archive.array("laplace/label_range", (2, net.n_labels)),
            hmc_verdict=tuple(archive.words("laplace/hmc_verdict")) if is_checked else (),
            training_space=_read_training_space(archive, net.n_pixels),
            **words,
        )


# --- writing


def _write_network(file: Any, net: Network, theta: np.ndarray) -> None:
    write_attribute(file, "n_pixels", net.n_pixels)
    write_attribute(file, "n_layers", len(net.layers))
    write_words(file, "label_names", net.label_names)
    write_words(file, "label_units", net.label_units)
    if net.wavelength is not None:
        write_array(file, "wavelength", net.wavelength)
        write_attribute(file["wavelength"], "unit", net.wavelength_unit)
    for i, layer in enumerate(net.layers):
        write_layer(file.create_group(f"layers/{i}"), layer, net.sources[i])
    for name, block in net.unpack(theta).items():
        write_array(file, f"params/{name}", block)


def _write_regression(file: Any, reg: Regression) -> None:
    group = file.create_group("regression")
    if reg.noise.kind != GaussianNoise.kind:  # which a file that names none has
        write_attribute(group, "noise", reg.noise.kind)
    for name, array in reg.noise.to_arrays().items():
        write_array(group, name, array)
    for name, precision in reg.prior_precision.items():
        write_array(group, f"prior_precision/{name}", precision)


def _write_certificate(group: Any, certificate: Certificate) -> None:
    for field in fields(Certificate):
        value = getattr(certificate, field.name)
        if field.name == "newton_shift":
            write_array(group, field.name, np.asarray(value, np.float64))
        else:
            write_attribute(group, field.name, value)


def _write_training_space(group: Any, space: TrainingSpace) -> None:
    for field in fields(TrainingSpace):
        write_array(group, field.name, getattr(space, field.name))


# --- reading


def _read_network(archive: Archive) -> tuple[Network, np.ndarray]:
    n_pixels = archive.attribute("/", "n_pixels", int)
    names = archive.words("label_names")
    units = archive.words("label_units")
    layers: list[Layer] = []
    for i in range(archive.attribute("/", "n_layers", int)):
        layers.append(read_layer(archive, f"layers/{i}", layers))
    grid = {}
    if "wavelength" in archive.tree:
        grid["wavelength"] = archive.array("wavelength", (n_pixels,))
        grid["wavelength_unit"] = archive.attribute("wavelength", "unit", str)
    net = Network(layers, n_pixels, label_names=names, label_units=units, **grid)
    blocks = {
        b.name: archive.array(f"params/{b.name}", b.shape, finite=True) for b in net.layout.blocks
    }
    return net, net.pack(blocks)


def _read_regression(archive: Archive, net: Network) -> Regression:
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


def _read_certificate(archive: Archive, n_labels: int) -> Certificate:
    place = "laplace/certificate"
    kinds = {"is_minimum": bool, "message": str}
    names = [field.name for field in fields(Certificate) if field.name != "newton_shift"]
    if "largest_eigenvalue" not in archive.find(place).attrs:  # as files of symspec 0.1 are
        names.remove("largest_eigenvalue")
    values = {"largest_eigenvalue": np.nan} | {
        name: archive.attribute(place, name, kinds.get(name, float)) for name in names
    }
    return Certificate(newton_shift=archive.array(f"{place}/newton_shift", (n_labels,)), **values)


def _read_training_space(archive: Archive, n_pixels: int) -> TrainingSpace | None:
    if "training_space" not in archive.find(
        "laplace"
    ):  # few training stars, or a file of symspec 0.1
        return None
    place = "laplace/training_space"
    k = len(archive.array(f"{place}/variances", (None,)))
    shapes = {
        "mean": (n_pixels,),
        "scale": (n_pixels,),
        "components": (k, n_pixels),
        "variances": (k,),
    }
    shapes |= {"residual_variance": (n_pixels,), "quantiles": (2,)}
    infinite = {"scale"}  # where a pixel never varies
    return TrainingSpace(
        **{
            n: archive.array(f"{place}/{n}", shape, finite=n not in infinite)
            for n, shape in shapes.items()
        }
    )
