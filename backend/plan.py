"""The plan: what one recipe means here, step by step, with bytes, memory and time for each, before anything runs.

Sizes come from file names and lengths only; no weights are opened. Knows nothing about how a step is carried out, or
about the network: remote sources come to it pinned.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backend.errors import MachineError, SourceError, UsageError
from backend.hardware import Hardware
from backend.recipes import META, Part, Recipe
from backend.sources.folder import fetch_bytes, open_source
from backend.sources.pinned import Pinned
from backend.sources.source import Source
from backend.text import Message

MB = 1_000_000
# Peak resident memory of each kind of step, measured on the demo and on 1.3 GB models of 7B's width: the
# interpreter with numpy, the same with torch for fp16 sums, and a slab or two; none of them grows with the model.
READ_MEMORY, CONVERT_MEMORY, ADD_MEMORY, ENGINE_MEMORY = 80 * MB, 200 * MB, 450 * MB, 500 * MB
FETCH_MEMORY = 120 * MB
IDLE_TORCH_MEMORY = 280 * MB  # once torch is imported, the worker keeps it
DISK_RESERVE = 200 * MB
ADAPTER = "adapter_config.json"
FETCH, MERGE = "fetch", "merge"
TRY = "try"  # the one step that a set-up can do without
# Bytes per second a plain disk gives while hashing; and what starting torch, or an engine, costs before the first byte.
READ_RATE, WRITE_RATE = 500e6, 300e6
NETWORK_RATE = 10e6  # nobody knows before it runs; a campus network gives about this
TORCH_S, ENGINE_S = 2.0, 10.0


@dataclass(frozen=True)
class Step:
    """One step: bytes it reads, writes and downloads, memory at its peak (bytes), and a guess at its seconds."""

    id: str
    title: Message
    reads: int
    writes: int
    memory: int
    fixed_s: float = 0.0
    downloads: int = 0

    @property
    def seconds(self) -> float:
        """Seconds this is likely to take; replaced by what was measured as soon as the step runs."""
        local = self.reads / READ_RATE + (self.writes - self.downloads) / WRITE_RATE
        return self.fixed_s + local + self.downloads / NETWORK_RATE


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
    delta_rule: str = "auto"
    dtype: str | None = None  # "float16" and so on; None: the base's
    layout: str = "huggingface"
    remotes: tuple[Pinned, ...] = ()  # those of the sources that have to be fetched

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

    def with_output(self, size: int) -> "Plan":
        """Return the plan for weights of exactly ``size`` bytes, once the sources' headers have told."""
        return replace(self, steps=tuple(_with_output(step, size) for step in self.steps))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; the inverse of ``from_json``."""
        return {**asdict(replace(self, remotes=())), "remotes": [remote.to_json() for remote in self.remotes]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Plan":
        """Build a plan from what ``to_json`` returned."""
        steps = tuple(Step(**{**step, "title": Message.from_json(step["title"])}) for step in data["steps"])
        loras = tuple((str(source), scale) for source, scale in data["loras"])
        remotes = tuple(map(Pinned.from_json, data.get("remotes", ())))
        return Plan(**{**data, "steps": steps, "loras": loras, "remotes": remotes})


def _with_output(step: Step, size: int) -> Step:
    if step.id == MERGE:
        return replace(step, writes=size)
    if step.id == "verify":
        return replace(step, reads=size)
    return replace(step, reads=size, memory=ENGINE_MEMORY + size) if step.id == TRY else step


def _merge(recipe: Recipe, base: Source, others: list[Source]) -> Step:
    """Return the step that reads everything once and writes the result; its bytes are a guess from file lengths."""
    parts = [*(["delta"] if recipe.delta else []), *(["lora"] if recipe.loras else [])]
    kind = "_".join(parts) or ("convert" if base.has("params.json") else "copy")
    plain = not parts and recipe.dtype is None
    return Step(
        MERGE,
        Message("steps.merge_meta" if recipe.layout == META else f"steps.merge_{kind}", {"loras": len(recipe.loras)}),
        sum(source.weight_bytes for source in (base, *others)),
        base.weight_bytes * (2 if recipe.dtype == "float32" else 1),
        CONVERT_MEMORY if plain else ADD_MEMORY,
        0.0 if plain else TORCH_S,
    )


def _fetch(sources: list[Source], remote: Mapping[str, int]) -> Step:
    """Return the first step; ``remote`` has the bytes that are to come for each source that is not on this machine."""
    here = [fetch_bytes(source) for source in sources if source.spec not in remote]
    read, unpacked = (sum(part) for part in zip(*here, strict=True)) if here else (0, 0)
    coming = sum(remote.values())
    title = Message("steps.download" if remote else "steps.fetch")
    return Step(FETCH, title, read, unpacked + coming, FETCH_MEMORY if remote else READ_MEMORY, downloads=coming)


def _steps(
    recipe: Recipe, base: Source, others: list[Source], *, remote: Mapping[str, int], self_test: bool
) -> tuple[Step, ...]:
    merge = _merge(recipe, base, others)
    if remote:  # the download goes on meanwhile
        merge = replace(merge, memory=merge.memory + FETCH_MEMORY - READ_MEMORY)
    after = IDLE_TORCH_MEMORY if merge.fixed_s else CONVERT_MEMORY
    steps = [
        _fetch([base, *others], remote),
        merge,
        Step("finish", Message("steps.finish"), 0, 2 * MB, after),
        Step("verify", Message("steps.verify"), merge.writes, 0, after),
    ]
    if self_test and recipe.layout != META:  # only other programs open that layout
        # The least an engine gets by with; where even that is not free, the model is kept and said to be untried.
        steps.append(Step(TRY, Message("steps.try"), merge.writes, 0, ENGINE_MEMORY + merge.writes, ENGINE_S))
    return tuple(steps)


Find = Callable[[str], Pinned | None]


@dataclass(frozen=True)
class _Opened:
    """The sources of a recipe; ``remote`` are those to be fetched."""

    find: Find
    downloads: Path
    remote: dict[str, Pinned]

    def open(self, part: Part) -> Source:
        pinned = self.find(part.source)
        if pinned is None:
            return open_source(part.source)
        self.remote[part.source] = pinned
        return pinned.source(self.downloads)

    def address(self, source: Source) -> str:
        return source.spec if source.spec in self.remote else source.address


def make_plan(
    recipe: Recipe,
    *,
    name: str | None = None,
    self_test: bool = True,
    find: Find = lambda _: None,
    downloads: Path = Path(),
) -> Plan:
    """Lay out the steps that make a recipe's model folder.

    ``find`` asks the network about a source that is not on this machine; what is fetched goes below ``downloads``.

    Raises:
        SourceError: a source is not there or holds no weights.
    """
    opened = _Opened(find, downloads, {})
    base = opened.open(recipe.base)
    delta, loras = opened.open(recipe.delta) if recipe.delta else None, [opened.open(part) for part in recipe.loras]
    _check_roles([base, *([delta] if delta else [])], loras)
    coming = {spec: pinned.missing_bytes(downloads) for spec, pinned in opened.remote.items()}
    return Plan(
        recipe=recipe.name,
        title=recipe.title,
        name=name or recipe.name,
        base=opened.address(base),
        delta=opened.address(delta) if delta else None,
        loras=tuple((opened.address(lora), part.scale) for lora, part in zip(loras, recipe.loras, strict=True)),
        template=recipe.template,
        context=recipe.context,
        questions=recipe.questions,
        steps=_steps(recipe, base, [*([delta] if delta else []), *loras], remote=coming, self_test=self_test),
        delta_rule=recipe.delta.rule if recipe.delta else "auto",
        dtype=recipe.dtype,
        layout=recipe.layout,
        remotes=tuple(opened.remote.values()),
    )


def _check_roles(whole: list[Source], loras: list[Source]) -> None:
    """Refuse a LoRA where a whole model is meant, and the other way round; a packed download cannot tell yet."""
    for source in whole:
        if source.has(ADAPTER) and not source.has("config.json"):
            raise SourceError("plan.is_adapter", source=source.spec)
    for lora in loras:
        sealed = lora.packed and not lora.weights
        if not lora.has(ADAPTER) and not sealed:
            raise SourceError("plan.no_adapter", source=lora.spec)


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
