"""Near-infrared spectra of meat: how wide a network, error bars, and a page for a referee.

python examples/07_meat.py --samples meats.csv --page meat.html    # a few minutes
python examples/07_meat.py --small                                 # generated spectra: seconds

The 215 samples were measured with a Tecator Infratec and may be passed on. The package modeldata of
R has them: write.csv(modeldata::meats, "meats.csv", row.names = FALSE) makes a table of columns
x_001 to x_100 (absorbance, 850 to 1050 nm), water, fat, protein (%).
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from astropy.table import Table

import symspec as ss

NAMES = ("water", "fat", "protein")
SMALL = {"hidden": [()], "folds": 2, "n_workers": 1}


def generate_meat(rng, n_samples=80, n_pixels=30):
    """Absorbance (sample, pixel) of three broad bands on a baseline, and what it is of (%)."""
    fat = rng.uniform(2, 45, size=n_samples)
    protein = 21 - 0.15 * fat + 1.5 * rng.normal(size=n_samples)
    contents = np.stack([99 - fat - protein, fat, protein], axis=1)
    x = np.linspace(0, 1, n_pixels)
    bands = np.exp(-((x - np.array([[0.65], [0.4], [0.9]])) ** 2) / 0.02)
    light = rng.uniform(0.8, 1.2, size=(n_samples, 1))  # how far it goes through the sample
    baseline = rng.uniform(2, 3, size=(n_samples, 1))
    noise = 1e-3 * rng.normal(size=(n_samples, n_pixels))
    return baseline + light * (contents @ bands) / 50 + noise, contents


def read_meat(path):
    """The same of a table, whose other columns are pixels."""
    table = Table.read(path, format="csv")
    pixels = [name for name in table.colnames if name not in NAMES]
    return np.array([table[name] for name in pixels]).T, np.array([table[n] for n in NAMES]).T


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=Path, help="table of samples; by default generated ones")
    parser.add_argument("--page", type=Path, help="the page; by default it is not kept")
    parser.add_argument("--small", action="store_true", help="a linear network alone, two folds")
    args = parser.parse_args()
    if args.samples is None:
        absorbance, contents = generate_meat(np.random.default_rng(7))
    else:
        absorbance, contents = read_meat(args.samples)
    samples = ss.Spectra(
        flux=absorbance,
        labels=contents,
        label_names=NAMES,
        label_units=["%"] * 3,
        wavelength=np.linspace(850, 1050, absorbance.shape[1]),
        wavelength_unit="nm",
        ids=[f"sample {i + 1}" for i in range(len(contents))],
    )
    n_known = int(0.8 * len(samples))
    known, new = samples[:n_known], samples[n_known:]

    # The first derivative along the spectrum takes baselines away: within the network, so that
    # nobody can forget it. Networks are tried, linear and wider, until one predicts samples held
    # out worse. Folds run in processes, which is why this script begins at its end.
    options = SMALL if args.small else {}
    found = ss.select(known, preprocess="savgol:9:2:1", progress=False, **options)
    print("network      weights   log score   behind the best")
    for one in found.candidates:
        mark = "<- chosen" if one.is_chosen else ""
        behind = f"{one.behind:.2f} +- {one.behind_error:.2f}" if one.behind else "-"
        print(f"{one.name:12} {one.n_params:7} {one.log_score:11.2f}   {behind:15} {mark}")
    laplace = found.laplace
    print(f"certificate: {laplace.certificate.message}")

    # Samples that nothing was trained or chosen on.
    prediction = laplace.predict(new, progress=False)
    print(f"\n{len(new)} new samples: scatter, median error, share within 68 and 95 %")
    inside = ss.coverage(prediction, new.labels)
    scatter = ss.sigma_mad(prediction.labels - new.labels)
    errors = np.median(prediction.errors, axis=0)
    for name, s, error, shares in zip(NAMES, scatter, errors, 100 * inside.T, strict=True):
        print(f"{name:8} {s:6.2f} % {error:6.2f} % {shares[0]:5.0f} % {shares[1]:5.0f} %")
    is_wide = bool((inside[1] > 0.95 - 3 * np.sqrt(0.05 * 0.95 / len(new))).all())
    print(f"check: intervals of 95 % hold as many, within three binomial errors: {is_wide}")

    # One page, in the words of whoever measured samples: it loads nothing, and prints.
    with tempfile.TemporaryDirectory() as folder:
        page = ss.write_report(
            args.page or Path(folder) / "meat.html",
            laplace,
            stars=new,
            training=known,
            object_name="sample",
            title="Water, fat and protein of meat",
            overwrite=True,
        )
        print(f"\n{page.name}: {page.stat().st_size / 2**20:.1f} MiB, loads nothing")


if __name__ == "__main__":
    main()
