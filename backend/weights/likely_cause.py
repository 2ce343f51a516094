"""Why a finished model talks nonsense or does not stop: the likely reason, from the folder and from what it said.

For the self-test, which has one greedy answer to one greeting. Knows nothing about engines.
"""

import zlib
from pathlib import Path
from typing import Any

from backend.text import Message
from backend.weights.disk import read_json
from backend.weights.provenance import read_cria_json
from backend.weights.shape import CONFIG, token_ids
from backend.weights.templates import NAMES, find_template
from backend.weights.tokenizer import FAST, FAST_LIMIT, MOST_UNNAMED
from backend.weights.tokenizer_settings import CONFIG as SETTINGS

# What only a model trained with that template writes. Templates that share their marks are one family.
_MARKS = (
    ("### Human", ("vicuna-v0", "stable-vicuna", "fastchat-t5")),
    ("### Instruction", ("alpaca", "stanford-alpaca", "chinese-alpaca")),
    ("<|start_header_id|>", ("llama-3",)),
    ("[INST]", ("llama-2",)),
    (" GPT:", ("koala",)),
    ("USER:", ("vicuna-v1.1", "koala")),
)
_LONG = 60  # characters from which an answer can be called repetitive
_REPETITIVE = 0.25  # compressed size by size


def likely_cause(folder: Path, *, answer: str, finite: bool = True) -> Message:
    """Return the likely reason why the model in ``folder`` did not answer as it should.

    ``answer`` is what it said, special tokens included where they are known; ``finite`` is whether its scores were
    numbers. Call it for a model that did not stop by itself, or whose answer is no answer.

    Raises:
        WeightsError: the folder's own files cannot be read.
    """
    if not finite:
        return Message("finish.cause.not_finite")
    record = read_cria_json(folder)
    template = record.template if record else ""
    for mark, names in _MARKS:
        if mark in answer and template not in names:
            values = {"mark": mark.strip(), "template": template, "better": names[0]}
            return Message("finish.cause.other_turns", values)
    unheard = _unheard_end(folder, template)
    if unheard:
        return Message("finish.cause.no_end_token", {"template": template, "token": unheard})
    rows, tokens = _counts(folder)
    if rows - tokens > MOST_UNNAMED:
        return Message("finish.cause.rows_unnamed", {"tokens": tokens, "rows": rows})
    if not answer.strip():
        return Message("finish.cause.empty", {"template": template})
    if record and _is_nonsense(answer) and any(origin.role in ("delta", "lora") for origin in record.origins):
        return Message("finish.cause.delta_base")
    if template.startswith("plain"):
        return Message("finish.cause.base_model", {"template": template})
    return Message("finish.cause.unknown", {"template": template})


def _unheard_end(folder: Path, template: str) -> str | None:
    """Return the token that ends a turn in this template, if engines are not told to stop at it."""
    settings = read_json(folder / SETTINGS)
    own = find_template(template).stop_tokens[:1] if template in NAMES else ()
    end = own[0] if own else _text(settings.get("eos_token"))
    generation = folder / "generation_config.json"
    stated = read_json(generation if generation.is_file() else folder / CONFIG).get("eos_token_id")
    number = _added(folder).get(end)
    return end if number is not None and number not in token_ids(stated) else None


def _counts(folder: Path) -> tuple[int, int]:
    """Return embedding rows and known tokens."""
    model = read_json(folder / FAST, FAST_LIMIT).get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    rows = read_json(folder / CONFIG).get("vocab_size")
    tokens = len(vocab) if isinstance(vocab, dict | list) else 0
    highest = max([tokens, *(number + 1 for number in _added(folder).values())])
    return (rows if isinstance(rows, int) else highest), highest


def _added(folder: Path) -> dict[str, int]:
    entries: Any = read_json(folder / FAST, FAST_LIMIT).get("added_tokens") or ()
    return {str(entry["content"]): int(entry["id"]) for entry in entries}


def _text(value: Any) -> str:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _is_nonsense(answer: str) -> bool:
    """Tell whether an answer has half characters, or goes round in circles."""
    raw = answer.encode()
    return "\N{REPLACEMENT CHARACTER}" in answer or (
        len(answer) > _LONG and len(zlib.compress(raw)) < _REPETITIVE * len(raw)
    )
