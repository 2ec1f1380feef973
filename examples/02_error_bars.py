"""From training spectra to a catalogue with error bars: train, tune, certify, predict, compare.

python examples/02_error_bars.py            # 1,000 stars of 100 pixels: a minute or two
python examples/02_error_bars.py --small    # seconds
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import symspec as ss

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--small", action="store_true", help="200 stars of 60 pixels")
n_train, n_pixels, hidden = (300, 30, 4) if parser.parse_args().small else (1000, 100, 8)
rng = np.random.default_rng(2)

# Stars are generated around the Mg b triplet, so that the truth is known: good spectra to train on,
# ordinary ones to predict. Catalogued labels scatter around the true ones. sigma_noise should come
# out as this scatter, and what flux errors and the small size of the network add to it.
window = {"n_pixels": n_pixels, "wavelength_range": (5150.0, 5300.0), "rng": rng}
stars = ss.datasets.generated_stars(n_train, snr=1000, **window)
new = ss.datasets.generated_stars(500, snr=300, **window)
scatter = np.array([50.0, 0.10, 0.05])
X, Y = stars.flux, stars.labels + scatter * rng.normal(size=stars.labels.shape)
truth = new.labels + scatter * rng.normal(size=new.labels.shape)

# Adam trains the weights; the evidence then sets noise and prior, and ends at a true minimum.
net = ss.mlp(
    [n_pixels, hidden, 3],
    activation="tanh",
    label_names=stars.label_names,
    label_units=stars.label_units,
)
net = ss.standardized(net, X, Y)
reg = ss.Regression(net, sigma_noise=[200.0, 0.4, 0.15], prior_precision=ss.scaled_prior(net, 1.0))
fit = ss.train(reg, X, Y, epochs=100, rng=rng, progress=False)
reg, theta = ss.tune(reg, fit.theta, X, Y)
lap = ss.fit_laplace(reg, theta, X, Y)
print(net)
print(f"certificate: {lap.certificate.message}")
print(f"inverse Hessian: {lap.reason}")
print(f"log marginal likelihood: {lap.log_marginal_likelihood():.1f} nats")
print("noise found", *reg.sigma_noise.round(3), "with a scatter of", *scatter, "put in")

# The first new star has a cosmic ray, the second no blue end: ivar = 0 means no information.
ivar = new.ivar.copy()
ivar[0, n_pixels // 2] = ivar[1, : n_pixels // 10] = 0
prediction = lap.predict(new.flux, ivar=ivar)

print("\nerror budget of the first stars (standard deviations)")
print("star  label             value    model     flux    noise    total   bad pixels  flags")
parts = [prediction.model_cov, prediction.flux_cov, prediction.noise_cov, prediction.total_cov]
budget = np.sqrt([np.diagonal(part, axis1=1, axis2=2) for part in parts])  # (part, star, label)
for star in range(4):
    flags = ss.Flag(int(prediction.flags[star])).name or "none"
    for i, name in enumerate(
        f"{n} [{u}]" for n, u in zip(net.label_names, net.label_units, strict=True)
    ):
        numbers = " ".join(f"{b:8.3f}" for b in budget[:, star, i])
        end = f"{prediction.n_bad_pixels[star]:12d}  {flags}" if i == 0 else ""
        print(f"{star:4d}  {name:12s} {prediction.labels[star, i]:10.3f} {numbers} {end}")

# Do the errors cover the labels as often as they say?
z = np.abs(prediction.labels - truth) / prediction.errors
print(
    "\ncoverage of the catalogued labels (expected 68.3 and 95.4 %, to some"
    f" {100 * np.sqrt(0.22 / len(new)):.0f} %)"
)
for i, name in enumerate(net.label_names):
    print(f"  {name:5s} {100 * np.mean(z[:, i] < 1):5.1f} % {100 * np.mean(z[:, i] < 2):5.1f} %")
print("More often than expected means error bars on the wide side; less often would be worse.")
safe = np.mean(z < 1) > 0.683 - 0.05 and np.mean(z < 2) > 0.954 - 0.05
print(f"check: the errors cover at least as often as they say: {safe}")

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "catalogue.fits"
    ss.write_catalogue(path, prediction, new.ids)
    print(f"check: catalogue written: {path.name}, {path.stat().st_size:,} bytes")
