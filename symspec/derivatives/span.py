r"""Exact reduction of a wide first layer to the span of the training spectra.

A kernel of the first dense layer acts on the training set only through :math:`z_n^T W`, z_n being
the spectra as that layer sees them. With fewer stars than pixels, z_n = Q r_n for an orthonormal Q
(pixel, star): the likelihood depends on :math:`Q^T W` alone, and under a prior with one precision
for the block the rest of W is zero at every minimum and adds the same constant to U and to the log
determinant as to the prior's normalisation. So minima, decrements and the evidence of the small
problem are those of the large one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from symspec.derivatives import compiled
from symspec.networks.network import Network
from symspec.networks.noise import LOG_2PI
from symspec.networks.regression import Regression


@dataclass(frozen=True, eq=False)
class Span:
    """A regression on the span of its training spectra.

    Attributes
    ----------
    reg : Regression
        The small one; the same blocks, the first kernel (star, out) in place of (pixel, out).
    X : numpy.ndarray, shape (star, star)
        Coordinates of the training spectra.
    full : Regression
    basis : numpy.ndarray, shape (pixel, star), or None
        Orthonormal Q; None where nothing is reduced.
    kernel : str
        Name of the block that is reduced.
    """

    reg: Regression
    X: np.ndarray
    full: Regression
    basis: np.ndarray | None
    kernel: str

    @property
    def left_out(self) -> float:
        """U of the full problem minus that of the small one: the prior outside the span."""
        n = self.full.net.n_params - self.reg.net.n_params
        if n == 0:
            return 0.0
        return 0.5 * n * (LOG_2PI - float(np.log(self.full.prior_precision[self.kernel])))

    def project(self, theta: np.ndarray) -> np.ndarray:
        """Small parameters of large ones."""
        if self.basis is None:
            return theta
        params = self.full.net.unpack(theta)
        return self.reg.net.pack(params | {self.kernel: self.basis.T @ params[self.kernel]})

    def lift(self, theta: np.ndarray) -> np.ndarray:
        """Large parameters, in the span, of small ones."""
        if self.basis is None:
            return theta
        params = self.reg.net.unpack(theta)
        return self.full.net.pack(params | {self.kernel: self.basis @ params[self.kernel]})


def reduce_to_span(reg: Regression, X: np.ndarray) -> Span:
    """`find_span`, or all of it where there is nothing to gain."""
    return find_span(reg, X) or keep_whole(reg, X)


def keep_whole(reg: Regression, X: np.ndarray) -> Span:
    """The regression itself on the flux X (star, pixel), nothing reduced."""
    return Span(reg, X, reg, None, "")


def find_span(reg: Regression, X: np.ndarray) -> Span | None:
    """Reduction of a regression on the flux X (star, pixel), or None if nothing is gained."""
    net = reg.net
    layer = next(iter(net.layout.layers))
    first = net.layer_names.index(layer)
    name = f"{layer}/kernel"
    goes_around = any(source < first for sources in net.sources for source in sources)
    if layer not in net.dense_shapes or goes_around or any(net.sources[:first]):
        return None
    if len(X) >= net.widths[first] or np.ndim(reg.prior_precision[name]) > 0:
        return None
    Z = np.asarray(X, np.float64)
    if first > 0:
        before = Network(net.layers[:first], net.n_pixels)
        Z = compiled.compile_predict(before)(np.empty(0), Z)
    Q, R = np.linalg.qr(Z.T)
    rest = net.with_layers(net.layers[first:], len(X))
    return Span(reg.with_network(rest), R.T, reg, Q, name)
