"""Coverage of a network that was stopped early, around its weights and around its linearisation.

    .venv/bin/python tests/bench/early_stopping.py

Generated stars, a network of 300-64-32-3 whose noise is the scatter around it, after 5 epochs of
Adam and after many. Printed is the share of 1,000 stars that were not trained on within the
intervals of 68 and 95 %, label by label, and the scatter around the truth.
"""

import warnings

import numpy as np

import symspec as ss
from symspec.fitting.start import build_start

EPOCHS = (5, 20, 200)


def main():
    stars = ss.datasets.generated_stars(4000, n_pixels=300, rng=np.random.default_rng(1))
    known, new = stars[:3000], stars[3000:]
    spread = known.labels.std(axis=0)
    start = build_start(known, [64, 32], "tanh")
    net = start.net
    print(f"{'epochs':>6} | {'center':10} | {'shift':>6} | 68 % | 95 % | scatter / spread")
    for epochs in EPOCHS:
        theta = ss.train(
            start, known, epochs=epochs, rng=np.random.default_rng(0), progress=False
        ).theta
        scatter = np.nanstd(ss.compile_predict(net)(theta, known.flux) - known.labels, axis=0)
        reg = ss.Regression(net, sigma_noise=scatter, prior_precision=start.prior_precision)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ss.NotAtMinimumWarning)
            laplace = ss.fit_laplace(reg, theta, known, progress=False)
        for center in ("weights", "linearized"):
            prediction = laplace.predict(new.flux, center=center, progress=False)
            shares = [
                ", ".join(f"{share:.2f}" for share in of_labels)
                for of_labels in ss.coverage(prediction, new.labels)
            ]
            far = np.median(np.abs(prediction.newton_shift))
            found = (prediction.labels - new.labels).std(axis=0) / spread
            scatters = ", ".join(f"{s:.3f}" for s in found)
            print(f"{epochs:6} | {center:10} | {far:6.2f} | {shares[0]} | {shares[1]} | {scatters}")


if __name__ == "__main__":
    main()
