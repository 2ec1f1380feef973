"""From what users give for `scheduler` to the workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from symspec.errors import MissingDependencyError, OptionError
from symspec.workers.here import Here
from symspec.workers.interface import LOCAL, Workers


@contextmanager
def open_workers(scheduler: Any = None) -> Iterator[Workers]:
    """The workers that `scheduler` names, for the time of the block.

    Parameters
    ----------
    scheduler : None, "local", str, distributed.Client or Workers
        None is this process; "local" a process for each core of this machine, which end with the
        block; "tcp://..." the address of a dask scheduler. A client stays open.

    Raises
    ------
    OptionError
        It is nothing of that.
    MissingDependencyError
        dask is not installed.
    WorkersError
        The scheduler cannot be reached, or its workers have other versions of symspec, NumPy,
        PyTensor or Python.
    """
    if scheduler is None:
        yield Here()
        return
    if isinstance(scheduler, Workers):
        yield scheduler
        return
    if isinstance(scheduler, str) and scheduler != LOCAL and ":" not in scheduler:
        raise _refuse(scheduler)
    try:
        from symspec.workers.cluster import connect
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f'scheduler={scheduler!r} needs dask: pip install "symspec[dask]".'
        ) from error
    cluster = connect(scheduler)
    if cluster is None:
        raise _refuse(scheduler)
    with cluster as workers:
        yield workers


def _refuse(scheduler: Any) -> OptionError:
    return OptionError(
        'scheduler should be None (this process), "local" (a process for each core), the address of'
        ' a dask scheduler, such as "tcp://node1:8786", or a distributed.Client, got'
        f" {scheduler!r}."
    )
