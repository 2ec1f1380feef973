"""What is done with the pieces of long work, and what whoever does it offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

LOCAL = "local"  # a process for each core of this machine


class ReadThere(Protocol):
    """Reads data of a piece where the worker is."""

    def __call__(self, piece: Any) -> Any:
        """The data; None if what they are read from is not there, or another."""

    def close(self) -> None:
        """Close files."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """What is done with each piece, in three steps.

    Attributes
    ----------
    read : callable
        Data of a piece. It is called in the process that has the task, where files are open.
    prepare : callable, optional
        What is made of the data before they are used, while other pieces are.
    find : callable
        The result. Like `prepare` it goes to every worker once, pickled.
    read_there : ReadThere, optional
        `read` for workers that may see the same files.
    """

    read: Callable[[Any], Any]
    find: Callable[[Any], Any]
    prepare: Callable[[Any], Any] | None = None
    read_there: ReadThere | None = None


class Workers(ABC):
    """Whoever does a task: this process, or those of a cluster."""

    @abstractmethod
    def map(
        self, task: Task, pieces: Sequence[Any], *, in_order: bool = False
    ) -> Generator[tuple[int, Any]]:
        """Results of the pieces, each with its place among them, as they are finished.

        Warnings that a piece gives are given here. The iterator has to be closed, see
        `contextlib.closing`.

        Parameters
        ----------
        task : Task
        pieces : sequence
        in_order : bool, default False
            Whether results come in the order of the pieces.
        """
