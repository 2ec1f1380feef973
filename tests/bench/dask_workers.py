"""Two worker processes of one thread each against one process: rates, the same bytes, and kills.

    python tests/bench/dask_workers.py FOLDER [N_STARS]   # 100,000: half an hour, 4 GB on disk

The spectra are those of `survey.py`, the network is wider: with the smaller one there, reading a
star takes an eighth of the time of its error bars, and one process reads on the second core. One
process is measured as it chooses its threads, and with one. The workers read the file themselves,
and once more are sent spectra from the memory of this process. Bytes are compared with those of one
thread: more add up in other portions, which changes last digits. `processor` are seconds of all
processes, of which two idle cores take at least half. A worker is killed in the middle of a piece,
in a survey and in fits; all catalogues have to be the same byte by byte, and all fits to 1e-12.
"""

import hashlib
import sys
import time
from pathlib import Path

import numpy as np
import survey as spectra_of
from distributed import Client, LocalCluster
from threadpoolctl import threadpool_limits

import symspec as ss

sys.path.insert(0, str(Path(__file__).parents[1] / "workers"))

from killing import KillNext

HIDDEN, N_FIT, N_FIT_PIXELS = [512, 64], 20_000, 1500
MOST_SENT = 20_000  # stars of a survey from memory


class KillLater:
    """Progress that asks for a kill once a third is done."""

    def __init__(self, flag):
        self.flag = flag
        self.is_asked = False

    def __call__(self, stage, done, total, **news):
        if not self.is_asked and total and 3 * done >= total:
            self.is_asked = True
            Path(self.flag).touch()


class Clock:
    """Seconds, and seconds of processors, that a block takes in this process and the workers."""

    def __init__(self, client):
        self.client = client

    def __enter__(self):
        self.processor = self.find_processor()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self.start
        self.processor = self.find_processor() - self.processor

    def find_processor(self):
        return time.process_time() + sum(self.client.run(time.process_time).values())


def show(work, clock, n_stars, first, same):
    rate = n_stars / clock.seconds
    processor = "" if "killed" in work else f"{clock.processor:.1f}"  # the dead do not tell
    print(
        f"| {work} | {clock.seconds:.1f} | {processor} | {rate:.0f} | {rate / first:.2f}"
        f" | {same} |",
        flush=True,
    )


def survey(folder, spectra, client, **options):
    """Time, and digest of the catalogue, of a posterior that is read anew."""
    path = folder / "catalogue.fits"
    path.unlink(missing_ok=True)
    laplace = ss.read_laplace(folder / "model.h5")
    options = {"progress": False} | options
    with Clock(client) as clock:
        ss.predict_survey(path, laplace, spectra, restart=True, **options)
    return clock, hashlib.sha256(path.read_bytes()).hexdigest()


def measure_surveys(folder, client, flag, n_stars):
    spectra = folder / f"stars_{n_stars}_0.h5"
    spectra_of.HIDDEN = HIDDEN
    if not (folder / "model.h5").exists():
        spectra_of.make_model(folder / "model.h5")
    if not spectra.exists():
        spectra_of.make_spectra(spectra, n_stars, 0.0)
    print("| survey | s | processor s | spectra a second | to the first | same bytes |")
    print("|---|---:|---:|---:|---:|---|")
    with threadpool_limits(1):
        clock, expected = survey(folder, spectra, client)
    one = n_stars / clock.seconds
    show("one process, one thread", clock, n_stars, one, "")
    clock, found = survey(folder, spectra, client)
    show("one process, its own choice of threads", clock, n_stars, one, found == expected)
    clock, found = survey(folder, spectra, client, scheduler=client)
    show("two workers", clock, n_stars, one, found == expected)
    assert found == expected
    with ss.open_spectra(spectra) as file:
        stars = file.read(slice(0, MOST_SENT))
    clock, _ = survey(folder, stars, client, scheduler=client)
    show("two workers, sent from memory", clock, len(stars), one, "")
    killer = KillLater(flag)
    clock, found = survey(folder, spectra, client, scheduler=client, progress=killer)
    assert killer.is_asked
    assert not Path(flag).exists()
    show("two workers, one killed", clock, n_stars, one, found == expected)
    assert found == expected


def measure_fits(client, flag, n_stars):
    rng = np.random.default_rng(0)
    stars = ss.datasets.generated_stars(n_stars, n_pixels=N_FIT_PIXELS, rng=rng)
    net = ss.mlp([N_FIT_PIXELS, 64, 32, 3])
    net = ss.standardized(net, stars.flux, stars.labels)
    prior = ss.scaled_prior(net, 1.0)
    reg = ss.Regression(net, sigma_noise=[50.0, 0.1, 0.05], prior_precision=prior)
    theta = net.init_params(rng)

    def fit(structure, **options):
        options = {"progress": False, "require_minimum": False} | options
        X, Y = stars.flux, stars.labels
        with Clock(client) as clock:
            laplace = ss.fit_laplace(reg, theta, X, Y, structure=structure, **options)
        return clock, laplace

    def compare(laplace, expected):
        arrays = laplace.inverse_hessian.arrays()
        apart = max(
            np.max(np.abs(arrays[name] - array)) / np.max(np.abs(array))
            for name, array in expected.inverse_hessian.arrays().items()
            if name.endswith(("precision", "cholesky"))
        )
        evidence = laplace.log_marginal_likelihood(), expected.log_marginal_likelihood()
        apart = max(apart, abs(evidence[0] / evidence[1] - 1))
        assert apart < 1e-12
        return f"{apart:.1g}"

    print("\n| fit | s | processor s | spectra a second | to the first | apart |")
    print("|---|---:|---:|---:|---:|---|")
    for structure in ("kronecker", "diagonal", "last_layer"):
        with threadpool_limits(1):
            clock, expected = fit(structure)
        one = n_stars / clock.seconds
        show(f"{structure}, one process, one thread", clock, n_stars, one, "")
        clock, laplace = fit(structure, scheduler=client)
        show(f"{structure}, two workers", clock, n_stars, one, compare(laplace, expected))
        killer = KillLater(flag)
        clock, laplace = fit(structure, scheduler=client, progress=killer)
        assert killer.is_asked
        assert not Path(flag).exists()
        apart = compare(laplace, expected)
        show(f"{structure}, two workers, one killed", clock, n_stars, one, apart)


def main(folder, n_stars):
    folder.mkdir(parents=True, exist_ok=True)
    flag = str((folder / "kill").resolve())
    Path(flag).unlink(missing_ok=True)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=None, dashboard_address=None
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(KillNext(flag))
        measure_surveys(folder, client, flag, n_stars)
        measure_fits(client, flag, min(n_stars, N_FIT))


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(Path(sys.argv[1]), int(given.get(2, 100_000)))
