"""Networks and Laplace posteriors as plain arrays in one HDF5 file.

Everything is a dataset or an attribute under a plain name, for any HDF5 reader:
``params/dense_0/kernel`` (in, out), ``layers/0``, ``regression/noise_covariance``, ... A network
that is read predicts as the one written, bit by bit. Of several networks each has a group of its
own, ``networks/0``, ..., beside ``weights``.
"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike

from symspec.errors import OptionError
from symspec.files.stored import mixtures, networks, posteriors
from symspec.files.stored.archive import (
    LAPLACE,
    MIXTURE,
    NETWORK,
    create_archive,
    find_archive_kind,
    open_archive,
)
from symspec.files.stored.layers import check_layers
from symspec.mixtures.posterior import AnyPosterior, CombinedPosterior
from symspec.networks.network import Network
from symspec.networks.regression import Regression
from symspec.networks.theta import check_theta
from symspec.spectra.flux_prior import FluxPrior


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
        networks.write_network(file, net, theta)
        if reg is not None:
            networks.write_regression(file, reg)


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
        return networks.read_network(archive)


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
        net, theta = networks.read_network(archive)
        return networks.read_regression(archive, net), theta


def write_laplace(
    path: str | os.PathLike[str], laplace: AnyPosterior, *, overwrite: bool = False
) -> None:
    """Write a Laplace posterior: network, weights, noise, prior, inverse Hessian and certificate.

    Parameters
    ----------
    path : str or path
        The file, HDF5 whatever its name. It is as large as the factors: 8 bytes x n_params^2 for
        "primal", and 8 bytes x n_rows^2 for "dual", where n_rows counts the observed labels of all
        training stars. "krylov" keeps the tangents of all training stars, 8 bytes x (inputs +
        labels x outputs of all layers) for each.
    laplace : LaplacePosterior or CombinedPosterior
        Of a mixture every posterior is written, and the weights.
    overwrite : bool, default False
        Whether a file already there is replaced.

    Raises
    ------
    FileKeptError
        There is a file already, and `overwrite` is False.
    OptionError
        A layer, or the structure of the inverse Hessian, is none of symspec's own.
    """
    if isinstance(laplace, CombinedPosterior):
        for one in laplace.posteriors:
            posteriors.check_posterior(one)
        with create_archive(path, MIXTURE, overwrite=overwrite) as file:
            mixtures.write_mixture(file, laplace)
        return
    posteriors.check_posterior(laplace)
    with create_archive(path, LAPLACE, overwrite=overwrite) as file:
        posteriors.write_posterior(file, laplace)


def read_laplace(path: str | os.PathLike[str]) -> AnyPosterior:
    """Read a Laplace posterior; it predicts and draws as the one written, bit by bit.

    Parameters
    ----------
    path : str or path
        Of `write_laplace`.

    Returns
    -------
    LaplacePosterior or CombinedPosterior
        As it was written.

    Raises
    ------
    FileNotFoundError, FileFormatError
        As `read_network`.
    """
    with open_archive(path, (LAPLACE, MIXTURE)) as archive:
        if archive.format == MIXTURE:
            return mixtures.read_mixture(archive)
        return posteriors.read_posterior(archive)


def read_flux_prior(path: str | os.PathLike[str]) -> FluxPrior | None:
    """Read what training spectra tell of missing pixels, without the rest of a posterior.

    None for one training star, a file of symspec 0.1, a network alone, or a foreign file.
    """
    if find_archive_kind(path) != "laplace":
        return None
    with open_archive(path, (LAPLACE,)) as archive:
        return posteriors.read_flux_prior(archive, archive.attribute("/", "n_pixels", int))
