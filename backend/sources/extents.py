"""Which bytes of a file are there: sorted, disjoint, half-open spans. Pure; knows nothing about files or networks."""

from collections.abc import Iterable, Iterator

Span = tuple[int, int]


class Extents:
    """A set of byte positions kept as spans ``[start, stop)``. There are few of them: one per connection or so."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._spans: list[Span] = []
        for start, stop in spans:
            self.add(start, stop)

    def __iter__(self) -> Iterator[Span]:
        return iter(list(self._spans))

    def __repr__(self) -> str:
        return f"Extents({self._spans})"

    @property
    def total(self) -> int:
        """How many bytes are there."""
        return sum(stop - start for start, stop in self._spans)

    def add(self, start: int, stop: int) -> None:
        """Add the positions from ``start`` up to ``stop``."""
        if start >= stop:
            return
        apart = []
        for span in self._spans:
            if span[1] < start or stop < span[0]:
                apart.append(span)
            else:
                start, stop = min(start, span[0]), max(stop, span[1])
        self._spans = sorted([*apart, (start, stop)])

    def remove(self, start: int, stop: int) -> None:
        """Take the positions from ``start`` up to ``stop`` away."""
        pieces = [(a, min(b, start)) for a, b in self._spans] + [(max(a, stop), b) for a, b in self._spans]
        self._spans = sorted({(a, b) for a, b in pieces if a < b}) if start < stop else self._spans

    def within(self, start: int, stop: int) -> Iterator[Span]:
        """Yield the spans inside ``[start, stop)``."""
        for a, b in list(self._spans):
            if max(a, start) < min(b, stop):
                yield max(a, start), min(b, stop)

    def gaps(self, start: int, stop: int) -> Iterator[Span]:
        """Yield what is missing of ``[start, stop)``."""
        for a, b in self.within(start, stop):
            if start < a:
                yield start, a
            start = b
        if start < stop:
            yield start, stop

    def reach(self, start: int) -> int:
        """Return how far one can go from ``start`` without meeting a gap."""
        return next((b for a, b in self._spans if a <= start < b), start)
