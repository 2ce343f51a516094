"""What OpenAI's clients send beyond what an engine is asked: other names, empty values, texts in parts, stop strings.

All of it is turned into the engines' own request, whose bounds hold here too; what is not known is dropped, never
passed on. Knows nothing about HTTP.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from backend.engines.protocol import ChatRequest

MAX_STOPS, MAX_STOP = 16, 1000  # strings, and characters of one
_SAME_ROLE = {"developer": "system"}
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP)]


class StreamOptions(BaseModel):
    """What a stream carries besides the text."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class PublicRequest(ChatRequest):
    """One request for a reply. ``model`` may be left out: there is only one loaded."""

    model: str = Field("", max_length=500)
    n: int = Field(1, ge=1, le=1)
    stop: list[Stop] = Field(default_factory=list, max_length=MAX_STOPS)
    stream_options: StreamOptions = StreamOptions()

    @model_validator(mode="before")
    @classmethod
    def _in_our_words(cls, data: Any) -> Any:
        """Drop values that are ``null``, and translate what has another name or shape here."""
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        if "max_completion_tokens" in given:
            given["max_tokens"] = given["max_completion_tokens"]
        if isinstance(given.get("stop"), str):
            given["stop"] = [given["stop"]]
        if isinstance(given.get("messages"), list):
            given["messages"] = [_message(one) for one in given["messages"]]
        return given


def _message(one: Any) -> Any:
    if not isinstance(one, dict):
        return one
    role = one.get("role")
    role = _SAME_ROLE.get(role, role) if isinstance(role, str) else role
    return {"role": role, "content": _joined(one.get("content"))}


def _joined(content: Any) -> Any:
    """Join a content that comes in text parts; a part of another kind makes it no text, which the schema refuses."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    whole = len(texts) == len(content) and all(isinstance(text, str) for text in texts)
    return "".join(str(text) for text in texts) if whole else content
