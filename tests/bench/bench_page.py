"""What the page costs: tokens a second and the first token as a browser sees them, beside the engine's own.

    python -m tests.bench.bench_page                    short and long conversations, an ordinary and a fast engine
    python -m tests.bench.bench_page --growth           one very long reply, its cost by quarters
    python -m tests.bench.bench_page --people 1 10      the web process while so many have the page open, or all talk

Real Chromium, the real app, and ``clock_engine``, which notes by the wall clock when each reply's first and last token
were made. A script in the page notes at each frame which numbered word is the last one there. Asserts nothing: times
belong to the machine.
"""

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from backend.conversations import Conversations
from tests.bench.clock_engine import TIMES
from tests.browser.conftest import RunningApp, running_app, toy_model
from tests.browser.history import fill_history, last_message

BOX, STOP = "#box textarea", "#stop"
LENGTH = 200  # words of each earlier message
PROGRAM = (sys.executable, "-m", "tests.bench.page_app")
REST = "#chat .bot-row small.figures"

# At the first frame after each change: the time, and the number of the last word that is there.
WATCH = """() => {
  window.seen = [];
  let waiting = false;
  const look = () => {
    waiting = false;
    const replies = document.querySelectorAll('#chat .bot-row');
    const words = replies[replies.length - 1]?.textContent.slice(-300).match(/\\d{4}/g);
    const count = words ? Number(words[words.length - 1]) + 1 : 0;
    const last = window.seen[window.seen.length - 1];
    if (!last || last[1] !== count) window.seen.push([Date.now() / 1000, count]);
  };
  new MutationObserver(() => {
    if (!waiting) { waiting = true; requestAnimationFrame(look); }
  }).observe(document.querySelector('#chat'), {subtree: true, childList: true, characterData: true});
}"""


@contextmanager
def browser() -> Iterator[Any]:
    """Lend a headless Chromium."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@contextmanager
def bench_app(folder: Path) -> Iterator[RunningApp]:
    """Run the app with the clock engine loaded."""
    toy_model(folder / "models", "toy")
    with running_app(folder, "--engine", "echo", "--model", "toy", program=PROGRAM) as app:
        yield app


def open_page(chromium: Any, app: RunningApp) -> Any:
    """Open the app as a new visitor."""
    page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(240_000)
    page.metrics = page.context.new_cdp_session(page)
    page.metrics.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(app.url)
    page.wait_for_selector("#engine .engine.ready")
    return page


def ask(page: Any, text: str) -> None:
    """Send a message; pressed again until it is heard."""
    page.fill(BOX, text)
    while page.input_value(BOX) == text:
        page.press(BOX, "Enter")
        page.wait_for_timeout(200)


def wait_end(page: Any) -> None:
    """Wait until the reply that is being streamed is over and its figures are there."""
    page.locator(STOP).wait_for(state="hidden")
    page.wait_for_function("() => [...document.querySelectorAll('#chat .bot-row')].pop()?.querySelector('.figures')")


def forget_last(data: Path) -> None:
    """Take the last question and its reply out of the one conversation there is."""
    with sqlite3.connect(data / "cria.sqlite") as file:
        owner, conversation = file.execute("SELECT owner, id FROM conversations LIMIT 1").fetchone()
    file.close()
    store = Conversations(data / "cria.sqlite")
    store.undo(owner, conversation)
    store.close()


def cpu(app: RunningApp) -> float:
    """Return the processor seconds that the web process alone has used."""
    times = psutil.Process(app.process.pid).cpu_times()
    return times.user + times.system


def made(app: RunningApp, tag: str) -> dict[str, Any]:
    """Return what the engine wrote down about a reply."""
    lines = (app.models_dir / "toy" / TIMES).read_text(encoding="utf-8").splitlines()
    return next(one for one in map(json.loads, reversed(lines)) if one["tag"] == tag)


def work(page: Any) -> float:
    """Return the seconds that this page's main thread has worked."""
    found = {one["name"]: one["value"] for one in page.metrics.send("Performance.getMetrics")["metrics"]}
    return float(found["TaskDuration"])


def one_reply(page: Any, app: RunningApp, *, rate: int, tokens: int, kind: str = "plain") -> dict[str, Any]:
    """Ask for one reply and return engine and page side by side."""
    tag = f"{rate}-{tokens}-{kind}-{page.evaluate('Date.now()')}"
    page.wait_for_timeout(1500)
    page.evaluate(WATCH)
    before, busy = cpu(app), work(page)
    ask(page, f"rate={rate} tokens={tokens} kind={kind} tag={tag}")
    wait_end(page)
    used, busy = cpu(app) - before, work(page) - busy
    engine = made(app, tag)
    shown = page.locator(REST).last.inner_text()
    seen = [(at, count) for at, count in page.evaluate("window.seen") if at >= engine["first"] and 0 < count <= tokens]
    (first_at, first_count), (last_at, last_count) = seen[0], seen[-1]
    assert last_count == tokens, (last_count, tokens)
    span = engine["last"] - engine["first"]
    own, here = (tokens - 1) / span, (last_count - first_count) / (last_at - first_at)
    behind = [at - (engine["first"] + (count - 1) * span / (tokens - 1)) for at, count in seen]
    return {
        "rate": rate, "tokens": tokens, "kind": kind, "engine": own, "browser": here, "ratio": here / own,
        "whole": (tokens - 1) / (last_at - engine["first"]) / own, "first_ms": (first_at - engine["first"]) * 1e3,
        "behind_ms": statistics.median(behind) * 1e3, "end_ms": behind[-1] * 1e3, "most_ms": max(behind) * 1e3,
        "updates_s": len(seen) / (last_at - first_at),
        "pause_ms": max(b - a for (a, _), (b, _) in pairwise(seen)) * 1e3,
        "web_cpu": used / tokens * 1e3, "page_cpu": busy / tokens * 1e3, "shown": shown, "seen": seen,
    }  # fmt: skip


HEAD = ("turns", "kind", "tokens", "engine", "browser", "ratio", "whole", "first_ms", "behind_ms", "end_ms", "most_ms",
        "updates_s", "pause_ms", "web_cpu", "page_cpu", "shown")  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    return " ".join(
        f"{row[name]:>9.3f}" if name in {"ratio", "whole"} else f"{row[name]:>9.1f}"
        if isinstance(row[name], float) else f"{row[name]:>9}" for name in HEAD
    )  # fmt: skip


def compare(folder: Path, turns: Sequence[int], rates: Sequence[int], kinds: Sequence[str], tokens: int) -> None:
    """Print the table of conversations, engines and kinds of text."""
    print("\nrates: tokens a second. cpu: seconds per 1000 tokens, of the web process and of the page's main thread.")
    print(" ".join(f"{name:>9}" for name in HEAD), flush=True)
    for count in turns:
        with bench_app(folder / f"turns-{count}") as app, browser() as chromium:
            page = open_page(chromium, app)
            ask(page, "rate=50 tokens=20")
            wait_end(page)
            fill_history(app.data_dir, turns=count - 1, length=LENGTH)
            for kind in kinds:
                for rate in rates:
                    page.reload()
                    page.wait_for_selector(REST)
                    most = min(tokens, rate * 20)
                    row = one_reply(page, app, rate=rate, tokens=most, kind=kind)
                    told = last_message(app.data_dir).usage
                    print(line({**row, "turns": count}), f"(stored: {told.tokens_per_s:.1f})", flush=True)
                    forget_last(app.data_dir)


def growth(folder: Path, tokens: int, rate: int, kind: str) -> None:
    """Print what each quarter of one very long reply costs."""
    with bench_app(folder / "growth") as app, browser() as chromium:
        page = open_page(chromium, app)
        page.evaluate(WATCH)
        ask(page, f"rate={rate} tokens={tokens} kind={kind} tag=growth")
        marks = []
        for quarter in range(5):
            if quarter:
                wanted = quarter * tokens // 4 - rate // 4
                page.wait_for_function("n => (window.seen[window.seen.length - 1] ?? [0, 0])[1] >= n", arg=wanted)
            seen = page.evaluate("window.seen.length ? window.seen[window.seen.length - 1][1] : 0")
            marks.append((seen, cpu(app), work(page), page.evaluate("window.seen.length")))
        wait_end(page)
        print(f"\none reply of {tokens} tokens ({kind}) at {rate}/s, by quarters: seconds of CPU per 1000 tokens")
        for number, (one, two) in enumerate(pairwise(marks), 1):
            per = 1e3 / max(1, two[0] - one[0])
            print(f"  {number}: web {(two[1] - one[1]) * per:6.2f}  page {(two[2] - one[2]) * per:6.2f}"
                  f"  updates {two[3] - one[3]:5}", flush=True)  # fmt: skip


def people(folder: Path, counts: Sequence[int], rate: int, tokens: int) -> None:
    """Print what the web process uses while many have the page open, one or all of them talking."""
    print("\nweb process, CPU seconds per 1000 tokens (beyond the ticks of pages at rest), and per second")
    for count in counts:
        with bench_app(folder / f"people-{count}") as app, browser() as chromium:
            pages = [open_page(chromium, app) for _ in range(count)]
            pages[0].wait_for_timeout(4000)
            began, at = cpu(app), pages[0].evaluate("Date.now()")
            pages[0].wait_for_timeout(8000)
            rest = (cpu(app) - began) / (pages[0].evaluate("Date.now()") - at) * 1e3
            for talking in sorted({1, count}):
                before, at = cpu(app), pages[0].evaluate("Date.now()")
                for number, page in enumerate(pages[:talking]):
                    ask(page, f"rate={rate} tokens={tokens} tag=people{number}")
                for page in pages[:talking]:
                    wait_end(page)
                took, used = (pages[0].evaluate("Date.now()") - at) / 1e3, cpu(app) - before
                print(f"  {count:3} open, {talking:3} talking: {used / (tokens * talking) * 1e3:6.2f} per 1000 tokens,"
                      f" {used / took:5.2f} per s (at rest {rest:.3f})", flush=True)  # fmt: skip


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, nargs="+", default=[2, 60])
    parser.add_argument("--rates", type=int, nargs="+", default=[20, 200, 500])
    parser.add_argument("--kinds", nargs="+", default=["plain"])
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--people", type=int, nargs="+")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if told.growth:
            growth(folder, 8000, 200, told.kinds[0])
        elif told.people:
            people(folder, told.people, 40, 400)
        else:
            compare(folder, told.turns, told.rates, told.kinds, told.tokens)


if __name__ == "__main__":
    main()
