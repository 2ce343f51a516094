"""Endurance: many simulated users for a long time, who stop, leave and come back while the model is loaded again.

    python -m tests.bench.endurance MODEL_FOLDER [--users 30] [--minutes 10] [--engine transformers] [--reloads]
    python -m tests.bench.endurance MODEL_FOLDER --rounds 20         load and unload, and look at the memory

Each user has an address of its own (127.0.0.x), asks questions greedily and compares each reply with the one that was
given when nobody else was there: a reply that belongs to somebody else shows. Every request must end: with its reply,
with a prefix of it (stopped), or with a reason. In the end no slot may be taken and memory must be where it was.
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
MOST_S = 180.0  # a request that takes longer hangs
SETTLED = 0.2  # share of the run after which memory is expected to have settled


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

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


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
    async with httpx.AsyncClient(transport=transport, timeout=None) as client:
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
            slow.append(time.monotonic() - began)
            right = text == known[question] if end == "whole" else known[question].startswith(text)
            ends[end if right else "MIXED UP"] += 1
            if not right:
                print(f"{question!r}: {text!r} instead of {known[question]!r}", file=sys.stderr)
            await asyncio.sleep(dice.expovariate(1.0) if end in {"whole", "stopped"} else 1.0)


async def watch(server: Server, until: float, reloads: bool) -> list[dict[str, Any]]:
    """Look at the memory every few seconds, and load the model again now and then."""
    seen, last = [], time.monotonic()
    while time.monotonic() < until:
        await asyncio.sleep(5)
        due = reloads and time.monotonic() - last > 60
        last = time.monotonic() if due else last
        seen.append({**await asyncio.to_thread(server.tell, "reload" if due else "status"), "at": time.monotonic()})
    return seen


async def run(server: Server, users: int, minutes: float, reloads: bool) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=None) as client:
        known = {question: (await ask(client, server.url, question, None))[1] for question in QUESTIONS}
    began, ends, slow = time.monotonic(), Counter[str](), list[float]()
    until = began + 60 * minutes
    work = [user(number, server.url, known, until, ends, slow) for number in range(users)]
    seen, *_ = await asyncio.gather(watch(server, until, reloads), *work)
    for _ in range(60):
        last = await asyncio.to_thread(server.tell, "status")
        if last["state"] == "ready" and not last["active"] + last["waiting"]:
            break
        await asyncio.sleep(1)
    settled = [one for one in seen if one["at"] > began + SETTLED * (until - began) and one["state"] == "ready"]
    parts = {}
    for name in ("own_bytes", "engine_bytes"):
        values = [one[name] for one in settled if one[name]]
        third = max(1, len(values) // 3)
        early, late = statistics.median(values[:third]), statistics.median(values[-third:])
        parts[name] = {"early": early, "late": late, "change": round(late / early - 1, 4)}
    quantiles = statistics.quantiles(slow, n=20)
    return {
        "users": users, "minutes": minutes, "requests": sum(ends.values()), "ends": dict(ends),
        "tokens": last["tokens"],
        "memory": parts, "stuck": last["active"] + last["waiting"], "restarts": last["restarts"],
        "seconds": {"median": round(quantiles[9], 2), "95 %": round(quantiles[18], 2)}, "refused": last["refused"],
    }  # fmt: skip


def rounds(server: Server, count: int) -> dict[str, Any]:
    """Load and unload; own memory after each unload, and what is left of the children."""
    after = [server.tell("unload")]
    for _ in range(count):
        server.tell("load")
        after.append(server.tell("unload"))
    own = [one["own_bytes"] for one in after]
    return {"rounds": count, "own_bytes": own, "children_left": max(one["children"] for one in after)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--users", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--reloads", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as data:
        server = Server(told.model, told.engine, Path(data))
        try:
            if told.rounds:
                report = rounds(server, told.rounds)
            else:
                report = asyncio.run(run(server, told.users, told.minutes, told.reloads))
        finally:
            server.close()
    print(json.dumps(report, ensure_ascii=False))
    return int(bool({"HUNG", "MIXED UP", "broke off"} & report.get("ends", {}).keys() or report.get("stuck")))


if __name__ == "__main__":
    sys.exit(main())
