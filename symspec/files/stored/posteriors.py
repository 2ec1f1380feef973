"""A Laplace posterior as groups and arrays of an archive."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import numpy as np

from symspec.derivatives.backends import BACKENDS
from symspec.derivatives.functions import DTYPES
from symspec.files.stored.archive import Archive, write_array, write_attribute, write_strings
from symspec.files.stored.layers import check_layers
from symspec.files.stored.networks import (
    read_network,
    read_regression,
    write_network,
    write_regression,
)
from symspec.inverse_hessian.choice import CURVATURES, INVERSES
from symspec.laplace.budget import CENTERS
from symspec.laplace.certificate import Certificate
from symspec.laplace.posterior import LaplacePosterior
from symspec.laplace.training_space import TrainingSpace
from symspec.safety.options import check_choice
from symspec.spectra.flux_prior import FluxPrior
from symspec.training.steps.stationary_points import LowestCurvature


def check_posterior(laplace: LaplacePosterior) -> None:
    """Refuse layers and structures that a reader would know nothing of.

    Raises
    ------
    OptionError
    """
    check_layers(laplace.reg.net.layers)
    check_choice(laplace.structure, "laplace.structure", tuple(INVERSES))


def write_posterior(file: Any, laplace: LaplacePosterior) -> None:
    """Write network, weights, noise, prior, inverse Hessian and certificate."""
    write_network(file, laplace.reg.net, laplace.theta)
    write_regression(file, laplace.reg)
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
    if laplace.exact_step is not None:
        write_array(group, "exact_step", laplace.exact_step)
    if laplace.hmc_verdict:
        write_strings(group, "hmc_verdict", laplace.hmc_verdict)
    _write_certificate(group.create_group("certificate"), laplace.certificate)
    if laplace.training_space is not None:
        _write_arrays(group.create_group("training_space"), laplace.training_space)
    if laplace.flux_prior is not None:
        _write_arrays(group.create_group("flux_prior"), laplace.flux_prior)
    if laplace.label_spread is not None:
        write_array(group, "label_spread", laplace.label_spread)
    if laplace.training_flux_cov is not None:
        write_array(group, "training_flux_cov", laplace.training_flux_cov)
    for name, array in laplace.inverse_hessian.arrays().items():
        write_array(group, f"inverse_hessian/{name}", array)


def read_posterior(archive: Archive) -> LaplacePosterior:
    """Read what `write_posterior` wrote."""
    net, theta = read_network(archive)
    reg = read_regression(archive, net)
    curvature = archive.attribute("laplace", "curvature", str)
    structure = archive.attribute("laplace", "structure", str)
    kind = INVERSES[check_choice(structure, "structure", tuple(INVERSES))]
    backend, dtype = (archive.attribute("laplace", n, str) for n in ("backend", "dtype"))
    there = archive.find("laplace")
    form = kind.form(archive.find("laplace/inverse_hessian"))
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
        hmc_verdict=tuple(archive.strings("laplace/hmc_verdict")) if "hmc_verdict" in there else (),
        training_space=_read_training_space(archive, net.n_pixels),
        gradient=_read_known(archive, "gradient", net.n_params),  # not in a file of symspec 0.1
        exact_step=_read_known(archive, "exact_step", net.n_params),
        flux_prior=read_flux_prior(archive, net.n_pixels),
        label_spread=_read_known(archive, "label_spread", net.n_labels),
        training_flux_cov=_read_known(
            archive, "training_flux_cov", len(CENTERS), net.n_labels, net.n_labels
        ),
    )


def _read_known(archive: Archive, name: str, *shape: int) -> np.ndarray | None:
    """An array of the posterior; None where it was not known."""
    if name not in archive.find("laplace"):
        return None
    return archive.array(f"laplace/{name}", shape, finite=True)


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


def read_flux_prior(archive: Archive, n_pixels: int) -> FluxPrior | None:
    """Read what training spectra tell of missing pixels; None where nothing is known."""
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
