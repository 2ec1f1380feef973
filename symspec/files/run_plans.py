"""The plan of a long run: a file beside its pieces that says what they depend on."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from symspec.errors import DataError
from symspec.safety.whole_files import replace_when_complete

PLAN = "plan.json"
LOCK = "lock"
FINISHED = "finished"  # there once the output is about to be moved to its place
MOST_BYTES = 2**20  # of a plan
MOST_SHOWN = 100  # characters of a value in a message


def check_plan(folder: Path, plan: Mapping[str, str | float]) -> None:
    """Write the plan into a new folder, or compare it with the plan of an old one.

    Parameters
    ----------
    folder : Path
    plan : mapping of str to str or number
        Everything that the pieces depend on, by names that a user understands.

    Warns
    -----
    RuntimeWarning
        The file is damaged: it is written again.

    Raises
    ------
    DataError
        The plan there is of another run, or the folder is no run's.
    """
    path = folder / PLAN
    if not path.exists():
        if foreign := sorted(p.name for p in folder.iterdir() if not _is_own(p)):
            raise DataError(
                f"{folder} should be a run's own, got a folder that holds {foreign[0]}: move it"
                " away."
            )
        _write_plan(path, plan)
        return
    kept = _read_plan(path)
    if kept is None:
        warnings.warn(
            f"{path} should hold a run's plan, got a damaged file: it is written again, and pieces"
            " of another run are computed again.",
            RuntimeWarning,
            stacklevel=2,
        )
        _write_plan(path, plan)
        return
    names = {**kept, **plan}
    if differing := [name for name in names if not _is_same(kept.get(name), plan.get(name))]:
        listed = "; ".join(
            f"{name} was {_show(kept.get(name))} and is {_show(plan.get(name))}"
            for name in differing[:10]
        )
        raise DataError(
            f"{folder} should hold the pieces of this run, got those of another one ({listed}):"
            " delete the folder, or restart (--restart on the command line, restart=True in"
            " Python)."
        )


def join_hashes(hashes: Iterable[str]) -> str:
    """One digest of those of the pieces, in their order."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _is_own(path: Path) -> bool:
    return path.name in (LOCK, FINISHED) or path.name.startswith(".")


def _write_plan(path: Path, plan: Mapping[str, str | float]) -> None:
    with replace_when_complete(path, overwrite=True) as temporary:
        temporary.write_text(json.dumps(plan, indent=1) + "\n")


def _read_plan(path: Path) -> dict[str, Any] | None:
    """The plan of a run, or None if the file holds none."""
    try:
        with path.open("rb") as stream:
            text = stream.read(MOST_BYTES)
        plan = json.loads(text)
    except (OSError, ValueError, RecursionError):  # a longer file is not complete
        return None
    return plan if isinstance(plan, dict) else None


def _is_same(one: object, other: object) -> bool:
    """Whether two values of a plan are the same in a file: NaN is, and 1 is not True."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
