"""The steps that a recipe's sources come to, and what each of them costs. Looks at names and lengths of files only.

Knows nothing about how a step is carried out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from backend.plan.step import (
    ADD_MEMORY,
    CONVERT_MEMORY,
    ENGINE_MEMORY,
    ENGINE_S,
    FETCH,
    FETCH_MEMORY,
    FINISH,
    IDLE_TORCH_MEMORY,
    MB,
    MERGE,
    READ_MEMORY,
    TORCH_S,
    TRY,
    VERIFY,
    Step,
)
from backend.recipes import META, Recipe
from backend.sources.folder import fetch_bytes
from backend.sources.source import Source
from backend.text import Message


def _merge(recipe: Recipe, base: Source, others: Sequence[Source]) -> Step:
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


def _fetch(sources: Sequence[Source], remote: Mapping[str, int]) -> Step:
    """Return the first step; ``remote`` has the bytes that are to come for each source that is not on this machine."""
    here = [fetch_bytes(source) for source in sources if source.spec not in remote]
    read, unpacked = (sum(part) for part in zip(*here, strict=True)) if here else (0, 0)
    coming = sum(remote.values())
    title = Message("steps.download" if remote else "steps.fetch")
    return Step(FETCH, title, read, unpacked + coming, FETCH_MEMORY if remote else READ_MEMORY, downloads=coming)


def lay_out(
    recipe: Recipe, base: Source, others: Sequence[Source], *, remote: Mapping[str, int], self_test: bool
) -> tuple[Step, ...]:
    """Return the steps in order; ``remote`` has the bytes to come for each source that is not on this machine."""
    merge = _merge(recipe, base, others)
    if remote:  # the download goes on meanwhile
        merge = replace(merge, memory=merge.memory + FETCH_MEMORY - READ_MEMORY)
    after = IDLE_TORCH_MEMORY if merge.fixed_s else CONVERT_MEMORY
    steps = [
        _fetch([base, *others], remote),
        merge,
        Step(FINISH, Message("steps.finish"), 0, 2 * MB, after),
        Step(VERIFY, Message("steps.verify"), merge.writes, 0, after),
    ]
    if self_test and recipe.layout != META:  # only other programs open that layout
        # The least an engine gets by with; where even that is not free, the model is kept and said to be untried.
        steps.append(Step(TRY, Message("steps.try"), merge.writes, 0, ENGINE_MEMORY + merge.writes, ENGINE_S))
    return tuple(steps)
