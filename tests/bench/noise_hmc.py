"""Laplace under each noise against Hamiltonian Monte Carlo: which curvature is Student's t to have?

    python tests/bench/noise_hmc.py [PROBLEM ...]      # tecator, generated: an hour and a half

A network 100-5-3 (tanh), on the meat spectra of Tecator and on generated spectra whose labels have
5 % outliers, with normal noise, Student's t, noise that the network predicts, and normal noise
beside errors of the labels. Ratios are HMC's standard deviations of the outputs for other spectra
over those of Laplace: by the expected information (what symspec takes), by the weights of the
majorising normal, which reweighted least squares have in the end, and by the exact Hessian.

Where the two disagree, either Laplace's matrix is wrong or the posterior is no normal. A second
row tells which: the same minimum of the posterior to the power of 9 (every star nine times, the
prior nine times as precise), a third as wide, whose departure from a normal is a ninth of what it
was. Ratios near one there say that the matrix is right, and the shape is what the first row shows.
Where a posterior has several modes, chains stay in different ones; *within chains* is the ratio, to
the expected information's, of the deviations that they have each for itself.
The prior of the generated spectra is tuned: with that of Tecator, the noise that the network
predicts goes to nothing at some stars, where U falls for tens of thousands of steps.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.signal import savgol_filter

import symspec as ss

TECATOR = Path(__file__).parents[3] / "shared/data/tecator/tecator_meats.npz"
DOF = 4.0
N_TRAIN = 172
POWERS = (1, 9)
PRIORS = {"tecator": "fixed", "generated": "scale"}
CURVATURES = ("expected", "majoriser", "exact")


def read_tecator():
    """Derivatives of near-infrared spectra, with moisture, fat and protein."""
    data = np.load(TECATOR)
    X = savgol_filter(data["spectra"], 9, 2, deriv=1)
    Y = data["labels"]
    return X[:N_TRAIN], Y[:N_TRAIN], X[N_TRAIN:]


def generate_spectra():
    """Spectra of 100 pixels, whose labels scatter, one in twenty of them ten times as far."""
    rng = np.random.default_rng(5)
    stars = ss.datasets.generated_stars(
        N_TRAIN + 40, n_pixels=100, snr=100, wavelength_range=(5150, 5300), rng=rng
    )
    scatter = np.array([100.0, 0.2, 0.1])
    wide = np.where(rng.uniform(size=(N_TRAIN, 3)) < 0.05, 10.0, 1.0)
    Y = stars.labels[:N_TRAIN] + wide * scatter * rng.normal(size=(N_TRAIN, 3))
    return stars.flux[:N_TRAIN], Y, stars.flux[N_TRAIN:]


PROBLEMS = {"tecator": read_tecator, "generated": generate_spectra}


def list_noises(Y):
    """Noise, and errors of the labels, by name; the errors are from 0.3 to 3 times the noise."""
    sigma = 0.15 * Y.std(axis=0)
    rng = np.random.default_rng(2)
    errors = sigma * np.exp(rng.uniform(np.log(0.3), np.log(3), size=Y.shape))
    return {
        "normal": (ss.GaussianNoise(sigma), Y, None),
        f"Student's t, {DOF:g}": (ss.StudentTNoise(sigma, DOF), Y, None),
        "predicted": (ss.PredictedNoise(), Y, None),
        "label errors": (ss.GaussianNoise(sigma), Y + errors * rng.normal(size=Y.shape), errors),
    }


def fit(noise, prior, X, Y, errors):
    """Regression, tuned, and weights at its minimum."""
    widths = [100, 5, 3 * noise.outputs_per_label]
    net = ss.standardized(ss.mlp(widths, activation="tanh", n_labels=3), X, Y)
    reg = ss.Regression(net, noise=noise, prior_precision=ss.scaled_prior(net, 4.0))
    rng = np.random.default_rng(0)
    theta = ss.train(reg, X, Y, label_errors=errors, epochs=300, rng=rng, progress=False).theta
    return ss.tune(reg, theta, X, Y, label_errors=errors, prior=prior, progress=False)


def find_majoriser_sd(reg, theta, X, Y, X_check):
    """Standard deviations by the weights (nu + 1) / (nu s^2 + r^2) of Student's t."""
    noise = reg.noise
    jacobian = ss.compile_jacobian(reg.net, "theta")
    r = Y - ss.compile_predict(reg.net)(theta, X)
    w = (noise.dof + 1) / (noise.dof * noise.scale**2 + r**2)
    J = jacobian(theta, X)
    A = np.einsum("nci,nc,ncj->ij", J, w, J) + np.diag(reg.prior_precision_vector())
    J_check = jacobian(theta, X_check)
    half = np.linalg.solve(np.linalg.cholesky(A), J_check.reshape(-1, theta.size).T)
    return np.sqrt((half**2).sum(axis=0)).reshape(J_check.shape[:2])


def sharpen(reg, X, Y, errors, power):
    """Regression and stars whose posterior is that of `reg` to a power: the minimum is the same."""
    precision = power * reg.prior_precision_vector()
    sharp = ss.Regression(reg.net, noise=reg.noise, prior_precision=precision)
    stars = [None if a is None else np.repeat(a, power, axis=0) for a in (X, Y, errors)]
    return sharp, *stars


def compare(problem, name, reg, theta, X, Y, errors, X_check):
    """Print a row of the table: HMC of this posterior beside Laplace by each curvature."""
    words = {"label_errors": errors, "structure": "primal", "progress": False}
    laplace = ss.fit_laplace(reg, theta, X, Y, **words)
    draws = ss.run_hmc(
        reg, X, Y, label_errors=errors, laplace=laplace, X_check=X_check, seed=1,
        n_draws=1000, n_tune=600, progress=False,
    )  # fmt: skip
    check = ss.compare_hmc(laplace, draws, X_check)
    exact = ss.fit_laplace(reg, theta, X, Y, curvature="hessian", require_minimum=False, **words)
    sds = {"expected": check.laplace_sd}
    sds["exact"] = np.sqrt(np.einsum("ncc->nc", exact.label_covariance(X_check)))
    if isinstance(reg.noise, ss.StudentTNoise):
        sds["majoriser"] = find_majoriser_sd(reg, theta, X, Y, X_check)
    f = draws["posterior"]["f"].values  # (chain, draw, star, label)
    within = np.sqrt(f.var(axis=1).mean(axis=0)) / sds["expected"]
    error = np.median(check.sd_ratio_error, axis=0)
    cells = []
    for curvature in CURVATURES:
        ratios = "-"
        if curvature in sds:
            ratios = ", ".join(f"{m:.2f}" for m in np.median(check.hmc_sd / sds[curvature], axis=0))
        cells.append(ratios)
    cells.append(", ".join(f"{m:.2f}" for m in np.median(within, axis=0)))
    print(
        f"| {problem} | {name} | {' | '.join(cells)} | {error.max():.3f} |"
        f" {np.median(np.abs(check.shift), axis=0).max():.2f} | {', '.join(check.verdict)} |"
        f" {check.rhat.max():.3f} | {check.ess.min():.0f} | {check.divergences} |",
        flush=True,
    )


def main(problems):
    titles = "problem | noise | expected | majoriser | exact | within chains | error | shift"
    print(f"| {titles} | verdict | R-hat | ESS | divergences |\n|{'---|' * 12}")
    for problem in problems or PROBLEMS:
        X, Y, X_check = PROBLEMS[problem]()
        for name, (noise, labels, errors) in list_noises(Y).items():
            reg, theta = fit(noise, PRIORS[problem], X, labels, errors)
            for power in POWERS:
                sharp, *stars = sharpen(reg, X, labels, errors, power)
                compare(problem, f"{name}, to the {power}", sharp, theta, *stars, X_check)


if __name__ == "__main__":
    main(sys.argv[1:])
