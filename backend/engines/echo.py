"""An engine without a model: it says what it is and streams back what was said, word by word.

For tests, and for looking around on a machine where nothing is set up. Knows nothing about weights.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from backend.engines.base import ChatMessage, Finish, Sampling
from backend.engines.folder import small_json
from backend.engines.generator import Prompt, Readiness, Step, check_room, limit
from backend.engines.serve import serve
from backend.errors import CriaError
from backend.library import RECORD
from backend.text import Message, say

CONTEXT = 4096  # words
WORDS_PER_S = 20.0
_WORD = re.compile(r"\s*[\u3400-\u9fff\u3000-\u303f\uff00-\uffef]|\s*[^\s\u3000-\u9fff\uff00-\uffef]+|\s+$")
_CHINESE = re.compile(r"[\u3400-\u9fff]")


def split_words(text: str) -> list[str]:
    """Return the pieces of a text, each with the space before it: joined they are the text. One ideograph is a word."""
    return _WORD.findall(text)


class Echo:
    """The echo generator; a word counts as a token."""

    slots = 8
    note: Message | None = None

    def __init__(self, *, context: int = CONTEXT, words_per_s: float = WORDS_PER_S, stall_after: int = 0) -> None:
        self.context = context
        self.placement = Message("engine.placement.echo")
        self._pause_s = 1 / words_per_s
        self._computed = 0
        self._stall_after = stall_after

    def prepare(self, messages: Sequence[ChatMessage], sampling: Sampling) -> Prompt:
        """Count the words of the conversation and keep the last message."""
        tokens = sum(len(split_words(message.content)) for message in messages)
        check_room(tokens, sampling, self.context)
        return Prompt(tokens, text=messages[-1].content)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Step]:
        """Stream the answer at a steady pace."""
        language = "zh-CN" if _CHINESE.search(prompt.text) else "en"
        words = split_words(say(language, "engine.echo.reply", text=prompt.text))
        most, when_full = limit(prompt.tokens, sampling, self.context)
        began = time.monotonic()
        for count, word in enumerate(words[:most], start=1):
            # By the clock, not by adding up pauses: each sleep is a little late, and the pace is what tests rely on.
            await asyncio.sleep(max(0.0, began + count * self._pause_s - time.monotonic()))
            self._computed += 1
            yield Step(word, count)
            if count == self._stall_after:
                await asyncio.Event().wait()
        yield Step("", min(len(words), most), Finish.STOP if len(words) <= most else when_full)

    def figures(self) -> Mapping[str, int]:
        """Return how many words were made."""
        made = self._computed
        return {"computed_tokens": made, "steps": made, "gpu_memory_bytes": 0, "cache_used": 0, "cache_total": 0}

    def problem(self) -> CriaError | None:
        """Nothing can go wrong here."""
        return None

    def close(self) -> None:
        """Nothing to stop."""


def load(readiness: Readiness) -> Echo:
    """Pretend to load: ``cria.json`` may say ``{"echo": {"words_per_s": 200, "load_s": 1}}``, for tests and demos.

    ``stall_after`` words it stops in mid-reply and never goes on.
    """
    wishes = small_json(readiness.folder / RECORD).get("echo")
    wishes = wishes if isinstance(wishes, dict) else {}
    readiness.total_bytes = 100
    for percent in range(100):
        readiness.loaded_bytes = percent
        time.sleep(_number(wishes, "load_s", 0.0) / 100)
    words_per_s = max(0.1, _number(wishes, "words_per_s", WORDS_PER_S))
    return Echo(
        context=readiness.options.context or CONTEXT,
        words_per_s=words_per_s,
        stall_after=int(_number(wishes, "stall_after", 0)),
    )


def _number(table: Mapping[str, object], name: str, default: float) -> float:
    value = table.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default


if __name__ == "__main__":
    serve(load)
