"""How fast a loaded engine answers: prefill and decode for several requests at once. Knows nothing about terminals.

The text does not matter for the speed, so replies are drawn almost evenly from the whole vocabulary: a model then
hardly ever ends by itself before the wanted number of tokens.
"""

import asyncio
import time
from dataclasses import dataclass

from backend.engines.base import ChatEngine, ChatMessage, Sampling, Usage

PARALLEL = (1, 4, 16)
PROMPT_WORDS, NEW_TOKENS = 400, 64
_EVEN = Sampling(temperature=5.0, top_p=1.0, top_k=0, max_new_tokens=NEW_TOKENS)
_FIRST = Sampling(temperature=0.0, max_new_tokens=1)
_MOST_ASKED = 16  # replies, of a model that ends each of them at once
_SHORTEST = 32  # tokens of a prompt that has shrunk to fit a small context


@dataclass(frozen=True)
class Burst:
    """So many requests at once. Tokens a second are of all of them together; ``first_token_s`` is the slowest's."""

    parallel: int
    prompt_tokens: int  # of all of them
    prefill_tokens_per_s: float
    new_tokens: int  # of all of them
    decode_tokens_per_s: float
    first_token_s: float


@dataclass(frozen=True)
class _Ran:
    """One reply: its token counts, and when its first and last token came, in seconds on a steady clock."""

    usage: Usage
    first: float
    last: float


def measure(engine: ChatEngine, context: int, parallel: int) -> Burst:
    """Ask so many at once: first long prompts for one token each, then short ones for long replies.

    Raises:
        EngineError: the engine refused or died.
    """
    return asyncio.run(_burst(engine, context, parallel))


async def _burst(engine: ChatEngine, context: int, parallel: int) -> Burst:
    words = PROMPT_WORDS if not context else max(_SHORTEST, min(PROMPT_WORDS, context // 8))
    began = time.perf_counter()
    # No two prompts begin alike: an engine that keeps what it has computed would otherwise be timed doing nothing.
    long = [f"{number} {time.time_ns()} " + "llama " * words for number in range(parallel)]
    read = await asyncio.gather(*(_ask(engine, text, _FIRST) for text in long))
    prefill_s = max(one.first for one in read) - began
    prompt_tokens = sum(one.usage.prompt_tokens for one in read)
    told = await asyncio.gather(*(_talk(engine, f"Hello {number}") for number in range(parallel)))
    said = [one for some in told for one in some]
    new = sum(one.usage.completion_tokens for one in said)
    decode_s = max(one.last for one in said) - min(one.first for one in said)
    return Burst(
        parallel,
        prompt_tokens,
        prompt_tokens / prefill_s if prefill_s > 0 else 0.0,
        new,
        (new - parallel) / decode_s if decode_s > 0 else 0.0,  # the first tokens came before the clock began
        prefill_s,
    )


async def _talk(engine: ChatEngine, text: str) -> list[_Ran]:
    """Ask until there are enough tokens, for models that end early all the same."""
    ran: list[_Ran] = []
    for _ in range(_MOST_ASKED):
        ran.append(await _ask(engine, text, _EVEN))
        if sum(one.usage.completion_tokens for one in ran) >= NEW_TOKENS:
            break
    return ran


async def _ask(engine: ChatEngine, text: str, sampling: Sampling) -> _Ran:
    first = last = time.perf_counter()
    usage, tokens = Usage(), 0
    async for piece in engine.chat([ChatMessage("user", text)], sampling):
        if piece.tokens > tokens:
            last = time.perf_counter()
            first = first if tokens else last
            tokens = piece.tokens
        usage = piece.usage or usage
    return _Ran(usage, first, last)
