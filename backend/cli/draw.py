"""A job drawn in a terminal: a few lines that redraw themselves, or plain lines when nobody watches.

Knows nothing about what a job does. Everything goes to stderr, so that stdout stays for results.
"""

import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import TextIO

from backend.events import FileProgress
from backend.jobs.view import JobState, JobView, StepView
from backend.text import say, tell

_BAR = 24
_FILES = 6  # at most so many are shown at once


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


def file_line(file: FileProgress, language: str) -> str:
    """Return one file on its way as a line."""
    share = file.done / file.total if file.total else 0.0
    return f"  {share:4.0%}  {say(language, 'fetchui.file_position', done=file.done, total=file.total)}  {file.name}"


class JobPrinter:
    """Shows successive views of one job. Feed it views; it prints only what is new."""

    def __init__(self, language: str, *, out: TextIO = sys.stderr) -> None:
        self._language, self._out = language, out
        self._live = out.isatty()
        self._logged, self._done, self._said = 0, set[str](), set[str]()
        self._open = 0  # lines that are redrawn

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
            first = f"{bar(view.fraction)} {view.fraction:4.0%}  {step_line(running, self._language)}"
            self._redraw([first, *(file_line(file, self._language) for file in running.files[:_FILES])])

    def say_once(self, text: str) -> None:
        """Print a line unless it was printed before."""
        if text not in self._said:
            self._said.add(text)
            self._line(text)

    def close(self) -> None:
        """Leave the cursor on a line of its own."""
        self._clear()

    def _clear(self) -> None:
        self._out.write(self._back())
        self._open = 0

    def _back(self) -> str:
        """Return what takes the cursor to the beginning of the redrawn lines and empties them."""
        up = f"\x1b[{self._open - 1}A" if self._open > 1 else ""
        return f"\r{up}\x1b[J" if self._open else ""

    def _line(self, text: str) -> None:
        self._clear()
        self._out.write(text + "\n")
        self._out.flush()

    def _redraw(self, lines: Sequence[str]) -> None:
        columns = shutil.get_terminal_size().columns - 1
        self._out.write(self._back() + "\n".join(clip(line, columns) for line in lines))
        self._out.flush()
        self._open = len(lines)
