"""Which network: does `select` choose well, and would a cheaper criterion have done.

    OPENBLAS_NUM_THREADS=1 python tests/bench/selection.py FOLDER [N_SPLITS] [NAME ...]

FOLDER holds uci/concrete and uci/energy as `uci.py` takes them, tecator/tecator_meats.npz with
spectra and labels, and wdtools/sdss_parameters.csv as `white_dwarfs.py` takes it; the stars of
MILES come with ``pip install "symspec[demo]"``. Of each, random splits are made; candidates are
compared on the training part by three criteria, with the rule of `select` for the first two: the
log score of stars held out (what `select` takes), that of stars left out of the linearised network,
and the evidence. Then the test part tells how good each candidate is in hindsight. Ridge regression
has the penalty of the least leave-one-out error of each label.
"""

import sys
import time
import warnings
from pathlib import Path

import numpy as np

import symspec as ss
from symspec.validation.scores import find_behind, find_mean, find_smallest_good, score_stars

PENALTIES = np.logspace(-10, 3, 40)
TEST_SHARE = 0.2
MAX_WIDTH = 250.0  # of white dwarfs' lines [Angstrom]
CRITERIA = ("held out", "left out", "evidence")
COLUMNS = (
    "| data | criterion | chosen | test log score | behind the best in hindsight | RMSE | ridge"
    " | in 68, 95 % | seconds |\n|---|---|---|---:|---:|---|---|---|---:|"
)


def read_uci(folder, name):
    table = np.loadtxt(folder / "uci" / name / "data.txt")
    columns, target = (
        np.loadtxt(folder / "uci" / name / f"index_{what}.txt", dtype=int)
        for what in ("features", "target")
    )
    return ss.Spectra(flux=table[:, columns], labels=table[:, [int(target)]])


def read_white_dwarfs(folder, _):
    path = folder / "wdtools" / "sdss_parameters.csv"
    table = np.genfromtxt(path, delimiter=",", skip_header=1)[:, 1:]
    is_good = np.isfinite(table).all(axis=1) & (table[:, :8:2] < MAX_WIDTH).all(axis=1)
    table = table[is_good]
    return ss.Spectra(flux=table[:, :8], labels=np.c_[np.log10(table[:, 8]), table[:, 9]])


def read_tecator(folder, _):
    with np.load(folder / "tecator" / "tecator_meats.npz") as file:
        return ss.Spectra(flux=file["spectra"], labels=file["labels"])


READERS = {
    "miles": lambda *_: ss.datasets.miles(clip=(0.0, 3.0)),
    "tecator": read_tecator,
    "white dwarfs": read_white_dwarfs,
    "concrete": read_uci,
    "energy": read_uci,
}


def split(stars, k):
    order = np.random.default_rng(100 + k).permutation(len(stars))
    n_test = round(TEST_SHARE * len(stars))
    return stars[np.sort(order[n_test:])], stars[np.sort(order[:n_test])]


def predict_by_ridge(training, X):
    """Labels (star, label) by ridge regression on standardised pixels."""
    mean, scale = training.flux.mean(axis=0), training.flux.std(axis=0)
    scale[scale == 0] = 1
    U, d, Vt = np.linalg.svd((training.flux - mean) / scale, full_matrices=False)
    Y = training.labels - training.labels.mean(axis=0)
    errors, weights = [], []
    for penalty in PENALTIES * d[0] ** 2:
        shrunk = d**2 / (d**2 + penalty)
        leverages = np.square(U) @ shrunk + 1 / len(Y)
        residuals = Y - U @ (shrunk[:, None] * (U.T @ Y))
        errors.append(np.mean((residuals / (1 - leverages[:, None])) ** 2, axis=0))
        weights.append(Vt.T @ ((shrunk / d)[:, None] * (U.T @ Y)))
    best = np.argmin(errors, axis=0)
    each = np.arange(Y.shape[1])
    kept = np.array(weights)[best, :, each].T
    return training.labels.mean(axis=0) + (X - mean) / scale @ kept


def choose(candidates, training, spread):
    """Index of the candidate that each criterion chooses."""
    left_out = []
    for one in candidates:
        laplace = ss.fit_laplace(
            one.reg, one.theta, training, require_minimum=False, progress=False
        )
        left_out.append(score_stars(laplace.leave_one_out(), training.labels, spread))
    sizes = [one.n_params for one in candidates]
    behind = find_behind(left_out, np.arange(len(training)))
    return {
        "held out": next(i for i, one in enumerate(candidates) if one.is_chosen),
        "left out": find_smallest_good(behind, sizes),
        "evidence": int(np.argmax([one.evidence for one in candidates])),
    }


def test(one, training, held_out, spread):
    """Log scores, squared residuals and coverage of stars that no candidate has seen."""
    laplace = ss.fit_laplace(one.reg, one.theta, training, require_minimum=False, progress=False)
    prediction = laplace.predict(held_out, progress=False)
    scores = score_stars(prediction, held_out.labels, spread)
    squares = ((prediction.labels - held_out.labels) / spread) ** 2
    return scores, squares.mean(axis=0), ss.coverage(prediction, held_out.labels).mean(axis=1)


def follow(stage, done, total, **_):
    print(f"  {time.strftime('%X')} {stage} {done}/{total}", file=sys.stderr, flush=True)


def run_split(stars, k):
    """What each criterion chose on one split: name, log scores beside the best, RMSE, ..."""
    training, held_out = split(stars, k)
    spread = training.labels.std(axis=0)
    begin = time.perf_counter()
    found = ss.select(training, progress=follow)
    seconds = time.perf_counter() - begin
    tested = [test(one, training, held_out, spread) for one in found.candidates]
    residuals = predict_by_ridge(training, held_out.flux) - held_out.labels
    ridge = np.mean((residuals / spread) ** 2, axis=0)
    for one, (scores, squares, covered) in zip(found.candidates, tested, strict=True):
        print(
            f"  {k} {one.name:26} {one.n_params:8,} held out {one.log_score:8.3f}, behind"
            f" {one.behind:6.3f} +- {one.behind_error:.3f}, evidence {one.evidence:10.1f}, test"
            f" {scores.mean():8.3f}, RMSE {np.sqrt(squares.mean()):.3f}, {covered.round(2)},"
            f" {one.seconds:.0f} s{' chosen' if one.is_chosen else ''}",
            flush=True,
        )
    chosen = choose(found.candidates, training, spread)
    return found, tested, ridge, chosen, seconds


def run(name, folder, n_splits):
    """Run the splits of one data set; one row a criterion."""
    stars = READERS[name](folder, name)
    splits = [run_split(stars, k) for k in range(n_splits)]
    rows = []
    for criterion in CRITERIA:
        names, scores, best, squares, covered = [], [], [], [], []
        for found, tested, _, chosen, _ in splits:
            i = chosen[criterion]
            names.append(found.candidates[i].name)
            scores.append(tested[i][0])
            best.append(max((scores for scores, *_ in tested), key=np.mean))
            squares.append(tested[i][1])
            covered.append(tested[i][2])
        difference = np.concatenate(best) - np.concatenate(scores)
        behind, error = find_mean(difference, np.arange(difference.size))
        rmse, ridge = (np.sqrt(np.mean(x, axis=0)) for x in (squares, [s[2] for s in splits]))
        inside = 100 * np.mean(covered, axis=0)
        rows.append(
            f"| {name} | {criterion} | {'; '.join(names)} | {np.mean(np.concatenate(scores)):.3f} |"
            f" {behind:.3f} ± {error:.3f} | {', '.join(f'{x:.3f}' for x in rmse)} |"
            f" {', '.join(f'{x:.3f}' for x in ridge)} | {inside[0]:.0f}, {inside[1]:.0f} |"
            f" {np.mean([s[4] for s in splits]):.0f} |"
        )
        print(rows[-1], flush=True)
    return rows


def main(folder, n_splits="3", *names):
    warnings.simplefilter("ignore")
    rows = [row for name in names or READERS for row in run(name, Path(folder), int(n_splits))]
    print(COLUMNS, *rows, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
