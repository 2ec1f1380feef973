"""Error bars of the 17.6-million-weight network from 50,000 generated spectra, by every structure.

    python tests/bench/full_size.py FOLDER                 # all: two hours on two cores, 55 GB
    python tests/bench/full_size.py FOLDER kronecker ...   # some of the stages

Stages: data, training, gradient, kronecker, ekfac, diagonal, last_layer, dual, krylov, krylov_tiles
(with the kernel on disk), hmc, table.
Each is a process of its own, so that its peak of memory is its own, and leaves its numbers in
FOLDER; those that are there are not made again. sigma_noise is the scatter that the training left,
so that the error bars are those that a user would ask for.
"""

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.laplace.prediction import standard_deviations
from symspec.reports.hmc_tables import print_comparison
from symspec.reports.tables import open_console
from symspec.safety.checkpoint import Checkpoint

SIZES = [7213, 2048, 1024, 512, 256, 128, 32, 3]
N_TRAIN, N_TEST, N_SUBSET, N_COMPARE = 50_000, 10_000, 4_000, 200
LABEL_NOISE = np.array([50.0, 0.1, 0.05])  # K, dex, dex
EPOCHS, BATCH = 8, 512
KRYLOV_SECONDS = 27 * 60
N_PREDICTED = {"krylov": 2, "krylov_tiles": 64, "kronecker": N_TEST}  # N_COMPARE of the others
INTERVALS = ("krylov", "krylov_tiles")
STRUCTURES = ("kronecker", "ekfac", "diagonal", "last_layer", "dual", *INTERVALS)
STAGES = ("data", "training", "gradient", *STRUCTURES, "hmc", "table")


def make_data(folder):
    """Flux in float32, piece by piece; labels with the noise that training labels have."""
    rng = np.random.default_rng(0)
    X = np.lib.format.open_memmap(
        folder / "flux.npy", "w+", np.float32, (N_TRAIN + N_TEST, SIZES[0])
    )
    Y = np.empty((len(X), 3))
    for first in range(0, len(X), 5000):
        stars = ss.datasets.generated_stars(5000, n_pixels=SIZES[0], rng=rng)
        X[first : first + 5000], Y[first : first + 5000] = stars.flux, stars.labels
    Y[:N_TRAIN] += LABEL_NOISE * rng.normal(size=(N_TRAIN, 3))
    np.save(folder / "labels.npy", Y)
    return {}


def read_data(folder):
    X, Y = np.load(folder / "flux.npy", mmap_mode="r"), np.load(folder / "labels.npy")
    return np.asarray(X[:N_TRAIN]), Y[:N_TRAIN], np.asarray(X[N_TRAIN:]), Y[N_TRAIN:]


def build_regression(X, Y, sigma_noise):
    some = X[:5000].astype(np.float64)
    net = ss.mlp(SIZES, label_names=["TEFF", "LOGG", "FE_H"], label_units=["K", "dex", "dex"])
    net = ss.standardized(net, some, Y)
    return ss.Regression(net, sigma_noise=sigma_noise, prior_precision=ss.scaled_prior(net, 1.0))


def train(folder):
    X, Y, X_test, Y_test = read_data(folder)
    reg = build_regression(X, Y, 1.2 * LABEL_NOISE)
    begin = time.perf_counter()
    options = {"batch_size": BATCH, "learning_rate": 3e-4, "rng": np.random.default_rng(1)}
    fit = ss.train(reg, X, Y, epochs=EPOCHS, decay=0.01, **options)
    np.save(folder / "theta.npy", fit.theta)
    seconds = time.perf_counter() - begin
    residuals = ss.compile_predict(reg.net, dtype="float32")(fit.theta, X_test) - Y_test
    return {"seconds": seconds, "scatter": residuals.std(axis=0).tolist()}


def read_trained(folder):
    """Data, trained weights, and the regression with the noise that the training left."""
    X, Y, X_test, _ = read_data(folder)
    scatter = np.array(json.loads((folder / "training.json").read_text())["scatter"])
    return (
        build_regression(X, Y, np.hypot(scatter, LABEL_NOISE)),
        np.load(folder / "theta.npy"),
        X,
        Y,
        X_test,
    )


def time_gradient(folder):
    reg, theta, X, Y, _ = read_trained(folder)
    objective = ss.compile_objective(reg, dtype="float32")
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        objective(theta, X, Y)
        seconds.append(time.perf_counter() - begin)
    return {"seconds": min(seconds)}


def run_structure(folder, structure):
    reg, theta, X, Y, X_test = read_trained(folder)
    options = {
        "dual": {"subset": N_SUBSET},
        "krylov": {"subset": N_SUBSET, "max_seconds": KRYLOV_SECONDS},
        "krylov_tiles": {"subset": N_SUBSET, "scratch": folder / "tiles"},
    }
    begin = time.perf_counter()
    told = []

    def tell(stage, done, total, **news):
        if (stage, done * 20 // total) not in told or stage == "krylov":
            told.append((stage, done * 20 // total))
            print(f"{time.perf_counter() - begin:.0f} s: {stage} {done}/{total} {news}", flush=True)

    builder = InverseBuilder(
        reg,
        X,
        Y,
        structure=structure.partition("_")[0] if structure in INTERVALS else structure,
        dtype="float32",
        memory="14GB",
        options=options.get(structure),
        checkpoint=Checkpoint(progress=tell),
    )
    inverse = builder.build(theta)
    fitted = time.perf_counter()
    n_stars = N_PREDICTED.get(structure, N_COMPARE)
    bounds = []
    for first in range(0, n_stars, 256):
        tangents = builder.tangents(theta, X_test[first : min(first + 256, n_stars)])
        if structure in INTERVALS:
            bounds.append(np.stack(inverse.label_covariance_bounds(tangents)))
        else:
            bounds.append(np.stack([inverse.label_covariance(tangents)] * 2))
    np.save(folder / f"sd_{structure}.npy", standard_deviations(np.concatenate(bounds, axis=1)))
    predicted = time.perf_counter()
    return {"fit": fitted - begin, "stars": n_stars, "predict": predicted - fitted}


def check_last_layer(folder):
    """HMC of the last layer given the others, from all training spectra, against Laplace."""
    reg, theta, X, Y, X_test = read_trained(folder)
    begin = time.perf_counter()
    words = {
        "structure": "last_layer",
        "require_minimum": False,
        "dtype": "float32",
        "progress": False,
    }
    laplace = ss.fit_laplace(reg, theta, X, Y, **words)
    fitted = time.perf_counter()
    X_check = X_test[:N_COMPARE]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ss.NotAtMinimumWarning)  # eight epochs
        draws = ss.run_hmc(
            reg, X, Y, laplace=laplace, subset="last_layer", X_check=X_check, seed=0, progress=False
        )
    sampled = time.perf_counter()
    comparison = ss.compare_hmc(laplace, draws, X_check)
    print_comparison(open_console(), comparison)
    return {"fit": fitted - begin, "hmc": sampled - fitted, "verdict": comparison.verdict}


def print_table(folder):
    told = {
        s: json.loads((folder / f"{s}.json").read_text())
        for s in STAGES
        if (folder / f"{s}.json").exists()
    }
    gradient = told["gradient"]["seconds"]
    sd = {s: np.load(folder / f"sd_{s}.npy") for s in STRUCTURES if s in told}
    print(
        f"one gradient pass: {gradient:.0f} s; scatter on test stars {told['training']['scatter']}"
    )
    print(
        "| structure | fit [s] | gradient passes | error bars [s / 100 stars] | peak [GiB] | sd of"
        " star 0 | sd / dual |"
    )
    print("|---|---:|---:|---:|---:|---|---|")
    for s, values in sd.items():
        t = told[s]
        star = " / ".join(
            f"{a:.3g}" if a == b else f"{a:.3g}-{b:.3g}" for a, b in zip(*values[:, 0], strict=True)
        )
        n = min(len(values[1]), len(sd["dual"][1]))
        ratio = np.median(values[1][:n] / sd["dual"][1][:n], axis=0)
        print(
            f"| {s} | {t['fit']:.0f} | {t['fit'] / gradient:.1f} |"
            f" {100 * t['predict'] / t['stars']:.2g} | {t['peak_gib']:.1f} | {star} |"
            f" {' / '.join(f'{r:.2f}' for r in ratio)} |"
        )
    for s in INTERVALS:
        if s in sd:
            low, high = sd[s]
            print(f"{s} intervals of two stars:", np.round(sd[s][:, :2], 4).tolist())
            print("relative widths: median, largest", np.quantile(1 - low / high, [0.5, 1]))
    return {}


def peak_memory():
    """Largest resident memory of this process in GiB."""
    line = next(
        t for t in Path("/proc/self/status").read_text().splitlines() if t.startswith("VmHWM")
    )
    return int(line.split()[1]) / 2**20


def main():
    folder, stages = Path(sys.argv[1]), sys.argv[2:] or STAGES
    folder.mkdir(exist_ok=True)
    if len(stages) > 1:
        for stage in stages:
            subprocess.run([sys.executable, __file__, str(folder), stage], check=True)
        return
    stage = stages[0]
    if (folder / f"{stage}.json").exists() and stage != "table":
        return
    work = {
        "data": make_data,
        "training": train,
        "gradient": time_gradient,
        "hmc": check_last_layer,
    }
    work["table"] = print_table
    told = work[stage](folder) if stage in work else run_structure(folder, stage)
    told["peak_gib"] = peak_memory()
    (folder / f"{stage}.json").write_text(json.dumps(told))
    print(stage, told, flush=True)


if __name__ == "__main__":
    main()
