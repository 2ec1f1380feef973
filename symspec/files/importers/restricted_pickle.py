"""Pickles inside PyTorch files, followed step by step without Python's own unpickler.

A pickle is a program that may call whatever it names. Here no name is ever imported. A state_dict
needs an ordered dict, the function that builds a tensor and the types of storages, each of which
becomes a plain description; any other name or step is refused.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from symspec.files.matching import MOST_AXES, is_count

_MOST_STEPS = 10**6
_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
STORAGES = {  # dtype of each storage; bfloat16 as its two bytes
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "u2",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}


class RefusedPickle(ValueError):
    """The pickle asks for something that a state_dict does not need."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle refers to."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A sequence of numbers, the member ``data/<key>`` of the zip file."""

    kind: str
    key: str
    size: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_MARK = object()


def read_pickle(content: bytes) -> Any:
    """Follow a pickle of dicts, lists, tuples, numbers, strings and tensors.

    Raises
    ------
    RefusedPickle
        It holds anything else; the message names it.
    """
    machine = _Machine()
    for n, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name == "STOP":
            return machine.pop()
        if n > _MOST_STEPS:
            raise RefusedPickle(f"more than {_MOST_STEPS} steps")
        if opcode.name in _CONSTANTS:
            machine.stack.append(_CONSTANTS[opcode.name]())
        elif opcode.name in _LITERALS:
            machine.stack.append(argument)
        elif opcode.name in _STEPS:
            _STEPS[opcode.name](machine, argument)
        else:
            raise RefusedPickle(f"the step {opcode.name}")
    raise RefusedPickle("no end")


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise RefusedPickle("a step without its operand")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        items = []
        while self.stack and self.stack[-1] is not _MARK:
            items.append(self.stack.pop())
        if not self.stack:
            raise RefusedPickle("a step without its operands")
        self.stack.pop()
        return items[::-1]

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise RefusedPickle(f"a step on what is no {kind.__name__}")
        return self.stack[-1]

    def mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def put(self, argument: int | None) -> None:
        value = self.pop()
        self.stack.append(value)
        self.memo[len(self.memo) if argument is None else argument] = value

    def get(self, argument: int) -> None:
        if argument not in self.memo:
            raise RefusedPickle("a reference to nothing")
        self.stack.append(self.memo[argument])

    def tuple_of(self, n: int) -> Callable[[Any], None]:
        return lambda _: self.stack.append(tuple([self.pop() for _ in range(n)][::-1]))

    def tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):  # others may take for ever to hash
                raise RefusedPickle(f"a key of type {type(key).__name__}")
            target[key] = value

    def set_item(self, _: Any) -> None:
        value = self.pop()
        key = self.pop()
        self.set_items([key, value])

    def append_all(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def name(self, argument: str) -> None:
        self.stack.append(_allow(argument.replace(" ", ".", 1)))

    def name_on_stack(self, _: Any) -> None:
        name = self.pop()
        module = self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise RefusedPickle("a name that is no string")
        self.stack.append(_allow(f"{module}.{name}"))

    def find_storage(self, _: Any) -> None:
        self.stack.append(_build_storage(self.pop()))

    def call(self, _: Any) -> None:
        arguments = self.pop()
        function = self.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise RefusedPickle("a call of what is no function")
        self.stack.append(_call(function.name, arguments))

    def set_state(self, _: Any) -> None:
        self.pop()  # the attribute _metadata of a state_dict, of which nothing is needed
        self.top(dict)


def _allow(name: str) -> Global:
    if name not in (_DICT, _TENSOR) and name not in STORAGES:
        raise RefusedPickle(f"the name {name[:200]}")
    return Global(name)


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    if name == _DICT and not arguments:
        return {}
    if name == _TENSOR and len(arguments) in (6, 7):
        return _build_tensor(*arguments[:4])
    raise RefusedPickle(f"a call of {name} with {len(arguments)} arguments")


def _build_storage(reference: Any) -> Storage:
    if not (isinstance(reference, tuple) and len(reference) == 5 and reference[0] == "storage"):
        raise RefusedPickle("a reference to no storage")
    _, kind, key, _, size = reference
    if not isinstance(kind, Global) or kind.name not in STORAGES:
        raise RefusedPickle("a storage of no known type")
    if not isinstance(key, str) or not key.isalnum() or not key.isascii():
        raise RefusedPickle(
            f"a storage with the key {key[:40] if isinstance(key, str) else type(key).__name__!r}"
        )
    if not is_count(size):
        raise RefusedPickle(f"the storage {key[:40]!r} without a size")
    return Storage(kind.name, key, size)


def _build_tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    are_tuples = (
        isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and len(shape) == len(strides) <= MOST_AXES
    )
    if not (
        isinstance(storage, Storage)
        and are_tuples
        and all(map(is_count, (offset, *shape, *strides)))
    ):
        raise RefusedPickle("a tensor without a storage, a shape and strides")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.size:
        raise RefusedPickle(
            f"a tensor of shape {shape} that reaches beyond its storage of {storage.size} numbers"
        )
    return Tensor(storage, offset, shape, strides)


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "MARK": _Machine.mark,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": _Machine.tuple,
    "TUPLE1": lambda machine, argument: machine.tuple_of(1)(argument),
    "TUPLE2": lambda machine, argument: machine.tuple_of(2)(argument),
    "TUPLE3": lambda machine, argument: machine.tuple_of(3)(argument),
    "SETITEM": _Machine.set_item,
    "SETITEMS": lambda machine, argument: machine.set_items(machine.pop_to_mark()),
    "APPEND": lambda machine, argument: machine.append_all([machine.pop()]),
    "APPENDS": lambda machine, argument: machine.append_all(machine.pop_to_mark()),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_on_stack,
    "BINPERSID": _Machine.find_storage,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.set_state,
}
