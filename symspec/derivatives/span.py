r"""A wide first layer: its span of the training spectra, and what errors of the flux do to it.

Exact reduction of the layer to the span of the training spectra:

A kernel of the first dense layer acts on the training set only through :math:`z_n^T W`, z_n being
the spectra as that layer sees them. With fewer stars than pixels, z_n = Q r_n for an orthonormal Q
(pixel, star): the likelihood depends on :math:`Q^T W` alone, and under a prior with one precision
for the block the rest of W is zero at every minimum and adds the same constant to U and to the log
determinant as to the prior's normalisation. So minima, decrements and the evidence of the small
problem are those of the large one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from symspec.derivatives import compiled
from symspec.networks.layers import Standardize
from symspec.networks.network import Network
from symspec.networks.noise import LOG_2PI
from symspec.networks.regression import Regression
from symspec.networks.shaping import Identity

Function = Callable[[np.ndarray], np.ndarray]


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
    first = _find_wide_layer(reg, len(X))
    if first is None:
        return None
    Z = np.asarray(X, np.float64)
    if first > 0:
        before = Network(net.layers[:first], net.n_pixels)
        Z = compiled.compile_predict(before)(np.empty(0), Z)
    Q, R = np.linalg.qr(Z.T)
    rest = net.with_layers(net.layers[first:], len(X))
    return Span(reg.with_network(rest), R.T, reg, Q, f"{net.layer_names[first]}/kernel")


def count_in_span(reg: Regression, n_stars: int) -> int:
    """Parameters that are left in the span of so many training spectra."""
    net = reg.net
    first = _find_wide_layer(reg, n_stars)
    if first is None:
        return net.n_params
    n_in, n_out = net.dense_shapes[net.layer_names[first]]
    return net.n_params - (n_in - n_stars) * n_out


def _find_wide_layer(reg: Regression, n_stars: int) -> int | None:
    """Index of the first layer with weights if there is something to gain in the stars' span."""
    net = reg.net
    layer = next(iter(net.layout.layers))
    first = net.layer_names.index(layer)
    goes_around = any(source < first for sources in net.sources for source in sources)
    if layer not in net.dense_shapes or goes_around or any(net.sources[:first]):
        return None
    if n_stars >= net.widths[first] or np.ndim(reg.prior_precision[f"{layer}/kernel"]) > 0:
        return None
    return first


class Response:
    """How labels of some spectra follow changes of their flux, by the network as it is.

    Parameters
    ----------
    labels, jacobian : callable
        Spectra (star, pixel) to labels (star, label), and to their derivatives.
    X : numpy.ndarray, shape (star, pixel)
    J : numpy.ndarray, shape (star, label, pixel), optional
        Derivatives at X, if they are known.
    """

    def __init__(
        self, labels: Function, jacobian: Function, X: np.ndarray, J: np.ndarray | None = None
    ):
        self._labels = labels
        self._jacobian = jacobian
        self._X = X
        self.J = jacobian(X) if J is None else J

    def pick(self, stars: np.ndarray) -> Response:
        """That of some of the spectra."""
        return Response(self._labels, self._jacobian, self._X[stars], self.J[stars])

    def find_changes(self, errors: np.ndarray) -> tuple[np.ndarray, ...]:
        """J e, and the labels of X - e and of X + e, all (change, star, label).

        Changes e are (change, star, pixel).
        """
        shape = (*errors.shape[:2], self.J.shape[1])
        linear = np.matmul(self.J, errors[..., None])[..., 0]
        moved = (self._X - errors, self._X + errors)
        labels = (self._labels(X.reshape(-1, X.shape[2])).reshape(shape) for X in moved)
        return linear, *labels


def compile_response(
    net: Network, theta: ArrayLike, *, backend: str = "auto", dtype: str = "float64"
) -> Callable[[np.ndarray], Response]:
    """Compile `Response` of spectra X: by the features of the first layer alone, if it is dense.

    Such a layer is affine, :math:`h(x - e) = h(x) - e B`: one product with its kernel gives what
    every change of the flux does, and what follows is small.
    """
    passes = {"backend": backend, "dtype": dtype}
    theta = np.asarray(theta)
    first = _find_affine_layer(net)
    if first is None:
        predict = compiled.compile_predict(net, **passes)
        jacobian = compiled.compile_jacobian(net, "flux", **passes)
        return partial(Response, partial(predict, theta), partial(jacobian, theta))
    before = Network(net.layers[: first + 1], net.n_pixels)
    after = net.with_layers(net.layers[first + 1 :] or [Identity()], before.n_labels)
    own, others = np.split(theta, [before.n_params])
    features = partial(compiled.compile_predict(before, **passes), own)
    B = compiled.compile_jacobian(before, "flux", **passes)(own, np.zeros(net.n_pixels)).T
    labels = partial(compiled.compile_predict(after, **passes), others)
    jacobian_of_features = partial(compiled.compile_jacobian(after, "flux", **passes), others)

    def respond(X: np.ndarray) -> Response:
        return _AffineResponse(B, Response(labels, jacobian_of_features, features(X)))

    return respond


def _find_affine_layer(net: Network) -> int | None:
    """Index of a dense first layer that all that follows sees the flux through, if there is one."""
    for i, (name, layer) in enumerate(zip(net.layer_names, net.layers, strict=True)):
        if name in net.dense_shapes:
            goes_around = any(source <= i for sources in net.sources for source in sources)
            return None if goes_around else i
        if not isinstance(layer, Standardize):
            return None
    return None


class _AffineResponse(Response):
    """The same by features x B + c, of which `inner` is the response."""

    def __init__(self, B: np.ndarray, inner: Response, J: np.ndarray | None = None):
        self.B = B
        self.inner = inner
        n_stars, n_labels, n = inner.J.shape
        product = inner.J.reshape(n_stars * n_labels, n) @ B.T if J is None else J
        self.J = product.reshape(n_stars, n_labels, len(B))

    def pick(self, stars: np.ndarray) -> Response:
        return _AffineResponse(self.B, self.inner.pick(stars), self.J[stars])

    def find_changes(self, errors: np.ndarray) -> tuple[np.ndarray, ...]:
        n_changes, n_stars, n_pixels = errors.shape
        changes = errors.reshape(-1, n_pixels) @ self.B
        return self.inner.find_changes(changes.reshape(n_changes, n_stars, -1))
