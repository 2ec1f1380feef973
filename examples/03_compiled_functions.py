"""Every compiled function on every backend: shapes, times, agreement; then SciPy and PyMC.

python examples/03_compiled_functions.py            # all backends: minutes, to compile C and Numba
python examples/03_compiled_functions.py --small    # NumPy and JAX: seconds
"""

import argparse
import importlib.util
import time
import warnings

import numpy as np
import pymc as pm
import pytensor
import scipy.optimize
from rich.console import Console
from rich.table import Table

import symspec as ss

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--small", action="store_true", help="a small network, on NumPy and JAX only")
small = parser.parse_args().small

# A pip-installed PyTensor finds no BLAS for its C backend, and says so: it then calls NumPy's.
warnings.filterwarnings("ignore", message="PyTensor could not link to a BLAS", category=UserWarning)

# C needs a compiler, JAX its package; the other two backends come with PyTensor.
has_jax = importlib.util.find_spec("jax") is not None
installed = {"numpy": True, "c": bool(pytensor.config.cxx), "numba": True, "jax": has_jax}
backends = [
    name for name, there in installed.items() if there and (name in ("numpy", "jax") or not small)
]

rng = np.random.default_rng(3)
sizes, n_stars = ([30, 6, 3], 100) if small else ([60, 8, 3], 200)
stars = ss.datasets.generated_stars(n_stars, n_pixels=sizes[0], rng=rng)
X, Y = stars.flux, stars.labels
net = ss.standardized(ss.mlp(sizes, activation="tanh", label_names=stars.label_names), X, Y)
reg = ss.Regression(net, sigma_noise=[100.0, 0.2, 0.1], prior_precision=1.0)
theta = ss.train(reg, X, Y, epochs=50, rng=rng, progress=False).theta
v = rng.normal(size=net.n_params)
print(net)

# Name, function and arguments. Each also takes one spectrum in place of many.
functions = {
    "predict": (lambda b: ss.compile_predict(net, backend=b), (theta, X)),
    'jacobian, "flux"': (lambda b: ss.compile_jacobian(net, "flux", backend=b), (theta, X)),
    'jacobian, "theta"': (lambda b: ss.compile_jacobian(net, "theta", backend=b), (theta, X)),
    "objective": (lambda b: ss.compile_objective(reg, backend=b), (theta, X, Y)),
    "hessian_vector_product": (
        lambda b: ss.compile_hessian_vector_product(reg, backend=b),
        (theta, X, Y, v),
    ),
    "ggn_vector_product": (
        lambda b: ss.compile_ggn_vector_product(reg, backend=b),
        (theta, X, Y, v),
    ),
    "hessian": (lambda b: ss.compile_hessian(reg, backend=b), (theta, X, Y)),
    "ggn": (lambda b: ss.compile_ggn(reg, backend=b), (theta, X, Y)),
}

table = Table(title=f"{n_stars} stars; first call with compiling, in s, then later ones, in ms")
table.add_column("compile_", no_wrap=True)
table.add_column("gives", no_wrap=True)
for backend in backends:
    table.add_column(backend, justify="right")
table.add_column("agree to", justify="right")

worst = 0.0
for name, (compile_, arguments) in functions.items():
    results, times = [], []
    for backend in backends:
        begin = time.perf_counter()
        function = compile_(backend)
        result = function(*arguments)
        first = time.perf_counter() - begin
        begin = time.perf_counter()
        for _ in range(3):
            function(*arguments)
        times.append(f"{first:.2f} / {1e3 * (time.perf_counter() - begin) / 3:.2f}")
        is_pair = name == "objective"  # value and gradient: the gradient is compared
        results.append(result[1] if is_pair else result)
    largest = np.abs(results[0]).max()
    difference = max(np.abs(r - results[0]).max() / largest for r in results)
    worst = max(worst, difference)
    shape = str(results[0].shape)
    table.add_row(
        name, f"float, {shape}" if name == "objective" else shape, *times, f"{difference:.0e}"
    )
Console(width=130).print(table)
print(f"check: {', '.join(backends)} agree to {worst:.0e} of the largest entry: {worst < 1e-9}")

# In single precision, and for one spectrum, which drops the star axis:
one = ss.compile_jacobian(net, dtype="float32")(theta, X[0])
print(f"one spectrum, float32: {one.shape} {one.dtype}")

# They are plain functions of NumPy arrays: SciPy takes value and gradient, and Hessian products.
objective, product = ss.compile_objective(reg), ss.compile_hessian_vector_product(reg)
start = ss.polish(reg, theta, X, Y).theta + 0.003 * v
res = scipy.optimize.minimize(
    objective,
    start,
    args=(X, Y),
    jac=True,
    hessp=lambda theta, v, X, Y: product(theta, X, Y, v),
    method="trust-krylov",
    options={"gtol": 1e-3},
)
gradient = np.abs(objective(res.x, X, Y)[1]).max()
U = objective(start, X, Y)[0]
print(f"scipy.optimize.minimize: U from {U:.2f} to {res.fun:.2f} in {res.nit} iterations")
print(f"check: the gradient vanishes there: {gradient < 1e-2}")

# And the network is a graph: it goes under the random variables of a PyMC model without a wrapper.
with pm.Model() as model:
    weights = pm.Normal("theta", 0, 1 / np.sqrt(reg.prior_precision_vector()), shape=net.n_params)
    pm.Normal("labels", net(weights, X), reg.sigma_noise, observed=Y)
pytensor.config.cxx = ""  # one evaluation: not worth a compiler's time
logp = model.compile_logp()({"theta": res.x})
print(f"PyMC: logp = {logp:.6f}, minus negative_log_posterior = {-res.fun:.6f}")
print(f"check: they are equal: {np.isclose(logp, -res.fun, rtol=1e-12)}")
