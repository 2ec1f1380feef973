"""Damaged HDF5 files: an error of symspec's own, or the same numbers; soon, and in little memory.

    .venv/bin/python tests/bench/fuzz_archives.py [N_EACH [SEED [KIND ...]]]

N_EACH mutants (default 120) of archives of every structure and of other files that symspec writes
or reads: bits flipped, ends cut off, ranges set to zero, blocks exchanged. Each is read by a worker
with 1 GB of memory beyond what it has at first; more than 5 s is a hang. Archives have checksums,
so that other numbers are a fault, too ("silent"); spectra in HDF5 have none.
"""

import hashlib
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import h5py
import numpy as np

N_EACH = 120
SECONDS = 5.0
MEMORY = 2**30
STRUCTURES = (
    "primal",
    "dual",
    "kronecker",
    "ekfac",
    "diagonal",
    "last_layer",
    "low_rank",
    "krylov",
)
MIXTURE = "mixture"
OLD = "version 0.1"
UNCHECKED = (
    OLD,
    "spectra",
    "spectra of names",
    "catalogue",
    "jacobian",
)  # without checksums of all
OLD_FILE = Path(__file__).parents[1] / "files/files_of_version_0_1/posteriors/primal.h5"


def make(folder):
    """One good file of each kind."""
    import symspec as ss

    rng = np.random.default_rng(0)
    stars = ss.datasets.generated_stars(30, n_pixels=12, snr=100, rng=rng)
    names = stars.label_names
    net = ss.mlp([12, 4, len(names)], activation="tanh", label_names=names)
    net = ss.standardized(net, stars.flux, stars.labels)
    reg = ss.Regression(
        net, sigma_noise=0.3 * stars.labels.std(axis=0), prior_precision=ss.scaled_prior(net, 1)
    )
    theta = ss.train(reg, stars, epochs=3, rng=rng, progress=False).theta
    for structure in STRUCTURES:
        lap = ss.fit_laplace(
            reg, theta, stars, structure=structure, require_minimum=False, progress=False
        )
        ss.write_laplace(folder / structure, lap)
    alike = {"require_minimum": False, "progress": False}
    each = [ss.fit_laplace(reg, theta + 0.1 * k, stars, **alike) for k in range(2)]
    ss.write_laplace(folder / MIXTURE, ss.combine(each))
    shutil.copy(OLD_FILE, folder / OLD)
    ss.write_network(folder / "network", net, theta, reg=reg)
    prediction = ss.fit_laplace(reg, theta, stars, require_minimum=False).predict(stars.flux)
    ss.write_catalogue(folder / "c.nc", prediction, stars.ids)
    (folder / "c.nc").rename(folder / "catalogue")
    ss.write_jacobian(folder / "jacobian", net, theta, stars, progress=False)
    with h5py.File(folder / "spectra", "w") as file:
        file["flux"] = stars.flux
        file["ivar"] = stars.ivar
        file["labels"] = stars.labels
        file["label_names"] = np.array(names, "S")
    with h5py.File(folder / "spectra of names", "w") as file:
        file["flux"] = stars.flux
        file["labels"] = stars.labels
        file["label_names"] = list(names)
        file["label_units"] = list(stars.label_units)
        file.create_dataset("ids", data=[f"star {i}" for i in range(30)], compression="gzip")


def list_contents(lap):
    """Arrays and words of one posterior."""
    arrays = [lap.theta, *lap.inverse_hessian.arrays().values(), lap.flux_mean]
    arrays += [lap.label_range, *lap.reg.prior_precision.values()]
    arrays += [*lap.reg.noise.to_arrays().values(), lap.negative_log_posterior]
    return [*arrays, repr(lap.reg.net), repr(lap.certificate), lap.reason, lap.structure]


def read(kind, path):
    """Digest of all numbers of a file."""
    import symspec as ss
    from symspec.safety.hdf5_files import open_hdf5

    arrays = []
    if kind in (*STRUCTURES, OLD):
        arrays = list_contents(ss.read_laplace(path))
    elif kind == MIXTURE:
        combined = ss.read_laplace(path)
        arrays = [combined.weights]
        for one in combined.posteriors:
            arrays += list_contents(one)
    elif kind == "network":
        reg, theta = ss.read_regression(path)
        arrays = [theta, repr(reg.net), *reg.prior_precision.values()]
        arrays += [*reg.noise.to_arrays().values()]
    elif kind.startswith("spectra"):
        spectra = ss.read_spectra(path)
        arrays = [spectra.flux, spectra.ivar, spectra.labels, spectra.label_names, spectra.ids]
    else:
        with open_hdf5(path) as file:
            for name in file.names:
                try:
                    arrays.append(file.load(name))
                except ss.FileFormatError as error:
                    if "plain array" not in str(error) and "a dataset" not in str(error):
                        raise
    digest = hashlib.blake2b()
    for array in arrays:
        digest.update(np.asarray(array).tobytes() if not isinstance(array, str) else array.encode())
    return digest.hexdigest()


def mutate(content, rng):
    """A damaged copy, and how it was damaged."""
    content = bytearray(content)
    n = len(content)
    way = rng.choice(["bits", "bit", "end", "zeros", "blocks"])
    if way in ("bit", "bits"):
        for _ in range(1 if way == "bit" else 20):
            content[rng.integers(n)] ^= 1 << rng.integers(8)
    elif way == "end":
        del content[rng.integers(n) :]
    elif way == "zeros":
        start, size = rng.integers(n), rng.integers(1, 200)
        content[start : start + size] = bytes(len(content[start : start + size]))
    else:
        size = int(rng.choice([8, 16, 64, 512]))
        a, b = rng.integers(n // size, size=2) * size
        content[a : a + size], content[b : b + size] = (
            content[b : b + size], content[a : a + size],
        )  # fmt: skip
    return bytes(content), str(way)


def work(pipe):
    """Read one file after the other; a process of its own, which may be killed."""
    import symspec as ss

    warnings.simplefilter("ignore")
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    while True:
        try:
            kind, path = pipe.recv()
        except EOFError:
            return
        try:
            answer = "read", read(kind, path)
        except ss.SymspecError as error:
            is_ours = str(path) in " ".join([str(error), *getattr(error, "__notes__", ())])
            answer = ("refused", "") if is_ours else ("raw", f"no path: {error}")
        except BaseException as error:
            answer = "raw", repr(error)[:200]
        pipe.send(answer)


class Worker:
    """A process that is replaced when it dies or hangs."""

    def __init__(self):
        self.process = None

    def ask(self, kind, path):
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=work, args=(other,), daemon=True)
            self.process.start()
            other.close()
            self.ask("network", path.with_name("network"))  # what is imported late
        begin = time.monotonic()
        self.pipe.send((kind, path))
        seconds = 120 if path.name == "network" else SECONDS
        try:
            if self.pipe.poll(seconds):
                return (*self.pipe.recv(), time.monotonic() - begin)
            answer = "hang", ""
        except EOFError:
            answer = "crash", ""
        self.process.kill()
        self.process.join()
        self.process = None
        return (*answer, time.monotonic() - begin)


def main(n_each, seed, kinds):
    rng = np.random.default_rng(seed)
    worker = Worker()
    outcomes = ("refused", "same numbers", "other numbers", "silent", "raw", "hang", "crash")
    faults = 0
    tried = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        print(f"{'kind':17} | tried | failed | " + " | ".join(outcomes) + " | slowest [s]")
        for kind in kinds or [*STRUCTURES, MIXTURE, "network", *UNCHECKED]:
            content = (folder / kind).read_bytes()
            _, expected, _ = worker.ask(kind, folder / kind)
            counts = dict.fromkeys(outcomes, 0)
            slowest = 0.0
            for i in range(n_each):
                damaged, way = mutate(content, rng)
                path = folder / f"mutant {i}"
                path.write_bytes(damaged)
                outcome, found, took = worker.ask(kind, path)
                slowest = max(slowest, took)
                if outcome == "read":
                    is_checked = kind not in UNCHECKED
                    outcome = "silent" if is_checked else "other numbers"
                    outcome = "same numbers" if found == expected else outcome
                counts[outcome] += 1
                if outcome in ("silent", "raw", "hang", "crash"):
                    print(f"  {kind}, {way}: {outcome} {found}", flush=True)
                    path.rename(Path(tempfile.gettempdir()) / f"{outcome} {kind} {seed} {i}")
                else:
                    path.unlink()
            failed = sum(counts[outcome] for outcome in ("silent", "raw", "hang", "crash"))
            faults += failed
            tried += n_each
            row = " | ".join(f"{counts[o]:{len(o)}}" for o in outcomes)
            print(f"{kind:17} | {n_each:5} | {failed:6} | {row} | {slowest:.2f}", flush=True)
    print(f"{'all':17} | {tried:5} | {faults:6}")
    sys.exit(faults > 0)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:3]]
    main(*(*numbers, *(N_EACH, 0)[len(numbers) :]), sys.argv[3:])
