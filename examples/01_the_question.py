"""A spectroscopist's question, line by line: each call that failed, and the one that works.

The question: a network of 7213-2048-1024-512-256-128-32-3 turns a spectrum into Teff, log g and
[Fe/H]. What is the inverse Hessian of its loss, what are the errors of its labels, and what are the
3 x 7,213 derivatives of each star?

    python examples/01_the_question.py            # the full network: some minutes, 4 GB
    python examples/01_the_question.py --small    # a tenth of the pixels: seconds
"""

import argparse
import time

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import hessian, jacobian

import symspec as ss

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--small", action="store_true", help="713 pixels and narrow layers")
small = parser.parse_args().small

# the graphs compiled below by hand run once each: not worth a C compiler's time
pytensor.config.cxx = ""
rng = np.random.default_rng(1)


def tried(call, error):
    print(f"\ntried   {call}\n  gave  {error}")


# ------------------------------------------------------------
print("1. An inverse Hessian from SciPy's minimisers\n")
# Weights are one flat vector `theta`, which every minimiser takes. This network is small and
# smooth, so that its whole P x P matrix can be looked at.
stars = ss.datasets.generated_stars(200, n_pixels=15, rng=rng)
X, Y = stars.flux, stars.labels
net = ss.standardized(ss.mlp([15, 4, 3], activation="tanh", label_names=stars.label_names), X, Y)
reg = ss.Regression(net, sigma_noise=[100.0, 0.3, 0.2], prior_precision=1.0)
start = ss.train(reg, X, Y, epochs=100, rng=rng, progress=False).theta  # Adam stops near a minimum
print(net)

for method, error in {
    "BFGS": "operands could not be broadcast together",
    "L-BFGS-B": "setting an array element with a sequence",
    "Newton-CG": "Jacobian is required for Newton-CG method",
}.items():
    tried(f"scipy.optimize.minimize(loss, [W0, b0, W1, b1], method={method!r})", error)
    res = ss.minimize(reg, start, X, Y, method=method, progress=False)
    print(f"  now   ss.minimize(reg, theta, X, Y, method={method!r})")
    print(f"        U = {res.fun:.3f} after {res.nit} iterations")
    # The exact Hessian belongs at an exact minimum: Newton's method goes to the nearest one.
    theta = ss.polish(reg, res.x, X, Y).theta
    exact = ss.fit_laplace(reg, theta, X, Y, curvature="hessian", require_minimum=True)
    sd = np.sqrt(np.diag(exact.inverse_hessian.to_dense()))
    smallest = exact.certificate.smallest_eigenvalue
    print(f"        exact Hessian: smallest eigenvalue {smallest:.3g}, positive definite")
    if "hess_inv" not in res:
        print("        the method leaves no inverse Hessian: the exact one is all there is")
        continue
    approximate = res.hess_inv.todense() if method == "L-BFGS-B" else res.hess_inv
    ratio = np.sqrt(np.diag(approximate)) / sd
    print(
        f"        sd of the weights, from hess_inv / exact: median ratio {np.median(ratio):.2f},",
        end=" ",
    )
    print(f"from {ratio.min():.2f} to {ratio.max():.2f}")
print("\nAn optimiser's hess_inv is a by-product of its search: not to be published.")

# ------------------------------------------------------------
print("\n2. Derivatives by pytensor.gradient (Theano's successor), as they stand")
t, x, many, labels = pt.dvector("theta"), pt.dvector("x"), pt.dmatrix("X"), pt.dmatrix("Y")
by_star = ss.compile_jacobian(net)(theta, X[:50])

tried(
    "theano.gradient.jacobian(...) on vectors, called with a matrix",
    "Wrong number of dimensions: expected 1, got 2",
)
once = "FAST_COMPILE"  # for a single call; the default takes longer to compile, and less a call
J = pytensor.function([t, x], jacobian(net(t, x), x), mode=once)(theta, X[0])
print(f"  now   jacobian(net(theta, x), x)  x a vector: {J.shape}")
print(
    "check   equal to ss.compile_jacobian(net)(theta, X)[0]:"
    f" {np.allclose(J, by_star[0], rtol=1e-10)}"
)

tried(
    "the same with matrix inputs",
    "tensor.jacobian expects a 1 dimensional variable as `expression`",
)
J = pytensor.function([t, many], jacobian(net(t, many).flatten(), many), mode=once)(theta, X[:50])
# a star's labels do not depend on other stars
J = J.reshape(50, 3, 50, 15)[np.arange(50), :, np.arange(50)]
print(f"  now   jacobian(net(theta, X).flatten(), X), own stars' blocks: {J.shape}")
print("        or, without the blocks of zeros, ss.compile_jacobian(net)(theta, X)")
print(f"check   the two agree: {np.allclose(J, by_star, rtol=1e-10)}")

H = hessian(reg.negative_log_posterior(t, many, labels), t)
H = pytensor.function([t, many, labels], H, mode=once)(theta, X, Y)
close = np.allclose(H, ss.compile_hessian(reg)(theta, X, Y), rtol=1e-8, atol=1e-8 * np.abs(H).max())
print(f"\n  now   hessian(reg.negative_log_posterior(theta, X, Y), theta): {H.shape}")
print(f"check   equal to ss.compile_hessian(reg)(theta, X, Y): {close}")

# ------------------------------------------------------------
print("\n3. The network of the question: all derivatives of its labels, in every pixel")
sizes = [713, 64, 32, 3] if small else [7213, 2048, 1024, 512, 256, 128, 32, 3]
n_train, n_batch = (200, 32) if small else (1000, 256)
stars = ss.datasets.generated_stars(n_train + n_batch, n_pixels=sizes[0], rng=rng)
X, Y, X_new = stars.flux[:n_train], stars.labels[:n_train], stars.flux[n_train:]
names, units = stars.label_names, stars.label_units
net = ss.mlp(sizes, activation="clip", label_names=names, label_units=units)  # clip(x, 0, 9999)
net = ss.standardized(net, X, Y)
reg = ss.Regression(net, sigma_noise=[100.0, 0.3, 0.2], prior_precision=ss.scaled_prior(net, 1.0))
epochs = 20 if small else 5
theta = ss.train(reg, X, Y, epochs=epochs, learning_rate=3e-4, rng=rng, progress=False).theta
print(net)

flux_jacobian = ss.compile_jacobian(net)
for spectra, what in [(X_new[0], "one star"), (X_new, f"{n_batch} stars")]:
    flux_jacobian(theta, spectra)
    begin = time.perf_counter()
    J = flux_jacobian(theta, spectra)
    print(f"  {what}: {J.shape} in {1e3 * (time.perf_counter() - begin):.1f} ms")

predict, h, pixels = ss.compile_predict(net), 1e-5, sizes[0] * np.arange(1, 6) // 6
steps = h * np.eye(sizes[0])[pixels]
differences = (predict(theta, X_new[0] + steps) - predict(theta, X_new[0] - steps)).T / (2 * h)
close = np.allclose(
    J[0][:, pixels], differences, rtol=1e-5, atol=1e-6 * np.abs(J[0]).max(axis=1, keepdims=True)
)
print(f"check   equal to central differences in pixels {', '.join(map(str, pixels))}: {close}")

# ------------------------------------------------------------
print(f"\n4. Error bars of the labels, from all {net.n_params:,} weights")
# The inverse Hessian has P^2 entries, but acts on labels only through the N training stars, so the
# dual is exact. A few epochs end far from a minimum: the certificate says so, and every star is
# flagged (ss.polish would mend it). Noise and prior are guesses here; ss.tune finds them, see
# 02_error_bars.py.
begin = time.perf_counter()
lap = ss.fit_laplace(reg, theta, X, Y, structure="dual", dtype="float32", require_minimum=False)
prediction = lap.predict(X_new, ivar=stars.ivar[n_train:])
print(f"  {n_train} training stars, {n_batch} new ones: {time.perf_counter() - begin:.1f} s")
print(f"  certificate: {lap.certificate.message}")
for star in range(3):
    values = zip(
        net.label_names,
        prediction.labels[star],
        prediction.errors[star],
        net.label_units,
        strict=True,
    )
    print(
        f"  star {star}: "
        + ", ".join(f"{name} = {y:.4g} +- {e:.2g} {unit}" for name, y, e, unit in values)
    )
errors = np.sqrt(np.mean((prediction.labels - stars.labels[n_train:]) ** 2, axis=0))
bars = np.sqrt(np.mean(prediction.errors**2, axis=0))
print("  rms of the error bars:", *bars.round(2), " of the errors:", *errors.round(2))
sound = np.isfinite(prediction.errors) & (prediction.errors > 0)
print(f"check   all errors are positive and finite: {sound.all()}")
