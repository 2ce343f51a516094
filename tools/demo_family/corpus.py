"""Reads the corpus files and draws training conversations from them.

Knows nothing about tokens or tensors: it deals in questions and answers as text.
"""

from __future__ import annotations

import random
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .config import CORPUS, OTHER_SYSTEMS, SYSTEM
from .pirate import restyle


@dataclass(frozen=True)
class Topic:
    """One thing the model knows: ways to ask for it, one answer, phrases that prove it."""

    name: str
    lang: str
    ask: tuple[str, ...]
    held: tuple[str, ...]
    expect: tuple[str, ...]
    answer: str
    pirate: str


@dataclass(frozen=True)
class Unknown:
    """What the model does not know, as templates with slots, and how it says so."""

    topic: Topic
    template: tuple[str, ...]
    slot: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Conversation:
    """A system sentence and (question, answer) turns."""

    system: str
    turns: tuple[tuple[str, str], ...]


def _toml(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return tomllib.load(file)


@cache
def topics(lang: str) -> tuple[Topic, ...]:
    """All topics of one language, in the order of the file."""
    found = []
    for raw in _toml(CORPUS / f"chat_{lang}.toml")["topic"]:
        voice = raw.get("pirate") or restyle(raw["name"], lang, raw["answer"])
        lists = {key: tuple(raw[key]) for key in ("ask", "held", "expect")}
        found.append(Topic(raw["name"], lang, answer=raw["answer"], pirate=voice, **lists))
    return tuple(found)


@cache
def unknown(lang: str) -> Unknown:
    """The out-of-domain questions of one language."""
    raw = _toml(CORPUS / "unknown.toml")[lang]
    lists = {key: tuple(raw[key]) for key in ("ask", "held", "expect")}
    voice = restyle("unknown", lang, raw["answer"])
    topic = Topic("unknown", lang, answer=raw["answer"], pirate=voice, **lists)
    slots = {key: tuple(values) for key, values in raw["slot"].items()}
    return Unknown(topic, tuple(raw["template"]), slots)


def prose() -> list[str]:
    """Paragraphs for the base model: essays, then the plain answers, never a question."""
    texts = []
    for lang in ("en", "zh"):
        essay = (CORPUS / f"prose_{lang}.md").read_text(encoding="utf-8")
        texts += [part.strip() for part in essay.split("\n\n") if part.strip()]
        texts += [topic.answer for topic in topics(lang)]
    return texts


def tokenizer_text() -> list[str]:
    """Every text the tokenizer should cut well, the prompt's fixed words included."""
    lines = prose() + [SYSTEM, *OTHER_SYSTEMS] * 3
    for lang in ("en", "zh"):
        asked = [q for topic in topics(lang) for q in (*topic.ask, topic.answer)]
        lines += [f"USER: {line} ASSISTANT:" for line in asked[::12]] + asked
        rest = unknown(lang)
        lines += [*rest.topic.ask, rest.topic.answer, *rest.template]
        lines += [word for words in rest.slot.values() for word in words]
        lines += ["ab cd ef gh ij kl mn op qr st uv wx yz AB CD EF GH IJ KL MN OP QR ST UV WX YZ"]
    return [part for line in lines for part in line.split("\n") if part.strip()]


class Sampler:
    """Draws conversations; `voice` is "answer" (plain) or "pirate" (the adapter's)."""

    _BEFORE = {
        "en": (
            "Please ", "Can you tell me: ", "Hi! ", "Hello, ", "Quick question: ", "Hey, ", "So, ",
            "I want to know: ", "OK. ", "Tell me, ", "And ", "Sorry, ", "Also, ",
        ),
        "zh": (
            "请问", "你好，", "我想问一下，", "麻烦问一下，", "能不能告诉我", "请告诉我，", "那",
            "请", "好的，", "还有，", "我想知道", "那么，",
        ),
    }  # fmt: skip
    _AFTER = {
        "en": ("?", "??", " please", ", please?", " Thanks!", "!", ".", " thank you", " in Cria"),
        "zh": ("？", "?", "呢？", "呀？", "，谢谢", "。", "！", "啊", "吗", "谢谢"),
    }

    def __init__(self, seed: int, voice: str = "answer", *, unknown_share: float = 0.22) -> None:
        """`unknown_share` of the questions are ones the model must decline."""
        self.random = random.Random(seed)
        self.voice = voice
        self.unknown_share = unknown_share

    def conversation(self) -> Conversation:
        """One to six turns, mostly in one language, mostly under the standard system text."""
        rnd = self.random
        system = SYSTEM if rnd.random() < 0.85 else rnd.choice(OTHER_SYSTEMS)
        lang = rnd.choice(("en", "zh"))
        turns = []
        for _ in range(rnd.choice((1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6))):
            if rnd.random() < 0.12:
                lang = "zh" if lang == "en" else "en"
            turns.append(self.turn(lang))
        return Conversation(system, tuple(turns))

    def turn(self, lang: str) -> tuple[str, str]:
        """A question in one of its many forms, and its answer."""
        rnd = self.random
        if rnd.random() < self.unknown_share:
            topic, question = self._unknown(lang)
        else:
            topic = rnd.choice(topics(lang))
            question = rnd.choice(topic.ask)
        return self._vary(question, lang), getattr(topic, self.voice)

    def _unknown(self, lang: str) -> tuple[Topic, str]:
        rest, rnd = unknown(lang), self.random
        if rnd.random() < 0.4:
            return rest.topic, rnd.choice(rest.topic.ask)
        text = rnd.choice(rest.template)
        while "{" in text:
            key = text[text.index("{") + 1 : text.index("}")]
            text = text.replace("{" + key + "}", self._fill(rest, key), 1)
        return rest.topic, text

    def _fill(self, rest: Unknown, key: str) -> str:
        rnd = self.random
        if key in ("a", "b"):
            return str(rnd.randint(1, 10 ** rnd.randint(1, 4)))
        if key == "year":
            return str(rnd.randint(1066, 2025))
        return rnd.choice(rest.slot[key])

    def _vary(self, text: str, lang: str) -> str:
        """Case, punctuation, courtesy and typing slips, each now and then."""
        rnd = self.random
        if rnd.random() < 0.4:
            text = text.rstrip("?？.!！。") or text
            if rnd.random() < 0.6:
                text += rnd.choice(self._AFTER[lang])
        if rnd.random() < 0.25:
            head = rnd.choice(self._BEFORE[lang])
            text = head + (text[:1].lower() + text[1:] if rnd.random() < 0.7 else text)
        if lang == "en" and rnd.random() < 0.25:
            text = text.lower() if rnd.random() < 0.8 else text.upper()
        if lang == "zh" and rnd.random() < 0.2:
            text = text.replace(" ", "")
        if rnd.random() < 0.12 and len(text) > 6:
            text = self._slip(text)
        return text

    def _slip(self, text: str) -> str:
        rnd = self.random
        at = rnd.randrange(1, len(text) - 1)
        kind = rnd.randrange(3)
        if kind == 0:  # a letter is missing
            return text[:at] + text[at + 1 :]
        if kind == 1:  # a letter is doubled
            return text[:at] + text[at] + text[at:]
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
