"""A tokenizer whose chat template runs in a process of its own; that process is ended when it takes too long.

Knows nothing about models, and nothing about what is in a template.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from backend.errors import EngineError
from backend.settings import ROOT

_KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "TZ")  # of the environment: templates need no more
RENDER_S = 10.0  # a template takes milliseconds; one that takes this long is not going to end
_ALONE_S = 5.0  # after that time it ends by itself, should this process be gone


class Renderer:
    """Renders one template after the other in a child, which is started when it is needed. Thread-safe."""

    def __init__(self, timeout_s: float = RENDER_S) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def render(self, template: str, variables: Mapping[str, Any], messages: Sequence[Mapping[str, str]]) -> str:
        """Return the prompt.

        Raises:
            EngineError: the template refused the conversation, took too long, or wanted too much memory.
        """
        asked = {"template": template, "variables": dict(variables), "messages": list(messages)}
        seconds = self._timeout_s + _ALONE_S
        with self._lock:
            line, late = self._answer(json.dumps({**asked, "seconds": seconds}).encode("ascii") + b"\n")
        if late:
            raise EngineError("engine.prompt_too_slow", seconds=self._timeout_s)
        if not line:  # it ended by itself, as Linux ends who has no memory left even for an error
            raise EngineError("engine.template_refused", what="MemoryError")
        answer: dict[str, str] = json.loads(line)
        if "text" not in answer:
            raise EngineError("engine.template_refused", what=answer["error"])
        return answer["text"]

    def _answer(self, line: bytes) -> tuple[bytes, bool]:
        """Return the child's answer, empty when it ended, and whether it had to be ended for being late."""
        child, late = self._running(), threading.Event()
        assert child.stdin
        assert child.stdout

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(self._timeout_s, end)
        timer.start()
        try:
            child.stdin.write(line)
            child.stdin.flush()
            answer = child.stdout.readline()
        except OSError:
            answer = b""
        finally:
            timer.cancel()
        if not answer or late.is_set():  # ended in the very moment of answering: the next needs another
            self._child = None
            _end(child)
        return answer, late.is_set() and not answer

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "backend.engines.template_process"],
                cwd=ROOT,
                env={name: os.environ[name] for name in _KEPT if name in os.environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            weakref.finalize(self, _end, self._child)
        return self._child


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    for pipe in (child.stdin, child.stdout):
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()
    child.wait()


class ApartTokenizer:
    """A tokenizer as it is, but for its template."""

    def __init__(self, tokenizer: Any, renderer: Renderer) -> None:
        self._tokenizer, self._renderer = tokenizer, renderer
        chosen = tokenizer.chat_template
        self.chat_template: str | None = chosen.get("default") if isinstance(chosen, dict) else chosen
        self._variables = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}

    @cached_property
    def longest(self) -> int:
        """Characters of the longest token: a text has at least so many fewer tokens."""
        return max(map(len, self._tokenizer.get_vocab()), default=1)

    def __call__(self, text: str, **options: Any) -> Any:
        """Return what the tokenizer makes of a text."""
        return self._tokenizer(text, **options)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the tokenizer's own."""
        return getattr(self._tokenizer, name)

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], **_: Any) -> str:
        """Return the prompt as text.

        Raises:
            EngineError: as ``Renderer.render``.
        """
        return self._renderer.render(self.chat_template or "", self._variables, messages)
