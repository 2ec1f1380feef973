"""The registry of structures of the inverse Hessian, and the choice of the exact one that fits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from symspec.errors import OptionError, TooLargeError
from symspec.inverse_hessian.dual import DualInverse
from symspec.inverse_hessian.interface import InverseHessian
from symspec.inverse_hessian.kronecker import EkfacInverse, KroneckerInverse
from symspec.inverse_hessian.krylov import KrylovInverse
from symspec.inverse_hessian.last_layer import LastLayerInverse
from symspec.inverse_hessian.layerwise import DiagonalInverse
from symspec.inverse_hessian.low_rank import LowRankInverse
from symspec.inverse_hessian.primal import PrimalInverse
from symspec.networks.network import Network
from symspec.safety.memory import parse_memory
from symspec.safety.options import check_choice, check_count

# all structures by name: a new one is a file beside this one and a line here
INVERSES: dict[str, type[InverseHessian]] = {
    inverse.structure: inverse
    for inverse in (
        PrimalInverse,
        DualInverse,
        KrylovInverse,
        KroneckerInverse,
        EkfacInverse,
        DiagonalInverse,
        LastLayerInverse,
        LowRankInverse,
    )
}
EXACT = tuple(n for n, inverse in INVERSES.items() if inverse.accuracy in ("exact", "interval"))
APPROXIMATE = tuple(name for name in INVERSES if name not in EXACT)
STRUCTURES = ("auto", *EXACT, *APPROXIMATE)
CURVATURES = ("ggn", "hessian")


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
        Only the primal structure takes the exact Hessian.
    memory : str, default "8GB"
        Memory that the factorisation may take.

    Raises
    ------
    TooLargeError
        curvature="hessian", and the matrix does not fit.
    """
    limit = parse_memory(memory)
    able = [name for name in EXACT if curvature in INVERSES[name].curvatures]
    n_outputs = n_rows * net.n_outputs // net.n_labels
    costs = {name: INVERSES[name].cost(net, n_outputs) for name in able}
    sizes = ", ".join(
        f"{name} {cost.n_bytes / 2**30:.3g} GiB" for name, cost in costs.items() if cost.rows
    )
    fitting = [name for name, cost in costs.items() if cost.n_bytes <= limit]
    if not fitting:
        raise TooLargeError(
            f"the exact Hessian of {net.n_params:,} parameters takes {sizes}, and"
            f' memory={memory!r} was given: give more, or use curvature="ggn".'
        )
    name = min(fitting, key=lambda name: costs[name].flops)
    reason = f"{name}: {net.n_params:,} parameters, {n_rows:,} observed labels; {sizes} of {memory}"
    if INVERSES[name].accuracy == "interval":
        reason += (
            "; products alone, each error bar between two bounds; many stars share the work with"
            f' structure="{name}", options={{"scratch": FOLDER}}'
        )
    return Choice(name, f"{reason}.")


def check_structure(structure: str, curvature: str, options: Mapping[str, Any]) -> None:
    """Refuse a structure, curvature and options that do not go together.

    Raises
    ------
    OptionError
    """
    check_choice(structure, "structure", STRUCTURES)
    check_choice(curvature, "curvature", CURVATURES)
    able = [name for name, inverse in INVERSES.items() if curvature in inverse.curvatures]
    if structure not in ("auto", *able):
        names = " or ".join(f'structure="{name}"' for name in able)
        raise OptionError(
            f'structure="{structure}" inverts the Gauss-Newton matrix: use curvature="ggn", or'
            f" {names}."
        )
    known = {} if structure == "auto" else INVERSES[structure].options
    for name, value in options.items():
        if name not in known:
            takes = ", ".join(known) or "none"
            raise OptionError(
                f'structure="{structure}" should be given options among {takes}, got {name!r}.'
            )
        _check_option(known[name], name, value)


def parse_options(structure: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that `check_structure` has let pass, each of its own type: 1e3 is a count, too."""
    return {name: INVERSES[structure].options[name](value) for name, value in options.items()}


def _check_option(kind: type, name: str, value: Any) -> None:
    if kind is Path:
        if not isinstance(value, str | os.PathLike) or not os.fspath(value):
            raise OptionError(f"{name} should be the name of a folder, got {value!r}.")
        return
    if kind is int:
        is_whole = isinstance(value, float) and value.is_integer()
        check_count(int(value) if is_whole else value, name)
        return
    is_real = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_real or not value > 0:
        raise OptionError(f"{name} should be a positive number, got {value!r}.")
