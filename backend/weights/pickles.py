"""Reads what torch.save wrote, without unpickling: a small interpreter of the pickle language that can build only
dictionaries, lists, tuples, texts, numbers and descriptions of tensors.

No object is made and no function called, whatever the pickle says: ``torch_names`` knows the few names that state
dictionaries need, anything else is refused by name. A hundred bytes can describe a tuple of 2^40 parts by sharing, so
nothing here hashes, compares, prints or copies what a pickle has built before its type and size are checked. Knows
nothing about where tensor data lie in a file.

Source: the opcodes are documented in CPython's ``pickletools``.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from backend.errors import WeightsError
from backend.weights.torch_names import OutsideStorage, Refused, Storage, StoredView, TooLong, call, known, storage_of

PICKLE_LIMIT = 16_000_000  # bytes; the description of the largest Llama shard takes about 0.2 MB
_OPCODE_LIMIT = 1_000_000  # a shard of the 65B takes about 30,000
_NAME_LIMIT = 1000  # characters


class Pickled(NamedTuple):
    """What a pickle of ``length`` bytes describes, and every storage that it mentions, by key."""

    value: Any
    length: int
    storages: Mapping[str, Storage]


class _Mark:
    """The pickle language's marker on the stack."""


def _key(value: Any) -> str | int:
    """Return a dictionary's key if it is one that files of weights have; an optimizer's state counts in integers."""
    if type(value) is int:
        return value
    if not isinstance(value, str) or len(value) > _NAME_LIMIT:
        raise Refused(f"key {type(value).__name__}")
    value.encode()  # a lone surrogate is no text
    return value


class _Machine:
    """The stack and the memo of one pickle; each opcode that state dictionaries use is a method or a table entry."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, data: bytes) -> Pickled:
        """Return what the pickle describes."""
        for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
            if count > _OPCODE_LIMIT:
                raise TooLong
            if opcode.name == "STOP":
                return Pickled(self.stack.pop(), (position or 0) + 1, self.storages)
            self._step(opcode.name, argument)
        raise Refused("no end")

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
            raise Refused(f"opcode {name}")

    def to_mark(self) -> list[Any]:
        """Pop everything above the last mark, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _Mark:
            at -= 1
            if at < 0:
                raise Refused("mark")
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
        self.stack.append(known(module, name))

    def stack_global(self, _: Any) -> None:
        """Opcode STACK_GLOBAL."""
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("global")
        self.stack.append(known(module, name))

    def reduce(self, _: Any) -> None:
        """Opcode REDUCE: "call"; only names that state dictionaries need answer."""
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(call(function, arguments))

    def persistent(self, _: Any) -> None:
        """Opcode BINPERSID: torch's way of naming a storage."""
        storage = storage_of(self.stack.pop())
        if self.storages.setdefault(storage.key, storage) != storage:
            raise Refused("storage key")
        self.stack.append(storage)

    def build(self, _: Any) -> None:
        """Opcode BUILD: attributes of a state dictionary (module versions); not needed."""
        self.stack.pop()

    def _table(self) -> dict[Any, Any]:
        if not isinstance(self.stack[-1], dict):
            raise Refused("dictionary")
        return self.stack[-1]

    def _list(self) -> list[Any]:
        if not isinstance(self.stack[-1], list):
            raise Refused("list")
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


def read_pickle(data: bytes, file: str) -> Pickled:
    """Return what a pickle describes; ``file`` is the name to blame.

    Raises:
        WeightsError: it is too long, damaged, or mentions anything that a state dictionary has no need of.
    """
    if len(data) > PICKLE_LIMIT:
        raise WeightsError("weights.pickle_too_large", file=file, bytes=len(data), limit=PICKLE_LIMIT)
    try:
        return _Machine().run(data)
    except TooLong as problem:
        raise WeightsError("files.too_many_tensors", file=file) from problem
    except OutsideStorage as problem:
        raise WeightsError("files.view_outside", file=file) from problem
    except Refused as problem:
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
    return tensors_of(read_pickle(data, file).value, file)


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
