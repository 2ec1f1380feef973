"""Structures know themselves: other rooms need the registry alone, and arrays bring one back."""

import ast
from pathlib import Path

import numpy as np
import pytest

import symspec as ss
from symspec.inverse_hessian.builder import InverseBuilder
from symspec.inverse_hessian.choice import (
    APPROXIMATE,
    EXACT,
    INVERSES,
    STRUCTURES,
    check_structure,
)
from symspec.inverse_hessian.interface import InverseHessian
from symspec.validation.audit import AUDITED, KNOWN

PACKAGE = Path(ss.__file__).parent
EXAMPLES = {int: 1, float: 0.5, Path: "folder"}  # of options
OPTIONS = {"krylov": {"subset": 5}, "low_rank": {"rank": 4}}

# --- nobody else knows them

# the split of a regression at its last layer, which a subset of Hamiltonian Monte Carlo takes too
SHARED_NAMES = {"LastLayer", "find_last_layer", "split_last_layer"}
# a subset of the parameters has the name of a structure; said once
SHARED_STRINGS = {("hmc/subsets.py", "last_layer")}


def structure_modules():
    return {inverse.__module__ for inverse in INVERSES.values()}


def structure_classes():
    return {c.__name__ for inverse in INVERSES.values() for c in inverse.__mro__} - {
        c.__name__ for c in InverseHessian.__mro__
    }


def find_docstrings(tree):
    """Constants that stand alone as statements, docstrings among them."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def find_imports(node):
    """Structures and their modules among the names that a statement imports."""
    names = {alias.name for alias in node.names}
    if isinstance(node, ast.Import):
        return names & structure_modules()
    if node.module in structure_modules():
        return names - SHARED_NAMES
    return names & structure_classes()


def find_knowledge(source, name):
    """Each place where a module names a structure, in words."""
    tree = ast.parse(source)
    docstrings = find_docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for imported in find_imports(node):
                yield f"{name}:{node.lineno} imports {imported}"
        elif isinstance(node, ast.Attribute | ast.Name):
            word = node.attr if isinstance(node, ast.Attribute) else node.id
            if word in structure_classes():
                yield f"{name}:{node.lineno} uses {word}"
        elif isinstance(node, ast.Constant) and id(node) not in docstrings:
            is_known = node.value in INVERSES and (name, node.value) not in SHARED_STRINGS
            if isinstance(node.value, str) and is_known:
                yield f"{name}:{node.lineno} says {node.value!r}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from symspec.inverse_hessian.dual import DualInverse", "imports DualInverse"),
        ("from symspec.inverse_hessian import PrimalInverse", "imports PrimalInverse"),
        ("import symspec.inverse_hessian.dual", "imports symspec.inverse_hessian.dual"),
        ("isinstance(a, i.LayerwiseInverse)", "uses LayerwiseInverse"),
        ('f(structure="krylov")', "says 'krylov'"),
    ],
    ids=["class", "from-the-room", "module", "isinstance", "string"],
)
def test_the_search_for_structures_sees_every_form_of_them(source, found):
    (line,) = find_knowledge(f'"""krylov"""\n{source}', "a.py")
    assert line == f"a.py:2 {found}"


def test_no_other_room_knows_a_structure():
    """Each asks the class or the operator: so a new structure is one file and a line."""
    files = [p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE / "inverse_hessian"]
    knowledge = [
        line
        for path in files
        for line in find_knowledge(path.read_text(), path.relative_to(PACKAGE).as_posix())
    ]
    assert knowledge == []


def test_what_is_said_twice_is_still_said():
    for name, string in SHARED_STRINGS:
        assert f'"{string}"' in (PACKAGE / name).read_text()


# --- the registry


def test_the_registry_holds_every_structure_by_its_name():
    exact = ("primal", "dual", "krylov")
    approximate = ("kronecker", "ekfac", "diagonal", "last_layer", "low_rank")
    assert exact == EXACT
    assert approximate == APPROXIMATE
    assert ("auto", *exact, *approximate) == STRUCTURES
    assert all(inverse.structure == name for name, inverse in INVERSES.items())
    assert ("krylov", *approximate, "dual_subset") == AUDITED
    assert (*exact, *approximate, "dual_subset") == KNOWN


@pytest.mark.parametrize("structure", INVERSES)
def test_a_structure_takes_its_own_options_alone(structure):
    own = INVERSES[structure].options
    check_structure(structure, "ggn", {name: EXAMPLES[kind] for name, kind in own.items()})
    for name in {o for inverse in INVERSES.values() for o in inverse.options} - set(own):
        with pytest.raises(ss.OptionError, match=f"given options among .*, got '{name}'"):
            check_structure(structure, "ggn", {name: 1})


# --- arrays there and back


class Memory:
    """A reader of named arrays in memory."""

    def __init__(self, arrays):
        self.arrays = {f"place/{name}": array for name, array in arrays.items()}

    def array(self, name, shape, *, kind=float, finite=False):
        array = self.arrays[name]
        assert [n for n in shape if n is not None] == [
            m for n, m in zip(shape, array.shape, strict=True) if n is not None
        ]
        assert array.dtype == kind
        return array

    def find(self, name):
        return {key.split("/")[name.count("/") + 1] for key in self.arrays if key.startswith(name)}

    def refusal(self, name, expected, got):
        return ss.FileFormatError(f"{name} should be {expected}, got {got}")


@pytest.fixture(scope="module", params=["dense", "convolution"])
def problem(request):
    rng = np.random.default_rng(3)
    if request.param == "dense":
        net = ss.mlp([4, 3, 2], activation="tanh")
    else:
        convolution = [ss.Reshape((4, 1)), ss.Conv1D(2, 3), ss.Activation("tanh"), ss.Flatten()]
        net = ss.Network([*convolution, ss.Dense(2)], 4)
    reg = ss.Regression(net, noise_covariance=[[0.3, 0.1], [0.1, 0.2]], prior_precision=2.0)
    X, Y = rng.normal(size=(12, 4)), rng.normal(size=(12, 2))
    Y[3, 1] = Y[5] = np.nan
    return reg, rng.normal(size=net.n_params), X, Y


def build(problem, structure, **options):
    reg, theta, X, Y = problem
    options = OPTIONS.get(structure, {}) | options
    builder = InverseBuilder(reg, X, Y, structure=structure, options=options)
    return builder, builder.build(theta)


@pytest.mark.parametrize("structure", INVERSES)
def test_arrays_bring_a_structure_back_bit_by_bit(problem, structure):
    reg, theta, X, _ = problem
    builder, inverse = build(problem, structure)
    back = INVERSES[structure].from_arrays(Memory(inverse.arrays()), "place", reg)
    assert type(back) is type(inverse)
    np.testing.assert_array_equal(back @ theta, inverse @ theta)
    np.testing.assert_array_equal(back.diagonal(), inverse.diagonal())
    assert back.logdet() == inverse.logdet()
    tangents = builder.tangents(theta, X[:3])
    np.testing.assert_array_equal(
        back.label_covariance_bounds(tangents), inverse.label_covariance_bounds(tangents)
    )
    assert list(back.arrays()) == list(inverse.arrays())
    for name, array in inverse.arrays().items():
        np.testing.assert_array_equal(back.arrays()[name], array)


def test_a_subset_stays_a_subset(problem):
    _, inverse = build(problem, "dual", subset=4)
    back = INVERSES["dual"].from_arrays(Memory(inverse.arrays()), "place", problem[0])
    assert (back.accuracy, back.is_complete) == ("upper bound", False)
    old = {name: array for name, array in inverse.arrays().items() if name != "is_subset"}
    assert INVERSES["dual"].from_arrays(Memory(old), "place", problem[0]).is_complete


@pytest.mark.parametrize(
    ("structure", "suffix", "words"),
    [
        ("primal", "cholesky", "a Cholesky factor, got one whose diagonal is not positive"),
        ("dual", "cholesky", "a Cholesky factor, got one whose diagonal is not positive"),
        ("krylov", "subset/cholesky", "a Cholesky factor"),
        ("last_layer", "cholesky", "a Cholesky factor"),
        ("kronecker", "/precision", "eigenvalues of a positive matrix"),
        ("ekfac", "/precision", "eigenvalues of a positive matrix"),
        ("diagonal", "/precision", "eigenvalues of a positive matrix"),
    ],
)
def test_arrays_that_make_no_positive_matrix_are_refused_by_their_name(
    problem, structure, suffix, words
):
    _, inverse = build(problem, structure)
    arrays = inverse.arrays()
    name = next(name for name in arrays if name.endswith(suffix))
    with pytest.raises(ss.FileFormatError, match=f"place/{name} should be {words}"):
        INVERSES[structure].from_arrays(Memory(arrays | {name: -arrays[name]}), "place", problem[0])


# --- what some can do, and the others refuse in words

CAN = {
    "cross_covariance": ({"primal", "dual"}, "covariances between stars should come from"),
    "whitening": (set(INVERSES) - {"krylov", "last_layer"}, "whitening should be given"),
    "directions": ({"primal", "dual", "low_rank"}, "leading directions should come from"),
    "of_last_layer": ({"primal", "dual", "last_layer"}, "the last layer's inverse Hessian should"),
}


@pytest.mark.parametrize("structure", INVERSES)
@pytest.mark.parametrize("ability", CAN)
def test_a_structure_can_or_says_no(problem, structure, ability):
    able, words = CAN[ability]
    method = getattr(build(problem, structure)[1], ability)
    arguments = () if ability == "cross_covariance" else problem[:1]
    if structure in able:
        assert method(*arguments) is not None
        return
    with pytest.raises(ss.OptionError, match=f'{words}.*got .*"{structure}"'):
        method(*arguments)


def test_only_the_last_layer_splits_a_regression(problem):
    reg, theta, *_ = problem
    heads = {name: build(problem, name)[1].head(reg, theta) for name in INVERSES}
    assert {name for name, head in heads.items() if head is not None} == {"last_layer"}


def test_the_gradient_of_the_evidence_is_known_where_it_is_said_to_be(problem):
    net = problem[0].net
    for name, inverse in INVERSES.items():
        assert inverse.has_evidence_gradient == (name in ("primal", "dual"))
        if not inverse.has_evidence_gradient:
            with pytest.raises(NotImplementedError, match=f"{name} has no gradient"):
                inverse.compile_log_det_gradient(net, backend="auto")


def test_effective_parameters_are_counted_from_the_diagonal(problem):
    """All of a block where data determine it, none of what is held fixed."""
    reg, *_ = problem
    precision = reg.prior_precision_vector()
    for name in ("primal", "last_layer"):
        inverse = build(problem, name)[1]
        dense = inverse.to_dense()
        share = np.where(np.diag(dense) > 0, 1 - precision * np.diag(dense), 0.0)
        counts = inverse.count_effective(reg)
        for block in reg.net.layout.blocks:
            # a handful of sums in float64
            assert counts[block.name] == pytest.approx(share[block.slice].sum(), abs=1e-10)
