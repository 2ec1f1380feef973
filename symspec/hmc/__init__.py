r"""The check by Hamiltonian Monte Carlo: a PyMC model, its draws, and a verdict on the error bars.

Laplace's error bars are a normal approximation. `run_hmc` samples the posterior itself, by PyMC on
the network's own graph, and `compare_hmc` holds the two against each other in function space, star
by star and label by label; weights are never compared.

::

    draws = ss.run_hmc(reg, X, Y, laplace=laplace, X_check=X_new, seed=1) # an ArviZ DataTree:
    posterior/f (chain, draw, star, label_name), posterior/theta (chain, draw, param) check =
    ss.compare_hmc(laplace, draws, X_new)  # sd_ratio, shift, quantiles, rhat, ess, pareto_k
    print(check.verdict)  # a word for each label laplace = check.mark(laplace)  # predictions are
    flagged (32) if HMC contradicts

Coordinates
    The chains move in z of theta = theta* + L z with L L^T = A^-1 (structures primal, dual,
    low_rank, kronecker, ekfac, diagonal) and start at Laplace draws. What they converge to does not
    depend on it; how fast they get there does.
Verdicts
    *HMC not converged*: R-hat of f above 1.01, an ESS below 400, or more than 1 % divergent draws.
    *Laplace too small* or *too large*: median sd ratio more than 10 % from 1, or more than 10 % of
    the stars by more than 25 %. *Laplace off centre*: median \|shift\| above 0.3 sd. Each limit has
    three Monte Carlo errors on top. Else *agree*.
Pareto k
    of the Laplace draws' importance weights looks at all weights of the network at once, and is
    above 0.7 for almost any network of some size: symmetries alone do that. It says where to look,
    not that error bars of f are wrong.
Large networks
    ``subset="last_layer"`` or ``subset=50`` (leading directions of the curvature) sample a part
    with the rest held fixed, and are compared with Laplace on that same part; every output says so.
    What would take days is refused, with the estimate.
Your own model
    `pymc_model(reg, X, Y, laplace=laplace)` is an ordinary `pm.Model` with dims star, label and
    param, and data "flux" and "labels" to swap; inside ``with pm.Model():`` it joins yours. PyMC
    distributions can stand for `sigma_noise` and `prior_precision`. `examples/05_pymc_script.py`
    has hierarchical noise and posterior predictive draws; for these `pm.sample(var_names=...)` has
    to keep the free variables ("theta_whitened"), or they come from their priors.

    >>> import numpy as np
    >>> import symspec as ss
    >>> X, net = np.eye(4), ss.mlp([4, 2, 1], activation="tanh")
    >>> reg = ss.Regression(net, sigma_noise=0.1, prior_precision=1.0)
    >>> model = ss.pymc_model(reg, X, np.ones((4, 1)))
    >>> [variable.name for variable in model.free_RVs]
    ['theta']

Samplers
    nutpie samples where it is installed (`pip install "symspec[hmc]"`), else PyMC's own sampler,
    several times slower. That one starts processes: a script that calls it keeps its work under
    ``if __name__ == "__main__":``.
From files
    `symspec hmc model.h5 stars.h5 draws.nc --table check.ecsv --plots figures --checked-model
    checked.h5` does all of it.

What it finds, for the gap problem (1-20-20-1 tanh, 501 weights, 150 points at 1 <= \|x\| <= 3,
noise 0.1; `python examples/04_hmc_check.py`): among the data HMC's standard deviation is 1.01 of
Laplace's, in the gap 2.3, and the verdict is *Laplace too small*, as no single basin is the
posterior there. `tests/bench/README.md` has this table and those of real spectra.
"""

from symspec.hmc.comparison import HmcComparison, compare_hmc
from symspec.hmc.model import pymc_model
from symspec.hmc.sampling import run_hmc

__all__ = ["HmcComparison", "compare_hmc", "pymc_model", "run_hmc"]
