"""What the names in torch's pickles mean here: tensors become descriptions of views, everything unknown is refused.

No name is ever imported or called; the few that state dictionaries need are understood by comparing. Knows nothing
about the pickle language or about files.

Source: ``torch/_utils.py`` (_rebuild_tensor_v2 and its kin) and ``torch/serialization.py`` (persistent ids).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_MOST = 1 << 48  # numbers in a storage, and the largest offset or stride
_LONGEST = 1 << 32  # rows, or numbers in a row
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
class Name:
    """A global that the pickle mentions: never imported, only compared."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Refused(Exception):
    """The pickle asks for something that a file of weights has no need of."""


class TooLong(Exception):
    """The pickle describes more than any model has."""


class OutsideStorage(Exception):
    """A tensor claims more numbers than the file keeps for it."""


def _are_naturals(numbers: tuple[Any, ...], limit: int) -> bool:
    return all(type(number) is int and 0 <= number < limit for number in numbers)


def _rebuild_tensor(arguments: tuple[Any, ...]) -> StoredView:
    storage, offset, shape, stride, *_ = arguments
    if not isinstance(shape, tuple) or not isinstance(stride, tuple) or len(shape) != len(stride) or len(shape) > 8:
        raise Refused("tensor")
    if not isinstance(storage, Storage) or not _are_naturals((offset, *stride), _MOST):
        raise Refused("tensor")
    if not _are_naturals(shape, _LONGEST):
        raise OutsideStorage
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    elements = 1
    for size in shape:
        elements *= size
    # A stride of zero makes many numbers out of one: 2^40 of them from a file of a few bytes.
    if elements > storage.count or (elements and last >= storage.count):
        raise OutsideStorage
    return StoredView(storage, offset, shape, stride)


def storage_of(pid: Any) -> Storage:
    """Return the storage that a persistent id names.

    Raises:
        Refused: it is anything else.
    """
    # Before torch 1.6 a sixth field could make a storage a part of another; nothing has written that for long.
    if not isinstance(pid, tuple) or not 5 <= len(pid) <= 6 or pid[0] != "storage" or pid[5:] not in ((), (None,)):
        raise Refused("persistent id")
    kind, key, count = pid[1], pid[2], pid[4]
    if not isinstance(kind, Name) or kind.module not in ("torch", "torch.storage") or kind.name not in STORAGES:
        raise Refused(described(kind))
    if not isinstance(key, str) or len(key) > 20 or not (key.isascii() and key.isdigit()):
        raise Refused("storage key")
    if not _are_naturals((count,), _MOST):
        raise Refused("storage size")
    return Storage(key, STORAGES[kind.name], count)


def _empty_table(arguments: tuple[Any, ...]) -> dict[str, Any]:
    # Python 3 fills an OrderedDict by SETITEMS, never through its arguments.
    if arguments:
        raise Refused("OrderedDict")
    return {}


def described(value: Any) -> str:
    """Return a short text for a value without looking into it: it may be a hundred bytes that print as a terabyte."""
    return str(value)[:120] if isinstance(value, Name) else type(value).__name__


_CALLS: Mapping[tuple[str, str], Callable[[tuple[Any, ...]], Any]] = {
    ("collections", "OrderedDict"): _empty_table,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda arguments: arguments[0],
}


def known(module: str, name: str) -> Name:
    """Return a global as a name.

    Raises:
        Refused: it is none that state dictionaries need.
    """
    if (module, name) not in _CALLS and not (module in ("torch", "torch.storage") and name in STORAGES):
        raise Refused(f"{module}.{name}"[:120])
    return Name(module, name)


def call(function: Any, arguments: Any) -> Any:
    """Return what calling a global would make, as a description.

    Raises:
        Refused: it is no such global, or the arguments are not the ones it takes.
        OutsideStorage: a tensor that claims more than its storage holds.
    """
    answer = _CALLS.get((function.module, function.name)) if isinstance(function, Name) else None
    if answer is None or not isinstance(arguments, tuple) or len(arguments) > _ARGUMENT_LIMIT:
        raise Refused(described(function))
    return answer(arguments)
