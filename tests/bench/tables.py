"""Measure the tables of README.md that have a floor or a peer, and write them there.

    python tests/bench/tables.py                      # all, on an idle machine
    python tests/bench/tables.py small threads        # some of them
    python tests/bench/tables.py small --into FILE    # into another file; "-" prints them

Each table is what a script of this folder prints, in a process of its own, and stands in the file
between `<!-- table NAME -->` and `<!-- end -->`. It is replaced when it is complete; a script that
fails leaves the old one. The number of threads is the product's own choice.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
PYTEST = ("-m", "pytest", "-q", "-s", "-n", "0", "-o", "addopts=")
# what is run, with "FOLDER" for one that is empty
TABLES = {
    "speed": (*PYTEST, "test_speed.py"),
    "small": ("small_functions.py",),
    "starnet": (*PYTEST, "test_starnet.py"),
    "dual": (*PYTEST, "test_dual.py"),
    "matrices": (*PYTEST, "test_matrices.py"),
    "threads": ("threads.py",),
    "tiles": ("tiled_dual.py", "FOLDER", "20000"),
}


def measure(command):
    """Lines of the tables that a command prints."""
    with tempfile.TemporaryDirectory() as folder:
        command = [folder if word == "FOLDER" else word for word in command]
        place = os.environ.get("PYTHONPATH", "")
        environment = {**os.environ, "PYTHONPATH": os.path.abspath(place) if place else ""}
        run = subprocess.run(
            [sys.executable, *command], cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True
        )
    lines = find_tables(run.stdout)
    if run.returncode or not lines:
        raise RuntimeError(f"{' '.join(command)} failed:\n{run.stdout[-2000:]}")
    return lines


def find_tables(text):
    """The lines of Markdown tables in a text, with an empty line between two."""
    found = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if found and not before.startswith("|"):
                found.append("")
            found.append(line)
        before = line
    return found


def replace_table(text, name, lines):
    """A text with other lines in one of its tables."""
    new = "\n".join([f"<!-- table {name} -->", *lines, "<!-- end -->"])
    return find_place(name).sub(lambda _: new, text, count=1)


def find_place(name):
    """Pattern of a table in a text."""
    return re.compile(f"<!-- table {name} -->.*?<!-- end -->", re.DOTALL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TABLES)}; all by default")
    parser.add_argument("--into", default=str(HERE / "README.md"), help='a file, or "-"')
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in TABLES]
    if unknown:
        parser.error(f"no such table: {', '.join(unknown)}; there are {', '.join(TABLES)}")
    wanted = options.names or list(TABLES)
    if options.into != "-":
        text = Path(options.into).read_text()
        missing = [name for name in wanted if not find_place(name).search(text)]
        if missing:
            parser.error(f"{options.into} has no place for {', '.join(missing)}")
    failed = []
    for name in wanted:
        begin = time.perf_counter()
        try:
            lines = measure(TABLES[name])
        except RuntimeError as error:
            print(error, file=sys.stderr)
            failed.append(name)
            continue
        if options.into == "-":
            print("\n".join(lines))
        else:
            path = Path(options.into)
            path.write_text(replace_table(path.read_text(), name, lines))
        print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
