"""A look into a model folder: headers and small files, never the numbers but a few norms. Says what is wrong with it.

Runs in a child (``child``): what strangers put into a folder is not for the process that serves the page. Knows nothing
about what mends a fault.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.errors import CriaError, UsageError
from backend.library.condition import Condition, Fault, Way
from backend.library.guess import guess_template
from backend.library.listing import Listing, list_folder
from backend.library.models import ADAPTER, CONFIG, SHARD
from backend.library.record import small_json, text
from backend.library.template import recorded_template
from backend.weights import tokenizer
from backend.weights.adapter import open_adapter
from backend.weights.adapter_config import read_settings
from backend.weights.checkpoint import Checkpoint
from backend.weights.delta_fit import looks_like_delta
from backend.weights.dtypes import CONFIG_NAMES
from backend.weights.finish import rehearse_finish, stop_ids
from backend.weights.finish_as_is import GENERATION, KEPT
from backend.weights.gguf_ready import is_ready, open_ready, quantisation
from backend.weights.meta_files import is_meta
from backend.weights.opening import open_checkpoint
from backend.weights.shape import ModelShape, token_id, token_ids
from backend.weights.templates import Template, find_template
from backend.weights.tokenizer import find_vocabulary
from backend.weights.tokenizer_settings import SPECIAL, repairs, settings_in, stated_token, template_in

_TIMES = ("weights.found.old_tokenizer_class", "weights.found.empty_tokens")


def examine(folder: Path) -> Condition:
    """Look into a folder; whatever is wrong with it is in the answer.

    Raises:
        OSError: the folder is gone or may not be read.
    """
    listing = list_folder(folder)
    if listing.crowded:
        return Condition(faults=(Fault.of(UsageError("library.crowded", name=folder.name)),))
    if listing.has(ADAPTER) and not listing.has(CONFIG):
        return _adapter(folder)
    try:
        return _ready(folder) if is_ready(listing.files) else _weights(folder, listing)
    except CriaError as error:
        return Condition(faults=(Fault.of(error),))


def _adapter(folder: Path) -> Condition:
    base = text(small_json(folder / ADAPTER).get("base_model_name_or_path"))
    try:
        read_settings(folder)
    except CriaError as error:
        return Condition(base=base, faults=(Fault.of(error),))
    name = "adapter_beside" if _only_adds(folder) else "adapter"
    return Condition(base=base, faults=(_fault(name, Way.MERGE, base=base or "?"),))


def _only_adds(folder: Path) -> bool:
    """Tell whether an adapter replaces nothing of its model, so that it can be attached to a loaded one too."""
    try:
        adapter = open_adapter(folder)
    except CriaError:  # whoever uses it is told
        return False
    stretches = any(pair.magnitude is not None for pair in adapter.pairs.values())
    return not (adapter.whole or adapter.tokens or stretches)


def _ready(folder: Path) -> Condition:
    """Look into a ready-made GGUF; it cannot be mended, only be whole or not."""
    ready = open_ready(folder)
    has_template = isinstance(ready.values.get("tokenizer.chat_template"), str)
    return Condition(ready.parameters, quantisation(ready.values) or None, template=KEPT if has_template else None)


def _weights(folder: Path, listing: Listing) -> Condition:
    checkpoint = open_checkpoint(folder)
    found = Condition(checkpoint.parameters, CONFIG_NAMES[checkpoint.dtype], checkpoint.shape.vocab)
    if is_meta(folder) and listing.has(SHARD) and checkpoint.kind == "meta":
        return replace(found, faults=(_fault("raw", Way.CONVERT),))
    if isinstance(checkpoint.shape, ModelShape) and looks_like_delta(checkpoint):
        return replace(found, faults=(_fault("delta", Way.DELTA),))
    try:
        recorded = recorded_template(folder)
        chosen, _ = rehearse_finish(checkpoint, [folder], template=recorded)
        faults = tuple(_small_files(checkpoint, folder, chosen))
    except CriaError as error:  # without a tokenizer that fits, nothing else can be told or mended
        return replace(found, faults=(Fault.of(error),))
    template = template_in(folder)
    if template is not None:
        stated = text(small_json(folder / "cria.json").get("template"))
        return replace(found, template=stated or KEPT, faults=faults)
    if recorded or not chosen.name.startswith("plain"):
        return replace(found, template=chosen.name, faults=faults)
    guess = guess_template(folder.name, checkpoint.shape.vocab)
    return replace(found, template=guess, guessed=guess is not None, faults=faults)


def _fault(name: str, way: Way, /, **values: str | int | None) -> Fault:
    return Fault.of(CriaError(f"models.fault.{name}", **values), way)


def _small_files(checkpoint: Checkpoint, folder: Path, chosen: Template) -> Iterator[Fault]:
    """Yield what is wrong with the files beside the weights."""
    if template_in(folder) is None:
        yield _fault("no_template", Way.MEND)
    if isinstance(checkpoint.shape, ModelShape):
        yield from _settings(folder)
        yield from _numbers(checkpoint, folder, chosen)
    fast = any((place / tokenizer.FAST).is_file() for place in (folder, folder / "tokenizer"))
    slow = any((folder / name).is_file() for name in (tokenizer.MODEL, "spiece.model"))
    if slow and not fast:
        yield _fault("no_fast", Way.MEND)


def _settings(folder: Path) -> Iterator[Fault]:
    """Yield what the tokenizer's settings and the architecture's name have wrong."""
    notes = {note.key for note in repairs(folder)}
    if _TIMES[0] in notes:
        yield _fault("tokenizer_class", Way.MEND, name=str(settings_in(folder)["tokenizer_class"])[:60])
    lacks = [key for key in ("bos_token", "eos_token") if stated_token(folder, key) is None]
    if lacks or _TIMES[1] in notes:
        yield _fault("special_tokens", Way.MEND, file=SPECIAL, which=", ".join(lacks) or "unk_token")
    classes = small_json(folder / CONFIG).get("architectures")
    first = classes[0] if isinstance(classes, list) and classes else None
    if isinstance(first, str) and first != "LlamaForCausalLM":
        yield _fault("architecture", Way.MEND, name=first[:60])


def _numbers(checkpoint: Checkpoint, folder: Path, chosen: Template) -> Iterator[Fault]:
    """Yield the numbers of tokens that do not agree with the tokenizer, and rows without a token."""
    vocabulary = find_vocabulary([folder], checkpoint.shape.vocab)
    config = small_json(folder / CONFIG)
    expected = stop_ids(vocabulary, find_template(chosen.name) if chosen.name != KEPT else chosen)
    pad = next((note for note in vocabulary.notes if note.key == "weights.found.pad_added"), None)
    if pad is not None:
        yield _fault("no_pad", Way.MEND, id=int(pad.params["id"] or 0))
    stated = config.get("vocab_size", checkpoint.shape.vocab)
    if stated != checkpoint.shape.vocab:
        yield _fault("vocab_size", Way.MEND, stated=str(stated)[:20], rows=checkpoint.shape.vocab)
    if not (folder / GENERATION).is_file():
        yield _fault("no_generation", Way.MEND)
    for name in (CONFIG, GENERATION):
        table = config if name == CONFIG else small_json(folder / GENERATION)
        if _is_off(table, vocabulary.bos.id, expected):
            ids = ", ".join(f"{key} {str(table.get(key))[:20]}" for key in ("bos_token_id", "eos_token_id"))
            good = f"{vocabulary.bos.id}, {vocabulary.eos.id}"
            yield _fault("token_ids", Way.MEND, file=name, stated=ids, expected=good)


def _is_off(table: Mapping[str, Any], bos: int, ends: list[int]) -> bool:
    """Tell whether a file names another beginning of text, or no end that this model knows."""
    if not table:
        return False
    begin, stops = table.get("bos_token_id"), token_ids(table.get("eos_token_id"))
    wrong_end = table.get("eos_token_id") is not None and not set(stops) & set(ends)
    return (begin is not None and token_id(begin) != bos) or wrong_end
