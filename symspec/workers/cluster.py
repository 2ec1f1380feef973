"""Workers of a dask cluster: the one module that imports dask, imported when it is asked for.

What is dask's own is left to it: pieces are its tasks, which it gives to whoever is free and runs
again when a worker dies; what all pieces need goes to each worker once, by a plugin, also to
workers that come later; so few pieces are on their way that nobody's memory fills.

Data and results are pickled here: arrays that dask unpacks may begin at any byte, where NumPy works
on them in other portions, and so rounds sums otherwise than on its own arrays.
"""

from __future__ import annotations

import logging
import pickle
import signal
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast
from uuid import uuid4

import dask
from dask.system import CPU_COUNT
from distributed import (
    CancelledError,
    Client,
    Future,
    KilledWorker,
    LocalCluster,
    WorkerPlugin,
    as_completed,
    get_worker,
)

from symspec.errors import SymspecError, WorkersError
from symspec.workers.interface import LOCAL, Task, Workers
from symspec.workers.versions import describe_difference, find_own_versions

SECONDS_TO_CONNECT = 30
PIECES_AHEAD = 2  # of each worker, so that it has the next one when it is done
MOST_SENDINGS = 3  # of what all pieces need, if workers die meanwhile
_ALONE = threading.Lock()  # warnings are caught for a whole process


def connect(scheduler: Any) -> AbstractContextManager[Cluster] | None:
    """The cluster of a client, of an address, or of this machine; None for anything else."""
    if isinstance(scheduler, Client):
        return _use(scheduler)
    if scheduler == LOCAL:
        return _start_here()
    return _reach(scheduler) if isinstance(scheduler, str) else None


@contextmanager
def _use(client: Client) -> Iterator[Cluster]:
    yield Cluster(client)


@contextmanager
def _start_here() -> Iterator[Cluster]:
    with _start_processes() as cluster, Client(cluster, set_as_default=False) as client:
        client.register_plugin(_LeaveInterrupts())
        yield Cluster(client)


def _start_processes() -> LocalCluster:
    """A process for each core, each with one thread of BLAS, and as much memory as there is."""
    nobody_looks = {"distributed.worker.profile.enabled": False}
    try:
        with dask.config.set(nobody_looks):
            return LocalCluster(
                n_workers=CPU_COUNT,
                threads_per_worker=1,
                memory_limit=None,
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": ":0"},  # any port, as others may run
                silence_logs=logging.ERROR,
            )
    except RuntimeError as error:
        raise WorkersError(
            'scheduler="local" should start processes, which failed: in a script, call it below'
            ' `if __name__ == "__main__":`, as each of them imports the script.'
        ) from error


@contextmanager
def _reach(address: str) -> Iterator[Cluster]:
    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise WorkersError(
            f"scheduler should be the address of a dask scheduler, got {address}, which could not"
            f" be reached within {SECONDS_TO_CONNECT} seconds: look whether it runs and whether"
            f" this machine may connect to it ({error})."
        ) from error
    with client:
        yield Cluster(client)


class Cluster(Workers):
    """The workers of a dask cluster, all of the versions that this process has.

    Parameters
    ----------
    client : distributed.Client

    Raises
    ------
    WorkersError
        There are no workers, or they have other versions.
    """

    def __init__(self, client: Client):
        self._client = client
        self._check_workers()

    def map(
        self, task: Task, pieces: Sequence[Any], *, in_order: bool = False
    ) -> Generator[tuple[int, Any]]:
        """Results, each with its place, as they are finished.

        A piece of a worker that died is worked on by another one, up to dask's limit.

        Raises
        ------
        WorkersError
            Workers died again and again, the scheduler was lost, or a worker that came later has
            other versions.
        """
        name = f"symspec-{uuid4().hex}"
        with self._sharing(_Shared(task, find_own_versions()), name):
            yield from _Pieces(self._client, name, task, pieces).follow(in_order)

    def _check_workers(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=SECONDS_TO_CONNECT)
        except TimeoutError as error:
            raise WorkersError(
                f"the scheduler {_name(self._client)} should have workers, got none"
                f" within {SECONDS_TO_CONNECT} seconds: start some, and wait for them by"
                " client.wait_for_workers(1)."
            ) from error
        here = find_own_versions()
        # each piece looks again: workers may come later, and some die just now
        answers = self._client.run(_define_find_versions(), on_error="ignore")
        for worker, there in answers.items():
            _check_versions(here, there, worker)

    @contextmanager
    def _sharing(self, shared: _Shared, name: str) -> Iterator[None]:
        """Send what all pieces need to each worker, now or when it comes."""
        try:
            for n_left in reversed(range(MOST_SENDINGS)):
                try:
                    self._client.register_plugin(shared, name)
                    break
                except OSError as error:  # a worker died while it was sent
                    if not n_left:
                        raise WorkersError(
                            f"workers could not be sent what they need, {MOST_SENDINGS} times:"
                            f" {error}."
                        ) from error
            yield
        finally:
            with suppress(Exception, CancelledError):  # whoever is gone has forgotten it
                self._client.unregister_worker_plugin(name)


class _LeaveInterrupts(WorkerPlugin):
    """Ctrl-C reaches all processes of a terminal; the one that started the workers ends them."""

    def setup(self, worker: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Shared(WorkerPlugin):
    """What all pieces of a task need, on a worker."""

    def __init__(self, task: Task, versions: Mapping[str, str]):
        self.prepare = task.prepare
        self.find = task.find
        self.read_there = task.read_there
        self.versions = versions

    def work(self, piece: Any, sent: bytes | None) -> bytes | None:
        """The result of a piece; None if its data are not sent, and not found here either."""
        data = None
        if sent is not None:
            data = pickle.loads(sent)
        elif self.read_there is not None:
            data = self.read_there(piece)
        if data is None:
            return None
        return pickle.dumps(self.find(data if self.prepare is None else self.prepare(data)))

    def teardown(self, worker: Any) -> None:
        """Close files."""
        if self.read_there is not None:
            self.read_there.close()


class _Pieces:
    """The pieces of a task on their way to workers and back."""

    def __init__(self, client: Client, name: str, task: Task, pieces: Sequence[Any]):
        self.client = client
        self.name = name
        self.task = task
        self.pieces = pieces
        self.reads_there = task.read_there is not None
        self.places: dict[Future, int] = {}
        self.completed = as_completed(loop=client.loop)

    def follow(self, in_order: bool) -> Generator[tuple[int, Any]]:
        n_sent = 0
        n_done = 0
        finished: dict[int, Future] = {}
        try:
            while n_done < len(self.pieces):
                most = n_done + PIECES_AHEAD * self.count_workers() + 1
                for place in range(n_sent, min(most, len(self.pieces))):
                    self.send(place)
                    n_sent = place + 1
                future = next(self.completed)
                finished[self.places[future]] = future
                place = n_done if in_order else self.places[future]
                while place in finished:
                    future = finished.pop(place)
                    answer = self.fetch(future)
                    del self.places[future]
                    if answer.result is None:  # workers do not see the file
                        self.reads_there = False
                        self.send(place)
                        break
                    yield place, pickle.loads(answer.result)
                    n_done += 1
                    place = n_done if in_order else -1
        finally:
            with suppress(Exception, CancelledError):
                self.client.cancel(list(self.places), force=True)

    def send(self, place: int) -> None:
        piece = self.pieces[place]
        data = None if self.reads_there else pickle.dumps(self.task.read(piece))
        # a piece is not small, and there are few at a time: dask need not warn of them
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
            future = self.client.submit(
                _work, self.name, piece, data, key=f"{self.name}-{uuid4().hex}", pure=False
            )
        self.places[future] = place
        self.completed.add(future)

    def fetch(self, future: Future) -> _Answer:
        answer = self.wait(future)
        for category, words in answer.told:
            warnings.warn(words, category, stacklevel=2)
        if answer.error is not None:
            raise answer.error
        return answer

    def wait(self, future: Future) -> _Answer:
        try:
            answer: _Answer = future.result()
            return answer
        except KilledWorker as error:
            raise WorkersError(
                f"a piece should be worked on by one worker, got {error.allowed_failures + 1} that"
                f" died of it, the last of them {error.last_worker.address}: look into their logs;"
                " mostly memory was short, then start fewer workers on each machine."
            ) from error
        except CancelledError as error:
            raise self.find_loss(error) from error

    def count_workers(self) -> int:
        try:
            return len(self.client.nthreads())
        except Exception as error:  # dask raises one thing or another
            raise self.find_loss(error) from error

    def find_loss(self, error: BaseException) -> WorkersError:
        return WorkersError(
            f"the scheduler {_name(self.client)} was lost ({error}): start it again; what is"
            " finished is kept where work can be resumed."
        )


@dataclass(frozen=True)
class _Answer:
    """What a worker says of a piece: its result pickled, or what symspec refuses; and warnings."""

    result: bytes | None
    error: SymspecError | None
    told: list[tuple[type[Warning], str]]


def _work(name: str, piece: Any, sent: bytes | None) -> _Answer:
    """On a worker: answer for a piece."""
    worker = get_worker()
    shared = cast(_Shared, worker.plugins[name])
    result = None
    refusal = None
    with _ALONE, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            _check_versions(shared.versions, find_own_versions(), worker.address)
            result = shared.work(piece, sent)
        except SymspecError as error:  # of others dask keeps the traceback, and logs it
            refusal = error
    return _Answer(result, refusal, [(one.category, str(one.message)) for one in told])


def _name(client: Client) -> str:
    return str(getattr(client.scheduler, "address", "of the client"))


def _define_find_versions() -> Any:
    """A function that dask sends as it is, to be run where there may be no symspec, or another."""

    def find_versions_there() -> Mapping[str, str]:
        try:
            from symspec.workers.versions import find_own_versions
        except ImportError:
            return {}
        return find_own_versions()

    return find_versions_there


def _check_versions(here: Mapping[str, str], there: Mapping[str, str], worker: str) -> None:
    if difference := describe_difference(here, there):
        raise WorkersError(
            f"the worker {worker} should have the versions of this process, got {difference}:"
            " install the same on all machines, as other versions may give other numbers."
        )
