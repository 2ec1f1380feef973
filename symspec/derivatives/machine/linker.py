"""PyTensor's virtual machine, with NumPy's functions called as they are.

PyTensor's own Python mode takes eight microseconds more than NumPy for an elementwise operation of
any size: it looks whether shapes were broadcast that should not be, which functions here have
checked before, and writes a result that may overwrite an argument twice. Here such an operation is
a call of the ufunc, with the argument as its `out`. Products, slices and transposes are NumPy's as
well, and sums over some axes are products with ones, which take a tenth of the time of `np.sum`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytensor.link.vm import VMLinker
from pytensor.tensor.basic import Join

from symspec.derivatives.machine.calls import Function, find_call
from symspec.derivatives.machine.joins import Buffer, Cell, like, multiply_into


class DirectLinker(VMLinker):
    """`VMLinker` of Python thunks, of which those of elementwise operations are calls of NumPy.

    Shapes and dtypes of the function's arguments have to be what the graph says, and whoever calls
    it silences NumPy's warnings.
    """

    def __init__(self, **options: Any):
        super().__init__(**{"use_cloop": False, "c_thunks": False} | options)

    def make_vm(self, nodes: Any, thunks: Any, *others: Any) -> Any:
        buffers: list[Buffer] = []
        if not any(thunk.lazy for thunk in thunks):
            own = dict(zip(nodes, thunks, strict=True))
            direct = {node: _shorten(node, thunk) for node, thunk in own.items()}
            for node in nodes:
                if isinstance(node.op, Join):
                    direct |= multiply_into(node, own, self.fgraph.clients, buffers)
            thunks = list(direct.values())
        vm = super().make_vm(nodes, thunks, *others)
        vm.buffers = buffers
        return vm


def _shorten(node: Any, thunk: Any) -> Any:
    """The thunk of an operation that is one call of NumPy's; any other as it is."""
    found = find_call(node)
    if found is None:
        return thunk
    function, places = found
    (out,) = thunk.outputs
    return like(thunk, _call_into(out, function, [thunk.inputs[i] for i in places]))


def _call_into(out: Cell, function: Function, cells: list[Cell]) -> Callable[[], None]:
    if len(cells) == 1:
        (a,) = cells

        def call() -> None:
            out[0] = function(a[0])

    elif len(cells) == 2:
        a, b = cells

        def call() -> None:
            out[0] = function(a[0], b[0])

    elif len(cells) == 3:
        a, b, c = cells

        def call() -> None:
            out[0] = function(a[0], b[0], c[0])

    else:

        def call() -> None:
            out[0] = function(*[cell[0] for cell in cells])

    return call
