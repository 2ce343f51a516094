"""What a folder says about its tokenizer in small files: its special tokens, its chat template, early mistakes.

Nothing here is believed without a look: links out of the folder are refused, fields are taken with type checks. Knows
nothing about tokens' numbers.
"""

from pathlib import Path
from typing import Any

from backend.text import Message
from backend.weights.disk import inside, read_json

CONFIG, SPECIAL, TEMPLATE = "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"


def settings_in(place: Path) -> dict[str, Any]:
    """Return a folder's tokenizer settings: special_tokens_map.json, and tokenizer_config.json over it."""
    settings: dict[str, Any] = {}
    for name in (SPECIAL, CONFIG):
        if (place / name).is_file():
            settings.update(read_json(inside(place, name)))
    return settings


def stated_token(place: Path, key: str) -> str | None:
    """Return the text of a special token in a folder's own settings, which give it bare or described."""
    stated = settings_in(place).get(key)
    text = stated.get("content") if isinstance(stated, dict) else stated
    return text if isinstance(text, str) and text else None


def repairs(place: Path) -> tuple[Message, ...]:
    """Name the mistakes of early uploads (decapoda-research and what was trained on it) that are put right."""
    settings = settings_in(place)
    notes: list[Message] = []
    if str(settings.get("tokenizer_class")) == "LLaMATokenizer":
        notes.append(Message("weights.found.old_tokenizer_class"))
    if any(settings.get(key) == "" for key in ("bos_token", "eos_token", "unk_token")):
        notes.append(Message("weights.found.empty_tokens"))
    return tuple(notes)


def template_in(place: Path) -> str | None:
    """Return the chat template of a folder: a file of its own, or a text in the tokenizer's settings."""
    path = place / TEMPLATE
    if path.is_file() and path.stat().st_size < 1_000_000:
        return inside(place, TEMPLATE).read_text(encoding="utf-8", errors="replace")
    stated = settings_in(place).get("chat_template")
    if isinstance(stated, list):  # several by name; "default" is the one for a chat
        entries = [entry for entry in stated if isinstance(entry, dict)]
        stated = next((entry.get("template") for entry in entries if entry.get("name") == "default"), None)
    return stated if isinstance(stated, str) and stated else None
