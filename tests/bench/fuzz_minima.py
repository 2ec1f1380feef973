"""From random starts, `polish` ends at minima: forty networks, each end checked another way.

Widths 3 to 60, one to three hidden layers, 30 to 800 stars, noise from 0.3 to 0.01 of the labels'
spread. At a smooth end the Hessian is taken by central differences of the gradient, and its lowest
eigenvalue has to be positive; at a kink none of 500 random directions may lead down, by steps of
1e-3, 1e-4 and 1e-5 in the norm of the Gauss-Newton matrix, by more than the tolerance of 1e-6 nats.

Usage: python tests/bench/fuzz_minima.py [FIRST LAST [SECONDS [SEED]]]

Networks FIRST to LAST - 1 of the forty; one that takes more than SECONDS of the processor is given
up.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import numpy as np

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder

SMOOTH = ("tanh", "softplus", "gelu")
KINKED = ("relu", "leaky_relu", "clip", "max-pool")
N_DIRECTIONS = 500
TOLERANCE = 1e-6  # nats that `polish` leaves by default


def draw_problem(kind, rng):
    """A network, and stars whose labels another network of its kind made, with noise."""
    n_stars = round(draw_between(30, 800, rng))
    n_pixels = 16 if kind == "max-pool" else int(rng.integers(4, 13))
    hidden = [round(draw_between(3, 60, rng)) for _ in range(rng.integers(1, 4))]
    net = build_network(kind, n_pixels, hidden)
    X = rng.normal(size=(n_stars, n_pixels))
    truth = ss.compile_predict(net)(net.init_params(rng), X)
    sigma = draw_between(0.01, 0.3, rng) * truth.std(axis=0)
    Y = truth + sigma * rng.normal(size=truth.shape)
    reg = ss.Regression(net, sigma_noise=sigma, prior_precision=ss.scaled_prior(net, 1.0))
    return reg, X, Y, hidden


def draw_between(low, high, rng):
    return np.exp(rng.uniform(np.log(low), np.log(high)))


def build_network(kind, n_pixels, hidden):
    if kind != "max-pool":
        return ss.mlp([n_pixels, *hidden, 2], activation=kind)
    layers = [ss.Reshape((n_pixels, 1)), ss.Conv1D(3, 4), ss.Activation("tanh"), ss.MaxPool1D(2)]
    layers += [ss.Flatten()]
    for width in hidden:
        layers += [ss.Dense(width), ss.Activation("tanh")]
    return ss.Network([*layers, ss.Dense(2)], n_pixels=n_pixels)


def find_lowest_eigenvalue(reg, theta, X, Y):
    """Of the Hessian by differences of the gradient."""
    objective = ss.compile_objective(reg)
    H = np.empty((theta.size, theta.size))
    step = 1e-5
    for i in range(theta.size):
        e = np.zeros(theta.size)
        e[i] = step
        rise = objective(theta + e, X, Y)[1] - objective(theta - e, X, Y)[1]
        H[i] = rise / (2 * step)
    return np.linalg.eigvalsh((H + H.T) / 2)[0]


def find_lowest_around(reg, theta, X, Y, rng):
    """The lowest U among random directions, less that at theta."""
    objective = ss.compile_objective(reg)
    inverse = InverseBuilder(reg, X, Y, structure="auto").build(theta)
    U = objective(theta, X, Y)[0]
    steps = inverse.draw(N_DIRECTIONS, rng) / np.sqrt(theta.size)
    return min(
        objective(theta + length * step, X, Y)[0] - U
        for step in steps
        for length in (1e-3, 1e-4, 1e-5)
    )


class GivenUp(Exception):
    """The seconds allowed are over."""


class Clock:
    """Seconds of the processor since it was made; as a callback of `polish`, one that ends it."""

    def __init__(self, seconds):
        self._start = time.process_time()
        self._seconds = seconds
        self.state = (0, np.nan, np.nan)  # step, U, decrement

    def read(self):
        return time.process_time() - self._start

    def __call__(self, *state):
        self.state = state
        if self.read() > self._seconds:
            raise GivenUp


def check(kind, rng, seconds):
    """One network: what came of it, in words; empty if all is well."""
    reg, X, Y, hidden = draw_problem(kind, rng)
    theta = reg.net.init_params(rng)
    clock = Clock(seconds)
    where = ""
    try:
        result = ss.polish(reg, theta, X, Y, progress=False, callback=clock)
        taken = clock.read()
        verdict = judge(result, reg, X, Y, rng)
        where = "kink" if result.at_kink else "smooth"
    except GivenUp:
        taken = clock.read()
        verdict = "given up"
    step, U, decrement = clock.state
    print(
        f"{kind:10s} {len(X):4d} stars, {reg.net.n_params:5d} weights {hidden!s:14}"
        f" {step:6d} steps {taken:7.1f} s  U {U:9.2f} decrement {decrement:.1e} {where} {verdict}",
        flush=True,
    )
    return verdict, taken


def judge(result, reg, X, Y, rng):
    """What is wrong with an end, in words."""
    if not result.converged:
        return result.reason
    if result.at_kink:
        lowest = find_lowest_around(reg, result.theta, X, Y, rng)
        return f"{-lowest:.1e} nats lower beside it" if lowest < -TOLERANCE else ""
    lowest = find_lowest_eigenvalue(reg, result.theta, X, Y)
    return f"eigenvalue {lowest:.3g}" if lowest <= 0 else ""


def main(first=0, last=40, seconds=np.inf, seed=0):
    tried = Counter()
    failed = Counter()
    times = []
    kinds = SMOOTH + KINKED
    for i in range(int(first), int(last)):
        kind = kinds[i % len(kinds)]
        print(f"{i:3d}", end=" ", flush=True)
        verdict, taken = check(kind, np.random.default_rng([int(seed), i]), seconds)
        tried[kind] += 1
        failed[kind] += bool(verdict)
        times.append(taken)
    print(f"\nseconds of the processor: median {np.median(times):.1f}, most {np.max(times):.1f}")
    print("\nkind       | tried | failed")
    for kind in kinds:
        print(f"{kind:10s} | {tried[kind]:5d} | {failed[kind]:6d}")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
