"""What follows from files coming one after the other: their order, how results are cut so that used ones can go, and
the most room that takes.

Numbers only, so that a plan, a download and a writer that never meet come to the same answers. Knows nothing about
disks, networks or what is in a file.
"""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from math import ceil
from typing import Generic, TypeVar

SHARD_BYTES = 5_000_000_000  # of one file of a result, as save_pretrained has it
Key = TypeVar("Key", bound=Hashable)
_SPLIT = "consolidated."  # Meta's shards: each has a part of every tensor
_MORE = 8  # tries to cut a stretch evenly without passing the limit


def in_order(sources: Sequence[Sequence[tuple[Key, str, int]]]) -> list[Key]:
    """Return the order in which files are fetched: by where in the model each is needed first, then by source.

    Each file of a source is (key, name, bytes), in the order of the names. A model's tensors go through the files of a
    source from the first to the last, except through Meta's shards, all of which are needed at once.
    """
    found: list[tuple[Fraction, int, int, Key]] = []
    for source, files in enumerate(sources):
        total, before = sum(size for *_, size in files) or 1, 0
        for number, (key, name, size) in enumerate(files):
            begins = Fraction(0) if name.startswith(_SPLIT) else Fraction(before, total)
            found.append((begins, source, number, key))
            before += size
    return [key for *_, key in sorted(found, key=lambda row: row[:3])]


def grouped(items: Sequence[tuple[int, int]], limit: int) -> list[range]:
    """Cut items (bytes, when they can be written) into files of at most ``limit`` bytes; return the items of each.

    Items are sorted by when they can be written. What can be written earlier than the rest gets files of its own, of
    at least half the limit, so that its inputs are needed no longer than that. Where all can be written at once it is
    save_pretrained's rule: a new file when the next tensor would pass the limit.
    """
    sizes = [size for size, _ in items]
    if sum(sizes) <= limit:
        return [range(len(sizes))]
    groups: list[range] = []
    *early, last = _stretches(items, limit)
    for stretch in early:
        groups.extend(_evenly(sizes, stretch, limit))
    return [*groups, *_greedily(sizes, last, limit)]


def _stretches(items: Sequence[tuple[int, int]], limit: int) -> list[range]:
    """Return items that can be written by the same time; short stretches are one with the next."""
    found, start, stop, size = list[range](), 0, 0, 0
    for _, run in groupby(items, key=lambda item: item[1]):
        part = [item[0] for item in run]
        stop, size = stop + len(part), size + sum(part)
        if size * 2 >= limit:
            found.append(range(start, stop))
            start, size = stop, 0
    if start < stop or not found:
        found.append(range(start, stop))
    return found


def _evenly(sizes: Sequence[int], stretch: range, limit: int) -> list[range]:
    total = sum(sizes[index] for index in stretch)
    fewest = ceil(total / limit)
    for count in range(fewest, fewest + _MORE):
        bounds, before, part = [stretch.start], 0, 0
        for index in stretch:
            mine = min(count - 1, (2 * before + sizes[index]) * count // (2 * total))
            if mine > part:
                bounds.append(index)
                part = mine
            before += sizes[index]
        groups = [range(*pair) for pair in zip(bounds, [*bounds[1:], stretch.stop], strict=True) if pair[0] < pair[1]]
        if all(sum(sizes[index] for index in group) <= limit for group in groups):
            return groups
    return _greedily(sizes, stretch, limit)


def _greedily(sizes: Sequence[int], stretch: range, limit: int) -> list[range]:
    groups, start, size = list[range](), stretch.start, 0
    for index in stretch:
        if size and size + sizes[index] > limit:
            groups.append(range(start, index))
            start, size = index, 0
        size += sizes[index]
    return [*groups, range(start, stretch.stop)]


@dataclass(frozen=True)
class Output(Generic[Key]):
    """A file that is made: its bytes, the inputs of its first tensor, and those of all of it."""

    size: int
    begins: frozenset[Key]
    needs: frozenset[Key]


def last_uses(outputs: Sequence[Output[Key]]) -> dict[Key, int]:
    """Return the number of the last output that needs each input; inputs that none needs are not in it."""
    return {key: number for number, output in enumerate(outputs) for key in output.needs}


class Room(Generic[Key]):
    """The bytes on a disk while ``files`` (key -> bytes) come and ``outputs`` are made of them, in order.

    A file goes once the last output that needs it is made; one that none needs stays. Files that are not in ``files``
    are there from the beginning and never go.
    """

    def __init__(self, files: Mapping[Key, int], outputs: Sequence[Output[Key]]) -> None:
        self._files, self._outputs, self._last = dict(files), outputs, last_uses(outputs)
        self._here = set[Key]()
        self.done = 0  # outputs that are made
        self.used = 0

    @property
    def here(self) -> Collection[Key]:
        """The files that have come and not gone yet."""
        return self._here

    def peak(self, order: Sequence[Key]) -> int:
        """Return the most bytes at any moment if one file comes after the other and each output is made at once."""
        most, begun, came = 0, False, set[Key]()
        for key in order:
            came.add(key)
            self._here.add(key)
            self.used += self._files[key]
            most = max(most, self.used)
            while self.done < len(self._outputs) and self._is_there(self._outputs[self.done].begins, came):
                output = self._outputs[self.done]
                self.used += 0 if begun else output.size
                begun, most = True, max(most, self.used)
                if not self._is_there(output.needs, came):
                    break
                begun = False
                self.done += 1
                for gone in [one for one in self._here if self._last.get(one, len(self._outputs)) < self.done]:
                    self._here.remove(gone)
                    self.used -= self._files[gone]
        return most

    def _is_there(self, needs: frozenset[Key], came: Collection[Key]) -> bool:
        return all(key in came or key not in self._files for key in needs)


def usual_outputs(sources: Sequence[Sequence[tuple[Key, str, int]]], size: int, limit: int) -> list[Output[Key]]:
    """Return the outputs of ``size`` bytes that sources laid out in the model's order come to; no header is needed.

    The model is taken as a thousand equal pieces, each made of the pieces of the sources at the same place.
    """
    order = {key: number for number, key in enumerate(in_order(sources))}
    pieces = [frozenset(key for files in sources for key in _at(files, n)) for n in range(1000)]

    def turn(needs: frozenset[Key]) -> int:
        return max((order[key] for key in needs), default=0)

    ranked = sorted(pieces, key=turn)
    bounds = [size * n // 1000 for n in range(1001)]
    items = [(bounds[n + 1] - bounds[n], turn(needs)) for n, needs in enumerate(ranked)]
    return [
        Output(sum(items[n][0] for n in group), ranked[group.start], frozenset().union(*(ranked[n] for n in group)))
        for group in grouped(items, limit)
    ]


def _at(files: Sequence[tuple[Key, str, int]], piece: int) -> Iterator[Key]:
    """Yield the files of a source that have something of the middle of a piece, one of a thousand of the model."""
    place, before = (2 * piece + 1) * sum(size for *_, size in files), 0  # in two-thousandths of a byte
    for key, name, size in files:
        if name.startswith(_SPLIT) or before * 2000 <= place < (before + size) * 2000:
            yield key
        before += size
