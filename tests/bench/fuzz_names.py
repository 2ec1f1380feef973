"""Names and units in all formats written, masks and units in all arrays taken: none is lost.

    python tests/bench/fuzz_names.py

Names of stars, labels and units are kept exactly, or refused before the work; masked values are
refused, and units are converted or refused. Prints what went wrong, and a table of the trials.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("files", "safety")]


def main():
    import mask_and_unit_cases
    import name_cases

    tried = Counter()
    failed = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, text, suffix, dialect in name_cases.list_trials():
            row = f"{kind} in {suffix}"
            tried[row] += 1
            if fault := name_cases.find_fault(kind, text, suffix, Path(folder), dialect):
                failed[row] += 1
                faults.append(f"{row} ({dialect}), {text!r:.40}: {fault}")
    for kind, wrapping, sink in mask_and_unit_cases.list_trials():
        row = f"{kind} of {sink}"
        tried[row] += 1
        if fault := mask_and_unit_cases.find_fault(kind, wrapping, sink):
            failed[row] += 1
            faults.append(f"{row}, {wrapping}: {fault}")
    for fault in faults:
        print(fault.encode("ascii", "backslashreplace").decode())
    print(f"{'kind':34}{'tried':>8}{'failed':>8}")
    for row in tried:
        print(f"{row:34}{tried[row]:8}{failed[row]:8}")
    print(f"{'all':34}{tried.total():8}{failed.total():8}")


if __name__ == "__main__":
    main()
