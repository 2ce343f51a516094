"""A request that is not let in: its status and its reason, for a person or a program. Knows nothing of the checks."""

import json
from http import HTTPStatus

from backend.errors import Refused
from backend.text import Value, tell


class Denied(Refused):
    """What every check of the guard raises. ``retry_s``: seconds until another try makes sense (0: none does)."""

    def __init__(self, status: HTTPStatus, key: str, /, *, retry_s: float = 0, **params: Value) -> None:
        super().__init__(key, **params)
        self.status = status
        self.retry_s = retry_s

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that only a refusal has."""
        retry = [(b"retry-after", str(max(1, round(self.retry_s))).encode())] if self.retry_s else []
        return [(b"cache-control", b"no-store"), *retry]

    def body(self, language: str, *, as_json: bool) -> bytes:
        """Return the reason: plain text for a person, else ``error`` for OpenAI clients and ``detail`` for gradio's."""
        if not as_json:
            return (self.text(language) + "\n").encode()
        text = tell(language, self.message)
        error = {"message": self.text(language), "type": "Refused", "param": None, "code": self.key}
        return json.dumps({"detail": text, "error": error}).encode()
