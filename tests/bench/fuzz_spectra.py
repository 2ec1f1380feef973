"""Damaged files of spectra, networks of other programs and catalogues: an error, or numbers, soon.

    python tests/bench/fuzz_spectra.py [N_EACH [SEED [KIND ...]]]

N_EACH mutants (default 110) of each kind of file are read by a worker that has 1 GB of memory
beyond what it has at first, and is ended after 5 s. Allowed are an error of symspec's own, the same
numbers, and other numbers, as most of these formats have no checksums. Failed is whatever else a
library raises, a hang, too much memory, and a crash of the worker.
"""

import gzip
import hashlib
import importlib
import itertools
import multiprocessing
import resource
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[1]
FOLDERS = ("", "spectra/readers", "files/importers", "files")
sys.path[:0] = [str(TESTS / folder) for folder in FOLDERS]

SECONDS = 5.0
MEMORY = 2**30
ALLOWED = ("own error", "same", "other numbers")
FAULTS = ("raw error", "hang", "memory", "crash")
TOKENS = (
    b"0",
    b"-1",
    b"9999999999",
    b"nan",
    b"1e999",
    b"''",
    b"T",
    b" ",
    b"/",
    b"=",
    b"\xff\xff\xff\xff",
)


# --- good files


def make(folder):
    """One good file of each kind, by name."""
    make_fits(folder)
    make_arrays(folder)
    make_networks(folder)
    make_catalogues(folder)
    return sorted(folder.iterdir())


def make_fits(folder):
    from astropy.io import fits
    from astropy.table import Table
    from fits_writing import FLUX, IVAR, LABELS, SIGMA, WAVELENGTH, image, write

    grid = {"CRVAL1": 5000.0, "CDELT1": 2.0, "CRPIX1": 1, "CTYPE1": "WAVE"}
    mask = (FLUX > 1.2).astype(np.int16)
    labels = fits.BinTableHDU(Table({"TEFF": LABELS[:, 0], "id": [f"s{i}" for i in range(6)]}))
    images = [image(FLUX, primary=True, **grid), image(IVAR, "IVAR"), image(mask, "MASK"), labels]
    write(folder / "fits image", *images)
    write(folder / "fits packed", *images, compressed=True)
    scaled = fits.ImageHDU(np.arange(300, dtype=np.int16).reshape(6, 50))
    scaled.header.update({"BSCALE": 0.01, "BZERO": 5.0, "BLANK": 7, "EXTNAME": "FLUX"})
    write(folder / "fits scaled", scaled, image(SIGMA, "SIGMA"), image(WAVELENGTH, "WAVELENGTH"))
    table = Table({"flux": FLUX, "ivar": IVAR, "id": np.arange(6), "TEFF": LABELS[:, 0]})
    table["wavelength"] = np.tile(WAVELENGTH, (6, 1))
    write(folder / "fits table", fits.BinTableHDU(table))
    rows = np.tile(FLUX[0], (4, 1))
    apogee = {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR", "DC_FLAG": 1}
    primary = fits.PrimaryHDU()
    primary.header.update({"NVISITS": 2, "OBJID": "2M0", "SFILE1": "x"})
    parts = [image(rows, **apogee), image(0.1 + 0 * rows, **apogee)]
    write(folder / "fits apstar", primary, *parts, image(np.zeros(rows.shape, np.int16), **apogee))
    chips = np.linspace(17000, 15100, 150).reshape(3, 50)
    visit = [np.ones((3, 50)), np.full((3, 50), 0.1), np.zeros((3, 50), np.int16), chips]
    write(folder / "fits apvisit", *map(fits.ImageHDU, visit))


def make_arrays(folder):
    import h5py
    from fits_writing import FLUX, IVAR, LABELS, WAVELENGTH

    arrays = {"flux": FLUX, "ivar": IVAR, "wavelength": WAVELENGTH, "labels": LABELS}
    words = {"label_names": np.array(["TEFF", "y"]), "ids": np.array([f"s{i}" for i in range(6)])}
    for name, write in (("npz", np.savez), ("npz packed", np.savez_compressed)):
        with (folder / name).open("wb") as stream:
            write(stream, **arrays, **words)
    with (folder / "npy").open("wb") as stream:
        np.save(stream, FLUX)
    with h5py.File(folder / "hdf5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file["label_names"] = ["TEFF", "y"]
    with h5py.File(folder / "hdf5 packed", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", shuffle=True)
        file["ids"] = np.array([f"s{i}" for i in range(6)], "S")
    lines = [",".join(["id", "TEFF", *map(str, WAVELENGTH)])]
    lines += [",".join([f"s{i}", str(LABELS[i, 0]), *map(str, FLUX[i])]) for i in range(6)]
    (folder / "csv").write_text("\n".join(lines))


def make_networks(folder):
    from network_files import (
        NAMES,
        SIZES,
        chain,
        functional,
        payne_arrays,
        sequential,
        torch_arrays,
        write_h5,
        write_keras,
        write_pt,
        write_safe,
    )
    from onnx_graphs import save, spectral_model

    rng = np.random.default_rng(1)
    pairs = itertools.pairwise(SIZES)
    layers = [(rng.normal(size=s).astype("f4"), rng.normal(size=s[1]).astype("f4")) for s in pairs]
    arrays = dict(zip(NAMES, layers, strict=True))
    write_h5(folder / "network keras h5", sequential(*chain()), arrays)
    write_keras(folder / "network keras", functional(*chain()), arrays)
    write_pt(folder / "network torch", torch_arrays(layers))
    write_safe(folder / "network safetensors", torch_arrays(layers))
    save(spectral_model(rng)[1], folder / "network onnx")
    with (folder / "network payne").open("wb") as stream:
        np.savez(stream, **payne_arrays(rng))


def make_catalogues(folder):
    from catalogue_cases import build_flagged

    import symspec as ss

    for suffix in (".fits", ".ecsv", ".h5", ".nc"):
        path = folder / f"x{suffix}"
        ss.write_catalogue(path, build_flagged(), ["a", "b", "c", "d"])
        path.rename(folder / f"catalogue {suffix[1:]}")


# --- damage


def mutate(content, rng):
    """Damage some bytes, in one of several ways."""
    data = bytearray(content)
    # headers are where most can go wrong
    near = int(
        rng.integers(min(len(data), 4000)) if rng.random() < 0.6 else rng.integers(len(data))
    )
    kind = rng.integers(8)
    size = int(rng.integers(1, 64))
    if kind == 0:
        data[near] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        for place in rng.integers(len(data), size=int(rng.integers(1, 20))):
            data[place] = int(rng.integers(256))
    elif kind == 2:
        del data[near:]
    elif kind == 3:
        data[near : near + size] = bytes(len(data[near : near + size]))
    elif kind == 4:
        other = int(rng.integers(len(data)))
        data[near : near + size] = data[other : other + size]
    elif kind == 5:
        token = TOKENS[rng.integers(len(TOKENS))]
        data[near : near + len(token)] = token
    elif kind == 6:
        del data[near : near + size]
    else:
        digits = [i for i in range(len(data)) if 48 <= data[i] <= 57] or [near]
        data[digits[rng.integers(len(digits))]] = int(rng.integers(48, 58))
    return bytes(data)


def mutate_file(path, rng):
    """Damage a file; one packed by gzip under its packing, half of the time."""
    content = path.read_bytes()
    if path.name == "fits packed" and rng.random() < 0.5:
        return gzip.compress(mutate(gzip.decompress(content), rng), 1)
    return mutate(content, rng)


# --- reading


def read(kind, path):
    """Digest of what a file holds."""
    import symspec as ss

    digest = hashlib.sha256()
    if kind.startswith("network"):
        from symspec.files.importers.descriptions import describe_file, is_foreign_network

        options = {}
        if kind.endswith(("torch", "safetensors")):  # which hold no layers
            options["net"] = ss.mlp([7, 5, 5, 5, 2], activation="tanh")
        if kind.endswith("payne"):
            options["activation"] = "leaky_relu"
        net, theta = ss.read_network(path, **options)
        digest.update(np.ascontiguousarray(net(theta, np.ones((2, net.n_pixels))).eval()))
        if is_foreign_network(path):
            describe_file(path)
        return digest.hexdigest()
    with ss.open_spectra(path) as file:
        ids = file.read_ids()
        whole = file.read()
        half = file.read(slice(0, file.n_stars, 2))
    for stars in (whole, half):
        for array in (stars.flux, stars.ivar, stars.wavelength, stars.labels):
            digest.update(b"" if array is None else np.ascontiguousarray(array))
    digest.update(repr((ids, whole.label_names, whole.label_units, whole.wavelength_unit)).encode())
    return digest.hexdigest()


def judge(kind, path, right):
    """What became of one file, and the words of an error."""
    import symspec as ss

    try:
        found = read(kind, path)
    except ss.SymspecError as error:
        return "own error", str(error)
    except MemoryError as error:
        return "memory", repr(error)
    except Exception as error:  # the fault looked for
        return "raw error", f"{type(error).__name__}: {error}"
    return ("same" if found == right else "other numbers"), found


def work(pipe):
    """Judge files that come through the pipe, in limited memory."""
    importlib.import_module("symspec.files.importers.read")  # counts as memory at first
    warnings.simplefilter("ignore")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * MEMORY, used + 2 * MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while task := pipe.recv():
        verdict = judge(*task)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if after - before > MEMORY / 1024:
            verdict = "memory", f"{(after - before) / 2**20:.1f} GB"
        pipe.send(verdict)


class Worker:
    """A process that judges files one after the other, and is replaced if it hangs or crashes."""

    def __init__(self):
        self.process = None

    def judge(self, *task, seconds=SECONDS):
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("spawn")
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=work, args=(other,), daemon=True)
            self.process.start()
            other.close()
            seconds = 120.0  # the first one imports
        self.pipe.send(task)
        try:
            if self.pipe.poll(seconds):
                verdict = self.pipe.recv()
                if verdict[0] == "memory":
                    self.stop()
                return verdict
        except EOFError:
            self.process.join()
            return "crash", f"exit code {self.process.exitcode}"
        self.stop()
        return "hang", f"more than {seconds:.0f} s"

    def stop(self):
        self.process.kill()
        self.process.join()


def main(n_each=110, seed=0, *kinds):
    counts = {}
    words = []
    worker = Worker()
    with tempfile.TemporaryDirectory() as name:
        good = Path(name) / "good"
        good.mkdir()
        mutant = Path(name) / "mutant"
        for path in make(good):
            if kinds and path.name not in kinds:
                continue
            rng = np.random.default_rng([int(seed), *path.name.encode()])
            verdict, right = worker.judge(path.name, path, "")
            if verdict == "own error" and not path.name.startswith(("catalogue", "npy")):
                words.append(f"{path.name}: the good file is refused, {right}")
            counts[path.name] = Counter()
            for i in range(int(n_each)):
                mutant.write_bytes(mutate_file(path, rng))
                verdict, why = worker.judge(path.name, mutant, right)
                counts[path.name][verdict] += 1
                if verdict not in ALLOWED:
                    words.append(f"{path.name} {i}: {verdict}, {why}")
    if worker.process is not None:
        worker.stop()
    print(*words, sep="\n")
    print_table(counts)


def print_table(counts):
    columns = ("tried", *ALLOWED, *FAULTS)
    print(f"{'kind':22}" + "".join(f"{column:>15}" for column in columns))
    counts["all"] = sum(counts.values(), Counter())
    for kind, found in counts.items():
        numbers = [found.total(), *(found[column] for column in columns[1:])]
        print(f"{kind:22}" + "".join(f"{number:15}" for number in numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])
