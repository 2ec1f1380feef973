"""The exact dual of the 17.6-million-weight network in tiles on disk, killed twice and resumed.

    python tests/bench/tiled_dual.py FOLDER [N_STARS]        # 20,000: 20 minutes, 17 GB on disk
    python tests/bench/tiled_dual.py FOLDER compare [N_STARS]   # against the dense dual, 4,000

Spectra are generated, weights untrained: the arithmetic is the same. Each run is a process of its
own, so that its peak of memory is its own: two are killed (SIGKILL) at a quarter and at six tenths
of the tiles, the third ends. LAPACK's rate is that of `dpotrf` in memory in the same run, before
and after; the floor of the Gram matrix is its products alone in NumPy.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.linalg.lapack import dpotrf

import symspec as ss
from symspec.derivatives.threads import threads_of_scipy
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.numerics.costs import SHARE, StarCosts, TileCosts, measure_rate
from symspec.inverse_hessian.numerics.layout import Layout
from symspec.inverse_hessian.numerics.tiled_cholesky import TiledCholesky

SIZES = [7213, 2048, 1024, 512, 256, 128, 32, 3]
SIGMA = np.array([100.0, 0.2, 0.1])
N_STARS, N_COMPARED, N_TEST, N_LARGE = 20_000, 4_000, 256, 50_000
KILLED_AT = (0.25, 0.6)
LAPACK_ROWS = 9000


def make_data(folder, n):
    """Flux of training and new stars in float32, piece by piece, and labels."""
    path = folder / f"flux_{n}.npy"
    if (folder / f"labels_{n}.npy").exists():
        return
    rng = np.random.default_rng(0)
    X = np.lib.format.open_memmap(path, "w+", np.float32, (n + N_TEST, SIZES[0]))
    Y = np.empty((len(X), 3))
    for first in range(0, len(X), 2000):
        rows = slice(first, min(first + 2000, len(X)))
        stars = ss.datasets.generated_stars(rows.stop - first, n_pixels=SIZES[0], rng=rng)
        X[rows] = stars.flux
        Y[rows] = stars.labels
    X.flush()
    np.save(folder / f"labels_{n}.npy", Y)


def read_problem(folder, n):
    X = np.load(folder / f"flux_{n}.npy", mmap_mode="r")
    Y = np.load(folder / f"labels_{n}.npy")
    net = ss.standardized(ss.mlp(SIZES), X[:2000].astype(np.float64), Y[:2000])
    reg = ss.Regression(net, sigma_noise=SIGMA, prior_precision=ss.scaled_prior(net, 1.0))
    theta = net.init_params(np.random.default_rng(1))
    return reg, theta, np.asarray(X[:n]), Y[:n], np.asarray(X[n:])


class Watch:
    """Seconds in blocks of the kernel, and in the rest of rows of tiles: the factorisation."""

    def __init__(self):
        self.kernel = 0.0
        self.rows = 0.0
        self.began = None  # the row that is under way
        complete_row = TiledCholesky.complete_row

        def complete(factor, i, block, tell):
            self.began = time.perf_counter()
            complete_row(factor, i, lambda j: self.time(block, j), tell)
            self.rows += time.perf_counter() - self.began
            self.began = None

        TiledCholesky.complete_row = complete

    def time(self, block, j):
        begin = time.perf_counter()
        K = block(j)
        self.kernel += time.perf_counter() - begin
        return K

    def find_seconds(self):
        """Of the kernel and of the factorisation, until now."""
        now = 0.0 if self.began is None else time.perf_counter() - self.began
        return self.kernel, self.rows + now - self.kernel


def fit(folder, n):
    """One run: it tells after each tile, so that the parent knows when to kill it."""
    reg, theta, X, Y, X_test = read_problem(folder, n)
    watch = Watch()
    begin = time.perf_counter()
    told = {}

    def tell(stage, done, total, **news):
        if stage.startswith("tiles"):
            now = time.perf_counter() - begin
            kernel, factor = watch.find_seconds()
            told.update(done=done, total=total, seconds=now, kernel=kernel, factor=factor)
            print(json.dumps(told), flush=True)

    laplace = ss.fit_laplace(
        reg,
        theta,
        X,
        Y,
        structure="dual",
        dtype="float32",
        require_minimum=False,
        options={"scratch": folder / f"tiles_{n}"},
        progress=tell,
    )
    fitted = time.perf_counter() - begin
    begin = time.perf_counter()
    V = laplace.label_covariance(X_test)
    sd = np.sqrt(np.diagonal(V, axis1=1, axis2=2))
    nothing = {"done": 1, "total": 1, "seconds": 0.0, "kernel": 0.0, "factor": 0.0}
    last = nothing | told
    last |= {
        "fitted": fitted,
        "predicted": time.perf_counter() - begin,
        "sd": np.median(sd, axis=0).tolist(),
        "sizes": laplace.inverse_hessian.factor.sizes,
        "peak_gib": peak_memory(),
    }
    print(json.dumps(last), flush=True)


def run(folder, n, kill_at):
    """A run, until it ends or this share of the work is done; what it told last."""
    command = [sys.executable, __file__, str(folder), "fit", str(n)]
    told = {}
    first = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            told = json.loads(line)
            told["peak_gib"] = told.get("peak_gib", peak_memory(child.pid))
            first = first or told
            if kill_at is not None and told["done"] >= kill_at * told["total"]:
                child.send_signal(signal.SIGKILL)
                break
    if kill_at is None and child.returncode != 0:
        raise SystemExit("the last run failed")
    return told | {"done_before": first["done"]}


def find_lapack_rate():
    """Operations a second of `dpotrf` in memory, in place, with the threads of the product."""
    A = np.full((LAPACK_ROWS, LAPACK_ROWS), 0.5, order="F")
    A[np.diag_indices(LAPACK_ROWS)] = LAPACK_ROWS
    with threads_of_scipy(LAPACK_ROWS):
        begin = time.perf_counter()
        dpotrf(A, lower=0, clean=0, overwrite_a=1)
        return LAPACK_ROWS**3 / 3 / (time.perf_counter() - begin)


def find_gram_floor(net, n_a_block):
    """Seconds of the matrix products alone of the kernel of two blocks of stars."""
    rng = np.random.default_rng(0)
    seconds = 0.0
    for layer in net.layout.layers.values():
        a = rng.normal(size=(n_a_block, layer.n_in))
        g = rng.normal(size=(net.n_outputs * n_a_block, layer.n_out))
        for factor in (a, g):
            other = factor.copy()
            begin = time.perf_counter()
            factor @ other.T
            seconds += time.perf_counter() - begin
    return seconds


def report(folder, n):
    make_data(folder, n)
    lapack = [find_lapack_rate()]
    runs = [run(folder, n, kill_at) for kill_at in (*KILLED_AT, None)]
    lapack.append(find_lapack_rate())
    last = runs[-1]
    net = ss.mlp(SIZES)
    n_rows = sum(last["sizes"])
    block = last["sizes"][0] // net.n_outputs
    pairs = n**2 / 2 / block**2
    kernel, factor = (sum(told[part] for told in runs) for part in ("kernel", "factor"))
    rate = n_rows**3 / 3 / factor
    floor = pairs * find_gram_floor(net, block)
    print(f"{n:,} spectra, {n_rows:,} rows, tiles of {last['sizes'][0]:,}")
    print("| run | tiles until [s] | kernel [s] | factorisation [s] | done | peak [GiB] |")
    print("|---|---:|---:|---:|---:|---:|")
    for k, told in enumerate(runs):
        how = "killed" if k < len(KILLED_AT) else f"fit {told['fitted']:.0f} s"
        share = f"{told['done_before'] / told['total']:.0%} to {told['done'] / told['total']:.0%}"
        seconds = " | ".join(f"{told[part]:.0f}" for part in ("seconds", "kernel", "factor"))
        print(f"| {k + 1}, {how} | {seconds} | {share} | {told['peak_gib']:.2f} |")
    print(f"factorisation: {factor:.0f} s, {rate / 1e9:.1f} Gflop/s, tiles read and written")
    rates = " and ".join(f"{each / 1e9:.1f}" for each in lapack)
    print(f"dpotrf of {LAPACK_ROWS:,} rows in memory: {rates} Gflop/s")
    print(f"the factorisation has {rate / np.mean(lapack):.0%} of LAPACK's rate")
    print(f"kernel: {kernel:.0f} s, its matrix products alone {floor:.0f} s")
    print(f"{N_TEST} error bars: {last['predicted']:.1f} s; median sd {last['sd']}")
    size = sum(p.stat().st_size for p in (folder / f"tiles_{n}").iterdir())
    print(f"on disk: {size / 2**30:.1f} GiB")
    print_estimate(net, last["sizes"][0] // net.n_outputs)


def print_estimate(net, block):
    """What 50,000 spectra would take on this machine."""
    layout = Layout(np.arange(N_LARGE), np.ones((N_LARGE, net.n_outputs), bool), block)
    stars = StarCosts.of(net.layout, net.n_outputs)
    costs = TileCosts.of(layout, stars)
    hours = costs.flops.sum() / (SHARE * measure_rate()) / 3600
    disk = costs.n_bytes.sum() + costs.tangent_bytes.sum() / 2  # float32
    memory = stars.find_bytes(block, layout.n_rows)
    print(
        f"estimate for {layout.n_rows:,} rows: {hours:.1f} hours, {disk / 2**30:.0f} GiB of disk,"
        f" {memory / 2**30:.1f} GiB of memory"
    )


def compare(folder, n):
    """Tiles against the dense dual, in float64 throughout."""
    make_data(folder, n)
    reg, theta, X, Y, X_test = read_problem(folder, n)
    v = np.random.default_rng(2).normal(size=theta.size)
    found = {}
    for name, options in (("dense", {}), ("tiles", {"scratch": folder / f"compared_{n}"})):
        builder = InverseBuilder(reg, X, Y, structure="dual", options=options)
        begin = time.perf_counter()
        inverse = builder.build(theta)
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
        V = inverse.label_covariance(builder.tangents(theta, X_test))
        found[name] = V, inverse.logdet(), inverse @ v
    (V, logdet, step), (W, other, other_step) = found.values()
    sd = np.sqrt(np.diagonal(V, axis1=1, axis2=2))
    print("| what | largest difference, relative |")
    print("|---|---:|")
    print(f"| covariances | {np.abs((V - W) / (sd[:, :, None] * sd[:, None, :])).max():.1e} |")
    print(f"| log determinant | {abs(logdet - other) / abs(logdet):.1e} |")
    print(f"| product with a vector | {np.abs(step - other_step).max() / np.abs(step).max():.1e} |")


def peak_memory(process="self"):
    """Largest resident memory of a process in GiB."""
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    line = next(text for text in status if text.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    words = sys.argv[2:]
    if words and words[0] == "fit":
        fit(folder, int(words[1]))
    elif words and words[0] == "compare":
        compare(folder, int(words[1]) if len(words) > 1 else N_COMPARED)
    else:
        report(folder, int(words[0]) if words else N_STARS)


if __name__ == "__main__":
    main()
