"""What can be made to go wrong: rules that change the answers to some requests. Knows nothing about sockets.

A rule picks requests by method, path and kind of answer, and of those the ``first`` one and ``times`` in all (0: all
from then on). Its fault turns the correct answer into the wrong one. Rules that pick the same request add up.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from email.utils import formatdate
from fnmatch import fnmatchcase
from threading import Lock
from time import time

from tests.hub.answer import Answer, Request, as_file, whole
from tests.hub.content import Flipped, Joined, Literal, packed

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_PAGE = b"<!DOCTYPE html><html><head><title>Sign in to the network</title></head><body>Please sign in.</body></html>\n"
_ANY, _FILE = "*", "file"


def amount(text: str) -> int:
    """Return a number of bytes written as 500, 20MB, 64KiB or 1.5GB/s.

    Raises:
        ValueError: it is written otherwise.
    """
    match = re.fullmatch(r"([\d.]+) ?([kmg]?i?b?)(?:/s)?", text.lower())
    if not match or (unit := match[2].rstrip("b") + "b" if match[2] else "") not in {*_UNITS, "b"}:
        raise ValueError(f"no number of bytes: {text}")
    return round(float(match[1]) * _UNITS.get(unit, 1))


@dataclass
class Rule:
    """One fault and the requests that it happens to; ``FAULTS`` says what ``value`` means. ``seen`` counts requests."""

    fault: str
    value: str = ""
    path: str = "*"
    method: str = "GET"
    kind: str = ""
    first: int = 1
    times: int = 1
    after: int = 0  # bytes of the answer that arrive before it happens
    at: int | None = None  # instead: byte of the file; only answers that have it are picked
    retry_after: str = ""  # seconds, or ``date:`` and seconds from now
    seen: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise ValueError(f"no fault of that name: {self.fault} (there are: {', '.join(FAULTS)})")
        self.kind = self.kind or (_ANY if self.fault in ("drop", "wait", "status", "gated") else _FILE)

    def until(self, answer: Answer) -> int:
        """Return how many bytes of an answer arrive before the fault happens."""
        return self.after if self.at is None else self.at - answer.start

    @property
    def happened(self) -> bool:
        """Tell whether it came to that."""
        return self.seen >= self.first

    def picks(self, request: Request, answer: Answer) -> bool:
        """Tell whether the fault happens to this request; counts it if it is one of the rule's."""
        about = any(fnmatchcase(name, self.path) for name in (request.target, request.path))
        kinds = any(fnmatchcase(answer.kind, kind) for kind in self.kind.split(","))
        there = self.at is None or answer.start <= self.at < answer.stop
        if not (about and kinds and there and fnmatchcase(request.method, self.method)):
            return False
        self.seen += 1
        return self.first <= self.seen and (not self.times or self.seen < self.first + self.times)


def parse(text: str) -> Rule:
    """Read a rule as the command line has it: ``cut after=1MB times=2 path=*.bin`` or ``status=429 retry-after=3``.

    Raises:
        ValueError: there is no such fault or field, or a number is none.
    """
    start, *rest = shlex.split(text)
    fault, _, value = start.partition("=")
    given: dict[str, str | int] = {}
    known = {entry.name for entry in fields(Rule) if entry.init} - {"fault", "value"}
    for word in rest:
        key, _, setting = word.partition("=")
        key = key.replace("-", "_")
        if key not in known:
            raise ValueError(f"a rule has no {key} (it has: {', '.join(sorted(known))})")
        given[key] = amount(setting) if key in ("first", "times", "after", "at") else setting
    return Rule(fault, value, **given)  # type: ignore[arg-type]


class Injector:
    """The rules of a server, asked about every answer."""

    def __init__(self, rules: list[Rule]) -> None:
        self._rules, self._lock = rules, Lock()

    def spoil(self, request: Request, answer: Answer) -> tuple[Answer, tuple[str, ...]]:
        """Return the answer as the rules have it, and the names of the faults that happened."""
        with self._lock:
            picked = [rule for rule in self._rules if rule.picks(request, answer)]
        for rule in picked:
            answer = FAULTS[rule.fault](rule, request, answer)
        return answer, tuple(rule.fault for rule in picked)


# --- the faults -------------------------------------------------------------------------------------------------------


def _cut(rule: Rule, request: Request, answer: Answer) -> Answer:
    return replace(answer, until=rule.until(answer), ending="cut")


def _reset(rule: Rule, request: Request, answer: Answer) -> Answer:
    return replace(answer, until=rule.until(answer), ending="reset")


def _drop(rule: Rule, request: Request, answer: Answer) -> Answer:
    return replace(answer, status=0)


def _wait(rule: Rule, request: Request, answer: Answer) -> Answer:
    return replace(answer, wait=float(rule.value or 1))


def _stall(rule: Rule, request: Request, answer: Answer) -> Answer:
    return replace(answer, until=rule.until(answer), ending="stall", pause=float(rule.value or 3600))


def _slow(rule: Rule, request: Request, answer: Answer) -> Answer:
    return replace(answer, rate=float(amount(rule.value or "1kB")))


def _flip(rule: Rule, request: Request, answer: Answer) -> Answer:
    return replace(answer, body=Flipped(answer.body, amount(rule.value or str(rule.at or 0))))


def _other(rule: Rule, request: Request, answer: Answer) -> Answer:
    """Bytes of another version of the same length, under the ETag of the true one."""
    return replace(answer, body=Flipped(answer.body))


def _changed(rule: Rule, request: Request, answer: Answer) -> Answer:
    """Bytes of another version, honestly under another ETag; a condition on the old one is not met."""
    kept = {key: value for key, value in answer.headers.items() if key.startswith("X-")}
    return as_file(request, Flipped(answer.body), '"changed"', kept)


def _html(rule: Rule, request: Request, answer: Answer) -> Answer:
    """A page in place of the file: of its length (``right``), or of its own."""
    length = answer.stop - answer.start if rule.value == "right" else len(_PAGE)
    page = whole(answer.kind, answer.status if rule.value == "right" else 200, (_PAGE + b" " * length)[:length])
    kept = answer.headers if rule.value == "right" else {}
    return page.having({**kept, "Content-Type": "text/html; charset=utf-8"})


def _body(rule: Rule, request: Request, answer: Answer) -> Answer:
    """Whatever a hostile server may say, in place of what was asked for."""
    return answer.having(body=Literal(rule.value.encode()), start=0, stop=len(rule.value.encode()))


def _header(rule: Rule, request: Request, answer: Answer) -> Answer:
    """A header with another value: ``Name: value``; no value leaves it out."""
    name, _, value = rule.value.partition(":")
    return answer.having({name: value.strip()})


def _length(rule: Rule, request: Request, answer: Answer) -> Answer:
    return replace(answer, declared=int(rule.value or "1000"))


def _no_length(rule: Rule, request: Request, answer: Answer) -> Answer:
    cut = {"until": rule.until(answer), "ending": "cut"} if rule.until(answer) else {}
    return answer.having({"Content-Length": "", "Connection": "close"}, **cut)


def _longer(rule: Rule, request: Request, answer: Answer) -> Answer:
    more = amount(rule.value or "1000")
    return replace(answer, body=Joined(answer.body, Literal(bytes(more))), stop=answer.stop + more)


def _ignore_range(rule: Rule, request: Request, answer: Answer) -> Answer:
    headers = {key: value for key, value in answer.headers.items() if key != "Content-Range"}
    return replace(answer, status=200, headers=headers, start=0, stop=answer.body.size)


def _wrong_range(rule: Rule, request: Request, answer: Answer) -> Answer:
    """Another part than was asked for (``start``: it begins later, ``end``: it ends sooner), or a wrong ``total``."""
    if answer.status != 206:
        return answer
    start = answer.start + 1 if rule.value in ("", "start") else answer.start
    stop = max(answer.stop - 1, start + 1) if rule.value == "end" else answer.stop
    total = answer.body.size + (rule.value == "total")
    return answer.having({"Content-Range": f"bytes {start}-{stop - 1}/{total}"}, start=start, stop=stop)


def _status(rule: Rule, request: Request, answer: Answer) -> Answer:
    headers = {"Content-Type": "text/plain"}
    if rule.retry_after:
        form, _, seconds = rule.retry_after.rpartition(":")
        # A date has whole seconds; one more, so that the wait is at least what was said.
        headers["Retry-After"] = formatdate(time() + float(seconds) + 1, usegmt=True) if form == "date" else seconds
    if rule.value == "416":
        headers["Content-Range"] = f"bytes */{answer.body.size}"
    return whole(answer.kind, int(rule.value), f"stand-in says {rule.value}\n".encode(), headers)


def _redirect(rule: Rule, request: Request, answer: Answer) -> Answer:
    """Elsewhere: to the same address for ever (``loop``), or to the address given, ``*`` standing for the target."""
    target = request.target if rule.value == "loop" else rule.value.replace("*", request.target)
    kept = {key: value for key, value in answer.headers.items() if key.startswith("X-") or key == "ETag"}
    return whole(answer.kind, 302, headers={**kept, "Location": target})


def _gzip(rule: Rule, request: Request, answer: Answer) -> Answer:
    body = packed(answer.body, answer.start, answer.stop)
    return answer.having({"Content-Encoding": "gzip"}, body=body, start=0, stop=body.size)


def _gated(rule: Rule, request: Request, answer: Answer) -> Answer:
    headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}
    return whole("none", int(rule.value or 403), b"", headers)


def _same(rule: Rule, request: Request, answer: Answer) -> Answer:
    return answer


Fault = Callable[[Rule, Request, Answer], Answer]
FAULTS: Mapping[str, Fault] = {
    "cut": _cut,
    "reset": _reset,
    "drop": _drop,
    "wait": _wait,
    "stall": _stall,
    "slow": _slow,
    "flip": _flip,
    "other": _other,
    "changed": _changed,
    "html": _html,
    "body": _body,
    "header": _header,
    "length": _length,
    "no-length": _no_length,
    "longer": _longer,
    "ignore-range": _ignore_range,
    "wrong-range": _wrong_range,
    "status": _status,
    "redirect": _redirect,
    "gzip": _gzip,
    "gated": _gated,
    "move": _same,  # the server's own: the revision moves, this answer is still right
}
