"""A plan as a value: resolved sources, a name, ordered steps, and the figures that follow from them.

Plain data: it crosses into the job as JSON. Knows nothing about how a plan is made or checked.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from backend.plan.finding import Instead
from backend.plan.step import MERGE, TRY, Step
from backend.rates import Rates
from backend.sources.pinned import Pinned
from backend.text import Message


@dataclass(frozen=True)
class Plan:
    """A recipe made concrete. ``estimated``: the figures are the recipe's own, no source was looked at.

    ``keep_sources``: what was fetched stays when the model is there; else each file goes once nothing needs it, and
    ``lean`` are the bytes that this takes on the disk, None where they are the same. ``instead``: sources that others
    stand in for.
    """

    recipe: str
    title: Mapping[str, str]
    name: str
    base: str
    delta: str | None
    loras: tuple[tuple[str, float | None], ...]
    template: str | None
    context: int | None
    questions: str | None
    steps: tuple[Step, ...]
    delta_rule: str = "auto"
    dtype: str | None = None  # "float16" and so on; None: the base's
    layout: str = "huggingface"
    remotes: tuple[Pinned, ...] = ()  # those of the sources that have to be fetched
    rates: Rates = field(default=Rates())
    keep_sources: bool = True
    estimated: bool = False
    instead: tuple[Instead, ...] = ()
    lean: int | None = None

    @property
    def sources(self) -> list[str]:
        """Every source, in the order they are used."""
        return [self.base, *([self.delta] if self.delta else []), *(source for source, _ in self.loras)]

    @property
    def download_bytes(self) -> int:
        """Bytes that cross the network."""
        return sum(step.downloads for step in self.steps)

    def pinned(self, spec: str) -> Pinned | None:
        """Return what a source means on the network, None for one on this machine."""
        return next((remote for remote in self.remotes if remote.spec == spec), None)

    def through(self, chosen: str) -> "Plan":
        """Return the plan with a server in front that a person chose for this run; empty for none."""
        return replace(self, remotes=tuple(remote.through(chosen) for remote in self.remotes))

    @property
    def disk_bytes(self) -> int:
        """Bytes that making the model takes on the disk; what archives unpack to goes again at the end."""
        return sum(step.writes for step in self.steps)

    @property
    def lean_disk_bytes(self) -> int:
        """The most bytes it takes on the disk where each source file goes once nothing needs it."""
        return self.disk_bytes if self.lean is None else min(self.lean, self.disk_bytes)

    @property
    def needed_disk(self) -> int:
        """Bytes that it takes on the disk as it is meant to be done."""
        return self.disk_bytes if self.keep_sources else self.lean_disk_bytes

    @property
    def memory_bytes(self) -> int:
        """Largest memory of any step."""
        return max(step.memory for step in self.steps)

    @property
    def must_have_memory(self) -> int:
        """Largest memory of the steps without which there is no model."""
        return max(step.memory for step in self.steps if step.id != TRY)

    @property
    def try_memory(self) -> int:
        """Memory that the try-out needs at the least; where it is not free, the model is made all the same. 0: none."""
        return max((step.memory for step in self.steps if step.id == TRY), default=0)

    @property
    def seconds(self) -> float:
        """Seconds the whole plan is likely to take, the length of the overall bar."""
        return sum(step.seconds(self.rates) for step in self.steps)

    def with_output(self, size: int) -> "Plan":
        """Return the plan for weights of exactly ``size`` bytes, once the sources' headers have told."""
        more = size - sum(step.writes for step in self.steps if step.id == MERGE)
        lean = None if self.lean is None else self.lean + more
        return replace(self, steps=tuple(step.with_output(size) for step in self.steps), lean=lean)

    def same_work(self, other: "Plan") -> bool:
        """Tell whether two plans make the same of the same; figures are guesses and do not count, nor does it matter
        which server told of a version, or whether the sources stay."""
        versions = [[(one.spec, one.listing.revision) for one in plan.remotes] for plan in (self, other)]
        steps = [[step.id for step in plan.steps] for plan in (self, other)]
        bare = [
            replace(plan, steps=(), remotes=(), rates=Rates(), instead=(), lean=None, keep_sources=True)
            for plan in (self, other)
        ]
        return all(one == two for one, two in (bare, versions, steps))

    def figures(self) -> dict[str, Any]:
        """Return the totals by name, for a program that reads them: bytes, and seconds."""
        names = ("download_bytes", "disk_bytes", "lean_disk_bytes", "must_have_memory", "try_memory", "memory_bytes")
        return {name: getattr(self, name) for name in (*names, "seconds", "estimated")}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; the inverse of ``from_json``."""
        return {**asdict(replace(self, remotes=())), "remotes": [remote.to_json() for remote in self.remotes]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Plan":
        """Build a plan from what ``to_json`` returned; one written before rates were measured has the guesses."""
        steps = tuple(Step(**{**step, "title": Message.from_json(step["title"])}) for step in data["steps"])
        loras = tuple((str(source), scale) for source, scale in data["loras"])
        remotes = tuple(map(Pinned.from_json, data.get("remotes", ())))
        rates = Rates(**data.get("rates", {}))
        instead = tuple(map(Instead.from_json, data.get("instead", ())))
        found = {"steps": steps, "loras": loras, "remotes": remotes, "rates": rates, "instead": instead}
        return Plan(**{**data, **found})
