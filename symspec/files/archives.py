"""Networks and Laplace posteriors as plain arrays in one HDF5 file.

Everything is a dataset or an attribute under a plain name, for any HDF5 reader:
``params/dense_0/kernel`` (in, out), ``layers/0``, ``regression/noise_covariance``, ... A network
that is read predicts as the one written, bit by bit.
"""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives.backends import BACKENDS
from symspec.derivatives.functions import DTYPES
from symspec.errors import OptionError
from symspec.files.archive_format import (
    LAPLACE,
    NETWORK,
    Archive,
    create_archive,
    find_archive_kind,
    open_archive,
    write_array,
    write_attribute,
    write_strings,
)
from symspec.files.layer_archives import (
    check_layers,
    read_layer,
    read_wavelength,
    write_layer,
    write_wavelength,
)
from symspec.inverse_hessian.choice import CURVATURES, INVERSES
from symspec.laplace.certificate import Certificate
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.training_space import TrainingSpace
from symspec.networks.layers import Layer
from symspec.networks.network import Network
from symspec.networks.noise import NOISES, GaussianNoise, Noise
from symspec.networks.regression import Regression
from symspec.networks.theta import check_theta
from symspec.safety.options import check_choice
from symspec.spectra.flux_prior import FluxPrior
from symspec.training.steps.stationary_points import LowestCurvature


def write_network(
    path: str | os.PathLike[str],
    net: Network,
    theta: ArrayLike,
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
        The file, HDF5 whatever its name. It is as large as the factors: 8 bytes x n_params^2 for
        "primal", and 8 bytes x n_rows^2 for "dual", where n_rows counts the observed labels of all
        training stars. "krylov" keeps the tangents of all training stars, 8 bytes x (inputs +
        labels x outputs of all layers) for each.
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
        write_attribute(group, "curvature", laplace.curvature)
        write_attribute(group, "structure", laplace.structure)
        write_attribute(group, "reason", laplace.reason)
        write_attribute(group, "backend", laplace.backend)
        write_attribute(group, "dtype", laplace.dtype)
        write_array(group, "flux_mean", laplace.flux_mean)
        write_array(group, "label_range", laplace.label_range)
        if laplace.gradient is not None:
            write_array(group, "gradient", laplace.gradient)
        if laplace.hmc_verdict:
            write_strings(group, "hmc_verdict", laplace.hmc_verdict)
        _write_certificate(group.create_group("certificate"), laplace.certificate)
        if laplace.training_space is not None:
            _write_arrays(group.create_group("training_space"), laplace.training_space)
        if laplace.flux_prior is not None:
            _write_arrays(group.create_group("flux_prior"), laplace.flux_prior)
        if laplace.label_spread is not None:
            write_array(group, "label_spread", laplace.label_spread)
        for name, array in laplace.inverse_hessian.arrays().items():
            write_array(group, f"inverse_hessian/{name}", array)


def read_laplace(path: str | os.PathLike[str]) -> LaplacePosterior:
    """Read a Laplace posterior; it predicts and draws as the one written, bit by bit.

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
        curvature = archive.attribute("laplace", "curvature", str)
        structure = archive.attribute("laplace", "structure", str)
        kind = INVERSES[check_choice(structure, "structure", tuple(INVERSES))]
        backend, dtype = (archive.attribute("laplace", n, str) for n in ("backend", "dtype"))
        there = archive.find("laplace")
        form = kind.form(archive.find("laplace/inverse_hessian"))
        gradient = None
        if "gradient" in there:  # not in a file of symspec 0.1
            gradient = archive.array("laplace/gradient", (net.n_params,), finite=True)
        return LaplacePosterior(
            reg=reg,
            theta=theta,
            inverse_hessian=form.from_arrays(archive, "laplace/inverse_hessian", reg),
            certificate=_read_certificate(archive, net.n_labels),
            negative_log_posterior=archive.attribute("laplace", "negative_log_posterior", float),
            curvature=check_choice(curvature, "curvature", CURVATURES),
            structure=structure,
            reason=archive.attribute("laplace", "reason", str),
            flux_mean=archive.array("laplace/flux_mean", (net.n_pixels,), finite=True),
            label_range=archive.array("laplace/label_range", (2, net.n_labels)),
            backend=check_choice(backend, "backend", BACKENDS),
            dtype=check_choice(dtype, "dtype", DTYPES),
            hmc_verdict=tuple(archive.strings("laplace/hmc_verdict"))
            if "hmc_verdict" in there
            else (),
            training_space=_read_training_space(archive, net.n_pixels),
            gradient=gradient,
            flux_prior=_read_flux_prior(archive, net.n_pixels),
            label_spread=archive.array("laplace/label_spread", (net.n_labels,), finite=True)
            if "label_spread" in there
            else None,
        )


def read_flux_prior(path: str | os.PathLike[str]) -> FluxPrior | None:
    """Read what training spectra tell of missing pixels, without the rest of a posterior.

    None for one training star, a file of symspec 0.1, a network alone, or a foreign file.
    """
    if find_archive_kind(path) != "laplace":
        return None
    with open_archive(path, (LAPLACE,)) as archive:
        return _read_flux_prior(archive, archive.attribute("/", "n_pixels", int))


# --- writing


def _write_network(file: Any, net: Network, theta: np.ndarray) -> None:
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


def _write_regression(file: Any, reg: Regression) -> None:
    group = file.create_group("regression")
    if reg.noise.kind != GaussianNoise.kind:  # which a file that names none has
        write_attribute(group, "noise", reg.noise.kind)
    for name, array in reg.noise.to_arrays().items():
        write_array(group, name, array)
    for name, precision in reg.prior_precision.items():
        write_array(group, f"prior_precision/{name}", precision)


def _write_certificate(group: Any, certificate: Certificate) -> None:
    for name in ("gradient_norm", "newton_decrement", "n_pieces"):
        write_attribute(group, name, getattr(certificate, name))
    write_array(group, "newton_shift", np.asarray(certificate.newton_shift, np.float64))
    if certificate.known is not None:
        for name, value in asdict(certificate.known).items():
            write_attribute(group, name, value)


def _write_arrays(group: Any, described: TrainingSpace | FluxPrior) -> None:
    for field in fields(described):
        write_array(group, field.name, getattr(described, field.name))


# --- reading


def _read_network(archive: Archive) -> tuple[Network, np.ndarray]:
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
    there = archive.find(place).attrs
    names = [field.name for field in fields(LowestCurvature)]  # symspec 0.1 wrote two of them
    known = {n: archive.attribute(place, n, float) if n in there else np.nan for n in names}
    lowest = LowestCurvature(**known) if "smallest_eigenvalue" in there else None  # not asked for
    return Certificate(
        gradient_norm=archive.attribute(place, "gradient_norm", float),
        newton_decrement=archive.attribute(place, "newton_decrement", float),
        newton_shift=archive.array(f"{place}/newton_shift", (n_labels,)),
        n_pieces=archive.attribute(place, "n_pieces", int) if "n_pieces" in there else 1,
        lowest=lowest,
    )


def _read_training_space(archive: Archive, n_pixels: int) -> TrainingSpace | None:
    if "training_space" not in archive.find("laplace"):
        return None  # few training stars, or a file of symspec 0.1

    def read(name: str, shape: tuple[int | None, ...], *, finite: bool = True) -> np.ndarray:
        return archive.array(f"laplace/training_space/{name}", shape, finite=finite)

    variances = read("variances", (None,))
    return TrainingSpace(
        mean=read("mean", (n_pixels,)),
        scale=read("scale", (n_pixels,), finite=False),  # infinite where a pixel never varies
        components=read("components", (len(variances), n_pixels)),
        variances=variances,
        residual_variance=read("residual_variance", (n_pixels,)),
        quantiles=read("quantiles", (2,)),
    )


def _read_flux_prior(archive: Archive, n_pixels: int) -> FluxPrior | None:
    place = "laplace/flux_prior"
    if "flux_prior" not in archive.find("laplace"):
        return None  # one training star, or a file of symspec 0.1
    return FluxPrior(
        mean=archive.array(f"{place}/mean", (n_pixels,), finite=True),
        loadings=archive.array(f"{place}/loadings", (None, n_pixels), finite=True),
        residual_variance=archive.array(f"{place}/residual_variance", (n_pixels,), finite=True),
        reference=archive.array(f"{place}/reference", (None, n_pixels), finite=True),
        **{
            name: archive.array(f"{place}/{name}", (None,), finite=True)
            for name in ("own_variance", "oddness")
            if name in archive.find(place)  # not in the first files with it
        },
    )
