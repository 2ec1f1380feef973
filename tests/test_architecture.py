"""The house keeps its plan: rooms whose imports run one way, small modules, a light import.

A new module needs no edit here: it belongs to the room that it lies in. A new room is a line of
`BELOW`.
"""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import symspec

PACKAGE = Path(symspec.__file__).parent

# a room imports from itself, from the rooms named here, and from whatever lies below these
BELOW = {
    "safety": "",
    "workers": "safety",
    "networks.noise": "safety",
    "networks": "networks.noise",
    "spectra.covariances": "safety",
    "spectra": "spectra.covariances",
    "spectra.readers.fits": "spectra",
    "spectra.readers.layouts": "spectra.readers.fits",
    "spectra.readers.tables": "spectra",
    "spectra.readers": "spectra.readers.layouts spectra.readers.tables",
    "derivatives.machine": "",
    "derivatives": "derivatives.machine networks workers",
    "inverse_hessian.numerics": "derivatives",
    "inverse_hessian": "inverse_hessian.numerics",
    "training.steps": "inverse_hessian",
    "training": "training.steps spectra",
    "laplace": "training.steps spectra",
    "mixtures": "laplace",
    "validation": "mixtures",
    "fitting": "validation training",
    "hmc": "laplace",
    "files.stored": "mixtures",
    "files": "files.stored validation spectra.readers",
    "files.importers.keras": "files",
    "files.importers.onnx": "files",
    "files.importers": "files.importers.keras files.importers.onnx",
    "reports": "files.importers hmc",
    "reports.pages.figures": "reports",
    "reports.pages": "reports.pages.figures",
    "cli.shared": "reports.pages",
    "cli.commands": "cli.shared fitting",
    "cli": "cli.commands",
}
FOUNDATIONS = {"errors", "version"}  # under the house: every room may import them
# who imports what, and nobody else does
ONLY = {
    "pytensor": "networks.noise networks derivatives.machine derivatives hmc",
    "pymc": "hmc",
    "arviz_stats": "hmc",
    "matplotlib": "reports reports.pages.figures",
    "bokeh": "reports.pages.figures",
    "jinja2": "reports.pages",
    "typer": "cli cli.commands cli.shared",
    "onnx": "files.importers.onnx",
    "rich": "safety reports cli cli.commands cli.shared",
    "astropy": "safety spectra spectra.readers spectra.readers.fits files reports",
    "h5py": "safety files files.stored files.importers.keras",
    "python_calamine": "spectra.readers.tables",
    "jcamp": "spectra.readers.tables",
    "sklearn": "fitting",
    "joblib": "fitting",
    "dask": "workers",
    "distributed": "workers",
}
LATE = (
    "matplotlib",
    "bokeh",
    "jinja2",
    "astropy",
    "dask",
    "distributed",
    "pymc",
    "arviz_plots",
    "jax",
    "h5py",
    "rich",
    "typer",
    "onnx",
    "python_calamine",
    "jcamp",
    "sklearn",
)
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_COLUMNS = 100
MAX_PACKED = 5  # assignments of several things at once, in 1,000 statements
MODULES_IN_A_ROOM = range(4, 13)
DOORS = {"cli"}  # one module, which opens the rooms within


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def room_of(name):
    """The innermost room that a module lies in, "" for the front of the house."""
    parts = name.split(".")
    rooms = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((room for room in rooms if room in BELOW), "")


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = {name: path.read_text() for name, path in FILES.items()}
MODULES = {name for name, path in FILES.items() if path.name not in ("__init__.py", "__main__.py")}


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )


def walk(node):
    """Every node below, except what only a type checker reads."""
    yield node
    below = node.orelse if is_type_checking(node) else ast.iter_child_nodes(node)
    for child in below:
        yield from walk(child)


@cache
def imported_names(source):
    """Dotted names that a module imports, wherever in it: `from a import b` counts as a.b."""
    names = []
    for node in walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def imported_modules(source, known):
    """Modules of the package among the imports, without the prefix: the longest known name each."""
    for name in imported_names(source):
        parts = name.split(".")
        if parts[0] != "symspec":
            continue
        names = [".".join(parts[1:end]) for end in range(len(parts), 1, -1)]
        yield next((n for n in names if n in known), "__init__")


def top_levels(source):
    return {name.partition(".")[0] for name in imported_names(source)}


def find_below(room):
    """Every room that `room` may import from, itself among them."""
    found = {room}
    for below in BELOW[room].split():
        found |= find_below(below)
    return found


def own_lines(function):
    """Lines of a function from its `def` to its end, without its docstring."""
    n = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        n -= first.end_lineno - first.lineno + 1
    return n


def find_functions(source):
    nodes = ast.walk(ast.parse(source))
    return [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def is_packed(node):
    """Whether a statement assigns a tuple, written out, to several targets."""
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Tuple)
        and isinstance(node.targets[0], ast.Tuple)
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import symspec.networks.layers", ["networks.layers"]),
        ("from symspec import laplace, mlp", ["laplace", "__init__"]),
        ("from symspec.laplace.fit import fit_laplace", ["laplace.fit"]),
        ("from symspec.laplace import fit_laplace", ["laplace"]),
        ("def f():\n    from symspec.laplace.fit import fit_laplace", ["laplace.fit"]),
        (
            "if TYPE_CHECKING:\n    import symspec.hmc.model\nelse:\n    import symspec.errors",
            ["errors"],
        ),
        ("import numpy, symspec_extras", []),
    ],
    ids=[
        "plain",
        "from-package",
        "from-nested",
        "from-room",
        "inside-a-function",
        "type-checking",
        "foreign",
    ],
)
def test_the_reader_of_imports_sees_every_form_of_them(source, expected):
    assert list(imported_modules(source, set(FILES))) == expected


def test_every_module_lies_in_a_room():
    assert {name for name in FILES if not room_of(name)} == {"__init__", *FOUNDATIONS}


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_only_from_rooms_below_it(room):
    allowed = find_below(room)
    wrong = [
        f"{name} imports {other}"
        for name in FILES
        if room_of(name) == room
        for other in imported_modules(SOURCES[name], set(FILES))
        if other not in FOUNDATIONS and room_of(other) not in allowed
    ]
    assert wrong == []


def test_inside_the_rooms_no_imports_run_in_a_circle():
    graph = {name: set(imported_modules(SOURCES[name], set(FILES))) - {name} for name in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES)


def test_the_foundations_import_nothing_of_the_house():
    for name in FOUNDATIONS:
        assert list(imported_modules(SOURCES[name], set(FILES))) == []


def test_a_room_shows_only_what_is_its_own():
    """Its `__init__` imports its own modules alone, so that no import finds a half-made package."""
    wrong = [
        f"{room} imports {other}"
        for room in BELOW
        for other in imported_modules(SOURCES[room], set(FILES))
        if room_of(other) != room
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ONLY)
def test_who_imports_another_package_is_known(package):
    rooms = {room_of(name) for name in FILES if package in top_levels(SOURCES[name])}
    assert rooms == set(ONLY[package].split())


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("sklearn", "fitting.estimator"),
        ("dask", "workers.cluster"),
        ("distributed", "workers.cluster"),
    ],
)
def test_one_module_alone_needs_a_package(package, module):
    assert [name for name in FILES if package in top_levels(SOURCES[name])] == [module]


def test_no_private_name_crosses_a_room():
    wrong = []
    for name in FILES:
        for full in imported_names(SOURCES[name]):
            module, _, last = full.removeprefix("symspec.").rpartition(".")
            is_ours = full.startswith("symspec.") and last.startswith("_")
            if is_ours and last != "__version__" and room_of(module) != room_of(name):
                wrong.append(f"{name} imports {full}")
    assert wrong == []


def test_only_one_module_compiles():
    calls = {
        name
        for name, source in SOURCES.items()
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Attribute) and ast.unparse(node) == "pytensor.function")
        or (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("pytensor.compile.function")
        )
    }
    assert calls == {"derivatives.backends"}


def test_importing_the_package_loads_nothing_that_can_wait():
    """Asked of a fresh interpreter, as this one has loaded what other tests use."""
    program = (
        f"import sys, symspec; print([m for m in {LATE!r} if m in sys.modules]"
        " + [m for m in sys.modules if m.startswith(('symspec.reports', 'symspec.cli'))])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("room", DOORS)
def test_a_door_is_one_module(room):
    assert sum(room_of(name) == room for name in MODULES) == 1


@pytest.mark.parametrize("room", [room for room in BELOW if room not in DOORS])
def test_a_room_can_be_seen_at_a_glance(room):
    assert sum(room_of(name) == room for name in MODULES) in MODULES_IN_A_ROOM


def test_modules_are_short():
    lengths = {name: len(source.splitlines()) for name, source in SOURCES.items()}
    assert {name: n for name, n in lengths.items() if n >= MAX_MODULE_LINES} == {}


def test_functions_are_short():
    long = {
        f"{name}.{function.name}": own_lines(function)
        for name, source in SOURCES.items()
        for function in find_functions(source)
        if own_lines(function) > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_lines_are_short():
    wide = [
        f"{name}:{number}"
        for name, source in SOURCES.items()
        for number, line in enumerate(source.splitlines(), 1)
        if len(line) > MAX_COLUMNS
    ]
    assert wide == []


def test_a_statement_does_one_thing():
    nodes = [n for s in SOURCES.values() for n in ast.walk(ast.parse(s)) if isinstance(n, ast.stmt)]
    assert 1000 * sum(map(is_packed, nodes)) <= MAX_PACKED * len(nodes)


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()
