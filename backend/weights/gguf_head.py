"""Reads the head of a GGUF file that nobody vouches for: its settings, and where its tensors are. No weight is read.

Every count and length is held against the file's size before memory is taken, long lists are passed over, and the
tensors' bytes must be in the file. Knows nothing about what the settings mean.

The format: ggml-org/ggml ``docs/gguf.md``; the blocks of each type: ``ggml.c``, ``type_traits``.
"""

import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from backend.errors import WeightsError
from backend.weights.disk import source_file

MAGIC, VERSIONS = b"GGUF", (2, 3)
MOST_KEYS, MOST_TENSORS, MOST_ITEMS = 4096, 100_000, 2_000_000  # the largest vocabularies have 300,000 tokens
MOST_NAME, MOST_TEXT, MOST_KEPT = 512, 1_000_000, 4096  # bytes, bytes, numbers of a list
MOST_HELD = 64_000_000  # bytes of everything that is kept of a head
PEEK_BYTES = 200_000
_STRING, _LIST, _BOOL = 8, 9, 7
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_WINDOW = 1 << 20  # bytes that are held of the file
_ALIGN, _MOST_ALIGN = 32, 1 << 16
# Type -> numbers in a block, bytes of a block.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


@dataclass(frozen=True)
class Passed:
    """A list that was passed over: how long it is, where its first item lies, and the bytes of its longest text."""

    count: int
    offset: int
    longest: int = 0


Value = int | float | bool | str | tuple[int | float | bool, ...] | Passed


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: sizes as ggml has them, the longest run first; ``nbytes`` is 0 for a type that is not known here."""

    name: str
    shape: tuple[int, ...]
    type: int
    nbytes: int


@dataclass(frozen=True)
class GgufHead:
    """What a file says before its first weight. ``bytes`` are those of the whole file."""

    path: Path
    bytes: int
    values: Mapping[str, Value]
    tensors: tuple[GgufTensor, ...]

    @property
    def parameters(self) -> int:
        """Weights in all."""
        return sum(prod(tensor.shape) for tensor in self.tensors)


def read_head(path: Path) -> GgufHead:
    """Read the head of a file.

    Raises:
        WeightsError: it is no GGUF file, of a version that is not read here, cut short, or makes no sense.
    """
    size = source_file(path).bytes
    try:
        with path.open("rb", buffering=0) as file:
            return _head(_Cursor(file, size, path.name), path)
    except OSError as problem:
        raise WeightsError("weights.cannot_read", file=path.name, what=problem.strerror or str(problem)) from problem


def peek(path: Path) -> dict[str, Value]:
    """Return the settings at the beginning of a file, where those that describe the model stand; quick, and empty
    where nothing can be read. Of a list of texts, only how long it says that it is.
    """
    found: dict[str, Value] = {}
    try:
        size = source_file(path).bytes
        with path.open("rb", buffering=0) as file:
            cursor = _Cursor(file, min(size, PEEK_BYTES), path.name)
            found.update(_pairs(cursor, _counts(cursor)[1], brief=True))
    except (WeightsError, OSError):
        return found
    return found


def texts_at(head: GgufHead, key: str, wanted: Collection[int]) -> dict[int, str]:
    """Return index -> text of those items of a list of texts; what is not there is left out.

    Raises:
        WeightsError: the file changed meanwhile.
    """
    place = head.values.get(key)
    if not isinstance(place, Passed) or not wanted:
        return {}
    last, found = min(place.count, max(wanted) + 1), dict[int, str]()
    try:
        with head.path.open("rb", buffering=0) as file:
            cursor = _Cursor(file, head.bytes, head.path.name)
            cursor.at = place.offset
            for index in range(last):
                raw = cursor.take(cursor.whole("Q", most=MOST_TEXT))
                if index in wanted:
                    found[index] = raw.decode("utf-8", "replace")
    except OSError as problem:
        raise WeightsError("weights.cannot_read", file=head.path.name, what=str(problem)[:200]) from problem
    return found


class _Cursor:
    """A place in a file, with a window of its bytes; nothing is read behind ``size``."""

    def __init__(self, file: BinaryIO, size: int, name: str) -> None:
        self.at, self.size, self._file, self._name = 0, size, file, name
        self._window, self._start, self._held = b"", 0, 0

    def bad(self, what: str) -> WeightsError:
        return WeightsError("ggufready.bad_head", file=self._name, what=what)

    def check(self, count: int) -> None:
        """Make sure that so many bytes come."""
        if count > self.size - self.at:
            raise WeightsError("weights.truncated", file=self._name, missing=count - (self.size - self.at))

    def take(self, count: int) -> bytes:
        self.check(count)
        begin = self.at - self._start
        if begin < 0 or begin + count > len(self._window):
            self._file.seek(self.at)
            self._window, self._start, begin = self._read(max(count, _WINDOW)), self.at, 0
            if len(self._window) < count:
                raise WeightsError("weights.truncated", file=self._name, missing=count - len(self._window))
        self.at += count
        return self._window[begin : begin + count]

    def _read(self, count: int) -> bytes:
        parts, left = list[bytes](), min(count, self.size - self.at)
        while left and (part := self._file.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def whole(self, form: str, *, most: int) -> int:
        """Return a whole number that is no larger than ``most``."""
        (value,) = struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))
        if value > most:
            raise self.bad(f"{value} > {most}")
        return int(value)

    def hold(self, count: int) -> bytes:
        """Take bytes that will be kept, as far as so many may be."""
        self._held += count
        if self._held > MOST_HELD:
            raise self.bad(f"> {MOST_HELD}")
        return self.take(count)

    def text(self, most: int) -> str:
        try:
            return self.hold(self.whole("Q", most=most)).decode("utf-8")
        except UnicodeDecodeError as problem:
            raise self.bad(str(problem)[:100]) from problem

    def pass_texts(self, count: int) -> int:
        """Pass over so many texts; return the bytes of the longest."""
        longest = 0
        for _ in range(count):
            length = self.whole("Q", most=MOST_TEXT)
            self.check(length)
            self.at += length
            longest = max(longest, length)
        return longest


def _counts(cursor: _Cursor) -> tuple[int, int]:
    """Return the numbers of tensors and of settings."""
    if cursor.size < len(MAGIC) or cursor.take(len(MAGIC)) != MAGIC:
        raise cursor.bad("GGUF?")
    (version,) = struct.unpack("<I", cursor.take(4))
    if version not in VERSIONS:
        raise cursor.bad(f"version {version}")
    return cursor.whole("Q", most=MOST_TENSORS), cursor.whole("Q", most=MOST_KEYS)


def _pairs(cursor: _Cursor, count: int, *, brief: bool = False) -> Iterator[tuple[str, Value]]:
    for _ in range(count):
        key, kind = cursor.text(MOST_NAME), cursor.whole("I", most=12)
        if kind != _LIST:
            yield key, _one(cursor, kind)
            continue
        inner, length = cursor.whole("I", most=12), cursor.whole("Q", most=MOST_ITEMS)
        if inner == _LIST:
            raise cursor.bad(f"{key[:60]}: [[]]")
        if inner == _STRING:
            begin = cursor.at
            if brief:
                yield key, Passed(length, begin)
            cursor.check(8 * length)
            longest = cursor.pass_texts(length)
            if not brief:
                yield key, Passed(length, begin, longest)
        else:
            yield key, _numbers(cursor, inner, length)


def _one(cursor: _Cursor, kind: int) -> Value:
    if kind == _STRING:
        return cursor.text(MOST_TEXT)
    (value,) = struct.unpack("<" + _FORMS[kind], cursor.take(struct.calcsize("<" + _FORMS[kind])))
    return bool(value) if kind == _BOOL else value


def _numbers(cursor: _Cursor, kind: int, length: int) -> Value:
    each, begin = struct.calcsize("<" + _FORMS[kind]), cursor.at
    cursor.check(each * length)
    if length > MOST_KEPT:
        cursor.at += each * length
        return Passed(length, begin)
    return struct.unpack(f"<{length}{_FORMS[kind]}", cursor.hold(each * length))


def _head(cursor: _Cursor, path: Path) -> GgufHead:
    tensor_count, key_count = _counts(cursor)
    values: dict[str, Value] = {}
    for key, value in _pairs(cursor, key_count):
        if key in values:
            raise cursor.bad(f"{key[:60]} × 2")
        values[key] = value
    align = values.get("general.alignment", _ALIGN)
    if type(align) is not int or not 0 < align <= _MOST_ALIGN or align & (align - 1):
        raise cursor.bad(f"general.alignment {str(align)[:20]}")
    tensors, end = dict[str, GgufTensor](), 0
    for _ in range(tensor_count):
        tensor, offset = _tensor(cursor)
        if tensor.name in tensors or offset % align:
            raise cursor.bad(tensor.name[:60])
        tensors[tensor.name] = tensor
        end = max(end, offset + tensor.nbytes)
    begin = -(-cursor.at // align) * align
    if begin + end > cursor.size:
        raise WeightsError("weights.truncated", file=path.name, missing=begin + end - cursor.size)
    return GgufHead(path, cursor.size, values, tuple(tensors.values()))


def _tensor(cursor: _Cursor) -> tuple[GgufTensor, int]:
    """Return a tensor, and where its bytes begin after the head."""
    name = cursor.text(MOST_NAME)
    shape = tuple(cursor.whole("Q", most=1 << 40) for _ in range(cursor.whole("I", most=4)))
    kind, offset = cursor.whole("I", most=1 << 16), cursor.whole("Q", most=1 << 60)
    count = prod(shape)
    block, size = _BLOCKS.get(kind, (1, 0))
    if not 0 < count < 1 << 50 or not shape or shape[0] % block:
        raise cursor.bad(f"{name[:60]} {shape}")
    return GgufTensor(name, shape, kind, count // block * size), offset
