"""Reads what torch.save wrote, without unpickling: a small interpreter of the pickle language that can build only
dictionaries, lists, tuples, texts, numbers and descriptions of tensors.

No object is made and no function called, whatever the pickle says: the few names that state dictionaries need are
understood here, anything else is refused by name. A hundred bytes can describe a tuple of 2^40 parts by sharing, so
nothing here hashes, compares, prints or copies what a pickle has built before its type and size are checked. Knows
nothing about where tensor data lie in a file.

Sources: the opcodes are documented in CPython's ``pickletools``; the names that stand for tensors in
``torch/_utils.py`` and ``torch/serialization.py``.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backend.errors import WeightsError

PICKLE_LIMIT = 16_000_000  # bytes; the description of the largest Llama shard takes about 0.2 MB
_OPCODE_LIMIT = 1_000_000  # a shard of the 65B takes about 30,000
_NAME_LIMIT = 1000  # characters
_ARGUMENT_LIMIT = 8

STORAGES: Mapping[str, str] = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """A run of ``count`` numbers that the file keeps under ``key``."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class StoredView:
    """A tensor as a view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """A global that the pickle mentions: never imported, only compared."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class _Mark:
    """The pickle language's marker on the stack."""


class _Refused(Exception):
    """The pickle asks for something that a file of weights has no need of."""


def _rebuild_tensor(arguments: tuple[Any, ...]) -> StoredView:
    storage, offset, shape, stride, *_ = arguments
    if not isinstance(shape, tuple) or not isinstance(stride, tuple) or len(shape) != len(stride) or len(shape) > 8:
        raise _Refused("tensor")
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, Storage) or not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers):
        raise _Refused("tensor")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    elements = 1
    for size in shape:
        elements *= size
    # A stride of zero makes many numbers out of one: 2^40 of them from a file of a few bytes.
    if elements > storage.count or (elements and last >= storage.count):
        raise _Refused("tensor outside its storage")
    return StoredView(storage, offset, shape, stride)


def _storage(pid: Any) -> Storage:
    # Before torch 1.6 a sixth field could make a storage a part of another; nothing has written that for long.
    if not isinstance(pid, tuple) or not 5 <= len(pid) <= 6 or pid[0] != "storage" or pid[5:] not in ((), (None,)):
        raise _Refused("persistent id")
    kind, key, count = pid[1], pid[2], pid[4]
    if not isinstance(kind, _Name) or kind.module not in ("torch", "torch.storage") or kind.name not in STORAGES:
        raise _Refused(_described(kind))
    if not isinstance(key, str) or len(key) > 20 or not (key.isascii() and key.isdigit()):
        raise _Refused("storage key")
    if type(count) is not int or count < 0:
        raise _Refused("storage size")
    return Storage(key, STORAGES[kind.name], count)


def _empty_table(arguments: tuple[Any, ...]) -> dict[str, Any]:
    # Python 3 fills an OrderedDict by SETITEMS, never through its arguments.
    if arguments:
        raise _Refused("OrderedDict")
    return {}


def _described(value: Any) -> str:
    return str(value)[:120] if isinstance(value, _Name) else type(value).__name__


def _key(value: Any) -> str | int:
    """Return a dictionary's key if it is one that files of weights have; an optimizer's state counts in integers."""
    if type(value) is int:
        return value
    if not isinstance(value, str) or len(value) > _NAME_LIMIT:
        raise _Refused(f"key {type(value).__name__}")
    value.encode()  # a lone surrogate is no text
    return value


_CALLS: Mapping[tuple[str, str], Callable[[tuple[Any, ...]], Any]] = {
    ("collections", "OrderedDict"): _empty_table,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda arguments: arguments[0],
}


class _Machine:
    """The stack and the memo of one pickle; each opcode that state dictionaries use is a method or a table entry."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> tuple[Any, int]:
        """Return what the pickle describes, and the number of bytes it took."""
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            if count > _OPCODE_LIMIT:
                raise _Refused("too long")
            if opcode.name == "STOP":
                return self.stack.pop(), (position or 0) + 1
            self._step(opcode.name, argument)
        raise _Refused("no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _PUSH_ARGUMENT:
            stack.append(argument)
        elif name in _PUSH_NEW:
            stack.append(_PUSH_NEW[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(argument)])
        elif name in _TUPLES:
            size = _TUPLES[name]
            stack[-size:] = [tuple(stack[-size:])]
        elif name in _STRUCTURE:
            getattr(self, _STRUCTURE[name])(argument)
        elif name not in ("PROTO", "FRAME"):
            raise _Refused(f"opcode {name}")

    def to_mark(self) -> list[Any]:
        """Pop everything above the last mark, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _Mark:
            at -= 1
            if at < 0:
                raise _Refused("mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def tuple_(self, _: Any) -> None:
        """Opcode TUPLE."""
        self.stack.append(tuple(self.to_mark()))

    def set_items(self, _: Any) -> None:
        """Opcode SETITEMS: keys and values above the mark go into the dictionary below it."""
        items = self.to_mark()
        self._table().update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def set_item(self, _: Any) -> None:
        """Opcode SETITEM."""
        value, key = self.stack.pop(), self.stack.pop()
        self._table()[_key(key)] = value

    def appends(self, _: Any) -> None:
        """Opcode APPENDS."""
        items = self.to_mark()
        self._list().extend(items)

    def append(self, _: Any) -> None:
        """Opcode APPEND."""
        item = self.stack.pop()
        self._list().append(item)

    def global_(self, argument: str) -> None:
        """Opcode GLOBAL: the name goes on the stack as a name."""
        module, _, name = argument.partition(" ")
        self.stack.append(_known(module, name))

    def stack_global(self, _: Any) -> None:
        """Opcode STACK_GLOBAL."""
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise _Refused("global")
        self.stack.append(_known(module, name))

    def reduce(self, _: Any) -> None:
        """Opcode REDUCE: "call"; only the entries of the table above answer."""
        arguments, function = self.stack.pop(), self.stack.pop()
        call = _CALLS.get((function.module, function.name)) if isinstance(function, _Name) else None
        if call is None or not isinstance(arguments, tuple) or len(arguments) > _ARGUMENT_LIMIT:
            raise _Refused(_described(function))
        self.stack.append(call(arguments))

    def persistent(self, _: Any) -> None:
        """Opcode BINPERSID: torch's way of naming a storage."""
        self.stack.append(_storage(self.stack.pop()))

    def build(self, _: Any) -> None:
        """Opcode BUILD: attributes of a state dictionary (module versions); not needed."""
        self.stack.pop()

    def _table(self) -> dict[Any, Any]:
        if not isinstance(self.stack[-1], dict):
            raise _Refused("dictionary")
        return self.stack[-1]

    def _list(self) -> list[Any]:
        if not isinstance(self.stack[-1], list):
            raise _Refused("list")
        return self.stack[-1]


_PUSH_ARGUMENT = frozenset(
    ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
     "SHORT_BINUNICODE", "SHORT_BINSTRING", "BINSTRING")
)  # fmt: skip
_PUSH_NEW: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "MARK": lambda: _Mark,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
_TUPLES: Mapping[str, int] = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_STRUCTURE: Mapping[str, str] = {
    "TUPLE": "tuple_", "SETITEMS": "set_items", "SETITEM": "set_item", "APPENDS": "appends", "APPEND": "append",
    "GLOBAL": "global_", "STACK_GLOBAL": "stack_global", "REDUCE": "reduce", "BINPERSID": "persistent", "BUILD":
    "build",
}  # fmt: skip


def _known(module: str, name: str) -> _Name:
    if (module, name) not in _CALLS and not (module in ("torch", "torch.storage") and name in STORAGES):
        raise _Refused(f"{module}.{name}"[:120])
    return _Name(module, name)


def read_pickle(data: bytes, file: str) -> tuple[Any, int]:
    """Return what a pickle describes and the number of bytes it took; ``file`` is the name to blame.

    Raises:
        WeightsError: it is too long, damaged, or mentions anything that a state dictionary has no need of.
    """
    if len(data) > PICKLE_LIMIT:
        raise WeightsError("weights.pickle_too_large", file=file, bytes=len(data), limit=PICKLE_LIMIT)
    try:
        return _Machine().run(data)
    except _Refused as problem:
        raise WeightsError("weights.pickle_refused", file=file, what=_plain(problem)) from problem
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError, MemoryError) as problem:
        what = _plain(problem) or type(problem).__name__
        raise WeightsError("weights.pickle_damaged", file=file, what=what) from problem


def _plain(problem: Exception) -> str:
    """Return what an exception says, without the lone surrogates that a hostile name can carry into it."""
    return str(problem)[:120].encode("utf-8", "backslashreplace").decode()


def state_dict(data: bytes, file: str) -> dict[str, StoredView]:
    """Return the named tensors of a pickled state dictionary.

    Raises:
        WeightsError: as ``read_pickle``, or there are no named tensors in it.
    """
    found, _ = read_pickle(data, file)
    return tensors_of(found, file)


def tensors_of(found: Any, file: str) -> dict[str, StoredView]:
    """Return the named tensors in what a pickle describes; a wrapper such as {"state_dict": ...} is opened.

    Raises:
        WeightsError: there are none.
    """
    for wrapper in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    table = found if isinstance(found, dict) else {}
    tensors = {name: value for name, value in table.items() if isinstance(value, StoredView) and isinstance(name, str)}
    if not tensors:
        raise WeightsError("weights.no_tensors", file=file)
    return tensors
