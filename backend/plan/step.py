"""One step of a plan: what it reads, writes, downloads and needs, in numbers. Knows nothing of recipes or sources."""

from dataclasses import dataclass, replace

from backend.rates import Rates
from backend.text import Message

MB = 1_000_000
# Peak resident memory of each kind of step, measured on the demo and on 1.3 GB models of 7B's width: the
# interpreter with numpy, the same with torch for fp16 sums, and a slab or two; none of them grows with the model.
READ_MEMORY, CONVERT_MEMORY, ADD_MEMORY, ENGINE_MEMORY = 80 * MB, 200 * MB, 450 * MB, 500 * MB
FETCH_MEMORY = 120 * MB
IDLE_TORCH_MEMORY = 280 * MB  # once torch is imported, the worker keeps it
FETCH, MERGE, FINISH, VERIFY = "fetch", "merge", "finish", "verify"
TRY = "try"  # the one step that a set-up can do without
TORCH_S, ENGINE_S = 2.0, 10.0  # what starting torch, or an engine, costs before the first byte


@dataclass(frozen=True)
class Step:
    """One step: bytes it reads, writes and downloads, memory at its peak (bytes), and seconds it takes at any rate."""

    id: str
    title: Message
    reads: int
    writes: int
    memory: int
    fixed_s: float = 0.0
    downloads: int = 0

    def seconds(self, rates: Rates) -> float:
        """Return the seconds this is likely to take; what was measured replaces them as soon as the step runs."""
        local = self.reads / rates.read + (self.writes - self.downloads) / rates.write
        return self.fixed_s + local + self.downloads / rates.network

    def with_output(self, size: int) -> "Step":
        """Return the step where the weights of the result have exactly ``size`` bytes."""
        if self.id == MERGE:
            return replace(self, writes=size)
        if self.id == VERIFY:
            return replace(self, reads=size)
        return replace(self, reads=size, memory=ENGINE_MEMORY + size) if self.id == TRY else self
