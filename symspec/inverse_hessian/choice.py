"""Which structure of the inverse Hessian: the words, what each takes, and the choice of the exact one that fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from symspec.errors import OptionError, TooLargeError
from symspec.networks.network import Network
from symspec.safety.memory import parse_memory
from symspec.safety.options import check_choice, check_count

EXACT = ("primal", "dual", "krylov")
APPROXIMATE = ("kronecker", "ekfac", "diagonal", "last_layer", "low_rank")
STRUCTURES = ("auto", *EXACT, *APPROXIMATE)
CURVATURES = ("ggn", "hessian")

# options of each structure, with their types
OPTIONS: dict[str, dict[str, type]] = {
    "dual": {"subset": int},
    "krylov": {"subset": int, "tolerance": float, "max_iterations": int, "max_seconds": float},
    "low_rank": {"rank": int},
}


@dataclass(frozen=True)
class Choice:
    """A structure, and in one line why."""

    structure: str
    reason: str


def choose_structure(
    net: Network, n_rows: int, *, curvature: str = "ggn", memory: str = "8GB"
) -> Choice:
    """Pick the exact structure that costs least among those that fit in memory.

    Parameters
    ----------
    net : Network
    n_rows : int
        Observed (star, label) pairs of the training set.
    curvature : {"ggn", "hessian"}
        All but the primal need the Gauss-Newton matrix.
    memory : str, default "8GB"
        What the factorisation may take.

    Raises
    ------
    TooLargeError
        curvature="hessian", and the matrix does not fit.
    """
    limit = parse_memory(memory)
    P = net.n_params
    widths = sum(layer.n_in + layer.n_out for layer in net.layout.layers.values())
    costs = {
        "primal": (n_rows * P**2 + P**3 / 3, 3 * 8 * P**2),
        "dual": (n_rows**2 * widths + n_rows**3 / 3, 3 * 8 * n_rows**2),
    }
    if curvature == "hessian":
        del costs["dual"]
    fitting = {name: flops for name, (flops, n_bytes) in costs.items() if n_bytes <= limit}
    sizes = ", ".join(f"{name} {n_bytes / 2**30:.3g} GiB" for name, (_, n_bytes) in costs.items())
    told = f"{P:,} parameters, {n_rows:,} observed labels; {sizes} of {memory}"
    if fitting:
        name = min(fitting, key=lambda key: fitting[key])
        return Choice(name, f"{name}: {told}.")
    if curvature == "hessian":
        raise TooLargeError(
            f"the exact Hessian of {P:,} parameters takes {sizes}, and memory={memory!r} was given:"
            ' give more, or use curvature="ggn".'
        )
    return Choice("krylov", f"krylov: {told}; products alone, each error bar between two bounds.")


def check_structure(structure: str, curvature: str, options: Mapping[str, Any]) -> None:
    """Refuse words and options that do not go together.

    Raises
    ------
    OptionError
    """
    check_choice(structure, "structure", STRUCTURES)
    check_choice(curvature, "curvature", CURVATURES)
    if curvature == "hessian" and structure not in ("auto", "primal"):
        raise OptionError(
            f'structure="{structure}" inverts the Gauss-Newton matrix: use curvature="ggn", or'
            ' structure="primal".'
        )
    known = OPTIONS.get(structure, {})
    for name, value in options.items():
        if name not in known:
            takes = ", ".join(known) or "none"
            raise OptionError(
                f'structure="{structure}" should be given options among {takes}, got {name!r}.'
            )
        if known[name] is int:
            is_whole = isinstance(value, float) and value.is_integer()  # 1e3 is a count, too
            check_count(int(value) if is_whole else value, name)
            continue
        is_real = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not is_real or not value > 0:
            raise OptionError(f"{name} should be a positive number, got {value!r}.")
