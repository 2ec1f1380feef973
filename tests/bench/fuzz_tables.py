"""Random tables of spectra, whole and damaged: read number by number, refused, or read wrongly.

python tests/bench/fuzz_tables.py [N]
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "spectra" / "readers"))

from random_tables import DAMAGES, damage, draw_table
from test_random_tables import compare, read

from symspec.errors import SymspecError


def try_one(path, text, table):
    """What became of a table: read, refused, or what is wrong about it."""
    try:
        found = read(path, text, table)
    except SymspecError as error:
        return "refused", str(error)
    return ("wrong" if (wrong := compare(found, table)) else "read"), wrong


def main(n):
    counts = {}
    examples = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.txt"
        for seed in range(n):
            rng = np.random.default_rng(seed)
            table = draw_table(rng)
            for kind in ("whole", *DAMAGES):
                text = table.text() if kind == "whole" else damage(table, kind, rng)
                result, words = try_one(path, text, table)
                counts.setdefault(kind, Counter())[result] += 1
                if result == ("refused" if kind == "whole" else "wrong"):
                    examples.append(f"{seed} {kind} {table.kind}: {words[-200:]}")
    print("kind | tried | read | refused | wrong")
    for kind, found in counts.items():
        print(f"{kind} | {n} | {found['read']} | {found['refused']} | {found['wrong']}")
    print("\n".join(examples[:12]))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
