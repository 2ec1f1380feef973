"""Random networks of PyTorch and Keras exported to ONNX, and what symspec makes of these files.

    ENVIRONMENT/bin/python tests/bench/fuzz_onnx.py make FOLDER [NUMBER [SEED]]
    .venv/bin/python tests/bench/fuzz_onnx.py check FOLDER

`make` runs in an environment with torch, tensorflow, keras, safetensors, onnx, onnxscript and
tf2onnx, and without symspec: NUMBER networks (default 60) of PyTorch go through both of its
exporters, as many of Keras through TensorFlow's. `check` says how far symspec's outputs are from
theirs, relative to the largest: 1e-5 is allowed in float32, and 1e-8 in float64, as options such as
epsilon are in float32 in any file. What is refused is told with the reason.
"""

import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

ALLOWED = {"float64": 1e-8, "float32": 1e-5}
N_STARS = 3


def make(folder, n=60, seed=0):
    """Each part is a process of its own, as Keras has one backend and one precision."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("torch", "keras"):
        subprocess.run([sys.executable, __file__, part, folder, str(n), str(seed)], check=True)


def make_torch(folder, n, seed):
    import torch
    from fuzz_torch_networks import KINDS, draw_network

    for i in range(n):
        rng = np.random.default_rng([seed, 2, i])
        dtype = "float64" if i % 3 else "float32"
        net = draw_network(rng, KINDS[i % len(KINDS)], getattr(torch, dtype)).eval()
        x = torch.as_tensor(rng.normal(size=(N_STARS, net.shapes[0][0])).astype(dtype))
        for j, name in enumerate(("old", "new")):
            path = folder / f"torch_{name}_{dtype}_{i:03d}"
            options = (
                {"external_data": False, "verbose": False}
                if j
                else {"dynamic_axes": {"x": {0: "star"}}}
            )
            try:
                torch.onnx.export(
                    net, (x,), f"{path}.onnx", input_names=["x"], dynamo=bool(j), **options
                )
            except Exception as error:
                print(path.name, "is not exported:", str(error).splitlines()[0][:100])
                continue
            np.savez(path, x=x.numpy(), y=net(x).detach().numpy())


def make_keras(folder, n, seed):
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import keras
    from fuzz_keras_networks import KINDS, draw_model, n_inputs, split_inputs

    for i in range(n):
        rng = np.random.default_rng([seed, 3, i])
        path = folder / f"keras_float32_{i:03d}"
        keras.backend.clear_session()
        try:
            model = draw_model(keras, rng, KINDS[i % len(KINDS)], "channels_last")
        except ValueError:  # a layer that cuts all positions away
            continue
        x = rng.normal(size=(N_STARS, n_inputs(model))).astype("float32")
        inputs = split_inputs(model, x, np.reshape)
        y = model(inputs if len(inputs) > 1 else inputs[0])
        outputs = y if isinstance(y, list | tuple) else [y]
        try:
            model.export(f"{path}.onnx", format="onnx", verbose=False)
        except Exception as error:
            print(path.name, "is not exported:", str(error).splitlines()[0][:100])
            continue
        np.savez(
            path, x=x, y=np.concatenate([np.reshape(o, (N_STARS, -1)) for o in outputs], axis=1)
        )


def check(folder):
    import symspec as ss

    warnings.simplefilter("error")
    results, worst = Counter(), Counter()
    for path in sorted(folder.glob("*.npz")):
        dtype = "float32" if "float32" in path.name else "float64"
        kind = path.name.rpartition(f"_{dtype}")[0]
        try:
            net, theta = ss.read_network(path.with_suffix(".onnx"))
        except ss.SymspecError as error:
            results[kind, "refused"] += 1
            print(path.stem, "is refused:", str(error)[len(str(folder)) :][:250])
            continue
        with np.load(path) as found:
            x, expected = found["x"].astype(float), found["y"]
        difference = (
            np.abs(ss.compile_predict(net)(theta, x) - expected).max() / np.abs(expected).max()
        )
        results[kind, "read"] += 1
        worst[kind, dtype] = max(worst[kind, dtype], difference)
        if difference > ALLOWED[dtype]:
            print(path.stem, f"is off by {difference:.1e}")
    print(dict(results), {" ".join(key): f"{value:.1e}" for key, value in worst.items()})


if __name__ == "__main__":
    word, place, *numbers = sys.argv[1:]
    words = {"make": make, "torch": make_torch, "keras": make_keras, "check": check}
    words[word](Path(place), *map(int, numbers))
