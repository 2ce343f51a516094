"""A stopped job asked for something slightly else: what changes, what stays, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import UsageError
from backend.events import Log, Progress
from backend.jobs.narration import short_name, told
from backend.jobs.revision import revised
from backend.plan import TRY, Plan, Step
from backend.text import LANGUAGES, Message, tell

PLAN = Plan(
    recipe="r", title={"en": "R"}, name="mine", base="huggyllama/llama-7b@main", delta="/raw/vicuna-delta",
    loras=(), template=None, context=None, questions=None,
    steps=tuple(Step(name, Message("steps.fetch"), 1, 1, 1) for name in ("fetch", "merge", TRY)),
)  # fmt: skip


def test_wishes_change_only_what_they_name(tmp_path: Path) -> None:
    assert revised(PLAN, tmp_path) == PLAN
    assert revised(PLAN, tmp_path, name="other") == replace(PLAN, name="other")
    assert revised(PLAN, tmp_path, keep_sources=False) == replace(PLAN, keep_sources=False)
    assert [step.id for step in revised(PLAN, tmp_path, self_test=False).steps] == ["fetch", "merge"]


def test_a_name_that_is_taken_or_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for name in ("taken", "../out", "Not A Name"):
        with pytest.raises(UsageError):
            revised(PLAN, tmp_path, name=name)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("huggyllama/llama-7b", "huggyllama/llama-7b"),
        ("modelscope:org/model@v1", "org/model"),
        ("builtin:demo/base", "demo/base"),
        ("/raw/llama/7B/", "7B"),
        ("~/weights", "weights"),
        ("https://hub.example/files/lora.zip#sha256=aa", "lora.zip"),
        ("C:\\models\\llama", "llama"),
        ("x" * 100, "x" * 60),
    ],
)
def test_a_source_is_called_what_people_call_it(source: str, name: str) -> None:
    assert short_name(source) == name


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", ["one", "delta", "lora", "delta_lora"])
def test_merging_says_what_is_put_together(kind: str, language: str) -> None:
    loras = (("lab/style", None),) if "lora" in kind else ()
    plan = replace(PLAN, delta=PLAN.delta if "delta" in kind else None, loras=loras)
    counted = Progress(5, 9, Message("weights.doing.add_delta", {"index": 120, "count": 291}))
    other = Progress(0, 9, Message("weights.doing.check_earlier", {"file": "a"}))
    events = list(told([counted, other, Log(Message("x"))], plan))
    assert events[1:] == [other, Log(Message("x"))]
    first = events[0]
    assert isinstance(first, Progress)
    assert first.note is not None
    said = tell(language, first.note)
    assert "{" not in said
    assert all(part in said for part in ("huggyllama/llama-7b", "120", "291"))
    assert ("vicuna-delta" in said) == ("delta" in kind)
    assert ("lab/style" in said) == ("lora" in kind)
    if (kind, language) == ("delta", "en"):
        assert said == "Adding vicuna-delta to huggyllama/llama-7b: tensor 120 of 291"
