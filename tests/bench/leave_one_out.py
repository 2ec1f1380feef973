"""Training stars left out without training again, against training again, on MILES.

    OPENBLAS_NUM_THREADS=1 python tests/bench/leave_one_out.py [PART ...] [NOISE ...]

The stars come with ``pip install "symspec[demo]"``; the network is that of `symspec demo`, 8 tanh
units, with noise and prior tuned; NOISE is student, normal, or both. PART is one of

refits
    A network of 760 stars, and 60 more, each without one of these, from its minimum to their own,
    at the same noise and prior. Real changes are held against `leave_one_out`, of the star's own
    labels, and against `influence`, of the labels of 25 other stars: correlation, and slope of the
    real ones on those said. Ten minutes with both noises.
planted
    One label of each of 20 stars is made wrong, by so many robust standard deviations of the
    residuals or by taking that of another star, and a network is trained on them anew. How many of
    these stars are among the worst 20, by `find_outliers`, and by the residual of stars left out
    over its error? MILES has wrong labels of its own, which are among the worst, too. *At best* is
    the number by residuals that no planted label has bent, those of a network trained before. In
    *cleaned*, labels are missing that were beyond `SUSPICIOUS` errors then; *generated* stars have
    normal noise. A quarter of an hour.
coverage
    Coverage of stars left out of one network, and of those held out of the five networks of a
    cross-validation, with the noise of the evidence and with that of the other folds' stars.
    Between them, *folds left out*: the stars of a fold left out together, without training again.
    Twelve minutes.
"""

import sys
import time
from dataclasses import replace
from functools import cache

import numpy as np

import symspec as ss
from symspec.cli.commands.demo import FLUX_RANGE, OPTIONS
from symspec.fitting.fit import FitOptions, fit_network
from symspec.laplace.prediction import join_held_out

DOFS = {"student": OPTIONS.dof, "normal": None}
N_NEW = 25
N_REFITS = 60
N_PLANTED = 20
FOLDS = 5
SUSPICIOUS = 3.0  # errors
NOISE = (100.0, 0.2, 0.1)  # K, dex, dex: of generated labels


@cache
def read_stars():
    return ss.datasets.miles(clip=FLUX_RANGE)


def find_options(noise):
    return {
        "hidden": OPTIONS.hidden,
        "prior_precision": OPTIONS.prior_precision,
        "dof": DOFS[noise],
        "epochs": OPTIONS.epochs,
    }


def fit(stars, noise):
    return fit_network(stars, FitOptions(**find_options(noise)), progress=False)


@cache
def fit_all(noise):
    return fit(read_stars(), noise)


def compare(real, said):
    """Correlation and slope, by label, of changes (change, label)."""
    pairs = list(zip(real.T, said.T, strict=True))
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in pairs]
    slopes = [a @ b / (b @ b) for a, b in pairs]
    return f"{join(correlations, '.3f')} | {join(slopes, '.3f')}"


def join(values, how):
    return ", ".join(f"{x:{how}}" for x in values)


def run_refits(noises):
    print("| noise | what | correlation | slope | most nats left |\n|---|---|---|---|---:|")
    for noise in noises:
        compare_refits(noise)


def compare_refits(noise):
    order = np.random.default_rng(1).permutation(len(read_stars()))
    new, training = read_stars()[order[:N_NEW]], read_stars()[order[N_NEW:]]
    laplace = fit(training, noise)
    chosen = np.random.default_rng(2).choice(len(training), N_REFITS, replace=False)
    predict = ss.compile_predict(laplace.reg.net)
    own, others, left = [], [], []
    for n in chosen:
        kept = np.arange(len(training)) != n
        refit = ss.polish(
            laplace.reg, laplace.theta, training[kept], tolerance=1e-10, progress=False
        )
        own.append(predict(refit.theta, training.flux[n]))
        others.append(predict(refit.theta, new.flux))
        left.append(refit.newton_decrement)
    truth = training.labels[chosen]
    before = laplace.predict_labels(training.flux[chosen])
    said = laplace.leave_one_out().labels[chosen]
    own = np.array(own)
    moved = laplace.predict_labels(new.flux)[:, :, None] - np.moveaxis(others, 0, 2)
    by_ggn, by_hessian = (
        laplace.influence(new, curvature=curvature)[:, :, chosen]
        for curvature in ("ggn", "hessian")
    )
    rows = {
        "change of the star's own labels": (before - own, before - said),
        "residuals left out": (truth - own, truth - said),
        f"changes of {N_NEW} other stars": (flatten(moved), flatten(by_ggn)),
        "the same by the exact Hessian": (flatten(moved), flatten(by_hessian)),
    }
    for what, (real, expected) in rows.items():
        print(f"| {noise} | {what} | {compare(real, expected)} | {max(left):.0e} |", flush=True)


def flatten(changes):
    """Changes (star, label, training star) as (change, label)."""
    return changes.transpose(0, 2, 1).reshape(-1, changes.shape[1])


def find_z(labels, left_out):
    """Residuals of stars left out over their errors (star, label)."""
    return np.nan_to_num(np.abs(labels - left_out.labels) / left_out.errors)


def plant(stars, how, scatter):
    """Stars with wrong labels, and which (star,) they are."""
    rng = np.random.default_rng(3)
    planted = rng.choice(len(stars), N_PLANTED, replace=False)
    known = ~np.isnan(stars.labels[planted])
    label = np.array([rng.choice(np.flatnonzero(row)) for row in known])
    labels = stars.labels.copy()
    if how == "another star's":
        labels[planted, label] = stars.labels[rng.permutation(len(stars))[:N_PLANTED], label]
    else:
        labels[planted, label] = stars.labels[planted, label] + float(how) * scatter[label]
    return replace(stars, labels=labels), planted


def clean(stars, noise):
    """The stars without their suspicious labels, each with one label at least."""
    z = find_z(stars.labels, fit(stars, noise).leave_one_out())
    labels = np.where(z > SUSPICIOUS, np.nan, stars.labels)
    return replace(stars, labels=labels)[~np.isnan(labels).all(axis=1)]


def generate(_):
    """As many stars as MILES has, with normal noise in their labels."""
    rng = np.random.default_rng(4)
    stars = ss.datasets.generated_stars(
        len(read_stars()), n_pixels=300, snr=100, wavelength_range=(5150, 5300), rng=rng
    )
    noise = NOISE * rng.normal(size=stars.labels.shape)
    return replace(stars, labels=stars.labels + noise)


DATA = {
    "MILES": (lambda _: read_stars(), ("5", "10", "20", "another star's")),
    "MILES, cleaned": (lambda noise: clean(read_stars(), noise), ("5", "10")),
    "generated": (generate, ("5",)),
}


def run_planted(noises):
    print(
        "| data | noise | planted | find_outliers | left out | at best | beyond 3: planted, all |"
    )
    print("|---|---|---|---:|---:|---:|---|")
    for noise in noises:
        for data, (make, kinds) in DATA.items():
            stars = make(noise)
            before = fit(stars, noise).leave_one_out()
            scatter = ss.sigma_mad(stars.labels - before.labels)
            for how in kinds:
                counts = count_found(noise, before, *plant(stars, how, scatter))
                print(f"| {data} | {noise} | {how} | {counts} |", flush=True)


def count_found(noise, before, stars, planted):
    laplace = fit(stars, noise)
    z = find_z(stars.labels, laplace.leave_one_out()).max(axis=1)
    at_best = find_z(stars.labels, before).max(axis=1)
    table = ss.find_outliers(laplace, stars, n_worst=stars.labels.size)
    _, first = np.unique(table.star, return_index=True)
    ranked = (table.star[np.sort(first)], np.argsort(-z), np.argsort(-at_best))
    found = " | ".join(str(np.isin(planted, order[:N_PLANTED]).sum()) for order in ranked)
    return f"{found} | {np.sum(z[planted] > SUSPICIOUS)}, {np.sum(z > SUSPICIOUS)}"


def calibrate(prediction, truth, fold):
    """The prediction with the noise of the other folds' stars."""
    parts = []
    for k in range(FOLDS):
        noise = ss.fit_noise(prediction.select(fold != k), truth[fold != k])
        parts.append(prediction.select(fold == k).with_noise(noise))
    return join_held_out(parts, fold)


def run_coverage(noises):
    print("| noise | of | how | in 68 % | in 95 % | scatter | model's part of the error |")
    print("|---|---|---|---|---|---|---|")
    for noise in noises:
        stars, laplace = read_stars(), fit_all(noise)
        refits = ss.validate(stars, folds=FOLDS, n_workers=1, progress=False, **find_options(noise))
        predictions = {
            "left out": laplace.leave_one_out(),
            "folds left out": laplace.leave_one_out(groups=refits.fold),
            "five networks": refits.prediction,
        }
        for how, found in predictions.items():
            calibrated = calibrate(found, stars.labels, refits.fold)
            for of, one in (("evidence", found), ("other folds", calibrated)):
                inside = ss.coverage(one, stars.labels)
                scatter = ss.sigma_mad(stars.labels - one.labels)
                model = np.sqrt(np.median(np.einsum("ncc->nc", one.model_cov), axis=0))
                print(
                    f"| {noise} | {of} | {how} | {join(inside[0], '.3f')} |"
                    f" {join(inside[1], '.3f')} | {join(scatter, '.3g')} | {join(model, '.3g')} |",
                    flush=True,
                )


PARTS = {"refits": run_refits, "planted": run_planted, "coverage": run_coverage}


def main(words):
    noises = [word for word in words if word in DOFS] or list(DOFS)
    for name in [word for word in words if word in PARTS] or PARTS:
        begin = time.perf_counter()
        PARTS[name](noises)
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
