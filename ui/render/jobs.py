"""Jobs as cards: one overall bar, a bar per step, what happens now and why, how it ended, what was learned on the way.

Everything is said from a ``JobView``. Knows nothing about gradio, processes or journals.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from backend.errors import CriaError
from backend.jobs.view import JobState, JobView, Sample, StepView
from backend.plan import FETCH, MB
from backend.text import duration, guess, has, say, tell
from backend.units import rate_text
from ui.render.markup import bar, button, esc, problem, remark
from ui.render.remedies import Fix, Means, fix_for, remedy

_NO_MEANS = Means()
RESUMABLE = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED})


def job_title(job: JobView, language: str) -> str:
    """Return what is being made: the recipe's title, with the model's name where that differs."""
    title = job.title.get(language) or job.title.get("en", job.model)
    return title if job.model in {job.recipe, title} else say(language, "setup.job.titled", title=title, name=job.model)


def _step_figures(step: StepView, language: str) -> str:
    """Return one line of numbers: an estimate before; position, speed and time left during; what it took after."""
    if step.state is JobState.DONE:
        measured = say(language, "setup.job.took", seconds=step.seconds, planned=guess(language, step.planned_s))
        if not step.memory:
            return measured
        return f"{measured} · {say(language, 'setup.job.memory', memory=step.memory, planned=step.planned_memory)}"
    if step.state is JobState.RUNNING:
        parts = []
        if step.total:
            parts.append(say(language, "setup.job.position", done=step.done, total=step.total))
        if step.id == FETCH and step.is_stalled:
            return " · ".join([*parts, say(language, "wizard.stalled")])
        if step.bytes_per_s:
            parts.append(rate_text(step.bytes_per_s))
        if step.seconds_left is not None:
            parts.append(say(language, "setup.job.left", what=duration(language, step.seconds_left)))
        return " · ".join(parts) or say(language, "setup.job.starting")
    return say(language, "setup.job.estimate", time=guess(language, step.planned_s), memory=step.planned_memory)


def _step_bar(step: StepView, title: str) -> str:
    if step.state is JobState.DONE:
        return bar(title, 1.0, kind="done")
    if step.state is JobState.RUNNING:
        return bar(title, step.done / step.total if step.done and step.total else None, kind="running")
    return bar(title, step.done / step.total if step.total else 0.0, kind="idle")


def _now(job: JobView, language: str, admin: bool) -> str:
    """Return what happens at this moment and why, in plain words; two steps may run at once."""
    running = [step for step in job.steps if step.state is JobState.RUNNING] if job.state is JobState.RUNNING else []
    said = [tell(language, step.note) for step in running if step.note and admin]
    if running and has(key := f"setup.why.{running[-1].id}"):
        said.append(say(language, key))
    return "".join(f"<p>{esc(text)}</p>" for text in said)


def _files(step: StepView, language: str) -> str:
    """Return a bar for every file on its way, folded away: most people look at the whole."""
    if not step.files:
        return ""
    rows = "".join(
        f"<li><span>{esc(file.name)}</span>"
        f"<span>{esc(say(language, 'fetchui.file_position', done=file.done, total=file.total))}</span>"
        f"{bar(file.name, file.done / file.total if file.total else None)}</li>"
        for file in step.files
    )
    words = esc(say(language, "fetchui.files"))
    return f'<details data-keep="{esc(step.id)}"><summary>{words}</summary><ul class="files">{rows}</ul></details>'


def _step(step: StepView, language: str, admin: bool) -> str:
    title, running = tell(language, step.title), step.state is JobState.RUNNING
    state = say(language, f"setup.state.{step.state}")
    current = ' aria-current="step"' if running else ""
    return (
        f'<li class="step {step.state}"{current}><span class="dot" role="img" aria-label="{esc(state)}"></span>'
        f'<div><p class="step-title">{esc(title)}</p>{_step_bar(step, title)}'
        f'<p class="figures">{esc(_step_figures(step, language))}</p>'
        f"{_files(step, language) if admin else ''}</div></li>"
    )


def _status(job: JobView, language: str) -> str:
    """Return the sentence under the title; a screen reader hears it whenever it changes, which is once a step."""
    running = next((step for step in job.steps if step.state is JobState.RUNNING), None)
    if job.state is JobState.RUNNING and running is not None:
        number = job.steps.index(running) + 1
        return say(
            language, "setup.job.step_of", number=number, count=len(job.steps), title=tell(language, running.title)
        )
    how = ""
    if job.state is JobState.DONE and (job.sample is None or not job.sample.stopped):
        how = "_untried" if job.sample is None else "_runs_on"
    return say(language, f"setup.job.is.{job.state}{how}", name=job.model, seconds=job.seconds)


def _times(job: JobView, language: str) -> str:
    parts = [] if job.state is JobState.DONE else [say(language, "setup.job.elapsed", seconds=job.seconds)]
    if job.seconds_left is not None:
        parts.append(say(language, "setup.job.about_left", seconds=job.seconds_left))
    if job.peak_memory:
        parts.append(say(language, "setup.job.peak", memory=job.peak_memory))
    return " · ".join(parts)


def _log(job: JobView, language: str) -> str:
    if not job.log:
        return ""
    told = dict.fromkeys(tell(language, line) for line in job.log)  # a server is named once, whatever comes from it
    lines = "".join(f"<li>{esc(line)}</li>" for line in told)
    heading = esc(say(language, "setup.job.log"))
    return f'<section class="log"><h4>{heading}</h4><ul tabindex="0" aria-label="{heading}">{lines}</ul></section>'


def _sample(sample: Sample | None, language: str) -> str:
    if sample is None:
        return ""
    verdict = say(language, "setup.job.stopped" if sample.stopped else "setup.job.not_stopped")
    cause = remark(tell(language, sample.cause), kind="warn") if sample.cause else ""
    return (
        f'<section class="sample"><h4>{esc(say(language, "setup.job.sample"))}</h4>'
        f'<p class="asked">{esc(sample.question)}</p><p class="answered">{esc(sample.answer)}</p>'
        f'<p class="figures">{esc(verdict)}</p>{cause}</section>'
    )


def _ending(job: JobView, language: str, see: "See") -> str:
    """Return what a stopped job has to say: the error with its way out, or that nothing is lost."""
    if job.error is not None and job.state is JobState.FAILED:
        if not see.admin:
            return problem(CriaError("ui.for_admins"), language)
        return problem(job.error, language) + remedy(job.error, job.id, language, see.means)
    if job.state in RESUMABLE:
        return remark(say(language, "setup.job.kept", bytes=job.leftover_bytes + see.stored), kind="warn")
    return ""


def _delete(job: JobView, language: str, stored: int = 0) -> str:
    key = "setup.job.forget_sure" if job.state is JobState.DONE else "setup.job.delete_sure"
    if stored:
        key = "setup.job.delete_sure_downloads"
    title, size, downloads = job_title(job, language), job.leftover_bytes, say(language, "fetchui.list")
    confirm = say(language, key, title=title, bytes=size, downloads=stored, list=downloads)
    words = say(language, "setup.job.delete_size" if size >= MB else "setup.job.delete", bytes=size)
    return button(words, "delete", job.id, confirm=confirm)


def _acts(job: JobView, language: str, see: "See") -> str:
    if job.state.is_active:
        sure = say(language, "wizard.cancel_sure", title=job_title(job, language))
        pause = button(say(language, "setup.job.cancel"), "pause", job.id)
        return pause + button(say(language, "wizard.cancel"), "cancel", job.id, confirm=sure)
    if job.state in RESUMABLE:
        mended = job.error is not None and job.state is JobState.FAILED
        word = "setup.job.again" if mended else "setup.job.resume"
        again = button(say(language, word), "resume", job.id, primary=not mended)
        if job.error is not None and mended and fix_for(job.error, see.means) is Fix.RETRY:
            again = ""  # the button below the error does just that
        return again + _delete(job, language, see.stored)
    another = button(say(language, "setup.job.another"), "stage", "choose")
    return (button(say(language, "setup.job.chat"), "chat", job.model, primary=True) if see.on_shelf else "") + another


def _steps(job: JobView, language: str, admin: bool) -> str:
    """Return the steps with their bars, and what was found on the way; folded away once all is done."""
    steps = "".join(_step(step, language, admin) for step in job.steps)
    every = f'<ol class="steps">{steps}</ol>{_log(job, language) if admin else ""}'
    if job.state is not JobState.DONE:
        return every
    words = esc(say(language, "wizard.what_was_done"))
    return f'<details data-keep="done-{esc(job.id)}"><summary>{words}</summary>{every}</details>'


@dataclass(frozen=True)
class See:
    """Who looks at a job, and what is so on this machine besides. ``admin``: may steer it and read what names files of
    this machine; ``on_shelf``: the model it made is (still) there; ``stored``: bytes of its downloads on the disk;
    ``loads``: how the model would be loaded, in words.
    """

    admin: bool
    on_shelf: bool = True
    stored: int = 0
    means: Means = _NO_MEANS
    loads: str = ""


def job_card(job: JobView, language: str, see: See) -> str:
    """Return one job as HTML. Its elements keep their places from one state to the next, so that bars move smoothly."""
    title, percent = job_title(job, language), int(100 * job.fraction)
    acts = _acts(job, language, see) if see.admin else ""
    loads = see.loads if job.state is JobState.DONE and see.on_shelf else ""
    return (
        f'<article class="job {job.state}" data-job="{esc(job.id)}" data-state="{job.state}">'
        f'<header><h3>{esc(title)}</h3><span class="percent">{percent} %</span></header>'
        f"{bar(title, job.fraction, kind='whole')}"
        f'<p class="status" role="status">{esc(_status(job, language))}</p>'
        f'<div class="now">{_now(job, language, see.admin)}</div>'
        f'<p class="figures">{esc(_times(job, language))}</p>'
        f'<div class="ending">{_ending(job, language, see)}{_sample(job.sample, language)}</div>'
        f'<p class="loads">{esc(loads)}</p><div class="acts">{acts}</div>{_steps(job, language, see.admin)}</article>'
    )


def jobs_banner(jobs: Sequence[JobView], language: str) -> str:
    """Return one line for every set-up that runs, and one for the newest if it stopped before its end, with the way to
    it; nothing otherwise.
    """
    lines = []
    for number, job in enumerate(jobs):
        title = job_title(job, language)
        if job.state.is_active:
            text = say(language, "setup.job.banner", title=title, percent=int(100 * job.fraction))
        elif job.state in RESUMABLE and not number:
            text = say(language, "wizard.stopped", title=title, state=say(language, f"setup.state.{job.state}"))
        else:
            continue
        show = button(say(language, "setup.job.show"), "show", job.id)
        lines.append(f'<p class="banner"><span>{esc(text)}</span>{show}</p>')
    return "".join(lines)


def _line(job: JobView, language: str, admin: bool) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started)) if job.started else ""
    parts = [part for part in (when, say(language, f"setup.state.{job.state}")) if part]
    if job.seconds:
        parts.append(duration(language, job.seconds))
    if job.leftover_bytes:
        parts.append(say(language, "setup.job.leftovers", bytes=job.leftover_bytes))
    acts = button(say(language, "setup.job.show"), "show", job.id)
    if admin and not job.state.is_active:
        acts += _delete(job, language)
    return (
        f'<li data-job="{esc(job.id)}"><div><p>{esc(job_title(job, language))}</p>'
        f'<p class="figures">{esc(" · ".join(parts))}</p></div><div class="acts">{acts}</div></li>'
    )


def _damaged(job: str, size: int, language: str) -> str:
    confirm = say(language, "fetchui.damaged_sure", job=job, bytes=size)
    delete = button(say(language, "fetchui.delete", bytes=size), "delete", job, confirm=confirm)
    text = esc(say(language, "fetchui.damaged", job=job))
    return f'<li data-job="{esc(job)}"><div><p>{text}</p></div><div class="acts">{delete}</div></li>'


def jobs_list(
    jobs: Sequence[JobView], language: str, *, admin: bool, damaged: Mapping[str, int] = MappingProxyType({})
) -> str:
    """Return all jobs as HTML, newest first, one line each; Delete only for somebody who may press it.

    ``damaged``: id -> bytes of those that cannot be read, for administrators.
    """
    lines = [_line(job, language, admin) for job in jobs]
    lines += [_damaged(job, size, language) for job, size in damaged.items()] if admin else []
    if not lines:
        return f'<p class="figures">{esc(say(language, "setup.job.none"))}</p>'
    return f'<ul class="jobs">{"".join(lines)}</ul>'
