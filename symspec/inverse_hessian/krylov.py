r"""Conjugate gradients on products alone: each variance between two bounds, at any size.

Some of the training stars, the subset s, are inverted exactly (`DualInverse`), and the rest are
added by their products alone, streamed or from a kernel on disk. In units of the noise, with
:math:`\Sigma_s = A_s^{-1}`,

.. math::
    A^{-1} = \Sigma_s - \Sigma_s \hat J^T M^{-1} \hat J \Sigma_s,
    \qquad M = 1 + \hat J \Sigma_s \hat J^T,

whose vectors have one entry a (star, label), not one a parameter. This is conjugate gradients on A
preconditioned by the subset; M's smallest eigenvalue is at least 1, so that bounds need no estimate
of it.

For a star with tangents J_*, let :math:`k = \hat J \Sigma_s J_*^T`, x the solution of :math:`M x =
k` within the block Krylov space of k, and :math:`\rho = k - M x` its residual. Then :math:`V = J_*
A^{-1} J_*^T` obeys

.. math::
    h^T F^{-1} h \;\preceq\; V \;\preceq\; \bar V = V_s - k^T x,

with :math:`h_i = \bar V_i` and :math:`F_{ij} = \bar V_{\min(i,j)} + \delta_{ij} \rho_i^T \rho_i`
over the iterates i. The upper end is the Gauss-Radau rule with its node at the smallest eigenvalue,
the lower end the Gauss rule (Golub & Meurant 2010, Matrices, Moments and Quadrature,
doi:10.1515/9781400833887), both written as Galerkin projections, which hold whatever rounding does
to the recurrences. What rounding does to products shows in how far the projected M is from
symmetric; bounds are widened by it, ten standard deviations to each side.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from symspec.derivatives.tangent_stream import TangentStream
from symspec.derivatives.tangents import Tangents
from symspec.errors import DataError, OptionError
from symspec.inverse_hessian.dual import DualInverse, read_tangents
from symspec.inverse_hessian.interface import ArrayReader, InverseHessian, Problem
from symspec.inverse_hessian.numerics.costs import MAX_HOURS
from symspec.inverse_hessian.numerics.digits import (
    DEVIATIONS,
    HOPELESS,
    PROMISED,
    TRUSTED,
    Enclosure,
    SumsOfSquares,
    fits_densely,
    loses_digits,
    round_difference,
)
from symspec.inverse_hessian.numerics.krylov_space import (
    Brackets,
    KrylovLimits,
    KrylovSpace,
    estimate_log_det,
)
from symspec.inverse_hessian.numerics.streamed_rest import StreamedRest
from symspec.inverse_hessian.numerics.tiled_rest import TiledRest
from symspec.networks.regression import Regression
from symspec.safety.checkpoint import Checkpoint, find_fingerprint

SOLVE_TOLERANCE = 1e-9
DENSE_ROWS = 512  # M is formed where it has no more
DENSE_PARAMS = 2048  # for the diagonal
N_PROBES = 64


class KrylovInverse(InverseHessian):
    """A^-1 by conjugate gradients preconditioned by a subset of the stars.

    Parameters
    ----------
    subset : DualInverse
        A_s^-1 of the subset.
    rest : TangentStream
        All other training stars.
    limits : KrylovLimits
    checkpoint : Checkpoint, optional
        Where the Krylov spaces of label covariances are kept.
    tiles : TiledRest, optional
        The kernel of the rest on disk, for products in place of the stream.
    """

    structure = "krylov"
    accuracy = "interval"
    options: ClassVar = {
        "subset": int,
        "tolerance": float,
        "max_iterations": int,
        "max_seconds": float,
        "scratch": Path,
        "max_hours": float,
    }
    fixed_options = ("scratch",)

    def __init__(
        self,
        subset: DualInverse,
        rest: TangentStream,
        limits: KrylovLimits | None = None,
        checkpoint: Checkpoint | None = None,
        tiles: TiledRest | None = None,
    ):
        super().__init__(subset.shape[0])
        self.subset = subset
        self.rest = rest
        self._streamed = StreamedRest(subset, rest)
        self._products = self._streamed if tiles is None else tiles
        self.stars_a_piece = self._products.stars_a_piece
        self.limits = KrylovLimits() if limits is None else limits
        self.checkpoint = Checkpoint() if checkpoint is None else checkpoint
        # some times what was asked for
        self.widest = float(np.clip(5 * self.limits.tolerance, PROMISED, self.widest))
        self._n_rows = self._streamed.n_rows
        self._log_det: tuple[float, float] | None = None

    @classmethod
    def build(cls, problem: Problem, theta: np.ndarray) -> KrylovInverse:
        """With the stars of the option "subset" as preconditioner, by default as many as fit."""
        options = dict(problem.options)
        scratch = options.pop("scratch", None)
        max_hours = options.pop("max_hours", None)
        if max_hours and not scratch:
            raise OptionError(
                'max_hours goes with tiles on disk: give options={"scratch": FOLDER}, too, or leave'
                " it out."
            )
        subset = problem.pick_stars(options.pop("subset", _default_subset(problem)))
        rest = np.setdiff1d(problem.labelled, subset)
        if not rest.size:
            raise OptionError(
                f"subset should leave some of the {len(problem.labelled)} training stars with"
                f" labels to be added by products, got {len(subset)}: give fewer, or use"
                ' structure="dual".'
            )
        inverse = DualInverse.of_stars(problem, theta, subset, in_double=True)
        limits = KrylovLimits(**options, max_bytes=problem.memory / 4)
        tiles = None
        if scratch:
            noise = problem.noise(theta)
            key = find_fingerprint("kernel beside a subset", problem.identity(theta), rest)
            tiles = TiledRest.open(
                scratch.absolute(), key, inverse, rest, noise.observed[rest],
                dtype=problem.dtype, memory=problem.memory,
            )  # fmt: skip
            tiles.fill(
                lambda some: problem.tangents(theta, problem.X[some]).whiten(noise.whiteners[some]),
                max_hours or MAX_HOURS,
                problem.checkpoint.progress,
            )
        return cls(inverse, problem.stream(theta, rest), limits, problem.checkpoint, tiles)

    @classmethod
    def from_arrays(cls, reader: ArrayReader, place: str, reg: Regression) -> KrylovInverse:
        layer = next(iter(reg.net.layout.layers))
        n_rest = len(reader.array(f"{place}/rest/cotangents/{layer}", (None, None, None)))
        rest = TangentStream.of(read_tangents(reader, f"{place}/rest", reg.net, n_rest))
        limits: dict[str, Any] = {
            name: float(reader.array(f"{place}/limits/{name}", ()))
            for name in list(reader.find(f"{place}/limits"))
        }
        subset = DualInverse.from_arrays(reader, f"{place}/subset", reg)
        tiles = None
        if "tiles" in reader.find(place):
            tiles = TiledRest.from_arrays(reader, f"{place}/tiles", subset)
        if tiles is not None and not tiles.is_whole():
            warnings.warn(
                f"{tiles.folder.path} should hold the tiles of this posterior, got no folder or a"
                " damaged one: error bars come from products without it, which take longer.",
                RuntimeWarning,
                stacklevel=2,
            )
            tiles = None
        return cls(subset, rest, KrylovLimits(**limits), tiles=tiles)

    # --- what the interface asks for

    def _matmat(self, V: np.ndarray) -> np.ndarray:
        V = self.subset @ V
        x = self._solve(self._streamed.down(V))
        return V - self.subset @ self._streamed.up(x)

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        return self._matmat(v.reshape(-1, 1))[:, 0]

    def diagonal(self, *, n_probes: int | None = None) -> np.ndarray:
        r"""Diagonal of A^-1 (param,), by default exact up to 2,048 parameters, else by 64 probes.

        With probes it is an estimate: the subset's exact diagonal, less that of
        :math:`\Sigma_s - A^{-1}` by probes of random signs (Bekas, Kokiopoulou & Saad 2007,
        doi:10.1016/j.apnum.2007.01.003).
        """
        P = self.shape[0]
        if n_probes is None and P <= DENSE_PARAMS:
            return np.diag(self.to_dense()).copy()
        n_probes = n_probes or N_PROBES
        Z = np.random.default_rng(0).choice([-1.0, 1.0], size=(P, n_probes))
        upper = self.subset.diagonal()
        gain = np.mean(Z * (self.subset @ Z - self @ Z), axis=1)
        return upper - np.clip(gain, 0, upper)

    def logdet(self) -> float:
        """Log det A^-1: the subset's, exactly, and that of M, see `logdet_standard_error`."""
        return self.subset.logdet() - self._log_det_rest()[0]

    def logdet_standard_error(self) -> float:
        """Standard error of `logdet` from its random probes; 0 where M is small and is formed."""
        return self._log_det_rest()[1]

    def draw(self, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """Draws from the subset's posterior, each conditioned on the other stars (exact)."""
        theta = self.subset.draw(n_draws, rng)
        noise = rng.normal(size=(n_draws, self._n_rows))
        for columns in self._streamed.slice_columns(n_draws):
            x = self._solve(self._streamed.down(theta[columns].T) + noise[columns].T)
            theta[columns] -= (self.subset @ self._streamed.up(x)).T
        return theta

    def label_covariance(self, tangents: Tangents) -> np.ndarray:
        """Upper ends of `label_covariance_bounds`."""
        return self.enclose(tangents).value

    def enclose(self, tangents: Tangents) -> Enclosure:
        n_terms = self.shape[0] + self._n_rows
        if self._sums_of_squares is not None and loses_digits(self.condition, n_terms):
            return self._sums_of_squares.enclose(tangents)
        lower, upper, moved = self._bracket(tangents)
        prior = tangents.own_gram(self.subset.variance)
        relative = round_difference(upper, prior, self.condition, n_terms)
        variances = np.diagonal(upper, axis1=1, axis2=2)
        unknown = np.where(moved > 0, np.inf, 0.0)
        relative += np.divide(moved, variances, out=unknown, where=variances > 0)
        enclosure = Enclosure.of_relative(upper, relative, most=prior)
        sure = (relative < HOPELESS).all(axis=1)
        enclosure.lower[sure] -= upper[sure] - lower[sure]
        poor = ~(relative < TRUSTED).all(axis=1)
        if poor.any() and self._sums_of_squares is not None:
            enclosure.replace(poor, self._sums_of_squares.enclose(tangents[poor]))
        return enclosure

    @cached_property
    def condition(self) -> float:
        """Largest ratio of what the prior and the noise let a label vary to the noise alone."""
        rest = [
            np.trace(tangents.own_gram(self.subset.variance), axis1=1, axis2=2).max()
            for _, tangents in self.rest.blocks()
        ]
        return max(self.subset.condition, 1 + float(np.max(rest)))

    @cached_property
    def _sums_of_squares(self) -> SumsOfSquares | None:
        """The form that keeps more digits, where it fits."""
        subset = self.subset
        if not fits_densely(subset.n_rows + self._n_rows, self.shape[0]):
            return None
        blocks = [tangents for _, tangents in self.rest.blocks()]
        blocks.append(subset.tangents.whiten(subset.noise.whiteners))
        return SumsOfSquares(blocks, subset.tangents.layout.expand(subset.variance))

    def _bracket(self, tangents: Tangents) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bounds (star, label, label) by conjugate gradients, and what rounding made of them."""
        step = max(1, self._columns_that_share() // tangents.n_labels)
        groups = [tangents[i : i + step] for i in range(0, tangents.n_stars, step)]
        budget = self.limits.max_seconds
        begin = time.monotonic()
        found = []
        for i, group in enumerate(groups):
            left = None
            if budget is not None:
                left = (budget - time.monotonic() + begin) / (len(groups) - i)
            *_, last = self._iterate(group, max_seconds=left)
            moved = np.hypot(last.noise, self._products.find_rounding(group, last.x))
            found.append((last.lower, last.upper, DEVIATIONS * moved))
        lower, upper, moved = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return lower, upper, moved

    def iterate_bounds(
        self, tangents: Tangents, *, max_seconds: float | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Bounds (star, label, label), but for rounding, at the start and after each iteration.

        The stars share one Krylov space.
        """
        for brackets in self._iterate(tangents, max_seconds=max_seconds):
            yield brackets.lower.copy(), brackets.upper.copy()

    def _iterate(
        self, tangents: Tangents, *, max_seconds: float | None = None
    ) -> Iterator[Brackets]:
        begin = time.monotonic()
        k = self._products.find_columns(tangents)
        brackets = Brackets(self.subset.label_covariance(tangents), k)
        fingerprint = find_fingerprint(*tangents.inputs.values(), *tangents.cotangents.values())
        how = self.checkpoint, f"krylov {fingerprint}", self._products.dtype
        space = KrylovSpace(self._products.multiply, self._n_rows, *how)
        while True:
            yield brackets
            wide = brackets.find_wide(self.limits.tolerance)
            n_columns = int(wide.sum()) * tangents.n_labels
            seconds = time.monotonic() - begin
            if not wide.any() or self._must_stop(space, n_columns, seconds, max_seconds):
                return
            self.checkpoint.progress("krylov", int((~wide).sum()), len(wide))
            if not space.expand(brackets.residuals[:, wide].reshape(self._n_rows, -1)):
                return
            try:
                brackets.update(space, wide)
            except DataError:
                return

    def cheap(self) -> DualInverse:
        """The subset's inverse, never smaller in Loewner order."""
        return self.subset

    def arrays(self) -> dict[str, np.ndarray]:
        blocks = [tangents for _, tangents in self.rest.blocks()]
        limits = {name: value for name, value in vars(self.limits).items() if value is not None}
        arrays = {f"limits/{name}": np.array(float(value)) for name, value in limits.items()}
        arrays |= {f"subset/{name}": array for name, array in self.subset.arrays().items()}
        for layer in self.subset.tangents.inputs:
            arrays[f"rest/inputs/{layer}"] = np.concatenate([t.inputs[layer] for t in blocks])
        for layer in self.subset.tangents.inputs:
            cotangents = [t.cotangents[layer] for t in blocks]
            arrays[f"rest/cotangents/{layer}"] = np.concatenate(cotangents)
        return arrays | {f"tiles/{name}": a for name, a in self._products.arrays().items()}

    def identity(self) -> dict[str, Any]:
        limits = {name: value and float(value) for name, value in vars(self.limits).items()}
        how = type(self._products).__name__, str(self._products.dtype)
        return {"limits": limits, "subset": self.subset, "rest": self.rest, "products": how}

    # --- solutions

    def _solve(self, K: np.ndarray) -> np.ndarray:
        """M^-1 K (row, k)."""
        step = self._columns_that_share()
        return np.hstack(
            [self._solve_together(K[:, i : i + step]) for i in range(0, K.shape[1], step)]
        )

    def _solve_together(self, K: np.ndarray) -> np.ndarray:
        space = KrylovSpace(self._products.multiply, self._n_rows, Checkpoint(), "")
        goal = SOLVE_TOLERANCE * np.linalg.norm(K, axis=0)
        residual = K
        x = np.zeros_like(K)
        while (wide := np.linalg.norm(residual, axis=0) > goal).any():
            must_stop = self._must_stop(space, int(wide.sum()), 0.0, None)
            if must_stop or not space.expand(residual[:, wide]):
                error = np.max(np.linalg.norm(residual, axis=0) / np.linalg.norm(K, axis=0))
                warnings.warn(
                    f"conjugate gradients stopped at a relative residual of {error:.1e} after"
                    f" {space.n_blocks} iterations: give a larger subset, more iterations or more"
                    " memory.",
                    RuntimeWarning,
                    stacklevel=4,
                )
                break
            x, Mx = space.combine(space.solve(space.project(K)))
            residual = K - Mx
        return x

    def _must_stop(
        self, space: KrylovSpace, n_more: int, seconds: float, max_seconds: float | None
    ) -> bool:
        late = max_seconds is not None and seconds * (1 + 1 / max(space.n_blocks, 1)) > max_seconds
        full = (space.n_columns + n_more) * self._column_bytes > self.limits.max_bytes
        return late or full or space.n_blocks >= self.limits.max_iterations

    @property
    def _column_bytes(self) -> int:
        """Bytes of a vector of a Krylov space and its product."""
        return 2 * self._products.dtype.itemsize * self._n_rows

    def _columns_that_share(self) -> int:
        """Right-hand sides whose joint space fits for as many iterations as are usual."""
        products = self._products
        fitting = self.limits.max_bytes // (self._column_bytes * products.usual_steps)
        return int(np.clip(fitting, self.rest.n_labels, products.most_columns))

    def _log_det_rest(self) -> tuple[float, float]:
        if self._log_det is None:
            self._log_det = estimate_log_det(self._products.multiply, self._n_rows, DENSE_ROWS)
        return self._log_det


def _default_subset(problem: Problem) -> int:
    """Stars of which the kernel takes an eighth of the memory, at most a quarter of them."""
    fitting = int(np.sqrt(problem.memory / 8 / (3 * 8)) / problem.reg.net.n_outputs)
    return max(1, min(fitting, len(problem.labelled) // 4))
