"""Outputs of every kind on a disk with too little space: whole, or absent with one plain error.

    sudo .venv/bin/python tests/bench/fuzz_disk_full.py [STEPS [KIND ...]]

Each kind is written STEPS times (default 60) to a tmpfs of 4 MB, with free space that grows from
nothing to more than the file takes; each is a process of its own, since a library may end it. A
trial fails if the process ends by a signal, if the error is none of symspec's own or does not name
the file and the free space, if a temporary file is left, or if a file is there that is not the one
written where there is room. `symspec train` must keep its model elsewhere.
"""

import os
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

STEPS = 60
SIZE = 4 * 2**20
KINDS = {
    "network": "network.h5",
    "posterior": "model.h5",
    "FITS": "catalogue.fits",
    "FITS, packed": "catalogue.fits.gz",
    "ECSV": "catalogue.ecsv",
    "HDF5": "catalogue.h5",
    "NetCDF": "catalogue.nc",
    "star table": "stars.csv",
    "draws": "draws.nc",
    "figure": "figure.png",
    "jacobian": "jacobian.h5",
    "symspec train": "trained.h5",
}


def build():
    """A posterior and its prediction, of files of some hundred kilobytes."""
    import symspec as ss

    stars = ss.datasets.generated_stars(400, n_pixels=40, snr=100, rng=np.random.default_rng(0))
    net = ss.standardized(ss.mlp([40, 8, 3], activation="tanh"), stars.flux, stars.labels)
    reg = ss.Regression(net, sigma_noise=1.0, prior_precision=1.0)
    theta = net.init_params(np.random.default_rng(1))
    laplace = ss.fit_laplace(
        reg, theta, stars.flux, stars.labels, require_minimum=False, progress=False
    )
    return stars, laplace


def write(kind, path, stars, laplace):
    import xarray as xr
    from matplotlib.figure import Figure

    import symspec as ss
    from symspec.reports.plots import save_figure
    from symspec.reports.star_tables import write_draws, write_star_table

    if kind == "network":
        ss.write_network(path, laplace.reg.net, laplace.theta, reg=laplace.reg)
    elif kind == "posterior":
        ss.write_laplace(path, laplace)
    elif kind == "star table":
        write_star_table(path, {"X": np.arange(20_000) / 7}, None, {})
    elif kind == "draws":
        theta = np.random.default_rng(0).normal(size=(4, 50, 200))
        dataset = xr.Dataset({"theta": (("chain", "draw", "param"), theta)})
        write_draws(path, xr.DataTree.from_dict({"posterior": dataset}))
    elif kind == "figure":
        figure = Figure()
        figure.subplots().imshow(np.random.default_rng(0).normal(size=(300, 300)))
        save_figure(figure, path)
    elif kind == "jacobian":
        ss.write_jacobian(path, laplace.reg.net, laplace.theta, stars, progress=False)
    else:
        prediction = laplace.predict(stars.flux, progress=False)
        ss.write_catalogue(path, prediction, stars.ids)


def try_all(kind, folder, n_steps):
    """Fill the disk but for more and more, and write each time."""
    from symspec.errors import DiskFullError

    stars, laplace = build()
    name = KINDS[kind]
    with tempfile.TemporaryDirectory() as roomy:
        write(kind, Path(roomy) / name, stars, laplace)
        expected = (Path(roomy) / name).read_bytes()
    path = folder / name
    partial = folder / f"{name}.partial"  # of long runs, which go on from it
    failed = []
    for free in np.linspace(0, 1.3 * len(expected) + 40_000, n_steps).astype(int).tolist():
        with filled(folder, free):
            try:
                write(kind, path, stars, laplace)
                if path.read_bytes() != expected:
                    failed.append((free, "other bytes"))
            except DiskFullError as error:
                words = str(error)
                if str(folder) not in words or not re.search(r"[\d,]+ bytes are free", words):
                    failed.append((free, words))
                if path.exists():
                    failed.append((free, "half a file"))
            except Exception as error:
                failed.append((free, repr(error)))
            path.unlink(missing_ok=True)
            if left := [p.name for p in folder.rglob(".*")]:
                failed.append((free, f"left {left}"))
        for left in (*folder.rglob(".*"), *partial.glob("*")):
            left.unlink()
        if partial.exists():
            partial.rmdir()
    print(len(failed), failed[:3])


def train_all(folder, n_steps):
    """`symspec train`, whose model is kept elsewhere."""
    stars, _ = build()
    failed = []
    with tempfile.TemporaryDirectory() as roomy:
        spectra = Path(roomy) / "stars.npz"
        np.savez(spectra, flux=stars.flux, labels=stars.labels, label_names=stars.label_names)
        command = [sys.executable, "-m", "symspec.cli", "train", str(spectra)]
        command += [str(folder / "trained.h5"), "--hidden", "32", "--epochs", "1", "--no-tune"]
        for free in np.linspace(0, 60_000, n_steps).astype(int).tolist():
            with filled(folder, free):
                environment = os.environ | {"TMPDIR": roomy}
                end = subprocess.run(command, env=environment, capture_output=True, text=True)
                kept = list(Path(roomy).glob("symspec-*/trained.h5"))
                if end.returncode != 1 or len(kept) != 1 or list(folder.glob("*trained*")):
                    failed.append((free, end.returncode, end.stderr[-300:]))
            for path in kept:
                path.unlink()
                path.parent.rmdir()
            (folder / "trained.h5").unlink(missing_ok=True)
    print(len(failed), failed[:3])


@contextmanager
def filled(folder, free):
    """A disk with this many bytes free."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, SIZE - 2**16 - free // 4096 * 4096 - 4096)
        status = os.statvfs(folder)
        rest = status.f_bavail * status.f_bsize - free // 4096 * 4096
        if rest > 0:
            size = os.fstat(file.fileno()).st_size
            os.posix_fallocate(file.fileno(), size, rest)
    try:
        yield
    finally:
        ballast.unlink()


def main(n_steps, kinds):
    if os.geteuid():
        print("skipped: only root may mount a tmpfs")
        return
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    print(f"{'kind':16} | tried | failed")
    total = 0
    for kind in kinds:
        n = min(n_steps, 6) if kind == "symspec train" else n_steps
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], check=True
            )
            try:
                end = subprocess.run(
                    [sys.executable, __file__, "child", kind, folder, str(n)],
                    capture_output=True, text=True, env=environment, timeout=1200,
                )  # fmt: skip
            finally:
                subprocess.run(["umount", folder], check=True)
        n_failed = n
        why = f"ended with {end.returncode}: {end.stderr[-500:]}"
        if end.returncode == 0:
            first, why = end.stdout.strip().splitlines()[-1].split(" ", 1)
            n_failed = int(first)
        total += n_failed
        print(f"{kind:16} | {n:5} | {n_failed:6} {why if n_failed else ''}", flush=True)
    sys.exit(total > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        kind, folder, n = sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
        train_all(folder, n) if kind == "symspec train" else try_all(kind, folder, n)
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS, sys.argv[2:] or KINDS)
