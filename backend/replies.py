"""Joins a conversation and an engine: reads the turns, streams the reply, keeps what was said however it ended.

Nothing of a conversation is ever left out to make it fit: a full context is the reader's to solve, so it is said. Knows
nothing about pages or terminals.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TypedDict, cast

from backend.conversations import Conversations
from backend.engines.base import ChatEngine, ChatMessage, EngineState, EngineStatus, Finish, Piece, Sampling, Usage
from backend.errors import ContextFull, EngineError


class _MadeBy(TypedDict):
    """What is kept of who made a reply."""

    model: str
    loras: tuple[tuple[str, float], ...]


def require_ready(engine: ChatEngine) -> None:
    """Make sure that somebody can answer, before anything is written down.

    Raises:
        EngineError: no model is loaded, or it is still loading.
    """
    status = engine.status()
    if status.answers:
        return
    if status.state in {EngineState.STARTING, EngineState.LOADING}:
        raise EngineError("replies.loading", model=status.model)
    raise EngineError("replies.not_loaded")


def alternate(turns: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """Join neighbours of one role: templates allow no two, and a question may have got no answer before the next."""
    joined: list[ChatMessage] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            joined[-1] = replace(turn, content=f"{joined[-1].content}\n\n{turn.content}")
        else:
            joined.append(turn)
    return tuple(joined)


def taking_part(status: EngineStatus, sampling: Sampling) -> tuple[tuple[str, float], ...]:
    """Return (name, scale) of the attached adapters that take part in a reply; one that is off does not."""
    attached = tuple((one.name, one.scale) for one in status.options.loras)
    wanted = attached if sampling.loras is None else sampling.loras
    return tuple((name, scale) for name, scale in wanted if scale)


async def reply(
    conversations: Conversations,
    engine: ChatEngine,
    *,
    owner: str,
    conversation: str,
    sampling: Sampling,
    again: int | None = None,
) -> AsyncIterator[Piece]:
    """Answer the last turn of a conversation, piece by piece, and store the answer while it grows.

    ``again`` is the id of a question that has been answered already: the old answer stays until the new one begins.

    Closing the iterator stops the computation; what was said by then is kept and marked as stopped. If the
    conversation is cleared or edited meanwhile, the reply ends by itself.

    Raises:
        EngineError: no engine is ready, it refused, or it died; what it had said is kept and marked.
        ContextFull: the conversation does not fit; nothing of it was left out or changed.
        UsageError: the conversation is not this owner's, or is full.
    """
    turns, status = alternate(conversations.turns(owner, conversation, until=again)), engine.status()
    made_by: _MadeBy = {"model": status.model, "loras": taking_part(status, sampling)}
    growing = conversations.begin_reply(owner, conversation, **made_by) if again is None else None
    told = _Told()
    try:
        async with aclosing(cast("AsyncGenerator[Piece, None]", engine.chat(turns, sampling))) as pieces:
            async for piece in pieces:
                if piece.waiting is not None:  # nothing of the reply yet: an old one stays
                    yield piece
                    continue
                told.take(piece)
                if growing is None and again is not None:
                    growing = conversations.regenerate(owner, conversation, again, **made_by)
                if growing is not None and not growing.grow(told.text):
                    return
                yield piece
    except ContextFull:
        told.finish = Finish.CONTEXT
        raise
    except Exception:
        told.finish = Finish.ERROR
        raise
    finally:
        if growing is not None:
            growing.finish(told.text, told.finish, told.usage)


@dataclass
class _Told:
    """What an engine has said so far. Until it says why it ended, whoever leaves has stopped it."""

    text: str = ""
    finish: Finish = Finish.CANCELLED
    started: float = field(default_factory=time.monotonic)
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    final: Usage | None = None

    def take(self, piece: Piece) -> None:
        self.text += piece.text
        self.finish = piece.finish or self.finish
        self.final = piece.usage or self.final
        if piece.tokens > self.tokens:
            self.tokens, self.last = piece.tokens, time.monotonic()
            self.first = self.first or self.last

    @property
    def usage(self) -> Usage:
        """The engine's own figures, or for a reply that was cut short, what was seen from here."""
        if self.final is not None or not self.tokens:
            return self.final or Usage()
        return Usage(0, self.tokens, self.first - self.started, self.last - self.first)
