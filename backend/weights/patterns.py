"""Matching module paths against the regular expressions of an adapter's settings, in bounded time.

PEFT hands such patterns to ``re``, where a hostile one runs for ever. Here the usual part of the syntax is parsed into
a tree and every position is tried once: letters, digits, ``_ - /``, ``.``, escapes, ``\\d \\w``, character classes,
groups, ``|``, ``* + ?``, ``^ $``. Anything else is refused. Knows nothing about adapters.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_MAX_PATTERN, _MAX_PATH, _MAX_DEPTH = 200, 150, 3
_LITERAL = re.compile(r"[A-Za-z0-9_/-]")
_PLAIN = re.compile(r"[A-Za-z0-9_/.-]+")  # one letter each, a dot being any: what nearly all patterns are
_CLASS = re.compile(
    r"\[(\^?)((?:[A-Za-z0-9_.-]|\\[dw.-])+)\]"
)  # no nesting: safe to hand to ``re`` one letter at a time

# From a path and the positions where matching may start to those where it may end.
Ends = Callable[[str, frozenset[int]], frozenset[int]]


class UnsupportedPattern(ValueError):
    """The pattern uses syntax that is not matched here."""


@dataclass(frozen=True)
class Pattern:
    """A pattern ready to match."""

    text: str
    ends: Ends
    plain: bool

    def matches_tail(self, path: str) -> bool:
        """Tell whether the pattern matches all of a dotted path, or all after one of its dots: PEFT's
        ``(.*\\.)?(pattern)$``.
        """
        if self.plain:
            start = len(path) - len(self.text)
            return (start == 0 or (start > 0 and path[start - 1] == ".")) and all(
                wanted in (found, ".") for wanted, found in zip(self.text, path[start:], strict=True)
            )
        starts = frozenset({0} | {at + 1 for at, letter in enumerate(path) if letter == "."})
        return len(path) <= _MAX_PATH and len(path) in self.ends(path, starts)


def parse_pattern(text: str) -> Pattern:
    """Return a pattern ready to match.

    Raises:
        UnsupportedPattern: too long, nested too deeply, or syntax that is not known here.
    """
    if not 0 < len(text) <= _MAX_PATTERN:
        raise UnsupportedPattern(text[:60])
    ends, at = _choice(text, 0, 0)
    if at != len(text):
        raise UnsupportedPattern(text[at:][:60])
    return Pattern(text, ends, _PLAIN.fullmatch(text) is not None)


def _choice(text: str, at: int, depth: int) -> tuple[Ends, int]:
    """Parse branches separated by ``|``, up to a closing bracket or the end."""
    branches = []
    while True:
        branch, at = _sequence(text, at, depth)
        branches.append(branch)
        if text[at : at + 1] != "|":
            return (branches[0] if len(branches) == 1 else _any_of(branches)), at
        at += 1


def _sequence(text: str, at: int, depth: int) -> tuple[Ends, int]:
    steps: list[Ends] = []
    while at < len(text) and text[at] not in "|)":
        step, at = _atom(text, at, depth)
        mark = text[at : at + 1]
        if mark and mark in "*+?":
            step, at = _repeated(step, mark), at + 1
            if text[at : at + 1] == "?":  # a lazy repeat finds the same ends
                at += 1
        steps.append(step)
    return _in_turn(steps), at


def _atom(text: str, at: int, depth: int) -> tuple[Ends, int]:
    letter = text[at]
    if letter == "(":
        at += 3 if text.startswith("(?:", at) else 1
        if depth >= _MAX_DEPTH:
            raise UnsupportedPattern(text[at:][:60])
        inner, at = _choice(text, at, depth + 1)
        if text[at : at + 1] != ")":
            raise UnsupportedPattern(text[:60])
        return inner, at + 1
    if letter == "[":
        found = _CLASS.match(text, at)
        if found is None:
            raise UnsupportedPattern(text[at:][:60])
        return _one(_compiled(found.group())), found.end()
    if letter in "^$":
        return (_at_start if letter == "^" else _at_end), at + 1
    if letter == ".":
        return _one(re.compile(".")), at + 1
    if letter == "\\" and text[at + 1 : at + 2] in (".", "d", "w", "-", "_", "/"):
        return _one(re.compile(text[at : at + 2])), at + 2
    if _LITERAL.fullmatch(letter):
        return _one(re.compile(re.escape(letter))), at + 1
    raise UnsupportedPattern(text[at:][:60])


def _compiled(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as problem:  # a range that runs backwards
        raise UnsupportedPattern(text[:60]) from problem


def _one(letter: re.Pattern[str]) -> Ends:
    return lambda path, starts: frozenset(at + 1 for at in starts if at < len(path) and letter.match(path[at]))


def _at_start(_path: str, starts: frozenset[int]) -> frozenset[int]:
    return starts & {0}


def _at_end(path: str, starts: frozenset[int]) -> frozenset[int]:
    return starts & {len(path)}


def _in_turn(steps: Iterable[Ends]) -> Ends:
    ordered = tuple(steps)

    def ends(path: str, starts: frozenset[int]) -> frozenset[int]:
        for step in ordered:
            starts = step(path, starts)
        return starts

    return ends


def _any_of(branches: Iterable[Ends]) -> Ends:
    choices = tuple(branches)
    return lambda path, starts: frozenset().union(*(branch(path, starts) for branch in choices))


def _repeated(step: Ends, mark: str) -> Ends:
    def ends(path: str, starts: frozenset[int]) -> frozenset[int]:
        if mark == "?":
            return starts | step(path, starts)
        found = reached = step(path, starts)
        while reached := step(path, reached) - found:  # every position once: no pattern can take long
            found |= reached
        return found if mark == "+" else starts | found

    return ends
