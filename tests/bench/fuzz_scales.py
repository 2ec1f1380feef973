"""Flux and labels in other units: every result of standardised networks is the same but for units.

    .venv/bin/python tests/bench/fuzz_scales.py [PROBLEMS [SEED]]

Each random problem is solved as it stands, with flux times 1e-17, 1e12 and powers of two, and with
labels times 1e-8 and 1e8. Networks differ in depth, activation and normalisation; labels are
missing, pixels are masked, and one never varies. A result fails if it is off by more than 1e-6 of
its size. `tune` may say instead that the evidence has several maxima.
"""

import sys
import warnings
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

import symspec as ss

FLUX_FACTORS = (1e-17, 1e12, 2.0**-56, 2.0**40)
LABEL_FACTORS = (1e-8, 1e8)
ALLOWED = 1e-6
EXACT = ("primal", "dual", "krylov")
APPROXIMATE = ("kronecker", "ekfac", "diagonal", "last_layer", "low_rank")
ACTIVATIONS = ("tanh", "relu", "softplus", "gelu")
FIRST = ("nothing", "median", "continuum", "batch norm")
CENTRES = np.array([4800.0, 2.5, -0.3])
SPREADS = np.array([400.0, 0.8, 0.25])
EPOCHS = 30


@dataclass(frozen=True)
class Problem:
    """Stars in one system of units, and the network that standardises them."""

    X: np.ndarray  # (star, pixel)
    ivar: np.ndarray | None
    Y: np.ndarray
    new: np.ndarray  # stars to predict
    new_ivar: np.ndarray | None
    hidden: tuple
    activation: str
    first: str
    has_full_noise: bool
    unit: float = 1.0  # of the labels

    def scaled(self, flux=1.0, labels=1.0):
        """The same stars in other units."""
        return replace(
            self,
            X=flux * self.X,
            ivar=None if self.ivar is None else self.ivar / flux / flux,
            Y=labels * self.Y,
            new=flux * self.new,
            new_ivar=None if self.new_ivar is None else self.new_ivar / flux / flux,
            unit=labels,
        )

    def stars(self):
        return ss.Spectra(flux=self.X, ivar=self.ivar, labels=self.Y)

    def regression(self):
        P, C = self.X.shape[1], self.Y.shape[1]
        layers = [ss.Standardize.of(self.X, constant="keep")]
        if self.first in ("median", "continuum"):
            grid = np.linspace(4000, 5000, P)
            norm = ss.MedianNormalize()
            if self.first == "continuum":
                norm = ss.ContinuumNormalize.polynomial(grid, 2)
            normalized = ss.compile_predict(ss.Network([norm], P))(np.empty(0), self.X)
            layers = [norm, ss.Standardize.of(normalized, constant="keep")]
        for width in self.hidden:
            layers.append(ss.Dense(width))
            if self.first == "batch norm":
                layers.append(ss.BatchNorm(np.full(width, 0.1), np.full(width, 1.5)))
            layers.append(ss.Activation(self.activation))
        net = ss.Network([*layers, ss.Dense(C), ss.Unstandardize.of(self.Y)], P)
        sigma = 0.3 * self.unit * SPREADS[:C]
        noise = {"sigma_noise": sigma}
        if self.has_full_noise:
            noise = {"noise_covariance": np.outer(sigma, sigma) * (0.3 + 0.7 * np.eye(C))}
        return ss.Regression(net, prior_precision=ss.scaled_prior(net, 1.0), **noise)


def draw_problem(seed):
    rng = np.random.default_rng(seed)
    n, P, C = rng.integers(24, 60), rng.integers(6, 40), rng.integers(1, 4)
    hidden = tuple(rng.integers(2, 7, size=rng.integers(0, 3)))
    t = rng.normal(size=(n + 10, 3))
    lines = rng.uniform(0, 0.1, size=(3, P))
    flux = 1 + t @ lines + 0.02 * rng.normal(size=(n + 10, P))
    flux[:, rng.integers(P)] = 0.7  # never varies
    Y = CENTRES[:C] + SPREADS[:C] * (t[:n, :C] + 0.2 * t[:n, :1] ** 2)
    Y += 0.2 * SPREADS[:C] * rng.normal(size=Y.shape)
    if seed % 2:
        Y[rng.random(Y.shape) < 0.15] = np.nan
        Y[:3] = CENTRES[:C] + SPREADS[:C] * rng.normal(size=(3, C))
    ivar = None
    if seed % 3:
        ivar = rng.uniform(0.5, 2, size=flux.shape) * 50.0**2
        ivar[rng.random(ivar.shape) < 0.05] = 0
    known = ivar is not None
    return Problem(
        X=flux[:n],
        ivar=ivar[:n] if known else None,
        Y=Y,
        new=flux[n:],
        new_ivar=ivar[n:] if known else None,
        hidden=hidden,
        activation=ACTIVATIONS[seed % len(ACTIVATIONS)],
        first=FIRST[seed // 2 % len(FIRST)],
        has_full_noise=bool(seed % 5 == 0),
    )


def quiet(function, *args, **words):
    """Result, and the classes of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = function(*args, progress=False, **words)
    return result, {warning.category for warning in caught}


def train(problem, dtype):
    fit = ss.train(
        problem.regression(),
        problem.stars(),
        epochs=EPOCHS,
        batch_size=16,
        learning_rate=0.01,
        validation=0.2,
        dtype=dtype,
        rng=np.random.default_rng(0),
        progress=False,
    )
    return fit.theta


def as_numbers(prediction, unit):
    """What a prediction says, in the labels' first units and by name."""
    numbers = {
        "labels": prediction.labels / unit / SPREADS[: prediction.labels.shape[1]],
        "model_cov": prediction.model_cov / unit**2,
        "flux_cov": prediction.flux_cov / unit**2,
        "total_cov": prediction.total_cov / unit**2,
        "interval": prediction.model_interval / unit,
        "flags": prediction.flags,
        "label flags": prediction.label_flags,
        "snr": prediction.snr,
        "distance": prediction.flux_distance,
    }
    return {name: np.asarray(value) for name, value in numbers.items() if value is not None}


def solve(problem, theta, tuned):
    """Results by stage, each from the same weights; warnings of `tune`."""
    reg, stars, unit = problem.regression(), problem.stars(), problem.unit
    n_labels = np.isfinite(problem.Y).sum(axis=0)
    found = {"train, float64": {"theta": train(problem, "float64")}}
    found["train, float32"] = {"theta": train(problem, "float32")}
    # it stops where U hardly falls, which leaves weights free
    U = quiet(ss.minimize, reg, theta, stars)[0].fun
    found["minimize"] = {"U": np.array(U - reg.constant(problem.Y))}
    polished = quiet(ss.polish, reg, theta, stars)[0].theta
    found["polish"] = {"theta": polished}
    start = polished if tuned is None else tuned
    kind = "full" if problem.has_full_noise else "per_label"
    (best, weights), said = quiet(ss.tune, reg, start, stars, noise=kind)
    prior = np.log(list(best.prior_precision.values()))
    found["tune"] = {
        "theta": weights,
        "noise": best.noise_covariance / unit**2 / np.outer(*[SPREADS[: len(n_labels)]] * 2),
        "prior": prior,
    }
    for structure in (*EXACT, *APPROXIMATE):
        laplace, _ = quiet(ss.fit_laplace, reg, start, stars, structure=structure)
        prediction, _ = quiet(laplace.predict, problem.new, ivar=problem.new_ivar)
        numbers = as_numbers(prediction, unit)
        if structure != "krylov":  # an estimate by draws
            evidence = laplace.log_marginal_likelihood()
            numbers["evidence"] = np.array(evidence + n_labels.sum() * np.log(unit))
        certificate = laplace.certificate
        numbers["certificate"] = np.array([certificate.smallest_ratio])
        numbers["decrement"] = 1 + np.array([certificate.newton_decrement])
        numbers["is minimum"] = np.array([certificate.is_minimum])
        found[structure] = numbers
    return found, polished, said


def is_told(said):
    """Whether a warning was of several maxima."""
    return any(issubclass(kind, ss.SeveralMaximaWarning) for kind in said)


def compare(one, other):
    """Largest deviation relative to the largest number, and its name."""
    worst = {}
    for name, values in one.items():
        right, found = np.asarray(values, float), np.asarray(other[name], float)
        known = np.isfinite(right)
        off = np.abs(found[known] - right[known]).max(initial=0.0)
        worst[name] = off / np.abs(right[known]).max(initial=1e-300)
        if np.isnan(off) or not np.array_equal(found[~known], right[~known], equal_nan=True):
            worst[name] = np.inf
    name = max(worst, key=worst.get)
    return worst[name], name


def main(n_problems=24, seed=0):
    cases = [(f"flux x {f:.2g}", {"flux": f}) for f in FLUX_FACTORS]
    cases += [(f"labels x {f:.2g}", {"labels": f}) for f in LABEL_FACTORS]
    tried, failed, worst = defaultdict(int), defaultdict(int), defaultdict(float)
    for i in range(seed, seed + n_problems):
        problem = draw_problem(i)
        theta = train(problem, "float64")
        right, polished, _ = solve(problem, theta, None)
        for case, factors in cases:
            found, _, said = solve(problem.scaled(**factors), theta, polished)
            for stage, numbers in found.items():
                off, name = compare(right[stage], numbers)
                key = stage, case
                tried[key] += 1
                worst[key] = max(worst[key], off)
                if off > ALLOWED and not (stage == "tune" and is_told(said)):
                    failed[key] += 1
                    print(f"problem {i}: {stage}, {case}: {name} off by {off:.2g}", flush=True)
    print(f"{'result':16} | {'units':14} | tried | failed | largest deviation")
    for (stage, case), n in tried.items():
        print(
            f"{stage:16} | {case:14} | {n:5} | {failed[stage, case]:6} | {worst[stage, case]:.1e}"
        )
    return sum(failed.values())


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])) > 0)
