"""Reads what torch.save wrote, without unpickling: a small interpreter of the pickle language that can build only
dictionaries, lists, tuples, texts, numbers and descriptions of tensors.

No object is made and no function called, whatever the pickle says: the few names that state dictionaries need are
understood here, anything else is refused by name. Knows nothing about where tensor data lie in a file.

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
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, Storage) or not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers):
        raise _Refused("tensor")
    if len(shape) != len(stride) or len(shape) > 8:
        raise _Refused("tensor")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    elements = 1
    for size in shape:
        elements *= size
    # A stride of zero makes many numbers out of one: 2^40 of them from a file of a few bytes.
    if elements > storage.count or (elements and last >= storage.count):
        raise _Refused("tensor outside its storage")
    return StoredView(storage, offset, tuple(shape), tuple(stride))


def _storage(pid: Any) -> Storage:
    # Before torch 1.6 a sixth field could make a storage a part of another; nothing has written that for long.
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or pid[5:] not in ((), (None,)):
        raise _Refused("persistent id")
    kind, key, count = pid[1], pid[2], pid[4]
    if not isinstance(kind, _Name) or kind.module not in ("torch", "torch.storage") or kind.name not in STORAGES:
        raise _Refused(str(kind)[:120])
    if not isinstance(key, str) or not key.isascii() or not key.isdigit() or type(count) is not int or count < 0:
        raise _Refused("storage key")
    return Storage(key, STORAGES[kind.name], count)


_CALLS: Mapping[tuple[str, str], Callable[[tuple[Any, ...]], Any]] = {
    ("collections", "OrderedDict"): lambda arguments: dict(*arguments),
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
        self._table().update(zip(items[::2], items[1::2], strict=True))

    def set_item(self, _: Any) -> None:
        """Opcode SETITEM."""
        value, key = self.stack.pop(), self.stack.pop()
        self._table()[key] = value

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
        self.stack.append(_known(str(module), str(name)))

    def reduce(self, _: Any) -> None:
        """Opcode REDUCE: "call"; only the entries of the table above answer."""
        arguments, function = self.stack.pop(), self.stack.pop()
        call = _CALLS.get((function.module, function.name)) if isinstance(function, _Name) else None
        if call is None or not isinstance(arguments, tuple):
            raise _Refused(str(function)[:120])
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
        raise WeightsError("weights.pickle_refused", file=file, what=str(problem)) from problem
    except (ValueError, TypeError, KeyError, IndexError, UnicodeDecodeError, OverflowError) as problem:
        raise WeightsError("weights.pickle_damaged", file=file, what=str(problem)[:120]) from problem


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
