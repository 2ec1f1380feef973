"""FITS files of every layout with something missing, renamed or moved: none is read wrong.

    python tests/bench/fuzz_layouts.py [TRIALS]

Each file is refused in words, or read as what the unchanged file holds. Prints what went wrong, and
a table of the trials.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("", "spectra/readers")]


def main():
    import mutations
    from layout_cases import CASES

    n_trials = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    rng = np.random.default_rng(0)
    tried = Counter()
    refused = Counter()
    failed = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            for kind in mutations.KINDS * n_trials:
                found = mutations.try_mutation(name, kind, rng, Path(folder))
                tried[kind] += found is not None
                refused[kind] += found == "refused"
                failed[kind] += found == "wrong"
                if found == "wrong":
                    print(f"{kind} of {name}: read wrong")
    print(f"{'kind':24}{'tried':>8}{'refused':>9}{'failed':>8}")
    for kind in tried:
        print(f"{kind:24}{tried[kind]:8}{refused[kind]:9}{failed[kind]:8}")
    print(f"{'all':24}{tried.total():8}{refused.total():9}{failed.total():8}")


if __name__ == "__main__":
    main()
