"""Conversations in, text out: the folder's template and tokenizer before llama.cpp, its stop strings behind.

The prompt goes in as token ids, so that it is exactly what any other engine reads. New text comes out as text:
llama.cpp keeps half characters back by itself. Knows nothing about HTTP or how a model is loaded.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from backend.engines.base import ChatMessage, Finish, Sampling
from backend.engines.conversation import prompt_ids
from backend.engines.generator import Prompt, Step, check_room, limit
from backend.engines.llamacpp_server.completions import Completions
from backend.engines.stops import StopStrings
from backend.errors import CriaError
from backend.text import Message

_SAMPLE = 3000  # tokens looked at to learn how a tokenizer joins words


class LlamaGenerator:
    """``Generator`` over llama.cpp."""

    def __init__(
        self,
        tokenizer: Any,
        completions: Completions,
        *,
        stops: Sequence[str],
        context: int,
        slots: int,
        placement: Message,
        note: Message | None,
        drops_space: bool | None = None,
        closing: Callable[[], None] | None = None,
    ) -> None:
        """``drops_space``: whether a reply's first space is the tokenizer's own; None: learned from what it decodes.
        ``closing`` is called in the end.
        """
        self._tokenizer, self._completions, self._stops = tokenizer, completions, tuple(stops)
        if drops_space is None:
            drops_space = drops_first_space(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)))
        self._drops_space, self._closing = drops_space, closing
        self.slots, self.context, self.placement, self.note = slots, context, placement, note

    def prepare(self, messages: Sequence[ChatMessage], sampling: Sampling) -> Prompt:
        """Render the template and count tokens, as ``Generator`` says."""
        ids = prompt_ids(self._tokenizer, messages, self.context)
        check_room(len(ids), sampling, self.context)
        return Prompt(len(ids), ids)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Step]:
        """Stream one reply, as ``Generator`` says."""
        most, when_full = limit(prompt.tokens, sampling, self.context)
        stops, begun, tokens = StopStrings(self._stops), not self._drops_space, 0
        async with aclosing(self._completions.stream(prompt.ids, sampling, most)) as stream:  # type: ignore[type-var]
            async for chunk in stream:
                text, tokens = chunk.text, chunk.tokens
                if text and not begun:
                    text, begun = text.removeprefix(" "), True
                shown = stops.feed(text)
                if stops.hit:
                    yield Step(shown, tokens, Finish.STOP, cached_tokens=chunk.cached, at=chunk.at)
                    return
                if chunk.ended:
                    # Before the limit was reached, the only other reason is that the context is full.
                    reached = when_full if tokens >= most else Finish.CONTEXT
                    finish = Finish.STOP if chunk.ended == "stop" else reached
                    yield Step(shown + stops.finish(), tokens, finish, cached_tokens=chunk.cached, at=chunk.at)
                    return
                yield Step(shown, tokens, at=chunk.at)

    def figures(self) -> Mapping[str, int]:
        """Return live figures."""
        return {
            "computed_tokens": self._completions.computed,
            "steps": self._completions.steps,
            "gpu_memory_bytes": 0,
            "cache_used": self._completions.cache_used(),
            "cache_total": self.slots * self.context,
        }

    def problem(self) -> CriaError | None:
        """Every request stands alone."""
        return None

    def close(self) -> None:
        """The process ends right after this, and llama.cpp with it."""
        if self._closing is not None:
            self._closing()


def drops_first_space(decode: Callable[[Sequence[int]], str]) -> bool:
    """Tell whether a tokenizer leaves out the space that its first token begins with, as SentencePiece does.

    Then some token is "hello" alone and "hello hello" twice.
    """
    for token in range(_SAMPLE):
        once = decode([token])
        if once.strip() and once == once.lstrip() and decode([token, token]) == f"{once} {once}":
            return True
    return False
