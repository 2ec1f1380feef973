r"""The error of the mean of 100 stars, which `joint_covariance` gives, against 200 trainings.

    OPENBLAS_NUM_THREADS=1 python tests/bench/cluster_mean.py [N_TRAININGS [NETWORK ... DRAWN ...]]

Two networks of 30 pixels and 2 labels, one linear and one of 6 tanh units, are trained on 200 stars
whose labels are those of weights that are known, plus noise that is known. With c the mean of the
stars' df/dtheta, A = H + delta, and H the stars' part of it, three things have a
distribution. With 200 trainings each it takes ten minutes; NETWORK is one of `NETWORKS`, DRAWN
truth or noise.

truth and noise drawn
    Weights are drawn from the prior, then noise, and what counts is the mean predicted less the
    true one. Its variance is that of the posterior, c A^-1 c, which is what is said: exactly for
    the linear network, and as far as the other is linear within its error, which it is more at a
    tenth of the noise.
noise drawn
    The weights stay, noise is drawn, and what counts is the mean predicted less its own mean over
    all trainings. The prior holds it, so that it scatters by less than the posterior says: by
    c A^-1 H A^-1 c.
bias
    The rest of the posterior's variance: what the prior draws the mean by, -c A^-1 delta theta,
    has the variance c A^-1 delta A^-1 c over truths.

Trainings go from the truth to the minimum. Ratios are roots of mean squares, to within 1 /
sqrt(2 N_TRAININGS), with robust ones behind them; *alone* is that to the error of independent
stars, sqrt(sum V) / 100.
"""

import sys
import time

import numpy as np

import symspec as ss

N_TRAINING = 200
N_CLUSTER = 100
N_PIXELS = 30
SIGMA = np.array([0.3, 0.1])
NETWORKS = {  # hidden layers, and the noise in units of SIGMA
    "linear": ([], 1.0),
    "6 tanh": ([6], 1.0),
    "6 tanh, a tenth of the noise": ([6], 0.1),
}


def read_flux():
    """Flux of training stars and of the cluster, in units of each pixel's scatter."""
    stars = ss.datasets.generated_stars(
        N_TRAINING + N_CLUSTER,
        n_pixels=N_PIXELS,
        snr=50,
        wavelength_range=(5150, 5300),
        rng=np.random.default_rng(0),
    )
    flux = (stars.flux - stars.flux.mean(axis=0)) / stars.flux.std(axis=0)
    return flux[:N_TRAINING], flux[N_TRAINING:]


class Problem:
    """A network with a prior, from which truths are drawn, and stars to train it on."""

    def __init__(self, hidden, noise):
        net = ss.mlp([N_PIXELS, *hidden, 2], activation="tanh")
        prior = ss.scaled_prior(net, 1.0)
        self.sigma = noise * SIGMA
        self.reg = ss.Regression(net, sigma_noise=self.sigma, prior_precision=prior)
        self.X, self.cluster = read_flux()
        self.predict = ss.compile_predict(net)
        self.precision = self.reg.prior_precision_vector()

    def draw_truth(self, rng):
        return rng.normal(size=self.precision.size) / np.sqrt(self.precision)

    def train(self, truth, rng):
        """Posterior around the minimum for labels of this truth with new noise."""
        Y = self.predict(truth, self.X) + self.sigma * rng.normal(size=(N_TRAINING, 2))
        theta = ss.polish(self.reg, truth, self.X, Y, tolerance=1e-12, progress=False).theta
        return ss.fit_laplace(self.reg, theta, self.X, Y, structure="primal", progress=False)

    def find_mean(self, theta):
        return self.predict(theta, self.cluster).mean(axis=0)

    def find_errors(self, laplace):
        """Standard deviations (3, label) of the mean: as said, alone, and with the noise drawn."""
        V = laplace.joint_covariance(self.cluster)
        own = np.einsum("ncnc->nc", V)
        c = np.concatenate([t.dense() for _, t in laplace.tangents(self.cluster)]).mean(axis=0)
        v = laplace.inverse_hessian @ c.T
        variances = [
            np.einsum("ncmc->c", V) / N_CLUSTER**2,
            own.sum(axis=0) / N_CLUSTER**2,
            np.einsum("cp,pc->c", c, v) - np.einsum("pc,p,pc->c", v, self.precision, v),
        ]
        return np.sqrt(variances)


def describe(z):
    """Root mean square of deviations (training, label) in units of an error, and robust scatter."""
    rms = np.sqrt(np.mean(np.square(z), axis=0))
    error = 1 / np.sqrt(2 * len(z))
    each = ", ".join(f"{x:.2f} ± {x * error:.2f}" for x in rms)
    return f"{each} ({', '.join(f'{x:.2f}' for x in ss.sigma_mad(z))})"


def draw_truths(name, n_trainings):
    problem = Problem(*NETWORKS[name])
    rng = np.random.default_rng(1)
    deviations, errors = [], []
    for _ in range(n_trainings):
        truth = problem.draw_truth(rng)
        laplace = problem.train(truth, rng)
        deviations.append(problem.find_mean(laplace.theta) - problem.find_mean(truth))
        errors.append(problem.find_errors(laplace))
    said, alone, _ = np.moveaxis(errors, 1, 0)
    report(name, "truth and noise", deviations / said, None, deviations / alone)


def draw_noise(name, n_trainings):
    problem = Problem(*NETWORKS[name])
    rng = np.random.default_rng(2)
    truth = problem.draw_truth(rng)
    each = [problem.train(truth, rng) for _ in range(n_trainings)]
    means = np.array([problem.find_mean(laplace.theta) for laplace in each])
    away = (means - means.mean(axis=0)) * np.sqrt(n_trainings / (n_trainings - 1))
    said, alone, scatters = np.moveaxis([problem.find_errors(one) for one in each], 1, 0)
    report(name, "noise", away / said, away / scatters, away / alone)


DRAWN = {"truth": draw_truths, "noise": draw_noise}


def report(name, what, to_said, to_scatter, to_alone):
    scatter = "" if to_scatter is None else describe(to_scatter)
    print(
        f"| {name} | {what} | {describe(to_said)} | {scatter} | {describe(to_alone)} |", flush=True
    )


def main(n_trainings="200", *words):
    begin = time.perf_counter()
    print("| network | what is drawn | over the error said | over c A^-1 H A^-1 c | over alone |")
    print("|---|---|---:|---:|---:|")
    for name in [word for word in words if word in NETWORKS] or NETWORKS:
        for what in [word for word in words if word in DRAWN] or DRAWN:
            DRAWN[what](name, int(n_trainings))
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
