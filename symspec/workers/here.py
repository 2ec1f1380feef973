"""One worker, this process: a piece after the other, each read while the last is worked on.

It is what a cluster is compared with: the results are the same.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from symspec.workers.interface import Task, Workers


class Here(Workers):
    """The process that asks."""

    def map(
        self, task: Task, pieces: Sequence[Any], *, in_order: bool = False
    ) -> Generator[tuple[int, Any]]:
        """Results in the order of the pieces; data are read one piece ahead, in another thread."""

        def read(piece: Any) -> Any:
            data = task.read(piece)
            return data if task.prepare is None else task.prepare(data)

        with ThreadPoolExecutor(1) as reader:
            ahead = [reader.submit(read, piece) for piece in pieces[:1]]
            for i in range(len(pieces)):
                data = ahead.pop().result()
                ahead = [reader.submit(read, after) for after in pieces[i + 1 : i + 2]]
                yield i, task.find(data)
