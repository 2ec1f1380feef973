"""A PyMC model on a network's own graph: the posterior that Laplace's approximates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from numpy.typing import ArrayLike
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.op import RandomVariable

from symspec.derivatives.functions import check_stars
from symspec.errors import OptionError
from symspec.hmc.labels import add_labels
from symspec.hmc.subsets import (
    ALL,
    LAST_LAYER,
    Subset,
    check_subset,
    find_basis,
    find_free,
    find_head,
)
from symspec.hmc.whitening import Whitening, find_last_layer_whitening, find_whitening
from symspec.inverse_hessian.last_layer import LastLayer
from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.noise import LOG_2PI
from symspec.networks.params import Symbol
from symspec.networks.regression import Regression
from symspec.safety.stars import check_flux
from symspec.spectra.selections import as_stars
from symspec.spectra.spectra import Spectra

if TYPE_CHECKING:
    import pymc as pm

MAX_NAMES = 1_000_000  # parameters that get a name each


def pymc_model(
    reg: Regression,
    X: ArrayLike | Spectra,
    Y: ArrayLike | None = None,
    *,
    label_errors: ArrayLike | None = None,
    ivar: ArrayLike | None = None,
    laplace: LaplacePosterior | None = None,
    subset: Subset = "all",
    X_check: Any = None,
    sigma_noise: Any = None,
    prior_precision: Any = None,
    blocks: bool = False,
    log_likelihood: bool = False,
) -> pm.Model:
    r"""Build a PyMC model of a regression, of the same graph, noise and prior.

    Inside a ``with pm.Model()`` block the variables are added to that model. Its data are called
    "flux" and "labels", to be swapped by `pm.set_data`; labels that are NaN are missing. Without
    `laplace`, ``model.compile_logp()`` is minus ``reg.negative_log_posterior``; with it, that plus
    the constant :math:`\log|\det L|`.

    Parameters
    ----------
    reg : Regression
    X, Y : array_like, shapes (star, pixel), (star, label)
        The training set, or `Spectra` alone; NaN labels are missing.
    label_errors : array_like, shape (star, label) or (star, label, label), optional
        Standard deviations or covariances of errors that the labels came with, in their units.
        They add to the noise. `Spectra` bring their own.
    ivar : array_like, shape (star, pixel), optional
        0 at bad pixels of the training flux, which are filled. `Spectra` bring their own.
    laplace : LaplacePosterior, optional
        Sample theta = theta* + L z with :math:`L L^T = A^{-1}`: "theta_whitened" is z, "theta"
        follows from it, and each chain starts from a draw of the Laplace posterior. Needed for
        subsets.
    subset : {"all", "last_layer"} or int, default "all"
        The parameters that vary, the others being held at `laplace.theta`: all weights; the last
        dense layer, whose inputs are computed once and are the data "features"; or a number of
        leading directions of the curvature, as "z".
    X_check : array_like, shape (check_star, pixel), optional
        Spectra whose labels are stored as "f" (check_star, label) with every draw.
    sigma_noise : number, array_like (label,), or PyMC variable, optional
        In place of the regression's noise. A distribution made by ``.dist()`` gets the name
        "sigma_noise".
    prior_precision : number, PyMC variable, or dict of these by block or layer, optional
        In place of the regression's prior. A distribution made by ``.dist()`` gets the name
        "prior_precision", with "_dense_0_kernel" for a block.
    blocks : bool, default False
        One random variable a block ("dense_0_kernel", "dense_0_bias", ...) in place of one "theta".
    log_likelihood : bool, default False
        Store the log density of the labels of each star, "log_likelihood" (star,), with every draw.

    Returns
    -------
    pymc.Model
        With dims star, pixel, label, and param or those of the blocks.

    Raises
    ------
    OptionError
        Options that exclude each other, or a Laplace posterior of another network or without a
        suitable structure.
    ShapeError, DataError
        X, Y, X_check, or numbers for noise and prior are not what is expected.
    """
    import pymc as pm

    X, Y = check_stars(reg.net, *as_stars(reg.net, X, Y, label_errors, ivar))
    subset = check_subset(subset, reg.net.n_params)
    reg, precisions = _put_numbers(reg, sigma_noise, prior_precision)
    _check_together(reg, laplace, subset, blocks, precisions)
    head = None if laplace is None else find_head(reg, laplace.theta, subset)
    free = find_free(reg.net.layout, subset)
    part = reg if head is None else head.reg
    with pm.Model.get_context(error_if_none=False) or pm.Model() as model:
        model.add_coords({"label": list(reg.net.label_names)})
        sds = _find_prior_sds(reg, precisions)
        sigma = _register(sigma_noise, "sigma_noise") if isinstance(sigma_noise, Variable) else None
        inputs = _add_inputs(X, head)
        if blocks:
            theta = _add_blocks(reg, sds)
        else:
            model.add_coords({"param": _name_params(reg, free)})
            theta = _add_theta(laplace, subset, free, _expand(reg, free, sds))
        f = part.net.build(part.net.layout.unpack(theta), inputs)
        y = add_labels(part.noise, f, Y, sigma)
        if log_likelihood:
            density = pm.logp(y, model.rvs_to_values[y])
            density = density if density.ndim == 1 else pt.sum(density, axis=1)
            pm.Deterministic("log_likelihood", density, dims="star")
        if X_check is not None:
            inputs_check = _find_check_inputs(reg, head, X_check)
            model.add_coords({"check_star": np.arange(len(inputs_check))})
            # shared, so that no copy goes into each result
            inputs = pytensor.shared(inputs_check, "inputs_check")
            f_check = part.net.build_labels(part.net.layout.unpack(theta), inputs)
            pm.Deterministic("f", f_check, dims=("check_star", "label"))
    return model


def _add_inputs(X: np.ndarray, head: LastLayer | None) -> Symbol:
    import pymc as pm

    if head is None:
        return pm.Data("flux", np.asarray(X, np.float64), dims=("star", "pixel"))
    return pm.Data("features", head.find_features(X), dims=("star", "feature"))


def _find_check_inputs(reg: Regression, head: LastLayer | None, X_check: Any) -> np.ndarray:
    X = np.atleast_2d(check_flux(X_check, reg.net.n_pixels, name="X_check"))
    return X if head is None else head.find_features(X)


# --- what varies


def _add_theta(
    laplace: LaplacePosterior | None, subset: Subset, free: slice, sd: Symbol | np.ndarray
) -> Symbol:
    """The random variable of the parameters `free`, and theta made of it."""
    import pymc as pm

    if laplace is None:
        return pm.Normal("theta", 0.0, sd, dims="param")
    if subset == ALL:
        return _add_whitened(find_whitening(laplace), sd)
    if subset == LAST_LAYER:
        return _add_whitened(find_last_layer_whitening(laplace, free), sd)
    basis, mean, prior_sd = find_basis(laplace, int(subset))
    pm.modelcontext(None).add_coords({"direction": np.arange(len(mean))})
    z = pm.CustomDist(
        "z",
        mean,
        prior_sd,
        dist=lambda mean, sd, size: pm.Normal.dist(mean, sd, size=size),
        support_point=_draw_start,
        dims=("direction",),
    )
    center, basis = (pytensor.shared(array, borrow=True) for array in (laplace.theta, basis))
    return pm.Deterministic("theta", center + basis @ z, dims="param")


def _add_whitened(whitening: Whitening, sd: Symbol | np.ndarray) -> Symbol:
    """Z with the prior of theta* + L z, started from Laplace's unit normal.

    Its density takes the log-Jacobian.
    """
    import pymc as pm

    n = whitening.center.size

    def logp(z: Symbol, sd: Symbol) -> Symbol:
        squares = pt.sum((whitening.build_theta(z) / sd) ** 2)
        return whitening.log_det - 0.5 * (squares + n * LOG_2PI) - pt.sum(pt.log(sd))

    def random(sd: np.ndarray, rng: np.random.Generator, size: Any = None) -> np.ndarray:
        return whitening.find_z(rng.normal(0.0, sd, size=(*(size or ()), n)))

    z = pm.CustomDist(
        "theta_whitened",
        sd,
        logp=logp,
        random=random,
        signature="(p)->(p)",
        support_point=_draw_start,
        dims="param",
    )
    return pm.Deterministic("theta", whitening.build_theta(z), dims="param")


def _draw_start(z: Symbol, size: Any, *params: Symbol) -> Symbol:
    """A draw of Laplace's unit normal, where a chain starts.

    As a support point it needs no initial value, with which PyMC copies no model, and so computes
    no log-likelihood of draws.
    """
    import pymc as pm

    return pm.Normal.dist(0.0, 1.0, shape=z.shape)


def _add_blocks(reg: Regression, sds: Mapping[str, Symbol | np.ndarray]) -> Symbol:
    import pymc as pm

    blocks = {}
    for block in reg.net.layout.blocks:
        layer = block.name.rpartition("/")[0]
        dims = {1: (f"{layer}_unit",), 2: (f"{layer}_input", f"{layer}_unit")}.get(len(block.shape))
        pm.modelcontext(None).add_coords(
            dict(zip(dims or (), map(np.arange, block.shape), strict=False))
        )
        sd = sds[block.name] * np.ones(block.size)
        blocks[block.name] = pm.Normal(
            block.name.replace("/", "_"), 0.0, sd.reshape(block.shape), dims=dims
        )
    return reg.net.layout.join(blocks)


def _name_params(reg: Regression, free: slice) -> np.ndarray:
    """A name for each parameter, such as "dense_0/kernel[0,3]"."""
    if free.stop - free.start > MAX_NAMES:
        return np.arange(free.start, free.stop)
    blocks = [b for b in reg.net.layout.blocks if free.start <= b.offset < free.stop]
    return np.array(
        [f"{b.name}[{','.join(map(str, at))}]" for b in blocks for at in np.ndindex(*b.shape)]
    )


# --- noise and prior


def _put_numbers(
    reg: Regression, sigma_noise: Any, prior_precision: Any
) -> tuple[Regression, dict[str, Symbol]]:
    """The regression with noise and prior that are numbers; priors that are symbols, by block."""
    by_block = prior_precision if isinstance(prior_precision, Mapping) else {"": prior_precision}
    symbols = {name: value for name, value in by_block.items() if isinstance(value, Variable)}
    if isinstance(prior_precision, Mapping):
        prior = {name: 1.0 if name in symbols else value for name, value in prior_precision.items()}
    else:
        prior = reg.prior_precision if prior_precision is None or symbols else prior_precision
    if sigma_noise is not None and not isinstance(sigma_noise, Variable):
        numbers = Regression(reg.net, sigma_noise=sigma_noise, prior_precision=prior)
        return numbers, symbols
    if sigma_noise is None and prior is reg.prior_precision:
        return reg, symbols
    return Regression(reg.net, noise=reg.noise, prior_precision=prior), symbols


def _find_prior_sds(
    reg: Regression, symbols: Mapping[str, Symbol]
) -> dict[str, Symbol | np.ndarray]:
    """Standard deviation of the prior by block: one, or one a parameter in a flat vector."""
    known = {
        key: _register(value, "_".join(["prior_precision", *filter(None, key.split("/"))]))
        for key, value in symbols.items()
    }
    sds = {}
    for block in reg.net.layout.blocks:
        found = [
            known[key] for key in (block.name, block.name.rpartition("/")[0], "") if key in known
        ]
        sds[block.name] = (
            1 / pt.sqrt(found[0])
            if found
            else 1 / np.sqrt(np.ravel(reg.prior_precision[block.name]))
        )
    return sds


def _expand(
    reg: Regression, free: slice, sds: Mapping[str, Symbol | np.ndarray]
) -> Symbol | np.ndarray:
    """One standard deviation a parameter of those that are free."""
    sizes = {b.name: b.size for b in reg.net.layout.blocks if free.start <= b.offset < free.stop}
    xp = pt if any(isinstance(sds[name], Variable) for name in sizes) else np
    return xp.concatenate([sds[name] * np.ones(size) for name, size in sizes.items()])


def _register(value: Variable, name: str) -> Symbol:
    """A symbolic value for the model being built, which takes in a distribution that it lacks.

    Raises
    ------
    OptionError
        The value depends on a distribution that the model does not know.
    """
    import pymc as pm

    model = pm.modelcontext(None)
    if _is_random(value) and value not in model.basic_RVs:
        return model.register_rv(
            value,
            value.name or name,
            dims=("label",) if name == "sigma_noise" and value.ndim else None,
        )
    if any(
        _is_random(v) and v not in model.basic_RVs
        for v in ancestors([value], blockers=model.basic_RVs)
    ):
        raise OptionError(
            f"{name} should be made of variables of the model, got one that depends on a"
            " distribution made by .dist(): give that a name, pm.HalfNormal('scale', 1.0), inside"
            " `with pm.Model():` around this call."
        )
    return value


def _is_random(value: Variable) -> bool:
    from pymc.distributions.distribution import SymbolicRandomVariable

    return value.owner is not None and isinstance(
        value.owner.op, RandomVariable | SymbolicRandomVariable
    )


def _check_together(
    reg: Regression,
    laplace: LaplacePosterior | None,
    subset: Subset,
    blocks: bool,
    precisions: Mapping[str, Symbol],
) -> None:
    """Options that exclude each other, before any work."""
    if laplace is None and subset != ALL:
        raise OptionError(
            f"subset={subset!r} holds the other weights at those of a Laplace posterior: give"
            " laplace=fit_laplace(...)."
        )
    if laplace is not None and blocks:
        raise OptionError(
            "blocks=True is for models without laplace, whose whitening mixes all parameters: drop"
            " one."
        )
    if isinstance(subset, int) and precisions:
        raise OptionError(
            "a subset of directions has a fixed prior: give prior_precision as numbers, or"
            " subset='all'."
        )
    if laplace is not None and laplace.reg.net.layout.blocks != reg.net.layout.blocks:
        raise OptionError(
            f"laplace should be of the network of reg, {reg.net!r}, got one of {laplace.reg.net!r}:"
            " fit it to reg."
        )
