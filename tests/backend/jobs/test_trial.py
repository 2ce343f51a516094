"""The try-out, with an engine that behaves as told: what is noted, what is kept, what ends the job."""

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from backend.engines.base import ChatMessage, EngineState, EngineStatus, Finish, Piece
from backend.errors import Cancelled, EngineError, MachineError, WeightsError
from backend.events import Log, Progress
from backend.jobs.trial import Trial
from backend.text import Message


class Engine:
    """Loads at once, or not at all; says its pieces, and raises what is among them."""

    pieces: Sequence[Piece | Exception] = ()
    refuses: Exception | None = None
    closed = 0

    def __init__(self, logs_dir: Path) -> None:
        self.logs_dir = logs_dir

    def load(self, folder: Path, options: object) -> None:
        if self.refuses is not None:
            raise self.refuses

    def status(self) -> EngineStatus:
        return EngineStatus(EngineState.READY, loaded_bytes=10, total_bytes=10, memory_bytes=500)

    async def chat(self, messages: Sequence[ChatMessage], sampling: object) -> AsyncIterator[Piece]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Trial, list[Any]]]:
    def run(
        *pieces: Piece | Exception, refuses: Exception | None = None, cancelled: bool = False
    ) -> tuple[Trial, list[Any]]:
        actor = type("Actor", (Engine,), {"pieces": pieces, "refuses": refuses})
        monkeypatch.setattr("backend.engines.supervisor.Supervisor", actor)
        monkeypatch.setattr("backend.jobs.trial.likely_cause", lambda folder, **seen: Message("why", {**seen}))
        one = Trial(tmp_path, tmp_path / "logs", lambda: cancelled)
        try:
            return one, list(one.run())
        finally:
            assert actor.closed == 1

    return run


def logs(events: list[Any]) -> list[str]:
    return [event.message.key for event in events if isinstance(event, Log)]


def test_one_that_answers_and_stops(trial: Callable[..., tuple[Trial, list[Any]]]) -> None:
    one, events = trial(Piece(" Hi"), Piece(" there. ", finish=Finish.STOP))
    assert one.sample is not None
    assert (one.sample.answer, one.sample.stopped, one.sample.cause) == ("Hi there.", True, None)
    assert one.memory == 500
    assert logs(events) == ["steps.stopped"]
    assert any(isinstance(event, Progress) and event.done == event.total == 10 for event in events)


def test_one_that_runs_on_is_kept_with_the_likely_cause(trial: Callable[..., tuple[Trial, list[Any]]]) -> None:
    one, events = trial(Piece("Hi ### Human"), Piece(finish=Finish.LENGTH))
    assert one.sample is not None
    assert one.sample.stopped is False
    assert one.sample.cause == Message("why", {"answer": "Hi ### Human"})
    assert logs(events) == ["steps.ran_on", "why"]


def test_scores_that_are_no_numbers_are_said_to_be_none(trial: Callable[..., tuple[Trial, list[Any]]]) -> None:
    one, _ = trial(Piece("Hi"), EngineError("engine.not_numbers"))
    assert one.sample is not None
    assert one.sample.cause == Message("why", {"answer": "", "finite": False})


def test_scores_that_are_no_numbers_are_noticed_while_loading(trial: Callable[..., tuple[Trial, list[Any]]]) -> None:
    one, events = trial(refuses=EngineError("engine.not_numbers"))
    assert one.sample is not None
    assert one.sample.cause == Message("why", {"answer": "", "finite": False})
    assert logs(events) == ["steps.ran_on", "why"]


def test_a_kind_of_model_for_other_engines_is_kept_untried(trial: Callable[..., tuple[Trial, list[Any]]]) -> None:
    one, events = trial(refuses=WeightsError("finish.not_runnable", kind="gpt_neox", known="llama"))
    assert one.sample is None
    assert logs(events) == ["finish.not_runnable.say"]


def test_an_engine_that_dies_in_mid_reply_leaves_its_own_words(trial: Callable[..., tuple[Trial, list[Any]]]) -> None:
    problem = EngineError("engine.computation_failed", what="x")
    one, _ = trial(problem)
    assert one.sample is not None
    assert (one.sample.answer, one.sample.stopped, one.sample.cause) == ("", False, problem.message)


def test_too_little_memory_is_no_failure(trial: Callable[..., tuple[Trial, list[Any]]]) -> None:
    one, events = trial(refuses=MachineError("plan.memory", need=2, free=1))
    assert one.sample is None
    assert logs(events) == ["plan.memory.say", "steps.not_tried"]


def test_a_folder_that_does_not_load_is_a_failure(trial: Callable[..., tuple[Trial, list[Any]]]) -> None:
    with pytest.raises(WeightsError):
        trial(refuses=WeightsError("weights.no_weights", folder="x"))


def test_cancelling_ends_it(trial: Callable[..., tuple[Trial, list[Any]]]) -> None:
    with pytest.raises(Cancelled):
        trial(Piece("Hi"), Piece(finish=Finish.STOP), cancelled=True)
