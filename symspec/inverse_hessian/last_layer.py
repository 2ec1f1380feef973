"""The last dense layer alone; all layers before it are held fixed, as features without error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives import compiled
from symspec.derivatives.tangents import Tangents
from symspec.errors import OptionError
from symspec.inverse_hessian.interface import (
    ArrayReader,
    InverseHessian,
    Problem,
)
from symspec.inverse_hessian.primal import PrimalInverse, find_last_layer, read_cholesky
from symspec.networks.network import Network
from symspec.networks.params import ParamLayout
from symspec.networks.regression import Regression
from symspec.networks.shaping import Flatten, Reshape
from symspec.safety.stars import check_flux


class LastLayerInverse(InverseHessian):
    """A^-1 of the last dense layer's parameters, exact; zero for all others.

    An approximation: between the training stars, where the features themselves are uncertain,
    standard deviations of labels may be many times too small.

    Parameters
    ----------
    layout : ParamLayout
    primal : PrimalInverse
        Of the last layer's parameters.
    """

    structure = "last_layer"
    linear_space = ""
    accuracy = "approximate"

    def __init__(self, layout: ParamLayout, primal: PrimalInverse):
        super().__init__(layout.n_params, find_last_layer(layout)[1])
        self.layer = find_last_layer(layout)[0]
        self.primal = primal

    @classmethod
    def build(cls, problem: Problem, theta: np.ndarray) -> LastLayerInverse:
        """From the sum of J^T J over the last layer's parameters and its prior, factorised."""
        layout = problem.reg.net.layout
        layer, free = find_last_layer(layout)
        n = free.stop - free.start

        def add(state: dict[str, np.ndarray], tangents: Tangents) -> None:
            J = tangents.of_layer(layer).dense().reshape(-1, n)
            state["A"] += J.T @ J

        zeros = {"A": np.zeros((n, n))}
        A = problem.stream(theta).accumulate(problem.checkpoint, "last layer", zeros, add)["A"]
        A[np.diag_indices(n)] += problem.reg.prior_precision_vector()[free]
        return cls(layout, PrimalInverse.factorize(A))

    @classmethod
    def from_arrays(cls, reader: ArrayReader, place: str, reg: Regression) -> LastLayerInverse:
        free = find_last_layer(reg.net.layout)[1]
        cholesky = read_cholesky(reader, place, free.stop - free.start)
        return cls(reg.net.layout, PrimalInverse(cholesky))

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

    def of_last_layer(self, reg: Regression) -> PrimalInverse:
        return self.primal

    def head(self, reg: Regression, theta: np.ndarray) -> LastLayer:
        return split_last_layer(reg, theta)


@dataclass(frozen=True, eq=False)
class LastLayer:
    """A regression on the features before a network's last dense layer.

    Attributes
    ----------
    reg : Regression
        Of that layer and what follows it, with the same noise and prior; its flux are features.
    free : slice
        The layer's place in the whole network's theta.
    net : Network
        The whole network.
    theta : numpy.ndarray, shape (param,)
        The whole network's weights.
    """

    reg: Regression
    free: slice
    net: Network
    theta: np.ndarray

    def find_features(
        self, X: ArrayLike, *, backend: str = "auto", dtype: str = "float64"
    ) -> np.ndarray:
        """Features (star, feature) of flux (star, pixel), some stars at a time."""
        X = check_flux(X, self.net.n_pixels, dtype=None)
        before = self.net.layers[: _last_with_parameters(self.net)]
        if not before:
            return np.asarray(X, np.float64)
        net = Network([*before, Flatten()], self.net.n_pixels)
        return compiled.compile_predict(net, backend=backend, dtype=dtype)(
            self.theta[: net.n_params], X
        ).astype(np.float64)


def split_last_layer(reg: Regression, theta: np.ndarray) -> LastLayer:
    """The last dense layer of a network as a regression of its own.

    Raises
    ------
    OptionError
        What follows that layer refers to layers before it.
    """
    net = reg.net
    name, free = find_last_layer(net.layout)
    at = _last_with_parameters(net)
    if any(source < at for sources in net.sources[at:] for source in sources):
        raise OptionError(
            f"the last layer with parameters, {name}, should have all others before it, got a"
            ' network in which some go around it to the labels: use subset="all" or a number of'
            " directions."
        )
    layers = (
        [Reshape(net.shapes[at]), *net.layers[at:]] if len(net.shapes[at]) > 1 else net.layers[at:]
    )
    head = net.with_layers(layers, net.widths[at])
    prior = {
        b.name: reg.prior_precision[f"{name}/{b.name.partition('/')[2]}"]
        for b in head.layout.blocks
    }
    part = Regression(head, noise=reg.noise, prior_precision=prior)
    return LastLayer(part, free, net, theta)


def _last_with_parameters(net: Network) -> int:
    """Index of the last layer with parameters."""
    return net.layer_names.index(find_last_layer(net.layout)[0])
