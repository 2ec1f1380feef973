"""Inverse Hessians back from the plain arrays that `InverseHessian.arrays` gave, one reader for each structure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from symspec.derivatives.tangent_stream import TangentStream
from symspec.derivatives.tangents import Tangents
from symspec.files.archive_format import Archive
from symspec.inverse_hessian.dual import DualInverse
from symspec.inverse_hessian.interface import InverseHessian
from symspec.inverse_hessian.kronecker import find_kronecker_scales, find_shape
from symspec.inverse_hessian.krylov import KrylovInverse, KrylovLimits
from symspec.inverse_hessian.last_layer import LastLayerInverse, find_last_layer
from symspec.inverse_hessian.layerwise import LayerBlock, LayerwiseInverse, find_scales
from symspec.inverse_hessian.low_rank import LowRankInverse
from symspec.inverse_hessian.primal import PrimalInverse
from symspec.networks.regression import Regression

PLACE = "laplace/inverse_hessian"


def _read_primal(archive: Archive, reg: Regression) -> PrimalInverse:
    return PrimalInverse(_read_cholesky(archive, PLACE, reg.net.n_params))


def _read_dual(archive: Archive, reg: Regression, place: str = PLACE) -> DualInverse:
    observed = archive.array(f"{place}/observed", (None, reg.net.n_labels), kind=bool)
    tangents = _read_tangents(archive, reg, place, len(observed))
    variance = {name: 1 / np.asarray(precision) for name, precision in reg.prior_precision.items()}
    cholesky = _read_cholesky(archive, place, int(observed.sum()))
    is_subset = "is_subset" in archive.find(place) and bool(
        archive.array(f"{place}/is_subset", (), kind=bool)
    )
    noise = reg.noise.of_stars(np.where(observed, 0.0, np.nan))
    return DualInverse(tangents, variance, noise, cholesky, is_subset=is_subset)


def _read_krylov(archive: Archive, reg: Regression) -> KrylovInverse:
    layer = next(iter(reg.net.layout.layers))
    n_rest = len(archive.array(f"{PLACE}/rest/cotangents/{layer}", (None, None, None)))
    rest = TangentStream.of(_read_tangents(archive, reg, f"{PLACE}/rest", n_rest))
    names = list(archive.find(f"{PLACE}/limits"))
    limits = {name: float(archive.array(f"{PLACE}/limits/{name}", ())) for name in names}
    return KrylovInverse(_read_dual(archive, reg, f"{PLACE}/subset"), rest, KrylovLimits(**limits))


def _read_layerwise(archive: Archive, reg: Regression, structure: str) -> LayerwiseInverse:
    layout = reg.net.layout
    blocks = {}
    is_diagonal = structure == "diagonal"
    scales = partial(find_scales, isotropic=False) if is_diagonal else find_kronecker_scales
    for layer, scale in scales(layout, reg.prior_precision).items():
        params = layout.layers[layer]
        place = f"{PLACE}/{layer}"
        n_in, n_out = (params.n_rows, params.n_out) if is_diagonal else find_shape(params)
        precision = archive.array(f"{place}/precision", (n_in, n_out), finite=True)
        if not (precision > 0).all():
            raise archive.refusal(
                f"{place}/precision", "eigenvalues of a positive matrix", "one that is not positive"
            )
        bases = [
            archive.array(f"{place}/{side}_basis", (n, n), finite=True)
            for side, n in (("input", n_in), ("output", n_out))
            if not is_diagonal
        ]
        blocks[layer] = LayerBlock(precision, scale, *bases)
    return LayerwiseInverse(layout, blocks, structure)


def _read_last_layer(archive: Archive, reg: Regression) -> LastLayerInverse:
    free = find_last_layer(reg.net.layout)[1]
    return LastLayerInverse(
        reg.net.layout, PrimalInverse(_read_cholesky(archive, PLACE, free.stop - free.start))
    )


def _read_low_rank(archive: Archive, reg: Regression) -> LowRankInverse:
    values = archive.array(f"{PLACE}/eigenvalues", (None,), finite=True)
    vectors = archive.array(f"{PLACE}/eigenvectors", (reg.net.n_params, len(values)), finite=True)
    return LowRankInverse(reg.prior_precision_vector(), values, vectors)


def _read_tangents(archive: Archive, reg: Regression, place: str, n_stars: int) -> Tangents:
    C = reg.net.n_labels
    inputs = {}
    cotangents = {}
    for name, layer in reg.net.layout.layers.items():
        inputs[name] = archive.array(f"{place}/inputs/{name}", (n_stars, layer.n_in), finite=True)
        cotangents[name] = archive.array(
            f"{place}/cotangents/{name}", (n_stars, C, layer.n_out), finite=True
        )
    return Tangents(reg.net.layout, inputs, cotangents)


def _read_cholesky(archive: Archive, place: str, n: int) -> np.ndarray:
    name = f"{place}/cholesky"
    cholesky = archive.array(name, (n, n), finite=True)
    if not (np.diag(cholesky) > 0).all():
        raise archive.refusal(name, "a Cholesky factor", "one whose diagonal is not positive")
    return cholesky


INVERSES: dict[str, Callable[[Archive, Regression], InverseHessian]] = {
    "primal": _read_primal,
    "dual": _read_dual,
    "krylov": _read_krylov,
    "kronecker": lambda archive, reg: _read_layerwise(archive, reg, "kronecker"),
    "ekfac": lambda archive, reg: _read_layerwise(archive, reg, "ekfac"),
    "diagonal": lambda archive, reg: _read_layerwise(archive, reg, "diagonal"),
    "last_layer": _read_last_layer,
    "low_rank": _read_low_rank,
}
