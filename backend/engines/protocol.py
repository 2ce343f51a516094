"""What goes over the wire between Cria and an engine: OpenAI's chat protocol, bounded, plus Cria's own error records.

Requests are checked here and nowhere else: every number has a least and a greatest value, unknown fields are ignored.
Knows nothing about sockets or models.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from backend.engines.base import MOST_LORAS, MOST_SCALE, ChatMessage, Finish, Sampling, Usage
from backend.errors import ContextFull, CriaError, EngineError, UsageError, WeightsError

MAX_TEXT = 4_000_000  # characters of one message: about a million tokens
MAX_MESSAGES = 2000
MAX_NEW_TOKENS = 131_072
_DEFAULTS = Sampling()
_STATUS: dict[type[CriaError], int] = {ContextFull: 400, UsageError: 400, WeightsError: 500, EngineError: 500}
_STATUS_BY_KEY = {"engine.not_ready": 503, "engine.queue_full": 429, "engine.no_key": 401}
Name = Annotated[str, Field(min_length=1, max_length=255)]
Scale = Annotated[float, Field(ge=-MOST_SCALE, le=MOST_SCALE)]


class WireMessage(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="ignore")
    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=MAX_TEXT)


class ChatRequest(BaseModel):
    """A request for one reply, in OpenAI's words where it has them."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    messages: list[WireMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool = False
    temperature: float = Field(_DEFAULTS.temperature, ge=0, le=5)
    top_p: float = Field(_DEFAULTS.top_p, gt=0, le=1)
    top_k: int = Field(_DEFAULTS.top_k, ge=0, le=1000)
    repetition_penalty: float = Field(_DEFAULTS.repetition_penalty, ge=0.1, le=10)
    max_tokens: int = Field(_DEFAULTS.max_new_tokens, ge=1, le=MAX_NEW_TOKENS)
    loras: dict[Name, Scale] | None = Field(None, max_length=MOST_LORAS)

    def chat_messages(self) -> tuple[ChatMessage, ...]:
        """Return the turns as values."""
        return tuple(ChatMessage(message.role, message.content) for message in self.messages)

    def sampling(self) -> Sampling:
        """Return how to pick tokens."""
        loras = None if self.loras is None else tuple(self.loras.items())
        return Sampling(self.temperature, self.top_p, self.top_k, self.repetition_penalty, self.max_tokens, loras)


def request_json(messages: Sequence[ChatMessage], sampling: Sampling, *, model: str) -> dict[str, Any]:
    """Return the body of a streaming request; ``ChatRequest`` reads it back."""
    loras = {} if sampling.loras is None else {"loras": dict(sampling.loras)}
    return {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        "max_tokens": sampling.max_new_tokens,
        **loras,
    }


def usage_json(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's token counts and our two durations."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "first_token_s": usage.first_token_s,
        "decode_s": usage.decode_s,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def usage_from_json(data: dict[str, Any]) -> Usage:
    """Read token counts; absent ones are 0."""
    return Usage(
        int(data.get("prompt_tokens") or 0),
        int(data.get("completion_tokens") or 0),
        float(data.get("first_token_s") or 0.0),
        float(data.get("decode_s") or 0.0),
        _cached(data.get("prompt_tokens_details")),
    )


def _cached(details: Any) -> int:
    count = details.get("cached_tokens") if isinstance(details, dict) else 0
    return count if type(count) is int and count > 0 else 0


def reply_head(reply: str, model: str, created: int, *, streaming: bool) -> dict[str, Any]:
    """Return the fields that every chunk, or the one whole answer, begins with."""
    kind = "chat.completion.chunk" if streaming else "chat.completion"
    return {"id": reply, "object": kind, "created": created, "model": model}


def chunk_json(
    head: dict[str, Any],
    text: str,
    *,
    tokens: int,
    finish: Finish | None = None,
    usage: Usage | None = None,
    times: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Return one streamed chunk; the last one carries why it ended and what it used.

    ``tokens`` are those so far; ``times``: seconds until the first and from there to the last, for who cuts it short.
    """
    delta = {"content": text} if text else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish.value if finish else None}
    own = {"tokens": tokens} if times is None else {"tokens": tokens, "first_token_s": times[0], "decode_s": times[1]}
    return {**head, "choices": [choice], "usage": usage_json(usage) if usage else None, "cria": own}


def usage_so_far(own: dict[str, Any], tokens: int) -> Usage | None:
    """Read the ``times`` of a chunk; None where it has none."""
    return Usage(0, tokens, float(own["first_token_s"]), float(own["decode_s"])) if "decode_s" in own else None


def whole_json(head: dict[str, Any], text: str, finish: Finish, usage: Usage) -> dict[str, Any]:
    """Return one whole answer."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish.value}
    return {**head, "choices": [choice], "usage": usage_json(usage)}


def json_bytes(data: Any) -> bytes:
    """Return JSON in ASCII: no separator of any kind hides in the text, and half a character harms nobody."""
    return json.dumps(data, separators=(",", ":")).encode("ascii")


def sse(data: dict[str, Any]) -> bytes:
    """Return one server-sent event."""
    return b"data: " + json_bytes(data) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def error_body(error: CriaError) -> dict[str, Any]:
    """Return an error as OpenAI clients read it, with Cria's own record beside."""
    kind = type(error).__name__
    return {"error": {"message": error.text(), "type": kind, "param": None, "code": error.key, "cria": error.to_json()}}


def error_status(error: CriaError) -> int:
    """Return the HTTP status of an error."""
    return _STATUS_BY_KEY.get(error.key) or next(
        (code for kind, code in _STATUS.items() if isinstance(error, kind)), 500
    )
