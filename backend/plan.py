"""The plan: what one recipe means here, step by step, with bytes, memory and time for each, before anything runs.

Sizes come from file names and lengths only; no weights are opened. Knows nothing about how a step is carried out.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.errors import MachineError, SourceError, UsageError
from backend.hardware import Hardware
from backend.recipes import Part, Recipe
from backend.sources.folder import Source, open_source
from backend.text import Message, Value

MB = 1_000_000
# Peak resident memory of each kind of step, measured on the demo and on 1.3 GB models of 7B's width: the
# interpreter with numpy, the same with torch for fp16 sums, and a slab or two; none of them grows with the model.
READ_MEMORY, CONVERT_MEMORY, ADD_MEMORY, ENGINE_MEMORY = 80 * MB, 200 * MB, 450 * MB, 500 * MB
IDLE_TORCH_MEMORY = 280 * MB  # once torch is imported, the worker keeps it
DISK_RESERVE = 200 * MB
ADAPTER = "adapter_config.json"
TRY = "try"  # the one step that a set-up can do without
# Bytes per second a plain disk gives while hashing; and what starting torch, or an engine, costs before the first byte.
READ_RATE, WRITE_RATE = 500e6, 300e6
TORCH_S, ENGINE_S = 2.0, 10.0


@dataclass(frozen=True)
class Step:
    """One step: bytes it reads and writes, memory at its peak (bytes), and a guess at its seconds."""

    id: str
    title: Message
    reads: int
    writes: int
    memory: int
    fixed_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds this is likely to take; replaced by what was measured as soon as the step runs."""
        return self.fixed_s + self.reads / READ_RATE + self.writes / WRITE_RATE


@dataclass(frozen=True)
class Plan:
    """A recipe made concrete: resolved sources, a name, ordered steps. Plain data: it crosses into the job as JSON."""

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

    @property
    def download_bytes(self) -> int:
        """Bytes that cross the network."""
        return 0

    @property
    def disk_bytes(self) -> int:
        """Bytes the finished model adds to the disk."""
        return sum(step.writes for step in self.steps)

    @property
    def memory_bytes(self) -> int:
        """Largest memory of any step."""
        return max(step.memory for step in self.steps)

    @property
    def must_have_memory(self) -> int:
        """Largest memory of the steps without which there is no model."""
        return max(step.memory for step in self.steps if step.id != TRY)

    @property
    def seconds(self) -> float:
        """Seconds the whole plan is likely to take, the length of the overall bar."""
        return sum(step.seconds for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; the inverse of ``from_json``."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Plan":
        """Build a plan from what ``to_json`` returned."""
        steps = tuple(Step(**{**step, "title": Message.from_json(step["title"])}) for step in data["steps"])
        loras = tuple((str(source), scale) for source, scale in data["loras"])
        return Plan(**{**data, "steps": steps, "loras": loras})


def _steps(base: Source, delta: Source | None, loras: list[Source], self_test: bool) -> tuple[Step, ...]:
    sources = [base, *([delta] if delta else []), *loras]
    read = sum(source.bytes for source in sources)
    written = base.weight_bytes
    kind = "_".join([*(["delta"] if delta else []), *(["lora"] if loras else [])]) or (
        "convert" if base.has("params.json") else "copy"
    )
    plain = kind in {"convert", "copy"}
    merge, after = (CONVERT_MEMORY, CONVERT_MEMORY) if plain else (ADD_MEMORY, IDLE_TORCH_MEMORY)
    params: dict[str, Value] = {"loras": len(loras)}
    steps = [
        Step("fetch", Message("steps.fetch"), read, 0, READ_MEMORY),
        Step(
            "merge",
            Message(f"steps.merge_{kind}", params),
            sum(s.weight_bytes for s in sources),
            written,
            merge,
            0.0 if plain else TORCH_S,
        ),
        Step("finish", Message("steps.finish"), 0, 2 * MB, after),
        Step("verify", Message("steps.verify"), written, 0, after),
    ]
    if self_test:
        # The least an engine gets by with; where even that is not free, the model is kept and said to be untried.
        steps.append(Step(TRY, Message("steps.try"), written, 0, ENGINE_MEMORY + written, ENGINE_S))
    return tuple(steps)


def _open(part: Part | None) -> Source | None:
    return open_source(part.source) if part else None


def make_plan(recipe: Recipe, *, name: str | None = None, self_test: bool = True) -> Plan:
    """Lay out the steps that make a recipe's model folder.

    Raises:
        SourceError: a source is not there or holds no weights.
    """
    base = open_source(recipe.base.source)
    delta, loras = _open(recipe.delta), [open_source(part.source) for part in recipe.loras]
    for whole in (base, *([delta] if delta else [])):
        if whole.has(ADAPTER) and not whole.has("config.json"):
            raise SourceError("plan.is_adapter", source=whole.spec)
    for lora in loras:
        if not lora.has(ADAPTER):
            raise SourceError("plan.no_adapter", source=lora.spec)
    return Plan(
        recipe=recipe.name,
        title=recipe.title,
        name=name or recipe.name,
        base=base.address,
        delta=delta.address if delta else None,
        loras=tuple((lora.address, part.scale) for lora, part in zip(loras, recipe.loras, strict=True)),
        template=recipe.template,
        context=recipe.context,
        questions=recipe.questions,
        steps=_steps(base, delta, loras, self_test),
    )


def check_plan(plan: Plan, hardware: Hardware, models_dir: Path) -> None:
    """Refuse a plan that cannot end well on this machine now.

    Raises:
        UsageError: a model of that name is there already.
        MachineError: too little disk or memory; the message has both numbers.
    """
    if (models_dir / plan.name).exists():
        raise UsageError("plan.exists", name=plan.name)
    need = plan.disk_bytes + DISK_RESERVE
    if hardware.disk_free is not None and hardware.disk_free < need:
        raise MachineError("plan.disk", need=need, free=hardware.disk_free, folder=str(models_dir))
    if hardware.ram_free is not None and hardware.ram_free < plan.must_have_memory:
        raise MachineError("plan.memory", need=plan.must_have_memory, free=hardware.ram_free)
