"""scikit-learn's checks of estimators, with fits of real networks: two minutes.

    OPENBLAS_NUM_THREADS=1 python tests/bench/check_estimator.py

The test of the same name runs them with least squares in place of a network.
"""

import warnings
from collections import Counter

from sklearn.utils.estimator_checks import check_estimator

import symspec as ss

EXPECTED_TO_FAIL = {
    "check_sample_weight_equivalence_on_dense_data": (
        "weights are those of label errors, not counts: see SpectraRegressor"
    ),
}
NETWORKS = {
    "linear": {"hidden": (), "tune": False},
    "2 tanh": {"hidden": (2,), "epochs": 2, "tune": False},
}


def main():
    warnings.simplefilter("ignore")
    print("network | tried | passed | expected to fail | skipped | failed")
    for name, options in NETWORKS.items():
        model = ss.SpectraRegressor(progress=False, **options)
        results = check_estimator(
            model, expected_failed_checks=EXPECTED_TO_FAIL, on_skip=None, on_fail=None
        )
        n = Counter(result["status"] for result in results)
        counts = [len(results), n["passed"], n["xfail"], n["skipped"], n["failed"]]
        print(name, *counts, sep=" | ", flush=True)
        for result in results:
            if result["status"] in ("failed", "skipped"):
                print("   ", result["status"], result["check_name"], result["exception"])


if __name__ == "__main__":
    main()
