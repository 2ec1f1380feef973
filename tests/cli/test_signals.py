"""Ctrl-C and SIGTERM end a command in good order, also where Python drops the interrupt."""

import ast
import importlib
import os
import signal
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path

import pytest

from symspec.safety.interrupts import deferring_interrupts, raise_if_interrupted
from symspec.safety.progress import show_progress

ROOT = Path(__file__).parents[2]
LIMIT = 60  # seconds, only so that a hang ends


class Gone:
    """An object whose end is told to a callback, as those of h5py."""


def interrupt_callback():
    """A Ctrl-C that falls into a callback of a weak reference, where Python drops it."""
    gone = Gone()

    def be_told(reference):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(10))  # the handler runs here

    reference = weakref.ref(gone, be_told)
    del gone
    return reference


def wait():
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        time.sleep(0.01)


def test_python_drops_an_interrupt_in_a_callback(monkeypatch):
    """Which is why all this is there."""
    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    interrupt_callback()
    assert [one.exc_type for one in dropped] == [KeyboardInterrupt]


def test_an_interrupt_that_was_dropped_is_sent_again():
    with pytest.raises(KeyboardInterrupt), show_progress(False):  # noqa: PT012
        interrupt_callback()
        wait()


def test_the_next_progress_heeds_an_interrupt_that_a_library_swallowed():
    with show_progress(False) as show:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            wait()
        except KeyboardInterrupt:
            pass
        with pytest.raises(KeyboardInterrupt):
            show("working", 1, 2)


def test_handlers_are_restored_and_those_of_others_left_alone():
    default = signal.getsignal(signal.SIGINT)
    hook = sys.unraisablehook
    with show_progress(False):
        ours = signal.getsignal(signal.SIGINT)
        with show_progress(False):
            assert signal.getsignal(signal.SIGINT) == ours
    assert ours != default
    assert signal.getsignal(signal.SIGINT) is default
    assert sys.unraisablehook is hook
    theirs = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with show_progress(False):
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, theirs)


def test_an_interrupt_waits_for_what_does_not_survive_it():
    done = []
    with pytest.raises(KeyboardInterrupt), deferring_interrupts():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(10))
        done.append("all")
    assert done == ["all"]
    raise_if_interrupted()  # it was heeded
    with deferring_interrupts():  # and is forgotten
        done.append("more")
    assert done == ["all", "more"]


def test_an_interrupt_that_was_dropped_as_the_work_ended_comes_to_nothing_later():
    with suppress(KeyboardInterrupt), show_progress(False):
        interrupt_callback()
    with deferring_interrupts():
        time.sleep(0.5)


def test_an_interrupt_that_waits_is_heeded_between_parts():
    done = []
    with pytest.raises(KeyboardInterrupt), deferring_interrupts():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        done.append("first")
        raise_if_interrupted()
        done.append("second")
    assert done == ["first"]


PACKAGE = """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
sum(range(10))  # the handler runs here
is_whole = True
"""


def test_an_interrupt_waits_for_the_end_of_an_import(tmp_path, monkeypatch):
    (tmp_path / "interrupted_package.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "interrupted_package", raising=False)
    with pytest.raises(KeyboardInterrupt), show_progress(False):  # noqa: PT012
        package = importlib.import_module("interrupted_package")
        assert package.is_whole
        wait()


WORK = """
import os, signal
import pytest
from symspec.safety.progress import show_progress
with pytest.raises(KeyboardInterrupt), show_progress(False):
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("the interrupt did not come")
"""


def test_work_that_an_import_does_is_interrupted(tmp_path, monkeypatch):
    (tmp_path / "module_that_works.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "module_that_works", raising=False)
    importlib.import_module("module_that_works")


PROGRAM = """
import os, signal, sys, time
import symspec.cli.app as app
from symspec.cli import main
from symspec.safety.whole_files import replace_when_complete

def work(context):
    with replace_when_complete({path!r}) as temporary:
        temporary.write_bytes(b"half")
        for number in {numbers}:
            os.kill(os.getpid(), number)
            {after}
        time.sleep({limit})

app.app.info.cls.invoke.__globals__["TyperGroup"].invoke = lambda self, context: work(context)
sys.argv = ["symspec", "info", "x"]
main()
"""
SWALLOW = """try:
                time.sleep(0.2)
            except KeyboardInterrupt:
                pass"""


def run_program(tmp_path, numbers, after="pass"):
    program = PROGRAM.format(
        path=str(tmp_path / "out"), numbers=[int(n) for n in numbers], after=after, limit=LIMIT
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True,
        timeout=2 * LIMIT, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("after", ["pass", SWALLOW], ids=["heeded", "swallowed"])
def test_a_signal_ends_a_command_with_one_line_and_nothing_half_written(
    tmp_path, number, code, after
):
    """Where a library swallows the interrupt, the watch ends the process."""
    end = run_program(tmp_path, [number], after)
    assert end.returncode == code
    line = "Interrupted: the output was not written; the same command starts again.\n"
    assert end.stderr == line
    assert list(tmp_path.iterdir()) == []


def test_a_second_signal_ends_a_command_at_once(tmp_path):
    end = run_program(tmp_path, [signal.SIGINT, signal.SIGINT], SWALLOW)
    assert end.returncode == 130
    assert end.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


STARTS = {
    "command": ([], "symspec"),
    "module": (["-m", "symspec.cli"], None),
    "script of a user": ([], "analysis"),
}


@pytest.mark.parametrize("start", STARTS)
def test_the_command_heeds_signals_while_the_package_is_imported(tmp_path, start):
    """The first thing that the package imports after it is replaced by a signal."""
    words, script = STARTS[start]
    (tmp_path / "symspec/safety").mkdir(parents=True)
    (tmp_path / "symspec/__init__.py").write_text(
        "import symspec.safety.interrupts\n"
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    source = (ROOT / "symspec/safety/interrupts.py").read_bytes()
    (tmp_path / "symspec/safety/interrupts.py").write_bytes(source)
    if script is not None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / script).write_text("import symspec\n")
        words = [str(tmp_path / "bin" / script)]
    end = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    if script == "analysis":
        assert end.stderr.endswith("KeyboardInterrupt\n")  # Python's own way
        return
    assert end.returncode == 130
    assert end.stderr == "Interrupted: nothing was done yet; the same command starts again.\n"


def test_the_package_imports_its_interrupts_first():
    tree = ast.parse((ROOT / "symspec/__init__.py").read_text())
    first = next(node for node in tree.body if isinstance(node, ast.ImportFrom | ast.Import))
    assert first.module == "symspec.safety"
    assert [alias.name for alias in first.names] == ["interrupts"]
