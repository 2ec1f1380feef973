"""symspec errors on a survey: memory, speed against predict alone, and kill -9 at five moments.

    python tests/bench/survey.py FOLDER [N_STARS [MASKED]]   # 5,000 stars; 100,000: 3 GB on disk

MASKED is the share of pixels that are missing, at random, 0 by default. With it, the same stars
are taken without a missing pixel, too: `rate of masked` is the ratio of the two rates, by processor
time and less what a survey of few stars takes, and should be at least a half.

The catalogue of a run that was killed has to be that of an undisturbed one, byte by byte.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np

import symspec as ss
from symspec.files.partial_runs import find_piece_size

N_PIXELS, HIDDEN, N_TRAIN, N_KILLS, MOST_GIB = 7214, [64, 32], 400, 5, 2.0
PIECE = 2000  # stars that are generated at once
FEW = 64  # stars whose survey takes no time but that to begin
COMMAND = [sys.executable, "-c", "from symspec.cli import main; main()", "errors"]


def make_spectra(path, n_stars, masked):
    """Flux in float32 of signal-to-noise ratios from 20 to 200, written piece by piece."""
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        flux = file.create_dataset("spectrum", (n_stars, N_PIXELS), "f4")
        packed = {"chunks": (64, N_PIXELS), "compression": "gzip", "compression_opts": 1}
        error = file.create_dataset("error_spectrum", (n_stars, N_PIXELS), "f4", **packed)
        labels = {
            name: file.create_dataset(name, (n_stars,), "f8") for name in ss.datasets.LABEL_NAMES
        }
        for first in range(0, n_stars, PIECE):
            rows = slice(first, min(first + PIECE, n_stars))
            snr = rng.uniform(20, 200)
            stars = ss.datasets.generated_stars(
                rows.stop - first, n_pixels=N_PIXELS, rng=rng, snr=snr
            )
            sigma = np.full(stars.flux.shape, 1 / snr)
            sigma[rng.random(sigma.shape) < masked] = 0  # no uncertainty: no information
            flux[rows], error[rows] = stars.flux, sigma
            for c, name in enumerate(labels):
                labels[name][rows] = stars.labels[:, c]
        file["IDs"] = np.array([f"star_{i}" for i in range(n_stars)], "S")
        file["wavelength"] = stars.wavelength


def make_model(path):
    rng = np.random.default_rng(0)
    stars = ss.datasets.generated_stars(N_TRAIN, n_pixels=N_PIXELS, rng=rng)
    net = ss.mlp(
        [N_PIXELS, *HIDDEN, 3], label_names=stars.label_names, label_units=stars.label_units
    )
    net = ss.standardized(net, stars.flux, stars.labels)
    reg = ss.Regression(
        net, sigma_noise=[50.0, 0.1, 0.05], prior_precision=ss.scaled_prior(net, 1.0)
    )
    theta = ss.train(reg, stars.flux, stars.labels, epochs=30, rng=rng, progress=False).theta
    laplace = ss.fit_laplace(
        reg, theta, stars.flux, stars.labels, structure="dual", require_minimum=False
    )
    ss.write_laplace(path, laplace, overwrite=True)


def predict_alone(model, spectra):
    """Stars a second of `predict` on spectra that are in memory."""
    laplace = ss.read_laplace(model)
    with ss.open_spectra(spectra) as file:
        stars = file.read(slice(0, find_piece_size(8 * N_PIXELS)))
    laplace.predict(stars.flux[:300], ivar=stars.ivar[:300])  # compiles
    start = time.monotonic()
    laplace.predict(stars.flux, ivar=stars.ivar, progress=False)
    return len(stars) / (time.monotonic() - start)


def run(words, kill_after=None):
    """Run the command, or kill it after so many pieces.

    Seconds, seconds of processors, and peak memory in GiB.
    """
    folder, start = words[-1].with_name(f"{words[-1].name}.partial"), time.monotonic()
    process = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if kill_after is not None:
        while len(list(folder.glob("stars_*.h5"))) < kill_after:
            time.sleep(0.01)
        time.sleep(random.random())  # somewhere in a piece
        process.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == (0 if kill_after is None else -signal.SIGKILL)
    processor = usage.ru_utime + usage.ru_stime
    return time.monotonic() - start, processor, usage.ru_maxrss / 2**20


def find_cost(folder, model, n_stars, masked):
    """Processor time of a star in milliseconds, and peak memory in GiB."""
    seconds = []
    for n in (FEW, n_stars):
        path = folder / f"stars_{n}_{masked:g}.h5"
        if not path.exists():
            make_spectra(path, n, masked)
        catalogue = folder / "rate.fits"
        catalogue.unlink(missing_ok=True)
        _, processor, memory = run([model, path, catalogue])
        seconds.append(processor)
    return 1e3 * (seconds[1] - seconds[0]) / (n_stars - FEW), memory


def main(folder, n_stars, masked):
    folder.mkdir(parents=True, exist_ok=True)
    model, spectra = folder / "model.h5", folder / f"stars_{n_stars}_{masked:g}.h5"
    if not model.exists():
        make_model(model)
    if not spectra.exists():
        make_spectra(spectra, n_stars, masked)
    catalogues = folder / "undisturbed.fits", folder / "killed.fits"
    for path in catalogues:
        path.unlink(missing_ok=True)
    alone = predict_alone(model, spectra)
    seconds, _, memory = run([model, spectra, catalogues[0]])
    n_pieces = -(-n_stars // find_piece_size(8 * N_PIXELS))
    moments = sorted(random.sample(range(n_pieces), min(N_KILLS, n_pieces)))
    peaks = [run([model, spectra, catalogues[1]], kill_after=n)[2] for n in moments]
    rest, _, peak = run([model, spectra, catalogues[1]])
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in catalogues]
    found = {
        "stars": n_stars,
        "masked": masked,
        "predict alone [stars/s]": alone,
        "undisturbed [s]": seconds,
        "undisturbed [stars/s]": n_stars / seconds,
        "peak memory [GiB]": max(memory, *peaks, peak),
        "killed after pieces": moments,
        "of pieces": n_pieces,
        "the rest [s]": rest,
        "catalogue [bytes]": catalogues[0].stat().st_size,
        "the same bytes": digests[0] == digests[1],
    }
    if masked:
        costs = {share: find_cost(folder, model, n_stars, share) for share in (0.0, masked)}
        found["processor time [ms a star], without and with masks"] = [c for c, _ in costs.values()]
        found["peak memory [GiB], without and with masks"] = [m for _, m in costs.values()]
        found["rate of masked"] = costs[0.0][0] / costs[masked][0]
    print(json.dumps(found, indent=1))
    assert found["the same bytes"]
    assert found["peak memory [GiB]"] < MOST_GIB


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(Path(sys.argv[1]), int(given.get(2, 5000)), float(given.get(3, 0)))
