"""What a plan's sources come to: opened, put together in order, and looked at before a byte is written.

Composing reads headers and a few sample rows, so a wrong size, a wrong order or a tokenizer that does not fit is known
within a second and not after hours. Knows nothing about jobs, pages or where the files of a source come from.
"""

from collections.abc import Callable
from pathlib import Path

from backend.plan import Plan
from backend.recipes import META
from backend.text import Message
from backend.weights.cast import cast
from backend.weights.checkpoint import Checkpoint
from backend.weights.delta import add_delta
from backend.weights.delta_fit import check_alone, check_version
from backend.weights.delta_folder import open_delta
from backend.weights.dtypes import CONFIG_NAMES
from backend.weights.finish import rehearse_finish
from backend.weights.lora import add_lora
from backend.weights.meta_finish import rehearse_meta
from backend.weights.opening import open_checkpoint

FolderOf = Callable[[str], Path]  # from a source's address to the folder that has its files
_DTYPES = {name: dtype for dtype, name in CONFIG_NAMES.items()}


def compose(plan: Plan, folder_of: FolderOf) -> Checkpoint:
    """Return the checkpoint that a plan makes, not read yet: base, delta, LoRAs in order, then the number format.

    Raises:
        WeightsError: a source is damaged, of another model, or in an order that cannot be meant.
    """
    checkpoint = open_checkpoint(folder_of(plan.base))
    if plan.delta:
        checkpoint = add_delta(checkpoint, open_delta(folder_of(plan.delta)), rule=plan.delta_rule)
        check_version(checkpoint, template=plan.template, rule=plan.delta_rule)
    else:
        check_alone(checkpoint)
    for source, scale in plan.loras:
        checkpoint = add_lora(checkpoint, folder_of(source), scale=scale)
    return cast(checkpoint, _DTYPES[plan.dtype]) if plan.dtype else checkpoint


def rehearse(plan: Plan, checkpoint: Checkpoint, folder_of: FolderOf) -> tuple[str | None, tuple[Message, ...]]:
    """Return the template that the finished folder will have, and what its tokenizer tells; nothing is written.

    None for Meta's layout, which has no place for one.

    Raises:
        WeightsError: no tokenizer fits, or the layout cannot hold this model; better known now than when the weights
            are written.
        UsageError: an unknown template, or a model that cannot be cut as the layout wants it.
    """
    sources = folders(plan, folder_of)
    if plan.layout == META:
        return None, rehearse_meta(checkpoint, sources)
    template, notes = rehearse_finish(checkpoint, sources, template=plan.template, has_delta=plan.delta is not None)
    return template.name, notes


def folders(plan: Plan, folder_of: FolderOf) -> list[Path]:
    """Return every source folder, the one that knows the vocabulary best first: the last LoRA, the delta, the base."""
    return [folder_of(spec) for spec in reversed(plan.sources)]
