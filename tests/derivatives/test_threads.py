"""One BLAS library has threads at a time, none where they do not pay, and the user's will holds."""

import threading

import numpy as np
import pytest

import symspec as ss
from symspec.derivatives import threads
from symspec.derivatives.threads import Threads, threads_of_scipy

ALLOWED = 4


class Library:
    """A BLAS library that only counts its threads."""

    def __init__(self, filepath, n=ALLOWED):
        self.filepath = filepath
        self.n = n

    def get_num_threads(self):
        return self.n

    def set_num_threads(self, n):
        self.n = n


NET = ss.Network([ss.Dense(1000), ss.Dense(2)], 1000)
PAYS, PAYS_NOT = 6, 5


def few():
    return Threads(NET).for_passes(PAYS_NOT)


def many(backend="numpy"):
    return Threads(NET, backend).for_passes(PAYS)


def use(monkeypatch, *paths, n=ALLOWED):
    libraries = [Library(path, n) for path in paths]
    pools = threads._Pools(libraries)
    monkeypatch.setattr(threads, "_find_pools", lambda: pools)
    return lambda: [library.n for library in libraries]


@pytest.fixture
def count(monkeypatch):
    """Threads of NumPy's and of SciPy's library."""
    return use(monkeypatch, "/lib/numpy.libs/libopenblas64.so", "/lib/scipy.libs/libopenblas.so")


def test_one_library_at_a_time_has_threads(count):
    with many():
        assert count() == [ALLOWED, 1]
        with threads_of_scipy(10_000):
            assert count() == [1, ALLOWED]
        with threads_of_scipy(4000):
            assert count() == [ALLOWED, 1]
    assert count() == [ALLOWED, ALLOWED]
    with many("numba"):
        assert count() == [1, ALLOWED]
    with few():
        assert count() == [1, 1]


def test_tangents_that_go_together_make_larger_products(count):
    """The three labels of one star: their products are worth it where its own are not."""
    net = ss.mlp([3000, 1000, 3])  # 3 million multiplications a row
    for n_rows, expected in ((1, [1, 1]), (3, [ALLOWED, 1])):
        with Threads(net, n_rows=n_rows).for_passes(1):
            assert count() == expected
    assert ss.compile_predict(net).threads.n_rows == 1
    for wrt in ("flux", "theta"):
        assert ss.compile_jacobian(net, wrt).threads.n_rows == 3


def test_loops_need_larger_products(count):
    with Threads(NET).for_loops(49):
        assert count() == [1, 1]
    with Threads(NET).for_loops(50):
        assert count() == [ALLOWED, 1]


def test_the_outermost_block_decides(count):
    with few(), many():
        assert count() == [1, 1]
    with many(), few():
        assert count() == [ALLOWED, 1]


def test_sums_over_stars_count_as_products_with_a_vector(count):
    net = ss.mlp([2, 100, 2])
    with Threads(net).for_passes(89):
        assert count() == [ALLOWED, ALLOWED]  # nothing that takes threads
    with Threads(net).for_passes(90):
        assert count() == [1, 1]


def test_an_error_puts_all_back(count):
    with pytest.raises(ZeroDivisionError), few():
        1 / 0  # noqa: B018
    assert count() == [ALLOWED, ALLOWED]
    with many():
        assert count() == [ALLOWED, 1]


def test_a_user_who_allows_one_thread_gets_no_more(monkeypatch):
    count = use(monkeypatch, "/numpy.libs/libopenblas.so", "/scipy.libs/libopenblas.so", n=1)
    for block in (many(), few(), threads_of_scipy(10_000)):
        with block:
            assert count() == [1, 1]
    assert count() == [1, 1]


@pytest.mark.parametrize("path", ["/usr/lib/libopenblas.so", "/opt/scipy-env/lib/libmkl_rt.so"])
def test_one_library_for_both_serves_both(monkeypatch, path):
    count = use(monkeypatch, path)
    for block, n in ((many(), ALLOWED), (threads_of_scipy(10_000), ALLOWED)):
        with block:
            assert count() == [n]
    with few():
        assert count() == [1]
    assert count() == [ALLOWED]


@pytest.mark.parametrize("n_rows", [0, 1, 5, 6, 17])
def test_products_with_itself_are_the_same_by_blocks(monkeypatch, n_rows):
    """More rows at once than OpenBLAS's threads survive on some processors."""
    a = np.random.default_rng(0).normal(size=(n_rows, 8))
    expected = np.einsum("np,mp->nm", a, a)
    for rows in (3, 5, 4096):
        monkeypatch.setattr(threads, "MOST_OWN_ROWS", rows)
        np.testing.assert_allclose(threads.multiply_own(a), expected, atol=1e-13)


def test_calls_of_other_threads_leave_nothing_behind(count):
    begun, ended = threading.Event(), threading.Event()

    def work():
        with few():
            begun.set()
            ended.wait()

    other = threading.Thread(target=work)
    with many():
        other.start()
        begun.wait()
        assert count() == [1, 1]
    assert count() == [1, 1]  # the other call goes on
    ended.set()
    other.join()
    assert count() == [ALLOWED, ALLOWED]


@pytest.mark.parametrize(
    ("layers", "n_pixels", "least"),
    [
        ([ss.Dense(32), ss.Activation("relu"), ss.Dense(3)], 100, 1000 / 3),
        ([ss.Dense(2)], 10, 5e7 / 22),  # too few parameters for large matrices
        ([ss.Dense(2048), ss.Activation("relu"), ss.Dense(3)], 7213, 5e7 / (7214 * 2048)),
    ],
    ids=["matrices", "products", "few stars"],
)
def test_a_call_of_many_stars_is_worth_threads(count, layers, n_pixels, least):
    net = ss.Network(layers, n_pixels)
    with Threads(net).for_matrices(np.floor(least)):
        assert count() == [1, 1]
    with Threads(net).for_matrices(np.ceil(least)):
        assert count() == [ALLOWED, 1]


@pytest.mark.parametrize(
    ("order", "shape"), [("channels_last", (100, 1)), ("channels_first", (1, 100))]
)
def test_convolutions_count_each_position(order, shape):
    convolution = ss.Conv1D(4, 5, padding="same", data_format=order)
    net = ss.Network([ss.Reshape(shape), convolution, ss.Flatten(), ss.Dense(1)], 100)
    products = 100 * (5 * 4 + 4)
    assert Threads(net).n_products == products


@pytest.fixture
def seen(count, monkeypatch):
    """Threads that each compiled graph is called with."""
    found = []
    call = ss.derivatives.backends.CompiledGraph.__call__

    def watch(self, *inputs, **options):
        found.append(tuple(count()))
        return call(self, *inputs, **options)

    monkeypatch.setattr(ss.derivatives.backends.CompiledGraph, "__call__", watch)
    return found


def test_every_call_chooses(seen, count):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 20))
    Y = X[:, :1] + 0.1 * rng.normal(size=(30, 1))
    reg = ss.Regression(
        ss.mlp([20, 20, 1], activation="tanh"), sigma_noise=0.1, prior_precision=1.0
    )
    theta = reg.net.init_params(rng)
    quiet = {"progress": False}
    calls = {
        "predict": lambda: ss.compile_predict(reg.net)(theta, X),
        "objective": lambda: ss.compile_objective(reg)(theta, X, Y),
        "train": lambda: ss.train(reg, X, Y, epochs=1, rng=rng, **quiet),
        "minimize": lambda: ss.minimize(reg, theta, X, Y, max_iterations=2, **quiet),
        "polish": lambda: ss.polish(reg, theta, X, Y, max_iterations=2, **quiet),
        "tune": lambda: ss.tune(reg, theta, X, Y, max_evaluations=2, move=False, **quiet),
        "fit_laplace": lambda: ss.fit_laplace(reg, theta, X, Y, require_minimum=False, **quiet),
    }
    laplace = calls["fit_laplace"]()
    calls["a prediction"] = lambda: laplace.predict(X, **quiet)
    for name, call in calls.items():
        seen.clear()
        call()
        assert seen, name
        assert set(seen) == {(1, 1)}, name
        assert count() == [ALLOWED, ALLOWED]
