"""`backend="jax"` beside JAX written by hand, on the device that JAX has: a GPU, or this CPU.

    python tests/bench/gpu.py              # five minutes on two cores
    python tests/bench/gpu.py --few        # no training, and a small network

The rows of `small_functions.py`, and of `test_speed.py` for the network of 17.6 million weights.
Results of both are compared first. symspec takes and gives arrays of NumPy, so that its times have
the way to the device and back in them; those of JAX do not.
"""

import resource
import sys
from functools import partial

import jax
import numpy as np
import small_functions
import test_speed

import symspec as ss

FEW_SIZES = [713, 512, 128, 3]


def compare_full_size(sizes):
    test_speed.SIZES = sizes
    rng = np.random.default_rng(0)
    net = ss.mlp(sizes)
    reg = ss.Regression(net, sigma_noise=test_speed.SIGMA, prior_precision=test_speed.PRIOR)
    theta, v = (net.init_params(rng).astype(np.float32) for _ in range(2))
    X = rng.normal(size=(test_speed.N_STARS, sizes[0])).astype(np.float32)
    Y = rng.normal(size=(test_speed.N_STARS, sizes[-1])).astype(np.float32)
    on_device = jax.device_put((test_speed.kernels(theta), X, Y, test_speed.kernels(v)))
    for name, (compile_, n_arguments, _, by_hand) in test_speed.CASES.items():
        ours = partial(
            compile_(reg, backend="jax", dtype="float32"), *(theta, X, Y, v)[:n_arguments]
        )
        theirs = partial(jax.jit(by_hand), *on_device)
        found, expected = ours(), theirs()
        if name == "gradient":
            found, expected = found[1], expected[1]
        atol = 1e-3 * np.abs(found).max()  # float32, and a GPU's products of fewer digits
        np.testing.assert_allclose(found, test_speed.flat(expected), atol=atol, rtol=1e-2)
        shape = "-".join(map(str, sizes))
        small_functions.compare(f"{name}, {shape}, {len(X)} spectra, float32", ours, theirs)


def describe_memory():
    """Largest memory of the device, or of this process where JAX does not say it."""
    told = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in told:
        return f"{told['peak_bytes_in_use'] / 2**30:.2f} GiB of the device"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of this process"


def main(few):
    device = jax.devices()[0]
    print(f"{device.platform}: {device.device_kind}, JAX {jax.__version__}\n")
    print("| | symspec [ms] | JAX [ms] | ratio |\n|---|---:|---:|---:|")
    small_functions.compare_functions("jax")
    small_functions.compare_emulator("jax")
    for case in () if few else small_functions.TRAINED:
        small_functions.compare_training(*case, "jax")
    compare_full_size(FEW_SIZES if few else test_speed.SIZES)
    print(f"\nmost memory: {describe_memory()}")


if __name__ == "__main__":
    main("--few" in sys.argv[1:])
