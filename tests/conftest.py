"""Small regression problems, each beside a NumPy derivation of all that symspec computes of it.

The reference shares nothing with the package: derivatives are accumulated forward, star by star,
with the flat order of the parameters written out; noise is `numpy.linalg` on each star's observed
labels; second derivatives are complex steps, exact to rounding. What the package does is reverse
mode on blocks.
"""

import gc
import os
import signal
import zlib
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytensor
import pytest
from scipy.special import erf
from threadpoolctl import threadpool_limits

from symspec.derivatives.backends import find_mode
from symspec.networks.layers import Activation, Dense, Dropout, Standardize, Unstandardize
from symspec.networks.network import Network
from symspec.networks.regression import Regression

# the C backend's code is compiled without optimization, in two thirds of the time; Numba's with
# little, also in processes that tests start (0 is not all of its functions' level)
pytensor.config.gcc__cxxflags = "-O0"
os.environ["NUMBA_OPT"] = "1"
# graphs keep no trace of the lines that made them, which takes a sixth of the time to build them
pytensor.config.traceback__limit = 0

# a run in the background may ignore Ctrl-C, which tests send to themselves and to processes
signal.signal(signal.SIGINT, signal.default_int_handler)

# graphs are many small objects in circles: collecting them as often as Python does takes time
gc.freeze()
gc.set_threshold(100_000, 50, 100)

if "PYTEST_XDIST_WORKER" in os.environ:
    # a worker for each core: more threads would be in each other's way
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of processes that tests start
    threadpool_limits(1)


# the files that take longest, longest first: no core should wait for one of them at the end
LONGEST = ("examples", "compiled", "hmc", "deep_networks", "graphs", "cli", "resumed_calls")
LONGEST += ("evidence", "matrices", "archives", "newton", "units", "registry", "demo")


def pytest_collection_modifyitems(items):
    rank = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


N_STARS, N_PIXELS = 7, 5
# real data beside the checkout, where there are any
SHARED_DATA = Path(__file__).parents[2] / "shared/data"


def assert_entries(actual, expected, rtol):
    """Entry by entry to `rtol`; entries that cancel, to a thousandth of `rtol` of the largest."""
    assert np.shape(actual) == np.shape(expected)
    atol = 1e-3 * rtol * np.max(np.abs(expected))
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def expit(x):
    return 1 / (1 + np.exp(-x))


def positive(x):
    return np.real(x) > 0


# value and derivative of each activation; all take complex numbers
REFERENCE_ACTIVATIONS = {
    "linear": (lambda x: x, np.ones_like),
    "relu": (lambda x: np.where(positive(x), x, 0), lambda x: np.where(positive(x), 1.0, 0.0)),
    "leaky_relu": (
        lambda x, negative_slope: np.where(positive(x), x, negative_slope * x),
        lambda x, negative_slope: np.where(positive(x), 1.0, negative_slope),
    ),
    "elu": (
        lambda x, alpha: np.where(positive(x), x, alpha * (np.exp(x) - 1)),
        lambda x, alpha: np.where(positive(x), 1.0, alpha * np.exp(x)),
    ),
    "selu": (
        lambda x: (
            1.0507009873554805 * np.where(positive(x), x, 1.6732632423543772 * (np.exp(x) - 1))
        ),
        lambda x: 1.0507009873554805 * np.where(positive(x), 1.0, 1.6732632423543772 * np.exp(x)),
    ),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (expit, lambda x: expit(x) * expit(-x)),
    "softplus": (lambda x: np.log(1 + np.exp(x)), expit),
    "gelu": (
        lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
        lambda x: (1 + erf(x / np.sqrt(2))) / 2 + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi),
    ),
    "silu": (lambda x: x * expit(x), lambda x: expit(x) * (1 + x * expit(-x))),
    "clip": (
        lambda x, minimum, maximum: np.where(
            x.real <= minimum, minimum, np.where(x.real >= maximum, maximum, x)
        ),
        lambda x, minimum, maximum: np.where((x.real > minimum) & (x.real < maximum), 1.0, 0.0),
    ),
}


@dataclass(frozen=True)
class Case:
    """One row of the table: a network, a noise, a prior, and whether labels are missing."""

    hidden: tuple  # (units, activation, options) of each hidden layer
    n_labels: int
    standardized: bool = False
    noise: str = "per label"  # or "number", "full"
    prior: str = "number"  # or "per block", "per parameter"
    missing: bool = False
    use_bias: bool = True
    dropout: bool = False


def layers(activation, *widths, **options):
    return tuple((width, activation, options) for width in widths)


CASES = {
    "linear-0-hidden-1-label": Case((), 1, noise="number"),
    "relu-0-hidden-3-labels-full-noise-missing": Case(
        (), 3, standardized=True, noise="full", prior="per block", missing=True
    ),
    "linear-1-hidden-2-labels": Case(layers("linear", 3), 2, prior="per parameter"),
    "tanh-1-hidden-2-labels-own-units-missing": Case(
        layers("tanh", 4), 2, standardized=True, prior="per block", missing=True
    ),
    "tanh-2-hidden-3-labels-full-noise-missing": Case(
        layers("tanh", 4, 3), 3, noise="full", prior="per parameter", missing=True
    ),
    "tanh-4-hidden-3-labels-own-units": Case(
        layers("tanh", 4, 2, 3, 2), 3, standardized=True, prior="per block"
    ),
    "relu-2-hidden-3-labels-full-noise": Case(
        layers("relu", 6, 4), 3, noise="full", prior="per parameter"
    ),
    "relu-3-hidden-2-labels-own-units-missing": Case(
        layers("relu", 6, 5, 4), 2, standardized=True, missing=True
    ),
    "softplus-3-hidden-2-labels-full-noise-own-units": Case(
        layers("softplus", 4, 3, 2), 2, standardized=True, noise="full", prior="per block"
    ),
    "gelu-2-hidden-3-labels-full-noise-missing-own-units": Case(
        layers("gelu", 4, 3),
        3,
        standardized=True,
        noise="full",
        prior="per parameter",
        missing=True,
    ),
    "leaky_relu-1-hidden-2-labels": Case(layers("leaky_relu", 4, negative_slope=0.2), 2),
    "elu-2-hidden-1-label-missing": Case(
        layers("elu", 3, 3, alpha=0.7), 1, missing=True, prior="per block"
    ),
    "selu-1-hidden-3-labels-full-noise-missing": Case(
        layers("selu", 3), 3, noise="full", missing=True
    ),
    "sigmoid-2-hidden-2-labels": Case(layers("sigmoid", 3, 3), 2, prior="per parameter"),
    "silu-1-hidden-1-label-own-units": Case(layers("silu", 4), 1, standardized=True, noise="full"),
    "clip-1-hidden-2-labels": Case(layers("clip", 6, minimum=-0.4, maximum=0.9), 2, noise="number"),
    "tanh-and-softplus-without-bias-with-dropout": Case(
        ((3, "tanh", {}), (4, "softplus", {})),
        2,
        use_bias=False,
        dropout=True,
        missing=True,
        prior="per block",
    ),
}


@dataclass(frozen=True, eq=False)
class Problem:
    """A regression of the package and the numbers from which NumPy derives everything again."""

    case: Case
    net: Network
    reg: Regression
    theta: np.ndarray
    X: np.ndarray
    Y: np.ndarray
    v: np.ndarray
    standardization: tuple  # mean and scale of the flux, mean and scale of the labels
    noise_covariance: np.ndarray
    prior_precision: np.ndarray  # (param,)

    def propagate(self, theta, x):
        """Labels of one spectrum, then their derivatives (label, param) and (label, pixel)."""
        x_mean, x_scale, y_mean, y_scale = self.standardization
        a, at = (x - x_mean) / x_scale, 0
        by_flux, by_theta = np.diag(1 / x_scale), np.zeros((a.size, theta.size))
        for units, name, options in [*self.case.hidden, (self.case.n_labels, "linear", {})]:
            W = theta[at : at + a.size * units].reshape(a.size, units)
            by_flux, by_theta = W.T @ by_flux, W.T @ by_theta
            for i in range(a.size):
                for o in range(units):
                    by_theta[o, at + i * units + o] += a[i]
            at += a.size * units
            z = a @ W
            if self.case.use_bias:
                z = z + theta[at : at + units]
                for o in range(units):
                    by_theta[o, at + o] += 1
                at += units
            value, slope = REFERENCE_ACTIVATIONS[name]
            a, d = value(z, **options), slope(z, **options)[:, None]
            by_flux, by_theta = d * by_flux, d * by_theta
        return a * y_scale + y_mean, y_scale[:, None] * by_theta, y_scale[:, None] * by_flux

    def predict(self, theta):
        return np.array([self.propagate(theta, x)[0] for x in self.X])

    def theta_jacobian(self, theta):
        return np.array([self.propagate(theta, x)[1] for x in self.X])

    def flux_jacobian(self, theta):
        return np.array([self.propagate(theta, x)[2] for x in self.X])

    def value_of(self, f, theta):
        """Negative log posterior when the network says f (star, label)."""
        d = self.prior_precision
        total = np.sum(d * theta**2 - np.log(d) + np.log(2 * np.pi)) / 2
        for y, g in zip(self.Y, f, strict=True):
            seen = np.flatnonzero(~np.isnan(y))
            S, r = self.noise_covariance[np.ix_(seen, seen)], (y - g)[seen]
            total += (r @ np.linalg.solve(S, r) + np.linalg.slogdet(2 * np.pi * S)[1]) / 2
        return total

    def value(self, theta):
        return self.value_of(self.predict(theta), theta)

    def gradient(self, theta):
        total = self.prior_precision * theta
        for x, y in zip(self.X, self.Y, strict=True):
            f, J, _ = self.propagate(theta, x)
            seen = np.flatnonzero(~np.isnan(y))
            S = self.noise_covariance[np.ix_(seen, seen)]
            total = total - J[seen].T @ np.linalg.solve(S, (y - f)[seen])
        return total

    def ggn(self, theta):
        total = np.diag(self.prior_precision)
        for J, y in zip(self.theta_jacobian(theta), self.Y, strict=True):
            seen = np.flatnonzero(~np.isnan(y))
            total = (
                total
                + J[seen].T @ np.linalg.inv(self.noise_covariance[np.ix_(seen, seen)]) @ J[seen]
            )
        return total

    def hessian(self, theta):
        """Complex steps of the gradient: no difference is taken, so the step may be tiny."""
        h = 1e-20
        return np.array([self.gradient(theta + 1j * h * e).imag / h for e in np.eye(theta.size)])


def build_network(case, standardization):
    x_mean, x_scale, y_mean, y_scale = standardization
    stack = [Standardize(x_mean, x_scale)] if case.standardized else []
    for units, name, options in case.hidden:
        stack += [Dense(units, use_bias=case.use_bias), Activation(name, options)]
        stack += [Dropout(0.5)] if case.dropout else []
    stack.append(Dense(case.n_labels, use_bias=case.use_bias))
    stack += [Unstandardize(y_mean, y_scale)] if case.standardized else []
    return Network(stack, N_PIXELS)


def draw_noise(case, y_scale, rng):
    """What `Regression` is given, and the covariance (label, label) that it means."""
    C = case.n_labels
    if case.noise == "number":
        return {"sigma_noise": 0.3}, 0.3**2 * np.eye(C)
    if case.noise == "per label":
        sigma = y_scale * rng.uniform(0.2, 0.6, C)
        return {"sigma_noise": sigma}, np.diag(sigma**2)
    A = rng.normal(size=(C, C))
    S = (A @ A.T / C + 0.2 * np.eye(C)) * np.outer(y_scale, y_scale)
    return {"noise_covariance": S}, S


def draw_prior(case, rng):
    """What `Regression` is given, and the precision (param,) that it means."""
    widths = [N_PIXELS, *(units for units, *_ in case.hidden), case.n_labels]
    named = {}
    for k, (n_in, n_out) in enumerate(pairwise(widths)):
        named[f"dense_{k}/kernel"] = (rng.uniform(0.5, 3), n_in * n_out)
        if case.use_bias:
            named[f"dense_{k}/bias"] = (rng.uniform(0.5, 3), n_out)
    n_params = sum(size for _, size in named.values())
    if case.prior == "number":
        return 1.7, np.full(n_params, 1.7)
    if case.prior == "per parameter":
        d = rng.uniform(0.5, 3, n_params)
        return d, d
    d = np.concatenate([np.full(size, value) for value, size in named.values()])
    return {name: value for name, (value, _) in named.items()}, d


@cache
def build_problem(name):
    case, rng = CASES[name], np.random.default_rng(zlib.crc32(name.encode()))
    C = case.n_labels
    plain = np.zeros(N_PIXELS), np.ones(N_PIXELS), np.zeros(C), np.ones(C)
    # flux about 1; Teff in K, log g and [Fe/H] in dex
    own_units = (
        rng.uniform(0.7, 1.1, N_PIXELS),
        rng.uniform(0.05, 0.2, N_PIXELS),
        np.array([4800.0, 2.5, -0.3])[:C],
        np.array([300.0, 0.8, 0.2])[:C],
    )
    standardization = own_units if case.standardized else plain
    x_mean, x_scale, y_mean, y_scale = standardization
    X = x_mean + x_scale * rng.normal(size=(N_STARS, N_PIXELS))
    Y = y_mean + y_scale * rng.normal(size=(N_STARS, C))
    if case.missing:
        Y[0, 0] = Y[2, -1] = np.nan
        Y[4, : C - 1] = np.nan
        Y[-1] = np.nan
    noise, covariance = draw_noise(case, y_scale, rng)
    prior, precision = draw_prior(case, rng)
    net = build_network(case, standardization)
    reg = Regression(net, prior_precision=prior, **noise)
    theta, v = 0.7 * rng.normal(size=precision.size), rng.normal(size=precision.size)
    for array in (theta, X, Y, v):
        array.flags.writeable = False
    return Problem(case, net, reg, theta, X, Y, v, standardization, covariance, precision)


@pytest.fixture(scope="module", params=CASES)
def problem(request):
    """One problem of the table; a test picks its own rows with `indirect=True`."""
    return build_problem(request.param)


@pytest.fixture(scope="module")
def numba_cache():
    """Chains by code out of Numba's cache, which `run_hmc` does without for its last digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("symspec.hmc.sampling._compiling_anew", nullcontext)
        yield


@pytest.fixture(scope="session")
def compile_plainly():
    """`pytensor.function` without a compiler, for graphs that a test builds itself.

    `jacobian` and `hessian` make scans, whose inner functions would go to the C compiler whatever
    the mode.
    """

    def compile_plainly(inputs, outputs):
        with pytensor.config.change_flags(cxx=""):
            return pytensor.function(inputs, outputs, mode=find_mode("numpy", "float64"))

    return compile_plainly
