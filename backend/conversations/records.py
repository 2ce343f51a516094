"""The two records of a conversation, and how rows become them. Knows nothing about who may read which row."""

import json
from dataclasses import dataclass, fields
from typing import Any, Literal

from backend.engines.base import Finish, Sampling, Usage

SELECT = "SELECT id, title, settings, created FROM conversations"
SELECT_MESSAGES = (
    "SELECT id, role, text, model, finish, prompt_tokens, completion_tokens, first_token_s, decode_s, created, loras"
    " FROM messages"
)


@dataclass(frozen=True)
class Conversation:
    """One chat. ``created`` is in seconds since 1970."""

    id: str
    title: str
    system: str
    sampling: Sampling
    created: float


@dataclass(frozen=True)
class StoredMessage:
    """One turn. ``finish`` is ``None`` for what a person wrote and for a reply that still grows.

    ``loras`` are (name, scale) of the attached adapters that took part in a reply.
    """

    id: int
    role: Literal["user", "assistant"]
    text: str
    model: str
    finish: Finish | None
    usage: Usage
    created: float
    loras: tuple[tuple[str, float], ...] = ()


def read_conversation(row: tuple[Any, ...]) -> Conversation:
    """Build a conversation from a row of ``SELECT``; settings of a former version that are gone are left out."""
    name, title, settings, created = row
    kept = json.loads(settings)
    known = {one.name for one in fields(Sampling)}
    fitting = {key: value for key, value in kept.get("sampling", {}).items() if key in known}
    if fitting.get("loras") is not None:  # JSON knows lists only
        fitting["loras"] = tuple((name, scale) for name, scale in fitting["loras"])
    return Conversation(name, title, kept.get("system", ""), Sampling(**fitting), created)


def read_message(row: tuple[Any, ...]) -> StoredMessage:
    """Build a message from a row of ``SELECT_MESSAGES``."""
    name, role, text, model, finish, prompt, completion, first_s, decode_s, created, loras = row
    usage = Usage(prompt, completion, first_s, decode_s)
    parts = tuple((lora, scale) for lora, scale in json.loads(loras))
    return StoredMessage(name, role, text, model, Finish(finish) if finish else None, usage, created, parts)


def storable(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates, which UTF-8 cannot hold, by the replacement character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
