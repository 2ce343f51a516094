"""A job drawn in a terminal: one line that redraws itself, or plain lines when nobody watches.

Knows nothing about what a job does. Everything goes to stderr, so that stdout stays for results.
"""

import shutil
import sys
import unicodedata
from typing import TextIO

from backend.jobs.view import JobState, JobView, StepView
from backend.text import say, tell

_BAR = 24


def width(text: str) -> int:
    """Return how many terminal columns a text takes; Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def clip(text: str, columns: int) -> str:
    """Return the longest head of ``text`` that fits into ``columns``."""
    used = 0
    for index, char in enumerate(text):
        used += width(char)
        if used > columns:
            return text[:index]
    return text


def bar(fraction: float) -> str:
    """Return a bar of fixed width for a fraction between 0 and 1."""
    full = round(max(0.0, min(1.0, fraction)) * _BAR)
    return "[" + "#" * full + "." * (_BAR - full) + "]"


def step_line(step: StepView, language: str) -> str:
    """Return one step as a line: title, bytes, speed, time left."""
    title = tell(language, step.title)
    if step.state is JobState.DONE:
        return say(language, "cli.step_done", title=title, seconds=step.seconds, memory=step.memory or None)
    if not step.total:
        return title
    return say(language, "cli.step_running", title=title, done=step.done, total=step.total, rate=step.bytes_per_s,
               left=step.seconds_left)  # fmt: skip


class JobPrinter:
    """Shows successive views of one job. Feed it views; it prints only what is new."""

    def __init__(self, language: str, *, out: TextIO = sys.stderr) -> None:
        self._language, self._out = language, out
        self._live = out.isatty()
        self._logged, self._done, self._open = 0, set[str](), False

    def show(self, view: JobView) -> None:
        """Print what changed since the last view."""
        for step in view.steps:
            if step.state is JobState.DONE and step.id not in self._done:
                self._done.add(step.id)
                self._line(step_line(step, self._language))
        for message in view.log[self._logged :]:
            self._line("  " + tell(self._language, message))
        self._logged = len(view.log)
        running = next((step for step in view.steps if step.state is JobState.RUNNING), None)
        if self._live and running is not None:
            self._redraw(f"{bar(view.fraction)} {view.fraction:4.0%}  {step_line(running, self._language)}")

    def close(self) -> None:
        """Leave the cursor on a line of its own."""
        self._clear()

    def _clear(self) -> None:
        if self._open:
            self._out.write("\r\x1b[K")
            self._open = False

    def _line(self, text: str) -> None:
        self._clear()
        self._out.write(text + "\n")
        self._out.flush()

    def _redraw(self, text: str) -> None:
        columns = shutil.get_terminal_size().columns - 1
        self._out.write("\r" + clip(text, columns) + "\x1b[K")
        self._out.flush()
        self._open = True
