"""What llama.cpp is started with, and the first token that has to come in time."""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.engines.base import EngineOptions
from backend.engines.generator import Readiness
from backend.engines.llamacpp_server import __main__ as program
from backend.engines.llamacpp_server import loading, serving
from backend.errors import EngineError


def test_a_small_model_gets_one_thread_a_large_one_every_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 4)
    assert serving.threads(serving.SMALL - 1) == 1
    assert serving.threads(serving.SMALL) == 4
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None)  # a machine that does not tell
    assert serving.threads(serving.SMALL) == 6


@pytest.mark.parametrize(("own", "used"), [(None, program.SPINS), ("7", "7")])
def test_waiting_is_set_before_llama_cpp_is_loaded(
    own: str | None, used: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that it is put back afterwards
    if own is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    else:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    seen: list[str] = []
    monkeypatch.setattr(loading, "load", lambda _: seen.append(os.environ["GOMP_SPINCOUNT"]))
    program.load(Readiness(tmp_path, EngineOptions()))
    assert seen == [used]


class Never:
    """A server that does not answer before it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def handle_completions(self, request: Mapping[str, Any], callback: Callable[[Any], bool], /) -> None:
        self.go.wait()


def test_a_first_token_that_does_not_come_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "FIRST_TOKEN_S", 0.05)
    server = Never()
    with pytest.raises(EngineError) as caught:
        serving.check_numbers(server, 1)
    server.go.set()
    assert caught.value.key == "engine.not_in_time"


class Bursts:
    """A server that cannot."""

    def handle_completions(self, request: Mapping[str, Any], callback: Callable[[Any], bool], /) -> None:
        raise RuntimeError("no graph")


def test_a_first_token_that_fails_says_why() -> None:
    with pytest.raises(EngineError) as caught:
        serving.check_numbers(Bursts(), 1)
    assert caught.value.key == "engine.computation_failed"
    assert caught.value.params["what"] == "no graph"
