"""A linear network, whose minimum has a closed form, and a small one with a hidden layer."""

import numpy as np
from scipy.stats import norm

from symspec.derivatives.functions import SumFunction
from symspec.networks.network import mlp
from symspec.networks.regression import Regression

SIGMA = np.array([0.5, 2.0])
KERNEL_PRECISION, BIAS_PRECISION = 3.0, 0.7
OF_BATCH = SumFunction.of_batch  # before any test has replaced it


def rng(seed=0):
    return np.random.default_rng(seed)


def make_stars(n, n_pixels=4, n_labels=2, seed=1):
    source = rng(seed)
    X = source.normal(size=(n, n_pixels))
    Y = X @ source.normal(size=(n_pixels, n_labels)) + 1.5 + 0.3 * source.normal(size=(n, n_labels))
    return X, Y


def solve_ridge(X, Y):
    """Normal equations of the linear network, label by label, on the stars that have the label."""
    A = np.column_stack([X, np.ones(len(X))])
    prior = np.diag([KERNEL_PRECISION] * X.shape[1] + [BIAS_PRECISION])
    W = []
    for y, sigma in zip(Y.T, SIGMA, strict=True):
        seen = ~np.isnan(y)
        H = A[seen].T @ A[seen] / sigma**2 + prior
        W.append(np.linalg.solve(H, A[seen].T @ y[seen] / sigma**2))
    W = np.array(W).T
    return np.concatenate([W[:-1].ravel(), W[-1]])


def share_of_U(theta, X, Y, weight):
    """U's share of some stars and its gradient for the linear network, written out."""
    W, b = theta[:8].reshape(4, 2), theta[8:]
    r = X @ W + b - Y
    precision = np.array([KERNEL_PRECISION] * 8 + [BIAS_PRECISION] * 2)
    U = (
        -norm.logpdf(Y, X @ W + b, SIGMA).sum()
        - weight * norm.logpdf(theta, 0, precision**-0.5).sum()
    )
    g = np.concatenate([(X.T @ (r / SIGMA**2)).ravel(), (r / SIGMA**2).sum(axis=0)])
    return U, g + weight * precision * theta


def scalar_adam(theta, gradients, *, rate, beta_1, beta_2, epsilon, decay, start=0, m=None, v=None):
    """Keras's update, one entry and one step at a time."""
    theta = [float(x) for x in theta]
    m, v = m or [0.0] * len(theta), v or [0.0] * len(theta)
    for t, g in enumerate(gradients, start=start + 1):
        lr = rate / (1 + decay * (t - 1)) * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        for i in range(len(theta)):
            m[i] = beta_1 * m[i] + (1 - beta_1) * g[i]
            v[i] = beta_2 * v[i] + (1 - beta_2) * g[i] ** 2
            theta[i] -= lr * m[i] / (np.sqrt(v[i]) + epsilon)
    return np.array(theta), m, v


def build_linear():
    """Four pixels, two labels."""
    prior = {"dense_0/kernel": KERNEL_PRECISION, "dense_0/bias": BIAS_PRECISION}
    return Regression(mlp([4, 2]), sigma_noise=SIGMA, prior_precision=prior)


def build_small():
    """Four pixels, five hidden units, two labels."""
    return Regression(mlp([4, 5, 2], activation="tanh"), sigma_noise=0.5, prior_precision=1.0)


def interrupt_after(monkeypatch, k):
    """Raise KeyboardInterrupt in the call of a sum over stars that follows k of them."""
    calls = []

    def of_batch(self, *args, **options):
        calls.append(1)
        if len(calls) > k:
            raise KeyboardInterrupt
        return OF_BATCH(self, *args, **options)

    monkeypatch.setattr(SumFunction, "of_batch", of_batch)
