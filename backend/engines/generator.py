"""The seam inside an engine process: what the HTTP server needs of whatever produces text. Knows nothing about HTTP.

The torch engine and the echo engine implement ``Generator``; the server is the same for both.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from backend.engines.base import ChatMessage, EngineOptions, EngineState, Finish, Sampling
from backend.errors import ContextFull, CriaError
from backend.text import Message

MIN_ROOM = 8  # tokens; a prompt that leaves less room than this for a reply is refused


@dataclass(frozen=True)
class Prompt:
    """A conversation made ready: ``ids`` for an engine that has tokens, and how many tokens it is."""

    tokens: int
    ids: tuple[int, ...] = field(default=(), repr=False)
    text: str = field(default="", repr=False)


@dataclass(frozen=True)
class Step:
    """New text (maybe empty), completion tokens so far, and in the last step why it ended.

    ``at``: when it was computed, on the clock of ``time.monotonic``; 0: as soon as it is seen.
    """

    text: str
    tokens: int
    finish: Finish | None = None
    prompt_tokens: int = 0  # in the last step, where only the computing end can count them
    cached_tokens: int = 0  # in the last step: of the prompt, those that an earlier request had computed
    at: float = field(default=0.0, compare=False)


class Generator(Protocol):
    """Something loaded that answers. ``slots`` is how many replies it can work on at once."""

    slots: int
    context: int
    placement: Message
    note: Message | None

    def prepare(self, messages: Sequence[ChatMessage], sampling: Sampling) -> Prompt:
        """Turn a conversation into a prompt; blocks, so call it in a thread.

        Raises:
            ContextFull: it leaves no room for a reply.
            EngineError: the model's template refused it.
        """
        ...

    def generate(self, prompt: Prompt, sampling: Sampling) -> AsyncIterator[Step]:
        """Stream one reply. Closing the iterator ends the computation within one token."""
        ...

    def figures(self) -> Mapping[str, int]:
        """Return live figures: ``computed_tokens``, ``gpu_memory_bytes``; ``cache_used``, ``cache_total`` in tokens.

        ``steps`` grows whenever computing gets on; an engine with requests whose steps stand still is ended.
        """
        ...

    def problem(self) -> CriaError | None:
        """Return why nothing more can be generated, if that is so."""
        ...

    def close(self) -> None:
        """Stop computing."""
        ...


@dataclass
class Readiness:
    """Where the process stands. The loading thread writes it, the server reads it; each field is set in one go.

    ``note``: what loading does now, where that is more than reading weights.
    """

    folder: Path
    options: EngineOptions
    state: EngineState = EngineState.STARTING
    loaded_bytes: int = 0
    total_bytes: int = 0
    error: CriaError | None = None
    generator: Generator | None = None
    note: Message | None = None


def check_room(prompt_tokens: int, sampling: Sampling, context: int) -> None:
    """Make sure that a reply has room.

    Raises:
        ContextFull: it has not; the error names the prompt's tokens, the room that is left, and the context.
    """
    room = max(0, context - prompt_tokens)
    if room < min(MIN_ROOM, sampling.max_new_tokens):
        raise ContextFull("engine.context_full", prompt=prompt_tokens, room=room, context=context)


def limit(prompt_tokens: int, sampling: Sampling, context: int) -> tuple[int, Finish]:
    """Return the most tokens a reply may have, and what it means to reach that number."""
    room = context - prompt_tokens
    return (room, Finish.CONTEXT) if room < sampling.max_new_tokens else (sampling.max_new_tokens, Finish.LENGTH)
