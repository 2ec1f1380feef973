r"""The Jacobian df/dtheta of many stars as numbers, in factors and never whole.

For a dense layer the row of star n and label c is the outer product of the layer's input a_n and
the back-propagated cotangent g_nc, so that products with J, and the Gram matrix

.. math::
    J V J'^T \big|_{(c,n),(d,m)}
        = \sum_l (v_l^W\, a_n \cdot a'_m + v_l^b)\; g_{nc} \cdot g'_{md},

the network's tangent kernel, cost matrix products of the layers' widths: independent of the number
of parameters. Layers that do not factorise, such as convolutions, have no inputs here, and
cotangents to all their parameters. Rows are label-major: row c * n_stars + n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from symspec.derivatives.machine.products import multiply
from symspec.derivatives.threads import multiply_own
from symspec.networks.network import Network
from symspec.networks.params import ParamLayout
from symspec.safety.memory import STARS_AT_ONCE, chunks

ROWS_AT_ONCE = 1024  # of a kernel: more take no less time, and memory


@dataclass(frozen=True, eq=False)
class Tangents:
    """df/dtheta of some stars in factored form.

    What are labels here and under the inverse Hessians are all outputs of the network, if it has
    more: the labels are the first, see `take_labels`.

    Attributes
    ----------
    layout : ParamLayout
    inputs : dict of str to numpy.ndarray (star, in)
    cotangents : dict of str to numpy.ndarray (star, label, out)
        By name of layer, as `layout.layers` has `in` and `out`.
    """

    layout: ParamLayout
    inputs: dict[str, np.ndarray]
    cotangents: dict[str, np.ndarray]

    @property
    def n_stars(self) -> int:
        """Number of stars."""
        return next(iter(self.cotangents.values())).shape[0]

    @property
    def n_labels(self) -> int:
        """Number of labels."""
        return next(iter(self.cotangents.values())).shape[1]

    def __getitem__(self, stars: Any) -> Tangents:
        """The same for some of the stars."""
        return Tangents(
            self.layout,
            {k: a[stars] for k, a in self.inputs.items()},
            {k: g[stars] for k, g in self.cotangents.items()},
        )

    def take_labels(self, n_labels: int) -> Tangents:
        """The same for the first outputs alone."""
        if n_labels == self.n_labels:
            return self
        g = {k: g[:, :n_labels] for k, g in self.cotangents.items()}
        return Tangents(self.layout, self.inputs, g)

    def matvec(self, v: np.ndarray) -> np.ndarray:
        """J v: (star, label) for v (param,), or (star, label, k) for v (param, k).

        Products are in the tangents' dtype.
        """
        k = 1 if v.ndim == 1 else v.shape[1]
        out = np.zeros((self.n_stars, self.n_labels, k))
        for name, layer in self.layout.layers.items():
            g = self.cotangents[name]
            part = v[layer.slice].reshape(layer.n_rows, -1).astype(g.dtype)
            if not layer.n_in:  # a bias alone
                dz = part[-1]
            else:
                dz = multiply(self.inputs[name], part[: layer.n_in])
                dz = dz + part[-1] if layer.has_bias else dz
            out += np.matmul(g, dz.reshape(-1, layer.n_out, k))
        return out[:, :, 0] if v.ndim == 1 else out

    def rmatvec(self, u: np.ndarray) -> np.ndarray:
        """J^T u: (param,) for u (star, label), or (param, k) for u (star, label, k)."""
        columns = u.reshape(*u.shape[:2], -1)
        out = np.empty((self.layout.n_params, columns.shape[2]))
        for name, layer in self.layout.layers.items():
            g = self.cotangents[name]
            dz = np.matmul(g.transpose(0, 2, 1), columns.astype(g.dtype)).reshape(self.n_stars, -1)
            part = out[layer.slice].reshape(layer.n_rows, -1)
            part[: layer.n_in] = multiply(self.inputs[name].T, dz)
            part[layer.n_in :] = dz.sum(axis=0, dtype=np.float64)
        return out[:, 0] if u.ndim == 2 else out

    def whiten(self, T: np.ndarray) -> Tangents:
        """T_n J_n for T (star, label, label): in units of the noise, zero for missing labels."""
        g = {k: np.matmul(T.astype(g.dtype), g) for k, g in self.cotangents.items()}
        return Tangents(self.layout, self.inputs, g)

    def of_layer(self, layer: str) -> Tangents:
        """Derivatives with respect to one layer's parameters alone."""
        return Tangents(
            self.layout.of_layer(layer),
            {layer: self.inputs[layer]},
            {layer: self.cotangents[layer]},
        )

    def dense(self) -> np.ndarray:
        """J itself (star, label, param): for few parameters or few stars."""
        out = np.empty((self.n_stars, self.n_labels, self.layout.n_params))
        for name, layer in self.layout.layers.items():
            g = self.cotangents[name]
            part = out[:, :, layer.slice].reshape(*out.shape[:2], layer.n_rows, layer.n_out)
            part[:, :, : layer.n_in] = self.inputs[name][:, None, :, None] * g[:, :, None, :]
            part[:, :, layer.n_in :] = g[:, :, None, :]
        return out

    def gram(
        self, other: Tangents, variance: dict[str, Any], dtype: Any = np.float64
    ) -> np.ndarray:
        """J diag(variance) J'^T: (label * star, other label * other star), label-major.

        `variance` gives each block of parameters a number or an array of the block's shape. Layers
        of variance 0 cost nothing. Sums are in `dtype`.
        """
        n = self.n_stars
        m = other.n_stars
        C = self.n_labels
        D = other.n_labels
        K = np.zeros((C, n, D, m), dtype)
        for layer, variances in self.layout.by_layer(variance).items():
            if not any(map(np.any, variances)):
                continue
            a, g = self.layer_factors(layer, dtype)
            b, h = (a, g) if other is self else other.layer_factors(layer, dtype)
            for ab, gv in _separate(a, b, g, *(np.asarray(v, dtype) for v in variances)):
                for c in range(C):
                    k = c + 1 if other is self else D
                    for rows in chunks(n, ROWS_AT_ONCE):
                        gh = (gv[c, rows] @ h[:k].reshape(k * m, -1).T).reshape(-1, k, m)
                        gh *= ab[rows]
                        K[c, rows, :k] += gh
        if other is self:
            for c in range(C):
                for d in range(c):
                    K[d, :, c] = K[c, :, d].T
        return K.reshape(C * n, D * m)

    def layer_factors(self, layer: str, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (star, in) and cotangents (label, star, out) of one layer."""
        g = self.cotangents[layer].transpose(1, 0, 2)
        a = np.asarray(self.inputs[layer], dtype)
        return a, np.ascontiguousarray(g, dtype)

    def as_factors(self, dtype: Any = np.float64) -> Tangents:
        """The same laid out as `layer_factors` has them: for products with many others."""
        factors = {layer: self.layer_factors(layer, dtype) for layer in self.cotangents}
        return Tangents(
            self.layout,
            {layer: a for layer, (a, _) in factors.items()},
            {layer: g.transpose(1, 0, 2) for layer, (_, g) in factors.items()},
        )

    def own_gram(self, variance: dict[str, Any]) -> np.ndarray:
        """The blocks of `gram(self)` that belong to one star each: (star, label, label)."""
        out = np.zeros((self.n_stars, self.n_labels, self.n_labels))
        for layer, (v, w) in self.layout.by_layer(variance).items():
            a = self.inputs[layer].astype(np.float64)
            g = self.cotangents[layer].astype(np.float64)
            if np.ndim(v):
                out += np.matmul(g * (a**2 @ v)[:, None, :], g.transpose(0, 2, 1))
            elif a.shape[1]:
                out += (v * np.sum(a * a, axis=1))[:, None, None] * np.matmul(
                    g, g.transpose(0, 2, 1)
                )
            out += np.matmul(g * w, g.transpose(0, 2, 1))
        return out


def compute_tangents(
    net: Network, factors: Callable[..., list[np.ndarray]], theta: np.ndarray, X: np.ndarray
) -> Tangents:
    """Tangents of the stars X (star, pixel) by a function of `compile_tangent_factors`."""
    arrays = factors(theta, X)
    n = len(net.dense_shapes)
    cotangents = dict(zip(net.layout.layers, arrays[n:], strict=True))
    factored = dict(zip(net.dense_shapes, arrays[:n], strict=True))
    none = np.empty((len(X), 0), arrays[-1].dtype)
    return Tangents(
        net.layout, {layer: factored.get(layer, none) for layer in cotangents}, cotangents
    )


def walk_tangents(
    net: Network,
    factors: Callable[..., list[np.ndarray]],
    theta: np.ndarray,
    X: np.ndarray,
    stars_at_once: int = STARS_AT_ONCE,
) -> Iterator[tuple[slice, Tangents]]:
    """Rows and tangents of the stars X (star, pixel), some stars at a time."""
    for rows in chunks(len(X), stars_at_once):
        yield rows, compute_tangents(net, factors, theta, X[rows])


def _separate(
    a: np.ndarray, b: np.ndarray, g: np.ndarray, v: Any, w: Any
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (inputs' Gram, cotangents): the kernel is the sum of products of their Grams.

    The first is (star, 1, other star), where one of these may stand for all.
    """
    one = np.ones((len(a), 1, 1), g.dtype)
    if not np.any(v):
        yield one, g * w
        return
    if np.ndim(v) == 0:
        ab = multiply_own(a) if a is b else a @ b.T
        ab *= v
        if np.ndim(w) == 0:
            ab += w
            yield ab[:, None], g
            return
        yield ab[:, None], g
    else:  # one variance a weight: an outer product for each feature only
        for i in range(a.shape[1]):
            yield np.outer(a[:, i], b[:, i])[:, None], g * v[i]
    yield one, g * w
