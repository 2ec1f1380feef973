"""One pool of BLAS threads at a time, and none where threads do not pay.

NumPy and SciPy bring a BLAS library each, with a pool of threads each. Threads that wait for the
next product do so spinning, and keep the cores from those of the other library: on two cores a
product of NumPy's followed by a decomposition of SciPy's took up to 20 times as long with two
threads as with one, an epoch of training 35 times. Small products gain little by threads, and lose
as much where the machine has other work: a thread may wait milliseconds for its turn. So for the
time of a call one library has the threads that the user allows, or none has; afterwards all is as
it was.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg  # noqa: F401  it loads SciPy's library
from threadpoolctl import ThreadpoolController

from symspec.networks.network import Network
from symspec.safety.memory import chunks

# multiplications with matrices, and with vectors, below which OpenBLAS takes no threads itself
MAX_PRODUCTS_ALONE, MAX_VECTOR_ALONE = 5e5, 9000
# multiplications in a matrix product that pays for threads, alone in a call, and where the threads
# that wait for the next one hinder what comes between, as in training
MIN_PRODUCTS, MIN_PRODUCTS_IN_LOOPS = 6e6, 5e7
MIN_ORDER = 1000  # of matrices, decomposed by NumPy, that do, with many small products among them
MIN_ORDER_OF_SCIPY = 5000  # of those decomposed by SciPy, while NumPy's threads still spin

# rows of a product of a matrix with its own transpose, which OpenBLAS computes in a way of its own:
# with two threads it crashes at 11,000 on processors with AVX-512 (numpy issue 19685)
MOST_OWN_ROWS = 4096

_inside = threading.local()


class Threads:
    """Which library has threads while a function of a network walks some stars.

    Parameters
    ----------
    net : Network
    backend : str
        Numba takes SciPy's library, PyTensor's virtual machine NumPy's.
    n_rows : int, default 1
        Rows of the largest products that a star has: that of its spectrum, or as many as tangents
        or cotangents that go through the network together.
    """

    def __init__(self, net: Network, backend: str = "numpy", n_rows: int = 1):
        shapes = dict(zip(net.layer_names, net.shapes[1:], strict=True))
        products = [
            math.prod(shapes[name]) * sum(block.size // block.shape[-1] for block in layer.blocks)
            for name, layer in net.layout.layers.items()
        ]
        self.library = "scipy" if backend == "numba" else "numpy"
        self.n_products = max(products, default=1)
        self.n_rows = n_rows
        self.n_sums = max(map(math.prod, shapes.values()), default=1)
        self.is_narrow = any(shape[-1] == 1 for shape in shapes.values())
        self.n_params = net.n_params
        self.n_outputs = net.n_outputs

    def for_passes(
        self, n_stars: int, *, least: float = MIN_PRODUCTS
    ) -> AbstractContextManager[None]:
        """Give threads to the library if passes of so many stars are worth them, else to none."""
        n_products = n_stars * self.n_products
        n_largest = self.n_rows * n_products
        vectors = [n_stars * self.n_sums, self.n_params]  # of sums, as products with ones
        if self.is_narrow or n_stars < 2:
            vectors.append(n_products)
        if n_largest < MAX_PRODUCTS_ALONE and max(vectors) < MAX_VECTOR_ALONE:
            return nullcontext()
        return _outermost(self.library if n_largest >= least else "none")

    def for_loops(self, n_stars: int) -> AbstractContextManager[None]:
        """The same for pass after pass, with steps of the weights between them."""
        return self.for_passes(n_stars, least=MIN_PRODUCTS_IN_LOOPS)

    def for_matrices(self, n_stars: float) -> AbstractContextManager[None]:
        """The same if there are matrices, too.

        They have a row for each parameter, or for each label of each star, whichever are fewer.
        """
        order = min(self.n_params, n_stars * self.n_outputs)
        are_worth = n_stars * self.n_products >= MIN_PRODUCTS_IN_LOOPS or order >= MIN_ORDER
        return _outermost(self.library if are_worth else "none")


@contextmanager
def _outermost(library: str) -> Iterator[None]:
    """Give threads to one library; within another such block change nothing.

    The outermost block of a thread decides, so that what a call computes does not depend on what
    other threads compute meanwhile.
    """
    if getattr(_inside, "block", False):
        yield
        return
    try:
        _inside.block = True
        with _find_pools().threads_of(library):
            yield
    finally:
        _inside.block = False


@contextmanager
def threads_of_scipy(order: int) -> Iterator[None]:
    """Give threads to SciPy's library for a decomposition of this order, if it is worth them."""
    if order < MIN_ORDER_OF_SCIPY:
        yield
        return
    with _find_pools().threads_of("scipy"):
        yield


def multiply_own(a: np.ndarray) -> np.ndarray:
    """Products a a^T (row, row) of rows, by blocks where these are many."""
    if len(a) <= MOST_OWN_ROWS:
        return a @ a.T
    out = np.empty((len(a), len(a)), a.dtype)
    for rows in chunks(len(a), MOST_OWN_ROWS):
        for columns in chunks(rows.stop, MOST_OWN_ROWS):
            out[rows, columns] = a[rows] @ a[columns].T
            out[columns, rows] = out[rows, columns].T
    return out


class _Pools:
    """The BLAS libraries of the process, and the blocks that want one of them now."""

    def __init__(self, libraries: list[Any]):
        self.libraries = libraries
        self.names = ["scipy" if _is_of_scipy(library) else "numpy" for library in libraries]
        if len(set(self.names)) == 1:  # one for both, as conda and Linux distributions have it
            self.names = ["numpy and scipy"] * len(libraries)
        self.wishes: list[list[str]] = []  # the last one counts
        self.allowed: list[int] = []  # threads of each library, by the user's will
        self.present: list[int] = []
        self.lock = threading.Lock()

    @contextmanager
    def threads_of(self, library: str) -> Iterator[None]:
        wish = [library]  # a list, to be told from equal ones
        with self.lock:
            if not self.wishes:
                self.allowed = [each.get_num_threads() for each in self.libraries]
                self.present = self.allowed
            self.wishes.append(wish)
            self._set()
        try:
            yield
        finally:
            with self.lock:
                self.wishes = [other for other in self.wishes if other is not wish]
                self._set()

    def _set(self) -> None:
        wanted = self.allowed
        if self.wishes:
            (wish,) = self.wishes[-1]
            pairs = zip(self.names, self.allowed, strict=True)
            wanted = [n if wish in name else 1 for name, n in pairs]
        for library, before, n in zip(self.libraries, self.present, wanted, strict=True):
            if n != before:
                library.set_num_threads(n)
        self.present = wanted


@cache
def _find_pools() -> _Pools:
    """The libraries that are loaded when this is first called."""
    found = ThreadpoolController().lib_controllers
    return _Pools([library for library in found if library.user_api == "blas"])


def _is_of_scipy(library: Any) -> bool:
    """Whether it came with SciPy: wheels keep it in a folder of this name."""
    return not {"scipy", "scipy.libs"}.isdisjoint(Path(library.filepath).parts)
