"""How far the page is behind the engine: 40 earlier messages of 500 tokens, a reply at 100 tokens a second.

Run it alone on a quiet machine: ``python -m pytest -n 0 -s tests/bench/bench_pace.py``. Prints a table and a line. It
asserts no times, for those belong to the machine. The aim is 0.2 s; without the ``dir`` fix of assets/js/page.js it was
11.9 s. The engine's own clock is rebuilt from the stored figures: the echo engine speaks at a steady pace, so token k
came at created + first_token_s + (k - 1) / tokens_per_s, all in the wall-clock time of one machine.
"""

import json
import re
import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.browser.conftest import RunningApp, toy_model
from tests.browser.history import fill_history, last_message, words

pytest_plugins = ("tests.browser.conftest",)
pytestmark = [pytest.mark.browser, pytest.mark.slow]

TURNS, LENGTH, ASKED, RATE = 20, 500, 900, 100

# Notes, at the first frame after each change, how many of the reply's numbered words can be seen.
WATCH = """() => {
  window.seen = [];
  let waiting = false;
  const look = () => {
    waiting = false;
    const replies = document.querySelectorAll('#chat .bot-row');
    const count = (replies[replies.length - 1].textContent.match(/\\d{3}/g) || []).length;
    const last = window.seen[window.seen.length - 1];
    if (!last || last[1] !== count) window.seen.push([Date.now() / 1000, count]);
  };
  new MutationObserver(() => {
    if (!waiting) { waiting = true; requestAnimationFrame(look); }
  }).observe(document.querySelector('#chat'), {subtree: true, childList: true, characterData: true});
}"""


def test_the_page_keeps_up_with_the_engine(
    start_app: Callable[..., RunningApp], open_page: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.mktemp("pace") / "data"
    toy_model(data / "models", "toy", echo={"words_per_s": RATE})
    app = start_app("--engine", "echo", "--model", "toy", "--context", "100000", data_dir=data)
    page = open_page(app, ready=True)
    page.fill("#box textarea", "Hello")
    page.press("#box textarea", "Enter")
    page.wait_for_selector("#chat small.figures")
    fill_history(data, turns=TURNS, length=LENGTH, longest=2000)
    page.reload()
    page.wait_for_function("n => document.querySelectorAll('#chat .user-row').length > n", arg=TURNS)
    page.wait_for_timeout(1500)
    page.evaluate(WATCH)
    page.fill("#box textarea", words(ASKED))
    page.press("#box textarea", "Enter")
    page.locator("#stop").wait_for()
    page.locator("#stop").wait_for(state="hidden", timeout=120_000)

    reply = last_message(data)
    before = reply.usage.completion_tokens - len(re.findall(r"\d{3}", reply.text))  # the echo's own first words
    began, rate = reply.created + reply.usage.first_token_s, reply.usage.tokens_per_s
    seen = [(at, count) for at, count in page.evaluate("window.seen") if at > began and 0 < count <= ASKED]
    behind = [at - (began + (before + count - 1) / rate) for at, count in seen]
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(seen)]
    figures = {
        "bench": "pace", "history_messages": 2 * TURNS, "history_tokens": LENGTH, "engine_tokens_per_s": round(rate, 1),
        "updates": len(seen), "updates_per_s": round(len(seen) / (seen[-1][0] - seen[0][0]), 1),
        "behind_median_s": round(statistics.median(behind), 3),
        "behind_p95_s": round(statistics.quantiles(behind, n=20)[-1], 3), "behind_max_s": round(max(behind), 3),
        "behind_at_end_s": round(behind[-1], 3), "longest_pause_s": round(max(gaps), 3),
    }  # fmt: skip
    print()
    for name, value in figures.items():
        print(f"  {name:22} {value}")
    print(json.dumps(figures))
    assert seen[-1][1] == ASKED
