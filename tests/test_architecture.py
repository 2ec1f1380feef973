"""The house keeps its plan: imports run one way, graphs apart from numbers, small modules, a light import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import symspec

PACKAGE = Path(symspec.__file__).parent

# a module imports only from modules above it
ORDER = """
    version errors advice checks params activations layers windows convolutions normalizations shaping networks folding
    regression derivatives curvature backends compiled weighted_sums matrices span
    spectra wavelengths resampling grids adam training minimization checkpoint progress tangents tangent_stream
    inverse_hessian.interface inverse_hessian.primal inverse_hessian.dual inverse_hessian.layerwise
    inverse_hessian.diagonal inverse_hessian.kronecker inverse_hessian.last_layer inverse_hessian.low_rank
    inverse_hessian.krylov_space inverse_hessian.krylov inverse_hessian.choice inverse_hessian.builder inverse_hessian
    last_layers certificate flags prediction neighbours training_space polish laplace_posterior laplace provenance
    sandwich audit
    whitening subsets pymc_models hmc hmc_comparison
    hyperparameters marginal_likelihood evidence calibration fitting
    named_arrays array_files bad_pixels array_names array_labels spectra_files spectra_folders
    csv_spectra fits_files fits_wavelengths fits_spectra table_spectra
    readers whole_files catalogue_columns writers star_tables archive_format layer_archives inverse_archives archives
    spectra_sources partial_runs surveys jacobian_files
    audit_files
    importers.matching importers.file_kinds importers.payne importers.hdf5_weights importers.keras_description
    importers.keras_layers importers.keras_graphs importers.keras_files
    importers.restricted_pickle importers.torch_files importers.safetensors_files
    importers.onnx_protobuf importers.onnx_description importers.onnx_arrays importers.onnx_scalings
    importers.onnx_translation importers.onnx_constants importers.onnx_shapes importers.onnx_windows
    importers.onnx_layers importers.onnx_patterns importers.onnx_files
    importers.entry importers.descriptions importers
    hmc_files line_list datasets plots hmc_plots tables hmc_tables demo cli_options cli_hmc cli_survey cli __init__
""".split()  # noqa: SIM905
GRAPH_SIDE = {
    "params",
    "activations",
    "layers",
    "windows",
    "convolutions",
    "normalizations",
    "shaping",
    "networks",
    "regression",
    "derivatives",
    "curvature",
    "backends",
    "compiled",
    "weighted_sums",
    "whitening",
    "pymc_models",
    "hmc",
}
LATE = (
    "matplotlib",
    "astropy",
    "dask",
    "pymc",
    "arviz_plots",
    "jax",
    "h5py",
    "rich",
    "typer",
    "onnx",
)
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 400, 40


def module_name(path):
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name if name == "__init__" else name.removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


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


def imported_names(source):
    """Dotted names that a module imports, wherever in it: `from a import b` counts as a.b."""
    for node in walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(source, known):
    """Modules of the package among the imports, without the prefix; the longest known name each."""
    for name in imported_names(source):
        parts = name.split(".")
        if parts[0] != "symspec":
            continue
        names = [".".join(parts[1:end]) for end in range(len(parts), 1, -1)]
        yield next((n for n in names if n in known), "__init__")


def top_levels(source):
    return {name.partition(".")[0] for name in imported_names(source)}


def own_lines(function):
    """Lines of a function from its `def` to its end, without its docstring."""
    n = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        n -= first.end_lineno - first.lineno + 1
    return n


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import symspec.polish", ["polish"]),
        ("from symspec import compiled, mlp", ["compiled", "__init__"]),
        ("from symspec.inverse_hessian.dual import DualInverse", ["inverse_hessian.dual"]),
        ("from symspec.inverse_hessian import InverseBuilder", ["inverse_hessian"]),
        ("def f():\n    from symspec.laplace import fit_laplace", ["laplace"]),
        (
            (
                "if TYPE_CHECKING:\n    from symspec.laplace import x\nelse:\n    import"
                " symspec.derivatives.span"
            ),
            ["span"],
        ),
        ("import numpy, symspec_extras", []),
    ],
    ids=[
        "plain",
        "from-package",
        "from-nested",
        "from-subpackage",
        "inside-a-function",
        "type-checking",
        "foreign",
    ],
)
def test_the_reader_of_imports_sees_every_form_of_them(source, expected):
    assert list(imported_modules(source, set(ORDER))) == expected


def test_every_module_has_its_place_in_the_order():
    assert len(ORDER) == len(set(ORDER))
    assert [name for name in FILES if name not in ORDER] == []


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_only_from_modules_above_it(name):
    above = ORDER[: ORDER.index(name)]
    imported = set(imported_modules(FILES[name].read_text(), set(ORDER)))
    assert sorted(imported - set(above)) == []


@pytest.mark.parametrize("name", sorted(set(FILES) - GRAPH_SIDE))
def test_pytensor_stays_on_the_graph_side(name):
    assert "pytensor" not in top_levels(FILES[name].read_text())


def test_only_one_module_compiles():
    calls = {
        name
        for name, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Attribute) and ast.unparse(node) == "pytensor.function")
        or (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("pytensor.compile.function")
        )
    }
    assert calls == {"backends"}


def test_matplotlib_is_imported_by_the_plots_alone():
    assert {n for n, path in FILES.items() if "matplotlib" in top_levels(path.read_text())} <= {
        "plots",
        "hmc_plots",
    }


def test_importing_the_package_loads_nothing_that_can_wait():
    """Asked of a fresh interpreter, as this one has loaded what other tests use."""
    program = f"import sys, symspec; print([m for m in {LATE!r} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FILES)
def test_modules_and_functions_are_short(name):
    source = FILES[name].read_text()
    assert len(source.splitlines()) < MAX_MODULE_LINES
    functions = [
        n
        for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {f.name: own_lines(f) for f in functions if own_lines(f) > MAX_FUNCTION_LINES}
    assert long == {}


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()
