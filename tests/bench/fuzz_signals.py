"""SIGINT and SIGTERM at random moments: commands and long calls end at once, and nothing is lost.

    .venv/bin/python tests/bench/fuzz_signals.py [N_SIGINT [N_SIGTERM [SEED [KIND ...]]]]

By default 100 SIGINT and 50 SIGTERM over the commands train, errors, jacobian, hmc and audit, and
over fit_laplace and tune in a script. A trial fails if the process does not end within 2 s of the
signal, if its exit code is not 130 or 143 (0 where the work was done), if a command says anything
but one line, if a temporary file or half an output is left, or if the same command again, where it
is promised to resume, ends with other bytes.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ALLOWED = 2.0  # seconds, from the signal to the end of the process
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
COMMANDS = {
    "train": ["train", "small.npz", "OUT/out.h5", "--hidden", "32", "--epochs", "40"],
    "errors": ["errors", "wide.h5", "many.npz", "OUT/out.fits"],
    "jacobian": ["jacobian", "wide.h5", "many.npz", "OUT/out.h5", "--compression", "none"],
    "hmc": ["hmc", "small.h5", "small.npz", "OUT/out.nc", "--draws", "200", "--tune", "200"],
    "audit": ["audit", "small.h5", "small.npz", "--output", "OUT/out.ecsv", "--n-sample", "100"],
}
SCRIPTS = {
    "fit_laplace": "lap = ss.fit_laplace(reg, theta, stars, require_minimum=False, resume='OUT/f')",
    "tune": "reg, theta = ss.tune(reg, theta, stars)",
}
SCRIPT = """
import sys
import symspec as ss
try:
    reg, theta = ss.read_regression("small.h5")
    stars = ss.read_spectra("small.npz")
    print("begins", flush=True)
    while True:
        {call}
except KeyboardInterrupt:
    sys.exit(130)
"""
RESUMING = ("errors", "jacobian")


def prepare(folder):
    """Spectra and models in `folder`."""
    import symspec as ss

    for name, n_stars, n_pixels in (("small", 150, 25), ("wide", 300, 400)):
        stars = ss.datasets.generated_stars(
            n_stars, n_pixels=n_pixels, snr=100, rng=np.random.default_rng(0)
        )
        net = ss.mlp(
            [n_pixels, 6, stars.n_labels], activation="tanh", label_names=stars.label_names
        )
        net = ss.standardized(net, stars.flux, stars.labels)
        reg = ss.Regression(
            net, sigma_noise=0.3 * stars.labels.std(axis=0), prior_precision=ss.scaled_prior(net, 1)
        )
        fit = ss.train(reg, stars, epochs=20, rng=np.random.default_rng(1), progress=False)
        lap = ss.fit_laplace(reg, fit.theta, stars, require_minimum=False, progress=False)
        ss.write_laplace(folder / f"{name}.h5", lap)
        np.savez(
            folder / f"{name}.npz",
            flux=stars.flux,
            ivar=stars.ivar,
            labels=stars.labels,
            label_names=stars.label_names,
        )
    times = 40
    np.savez(
        folder / "many.npz",
        flux=np.tile(stars.flux, (times, 1)),
        ivar=np.tile(stars.ivar, (times, 1)),
    )


def start(kind, folder, out):
    out.mkdir(exist_ok=True)
    if kind in COMMANDS:
        words = [word.replace("OUT", out.name) for word in COMMANDS[kind]]
        command = [sys.executable, "-m", "symspec.cli", *words]
    else:
        call = SCRIPTS[kind].replace("OUT", out.name)
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT.format(call=call)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def find_output(out):
    return next((path for path in out.glob("out.*") if path.is_file()), None)


def try_once(kind, number, folder, out, seconds, rng, reference):
    """What failed, or nothing, and the seconds from the signal to the end."""
    process = start(kind, folder, out)
    if kind in SCRIPTS:
        process.stdout.readline()  # a signal before is Python's own affair
    time.sleep(rng.uniform(0.3, max(1.0, seconds)))
    begin = time.monotonic()
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "hangs", 30.0
    took = time.monotonic() - begin
    failures = [f"took {took:.1f} s"] if took > ALLOWED else []
    failures += check_end(kind, number, process.returncode, said)
    failures += check_files(kind, out, reference)
    if kind in RESUMING and find_output(out) is None:
        again = start(kind, folder, out)
        _, said = again.communicate()
        if again.returncode or find_output(out).read_bytes() != reference:
            failures.append(f"resumed to other bytes: {said[-300:]}")
    return "; ".join(failures), took


def check_end(kind, number, code, said):
    failures = []
    is_killed = kind in SCRIPTS and code == -number and number == signal.SIGTERM
    if code not in (0, CODES[number]) and not is_killed:
        failures.append(f"code {code}")
    lines = [line for line in said.splitlines() if line.startswith("Interrupted:")]
    if "Traceback" in said or (kind in COMMANDS and code and len(lines) != 1):
        failures.append(f"said {said[-800:]!r}")
    return failures


def check_files(kind, out, reference):
    failures = []
    if left := [p.name for p in out.rglob(".*")]:
        failures.append(f"left {left}")
    path = find_output(out)
    if path is not None and kind == "hmc":
        failures += check_draws(path)
    elif path is not None and path.read_bytes() != reference:
        failures.append("half an output")
    return failures


def check_draws(path):
    import xarray as xr

    try:
        with xr.open_datatree(path, engine="h5netcdf") as draws:
            ok = bool(np.isfinite(draws["posterior"]["f"].values).all())
    except Exception as error:
        return [f"draws: {error!r}"]
    return [] if ok else ["draws that are not finite"]


def clear(out):
    for path in sorted(out.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def main(n_int, n_term, seed, kinds):
    rng = np.random.default_rng(seed)
    counts = {kind: [0, 0, 0.0] for kind in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        out = folder / "out"
        seconds = {}
        references = {}
        for kind in kinds:
            if kind in SCRIPTS:
                seconds[kind] = 8.0
                continue
            begin = time.monotonic()
            process = start(kind, folder, out)
            _, said = process.communicate()
            if process.returncode:
                raise SystemExit(f"{kind} fails undisturbed: {said}")
            seconds[kind] = time.monotonic() - begin
            references[kind] = find_output(out).read_bytes()
            clear(out)
        print({kind: round(s, 1) for kind, s in seconds.items()}, flush=True)
        numbers = [signal.SIGINT] * n_int + [signal.SIGTERM] * n_term
        for i, number in enumerate(numbers):
            kind = kinds[i % len(kinds)]
            failure, took = try_once(
                kind, number, folder, out, seconds[kind], rng, references.get(kind)
            )
            clear(out)
            counts[kind][0] += 1
            counts[kind][1] += bool(failure)
            counts[kind][2] = max(counts[kind][2], took)
            if failure:
                print(f"  {kind}, {number.name}: {failure}", flush=True)
    print(f"{'kind':12} | tried | failed | slowest end [s]")
    for kind, (tried, failed, slowest) in counts.items():
        print(f"{kind:12} | {tried:5} | {failed:6} | {slowest:.2f}")
    sys.exit(any(failed for _, failed, _ in counts.values()))


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:4]]
    defaults = [100, 50, 0]
    main(*numbers, *defaults[len(numbers) :], sys.argv[4:] or [*COMMANDS, *SCRIPTS])
