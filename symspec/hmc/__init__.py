"""The check of the error bars by Hamiltonian Monte Carlo."""

from symspec.hmc.comparison import HmcComparison, compare_hmc
from symspec.hmc.model import pymc_model
from symspec.hmc.sampling import run_hmc

__all__ = ["HmcComparison", "compare_hmc", "pymc_model", "run_hmc"]
