"""Talking in a terminal: what a conversation survives."""

from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backend.cli import chat
from backend.engines.base import ChatMessage, EngineState, EngineStatus, Finish, Piece, Sampling
from backend.engines.supervisor import Supervisor
from backend.errors import EngineError


class Engine:
    """Loses the first reply, then is in ``state``."""

    def __init__(self, state: EngineState) -> None:
        self.state = state
        self.asked: list[list[str]] = []

    def status(self) -> EngineStatus:
        return EngineStatus(self.state, returning=True)

    async def chat(self, messages: Sequence[ChatMessage], sampling: Sampling) -> AsyncIterator[Piece]:
        self.asked.append([message.content for message in messages])
        if len(self.asked) == 1:
            raise EngineError("engine.killed", signal="SIGKILL", log="")
        yield Piece("fine", 1)
        yield Piece("", 1, Finish.STOP)


def _talk(engine: Engine, monkeypatch: pytest.MonkeyPatch, *typed: str, prompts: list[str] | None = None) -> None:
    lines = iter(typed)

    def read(prompt: str) -> str:
        if prompts is not None:
            prompts.append(prompt)
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    chat._conversation(cast("Supervisor", cast("Any", engine)), "", Sampling(), "en")


def test_a_conversation_goes_on_when_the_engine_comes_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(EngineState.STARTING)
    _talk(engine, monkeypatch, "one", "two")
    assert engine.asked == [["one"], ["two"]]
    shown = capsys.readouterr()
    assert "SIGKILL" in shown.err
    assert shown.out == "fine\n"


def test_a_conversation_ends_with_an_engine_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="SIGKILL"):
        _talk(Engine(EngineState.FAILED), monkeypatch, "one", "two")


def test_words_behind_a_stroke_are_commands_and_never_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Engine(EngineState.STARTING)
    _talk(engine, monkeypatch, "/help", "/hlep me", "/lora off", "/etc/hosts is what?", "/quit", "never")
    assert engine.asked == [["/etc/hosts is what?"]]
    told = capsys.readouterr().err
    assert told.count("/quit or Ctrl-D ends") == 4  # at the beginning, asked for, and behind both that are none
    assert "/hlep me is no command" in told
    assert "/lora off is no command" in told  # nothing is attached
    assert "/help is no command" not in told


@pytest.mark.parametrize("word", ["/quit", "/exit", "/bye"])
@pytest.mark.parametrize("terminal", [True, False])
def test_what_ends_a_conversation_and_no_prompt_into_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], word: str, terminal: bool
) -> None:
    engine, prompts = Engine(EngineState.STARTING), list[str]()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: terminal))
    _talk(engine, monkeypatch, word, "never", prompts=prompts)
    assert (engine.asked, prompts) == ([], ["> " if terminal else ""])
    assert "no command" not in capsys.readouterr().err
