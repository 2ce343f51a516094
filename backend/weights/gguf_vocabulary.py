"""A tokenizer as GGUF keeps it: every token's text, score and kind, the merges, and which tokens begin and end a text.

Cria itself cuts and joins text with the folder's own tokenizer; this is what llama.cpp turns new tokens into text with,
and what lets other programs use the file alone. Knows nothing about weights or files of GGUF.

Kinds and keys: ggml-org/ggml ``docs/gguf.md``; the kinds have SentencePiece's numbers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.errors import WeightsError
from backend.weights.disk import inside, label, read_json
from backend.weights.fast_tokenizer import SPACE, AddedToken
from backend.weights.sentencepiece_model import Kind
from backend.weights.tiktoken_model import PATTERN
from backend.weights.tokenizer import FAST, FAST_LIMIT, Vocabulary, find_vocabulary
from backend.weights.tokenizer_settings import settings_in, stated_token, template_in

MOST_ENDS = 3  # tokens that end a reply: GGUF has a key for the end of a text, of a turn and of a message
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_APPENDED = -1000.0  # the score of a token that no pair of pieces is ever merged into
_BYTE = "<0x{:02X}>"
_OTHERS = ("Unigram", "WordPiece", "WordLevel")
# llama.cpp's names for the rules that cut a text into words, by the expression in a tokenizer.json.
_LETTER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_RULES = (
    (PATTERN, "llama-bpe"),
    (PATTERN.replace(r"\p{N}{1,3}", r"\p{N}"), "qwen2"),
)


def tokenizer_settings(folder: Path, rows: int, ends: Sequence[int], *, own: bool = False) -> dict[str, Any]:
    """Return key -> value of everything a GGUF file says about the tokenizer of a model folder.

    ``rows``: embedding rows, each of which gets a token; ``ends``: ids that end a reply; ``own``: the model is no
    Llama, and its tokenizer.json is taken as it is.

    Raises:
        WeightsError: no tokenizer, one of a kind that GGUF cannot express, or more ends than it has keys for.
    """
    if len(ends) > MOST_ENDS:
        raise WeightsError("gguf.ends", count=len(ends), most=MOST_ENDS)
    if own and (folder / FAST).is_file():
        table, added, marks = _own(folder, rows)
        place = folder
    else:
        vocabulary = find_vocabulary([folder], rows)
        table = _pieces(vocabulary, rows) if vocabulary.model else _from_json(vocabulary.fast or {}, folder, rows)
        added, marks, place = list(vocabulary.added), _marks(vocabulary), vocabulary.place
    texts, scores, kinds = table.pop("texts"), table.pop("scores"), table.pop("kinds")
    for token in added:
        _put(texts, scores, kinds, token)
        if table["model"] == "llama" and kinds[token.id] is Kind.USER_DEFINED:
            texts[token.id] = token.text.replace(SPACE, " ")  # such a token's text is written as it stands
    for row in range(len(texts)):  # rows that no token names: the file must name each
        if not texts[row]:
            texts[row], kinds[row] = f"[unused{row}]", Kind.UNUSED
    keys: dict[str, Any] = {**table, "tokens": [text.encode() for text in texts], "token_type": list(map(int, kinds))}
    if table["model"] == "llama":
        keys["scores"] = scores
    eos = marks.pop("eos_token_id", None)
    keys |= marks | dict(zip(_END_KEYS, ends or ((eos,) if eos is not None else ()), strict=False))
    template = template_in(place)
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()} | (
        {"tokenizer.chat_template": template} if template else {}
    )


def can_express(folder: Path) -> bool:
    """Tell whether a tokenizer is of a kind that GGUF expresses, by a look at its file that is quick also where it has
    tens of megabytes."""
    path = folder / FAST
    if not path.is_file():
        return True  # tokenizer.model: looked at when it is read
    data = path.read_bytes() if path.stat().st_size <= FAST_LIMIT else b""
    by_bytes = _states(data, "type", '"ByteLevel"') or _states(data, "byte_fallback", "true")
    others = any(_states(data, "type", f'"{other}"') for other in _OTHERS)
    return by_bytes and _states(data, "type", '"BPE"') and not others


def _states(data: bytes, key: str, value: str) -> bool:
    """Tell whether some JSON has a field, in either way that files are written. Within a text, quotes are escaped."""
    return any(f'"{key}":{space}{value}'.encode() in data for space in ("", " "))


def _marks(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the tokens with a meaning, as Llama's tokenizers have them."""
    found: dict[str, Any] = {"bos_token_id": vocabulary.bos.id, "padding_token_id": vocabulary.pad.id}
    found |= {"add_bos_token": True, "eos_token_id": vocabulary.eos.id}
    return found if vocabulary.unk is None else {**found, "unknown_token_id": vocabulary.unk.id}


def _own(folder: Path, rows: int) -> tuple[dict[str, Any], list[AddedToken], dict[str, Any]]:
    """Return the table, the added tokens and those with a meaning of any tokenizer.json and the settings beside it."""
    fast = read_json(inside(folder, FAST), FAST_LIMIT)
    entries = fast.get("added_tokens") or []
    try:
        added = [AddedToken(int(entry["id"]), str(entry["content"]), bool(entry["special"])) for entry in entries]
    except (KeyError, TypeError, ValueError, OverflowError) as problem:  # 1e999 is infinite
        raise WeightsError("weights.tokenizer_damaged", file=FAST, what=str(problem)[:80]) from problem
    highest = max((token.id for token in added), default=0)
    if not all(0 <= token.id < rows for token in added):
        raise WeightsError("weights.tokenizer_too_large", tokens=highest + 1, rows=rows, folder=label(folder))
    table = _from_json(fast, folder, rows)
    by_text = {text: number for number, text in enumerate(table["texts"]) if text}
    by_text |= {token.text: token.id for token in added}
    names = (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
    stated = {key: by_text.get(stated_token(folder, f"{name}_token") or "") for name, key in names}
    marks: dict[str, Any] = {f"{key}_token_id": number for key, number in stated.items() if number is not None}
    marks["add_bos_token"] = _adds_bos(folder, fast)
    return table, added, marks


def _adds_bos(folder: Path, fast: Mapping[str, Any]) -> bool:
    """Tell whether a tokenizer puts the begin-of-text token before a text."""
    stated, bos = settings_in(folder).get("add_bos_token"), stated_token(folder, "bos_token")
    return stated if isinstance(stated, bool) else bos is not None and bos in str(fast.get("post_processor"))


def _empty(rows: int) -> dict[str, Any]:
    return {"texts": [""] * rows, "scores": [_APPENDED] * rows, "kinds": [Kind.NORMAL] * rows}


def _put(texts: list[str], scores: list[float], kinds: list[Kind], token: AddedToken) -> None:
    """Note a token that was added to the learned ones, or that is one of them and has a meaning of its own."""
    texts[token.id] = token.text
    if kinds[token.id] is not Kind.UNKNOWN:
        kinds[token.id] = Kind.CONTROL if token.special else Kind.USER_DEFINED
    scores[token.id] = min(scores[token.id], 0.0)


def _pieces(vocabulary: Vocabulary, rows: int) -> dict[str, Any]:
    """Return SentencePiece's own table."""
    model = vocabulary.model
    assert model
    table = _empty(rows) | {"model": "llama", "pre": "default", "add_space_prefix": model.dummy_prefix}
    for number, piece in enumerate(model.pieces):
        table["texts"][number], table["scores"][number], table["kinds"][number] = piece.text, piece.score, piece.kind
    return table


def _from_json(fast: Mapping[str, Any], folder: Path, rows: int) -> dict[str, Any]:
    """Return the table of a ``tokenizer.json``: SentencePiece's pieces with merges, or tiktoken's byte letters."""
    model = fast.get("model")
    vocab, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
    if not isinstance(model, dict) or not isinstance(vocab, dict) or not isinstance(merges, list):
        raise WeightsError("weights.tokenizer_kind", folder=label(folder))
    if model.get("type", "BPE") != "BPE":
        raise WeightsError("weights.tokenizer_kind", folder=label(folder))
    table = _empty(rows)
    for text, number in vocab.items():
        if type(number) is not int or not 0 <= number < rows:
            raise WeightsError("weights.tokenizer_too_large", tokens=len(vocab), rows=rows, folder=label(folder))
        table["texts"][number] = text
    if model.get("byte_fallback") is not True:
        if "ByteLevel" not in _types(fast.get("decoder")):  # how tokens become text would be somebody's guess
            raise WeightsError("weights.tokenizer_kind", folder=label(folder))
        return table | {"model": "gpt2", "pre": _pre(fast), "merges": [_joined(pair, " ") for pair in merges]}
    ranks = {_joined(pair, ""): rank for rank, pair in reversed(list(enumerate(merges)))}
    bytes_ = {_BYTE.format(value): Kind.BYTE for value in range(256)}
    unknown = model.get("unk_token")
    for number, text in enumerate(table["texts"]):
        table["kinds"][number] = Kind.UNKNOWN if text == unknown else bytes_.get(text, Kind.NORMAL)
        # llama.cpp joins the pair whose joined piece has the highest score; merges are in falling order.
        table["scores"][number] = -float(ranks.get(text, len(ranks)))
    return table | {"model": "llama", "pre": "default", "add_space_prefix": _prefixes(fast)}


def _joined(pair: Any, between: str) -> str:
    """Return a merge as one text; files have it as "left right" or as a pair."""
    left, _, right = pair.partition(" ") if isinstance(pair, str) else (str(pair[0]), "", str(pair[1]))
    return f"{left}{between}{right}"


def _prefixes(fast: Mapping[str, Any]) -> bool:
    """Tell whether a space is put before a text."""
    normalizer, first = fast.get("normalizer"), fast.get("pre_tokenizer")
    steps = (normalizer.get("normalizers") or [normalizer]) if isinstance(normalizer, dict) else []
    prepended = any(isinstance(step, dict) and step.get("type") == "Prepend" for step in steps)
    return prepended or (isinstance(first, dict) and first.get("prepend_scheme", "never") != "never")


def _pre(fast: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for the rule that cuts a text into words; other programs need it, Cria does not."""
    patterns = {str(step["pattern"].get("Regex")) for step in _steps(fast.get("pre_tokenizer"), "pretokenizers")
                if isinstance(step.get("pattern"), dict)}  # fmt: skip
    known = next((name for pattern, name in _RULES if pattern in patterns), None)
    return known or ("gpt-4o" if any(pattern.count(_LETTER) for pattern in patterns) else "default")


def _types(step: Any) -> set[str]:
    """Return the kinds of steps that a part of a tokenizer.json is made of."""
    return {str(one.get("type")) for one in _steps(step, "decoders")}


def _steps(step: Any, inner: str) -> list[dict[str, Any]]:
    steps = (step.get(inner) or [step]) if isinstance(step, dict) else []
    return [one for one in steps if isinstance(one, dict)]
