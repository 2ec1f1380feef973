"""A convolutional network of which only the weights are left: error bars, derivatives, a catalogue.

python examples/06_trained_network.py --page report.html    # a minute or two
python examples/06_trained_network.py --small               # seconds
"""

import argparse
import tempfile
from pathlib import Path

import h5py
import numpy as np
from astropy.table import Table

import symspec as ss

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--small", action="store_true", help="fewer stars and pixels")
parser.add_argument("--page", type=Path, help="the page; by default it is not kept")
args = parser.parse_args()
n_train, n_pixels, epochs = (300, 64, 60) if args.small else (2000, 256, 100)
rng = np.random.default_rng(6)
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)

# The architecture, as its authors published it: flux standardised, two convolutions, a pool, dense
# layers. It was trained on standardised labels: Unstandardize gives them their own units back.
window = {"wavelength_range": (5150.0, 5300.0), "rng": rng}
stars, held_out = (
    ss.datasets.generated_stars(n, n_pixels=n_pixels, snr=100, **window) for n in (n_train, 200)
)
net = ss.Network(
    [
        ss.Standardize.of(stars.flux),
        ss.Reshape((n_pixels, 1)),
        ss.Conv1D(4, 8, padding="same"),
        ss.Activation("softplus"),
        ss.Conv1D(8, 8, padding="same"),
        ss.Activation("softplus"),
        ss.MaxPool1D(4),
        ss.Flatten(),
        ss.Dense(32),
        ss.Activation("softplus"),
        ss.Dense(3),
        ss.Unstandardize.of(stars.labels),
    ],
    n_pixels,
    label_names=stars.label_names,
    label_units=stars.label_units,
    wavelength=stars.wavelength,
)
print(net)

# A file of weights, as Keras 2 writes one, and some predictions are what is usually left.
reg = ss.Regression(net, sigma_noise=[150.0, 0.3, 0.1], prior_precision=ss.scaled_prior(net, 1.0))
trained = ss.train(
    reg, stars.flux, stars.labels, epochs=epochs, learning_rate=5e-3, rng=rng, progress=False
).theta
blocks = net.unpack(trained)
with h5py.File(folder / "weights.h5", "w") as file:
    file.attrs["layer_names"] = list(net.layout.layers)
    for layer in net.layout.layers:
        group = file.create_group(layer)
        group.attrs["weight_names"] = [
            f"{name}:0" for name in blocks if name.startswith(f"{layer}/")
        ]
        for name in group.attrs["weight_names"]:
            group[name] = blocks[name.removesuffix(":0")].astype("float32")
known = stars.flux[:20], ss.compile_predict(net)(trained, stars.flux[:20])

# The file is data: nothing in it is run. `check` proves that what was read predicts what was
# trained.
net, theta = ss.read_network(folder / "weights.h5", net=net, check=known)
print(f"read {net.n_params:,} weights")
print(f"check: they are what was trained, in float32: {np.allclose(theta, trained, rtol=1e-6)}")

# The noise is the scatter of stars that it was not trained on. It was stopped early, as networks
# are: symspec says so, and flags every star.
residual = held_out.labels - ss.compile_predict(net)(theta, held_out.flux)
reg = ss.Regression(
    net,
    sigma_noise=np.sqrt(np.mean(residual**2, axis=0)),
    prior_precision=ss.scaled_prior(net, 1.0),
)
laplace = ss.fit_laplace(reg, theta, stars.flux, stars.labels, require_minimum=False)
print(f"{laplace.reason}\ncertificate: {laplace.certificate.message}")

# New stars from another instrument, on its own wavelengths, with their errors.
pixels = np.linspace(5145.0, 5305.0, 3 * n_pixels)
new = ss.datasets.generated_stars(
    200, n_pixels=len(pixels), snr=100, wavelength_range=(5145.0, 5305.0), rng=rng
)
np.savez(folder / "new.npz", flux=new.flux, ivar=new.ivar, wavelength=new.wavelength, ids=new.ids)
try:
    ss.predict_survey(folder / "catalogue.fits", laplace, folder / "new.npz")
except ss.ShapeError as error:
    print(f"as they are: {error}")
survey = ss.predict_survey(
    folder / "catalogue.fits",
    laplace,
    folder / "new.npz",
    resample="flux_conserving",
    flag_options=ss.FlagOptions(min_snr=30),
)

table = Table.read(folder / "catalogue.fits")
print(table["ID", "TEFF", "TEFF_ERR", "TEFF_MODEL_ERR", "TEFF_FLUX_ERR", "SNR", "FLAGS"][:5])
z = (survey.prediction.labels - new.labels) / survey.prediction.errors
print(f"check: two errors hold at least 90 % of the true labels: {np.mean(np.abs(z) < 2) > 0.9}")

# One page for a referee: what was done, the error budget, whether the error bars are true.
page = ss.write_report(
    args.page or folder / "report.html",
    laplace,
    catalogue=folder / "catalogue.fits",
    training=stars,
    overwrite=True,
)
print(f"{page.name}: {page.stat().st_size / 2**20:.1f} MiB, loads nothing")

# The derivative of the first label, averaged over the stars, shows what the temperature rests on.
summary = ss.write_jacobian(
    folder / "jacobian.h5", net, theta, folder / "new.npz", resample="flux_conserving"
)
strongest = summary.wavelength[np.argsort(-np.abs(summary.mean[0]))[:3]]
temporary.cleanup()
print("dTEFF/dflux is largest at", ", ".join(f"{w:.1f}" for w in strongest), "Angstrom")
