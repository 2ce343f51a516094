"""Chat templates in a process of their own: what they give, and what harm they cannot do."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from transformers import PreTrainedTokenizerFast

from backend.engines import template_process
from backend.engines.base import ChatMessage
from backend.engines.conversation import prompt_ids
from backend.engines.templates import ApartTokenizer, Renderer
from backend.errors import ContextFull, EngineError
from backend.settings import ROOT
from backend.weights.templates import NAMES, find_template
from tests.backend.engines import tiny

TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b>{{ x }}</b> 你好"},
         {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Bye"}]  # fmt: skip
ODD = (
    "{%- for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}\n  {{ m | tojson }}{% endfor %}",
    "{% generation %}{{ messages[0].content }}{% endgeneration %}{{ bos_token }}{{ eos_token }}",
    "{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x + 1 %}{% endfor %}{{ n.x }}{{ tools }}",
    "{{ 'q' if add_generation_prompt else 'a' }}{{ dict(a=1) }}",
)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(timeout_s=30.0)


@pytest.mark.parametrize("template", [*NAMES, *ODD])
def test_a_template_gives_what_transformers_gives(renderer: Renderer, template: str) -> None:
    text = find_template(template).jinja if template in NAMES else template
    library = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer(), bos_token="<s>", eos_token="</s>")
    library.chat_template = text
    apart = ApartTokenizer(library, renderer)
    turns = TURNS if "raise_exception" not in text else TURNS[1:]
    wanted = library.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert apart.apply_chat_template(turns) == wanted
    messages = [ChatMessage(turn["role"], turn["content"]) for turn in turns]  # type: ignore[arg-type]
    assert list(prompt_ids(apart, messages)) == library(wanted, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{{ raise_exception('only user turns') }}", "only user turns"),
        ("{% for", "expected"),
        ("{{ messages[99].content }}", "99"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ 1 / 0 }}", "zero"),
        ("{% include '/etc/passwd' %}", "loader"),
    ],
)
def test_one_that_throws_is_said_to_refuse(renderer: Renderer, template: str, what: str) -> None:
    with pytest.raises(EngineError) as caught:
        renderer.render(template, {}, TURNS)
    assert caught.value.key == "engine.template_refused"
    assert what in str(caught.value.params["what"])


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}" + "{% endfor %}" * 3
DOUBLING = "{% set n = namespace(x='x' * 1000) %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}"


def test_one_that_loops_is_ended_and_the_next_works() -> None:
    renderer = Renderer(timeout_s=1.0)
    assert renderer.render("x", {}, TURNS) == "x"
    assert renderer._child is not None
    pid = renderer._child.pid
    with pytest.raises(EngineError) as caught:
        renderer.render(LOOP, {}, TURNS)
    assert (caught.value.key, caught.value.params) == ("engine.prompt_too_slow", {"seconds": 1.0})
    assert not psutil.pid_exists(pid)
    assert Renderer().render("{{ messages[0].content }}", {}, TURNS) == "Be brief."


def test_one_that_loops_ends_by_itself_when_nobody_is_left_to_end_it() -> None:
    words = [sys.executable, "-m", "backend.engines.template_process"]
    asked = {"template": LOOP, "variables": {}, "messages": [], "seconds": 0.5}
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin
        child.stdin.write(json.dumps(asked).encode() + b"\n")
        child.stdin.flush()
        assert child.wait(60) == -signal.SIGALRM


@pytest.mark.parametrize("template", ["{{ 'x' * 4000000000 }}", DOUBLING, "{{ 'x' * 17000000 }}"])
def test_one_that_wants_gigabytes_gets_none(renderer: Renderer, template: str) -> None:
    with pytest.raises(EngineError) as caught:
        renderer.render(template, {}, TURNS)
    assert caught.value.key == "engine.template_refused"
    assert renderer.render("still here", {}, TURNS) == "still here"


def test_it_knows_no_secret_and_ends_with_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SECRET", "hidden")
    renderer = Renderer()
    renderer.render("x", {}, TURNS)
    assert renderer._child is not None
    child = psutil.Process(renderer._child.pid)
    if Path(f"/proc/{child.pid}/environ").exists():
        assert b"hidden" not in Path(f"/proc/{child.pid}/environ").read_bytes()
    assert child.ppid() == os.getpid()
    del renderer
    assert not child.is_running()


def test_what_is_far_too_long_is_not_even_cut_into_tokens(renderer: Renderer) -> None:
    library = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer())
    library.chat_template = "{{ messages[0].content }}"
    apart = ApartTokenizer(library, renderer)
    longest = max(map(len, library.get_vocab()))
    long = [ChatMessage("user", "hello" * (2 * longest * 10))]
    with pytest.raises(ContextFull) as caught:
        prompt_ids(apart, long, 10)
    assert caught.value.params == {"chars": len(long[0].content), "context": 10}
    assert prompt_ids(apart, long) == tuple(library(long[0].content, add_special_tokens=False)["input_ids"])


def test_a_prompt_of_ten_megabytes_passes(renderer: Renderer) -> None:
    long = [{"role": "user", "content": "wörd " * 2_000_000}]
    assert renderer.render("{{ messages[0].content }}", {}, long) == long[0]["content"]
    assert len(long[0]["content"]) < template_process.MOST_TEXT
