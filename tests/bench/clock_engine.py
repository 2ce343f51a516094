"""An engine whose own figures are exact: numbered words at a steady pace, each moment written down by the wall clock.

Takes the echo engine's place in ``page_app``. What it shall say stands in the question: ``rate=200 tokens=2000
kind=plain``. Word ``n`` of a reply is the number ``n``, so that whoever sees the text knows how far it is. When a reply
ends, a line of JSON in ``times.jsonl`` beside the model says when its first and its last word were made.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from backend.engines.base import ChatMessage, Finish, Sampling
from backend.engines.generator import Prompt, Readiness, Step
from backend.engines.serve import serve
from backend.errors import CriaError
from backend.text import Message

TIMES = "times.jsonl"
PARAGRAPH, LINE = 100, 12  # words
FIRST_AFTER_S = 0.3  # as if a prompt were read


def word(number: int, kind: str) -> str:
    """Return a word with what stands before it: plain paragraphs, one block of code, or one list."""
    if number == 0:
        return {"code": "```python\n0000", "list": "- 0000"}.get(kind, "0000")
    if kind == "plain" and number % PARAGRAPH == 0:
        return f"\n\n{number:04d}"
    if kind in {"code", "list"} and number % LINE == 0:
        return f"\n{'- ' if kind == 'list' else ''}{number:04d}"
    return f" {number:04d}"


class Clock:
    """The generator."""

    slots = 16
    context = 1_000_000
    note: Message | None = None
    placement = Message("engine.placement.echo")

    def __init__(self, folder: Path) -> None:
        self._times, self._made = folder / TIMES, 0

    def prepare(self, messages: Sequence[ChatMessage], sampling: Sampling) -> Prompt:
        return Prompt(1, text=messages[-1].content)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Step]:
        wish = dict(part.split("=", 1) for part in prompt.text.split() if "=" in part)
        rate, tokens, kind = float(wish.get("rate", 20)), int(wish.get("tokens", 20)), wish.get("kind", "plain")
        began, first, last = time.monotonic() + FIRST_AFTER_S, 0.0, 0.0
        for number in range(tokens):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            last = time.time()
            first = first or last
            self._made += 1
            yield Step(word(number, kind), number + 1)
        with self._times.open("a", encoding="utf-8") as file:
            told = {"tag": wish.get("tag", ""), "rate": rate, "tokens": tokens, "first": first, "last": last}
            file.write(json.dumps(told) + "\n")
        yield Step("", tokens, Finish.STOP)

    def figures(self) -> Mapping[str, int]:
        made = self._made
        return {"computed_tokens": made, "steps": made, "gpu_memory_bytes": 0, "cache_used": 0, "cache_total": 0}

    def problem(self) -> CriaError | None:
        return None

    def close(self) -> None:
        pass


def load(readiness: Readiness) -> Clock:
    return Clock(readiness.folder)


if __name__ == "__main__":
    serve(load)
