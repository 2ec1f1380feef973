"""The last dense layer alone: all layers before it are held fixed, as features without error."""

from __future__ import annotations

import numpy as np

from symspec.checkpoint import Checkpoint
from symspec.inverse_hessian.interface import InverseHessian
from symspec.inverse_hessian.primal import PrimalInverse
from symspec.params import ParamLayout
from symspec.tangent_stream import TangentStream
from symspec.tangents import Tangents


class LastLayerInverse(InverseHessian):
    """A^-1 of the last dense layer's parameters, exact; zero for all others.

    An approximation: between the training stars, where the features themselves are uncertain, standard deviations of
    labels may be many times too small.

    Parameters
    ----------
    layout : ParamLayout
    primal : PrimalInverse
        Of the last layer's parameters.
    """

    structure, accuracy = "last_layer", "approximate"

    def __init__(self, layout: ParamLayout, primal: PrimalInverse):
        super().__init__(layout.n_params, find_last_layer(layout)[1])
        self.layer, self.primal = find_last_layer(layout)[0], primal

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        out = np.zeros(self.shape[0])
        out[self.free] = self.primal @ v.ravel()[self.free]
        return out

    def diagonal(self) -> np.ndarray:
        out = np.zeros(self.shape[0])
        out[self.free] = self.primal.diagonal()
        return out

    def logdet(self) -> float:
        return self.primal.logdet()

    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        out = np.zeros((n_draws, self.shape[0]))
        out[:, self.free] = self.primal.draw(n_draws, rng)
        return out

    def label_covariance(self, tangents: Tangents) -> np.ndarray:
        return self.primal.label_covariance(tangents.of_layer(self.layer))

    def arrays(self) -> dict[str, np.ndarray]:
        return self.primal.arrays()


def find_last_layer(layout: ParamLayout) -> tuple[str, slice]:
    """Name of the last layer with parameters, and its place in theta."""
    name, layer = next(reversed(layout.layers.items()))
    return name, layer.slice


def build_last_layer(
    stream: TangentStream, layout: ParamLayout, prior_precision: np.ndarray, checkpoint: Checkpoint
) -> LastLayerInverse:
    """Sum of J^T J over the last layer's parameters, with its prior precision (param,), factorised."""
    layer, free = find_last_layer(layout)
    n = free.stop - free.start

    def add(state: dict[str, np.ndarray], tangents: Tangents) -> None:
        J = tangents.of_layer(layer).dense().reshape(-1, n)
        state["A"] += J.T @ J

    A = checkpoint.accumulate("last layer", stream, {"A": np.zeros((n, n))}, add)["A"]
    A[np.diag_indices(n)] += prior_precision[free]
    return LastLayerInverse(layout, PrimalInverse.factorize(A))
