"""Completes the folder of a model that passes through as it is: its own config.json without hooks for code, its own
tokenizer files, and a fast tokenizer where T5 came with SentencePiece's file only. Knows nothing about tensors.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.text import Message
from backend.weights import tokenizer, tokenizer_settings
from backend.weights.as_is import T5, AsIs, without_hooks
from backend.weights.disk import inside, label, read_json, source_file
from backend.weights.fast_tokenizer import AddedToken
from backend.weights.sentencepiece_model import Kind, SentencePieceModel, read_sentencepiece
from backend.weights.shape import CONFIG, token_id
from backend.weights.templates import Template, find_template
from backend.weights.unigram_tokenizer import unigram_json

GENERATION = "generation_config.json"
KEPT = "kept"
_SPIECE = "spiece.model"
# What any slow or fast tokenizer reads. Never a *.py file.
_COPIED = (
    tokenizer.FAST,
    tokenizer.MODEL,
    _SPIECE,
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    tokenizer.ADDED,
)
_LEARNED = (tokenizer.FAST, tokenizer.MODEL, _SPIECE, "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
_FILE_LIMIT = 100_000_000  # bytes
_T5_TAGS = 100  # <extra_id_0> and so on, where the settings do not say
# Words that FastChat-T5 added so that it can write code: T5's own vocabulary lacks them.
_FASTCHAT_T5 = ("\n", " ", "{", "}", "<", "\\", "^", "`", "\t")
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


@dataclass(frozen=True)
class Choice:
    """What a model of another kind is completed with: its tokenizer's folder, a tokenizer.json built for T5, a
    template, the contents of generation_config.json, and what was found."""

    place: Path
    built: Mapping[str, Any] | None
    template: Template
    generation: Mapping[str, Any]
    notes: tuple[Message, ...]


def choose_as_is(shape: AsIs, sources: Sequence[Path], *, template: str | None) -> Choice:
    """Return what ``finish_as_is`` writes; nothing is written.

    Raises:
        WeightsError: no tokenizer, one that knows more tokens than the model has rows, or a link out of its folder.
        UsageError: an unknown template.
    """
    place = next(
        (place for place in tokenizer.places(sources) if any((place / name).is_file() for name in _LEARNED)), None
    )
    if place is None:
        raise WeightsError("weights.tokenizer_missing", folders=", ".join(label(folder) for folder in sources))
    _copied(place)
    built, tokens, notes = _tokenizer(place, shape)
    chosen, why = _template(place, template, tokens, shape)
    return Choice(place, built, chosen, _generation(sources, shape.config), (*notes, why))


def finish_as_is(
    shape: AsIs, out: Path, *, dtype: str, sources: Sequence[Path], template: str | None, context: int
) -> tuple[Template, tuple[Message, ...]]:
    """Write everything but the weights into ``out``; returns the template and what was found.

    Raises as ``choose_as_is``.
    """
    choice = choose_as_is(shape, sources, template=template)
    for path in _copied(choice.place):
        shutil.copyfile(path, out / path.name)
    if choice.built is not None:
        tokenizer.write_json(out / tokenizer.FAST, choice.built)
    _settings(choice.place, out, choice.template, context=context)
    tokenizer.write_json(out / CONFIG, {**shape.config, **_numbers(shape, dtype)})
    tokenizer.write_json(out / GENERATION, choice.generation)
    return choice.template, choice.notes


def _copied(place: Path) -> list[Path]:
    """Return the tokenizer's files that are taken over as they are."""
    there = [name for name in _COPIED if (place / name).is_file()]
    paths = [inside(place, name) for name in there]
    return [path for path in paths if source_file(path).bytes <= _FILE_LIMIT]


def _numbers(shape: AsIs, dtype: str) -> dict[str, Any]:
    """Return the keys that follow from the weights. A nested configuration keeps its own."""
    numbers: dict[str, Any] = {"torch_dtype": dtype}
    if "dtype" in shape.config:
        numbers["dtype"] = dtype
    if "vocab_size" in shape.config:
        numbers["vocab_size"] = shape.vocab
    return numbers


def _generation(sources: Sequence[Path], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's own generation_config.json, with the ids of config.json where it has none."""
    path = next((folder / GENERATION for folder in sources if (folder / GENERATION).is_file()), None)
    own = without_hooks(read_json(inside(path.parent, path.name))) if path else {}
    ids = {key: config[key] for key in _IDS if config.get(key) is not None}
    return {**ids, **own}


def _tokenizer(place: Path, shape: AsIs) -> tuple[Mapping[str, Any] | None, dict[str, int], list[Message]]:
    """Return the fast tokenizer that T5 lacks, added tokens with their numbers, and notes."""
    if (place / tokenizer.FAST).is_file():
        return None, _known(read_json(place / tokenizer.FAST, tokenizer.FAST_LIMIT), place, shape.vocab), []
    if not (place / _SPIECE).is_file() or shape.kind != T5:
        return None, {}, []
    model = read_sentencepiece(place / _SPIECE)
    added = _t5_tokens(place, model)
    by_text = {token.text: token for token in added}
    if not model.is_unigram or "</s>" not in by_text or "<unk>" not in by_text:
        raise WeightsError("weights.tokenizer_kind", folder=label(place))
    fast = unigram_json(model, added, eos=by_text["</s>"])
    return fast, _known(fast, place, shape.vocab), [Message("finish.found.fast_built", {"file": _SPIECE})]


def _t5_tokens(place: Path, model: SentencePieceModel) -> list[AddedToken]:
    """Return what cuts the text first: T5's own marks, its numbered tags (from the last number down), added words."""
    size = len(model.pieces)
    marks = {n: piece.text for n, piece in enumerate(model.pieces) if piece.kind in (Kind.CONTROL, Kind.UNKNOWN)}
    settings = tokenizer_settings.settings_in(place)
    tags = token_id(settings.get("extra_ids"))
    count = _T5_TAGS if tags is None else min(tags, 1000)
    found = {n: AddedToken(n, text) for n, text in marks.items()}
    found |= {size + count - 1 - n: AddedToken(size + count - 1 - n, f"<extra_id_{n}>") for n in range(count)}
    pad = _text(settings.get("pad_token"))
    for text, number in tokenizer.extra_tokens(place, size, gap=count):
        found[number] = AddedToken(number, text, special=text == pad or text.startswith("<extra_id_"))
    return list(found.values())


def _known(fast: Mapping[str, Any], place: Path, rows: int) -> dict[str, int]:
    """Return the added tokens of a tokenizer.json, after making sure that every token has a row."""
    entries, model = fast.get("added_tokens"), fast.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    try:
        added = {str(entry["content"]): int(entry["id"]) for entry in entries or ()}
        learned = max(map(int, vocab.values()), default=-1) + 1 if isinstance(vocab, dict) else len(vocab or ())
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise WeightsError("weights.tokenizer_damaged", file=tokenizer.FAST, what=str(problem)[:80]) from problem
    size = max([learned, *(number + 1 for number in added.values())])
    if size > rows:
        raise WeightsError("weights.tokenizer_too_large", tokens=size, rows=rows, folder=label(place))
    return added


def _template(place: Path, name: str | None, tokens: Mapping[str, int], shape: AsIs) -> tuple[Template, Message]:
    if name is not None:
        return find_template(name), Message("weights.found.template_given", {"template": name})
    kept = tokenizer_settings.template_in(place)
    if kept is not None:
        return Template(KEPT, kept), Message("weights.found.template_kept", {"folder": label(place)})
    detected = "plain"
    if shape.kind == T5:
        detected = "fastchat-t5" if all(word in tokens for word in _FASTCHAT_T5) else "plain-t5"
    return find_template(detected), Message(
        "weights.found.template_detected", {"template": detected, "rows": shape.vocab}
    )


def _settings(place: Path, out: Path, template: Template, *, context: int) -> None:
    """Write the tokenizer's settings: the folder's own, with what would load code or stops nothing taken out."""
    settings = without_hooks(tokenizer_settings.settings_in(place))
    own_class = settings.get("tokenizer_class")
    built = not (place / tokenizer.FAST).is_file() and (out / tokenizer.FAST).is_file()
    if (
        built
        or (tokenizer_settings.settings_in(place).get("auto_map") and (out / tokenizer.FAST).is_file())
        or not isinstance(own_class, str)
    ):
        # The generic class reads tokenizer.json as it is; a class of its own would build another one from the pieces.
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if built:
        usual = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        settings |= {key: text for key, text in usual.items() if not _text(settings.get(key))}
    settings = {key: value for key, value in settings.items() if not (key.endswith("_token") and value == "")}
    settings["chat_template"] = template.jinja
    settings.setdefault("model_max_length", context)
    tokenizer.write_json(out / tokenizer_settings.CONFIG, settings)
    special = {key: _text(value) for key, value in settings.items() if key.endswith("_token") and _text(value)}
    tokenizer.write_json(out / tokenizer_settings.SPECIAL, special)
    (out / tokenizer_settings.TEMPLATE).write_text(template.jinja, encoding="utf-8")


def _text(value: Any) -> str | None:
    """Return a special token's text, from a text or from a description of it."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
