"""Graphs to callables: the choice of the backend, and the only call of `pytensor.function`.

What has been compiled is kept with its network, or its regression: the second call has it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import pickle
import sys
from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from threading import Lock
from typing import Any, Concatenate

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.mode import Mode, get_mode
from pytensor.graph.basic import Constant
from pytensor.graph.rewriting.basic import dfs_rewriter, node_rewriter
from pytensor.scalar.basic import GT, Cast
from pytensor.tensor.elemwise import Elemwise

from symspec.derivatives.machine.linker import DirectLinker
from symspec.errors import MissingDependencyError, OptionError
from symspec.networks.network import Network
from symspec.networks.regression import Regression
from symspec.networks.windows import register_jax
from symspec.safety.checkpoint import find_fingerprint
from symspec.safety.options import check_choice

BACKENDS = ("auto", "numpy", "c", "numba", "jax")
_COMPILING = Lock()  # PyTensor's rewrites share what they know
KEPT_BYTES = 2**25  # what malloc's threshold may be at most
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h has them
BEFORE_INPLACE = 49  # place of a rewrite among PyTensor's
# these make elementwise products of those of a column with a row, and give those with a vector to
# SciPy's library, whose threads would spin beside NumPy's; what is added to a product is added
# after it, anyway
VAIN_WITHOUT_C = ("local_dot_to_mul", "local_gemm_to_gemv", "gemm_optimizer")
# half of the time to compile goes into them: they look for diagonal, symmetric and selecting
# matrices, which networks hardly have (and take JAX to single precision on the way), and for
# reshapes that change nothing, which cost nothing
VAIN_REWRITES = (
    "dot_diag_to_elemwise",
    "useless_symmetric_transpose",
    "selection_dot_to_indexing",
    "local_useless_reshape",
)


def choose_backend(backend: str) -> str:
    """Turn "auto" into a backend's name, and check that the one named can run.

    "auto" is "numpy", PyTensor's virtual machine without elementwise fusion: it needs no compiler
    and is ready in a fraction of a second. Networks are matrix products, so at any width the others
    gain some per cent a call and cost seconds to minutes first; name them for a small function
    called very many times, or "jax" for a GPU.

    Raises
    ------
    OptionError
        Unknown word.
    MissingDependencyError
        JAX is asked for and not installed.
    """
    check_choice(backend, "backend", BACKENDS)
    if backend == "jax" and importlib.util.find_spec("jax") is None:
        raise MissingDependencyError('backend="jax" needs JAX: pip install "symspec[jax]".')
    return "numpy" if backend == "auto" else backend


class CompiledGraph:
    """A compiled graph that any number of threads may call: one at a time.

    PyTensor's functions hold the inputs and results of a call in themselves, so that two calls at
    once mix them up.

    Attributes
    ----------
    function : pytensor.compile.Function
    """

    def __init__(self, function: Any):
        self.function = function
        self._lock = Lock()

    def __call__(self, *inputs: Any, into: np.ndarray | None = None) -> list[Any]:
        """The outputs; a large one of the shape of `into` may be written there, without copying."""
        with self._lock, np.errstate(all="ignore"):
            buffers = () if into is None else getattr(self.function.vm, "buffers", ())
            for buffer in buffers:
                if buffer.offer(into):
                    break
            return self.function(*inputs)


def compile_graph(inputs: list[Any], outputs: list[Any], backend: str, dtype: str) -> CompiledGraph:
    """Callable of NumPy arrays; neither their number nor their types are checked any more."""
    _keep_freed_memory()
    # without the traces of the lines that made each node, which take a sixth of the time to compile
    with _COMPILING, pytensor.config.change_flags(traceback__limit=0):
        # a derivative may depend on less than the network did: that of a linear one on no flux, of
        # fixed layers on no theta
        fn = pytensor.function(
            inputs, outputs, mode=find_mode(backend, dtype), on_unused_input="ignore"
        )
    fn.trust_input = True
    return CompiledGraph(fn)


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Let glibc keep the memory of intermediates, which the next call takes again.

    Where it gives it back to the system, pages come anew at each call, and functions of a tenth of
    a megabyte to some take 6 % more time. It learns to keep what is as large as the largest block
    that was ever freed, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD), but where the environment
    forbids, as in workers of dask; there a survey takes a fifth more.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, 2 * KEPT_BYTES)


def send_to_device(arrays: list[np.ndarray], backend: str) -> list[Any]:
    """Arrays that go into call after call: with JAX on its device, where they need not go again."""
    if backend != "jax":
        return arrays
    import jax

    return [jax.device_put(array) for array in arrays]


def find_mode(backend: str, dtype: str) -> Any:
    """Mode for `pytensor.function` of one of the backends."""
    if backend == "jax":
        _check_jax_precision(dtype)
        register_jax()
    if backend == "numpy":
        mode = Mode(linker=DirectLinker(), optimizer="fast_run")
        mode = mode.excluding("fusion", *VAIN_WITHOUT_C)
        mode = mode.register(*((dfs_rewriter(rewrite), BEFORE_INPLACE) for rewrite in OWN_REWRITES))
    else:
        mode = (
            Mode(linker="cvm", optimizer="fast_run")
            if backend == "c"
            else get_mode(backend.upper())
        )
    return mode.excluding(*VAIN_REWRITES)


@node_rewriter([pt.mul])
def rectify(fgraph: Any, node: Any) -> list[Any] | None:
    """Replace x times its mask x > 0 by max(x, 0): unfused, one pass over memory, not three."""
    if len(node.inputs) != 2:
        return None
    for x, mask in (node.inputs, node.inputs[::-1]):
        match mask.owner_op_and_inputs:
            case (Elemwise(Cast()), compared):
                match compared.owner_op_and_inputs:
                    case (Elemwise(GT()), same, Constant(data=bound)) if same is x and not np.any(
                        bound
                    ):
                        return [_take_positive(x)]
    return None


@node_rewriter([pt.softplus])
def write_out_softplus(fgraph: Any, node: Any) -> list[Any]:
    """Replace softplus, uncompiled a Python call for each number, by functions of NumPy's."""
    (x,) = node.inputs
    return [_take_positive(x) + pt.log1p(pt.exp(-pt.abs(x)))]


@node_rewriter([pt.switch])
def switch_once(fgraph: Any, node: Any) -> list[Any] | None:
    """Leave out a choice within another one by the same condition."""
    condition, *branches = node.inputs
    chosen = []
    for i, branch in enumerate(branches, start=1):
        is_switch = branch.owner is not None and branch.owner.op == pt.switch
        is_same = is_switch and branch.owner.inputs[0] is condition
        chosen.append(branch.owner.inputs[i] if is_same else branch)
    if chosen == branches:
        return None
    simpler = pt.switch(condition, *chosen)
    return [simpler] if simpler.type == node.outputs[0].type else None


OWN_REWRITES = (rectify, write_out_softplus, switch_once)


def _take_positive(x: Any) -> Any:
    return pt.maximum(x, pt.constant(np.zeros((1,) * x.ndim, x.dtype)))


def _check_jax_precision(dtype: str) -> None:
    import jax

    # sets jax_enable_x64 from floatX, once for the process
    import pytensor.link.jax.dispatch  # noqa: F401

    if dtype == "float64" and not jax.config.jax_enable_x64:
        raise OptionError(
            'JAX was set to 32 bits in this process: call jax.config.update("jax_enable_x64", True)'
            ' first, or ask for dtype="float32".'
        )


class Remade:
    """A compiled function that pickles as what it was made of: another process compiles it anew."""

    recipe: tuple[Any, ...] | None = None  # of `remember`

    def __reduce__(self) -> tuple[Any, ...]:
        if self.recipe is None:
            raise TypeError(f"{self!r} was not made by a function of symspec.derivatives.compiled.")
        module, name, owner, args, options = self.recipe
        return _make_again, (module, name, pickle.dumps(owner), args, tuple(options.items()))


@lru_cache(maxsize=32)
def _make_again(module: str, name: str, owner: bytes, args: Any, options: Any) -> Any:
    """The same function for the same bytes, however often it is sent."""
    make = getattr(importlib.import_module(module), name)
    return make(pickle.loads(owner), *args, **dict(options))


def remember[Owner: (Network, Regression), **Options, Compiled](
    make: Callable[Concatenate[Owner, Options], Compiled],
) -> Callable[Concatenate[Owner, Options], Compiled]:
    """Let `make(owner, ...)` return what it returned for the same owner and options before.

    Any number of threads may call one compiled function. Copies of the owner, and what is read from
    a file, have none yet; an owner whose layers, noise or prior were changed since gets another.
    """

    @wraps(make)
    def recall(owner: Owner, *args: Options.args, **options: Options.kwargs) -> Compiled:
        key = (make.__name__, _identify(owner), args, tuple(sorted(options.items())))
        try:
            return owner.compiled[key]
        except (KeyError, TypeError):  # TypeError: options that are not what is expected
            compiled = make(owner, *args, **options)
        if isinstance(compiled, Remade) and compiled.recipe is None:
            compiled.recipe = (make.__module__, make.__name__, owner, args, options)
        owner.compiled[key] = compiled
        return compiled

    return recall


def _identify(owner: Network | Regression) -> Hashable:
    """All that its functions depend on; layers are frozen, and kept by the key."""
    net = owner if isinstance(owner, Network) else owner.net
    parts: tuple[Hashable, ...] = (net.layers, net.n_pixels, net.n_labels)
    if isinstance(owner, Regression):
        noise = owner.noise
        kind = f"{type(noise).__module__}.{type(noise).__qualname__}"
        parts += (find_fingerprint(kind, noise, owner.prior_precision),)
    return parts
