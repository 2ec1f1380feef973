"""The dual of more stars than fit in memory: its factor in tiles on disk.

Star by star the same numbers as `DualInverse`. The stars are in the order of `Problem.pick_stars`,
so that after each row of tiles the factor is that of a subset, from which upper bounds come.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from symspec.derivatives.tangents import Tangents
from symspec.errors import OptionError
from symspec.inverse_hessian.interface import ArrayReader, Problem
from symspec.inverse_hessian.low_rank import LowRankInverse
from symspec.inverse_hessian.numerics.costs import (
    FLOPS_TOLD,
    MAX_HOURS,
    STAGE,
    StarCosts,
    TileCosts,
    check_costs,
)
from symspec.inverse_hessian.numerics.layout import Layout, open_layout
from symspec.inverse_hessian.numerics.square_roots import Factor
from symspec.inverse_hessian.numerics.star_blocks import StarBlocks
from symspec.inverse_hessian.numerics.tile_folder import TileFolder
from symspec.inverse_hessian.numerics.tiled_cholesky import TiledCholesky
from symspec.inverse_hessian.woodbury import Rows, WoodburyInverse, invert_prior
from symspec.networks.noise.star_noise import StarNoise
from symspec.networks.regression import Regression
from symspec.safety.checkpoint import find_fingerprint
from symspec.safety.progress import Progress
from symspec.safety.whole_files import remove_abandoned

OTHERWISE = 'give options={"subset": n} for upper bounds sooner'


class TiledDualInverse(WoodburyInverse):
    """A^-1 with the kernel's Cholesky factor on disk.

    It holds the names of files, and reads them tile by tile whenever it is asked: the folder has to
    stay where it is.

    Parameters
    ----------
    stars : StarBlocks
        Tangents of the training stars.
    factor : TiledCholesky
        L.
    noise : StarNoise
        Of the training stars, in the order of the tiles.
    is_subset : bool
        Whether there are other stars; variances are then upper bounds.
    """

    structure = "dual"

    def __init__(
        self, stars: StarBlocks, factor: TiledCholesky, noise: StarNoise, *, is_subset: bool
    ):
        super().__init__(stars.params, stars.variance, noise, is_subset)
        self.stars = stars
        self.factor = factor

    @classmethod
    def build(cls, problem: Problem, theta: np.ndarray) -> TiledDualInverse:
        """From all training stars, or from as many rows of tiles as hold the option "subset"."""
        folder = problem.options["scratch"].absolute()
        size = problem.options.get("stars_a_tile")
        fingerprint = find_fingerprint("kernel in tiles", problem.identity(theta), size)
        whole = open_layout(folder, fingerprint, partial(_lay_out, problem, theta))
        remove_abandoned(folder)
        tiles = TileFolder(folder, find_fingerprint(fingerprint, whole))
        layout = whole.leading(problem.options.get("subset", len(whole.stars)))
        noise = problem.noise(theta, layout.stars)
        net = problem.reg.net
        costs = StarCosts.of(net.layout, net.n_outputs)
        costs.check_block(layout.stars_a_block, layout.n_rows, problem.memory)
        stars = StarBlocks(tiles, layout, net.layout, invert_prior(problem.reg))
        factor = TiledCholesky(tiles, layout.sizes)
        is_subset = len(layout.stars) < len(whole.stars)
        inverse = cls(stars, factor, noise, is_subset=is_subset)
        inverse._fill(problem, theta)
        return inverse

    @classmethod
    def from_arrays(cls, reader: ArrayReader, place: str, reg: Regression) -> TiledDualInverse:
        observed = reader.array(f"{place}/observed", (None, reg.net.n_outputs), kind=bool)
        shape = *observed.shape, observed.shape[1]
        covariances = reader.array(f"{place}/covariances", shape, finite=True)
        tiles = TileFolder.from_arrays(reader, f"{place}/tiles")
        size = max(1, int(reader.array(f"{place}/tiles/stars_a_block", (), finite=True)))
        layout = Layout(np.arange(len(observed)), observed, size)
        stars = StarBlocks(tiles, layout, reg.net.layout, invert_prior(reg))
        factor = TiledCholesky(tiles, layout.sizes)
        if not (stars.are_whole() and factor.is_whole()):
            raise reader.refusal(
                f"{place}/tiles/folder", "a folder with all tiles", str(tiles.path)
            )
        is_subset = bool(reader.array(f"{place}/is_subset", (), kind=bool))
        return cls(stars, factor, StarNoise(observed, covariances), is_subset=is_subset)

    def _fill(self, problem: Problem, theta: np.ndarray) -> None:
        """Compute what is not there: blocks of stars, and tiles row by row."""
        n = len(self.factor.sizes)
        layout = self.stars.layout
        costs = TileCosts.of(layout, StarCosts.of(self.layout, problem.reg.net.n_outputs))
        is_there = [[j <= i and self.factor.has_tile(i, j) for j in range(n)] for i in range(n)]
        missing = np.tri(n, dtype=bool) & ~np.array(is_there)
        lacking = [i for i in range(n) if not self.stars.has(i)]
        max_hours = problem.options.get("max_hours", MAX_HOURS)
        n_bytes = costs.n_bytes[missing].sum() + costs.tangent_bytes[lacking].sum()
        path = self.factor.folder.path
        hours = check_costs(costs.flops[missing].sum(), n_bytes, path, max_hours, OTHERWISE)
        progress = _Progress(problem.checkpoint.progress, costs, missing, layout)
        progress.show(estimated_hours=hours)
        for i in range(n):
            self.stars.compute(i, lambda stars: problem.tangents(theta, problem.X[stars]))
            if missing[i].any():
                block = partial(self._find_block, i, self.stars[i].as_factors())
                self.factor.complete_row(i, block, partial(progress.tell, i))

    def _find_block(self, i: int, tangents: Tangents, j: int) -> np.ndarray:
        """Block (row of j, row of i) of M, of which the tangents of block i are given."""
        layout = self.stars.layout
        if j < i:
            K = tangents.gram(self.stars[j], self.variance)
        else:
            K = self._block_noise(layout.blocks[i]).add_to(tangents.gram(tangents, self.variance))
        rows, columns = (layout.rows[k] for k in (i, j))
        is_whole = len(rows) == len(K) and len(columns) == K.shape[1]
        return (K if is_whole else K[np.ix_(rows, columns)]).T

    def _block_noise(self, block: slice) -> StarNoise:
        covariance = self.noise.covariance
        if covariance.ndim == 3:
            covariance = covariance[block]
        return StarNoise(self.observed[block], covariance)

    # --- the forms of the factor

    def _tangent(self, V: np.ndarray) -> Rows:
        return self.stars.matvec(V)

    def _tangent_transposed(self, u: Rows) -> np.ndarray:
        return self.stars.rmatvec(u)

    def _take_rows(self, values: np.ndarray) -> Rows:
        return self.stars.layout.split(values)

    def _solve_M(self, b: Rows) -> Rows:
        parts = [np.array(part.reshape(len(part), -1), np.float64, order="F") for part in b]
        self.factor.solve_lower(parts)
        self.factor.solve_upper(parts)
        return [x.reshape(part.shape) for x, part in zip(parts, b, strict=True)]

    def _reduce(self, tangents: Tangents) -> Rows:
        parts = list(self.stars.kernel(tangents))
        self.factor.solve_lower(parts)
        return parts

    def _log_det_factor(self) -> float:
        return float(sum(np.log(diagonal).sum() for diagonal in self.factor.diagonals()))

    def _walk(self) -> Iterator[tuple[slice, Tangents]]:
        return zip(self.stars.layout.blocks, self.stars, strict=True)

    def _own_kernel(self) -> np.ndarray:
        return self.stars.own_gram()

    # --- what takes the whole kernel at once

    def diagonal(self) -> np.ndarray:
        raise _refuse("variances of single weights", '"krylov"')

    def directions(self, reg: Regression, n: int | None = None) -> LowRankInverse:
        raise _refuse("leading directions", '"low_rank"')

    def whitening(self, reg: Regression) -> Factor:
        raise _refuse("square roots of A^-1", '"low_rank" or "kronecker"')

    def arrays(self) -> dict[str, np.ndarray]:
        folder = self.factor.folder.arrays()
        C = self.observed.shape[1]
        covariances = np.broadcast_to(self.noise.covariance, (len(self.observed), C, C))
        return {
            "observed": self.observed,
            "covariances": np.ascontiguousarray(covariances),
            "is_subset": np.array(not self.is_complete),
            "tiles/stars_a_block": np.array(float(self.stars.layout.stars_a_block)),
        } | {f"tiles/{name}": text for name, text in folder.items()}


class _Progress:
    """Operations that are done, and leading stars of which upper bounds can be had already."""

    def __init__(self, follow: Progress, costs: TileCosts, missing: np.ndarray, layout: Layout):
        self._follow = follow
        self._flops = costs.flops
        self._missing = missing.copy()
        self._ends = [0, *(block.stop for block in layout.blocks)]

    def tell(self, i: int, j: int) -> None:
        """The tile (i, j) is there."""
        self._missing[i, j] = False
        self.show()

    def show(self, **news: float) -> None:
        """What is done, and what else is known."""
        n_rows = int(np.argmax(self._missing.any(axis=1))) if self._missing.any() else -1
        done = self._flops[~self._missing].sum() / FLOPS_TOLD
        total = self._flops.sum() / FLOPS_TOLD
        self._follow(STAGE, int(done), math.ceil(total), usable_stars=self._ends[n_rows], **news)


def _refuse(what: str, structures: str) -> OptionError:
    return OptionError(
        f"{what} take the whole kernel in memory, got one in tiles on disk: leave scratch out of"
        f" the options, or use structure={structures}."
    )


def _lay_out(problem: Problem, theta: np.ndarray) -> Layout:
    """Stars in an order of which every beginning is a subset of `pick_stars`, and their blocks."""
    n_stars = len(problem.labelled)
    observed = problem.noise(theta).observed
    size = problem.options.get("stars_a_tile")
    if size is None:
        costs = StarCosts.of(problem.reg.net.layout, problem.reg.net.n_outputs)
        size = costs.choose_block(n_stars, int(observed.sum()), problem.memory)
    parts = []
    for first in range(0, n_stars, size):
        more = problem.pick_stars(min(first + size, n_stars))
        parts.append(np.setdiff1d(more, problem.pick_stars(first)))
    stars = np.concatenate(parts)
    return Layout(stars, observed[stars], size)
