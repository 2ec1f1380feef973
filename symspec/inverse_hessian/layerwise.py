r"""Independent layers, each diagonal in a product basis: the diagonal and the Kronecker forms.

A layer's kernel and bias are one matrix, :math:`z = \tilde a \tilde W` with :math:`\tilde a = [a,
s]` and :math:`\tilde W = [W; b / s]`. With :math:`s = \sqrt{\delta_W / \delta_b}` its prior has the
one precision :math:`\delta_W`. A layer that does not factorise, such as a convolution, has no a:
its parameters, each in units of its prior as a bias is, are one row, or several if there are many.
The layer's block of A is :math:`(U_a \otimes U_g)\, \mathrm{diag}(E)\, (U_a \otimes
U_g)^T`, E of shape (in, out), so that

.. math::
    J A^{-1} J^T \big|_{cd}
    = \sum_l \sum_{ij} (U_a^T \tilde a)_i^2\, (U_g^T g_c)_j (U_g^T g_d)_j / E_{ij}.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from symspec.derivatives.tangents import Tangents
from symspec.inverse_hessian.interface import ArrayReader, InverseHessian, Problem
from symspec.inverse_hessian.numerics.square_roots import Arrays, Factor
from symspec.networks.params import LayerParams, ParamLayout
from symspec.networks.regression import Regression


@dataclass(frozen=True, eq=False)
class LayerBlock:
    """One layer's block of A, its parameters in their order as a matrix (in, out).

    Attributes
    ----------
    precision : numpy.ndarray, shape (in, out)
        E; with a bias its last row is the bias.
    scale : numpy.ndarray, shape (in, 1) or (in, out)
        What the parameters are in units of: 1 for a kernel, s for a bias.
    basis : tuple of numpy.ndarray, or None
        Orthogonal U_a (in, in) and U_g (out, out); None for the identity.
    """

    precision: np.ndarray
    scale: np.ndarray
    basis: tuple[np.ndarray, np.ndarray] | None = None

    def rotate(self, V: np.ndarray) -> np.ndarray:
        """U_a^T V U_g of matrices (..., in, out), in their dtype."""
        if self.basis is None:
            return V
        U_a, U_g = (U.astype(V.dtype, copy=False) for U in self.basis)
        return U_a.T @ V @ U_g

    def rotate_back(self, V: np.ndarray) -> np.ndarray:
        """U_a V U_g^T of a matrix (in, out)."""
        if self.basis is None:
            return V
        U_a, U_g = self.basis
        return U_a @ V @ U_g.T

    def rotate_factors(self, a: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """U_a^T a of inputs (star, in), and U_g^T g of cotangents (star, label, out)."""
        if self.basis is None:
            return a, g
        U_a, U_g = (U.astype(g.dtype, copy=False) for U in self.basis)
        return a @ U_a, g @ U_g

    def variances(self) -> np.ndarray:
        """Diagonal (in, out) of the block's inverse, in units of `scale`."""
        if self.basis is None:
            return 1 / self.precision
        U_a, U_g = self.basis
        return U_a**2 @ (1 / self.precision) @ (U_g**2).T


def join_bias(a: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Inputs (star, in) with the bias's constant s behind them, if `scale` has a row for it."""
    if len(scale) == a.shape[1]:
        return a
    s = scale[-1, 0] if a.shape[1] else 1
    return np.concatenate([a, np.full((len(a), 1), s, a.dtype)], axis=1)


def find_scales(
    layout: ParamLayout, prior_precision: Mapping[str, Any], *, isotropic: bool
) -> dict[str, np.ndarray]:
    """Scale of each layer's parameters, (in, 1) or (in, out); 1 unless `isotropic`."""
    scales = {}
    for name, (kernel, bias) in layout.by_layer(prior_precision).items():
        layer = layout.layers[name]
        if not layer.n_in:
            scales[name] = np.sqrt(bias[0] / bias)[None] if isotropic else np.ones((1, layer.n_out))
            continue
        scales[name] = np.ones((layer.n_rows, 1))
        if layer.has_bias and isotropic:
            scales[name][-1] = np.sqrt(kernel / bias)
    return scales


def scale_rows(g: np.ndarray, layer: LayerParams, scale: np.ndarray) -> np.ndarray:
    """Cotangents (star, label, out), in units of `scale` for a layer without inputs."""
    return g if layer.n_in else g * scale.reshape(-1).astype(g.dtype)


class LayerwiseInverse(InverseHessian):
    """A^-1 of independent layers, each diagonal in its product basis.

    Parameters
    ----------
    layout : ParamLayout
    blocks : dict of str to LayerBlock
        By name of layer.
    """

    accuracy = "approximate"
    has_bases: ClassVar[bool]

    def __init__(self, layout: ParamLayout, blocks: dict[str, LayerBlock]):
        super().__init__(layout.n_params)
        self.layout = layout
        self.blocks = blocks

    @staticmethod
    @abstractmethod
    def find_scales(layout: ParamLayout, prior_precision: Arrays) -> dict[str, np.ndarray]:
        """Scale of each layer's parameters, see `LayerBlock`."""

    @staticmethod
    @abstractmethod
    def find_shape(layer: LayerParams) -> tuple[int, int]:
        """Matrix (in, out) as which a layer's parameters are taken."""

    @classmethod
    def from_arrays(cls, reader: ArrayReader, place: str, reg: Regression) -> Self:
        layout = reg.net.layout
        blocks = {}
        for layer, scale in cls.find_scales(layout, reg.prior_precision).items():
            n_in, n_out = cls.find_shape(layout.layers[layer])
            name = f"{place}/{layer}/precision"
            precision = reader.array(name, (n_in, n_out), finite=True)
            if not (precision > 0).all():
                expected = "eigenvalues of a positive matrix"
                raise reader.refusal(name, expected, "one that is not positive")
            basis = None
            if cls.has_bases:
                basis = (
                    reader.array(f"{place}/{layer}/input_basis", (n_in, n_in), finite=True),
                    reader.array(f"{place}/{layer}/output_basis", (n_out, n_out), finite=True),
                )
            blocks[layer] = LayerBlock(precision, scale, basis)
        return cls(layout, blocks)

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        def solve(V: np.ndarray, block: LayerBlock) -> np.ndarray:
            return block.rotate_back(block.rotate(V) / block.precision)

        return self._apply(solve, v.ravel())

    def diagonal(self) -> np.ndarray:
        def scale(V: np.ndarray, block: LayerBlock) -> np.ndarray:
            return V * block.variances()

        return self._apply(scale, np.ones(self.shape[0]))

    def logdet(self) -> float:
        total = 0.0
        for block in self.blocks.values():
            total -= np.log(block.precision).sum()
            total += 2 * np.log(np.broadcast_to(block.scale, block.precision.shape)).sum()
        return float(total)

    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        def colour(V: np.ndarray, block: LayerBlock) -> np.ndarray:
            return block.rotate_back(rng.normal(size=V.shape) / np.sqrt(block.precision))

        return np.array([self._apply(colour, np.empty(self.shape[0])) for _ in range(n_draws)])

    def label_covariance(self, tangents: Tangents) -> np.ndarray:
        V = np.zeros((tangents.n_stars, tangents.n_labels, tangents.n_labels))
        for name, block in self.blocks.items():
            layer = self.layout.layers[name]
            g = tangents.cotangents[name].astype(np.float64)
            g = scale_rows(g, layer, block.scale)
            if not layer.n_in and len(block.precision) > 1:
                rows = g.reshape(*g.shape[:2], *block.precision.shape)
                J = block.rotate(rows).reshape(g.shape)
                V += np.matmul(J / block.precision.ravel(), J.transpose(0, 2, 1))
                continue
            a = join_bias(tangents.inputs[name].astype(np.float64), block.scale)
            a, g = block.rotate_factors(a, g)
            weights = a**2 @ (1 / block.precision)
            V += np.matmul(g * weights[:, None, :], g.transpose(0, 2, 1))
        return V

    def whitening(self, reg: Regression) -> Factor:
        """L of each layer is D (U_a x U_g) E^-1/2, with D its scale."""
        arrays = {}
        for layer, block in self.blocks.items():
            arrays[f"{layer}_sd"] = 1 / np.sqrt(block.precision)
            if block.basis is not None:
                arrays[f"{layer}_inputs"], arrays[f"{layer}_outputs"] = block.basis

        def colour(z: Any, a: Arrays, xp: Any) -> Any:
            parts = []
            for name, block, V in self._split(z):
                part = _rotate_back(name, V * a[f"{name}_sd"], a) * block.scale
                parts.append(part.reshape((block.precision.size,)))
            return xp.concatenate(parts)

        def uncolour(x: Any, a: Arrays, xp: Any) -> Any:
            parts = []
            for name, block, V in self._split(x):
                part = _rotate(name, V / block.scale, a) / a[f"{name}_sd"]
                parts.append(part.reshape((block.precision.size,)))
            return xp.concatenate(parts)

        return Factor(log_det=0.5 * self.logdet(), arrays=arrays, colour=colour, uncolour=uncolour)

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {}
        for layer, block in self.blocks.items():
            arrays[f"{layer}/precision"] = block.precision
            if block.basis is not None:
                arrays[f"{layer}/input_basis"], arrays[f"{layer}/output_basis"] = block.basis
        return arrays

    def _split(self, v: Any) -> Iterator[tuple[str, LayerBlock, Any]]:
        """Each layer's name, block, and part (in, out) of a vector (param,) or a symbol."""
        for name, block in self.blocks.items():
            yield name, block, v[self.layout.layers[name].slice].reshape(block.precision.shape)

    def _apply(
        self, function: Callable[[np.ndarray, LayerBlock], np.ndarray], v: np.ndarray
    ) -> np.ndarray:
        """D f(D v) layer by layer, where D multiplies by `scale` and f takes a matrix (in, out)."""
        out = np.empty(self.shape[0])
        for name, block, V in self._split(v):
            part = block.scale * function(block.scale * V, block)
            out[self.layout.layers[name].slice] = part.ravel()
        return out


def _rotate(layer: str, V: Any, arrays: Arrays) -> Any:
    """U_a^T V U_g of one layer, numbers or symbols."""
    if f"{layer}_inputs" not in arrays:
        return V
    return arrays[f"{layer}_inputs"].T @ V @ arrays[f"{layer}_outputs"]


def _rotate_back(layer: str, V: Any, arrays: Arrays) -> Any:
    """U_a V U_g^T of one layer, numbers or symbols."""
    if f"{layer}_inputs" not in arrays:
        return V
    return arrays[f"{layer}_inputs"] @ V @ arrays[f"{layer}_outputs"].T


class DiagonalInverse(LayerwiseInverse):
    r"""The inverse of the diagonal of A.

    An approximation: its standard deviations of labels may be off by several times in either
    direction, see `audit_structures`.
    """

    structure = "diagonal"
    has_bases = False

    @staticmethod
    def find_scales(layout: ParamLayout, prior_precision: Arrays) -> dict[str, np.ndarray]:
        return find_scales(layout, prior_precision, isotropic=False)

    @staticmethod
    def find_shape(layer: LayerParams) -> tuple[int, int]:
        return layer.n_rows, layer.n_out

    @classmethod
    def build(cls, problem: Problem, theta: np.ndarray) -> DiagonalInverse:
        r"""From the entries :math:`\delta + \sum_n a_{ni}^2 \sum_c \hat g_{ncj}^2`."""
        layout = problem.reg.net.layout
        scales = cls.find_scales(layout, problem.reg.prior_precision)

        def add(state: dict[str, np.ndarray], tangents: Tangents) -> None:
            for layer, total in state.items():
                a = join_bias(tangents.inputs[layer], scales[layer]).astype(np.float64)
                g = tangents.cotangents[layer].astype(np.float64)
                total += (a**2).T @ (g**2).sum(axis=1)

        zeros = {name: np.zeros(cls.find_shape(layer)) for name, layer in layout.layers.items()}
        state = problem.stream(theta).accumulate(problem.checkpoint, "diagonal", zeros, add)
        for name, (kernel, bias) in layout.by_layer(problem.reg.prior_precision).items():
            n_in = layout.layers[name].n_in
            state[name][:n_in] += kernel
            state[name][n_in:] += bias
        blocks = {layer: LayerBlock(total, scales[layer]) for layer, total in state.items()}
        return cls(layout, blocks)
