"""The examples run as a reader runs them, from another directory, and say what they promise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# a pip-installed PyTensor finds no BLAS for its C backend and says so once, over several lines
WARNINGS = ["-W", "error", "-W", "ignore:PyTensor could not link to a BLAS:UserWarning"]

SAID = {
    "01_the_question": [
        "operands could not be broadcast together",
        "setting an array element with a sequence",
        "Jacobian is required for Newton-CG method",
        "Wrong number of dimensions: expected 1, got 2",
        "tensor.jacobian expects a 1 dimensional variable as `expression`",
        "positive definite",
        "not to be published",
        "(32, 3, 713)",
        "check   equal to central differences in pixels",
        "check   all errors are positive and finite: True",
    ],
    "02_error_bars": [
        "certificate: at a minimum",
        "log marginal likelihood: ",
        "BAD_PIXELS|INFORMATION_MISSING",
        "check: the errors cover at least as often as they say: True",
        "check: catalogue written: catalogue.fits",
    ],
    "03_compiled_functions": [
        "hessian_vector_product",
        "ggn_vector_product",
        'jacobian, "theta"',
        "one spectrum, float32: (3, 30) float32",
        "check: the gradient vanishes there: True",
        "check: they are equal: True",
    ],
    "04_hmc_check": [
        "Where there are data (42 points)",
        "In the gap (17 points)",
        "ggn primal",
        "sandwich",
        "HMC converged: R-hat at most 1.01",
        "check: in the gap HMC's error is more than twice that among the data: True",
    ],
    "06_trained_network": [
        "Network(64-64x4-64x8-32-3, 4,527 parameters",
        "certificate: not at a minimum",
        "as they are: the network takes spectra of 64 pixels, got 192",
        "check: they are what was trained, in float32: True",
        "report.html: ",
        "dTEFF/dflux is largest at",
    ],
    "07_meat": [
        "linear",
        "certificate: at a minimum",
        "16 new samples: scatter, median error, share within 68 and 95 %",
        "meat.html: ",
    ],
    "05_pymc_script": [
        "free variables: level, between, log_sigma, theta_whitened",
        "r_hat",
        "check: the scatter that was put in is found to 30 %: True",
        "median sd ratio to Laplace",
    ],
}
N_CHECKS = {
    "01_the_question": 5,
    "02_error_bars": 2,
    "03_compiled_functions": 3,
    "04_hmc_check": 3,
    "05_pymc_script": 2,
    "06_trained_network": 2,
    "07_meat": 1,
}


@pytest.mark.parametrize("name", SAID)
def test_an_example_runs_without_a_warning_and_its_checks_hold(name, tmp_path):
    script = ROOT / "examples" / f"{name}.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, *WARNINGS, str(script), "--small"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    for words in SAID[name]:
        assert words in done.stdout
    checks = [line for line in done.stdout.splitlines() if line.startswith("check")]
    assert len(checks) == N_CHECKS[name]
    assert not [line for line in checks if line.endswith("False")]
    assert not list(tmp_path.iterdir())


def test_every_example_is_run():
    assert sorted(SAID) == sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
