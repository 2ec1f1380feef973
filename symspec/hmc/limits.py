"""Checks of a run of Hamiltonian Monte Carlo before any work: sampler, counts, memory, hours."""

from __future__ import annotations

import importlib.util
import os
import time

import numpy as np

from symspec.derivatives import compiled
from symspec.errors import MissingDependencyError, TooLargeError
from symspec.hmc.subsets import ALL, LAST_LAYER, Subset, find_head
from symspec.laplace.posterior import LaplacePosterior
from symspec.networks.regression import Regression
from symspec.safety.label_errors import Labels
from symspec.safety.memory import parse_memory
from symspec.safety.options import check_choice, check_count

SAMPLERS = ("auto", "nutpie", "pymc", "numpyro", "blackjax")
GRADIENTS_PER_DRAW = 30  # of a whitened posterior; a tree of depth 5
MIN_DRAWS = 20
MIN_CHAINS = 2
TIMED_OPERATIONS = 1e9  # of the pass from which the time of all is estimated


def check_sampler(sampler: str) -> str:
    """The sampler meant, which is installed.

    Raises
    ------
    OptionError, MissingDependencyError
    """
    check_choice(sampler, "sampler", SAMPLERS)
    if sampler == "auto":
        return "pymc" if importlib.util.find_spec("nutpie") is None else "nutpie"
    if importlib.util.find_spec(sampler) is None:
        extra = "hmc" if sampler == "nutpie" else None
        advice = f"pip install 'symspec[{extra}]'" if extra else f"pip install {sampler}"
        raise MissingDependencyError(
            f"sampler={sampler!r} needs the package {sampler}: {advice}, or sampler='auto'."
        )
    return sampler


def check_counts(n_draws: int, n_chains: int, n_tune: int, theta_every: int) -> None:
    """Refuse too few draws or chains with an OptionError."""
    check_count(n_draws, "n_draws", least=MIN_DRAWS)
    check_count(n_tune, "n_tune", least=MIN_DRAWS)
    check_count(theta_every, "theta_every", least=0)
    advice = "give 4, as convergence is seen by comparing chains"
    check_count(n_chains, "n_chains", least=MIN_CHAINS, advice=advice)


def check_memory(n_draws: int, n_theta: int, n_f: int, memory: str) -> None:
    """Refuse draws of `n_theta` parameters and `n_f` outputs that do not fit in memory."""
    n_bytes = 8.0 * n_draws * (n_theta + n_f)
    limit = parse_memory(memory)
    if n_bytes > limit:
        raise TooLargeError(
            f"the draws would take {n_bytes / 1e9:.3g} GB, {8e-9 * n_draws * n_theta:.3g} of it for"
            f" theta, and memory is {memory}: leave theta out (theta_every=0), give fewer stars in"
            " X_check, or draw less."
        )


def check_hours(
    reg: Regression,
    laplace: LaplacePosterior,
    X: np.ndarray,
    Y: Labels,
    subset: Subset,
    n: int,
    max_hours: float,
) -> None:
    """Refuse `n` draws that would take too long, by the time of one gradient."""
    theta = laplace.theta
    stars = X
    head = find_head(reg, theta, subset)
    if head is not None:
        reg = head.reg
        theta = theta[head.free]
        stars = np.zeros((len(X), reg.net.n_pixels))  # a pass takes as long as one of features
    some = slice(0, int(np.clip(TIMED_OPERATIONS / reg.net.n_params, 64, len(X))))
    gradient = compiled.compile_objective(reg)
    # a density that is not finite is refused when the chains start
    with np.errstate(over="ignore", invalid="ignore"):
        gradient(theta, stars[some], Y[some])
        begin = time.perf_counter()
        gradient(theta, stars[some], Y[some])
    seconds = (time.perf_counter() - begin) * len(X) / len(stars[some])
    hours = seconds * GRADIENTS_PER_DRAW * n / min(os.cpu_count() or 1, 4) / 3600
    if hours > max_hours:
        took = f"{hours:,.0f} hours" if hours < 100 else f"{hours / 24:,.0f} days"
        others: dict[Subset, str] = {
            ALL: "subset='last_layer' or subset=50 (so many directions)",
            LAST_LAYER: "fewer draws",
        }
        raise TooLargeError(
            f"{n:,} draws would take some {took} ({seconds:.3g} s a gradient, {GRADIENTS_PER_DRAW}"
            f" a draw), more than max_hours={max_hours:g}: sample"
            f" {others.get(subset, 'fewer stars, or draw less')}, or allow more max_hours."
        )
