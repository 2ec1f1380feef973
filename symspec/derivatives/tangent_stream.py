"""Whitened tangents of the training stars by blocks, in constant memory or kept if they fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from symspec.derivatives.tangents import Tangents
from symspec.derivatives.threads import Threads
from symspec.safety.checkpoint import Checkpoint, State, find_fingerprint
from symspec.safety.memory import chunks
from symspec.workers.interface import Task, Workers

BLOCK_STARS = 2048


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """Workers that may walk a stream, and what they need for it.

    Attributes
    ----------
    workers : Workers
    tangents : callable
        Tangents of spectra (star, pixel); it pickles.
    X : numpy.ndarray, shape (star, pixel)
        All training spectra.
    threads : Threads
    """

    workers: Workers
    tangents: Callable[[np.ndarray], Tangents]
    X: np.ndarray
    threads: Threads


class TangentStream:
    r"""J of the training stars in units of the noise, :math:`\hat J_n = T_n J_n`.

    T_n are the whiteners of the noise: :math:`T_n^T T_n = S_n^{-1}` if it is normal.
    A missing label's row is zero, so that :math:`A = \Lambda + \sum_n \hat J_n^T \hat J_n` whatever
    is missing.

    Parameters
    ----------
    compute : callable
        Tangents of some of the training stars, given by a slice or by their indices.
    whiteners : numpy.ndarray, shape (star, label, label)
        T_n.
    n_params : int
    keep_bytes : float
        All blocks together stay in memory if they take no more; otherwise each walk computes them
        again.
    stars : numpy.ndarray of int, optional
        Which of the training stars, all by default.
    elsewhere : Elsewhere, optional
        Who sums over the blocks, this process by default.
    """

    def __init__(
        self,
        compute: Callable[..., Tangents],
        whiteners: np.ndarray,
        n_params: int,
        keep_bytes: float,
        stars: np.ndarray | None = None,
        elsewhere: Elsewhere | None = None,
    ):
        self._compute = compute
        self._whiteners = whiteners
        self._keep_bytes = keep_bytes
        self.stars = np.arange(len(whiteners)) if stars is None else stars
        self.n_stars = len(self.stars)
        self.n_labels = whiteners.shape[1]
        self.n_params = n_params
        self._kept: dict[int, Tangents] = {}
        self._keeps: bool | None = None
        self._elsewhere = elsewhere

    @classmethod
    def of(cls, whitened: Tangents) -> TangentStream:
        """Stream of tangents that are there already, in units of the noise."""
        unit = np.broadcast_to(
            np.eye(whitened.n_labels), (whitened.n_stars, *[whitened.n_labels] * 2)
        )
        return cls(lambda stars: whitened[stars], unit, whitened.layout.n_params, 0)

    def blocks(self, start: int = 0) -> Iterator[tuple[slice, Tangents]]:
        """Blocks of stars, as slices of this stream's rows, from the one that begins at `start`."""
        for first in range(start, self.n_stars, BLOCK_STARS):
            rows = slice(first, min(first + BLOCK_STARS, self.n_stars))
            tangents = self._kept.get(first)
            if tangents is None:
                stars = self.stars[rows]
                tangents = self._compute(stars).whiten(self._whiteners[stars])
                if self._fits(tangents):
                    self._kept[first] = tangents
            yield rows, tangents

    def accumulate(
        self,
        checkpoint: Checkpoint,
        stage: str,
        zeros: State,
        add: Callable[[State, Tangents], None],
    ) -> State:
        """Add every block to `zeros`, by workers if there are any: the same sum in the same order.

        Parameters
        ----------
        checkpoint : Checkpoint
            Where the sum is kept meanwhile, under the name of the `stage`.
        add : callable
            Adds a block of tangents to a state, in place.
        """
        if self._elsewhere is None:
            return checkpoint.accumulate(stage, self, zeros, add)
        return checkpoint.accumulate(stage, _Sums(self, self._elsewhere, zeros, add), zeros, _join)

    def identity(self) -> list[str]:
        """A digest of each block, for fingerprints."""
        return [find_fingerprint(t.inputs, t.cotangents) for _, t in self.blocks()]

    def matvec(self, v: np.ndarray) -> np.ndarray:
        """J v (star, label) or (star, label, k) for v (param,) or (param, k)."""
        return np.concatenate([tangents.matvec(v) for _, tangents in self.blocks()])

    def rmatvec(self, u: np.ndarray) -> np.ndarray:
        """J^T u (param,) or (param, k) for u (star, label) or (star, label, k)."""
        out = np.zeros((self.n_params, *u.shape[2:]))
        for rows, tangents in self.blocks():
            out += tangents.rmatvec(u[rows])
        return out

    def whiteners(self, rows: slice) -> np.ndarray:
        """Whiteners (star, label, label) of some rows."""
        return self._whiteners[self.stars[rows]]

    def _fits(self, tangents: Tangents) -> bool:
        if self._keeps is None:
            arrays = [*tangents.inputs.values(), *tangents.cotangents.values()]
            self._keeps = (
                sum(a.nbytes for a in arrays) * self.n_stars / tangents.n_stars <= self._keep_bytes
            )
        return self._keeps


class _Sums:
    """What each block of a stream adds to a state, found by workers."""

    def __init__(
        self,
        stream: TangentStream,
        where: Elsewhere,
        zeros: State,
        add: Callable[[State, Tangents], None],
    ):
        self.n_stars = stream.n_stars
        self._stream = stream
        self._where = where
        shapes = {name: array.shape for name, array in zeros.items()}
        self._find = _SumOfBlock(where.tangents, where.threads, add, shapes)

    def blocks(self, start: int = 0) -> Iterator[tuple[slice, State]]:
        rows = [
            slice(start + r.start, start + r.stop)
            for r in chunks(self.n_stars - start, BLOCK_STARS)
        ]
        task = Task(read=self._read, find=self._find)
        with closing(self._where.workers.map(task, rows, in_order=True)) as found:
            for place, part in found:
                yield rows[place], part

    def _read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        return self._where.X[self._stream.stars[rows]], self._stream.whiteners(rows)


@dataclass(frozen=True, eq=False)
class _SumOfBlock:
    """What a worker does of a sum."""

    tangents: Callable[[np.ndarray], Tangents]
    threads: Threads
    add: Callable[[State, Tangents], None]
    shapes: dict[str, tuple[int, ...]]

    def __call__(self, data: tuple[np.ndarray, np.ndarray]) -> State:
        X, whiteners = data
        state = {name: np.zeros(shape) for name, shape in self.shapes.items()}
        with self.threads.for_matrices(len(X)):
            self.add(state, self.tangents(X).whiten(whiteners))
        return state


def _join(state: State, part: State) -> None:
    for name, array in part.items():
        state[name] += array
