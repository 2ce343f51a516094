"""Job cards: bars, words and buttons for every state a job can be in."""

from dataclasses import replace

import pytest

from backend.errors import JobError, SourceError
from backend.jobs.view import JobState, JobView, Sample, StepView
from backend.text import LANGUAGES, Message
from tests.ui.render.reading import Page
from ui.render.jobs import See, job_card, jobs_banner, jobs_list
from ui.render.remedies import Means

MB = 1_000_000
FETCH = StepView(
    "fetch", Message("steps.fetch"), JobState.DONE, 9 * MB, 9 * MB, seconds=1.5, planned_s=0.2, planned_memory=120 * MB,
    memory=90 * MB,
)  # fmt: skip
MERGE = StepView(
    "merge", Message("steps.merge_delta"), JobState.RUNNING, 5 * MB, 20 * MB, bytes_per_s=2.5e6, seconds_left=6.0,
    note=Message("sources.reading", {"file": "<x>.pth"}), planned_s=12, planned_memory=450 * MB,
)  # fmt: skip
TRY = StepView("try", Message("steps.try"), JobState.QUEUED, planned_s=12, planned_memory=800 * MB)
RUNNING = JobView(
    "20260101-000000-demo-ab12", "demo", {"en": "Demo", "zh-TW": "示範"}, "demo", JobState.RUNNING, (FETCH, MERGE, TRY),
    fraction=0.374, seconds=3.0, seconds_left=18.0, started=1_767_225_600.0, peak_memory=90 * MB,
)  # fmt: skip
ENDED = {
    state: replace(RUNNING, state=state, steps=(FETCH, replace(MERGE, state=state), TRY), seconds_left=None,
                   leftover_bytes=4 * MB)
    for state in (JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED)
}  # fmt: skip
DONE = replace(
    RUNNING, state=JobState.DONE, steps=tuple(replace(step, state=JobState.DONE) for step in RUNNING.steps),
    fraction=1.0, sample=Sample("Hello!", "Hi, <b>you</b>!", stopped=True), seconds_left=None,
)  # fmt: skip


def draw(job: JobView, language: str = "en", *, admin: bool = True, on_shelf: bool = True) -> Page:
    return Page(job_card(job, language, See(admin, on_shelf)))


def test_one_bar_for_the_whole_and_one_a_step() -> None:
    bars = [(one["aria-label"], one["aria-valuenow"]) for one in draw(RUNNING).all(role="progressbar")]
    assert [now for _, now in bars] == ["37", "100", "25", "0"]
    assert bars[0][0] == "Demo"
    assert draw(RUNNING).one(cls="percent").text == "37 %"


def test_a_running_step_shows_bytes_speed_time_left_and_what_happens_why() -> None:
    page = draw(RUNNING)
    assert page.one(role="status").text == "Step 2 of 3: Convert and apply the delta, in one pass"
    figures = [one.text for one in page.all("p", cls="figures")]
    assert figures[0] == "3.0 s so far · about 18 s left · Peak memory 90.0 MB"
    assert figures[1] == "Took 1.5 s (estimate: a moment) · memory 90.0 MB (estimate: 120 MB)"
    assert figures[2] == "5.0 MB of 20.0 MB · 2.5 MB/s · 6.0 s left"
    assert figures[3] == "Estimate: about 12 s, 800 MB of memory"
    assert page.one(cls="now").text.startswith("Reading <x>.pthAll parts are joined in one pass")
    assert page.one(aria_current="step").text.startswith("Convert and apply")


def test_a_download_that_stands_still_says_so_and_promises_no_time() -> None:
    still = replace(FETCH, state=JobState.RUNNING, done=5 * MB, total=20 * MB, bytes_per_s=0.4, seconds_left=None)
    figures = draw(replace(RUNNING, steps=(still, MERGE, TRY), seconds_left=None)).all("p", cls="figures")
    assert figures[1].text == "5.0 MB of 20.0 MB · nothing is arriving just now; Cria keeps asking"


def test_a_step_that_does_not_know_its_length_has_a_bar_without_a_position() -> None:
    job = replace(RUNNING, steps=(FETCH, replace(MERGE, done=0, total=0, bytes_per_s=None, seconds_left=None), TRY))
    assert "aria-valuenow" not in draw(job).all(role="progressbar")[2].attributes
    assert "Starting" in [one.text for one in draw(job).all("p", cls="figures")]


@pytest.mark.parametrize(
    ("job", "acts"),
    [
        (RUNNING, ["pause", "cancel"]),
        (replace(RUNNING, state=JobState.QUEUED), ["pause", "cancel"]),
        (replace(ENDED[JobState.FAILED], error=JobError("job.memory")), ["resume", "delete"]),
        (replace(ENDED[JobState.FAILED], error=SourceError("sources.missing")), ["mend", "resume", "delete"]),
        (ENDED[JobState.CANCELLED], ["resume", "delete"]),
        (ENDED[JobState.INTERRUPTED], ["resume", "delete"]),
        (DONE, ["chat", "stage"]),
    ],
)
def test_buttons_fit_the_state_and_strangers_get_none(job: JobView, acts: list[str]) -> None:
    assert [act for act, _ in draw(job).acts()] == acts
    assert draw(job, admin=False).acts() == []
    assert len(draw(job).all("button", cls="primary")) == (0 if acts[0] == "pause" else 1)


def test_deleting_asks_first_and_says_how_much() -> None:
    asked = draw(ENDED[JobState.CANCELLED]).one("button", data_do="delete")["data-confirm"]
    assert "Demo" in asked
    assert "4.0 MB" in asked


def test_a_failure_shows_its_message_and_way_out_and_the_one_button_that_helps() -> None:
    error = SourceError("sources.checksum", file="<i>", source="/raw", want="aa", have="bb")
    page = draw(replace(ENDED[JobState.FAILED], error=error))
    assert page.one(role="alert").text.startswith("<i> in /raw is damaged")
    assert "Get this file again" in page.one(role="alert").text
    assert page.one("button", cls="primary").text == "Take a part from elsewhere"
    assert not page.all("i", style="")


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.INTERRUPTED])
def test_a_stopped_job_says_that_nothing_is_lost(state: JobState) -> None:
    assert "kept (4.0 MB on disk" in draw(ENDED[state]).one(role="note").text


def test_the_end_shows_what_the_model_said_and_one_way_on() -> None:
    page = draw(DONE)
    assert page.one("p", cls="asked").text == "Hello!"
    assert page.one("p", cls="answered").text == "Hi, <b>you</b>!"
    assert page.acts()[0] == ("chat", "demo")
    assert page.one(role="status").text.startswith("Ready: demo")


def test_ready_says_no_more_than_was_seen() -> None:
    def said(sample: Sample | None) -> str:
        return draw(replace(DONE, sample=sample)).one(role="status").text

    runs_on = Sample("a", "b", stopped=False)
    assert "checked and tried out" in said(DONE.sample)
    assert "did not answer and stop by itself" in said(runs_on)
    assert "was not tried out" in said(None)
    cause = Message("finish.cause.base_model", {"template": "<b>plain"})
    shown = draw(replace(DONE, sample=replace(runs_on, cause=cause))).one(cls="sample").text
    assert "did not stop by itself" in shown
    assert "No template marks where a turn ends (<b>plain)" in shown


def test_strangers_read_no_error_no_log_and_no_file_names() -> None:
    error = SourceError("sources.checksum", file="x", source="/home/ann/raw", want="aa", have="bb")
    log = (Message("sources.checked", {"source": "/home/ann/raw", "count": 2}),)
    note = replace(MERGE, note=Message("sources.reading", {"file": "/home/ann/raw/x.pth"}))
    for job in (replace(ENDED[JobState.FAILED], error=error, log=log), replace(RUNNING, log=log, steps=(FETCH, note))):
        assert "/home/ann" in job_card(job, "en", See(admin=True))
        assert "/home" not in job_card(job, "en", See(admin=False))
    assert "administrator" in draw(replace(ENDED[JobState.FAILED], error=error), admin=False).one(role="alert").text


def test_a_model_that_was_deleted_since_is_not_offered_for_a_chat() -> None:
    assert draw(DONE, on_shelf=False).acts() == [("stage", "choose")]


def test_findings_are_listed_in_order() -> None:
    lines = (Message("sources.checked", {"source": "a&b", "count": 2}), Message("sources.reading", {"file": "c"}))
    page = Page(job_card(replace(RUNNING, log=lines), "en", See(admin=True)))
    assert [one.text for one in page.all("li") if not one.attributes] == [
        "a&b: all 2 files match their checklist.",
        "Reading c",
    ]


def test_another_name_than_the_recipes_is_part_of_the_title() -> None:
    assert draw(replace(RUNNING, model="demo-2")).one("h3").text == "Demo → demo-2"


def test_the_banner_names_what_runs_and_the_newest_if_it_stopped() -> None:
    page = Page(jobs_banner([DONE, RUNNING, ENDED[JobState.FAILED]], "en"))
    assert page.one("p").text == "Demo: 37 % doneShow"
    assert page.acts() == [("show", RUNNING.id)]
    assert jobs_banner([DONE], "en") == ""
    stopped = Page(jobs_banner([ENDED[JobState.FAILED], ENDED[JobState.CANCELLED]], "en"))
    assert stopped.one("p").text == '"Demo" stopped before it was ready (Failed).Show'


def test_how_a_finished_model_will_be_loaded_is_said_where_it_is_there() -> None:
    see = See(admin=True, loads="In 8-bit.")
    assert Page(job_card(DONE, "en", see)).one("p", cls="loads").text == "In 8-bit."
    assert Page(job_card(DONE, "en", replace(see, on_shelf=False))).one("p", cls="loads").text == ""
    assert Page(job_card(RUNNING, "en", see)).one("p", cls="loads").text == ""


def test_a_full_disk_offers_what_can_be_freed() -> None:
    full = replace(ENDED[JobState.FAILED], error=SourceError("download.disk_full"))
    page = Page(job_card(full, "en", See(admin=True, means=Means(unused_bytes=5_000_000))))
    assert page.one("button", cls="primary").text == "Delete unused downloads (5.0 MB) and go on"
    assert [act for act, _ in page.acts()] == ["resume-free", "resume", "delete"]


def test_the_list_shows_leftovers_and_deletes_only_what_does_not_run() -> None:
    jobs = [RUNNING, ENDED[JobState.CANCELLED], DONE]
    page = Page(jobs_list(jobs, "en", admin=True))
    assert [act for act, _ in page.acts()] == ["show", "show", "delete", "show", "delete"]
    assert "4.0 MB unfinished" in page.all("li")[1].text
    assert "unfinished" not in page.all("li")[2].text
    assert {act for act, _ in Page(jobs_list(jobs, "en", admin=False)).acts()} == {"show"}
    assert "No model has been set up" in Page(jobs_list([], "en", admin=True)).one("p").text


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_state_is_drawn_in_every_language_without_holes(language: str) -> None:
    for job in (RUNNING, replace(RUNNING, state=JobState.QUEUED), *ENDED.values(), DONE):
        text = " ".join(one.text for one in draw(job, language).every[:1])
        assert "setup." not in text
        assert "{" not in text
