"""Finding the tokenizer that fits a model's embedding rows, mending what early uploads got wrong, and writing it.

A folder that leaves here has tokenizer.json (fast; ids as in training), tokenizer_config.json with filled special
tokens, special_tokens_map.json, and tokenizer.model where the tokenizer came as SentencePiece. Knows nothing about
weights.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.storage import replace_file
from backend.text import Message
from backend.weights.disk import label, read_json
from backend.weights.fast_tokenizer import AddedToken, tokenizer_json
from backend.weights.known_tokenizers import known_tokenizer
from backend.weights.sentencepiece_model import Kind, SentencePieceModel, is_sentencepiece, read_sentencepiece
from backend.weights.templates import Template
from backend.weights.tiktoken_model import read_tiktoken, special_tokens, tiktoken_json
from backend.weights.tokenizer_settings import CONFIG, SPECIAL, TEMPLATE, repairs, stated_token, template_in

MODEL, FAST, ADDED = "tokenizer.model", "tokenizer.json", "added_tokens.json"
FAST_LIMIT = 40_000_000  # bytes; Llama 3's is 9 to 17 MB
MOST_UNNAMED = 1024  # rows without a token: some models' tables are filled up to a round number
_PADS = ("[PAD]", "<pad>", "<|finetune_right_pad_id|>")
_BOS = ("<s>", "<|begin_of_text|>")
_EOS = ("</s>", "<|end_of_text|>", "<|eot_id|>")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer that was found. ``size`` is one more than its highest id; ``added`` are its tokens beside the
    learned."""

    place: Path
    size: int
    bos: AddedToken
    eos: AddedToken
    unk: AddedToken | None
    added: tuple[AddedToken, ...] = field(repr=False)
    model: SentencePieceModel | None = field(default=None, repr=False)
    fast: Mapping[str, Any] | None = field(default=None, repr=False)  # a tokenizer.json that is kept
    stated_pad: str | None = None  # as the folder's own settings call it
    ends: tuple[int, ...] = ()  # ids that the model's own settings end a reply with
    notes: tuple[Message, ...] = ()

    @property
    def pad(self) -> AddedToken:
        """The token that fills up shorter texts in a batch: the one the folder names, else one with a usual name, else
        the unknown token, else end-of-text."""
        names = (self.stated_pad, *_PADS)
        own = next((token for name in names for token in self.added if token.text == name), None)
        return own or self.unk or self.eos

    def id_of(self, text: str) -> int | None:
        """Return the id of an added token."""
        return next((token.id for token in self.added if token.text == text), None)


def find_vocabulary(sources: Sequence[Path], rows: int) -> Vocabulary:
    """Return the tokenizer for a model with so many embedding rows, from folders in order of preference.

    One that names every row comes before one that names fewer; one row more than tokens is ``[PAD]`` (Vicuna v0,
    Alpaca).

    Raises:
        WeightsError: none found, or only ones that know more tokens than the model has rows, or far fewer.
    """
    found = [vocabulary for place in places(sources) if (vocabulary := read_vocabulary(place)) is not None]
    if not found:
        raise WeightsError("weights.tokenizer_missing", folders=", ".join(label(folder) for folder in sources))
    fitting = [vocabulary for vocabulary in found if vocabulary.size <= rows]
    if not fitting:
        raise WeightsError("weights.tokenizer_too_large", tokens=found[0].size, rows=rows, folder=label(found[0].place))
    tokens = max(vocabulary.size for vocabulary in fitting)
    if rows - tokens > MOST_UNNAMED:
        raise WeightsError("finish.tokenizer_too_small", tokens=tokens, rows=rows, folder=label(fitting[0].place))
    exact = next((vocabulary for vocabulary in fitting if vocabulary.size == rows), None)
    best = exact or fitting[0]
    notes = [*best.notes, Message("weights.found.tokenizer", {"folder": label(best.place), "tokens": best.size})]
    if best.size == rows - 1 and best.fast is None:
        pad = AddedToken(best.size, "[PAD]")
        notes.append(Message("weights.found.pad_added", {"id": pad.id}))
        best = replace(best, size=rows, added=(*best.added, pad))
    elif best.size < rows:
        notes.append(Message("weights.found.rows_unnamed", {"tokens": best.size, "rows": rows}))
    return replace(best, notes=tuple(notes))


def places(sources: Sequence[Path]) -> Iterator[Path]:
    """Yield folders that may hold tokenizer files: LLaMA-1/2 keep theirs beside the size folders, conversions
    nearby."""
    for folder in sources:
        yield folder
        yield from (folder / "tokenizer", folder / "original")
        if (folder / "params.json").is_file():
            yield folder.parent


def read_vocabulary(place: Path) -> Vocabulary | None:
    """Return the tokenizer of one folder, or None where there is none."""
    if (place / MODEL).is_file() and is_sentencepiece(place / MODEL):
        return _from_sentencepiece(place)
    if (place / MODEL).is_file() and not (place / FAST).is_file():
        return _from_tiktoken(place)
    if (place / FAST).is_file():
        return _from_fast(place, read_json(place / FAST, FAST_LIMIT))
    return None


def _from_sentencepiece(place: Path) -> Vocabulary:
    model = read_sentencepiece(place / MODEL)
    if not model.is_bpe or model.remove_extra_spaces:
        raise WeightsError("weights.tokenizer_kind", folder=label(place))
    ids = {piece.text: number for number, piece in enumerate(model.pieces)}
    unknown = next((piece.text for piece in model.pieces if piece.kind is Kind.UNKNOWN), None)
    if unknown is None or any(name not in ids for name in ("<s>", "</s>")):
        raise WeightsError("weights.tokenizer_damaged", file=MODEL, what="<unk>, <s>, </s>")
    pad = stated_token(place, "pad_token")
    added = {
        number: AddedToken(number, piece.text, piece.kind is not Kind.USER_DEFINED)
        for number, piece in enumerate(model.pieces)
        if piece.kind in (Kind.UNKNOWN, Kind.CONTROL, Kind.USER_DEFINED) or piece.text in (pad, *_PADS)
    }
    size = len(model.pieces)
    for text, number in extra_tokens(place, size):
        added[number] = AddedToken(number, text)
    return Vocabulary(
        place=place,
        size=max(size, *(number + 1 for number in added)),
        bos=added[ids["<s>"]],
        eos=added[ids["</s>"]],
        unk=added[ids[unknown]],
        added=tuple(added.values()),
        model=model,
        fast=_kept_fast(place, ids),
        stated_pad=pad,
        notes=(*repairs(place), *([known] if (known := known_tokenizer(place / MODEL, size)) else [])),
    )


def _from_tiktoken(place: Path) -> Vocabulary:
    ranks = read_tiktoken(place / MODEL)
    added = special_tokens(len(ranks))
    by_text = {token.text: token for token in added}
    return Vocabulary(
        place=place,
        size=len(ranks) + len(added),
        bos=by_text["<|begin_of_text|>"],
        eos=by_text["<|end_of_text|>"],
        unk=None,
        added=added,
        fast=tiktoken_json(ranks, added, bos=added[0]),
    )


def extra_tokens(place: Path, size: int, gap: int = 0) -> list[tuple[str, int]]:
    """Return the tokens of added_tokens.json that follow the learned ones, right after them or after ``gap`` numbers
    that are T5's tags."""
    if not (place / ADDED).is_file():
        return []
    table = read_json(place / ADDED)
    pairs = sorted(((number, text) for text, number in table.items() if type(number) is int and number >= size))
    numbers = [number for number, _ in pairs]
    good = any(numbers == list(range(first, first + len(pairs))) for first in (size, size + gap))
    if not good or len(pairs) > 100_000:
        raise WeightsError("weights.tokenizer_damaged", file=ADDED, what=str(table)[:80])
    return [(text, number) for number, text in pairs]


def _kept_fast(place: Path, ids: Mapping[str, int]) -> Mapping[str, Any] | None:
    """Return a tokenizer.json that is there already, if it has the same pieces and can merge them."""
    if not (place / FAST).is_file():
        return None
    fast = read_json(place / FAST, FAST_LIMIT)
    model = fast.get("model")
    good = isinstance(model, dict) and model.get("byte_fallback") is True and model.get("merges")
    return fast if good and isinstance(model, dict) and model.get("vocab") == ids else None


def _from_fast(place: Path, fast: Mapping[str, Any]) -> Vocabulary:
    """Read a folder that has only tokenizer.json (Llama 3 and later)."""
    model, entries = fast.get("model"), fast.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict) or not isinstance(entries, list):
        raise WeightsError("weights.tokenizer_kind", folder=label(place))
    try:
        added = tuple(AddedToken(int(entry["id"]), str(entry["content"]), bool(entry["special"])) for entry in entries)
        size = max([*(int(number) for number in vocab.values()), *(token.id for token in added)]) + 1
    except (KeyError, TypeError, ValueError) as problem:
        raise WeightsError("weights.tokenizer_damaged", file=FAST, what=str(problem)[:80]) from problem
    by_text = {token.text: token for token in added}
    bos, eos = (_special(place, key, by_text, usual) for key, usual in (("bos_token", _BOS), ("eos_token", _EOS)))
    if bos is None or eos is None:
        raise WeightsError("weights.tokenizer_damaged", file=FAST, what="bos, eos")
    return Vocabulary(
        place=place,
        size=size,
        bos=bos,
        eos=eos,
        unk=by_text.get("<unk>"),
        added=added,
        fast=fast,
        stated_pad=stated_token(place, "pad_token"),
        notes=repairs(place),
    )


def _special(place: Path, key: str, by_text: Mapping[str, AddedToken], usual: Sequence[str]) -> AddedToken | None:
    """Return a special token as the folder's own settings name it, else under one of its usual names."""
    stated = stated_token(place, key)
    names = (*([stated] if stated else []), *usual)
    return next((by_text[name] for name in names if name in by_text), None)


def kept_template(vocabulary: Vocabulary) -> str | None:
    """Return the chat template that the tokenizer's folder has itself."""
    return template_in(vocabulary.place)


def write_tokenizer(vocabulary: Vocabulary, out: Path, *, template: Template, context: int) -> None:
    """Write all tokenizer files into a folder; ``context`` is the most tokens the model takes."""
    fast = vocabulary.fast
    if fast is None and vocabulary.model is not None:
        fast = tokenizer_json(vocabulary.model, vocabulary.added, bos=vocabulary.bos)
    replace_file(out / FAST, json.dumps(fast, ensure_ascii=False, indent=2).encode())
    if vocabulary.model is not None:
        shutil.copyfile(vocabulary.place / MODEL, out / MODEL)
    special = {"bos_token": vocabulary.bos.text, "eos_token": vocabulary.eos.text, "pad_token": vocabulary.pad.text}
    if vocabulary.unk is not None:
        special["unk_token"] = vocabulary.unk.text
    settings = {
        **special,
        # The generic class reads tokenizer.json as it is, in transformers 4 and 5 alike. LlamaTokenizer of version 5
        # would build another tokenizer from its pieces, one that puts no space after </s>: not what was trained.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "added_tokens_decoder": {str(token.id): _decoder_entry(token) for token in vocabulary.added},
        "chat_template": template.jinja,
    }
    write_json(out / CONFIG, settings)
    write_json(out / SPECIAL, special)
    replace_file(out / TEMPLATE, template.jinja.encode())


def _decoder_entry(token: AddedToken) -> dict[str, Any]:
    entry = token.to_json()
    del entry["id"]
    return entry


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a small JSON file as transformers does: two spaces, sorted keys, a line feed at the end."""
    replace_file(path, (json.dumps(data, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode())
