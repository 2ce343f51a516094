"""A job drawn in a terminal: plain lines for a log, one line that redraws itself for a person."""

import io
from dataclasses import replace

import pytest

from backend.cli.draw import JobPrinter, bar, clip, width
from backend.events import FileProgress
from backend.jobs.view import JobState, JobView, StepView
from backend.text import Message


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def view(step: StepView, *log: str) -> JobView:
    messages = tuple(Message(key, {"name": key}) for key in log)
    return JobView("j", "demo", {"en": "Demo"}, "demo", JobState.RUNNING, (step,), fraction=0.5, log=messages)


RUNNING = StepView("fetch", Message("steps.fetch"), JobState.RUNNING, done=5_000_000, total=10_000_000,
                   bytes_per_s=1e6, seconds_left=5.0)  # fmt: skip
DONE = StepView("fetch", Message("steps.fetch"), JobState.DONE, seconds=3.0, memory=50_000_000)


@pytest.mark.parametrize(("fraction", "full"), [(0.0, 0), (0.5, 12), (1.0, 24), (7.0, 24), (-1.0, 0)])
def test_a_bar_never_leaves_its_frame(fraction: float, full: int) -> None:
    assert bar(fraction).count("#") == full
    assert len(bar(fraction)) == 26


def test_chinese_takes_two_columns() -> None:
    assert width("abc") == 3
    assert width("转换") == 4
    assert clip("转换abc", 5) == "转换a"
    assert clip("转换", 3) == "转"


def test_a_log_gets_each_line_once_and_no_control_characters() -> None:
    out = io.StringIO()
    printer = JobPrinter("en", out=out)
    for shown in (view(RUNNING), view(RUNNING, "plan.exists.say"), view(DONE, "plan.exists.say"), view(DONE)):
        printer.show(shown)
    printer.close()
    text = out.getvalue()
    assert text.count("done  Fetch") == 1
    assert text.count("on the shelf") == 1
    assert "\r" not in text
    assert "50.0 MB" in text


def test_a_person_sees_bytes_speed_and_time_left() -> None:
    out = Terminal()
    printer = JobPrinter("en", out=out)
    printer.show(view(RUNNING))
    printer.close()
    text = out.getvalue()
    assert "5.0 MB of 10.0 MB" in text
    assert "1.0 MB/s" in text
    assert text.endswith("\r\x1b[J")


def test_files_on_their_way_have_lines_of_their_own_that_go_again() -> None:
    out = Terminal()
    printer = JobPrinter("en", out=out)
    files = (FileProgress("a.bin", 1_000_000, 4_000_000), FileProgress("b.bin", 0, 0))
    printer.show(view(replace(RUNNING, files=files)))
    assert "   25%  1.0 MB of 4.0 MB  a.bin\n" in out.getvalue()
    printer.say_once("stopping")
    printer.say_once("stopping")
    printer.show(view(RUNNING))
    assert out.getvalue().count("\r\x1b[2A\x1b[Jstopping\n") == 1
    assert out.getvalue().count("stopping") == 1
