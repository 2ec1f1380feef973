"""Damaged pieces of long runs, and folders of other calls: the right numbers, or a word of refusal.

    python tests/bench/fuzz_pieces.py [NUMBER [SEED]]

Catalogues, derivatives, fits and predictions are interrupted; NUMBER times (default 200) a piece is
swapped, copied, shortened, rewritten or damaged, or the input changed with its size and time kept,
and the call repeated. It should end with the numbers of an undisturbed one, or be refused by an
error of symspec's own within 20 seconds. Then 15 folders are offered to calls with another network,
noise, prior, inverse Hessian, ...: these too should give their own numbers, or be refused.
"""

import os
import shutil
import signal
import sys
import tempfile
import warnings
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from itertools import cycle, islice
from pathlib import Path

import h5py
import numpy as np

import symspec as ss
from symspec.files import partial_runs
from symspec.files.jacobians import write_jacobian
from symspec.files.surveys import predict_survey
from symspec.laplace import posterior
from symspec.safety import checkpoint

N_STARS, N_PIXELS = 60, 12
SECONDS = 20  # for one call
GRID = np.linspace(4000.0, 4100.0, N_PIXELS)


# --- the calls


def build_regression(activation="tanh", *, mean=0.0, sigma=0.3, prior=1.0):
    first = ss.Standardize(np.full(N_PIXELS, mean), np.ones(N_PIXELS))
    layers = [first, ss.Dense(4), ss.Activation(activation), ss.Dense(2)]
    net = ss.Network(layers, N_PIXELS, label_names=["a", "b"], wavelength=GRID)
    return ss.Regression(net, sigma_noise=sigma, prior_precision=prior)


REG = build_regression()
RNG = np.random.default_rng(0)
THETA = REG.net.init_params(RNG)
X, Y = RNG.normal(size=(N_STARS, N_PIXELS)), RNG.normal(size=(N_STARS, 2))
X_NEW = RNG.normal(size=(N_STARS, N_PIXELS))
IVAR = np.full(X_NEW.shape, 30.0)


def fit(folder=None, *, reg=REG, theta=THETA, **words):
    words = {"structure": "kronecker", "require_minimum": False, "progress": False} | words
    return ss.fit_laplace(reg, theta, X, Y, resume=folder, **words)


@contextmanager
def patched(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def die(*_, **__):
    raise KeyboardInterrupt


class Output:
    """A call that writes a file piece by piece; its result is all bytes of the file."""

    def __init__(self, name, write):
        self.name = name
        self.write = write

    def begin(self, folder, theta=THETA):
        """Finish all pieces but do not assemble them."""
        with h5py.File(folder / "stars.h5", "w") as file:
            file["flux"], file["ivar"], file["labels"] = X_NEW, IVAR, Y
            file["wavelength"] = GRID
            file["label_names"] = ["a", "b"]
        os.utime(folder / "stars.h5", ns=(1, 1))
        with suppress(KeyboardInterrupt), patched(partial_runs.PartialRun, "finish", die):
            self.write(folder / "out.h5", theta, folder / "stars.h5")

    def finish(self, folder):
        self.write(folder / "out.h5", THETA, folder / "stars.h5")
        return (folder / "out.h5").read_bytes()

    def is_same(self, found, expected):
        return found == expected

    def pieces(self, folder):
        return sorted((folder / "out.h5.partial").glob("stars_*.h5"))

    def plan(self, folder):
        return folder / "out.h5.partial" / "plan.json"


class Resumed:
    """A call with resume=folder; its result are the error bars of some stars."""

    def __init__(self, name, call, *, is_interrupted=False):
        self.name = name
        self.call = call
        self.is_interrupted = is_interrupted

    def begin(self, folder, theta=THETA):
        steps = iter(range(2, 100))

        def stop(*_, **__):
            if self.is_interrupted and next(steps) == 4:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            self.call(folder / "kept", theta, stop)

    def finish(self, folder):
        return self.call(folder / "kept", THETA, False)

    def is_same(self, found, expected):
        return np.allclose(found, expected, rtol=1e-9)

    def pieces(self, folder):
        return sorted((folder / "kept").glob("*.npz"))

    def plan(self, folder):
        return None


def make_fit(structure, **options):
    def call(folder, theta, progress):
        words = {"structure": structure, "options": options, "progress": progress}
        return fit(folder, theta=theta, **words).label_covariance(X_NEW[:9])

    return call


@cache
def find_posterior(scale):
    return fit(theta=THETA * scale)


def predict(folder, theta, progress):
    laplace = find_posterior(theta[0] / THETA[0])
    prediction = laplace.predict(X_NEW, ivar=IVAR, resume=folder, progress=progress)
    return np.hstack([prediction.labels, prediction.errors])


def find_catalogue(path, theta, stars):
    predict_survey(path, find_posterior(theta[0] / THETA[0]), stars, progress=False)


def find_derivatives(path, theta, stars):
    write_jacobian(path, REG.net, theta, stars, progress=False)


CALLS = [
    Output("errors", find_catalogue),
    Output("jacobian", find_derivatives),
    Resumed("fit_laplace kronecker", make_fit("kronecker")),
    Resumed("fit_laplace ekfac", make_fit("ekfac")),
    Resumed("fit_laplace krylov", make_fit("krylov", subset=3, tolerance=1e-6)),
    Resumed("fit_laplace low_rank", make_fit("low_rank", rank=4)),
    Resumed("predict", predict),
    Resumed("predict, unfinished", predict, is_interrupted=True),
]


# --- damages: each takes the folder, one of its pieces, another one, that of another run, and rng


def swap(one, other, foreign, rng):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def copy(one, other, foreign, rng):
    one.write_bytes(other.read_bytes())


def take_foreign(one, other, foreign, rng):
    one.write_bytes(foreign.read_bytes())


def flip_bits(one, other, foreign, rng):
    content = bytearray(one.read_bytes())
    for _ in range(rng.integers(1, 4)):
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    one.write_bytes(content)


def flip_in_header(one, other, foreign, rng):
    content = bytearray(one.read_bytes())
    content[rng.integers(min(200, len(content)))] = rng.integers(256)
    one.write_bytes(content)


def clear_page(one, other, foreign, rng):
    content = bytearray(one.read_bytes())
    start = rng.integers(len(content))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    one.write_bytes(content)


def cut(one, other, foreign, rng):
    os.truncate(one, rng.integers(one.stat().st_size))


def lengthen(one, other, foreign, rng):
    one.write_bytes(one.read_bytes() + rng.bytes(rng.integers(1, 99)))


def write_text(one, other, foreign, rng):
    one.write_bytes([b"", b"null", b"\0" * 999, rng.bytes(999)][rng.integers(4)])


def rewrite(change):
    """The same file with arrays changed, by the libraries that write them."""

    def damage(one, other, foreign, rng):
        if one.suffix == ".npz":
            with np.load(one) as file:
                arrays = dict(file)
            name = pick_name(arrays, rng)
            arrays |= change(name, arrays.pop(name))
            np.savez(one, **arrays)
        else:
            with h5py.File(one, "r+") as file:
                arrays = {name: file[name][()] for name in file}
                name = pick_name(arrays, rng)
                del file[name]
                for key, array in change(name, arrays[name]).items():
                    file[key] = array

    return damage


def pick_name(arrays, rng):
    numbers = sorted(name for name, array in arrays.items() if array.dtype.kind in "fiu")
    return numbers[rng.integers(len(numbers))]


DAMAGES = {
    "swapped": swap,
    "copied": copy,
    "of another run": take_foreign,
    "bits flipped": flip_bits,
    "header changed": flip_in_header,
    "a page of zeros": clear_page,
    "cut": cut,
    "longer": lengthen,
    "text": write_text,
    "fewer rows": rewrite(lambda name, a: {name: a[:-1] if a.ndim else a - 1}),
    "more rows": rewrite(lambda name, a: {name: np.concatenate([a, a]) if a.ndim else a + 1}),
    "other numbers": rewrite(lambda name, a: {name: a * 2}),
    "NaN": rewrite(lambda name, a: {name: a * np.nan}),
    "single precision": rewrite(lambda name, a: {name: a.astype(np.float32)}),
    "integers": rewrite(lambda name, a: {name: np.nan_to_num(a).astype(int)}),
    "another name": rewrite(lambda name, a: {f"{name}_": a}),
    "another shape": rewrite(lambda name, a: {name: a[None]}),
}
PLANS = {
    "plan null": b"null",
    "plan list": b"[1]",
    "plan garbage": b"\xff{",
    "plan empty": b"",
    "plan nested": b"[" * 10**5,
    "plan huge": b'{"run": "' + b"x" * 10**7 + b'"}',
    "plan of nothing": b"{}",
    "plan missing": None,
}
INPUT = "input changed, size and time kept"


def damage_plan(path, kind):
    path.unlink()
    if PLANS[kind] is not None:
        path.write_bytes(PLANS[kind])


def change_input(path, rng):
    with h5py.File(path, "r+") as file:
        star = rng.integers(N_STARS)
        file["flux"][star] = file["flux"][star] * 1.5
    os.utime(path, ns=(1, 1))


# --- trials


class TooSlow(Exception):
    pass


def stop_slow(*_):
    raise TooSlow


def judge(call, is_right):
    """Outcome of a call: right, refused, or what is wrong with it."""
    signal.signal(signal.SIGALRM, stop_slow)
    signal.alarm(SECONDS)
    try:
        result = call()
    except ss.SymspecError:
        return "refused"
    except Exception as error:
        return f"raw error: {type(error).__name__}"
    finally:
        signal.alarm(0)
    return "right" if is_right(result) else "other numbers"


@contextmanager
def small_pieces():
    with (
        warnings.catch_warnings(),
        patched(partial_runs, "PIECE_BYTES", 8 * 8 * N_PIXELS),
        patched(checkpoint, "SECONDS_BETWEEN", 0.0),
        patched(posterior, "STARS_AT_ONCE", 16),
    ):
        warnings.simplefilter("ignore")
        yield


class Master:
    """Folders of an interrupted call, and of the same with other weights; copies are damaged."""

    def __init__(self, call, place):
        self.call = call
        self.kept, self.foreign, whole = (place / name for name in ("kept", "foreign", "whole"))
        for folder, theta in [(self.kept, THETA), (self.foreign, THETA * 1.01)]:
            folder.mkdir(parents=True)
            call.begin(folder, theta)
        shutil.copytree(self.kept, whole)
        self.expected = call.finish(whole)

    def kinds(self):
        return [*DAMAGES, *PLANS, INPUT] if isinstance(self.call, Output) else list(DAMAGES)

    def try_one(self, folder, kind, rng):
        """Damage a copy, and repeat the call."""
        shutil.copytree(self.kept, folder)
        if isinstance(self.call, Output):
            os.utime(folder / "stars.h5", ns=(1, 1))
        expected = self.expected
        if kind in PLANS:
            damage_plan(self.call.plan(folder), kind)
        elif kind == INPUT:
            change_input(folder / "stars.h5", rng)
            anew = folder / "anew"
            anew.mkdir()
            shutil.copy2(folder / "stars.h5", anew)
            expected = self.call.finish(anew)
        else:
            self.damage_piece(folder, kind, rng)
        return judge(
            lambda: self.call.finish(folder), lambda found: self.call.is_same(found, expected)
        )

    def damage_piece(self, folder, kind, rng):
        pieces = self.call.pieces(folder)
        i, j = rng.choice(len(pieces), 2, replace=len(pieces) < 2)
        foreign = self.call.pieces(self.foreign)
        DAMAGES[kind](pieces[i], pieces[j], foreign[min(i, len(foreign) - 1)], rng)


def fuzz(n=200, seed=0, calls=tuple(CALLS)):
    """Outcomes of `n` trials: tuples of the call, the damage and what came of it."""
    rng = np.random.default_rng(seed)
    outcomes = []
    with tempfile.TemporaryDirectory() as name, small_pieces():
        place = Path(name)
        masters = [Master(call, place / str(i)) for i, call in enumerate(calls)]
        pairs = [(master, kind) for master in masters for kind in master.kinds()]
        rng.shuffle(pairs)
        for trial, (master, kind) in enumerate(islice(cycle(pairs), n)):
            folder = place / f"trial {trial}"
            outcomes.append((master.call.name, kind, master.try_one(folder, kind, rng)))
            shutil.rmtree(folder)
    return outcomes


# --- folders of other calls


def other_calls():
    """Name, the call that filled the folder, and the other: each a function of the folder."""
    laplace = fit()
    grid = np.linspace(3990.0, 4110.0, 30)
    raw = ss.Spectra(
        flux=np.random.default_rng(5).normal(size=(N_STARS, 30)),
        ivar=np.full((N_STARS, 30), 9.0),
        wavelength=grid,
    )
    resampled = ss.resample(raw, GRID)
    again = replace(resampled, source_ivar=resampled.source_ivar / 4)

    def fitted(**changed):
        return lambda folder: fit(folder, **changed).label_covariance(X_NEW[:9])

    def predicted(laplace, X=X_NEW, **words):
        def call(folder):
            return laplace.predict(X, resume=folder, progress=False, **words).errors

        return call

    def moved(**changed):
        """The posterior of another regression at the same weights."""
        return predicted(fit(reg=build_regression(**changed)))

    krylov = {"structure": "krylov", "options": {"subset": 3, "tolerance": 1e-6}}
    bad = {"ivar": np.where(X_NEW > 1, 0, IVAR)}
    shifted = replace(laplace, flux_mean=laplace.flux_mean + 1)
    diagonal = replace(laplace, inverse_hessian=fit(structure="diagonal").inverse_hessian)
    dual, primal = fit(structure="dual"), fit(structure="primal")
    tight = {"structure": "primal", "reg": build_regression(prior=1000.0)}
    ggn, hessian = fit(**tight), fit(curvature="hessian", **tight)
    start = predicted(laplace)
    relu = build_regression("relu")
    return [
        ("fit: activation", fitted(reg=relu), fitted()),
        ("fit: constants", fitted(), fitted(reg=build_regression(mean=0.3))),
        ("fit: krylov, activation", fitted(reg=relu, **krylov), fitted(**krylov)),
        ("fit: prior", fitted(), fitted(reg=build_regression(prior=100.0))),
        ("predict: activation", start, moved(activation="relu")),
        ("predict: constants", start, moved(mean=0.3)),
        ("predict: noise", start, moved(sigma=0.9)),
        ("predict: prior", start, moved(prior=100.0)),
        ("predict: structure", predicted(dual), predicted(primal)),
        ("predict: inverse Hessian", start, predicted(diagonal)),
        ("predict: dtype", start, predicted(replace(laplace, dtype="float32"))),
        ("predict: flux_mean", predicted(laplace, **bad), predicted(shifted, **bad)),
        (
            "predict: resampled",
            predicted(laplace, resampled.spectra),
            predicted(laplace, resampled),
        ),
        ("predict: source_ivar", predicted(laplace, resampled), predicted(laplace, again)),
        ("predict: curvature", predicted(ggn), predicted(hessian)),
    ]


def find_stale():
    """Outcomes of calls with the folder of another: name, and what came of it."""
    outcomes = []
    with tempfile.TemporaryDirectory() as place, small_pieces():
        for i, (name, first, other) in enumerate(other_calls()):
            folder = Path(place) / str(i)
            first(folder)
            expected = other(None)
            outcome = judge(
                lambda other=other, folder=folder: other(folder),
                lambda found, expected=expected: np.array_equal(found, expected),
            )
            outcomes.append((name, outcome))
    return outcomes


# --- tables


def print_table(kinds, outcomes):
    width = max(map(len, kinds))
    print(f"{'kind':{width}} | tried | failed")
    for kind in sorted(set(kinds)):
        found = [o for k, o in zip(kinds, outcomes, strict=True) if k == kind]
        print_row(kind, width, found)
    print_row("all", width, outcomes)


def print_row(kind, width, outcomes):
    failed = [o for o in outcomes if o not in ("right", "refused")]
    words = ", ".join(f"{failed.count(o)} {o}" for o in dict.fromkeys(failed))
    print(f"{kind:{width}} | {len(outcomes):5} | {len(failed):6} {words}")


def main(n="200", seed="0"):
    outcomes = fuzz(int(n), int(seed))
    print_table([kind for _, kind, _ in outcomes], [o for *_, o in outcomes])
    print()
    print_table([call for call, *_ in outcomes], [o for *_, o in outcomes])
    print()
    stale = find_stale()
    print_table([name for name, _ in stale], [o for _, o in stale])


if __name__ == "__main__":
    main(*sys.argv[1:])
