"""Endurance: many simulated users for a long time, who stop, leave and come back while the model is loaded again.

    python -m tests.bench.endurance MODEL_FOLDER [--users 50] [--minutes 30] [--engine llamacpp] [--reloads]
    python -m tests.bench.endurance MODEL_FOLDER --rounds 20         load and unload, and look at the memory

Each user has an address of its own (127.0.0.x), asks questions greedily and compares each reply with the one that was
given when nobody else was there: a reply that belongs to somebody else shows. Every request must end: with its reply,
with a prefix of it (stopped), or with a reason. In the end no slot may be taken, and after a warm-up neither the web
process nor the engine with its helpers may hold 2 % more memory, or more files and threads. Anything else is a failure,
named on standard error and in the exit code. With ``--reloads`` the model is loaded again now and then in the first
half; the engine of the second half is the one whose memory counts.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

QUESTIONS = (
    "What is a cria?", "Who are you?", "What is a delta?", "What is LoRA?", "你是谁？", "什么是量化？", "Hello",
    "How do I convert LLaMA weights?", "Tell me about llamas", "什么是 LoRA？", "What is a tokenizer?",
    "Why is the sky blue?",
)  # fmt: skip
MOST_S = 600.0  # a request that takes longer hangs; a busy machine reloads for a minute and keeps fifty people waiting
SETTLED = 0.2  # share of the run after which memory is expected to have settled
MOST_GROWTH = 0.02  # of memory
MOST_MORE = 5  # files or threads: pools have grown by then
RELOAD_S = 150.0
LOOK_S = 5.0
WRONG = frozenset({"HUNG", "MIXED UP", "LOST", "broke off"})
ENDS_S = 120.0  # engine and server get less than a minute; the machine may be busy


class Server:
    """The process under load."""

    def __init__(self, model: Path, engine: str, data: Path) -> None:
        program = [sys.executable, "-m", "tests.bench.endurance_server", str(model), engine, str(data)]
        self.process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def tell(self, word: str) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> list[str]:
        """End it; return what was wrong with its end."""
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(ENDS_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return [f"it did not end within {ENDS_S} s"]
        return []


async def ask(
    client: httpx.AsyncClient, url: str, question: str, stop_after: int | None, got: list[str] | None = None
) -> tuple[str, str]:
    """Return how a request ended and the text it gave: whole, stopped, or the code of a reason.

    ``got`` collects what came, for whoever gives up waiting.
    """
    body = {"messages": [{"role": "user", "content": question}], "stream": True, "temperature": 0, "max_tokens": 60}
    text, pieces = "", 0
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        if response.status_code != httpx.codes.OK:
            return json.loads(await response.aread())["error"]["code"], ""
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                return "whole", text
            chunk = json.loads(line[6:])
            if "error" in chunk:
                return chunk["error"]["code"], text
            for choice in chunk["choices"]:
                text += choice["delta"].get("content", "")
                if got is not None:
                    got.append(choice["delta"].get("content", ""))
                pieces += bool(choice["delta"].get("content"))
            if stop_after is not None and pieces >= stop_after:
                return "stopped", text
    return "broke off", text


async def user(
    number: int, url: str, known: dict[str, str], until: float, ends: Counter[str], slow: list[float]
) -> None:
    """Ask until the time is over: read to the end, stop in mid-reply, or leave before the first word."""
    dice = random.Random(number)
    transport = httpx.AsyncHTTPTransport(local_address=f"127.0.{number // 200}.{number % 200 + 2}")
    # A connection of its own for each request: one kept open may be closed by the server as the next request leaves.
    headers = {"Connection": "close"}
    async with httpx.AsyncClient(transport=transport, timeout=None, headers=headers) as client:
        while time.monotonic() < until:
            question, mood, began = dice.choice(QUESTIONS), dice.random(), time.monotonic()
            stop_after = dice.randint(0, 8) if mood < 0.3 else None
            leave_s = dice.uniform(0, 1.5) if mood > 0.9 else MOST_S
            got: list[str] = []
            try:
                async with asyncio.timeout(leave_s):
                    end, text = await ask(client, url, question, stop_after, got)
            except TimeoutError:
                ends["left" if leave_s < MOST_S else "HUNG"] += 1
                if leave_s >= MOST_S:
                    print(f"{time.strftime('%H:%M:%S')} {question!r} hung after {got}", file=sys.stderr, flush=True)
                continue
            except httpx.HTTPError as problem:
                ends["LOST"] += 1
                print(f"{time.strftime('%H:%M:%S')} {question!r}: {problem!r} after {got}", file=sys.stderr, flush=True)
                continue
            slow.append(time.monotonic() - began)
            right = text == known[question] if end == "whole" else known[question].startswith(text)
            ends[end if right else "MIXED UP"] += 1
            if not right:
                print(f"{question!r}: {text!r} instead of {known[question]!r}", file=sys.stderr)
            await asyncio.sleep(dice.expovariate(1.0) if end in {"whole", "stopped"} else 1.0)


async def watch(server: Server, until: float, reloads_until: float) -> list[dict[str, Any]]:
    """Look at the memory every few seconds, and load the model again now and then."""
    seen, last = [], time.monotonic()
    while time.monotonic() < until:
        began = time.monotonic()
        await asyncio.sleep(LOOK_S)
        late_s = time.monotonic() - began - LOOK_S
        due = time.monotonic() < reloads_until and time.monotonic() - last > RELOAD_S
        last = time.monotonic() if due else last
        asked = time.monotonic()
        told = await asyncio.to_thread(server.tell, "reload" if due else "status")
        # How late this very program was, and how long the other took for a word: a machine may stand still.
        seen.append({**told, "late_s": round(late_s, 1), "answer_s": round(time.monotonic() - asked, 1)})
        if len(seen) % 12 == 0:
            print(time.strftime("%H:%M:%S"), json.dumps(seen[-1]), file=sys.stderr, flush=True)
    return seen


def growth(seen: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the medians of the first and the last third of what was measured, for each part, after the warm-up.

    The engine's figures are those of the process that was there at the end.
    """
    found = {}
    for name in seen[-1]["parts"]:
        own = [one for one in seen if name in one["parts"]]
        if name.startswith("engine"):
            own = [one for one in own if one["engine"] == seen[-1]["engine"]]
        values = [one["parts"][name] for one in own[round(SETTLED * len(own)) :]]
        third = max(1, len(values) // 3)
        early, late = statistics.median(values[:third]), statistics.median(values[-third:])
        found[name] = {"early": early, "late": late, "change": round(late / early - 1, 4), "looks": len(values)}
    return found


def faults(report: dict[str, Any]) -> list[str]:
    """Return what must not be, in words."""
    found = [f"{count} x {end}" for end, count in report["ends"].items() if end in WRONG]
    for name, part in report["growth"].items():
        if name.endswith("bytes") and part["change"] > MOST_GROWTH:
            found.append(f"{name} grew by {part['change']:.1%}")
        if not name.endswith("bytes") and part["late"] > part["early"] + MOST_MORE:
            found.append(f"{name} grew from {part['early']} to {part['late']}")
    if report["idle"]["web_files"] > report["began"]["web_files"] + MOST_MORE:
        found.append(f"{report['idle']['web_files']} files stay open, {report['began']['web_files']} were at the start")
    return found + [f"{report['stuck']} slots are stuck"] * bool(report["stuck"])


async def run(server: Server, users: int, minutes: float, reloads: bool) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=None) as client:
        known = {question: (await ask(client, server.url, question, None))[1] for question in QUESTIONS}
    before = await asyncio.to_thread(server.tell, "status")
    began, ends, slow = time.monotonic(), Counter[str](), list[float]()
    until = began + 60 * minutes
    work = [user(number, server.url, known, until, ends, slow) for number in range(users)]
    seen, *_ = await asyncio.gather(watch(server, until, began + 30 * minutes * reloads), *work)
    for _ in range(60):
        last = await asyncio.to_thread(server.tell, "status")
        if last["state"] == "ready" and not last["active"] + last["waiting"]:
            break
        await asyncio.sleep(1)
    quantiles = statistics.quantiles(slow, n=20)
    return {
        "users": users, "minutes": minutes, "requests": sum(ends.values()), "ends": dict(ends),
        "tokens": last["tokens"], "stuck": last["active"] + last["waiting"], "restarts": last["restarts"],
        "seconds": {"median": round(quantiles[9], 2), "95 %": round(quantiles[18], 2)}, "refused": last["refused"],
        "late_s": max(one["late_s"] for one in seen), "answer_s": max(one["answer_s"] for one in seen),
        "growth": growth(seen), "began": before["parts"], "idle": last["parts"],
    }  # fmt: skip


async def greet(url: str) -> None:
    """Ask once: an engine starts some of its helpers with the first request."""
    async with httpx.AsyncClient(timeout=None) as client:
        await ask(client, url, "Hello", None)


def rounds(server: Server, count: int) -> dict[str, Any]:
    """Load, ask and unload; memory of this process and its children after each unload, and what is left of them."""
    after = [server.tell("unload")]
    for _ in range(count):
        server.tell("load")
        asyncio.run(greet(server.url))
        after.append(server.tell("unload"))
    figures = {name: [one["parts"][name] for one in after] for name in after[0]["parts"]}
    return {"rounds": count, **figures, "children_left": max(one["children"] for one in after)}


def round_faults(report: dict[str, Any]) -> list[str]:
    """Return what must not be after loading and unloading; the first two rounds warm up."""
    found = [f"{report['children_left']} processes are left"] * bool(report["children_left"])
    settled = report["web_bytes"][min(2, len(report["web_bytes"]) - 1)]
    if report["web_bytes"][-1] > settled * (1 + MOST_GROWTH):
        found.append(f"memory grew from {settled} to {report['web_bytes'][-1]}")
    for name in ("web_files", "web_threads"):
        if report[name][-1] > report[name][0] + MOST_MORE:
            found.append(f"{name} grew from {report[name][0]} to {report[name][-1]}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--engine", default="llamacpp")
    parser.add_argument("--reloads", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as data:
        server = Server(told.model, told.engine, Path(data))
        try:
            if told.rounds:
                report = rounds(server, told.rounds)
                wrong = round_faults(report)
            else:
                report = asyncio.run(run(server, told.users, told.minutes, told.reloads))
                wrong = faults(report)
            print(json.dumps(report, ensure_ascii=False), flush=True)
        finally:
            left = server.close()
    for one in wrong + left:
        print(f"FAILED: {one}", file=sys.stderr)
    return int(bool(wrong + left))


if __name__ == "__main__":
    sys.exit(main())
