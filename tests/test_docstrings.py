"""Every example of a docstring runs, in an empty folder, and prints what it promises."""

import doctest
import importlib
from pathlib import Path

import pytest

import symspec

PACKAGE = Path(symspec.__file__).parent
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def module_name(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


SOURCES = {module_name(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
WITH_EXAMPLES = [name for name, source in SOURCES.items() if ">>> " in source]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name.removesuffix(".__init__"))
    report = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=OPTIONS)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(example, out=report.append)
    assert runner.summarize(verbose=False).attempted > 0
    assert "".join(report) == ""


def test_no_example_is_skipped():
    assert [name for name, source in SOURCES.items() if "doctest: +SKIP" in source] == []
