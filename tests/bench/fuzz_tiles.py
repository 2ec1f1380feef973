"""Tiles of dual and krylov, killed and damaged at random moments: the dense dual's numbers.

    python tests/bench/fuzz_tiles.py [CASES] [SEED]        # 60 cases: three minutes

Each case is a structure, a network, training stars with missing labels and a size of tiles. A
process that fills the folder is killed (SIGKILL) up to three times at random moments, and between
files are cut, flipped, exchanged, emptied, removed, made longer, or replaced by those of another
case; a call for other weights has to be refused, and to leave every byte. The last call has to end
with the covariances and the products of the dense dual, and dual with its log determinant.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.numerics import costs

AGREED = 1e-9
SOLVED, MULTIPLIED = 1e-7, 1e-5  # what conjugate gradients leave of covariances, and of products
LONGEST = 1.0  # seconds before a kill


def draw_case(rng):
    n_pixels, n_labels = rng.integers(3, 30), rng.integers(1, 4)
    n_stars = int(rng.integers(20, 300))
    X = rng.normal(size=(n_stars, n_pixels))
    Y = rng.normal(size=(n_stars, n_labels))
    Y[rng.random(Y.shape) < rng.choice([0.0, 0.2])] = np.nan
    activation = str(rng.choice(["tanh", "relu", "softplus"]))
    net = ss.mlp([n_pixels, int(rng.integers(2, 40)), n_labels], activation=activation)
    reg = ss.Regression(
        net, sigma_noise=rng.uniform(0.3, 2, n_labels), prior_precision=rng.uniform(0.5, 3)
    )
    tile = int(rng.integers(1 + n_stars // 12, n_stars))
    structure = str(rng.choice(["dual", "krylov"]))
    return reg, rng.normal(size=net.n_params), X, Y, structure, tile


def build(case, folder):
    reg, theta, X, Y, structure, tile = case
    options = {"stars_a_tile": tile}
    if folder is None:
        structure, options = "dual", {}
    elif structure == "krylov":
        costs.MOST_ROWS = tile * Y.shape[1]
        options = {"subset": max(1, len(Y) // 9), "tolerance": SOLVED / 10}
    if folder is not None:
        options["scratch"] = folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return InverseBuilder(reg, X, Y, structure=structure, options=options).build(theta)


def fill_and_be_killed(case, folder, seconds):
    """Whether a process was killed before it had filled the folder."""
    child = multiprocessing.get_context("fork").Process(target=build, args=(case, folder))
    child.start()
    time.sleep(seconds)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    return child.exitcode == -signal.SIGKILL


def damage(folder, foreign, rng):
    """What was done to one file."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not paths:
        return "nothing there"
    path = paths[rng.integers(len(paths))]
    content = bytearray(path.read_bytes())
    kind = str(
        rng.choice(["cut", "flipped", "exchanged", "emptied", "removed", "longer", "foreign"])
    )
    if kind == "cut":
        path.write_bytes(content[: rng.integers(len(content) + 1)])
    elif kind == "flipped" and content:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
    elif kind == "exchanged":
        path.write_bytes(paths[rng.integers(len(paths))].read_bytes())
    elif kind == "emptied":
        path.write_bytes(b"")
    elif kind == "removed":
        path.unlink()
    elif kind == "longer":
        path.write_bytes(content + b"more")
    elif kind == "foreign" and (foreign / path.name).exists() and path.name != "layout.npz":
        shutil.copy(foreign / path.name, path)
    return kind


def check_refusal(case, folder):
    """Whether other weights are refused, and every byte left as it is."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    reg, theta, *rest = case
    try:
        build((reg, 1.001 * theta, *rest), folder)
    except ss.DataError:
        return before == {path: path.read_bytes() for path in folder.iterdir()}
    return False


def is_right(case, folder, rng):
    found, expected = build(case, folder), build(case, None)
    reg, theta, X, Y, structure, _ = case
    new = rng.normal(size=(5, X.shape[1]))
    tangents = InverseBuilder(reg, X, Y, structure="dual").tangents(theta, new)
    v = rng.normal(size=theta.size)
    solved, multiplied = (AGREED, AGREED) if structure == "dual" else (SOLVED, MULTIPLIED)
    triples = [
        (found.label_covariance(tangents), expected.label_covariance(tangents), solved),
        (found @ v, expected @ v, multiplied),
    ]
    if structure == "dual":  # krylov estimates it
        triples.append((found.logdet(), expected.logdet(), AGREED))
    return all(np.abs(a - b).max() <= agreed * np.abs(b).max() for a, b, agreed in triples)


def main():
    n_cases = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    rng = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    counts = {}

    def count(kind, is_good):
        tried, failed = counts.get(kind, (0, 0))
        counts[kind] = tried + 1, failed + (not is_good)

    with tempfile.TemporaryDirectory() as place:
        foreign = Path(place) / "foreign"
        build(draw_case(rng), foreign)
        for k in range(n_cases):
            case, folder = draw_case(rng), Path(place) / f"case_{k}"
            done = []
            for _ in range(rng.integers(1, 4)):
                if fill_and_be_killed(case, folder, LONGEST * rng.random() ** 2):
                    done.append("killed")
                if folder.is_dir() and rng.random() < 0.7:
                    done.append(damage(folder, foreign, rng))
            if (folder / "layout.npz").exists():
                build(case, folder)  # the layout may be what was damaged
                count("other weights refused", check_refusal(case, folder))
            right = is_right(case, folder, rng)
            for kind in set(done) or {"whole"}:
                count(kind, right)
            shutil.rmtree(folder)
    print("| kind | tried | failed |")
    print("|---|---:|---:|")
    for kind, (tried, failed) in sorted(counts.items()):
        print(f"| {kind} | {tried} | {failed} |")


if __name__ == "__main__":
    main()
