"""Conversations in, text out: the model's template and tokenizer around a source of tokens.

A template comes with the model and is somebody's program, so it runs only in this process; the server gives up on one
that takes too long. Knows nothing about HTTP, devices or how tokens are computed.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from backend.engines.base import ChatMessage, Finish, Sampling
from backend.engines.conversation import prompt_ids
from backend.engines.generator import Prompt, Step, check_room, limit
from backend.engines.stops import StopStrings
from backend.engines.transformers_server.detokenise import Detokeniser
from backend.engines.transformers_server.tokens import TokenSource
from backend.errors import CriaError
from backend.text import Message


class TextGenerator:
    """``Generator`` over a tokenizer and a ``TokenSource``."""

    def __init__(
        self,
        tokenizer: Any,
        source: TokenSource,
        *,
        eos: Sequence[int],
        stops: Sequence[str],
        context: int,
        placement: Message,
        note: Message | None,
    ) -> None:
        self._tokenizer, self._source = tokenizer, source
        self._eos, self._stops = frozenset(eos), tuple(stops)
        self.slots, self.context, self.placement, self.note = source.slots, context, placement, note

    def prepare(self, messages: Sequence[ChatMessage], sampling: Sampling) -> Prompt:
        """Render the template and count tokens."""
        ids = prompt_ids(self._tokenizer, messages, self.context)
        check_room(len(ids), sampling, self.context)
        return Prompt(len(ids), ids)

    async def generate(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Step]:
        """Stream one reply, as ``Generator`` says."""
        most, when_full = limit(prompt.tokens, sampling, self.context)
        text, stops = Detokeniser(self._decode), StopStrings(self._stops)
        tokens, reused = 0, [0]
        source = self._source.stream(prompt.ids, sampling, most, reused.append)
        async with aclosing(source) as stream:  # type: ignore[type-var]
            async for new in stream:
                shown = ""
                for token in new:
                    tokens += 1
                    if token in self._eos:
                        rest = shown + stops.feed(text.finish()) + stops.finish()
                        yield Step(rest, tokens, Finish.STOP, cached_tokens=reused[-1])
                        return
                    shown += stops.feed(text.feed(token))
                if stops.hit:
                    yield Step(shown, tokens, Finish.STOP, cached_tokens=reused[-1])
                    return
                yield Step(shown, tokens)
        rest = stops.feed(text.finish()) + stops.finish()
        yield Step(rest, tokens, Finish.STOP if stops.hit else when_full, cached_tokens=reused[-1])

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def figures(self) -> Mapping[str, int]:
        """Return live figures."""
        import torch

        used, total = self._source.cache()
        gpu = sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count()))
        return {
            "computed_tokens": self._source.computed(),
            "steps": self._source.steps(),
            "gpu_memory_bytes": gpu,
            "cache_used": used,
            "cache_total": total,
        }

    def problem(self) -> CriaError | None:
        """Return why nothing more can be generated, if that is so."""
        return self._source.problem()

    def close(self) -> None:
        """Stop computing."""
        self._source.close()
