"""Names of stars, labels and units in all formats written: kept exactly, or refused before work.

    python tests/bench/fuzz_names.py

Prints a table of the trials, and what went wrong. A share of them is in the test suite.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "files"))

from name_cases import find_fault, list_trials


def main():
    tried = Counter()
    failed = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, text, suffix, dialect in list_trials():
            row = f"{kind} in {suffix}"
            tried[row] += 1
            if fault := find_fault(kind, text, suffix, Path(folder), dialect):
                failed[row] += 1
                faults.append(f"{row} ({dialect}), {text!r:.40}: {fault}")
    for fault in faults:
        print(fault.encode("ascii", "backslashreplace").decode())
    print(f"{'kind':24}{'tried':>8}{'failed':>8}")
    for row in tried:
        print(f"{row:24}{tried[row]:8}{failed[row]:8}")
    print(f"{'all':24}{tried.total():8}{failed.total():8}")


if __name__ == "__main__":
    main()
