r"""Coordinates in which a posterior is nearly a unit normal: theta = theta* + L z with L L^T = A^-1.

A sampler that moves in z needs no mass matrix of its own: the scales and correlations that the
curvature knows are taken out. The map is linear, so that its log-Jacobian :math:`\log|\det L| =
\tfrac12 \log\det A^{-1}` is a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from scipy.linalg import eigh

from symspec.errors import OptionError, TooLargeError
from symspec.inverse_hessian.dual import DualInverse
from symspec.inverse_hessian.layerwise import LayerwiseInverse
from symspec.inverse_hessian.low_rank import LowRankInverse
from symspec.inverse_hessian.primal import PrimalInverse
from symspec.laplace.posterior import LaplacePosterior

NEGLIGIBLE = 1e-2  # curvature in units of the prior's, up to which a direction is left to the prior
MAX_BYTES = 4 * 2**30  # of the directions of a dual inverse

Arrays = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Whitening:
    r"""The map theta = center + L z and its inverse, as graphs and as numbers.

    Attributes
    ----------
    center : numpy.ndarray, shape (param,)
        Laplace's theta*.
    log_det : float
        Log |det L|.
    arrays : dict of str to numpy.ndarray
        What L is made of.
    colour, uncolour : callable
        L z and L^-1 x of one vector (param,) from (vector, arrays, module); the module is `numpy`
        or `pytensor.tensor`.
    """

    center: np.ndarray
    log_det: float
    arrays: dict[str, np.ndarray]
    colour: Callable[[Any, Arrays, Any], Any]
    uncolour: Callable[[Any, Arrays, Any], Any]

    @cached_property
    def _shared(self) -> dict[str, Any]:
        """The arrays as shared variables: constants would be hashed and folded."""
        return {
            name: pytensor.shared(array, f"whitening_{name}", borrow=True)
            for name, array in self.arrays.items()
        }

    @cached_property
    def _shared_center(self) -> Any:
        return pytensor.shared(self.center, "whitening_center", borrow=True)

    def build_theta(self, z: Any) -> pt.TensorVariable:
        """Symbolic theta (param,) of a symbolic z (param,)."""
        return self._shared_center + self.colour(z, self._shared, pt)

    def find_theta(self, z: np.ndarray) -> np.ndarray:
        """Theta (param,) or (draw, param) of z."""
        return self.center + np.apply_along_axis(lambda v: self.colour(v, self.arrays, np), -1, z)

    def find_z(self, theta: np.ndarray) -> np.ndarray:
        """The z (param,) or (draw, param) that gives theta."""
        return np.apply_along_axis(
            lambda v: self.uncolour(v - self.center, self.arrays, np), -1, theta
        )


def find_whitening(laplace: LaplacePosterior) -> Whitening:
    """Whitening by the inverse Hessian of a Laplace posterior.

    Parameters
    ----------
    laplace : LaplacePosterior
        With structure "primal", "dual", "low_rank", "kronecker", "ekfac" or "diagonal". The better
        it knows the posterior's shape, the faster a sampler moves; the posterior sampled is the
        same for each. Where the data curve few directions, L is the prior's but for these, which
        costs two thin products and not two square ones.

    Raises
    ------
    OptionError
        The structure has no factor over all parameters ("krylov", "last_layer").
    TooLargeError
        A dual inverse of many stars and parameters.
    """
    inverse = laplace.inverse_hessian
    if isinstance(inverse, PrimalInverse):
        leading = find_directions(laplace)
        is_cheaper = 2 * leading.eigenvectors.shape[1] < inverse.shape[0]
        return (
            _whiten_by_directions(laplace.theta, leading)
            if is_cheaper
            else whiten_by_factor(laplace.theta, inverse)
        )
    if isinstance(inverse, LayerwiseInverse):
        return _whiten_by_layers(laplace.theta, inverse)
    if isinstance(inverse, DualInverse | LowRankInverse):
        return _whiten_by_directions(laplace.theta, find_directions(laplace))
    raise OptionError(
        "whitening should be given a Laplace posterior over all weights, got"
        f' structure="{laplace.structure}": fit one with structure="low_rank" or "kronecker", or'
        ' sample subset="last_layer".'
    )


def find_directions(laplace: LaplacePosterior, n: int | None = None) -> LowRankInverse:
    r"""Leading eigenpairs of :math:`\Lambda^{-1/2} (A - \Lambda) \Lambda^{-1/2}`: the curvature in units of the prior.

    Parameters
    ----------
    laplace : LaplacePosterior
        With structure "primal", "dual" or "low_rank".
    n : int, optional
        How many of the largest; by default all beyond 0.01 in size, which are often few.

    Raises
    ------
    OptionError
        Another structure, or one that knows fewer directions than `n`.
    TooLargeError
        They do not fit in memory.
    """
    inverse = laplace.inverse_hessian
    precision = laplace.reg.prior_precision_vector()
    if isinstance(inverse, LowRankInverse):
        values = inverse.eigenvalues
        vectors = inverse.eigenvectors
    elif isinstance(inverse, PrimalInverse):
        values, vectors = _primal_directions(inverse, precision)
    elif isinstance(inverse, DualInverse):
        values, vectors = _dual_directions(laplace, inverse, precision)
    else:
        raise OptionError(
            'leading directions should come from structure="primal", "dual" or "low_rank", got'
            f' "{laplace.structure}": fit_laplace(..., structure="low_rank", options={{"rank": k}})'
            " finds the first k."
        )
    keep = np.flatnonzero(np.abs(values) > NEGLIGIBLE) if n is None else np.arange(n)
    if len(keep) and keep[-1] >= len(values):
        raise OptionError(
            f"the curvature should have {n} leading directions, got {len(values)}: ask for fewer."
        )
    return LowRankInverse(precision, values[keep], np.ascontiguousarray(vectors[:, keep]))


def _primal_directions(
    inverse: PrimalInverse, precision: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    root = inverse.cholesky / np.sqrt(precision)[:, None]
    values, vectors = eigh(root @ root.T)
    return values[::-1] - 1, vectors[:, ::-1]


def _dual_directions(
    laplace: LaplacePosterior, inverse: DualInverse, precision: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenpairs of the whitened kernel, taken back to the parameters."""
    N, C = inverse.observed.shape
    if 8 * inverse.rows.size * inverse.shape[0] > MAX_BYTES:
        raise TooLargeError(
            f"the {inverse.rows.size:,} directions of {inverse.shape[0]:,} weights take more than "
            f'{MAX_BYTES / 2**30:.0f} GiB: fit structure="low_rank" with options={{"rank": 200}},'
            ' or "kronecker".'
        )
    tangents = inverse.tangents.whiten(inverse.noise.whiteners)
    values, vectors = eigh(tangents.gram(tangents, inverse.variance))
    values = values[::-1]
    vectors = vectors[:, ::-1]
    keep = values > 1e-12 * max(values[0], NEGLIGIBLE)
    columns = vectors[:, keep].reshape(C, N, -1).transpose(1, 0, 2)
    return values[keep], tangents.rmatvec(columns) / np.sqrt(precision)[:, None] / np.sqrt(
        values[keep]
    )


def whiten_by_factor(center: np.ndarray, inverse: PrimalInverse) -> Whitening:
    """Whitening by a dense factor: L = R^T with R = K^-1 and A = K K^T."""
    return Whitening(
        center,
        0.5 * inverse.logdet(),
        {"root": inverse.root, "cholesky": inverse.cholesky},
        lambda z, arrays, _: z @ arrays["root"],
        lambda x, arrays, _: x @ arrays["cholesky"],
    )


def _whiten_by_directions(center: np.ndarray, inverse: LowRankInverse) -> Whitening:
    r"""L = Lambda^-1/2 (1 + U diag(s) U^T), with s = (1 + lambda)^-1/2 - 1."""
    arrays = {
        "sd": 1 / np.sqrt(inverse.precision),
        "directions": inverse.eigenvectors,
        "shrinkage": 1 / np.sqrt(1 + inverse.eigenvalues) - 1,
        "growth": np.sqrt(1 + inverse.eigenvalues) - 1,
    }

    def colour(z: Any, a: Arrays, _: Any) -> Any:
        return a["sd"] * (z + a["directions"] @ (a["shrinkage"] * (z @ a["directions"])))

    def uncolour(x: Any, a: Arrays, _: Any) -> Any:
        u = x / a["sd"]
        return u + a["directions"] @ (a["growth"] * (u @ a["directions"]))

    return Whitening(center, 0.5 * inverse.logdet(), arrays, colour, uncolour)


def _whiten_by_layers(center: np.ndarray, inverse: LayerwiseInverse) -> Whitening:
    """L of each layer is D (U_a x U_g) E^-1/2, see `symspec.inverse_hessian.layerwise`."""
    layout = inverse.layout
    arrays = {}
    for layer, block in inverse.blocks.items():
        arrays[f"{layer}_sd"] = 1 / np.sqrt(block.precision)
        if block.input_basis is not None:
            arrays |= {f"{layer}_inputs": block.input_basis, f"{layer}_outputs": block.output_basis}

    def walk(v: Any, xp: Any, change: Callable[[str, Any], Any], before: bool) -> Any:
        """`change` each layer's matrix; D divides it by its scale `before`, or multiplies by it after."""
        parts = []
        for name, block in inverse.blocks.items():
            V = v[layout.layers[name].slice].reshape(block.precision.shape)
            R = change(name, V / block.scale) if before else change(name, V) * block.scale
            parts.append(R.reshape((block.precision.size,)))
        return xp.concatenate(parts)

    def colour(z: Any, a: Arrays, xp: Any) -> Any:
        def change(layer: str, V: Any) -> Any:
            W = V * a[f"{layer}_sd"]
            return (
                W
                if f"{layer}_inputs" not in a
                else a[f"{layer}_inputs"] @ W @ a[f"{layer}_outputs"].T
            )

        return walk(z, xp, change, before=False)

    def uncolour(x: Any, a: Arrays, xp: Any) -> Any:
        def change(layer: str, R: Any) -> Any:
            W = (
                R
                if f"{layer}_inputs" not in a
                else a[f"{layer}_inputs"].T @ R @ a[f"{layer}_outputs"]
            )
            return W / a[f"{layer}_sd"]

        return walk(x, xp, change, before=True)

    return Whitening(center, 0.5 * inverse.logdet(), arrays, colour, uncolour)
