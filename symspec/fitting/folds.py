"""A function of each fold, in processes of their own: small networks gain nothing by threads."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import threadpool_limits

from symspec.errors import WorkersError, tell_without_places
from symspec.safety.progress import Progress, show_progress
from symspec.spectra.selections import assign_folds
from symspec.spectra.spectra import Spectra
from symspec.workers import open_workers
from symspec.workers.interface import Task

STAGE = "folds: training, tuning, certifying"


def divide(
    spectra: Spectra, folds: int, groups: ArrayLike | None, seed: int
) -> tuple[Spectra, np.ndarray]:
    """The stars that have labels, and the fold (star,) in which each is held out.

    `groups` (star,) take the place of those of the spectra, if they are given.

    Raises
    ------
    OptionError
        There are fewer than two folds, or fewer groups than folds.
    """
    if groups is not None:
        spectra = replace(spectra, groups=np.asarray(groups))
    fold = assign_folds(spectra, folds, seed)
    return spectra[fold >= 0], fold[fold >= 0]


def run_folds[Job, Result](
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    n_workers: int | None = None,
    scheduler: Any = None,
    progress: bool | Progress = True,
    stage: str = STAGE,
) -> list[Result]:
    """Results of all jobs, in their order.

    Parameters
    ----------
    work : callable
        A function of a module, which processes can be sent.
    jobs : sequence
    n_workers : int, optional
        Processes; by default one a job, but no more than there are cores. 1: this process itself.
    scheduler : None, "local", str or distributed.Client, optional
        In place of these, see `symspec.workers`.
    progress : bool or Progress, default True
        It is called after each job.
    stage : str
        What the progress calls the work.

    Raises
    ------
    WorkersError
        A process died.
    """
    n = min(len(jobs), n_workers or os.cpu_count() or 1)
    with show_progress(progress) as show:
        if scheduler is not None:
            show(stage, 0, len(jobs))
            return _run_elsewhere(scheduler, work, jobs, show, stage)
        with Processes(n) as processes:
            return processes.run(work, jobs, show, stage)


class Processes:
    """Processes that do one set of jobs after another, and need not be started for each.

    Parameters
    ----------
    n : int, optional
        By default as many as there are cores. 1: this process itself.
    """

    def __init__(self, n: int | None = None):
        self._n = n or os.cpu_count() or 1
        self._pool = None
        if self._n > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._n, context, initializer=_begin_process)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run[Job, Result](
        self, work: Callable[[Job], Result], jobs: Sequence[Job], show: Progress, stage: str
    ) -> list[Result]:
        """Results of all jobs, in their order; as of `run_folds`."""
        show(stage, 0, len(jobs))
        if self._pool is None:
            results = []
            for n_done, job in enumerate(jobs, start=1):
                results.append(work(job))
                show(stage, n_done, len(jobs))
            return results
        try:
            futures = [self._pool.submit(work, job) for job in jobs]
            for n_done, future in enumerate(as_completed(futures), start=1):
                future.result()
                show(stage, n_done, len(jobs))
            return [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise WorkersError(
                f"{self._n} processes should do the work, but one died: in a script, call this"
                ' below `if __name__ == "__main__":`, as each of them imports the script; or memory'
                " was short, where fewer processes, of smaller networks or fewer spectra, get"
                " through."
            ) from error


def _begin_process() -> None:
    """Use one thread; warn in words.

    Only libraries that are loaded can be told: SciPy's BLAS is another one than NumPy's.
    """
    import_module("scipy.linalg")
    threadpool_limits(1)
    tell_without_places()


def _run_elsewhere[Job, Result](
    scheduler: Any,
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    show: Progress,
    stage: str,
) -> list[Result]:
    results: dict[int, Result] = {}
    task = Task(read=_as_it_is, find=work)
    with (
        open_workers(scheduler) as workers,
        closing(workers.map(task, jobs)) as found,
    ):
        for place, result in found:
            results[place] = result
            show(stage, len(results), len(jobs))
    return [results[place] for place in range(len(jobs))]


def _as_it_is[Job](job: Job) -> Job:
    return job
