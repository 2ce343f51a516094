"""How fast a loaded engine answers: prefill and decode for several requests at once. Knows nothing about terminals.

The text does not matter for the speed, so replies are drawn almost evenly from the whole vocabulary: a model then
hardly ever ends by itself before the wanted number of tokens. Times are those of the engine's own clock: whoever reads
may be held up, and then sees many tokens at once. Fast models are asked again, for more, until the time is long enough.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend.engines.base import SHORTEST_S, ChatEngine, ChatMessage, Sampling, Usage

PARALLEL = (1, 4, 16)
PROMPT_WORDS, NEW_TOKENS = 400, 64
_EVEN = Sampling(temperature=5.0, top_p=1.0, top_k=0, max_new_tokens=NEW_TOKENS)
_FIRST = Sampling(temperature=0.0, max_new_tokens=1)
_MOST_ASKED = 16  # replies, of a model that ends each of them at once
_LONGEST = 4096  # tokens of a reply
_DECODED_S = 1.0  # that each of them is to spend on tokens
_SHORTEST = 32  # tokens of a prompt that has shrunk to fit a small context


@dataclass(frozen=True)
class Burst:
    """So many requests at once. Tokens a second are of all of them together, None where the time was too short to tell;
    ``first_token_s`` is the slowest's.
    """

    parallel: int
    prompt_tokens: int  # of all of them
    prefill_tokens_per_s: float
    new_tokens: int  # of all of them
    decode_tokens_per_s: float | None
    first_token_s: float


@dataclass(frozen=True)
class _Ran:
    """One reply: when it was asked for, in seconds on a steady clock, and what the engine says of it."""

    asked: float
    usage: Usage

    @property
    def first(self) -> float:
        """When its first token was there."""
        return self.asked + self.usage.first_token_s

    @property
    def last(self) -> float:
        """When its last token was there."""
        return self.first + self.usage.decode_s


def measure(engine: ChatEngine, context: int, parallel: int) -> Burst:
    """Ask so many at once: first long prompts for one token each, then short ones for long replies.

    Raises:
        EngineError: the engine refused or died.
    """
    return asyncio.run(_burst(engine, context, parallel))


async def _burst(engine: ChatEngine, context: int, parallel: int) -> Burst:
    words = PROMPT_WORDS if not context else max(_SHORTEST, min(PROMPT_WORDS, context // 8))
    # No two prompts begin alike: an engine that keeps what it has computed would otherwise be timed doing nothing.
    long = [f"{number} {time.time_ns()} " + "llama " * words for number in range(parallel)]
    read = await asyncio.gather(*(_ask(engine, text, _FIRST) for text in long))
    prefill_s = max(one.first for one in read) - min(one.asked for one in read)
    prompt_tokens = sum(one.usage.prompt_tokens for one in read)
    told = await asyncio.gather(*(_talk(engine, f"Hello {number}") for number in range(parallel)))
    said = [one for some in told for one in some]
    decode_s = covered([(one.first, one.last) for one in said])
    after_first = sum(max(0, one.usage.completion_tokens - 1) for one in said)
    return Burst(
        parallel,
        prompt_tokens,
        prompt_tokens / prefill_s if prefill_s > 0 else 0.0,
        sum(one.usage.completion_tokens for one in said),
        after_first / decode_s if decode_s >= SHORTEST_S and after_first else None,
        prefill_s,
    )


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return how long at least one of some spans of time (begin, end) lasted."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


async def _talk(engine: ChatEngine, text: str) -> list[_Ran]:
    """Ask until there are enough tokens and they took long enough, for models that end early or are very fast."""
    ran: list[_Ran] = []
    length = NEW_TOKENS
    for _ in range(_MOST_ASKED):
        ran.append(await _ask(engine, text, replace(_EVEN, max_new_tokens=length)))
        is_enough = sum(one.usage.completion_tokens for one in ran) >= NEW_TOKENS
        if is_enough and sum(one.usage.decode_s for one in ran) >= _DECODED_S:
            break
        length = min(_LONGEST, 2 * length) if is_enough else NEW_TOKENS
    return ran


async def _ask(engine: ChatEngine, text: str, sampling: Sampling) -> _Ran:
    asked, usage = time.perf_counter(), Usage()
    async for piece in engine.chat([ChatMessage("user", text)], sampling):
        usage = piece.usage or usage
    return _Ran(asked, usage)
