"""Random networks of Keras 3, Keras 2 and PyTorch: predictions and derivatives from their files.

    ENVIRONMENT/bin/python tests/bench/fuzz_importers.py make FOLDER [NUMBER [SEED]]
    .venv/bin/python tests/bench/fuzz_importers.py check FOLDER [NAME ...]

`make` runs in an environment with keras, jax, tensorflow, tf_keras, torch and safetensors, and
without symspec: it writes NUMBER networks (default 240) with what these programs find for the
outputs y, for the Jacobian dy/dx, for the Hessian of U = sum (y - labels)^2 / 2 over the weights of
the last layer, and for that of all weights times a random vector. `check` runs in symspec's
environment, where none of them is installed, and says how far symspec is from each, relative to the
largest entry: 1e-10 in float64 and 1e-5 in float32 are allowed. A quarter of an hour each.
"""

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

ALLOWED = {"float64": 1e-10, "float32": 1e-5}
PRIOR = 1.0  # symspec's U has a prior, whose Hessian is this
PARTS = {"keras3": 0.5, "torch": 0.35, "keras2": 0.15}  # shares of the networks
SINGLE = 1 / 3  # share in float32
COUNTS = ("read", "refused", "in another order", "coarse")
# where shapes may not tell the order
WITH_BRANCHES = ("branches", "nested", "two_inputs", "two_outputs")


def make(folder, n=240, seed=0):
    """Make all networks; each part is a process, as the precision of Keras is set for one."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, share in PARTS.items():
        for dtype, of in (("float64", 1 - SINGLE), ("float32", SINGLE)):
            number = round(n * share * of)
            subprocess.run(
                [sys.executable, __file__, "part", folder, part, dtype, str(number), str(seed)],
                check=True,
            )


def make_part(folder, part, dtype, n, seed):
    if part == "torch":
        import fuzz_torch_networks

        fuzz_torch_networks.make_networks(folder, n, seed, dtype=dtype)
    else:
        import fuzz_keras_networks

        fuzz_keras_networks.make_networks(folder, n, seed, dtype=dtype, is_legacy=part == "keras2")


# --- the other side


def build_net(path):
    """symspec's layers for the steps of a network of PyTorch."""
    import symspec as ss

    written, layers = json.loads(path.read_text()), []
    for kind, options, others in written["steps"]:
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        if kind == "BatchNorm":
            before = ss.Network([*layers, ss.Flatten()], written["n_pixels"]).shapes[-2]
            n = before[options["axis"]]
            options |= {"mean": np.zeros(n), "variance": np.ones(n)}
        layers.append(getattr(ss, kind)(*(layers[i] for i in others), **options))
    return ss.Network(layers, written["n_pixels"])


def hold_places(net):
    """The same layers without the moments of BatchNorm, as a user would give them."""
    from symspec.files.matching import MOMENTS, replace_moments

    blank = {
        f"{name}/{key}": np.ones(layer.mean.shape) * 7
        for name, layer in find_norms(net)
        for key in MOMENTS
    }
    return replace_moments(net, blank)


def find_norms(net):
    import symspec as ss

    return [
        (name, la)
        for name, la in zip(net.layer_names, net.layers, strict=True)
        if isinstance(la, ss.BatchNorm)
    ]


def read_all(stem, check):
    """Network and weights from each of its files, which agree; and two directions of weights."""
    import symspec as ss

    if stem.name.startswith("torch"):
        net = build_net(stem.with_suffix(".json"))
        main, theta = ss.read_network(f"{stem}.pt", net=net, check=check)
        again = ss.read_network(f"{stem}.safetensors", net=net)[1]
        assert np.array_equal(theta, again)
        return (
            main,
            theta,
            *(ss.read_network(f"{stem}_{name}.pt", net=net)[1] for name in ("v", "hv")),
        )
    main, theta = ss.read_network(f"{stem}.keras", check=check)
    other, again = ss.read_network(f"{stem}.h5")
    assert np.array_equal(theta, again)
    for (_, norm), (_, same) in zip(find_norms(main), find_norms(other), strict=True):
        assert np.array_equal(norm.mean, same.mean)
        assert np.array_equal(norm.variance, same.variance)
    directions = [Path(f"{stem}_{name}.keras") for name in ("v", "hv")]
    return (
        main,
        theta,
        *(ss.read_network(path)[1] if path.exists() else None for path in directions),
    )


def read_weights_only(stem, net, theta):
    """Count weights-only files that give the same network, and those refused as ambiguous."""
    import symspec as ss

    counts = dict.fromkeys(COUNTS, 0)
    for name in (f"{stem}_only.weights.h5", f"{stem}_only.h5"):
        if Path(name).exists():
            try:
                again = ss.read_network(name, net=hold_places(net))[1]
            except ss.FileFormatError:
                counts["refused"] += 1
            else:
                counts["read" if np.array_equal(theta, again) else "in another order"] += 1
    return counts


def derive(net, theta, v, expected, dtype):
    """What symspec finds, by the names of what was expected."""
    import symspec as ss

    x, labels, options = expected["x"], expected["labels"], {"backend": "numpy", "dtype": dtype}
    reg = ss.Regression(net, sigma_noise=1.0, prior_precision=PRIOR)
    product = ss.compile_hessian_vector_product(reg, **options)
    of_last = list(net.layout.layers.values())[-1].slice
    units = np.eye(net.n_params)[of_last]
    found = {
        "y": ss.compile_predict(net, **options)(theta, x),
        "jacobian": ss.compile_jacobian(net, **options)(theta, x),
        "hessian": np.array(
            [(product(theta, x, labels, unit) - PRIOR * unit)[of_last] for unit in units]
        ),
    }
    return found if v is None else found | {"product": product(theta, x, labels, v) - PRIOR * v}


def compare(stem):
    """Largest differences of one network, relative to the largest entry.

    Where float32 is too coarse for what is asked, say behind a tanh near 1, symspec has to be as
    close to its own result in float64 as the other program is.
    """
    expected = dict(np.load(stem.with_suffix(".npz")))
    net, theta, v, hv = read_all(stem, (expected["x"], expected["y"]))
    counts = read_weights_only(stem, net, theta)
    assert not counts["in another order"] or str(expected["kind"]) in WITH_BRANCHES
    dtype = str(expected["x"].dtype)
    got = derive(net, theta, None if hv is None else v, expected, dtype)
    want = {
        name: np.reshape(hv if name == "product" else expected[name], got[name].shape)
        for name in got
    }
    found = {name: measure(got[name], want[name]) for name in got}
    if dtype == "float32" and max(found.values()) > ALLOWED[dtype]:
        exact = derive(net, theta, None if hv is None else v, expected, "float64")
        for name in found:
            counts["coarse"] += found[name] > ALLOWED[dtype]
            if found[name] > ALLOWED[dtype] and measure(got[name], exact[name]) < 2 * measure(
                want[name], exact[name]
            ):
                found[name] = 0.0
    return found, counts, str(expected["kind"])


def measure(got, want):
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))


def check(folder, *names):
    """A line for each network, and the largest differences of all."""
    warnings.simplefilter("ignore")
    stems = [
        path.with_suffix("")
        for path in sorted(folder.glob("*.npz"))
        if not names or path.stem in names
    ]
    worst, failures, only = {}, [], dict.fromkeys(COUNTS, 0)
    for stem in stems:
        begin = time.perf_counter()
        dtype = stem.name.split("_")[1]
        try:
            found, counts, kind = compare(stem)
        except Exception as error:  # each is a finding, and the others are wanted, too
            failures.append(stem.name)
            print(f"{stem.name}: {type(error).__name__}: {str(error)[:600]}", flush=True)
            continue
        is_bad = [name for name, value in found.items() if not value <= ALLOWED[dtype]]
        failures += [stem.name] if is_bad else []
        only = {key: only[key] + counts[key] for key in COUNTS}
        for name, value in found.items():
            worst[dtype, name] = max(worst.get((dtype, name), 0), value)
        words = " ".join(f"{name} {value:.1e}" for name, value in found.items())
        seconds = time.perf_counter() - begin
        print(
            f"{stem.name} {kind}: {words} ({seconds:.1f} s){' FAILED' if is_bad else ''}",
            flush=True,
        )
    print(f"{len(stems)} networks, {len(failures)} failed: {' '.join(failures)}")
    n_coarse = only.pop("coarse")
    print("files of weights alone: " + ", ".join(f"{n} {words}" for words, n in only.items()))
    print(f"numbers for which float32 is too coarse: {n_coarse}")
    for (dtype, name), value in sorted(worst.items()):
        print(f"{dtype} {name}: {value:.1e}")
    return bool(failures)


if __name__ == "__main__":
    stage, place, *rest = sys.argv[1:]
    if stage == "make":
        make(Path(place), *map(int, rest))
    elif stage == "part":
        make_part(Path(place), rest[0], rest[1], int(rest[2]), int(rest[3]))
    else:
        sys.exit(check(Path(place), *rest))
