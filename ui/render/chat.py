"""A conversation as the chat widget wants it, the figures under each reply, and what an empty conversation says.

Pure: records and a language in, plain values out. Knows nothing about gradio, engines at work or where chats are kept.
"""

import re
from collections.abc import Sequence
from hashlib import blake2s
from typing import Any

from backend.conversations import StoredMessage
from backend.engines.base import EngineState, EngineStatus, Finish, Waiting
from backend.library import ModelInfo
from backend.text import say
from ui.render.loras import scales_text
from ui.render.markup import esc

Bubble = dict[str, Any]

MAX_QUESTIONS = 4
WAITING = "…"
# What would begin a tag or an entity. An invisible joiner behind the first character takes that meaning away, also
# where an entity would be shown as it is (code, and the box in which a message is edited).
_TAG = re.compile(r"<(?=[A-Za-z/!?])|&(?=#?\w+;)")
_JOINER = "\u2060"
_MARKDOWN = re.compile(r"[\\`*_{}\[\]()#+\-.!|~$:<>&\"']")


def bubble(role: str, *texts: str) -> Bubble:
    """Return one message of the widget. Text blocks, because bare strings are re-indented on their way."""
    return {"role": role, "content": [{"type": "text", "text": text} for text in texts if text]}


def bubbles(messages: Sequence[StoredMessage], language: str) -> list[Bubble]:
    """Return stored messages as the widget's; figures stand below a reply that has ended, dots in one that has not."""
    shown = []
    for one in messages:
        growing = one.role == "assistant" and one.finish is None and not one.text
        text = as_typed(one.text) if one.role == "user" else one.text
        shown.append(bubble(one.role, WAITING if growing else text, figures(one, language)))
    return shown


def queued(waiting: Waiting | None, language: str) -> str:
    """Return what stands in for a reply that has not begun: dots, or where in the queue somebody is."""
    if waiting is None:
        return WAITING
    key = "ops.next" if waiting.place == 1 else "ops.queued"
    said = say(language, key, before=waiting.place - 1)
    if waiting.seconds:
        said += say(language, "ops.expected", seconds=max(1.0, waiting.seconds))
    return f"<small>{plain(said)}</small>"


def as_typed(text: str) -> str:
    """Return what a person wrote so that HTML in it is seen and not obeyed; ``typed`` is the inverse."""
    return _TAG.sub(lambda found: found[0] + _JOINER, text)


def typed(text: object) -> str:
    """Return what a person wrote, from what the widget shows of it."""
    return re.sub(f"([<&]){_JOINER}", r"\1", str(text))


def figures(message: StoredMessage, language: str) -> str:
    """Return the small print of a reply, as safe Markdown: tokens, speed, why it ended unless it simply was done."""
    if message.role != "assistant" or message.finish is None:
        return ""
    usage = message.usage
    parts = [say(language, "loraui.with", names=scales_text(message.loras, language))] if message.loras else []
    if usage.completion_tokens:
        parts.append(say(language, "chat.figures.tokens", tokens=usage.completion_tokens))
    if usage.tokens_per_s:
        parts.append(say(language, "chat.figures.rate", rate=usage.tokens_per_s))
    if usage.first_token_s >= 0.05:
        parts.append(say(language, "chat.figures.first", seconds=usage.first_token_s))
    line = plain(" · ".join(parts))
    if message.finish is not Finish.STOP:
        key = f"chat.ended.{message.finish}" if message.text else f"chat.ended.{message.finish}_empty"
        line = f"<b>{plain(say(language, key, tokens=usage.prompt_tokens))}</b> {line}"
    return f'<small class="figures">{line}</small>' if line else ""


def plain(text: str) -> str:
    """Return text as Markdown that shows exactly that text."""
    return _MARKDOWN.sub(lambda found: f"&#{ord(found[0])};", text)


def mark(conversation: str, messages: Sequence[StoredMessage], language: str) -> str:
    """Return a short stamp that changes whenever what the widget shows would change."""
    state = [conversation, language, *(f"{one.id} {len(one.text)} {one.finish}" for one in messages)]
    return blake2s("\n".join(state).encode(), digest_size=8).hexdigest()


def greeting(status: EngineStatus, models: Sequence[ModelInfo], language: str, *, admin: bool) -> str:
    """Return what an empty conversation says: what to do next, as Markdown."""
    if status.answers:
        key = "ready"
    elif status.state in {EngineState.STARTING, EngineState.LOADING}:
        key = "loading"
    elif not admin:
        key = "guest"
    else:
        key = "load" if any(not model.problem for model in models) else "setup"
    title, text = say(language, f"chat.greet.{key}.title"), say(language, f"chat.greet.{key}.text")
    return f"## {esc(title)}\n\n{esc(text)}"


def questions(model: ModelInfo | None, language: str) -> list[str]:
    """Return a few questions that a model answers well: first those in the reader's language, then others."""
    if model is None:
        return []
    own = language.split("-")[0]
    ranked = sorted(model.questions, key=lambda pair: pair[0].split("-")[0] != own)
    return [question for _, question in ranked[:MAX_QUESTIONS]]
