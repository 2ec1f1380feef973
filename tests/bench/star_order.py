"""Which training stars should come first: how near the dual of a subset is to that of all.

    python tests/bench/star_order.py [N_STARS]        # 600 stars: two minutes

Generated spectra of 300 pixels, a network 300-32-16-3 (ReLU) trained on them. For each number of
stars, the median (and largest) ratio of the model's standard deviations of 300 new stars from the
subset to those from all, for stars drawn at random as `Problem.pick_stars` does, for those of which
the residual variance is largest (pivoted Cholesky), and for those that explain most of the
variance of all training stars, which takes the whole kernel.
"""

import sys

import numpy as np

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder

SIZES = [300, 32, 16, 3]
NOISE = np.array([50.0, 0.1, 0.05])  # K, dex, dex
N_NEW = 300
SHARES = (0.05, 0.1, 0.2, 0.4)


def build_problem(n):
    rng = np.random.default_rng(0)
    stars = ss.datasets.generated_stars(n + N_NEW, n_pixels=SIZES[0], rng=rng)
    X, Y = stars.flux[:n], stars.labels[:n] + NOISE * rng.normal(size=(n, 3))
    net = ss.standardized(ss.mlp(SIZES), X, Y)
    reg = ss.Regression(net, sigma_noise=NOISE, prior_precision=ss.scaled_prior(net, 1.0))
    fit = ss.train(reg, X, Y, epochs=40, rng=rng, progress=False)
    return reg, fit.theta, X, Y, stars.flux[n:]


class Kernel:
    """Kernel of the training stars (star, label, star, label) in units of the noise."""

    def __init__(self, builder, theta, X_new):
        tangents = builder.tangents(theta)
        self.dual = builder.build(theta)
        self.new = builder.tangents(theta, X_new)
        n, C = tangents.n_stars, tangents.n_labels
        K = tangents.gram(tangents, self.dual.variance).reshape(C, n, C, n)
        self.K = K.transpose(1, 0, 3, 2) / NOISE[:, None, None] / NOISE
        self.n, self.C = n, C

    def order_by_variance(self, n):
        """Stars of the largest variance that is left, one after the other."""
        return self._order(n, lambda R: np.einsum("ncnc->n", R))

    def order_by_gain(self, n):
        """Stars that explain most of the variance of all, one after the other."""

        def gain(R):
            own = np.einsum("ncnd->ncd", R) + np.eye(self.C)
            squares = np.einsum("ncmd,nemd->nce", R, R, optimize=True)
            return np.trace(np.linalg.solve(own, squares), axis1=1, axis2=2)

        return self._order(n, gain)

    def _order(self, n, score):
        R, chosen = self.K.copy(), []
        flat = R.reshape(self.n * self.C, -1)
        for _ in range(n):
            scores = score(R)
            scores[chosen] = -np.inf
            star = int(np.argmax(scores))
            rows = R[star].reshape(self.C, -1)
            root = np.linalg.cholesky(R[star, :, star] + np.eye(self.C))
            explained = np.linalg.solve(root, rows)
            flat -= explained.T @ explained
            chosen.append(star)
        return np.array(chosen)


def find_ratios(builder, theta, kernel, stars):
    """Ratios (new star, label) of standard deviations from some stars to those from all."""
    exact = np.diagonal(kernel.dual.label_covariance(kernel.new), axis1=1, axis2=2)
    some = type(kernel.dual).of_stars(builder, theta, np.sort(stars))
    return np.sqrt(np.diagonal(some.label_covariance(kernel.new), axis1=1, axis2=2) / exact)


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    reg, theta, X, Y, X_new = build_problem(n)
    builder = InverseBuilder(reg, X, Y, structure="dual")
    kernel = Kernel(builder, theta, X_new)
    most = int(max(SHARES) * n)
    orders = {
        "at random": np.random.default_rng(0).permutation(n),
        "largest variance": kernel.order_by_variance(most),
        "most explained": kernel.order_by_gain(most),
    }
    print("| stars |", " | ".join(orders), "|")
    print("|---:|" + "---|" * len(orders))
    for share in SHARES:
        m = int(share * n)
        ratios = [find_ratios(builder, theta, kernel, order[:m]) for order in orders.values()]
        cells = [f"{np.median(r):.3f} ({r.max():.2f})" for r in ratios]
        print(f"| {m} of {n} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
