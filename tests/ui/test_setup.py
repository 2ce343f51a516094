"""The Setup tab's events over real jobs and plans: what each button does, for whom, and what stands in its way."""

import asyncio
import errno
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from backend.conversations import Conversations
from backend.engines.base import EngineOptions, EngineState, EngineStatus
from backend.errors import JobError, MachineError, Refused, SourceError
from backend.hardware import Hardware
from backend.jobs.manager import PLAN
from backend.jobs.presence import Presence
from backend.jobs.view import JobState
from backend.recipes import Recipe
from backend.services import Services
from backend.settings import Settings
from backend.sources.access import Access
from tests.ui import acting
from tests.ui.render.reading import Page
from ui.shell import Shell
from ui.views.setup import SetupView, build_setup
from ui.wiring.setup import SetupHandlers, bind_setup


class Engine:
    """Remembers what it was told to load."""

    def __init__(self) -> None:
        self.loads: list[tuple[str, EngineOptions]] = []

    def load(self, folder: Path, options: EngineOptions) -> None:
        self.loads.append((folder.name, options))

    def status(self) -> EngineStatus:
        return EngineStatus(EngineState.READY, self.loads[-1][0]) if self.loads else EngineStatus()


class Few(Services):
    """Offers the recipes that ship with their weights, and a person's own: the others' fits take a moment."""

    def recipes(self) -> tuple[Recipe, ...]:
        return tuple(one for one in super().recipes() if one.name.startswith("demo") or not one.family)


class FullDisk(Few):
    """A machine whose disk is almost full."""

    def hardware(self) -> Hardware:
        return replace(super().hardware(), disk_free=1000)


@dataclass
class Visitor:
    """One browser: it sends its own place back with every event, as gradio does."""

    handlers: SetupHandlers
    admin: bool = True
    language: str = "en"
    shown: dict[Any, Any] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.shown = {}

    @property
    def request(self) -> gr.Request:
        headers = {"x-cria-admin": "1" if self.admin else "0", "accept-language": self.language}
        return gr.Request(headers=headers, cookies={})

    def take(self, row: Sequence[Any]) -> set[Any]:
        """Keep what a handler returned; return the components it changed."""
        outputs = self.handlers.outputs
        assert len(row) == len(outputs)
        fresh = {one: value for one, value in zip(outputs, row, strict=True) if value != gr.skip()}
        self.shown |= fresh
        return set(fresh)

    def load(self) -> "Visitor":
        self.take(self.handlers.load(self.request))
        return self

    def press(
        self, act: str, name: str = "", *access: Any, fields: dict[str, Any] | None = None, form: Sequence[str] = ()
    ) -> set[Any]:
        """Press a button in a card; ``form`` is the form for anything else, ``access`` where downloads come from."""
        event = gr.EventData(None, {"act": act, "name": name, "fields": fields or {}})
        place = [self.shown.get(at, "") for at in (self.view.at_stage, self.view.at_recipe, self.view.at_job)]
        filled = (*form, *("",) * (len(self.view.form.fields) - len(form)))
        return self.take(self.handlers.press(self.request, event, *place, *filled, *access))

    def tick(self) -> set[Any]:
        view = self.view
        return self.take(
            self.handlers.tick(
                self.request,
                self.shown[view.at_stage],
                self.shown[view.at_job],
                self.shown[view.at_seen],
                self.shown[view.at_recipe],
            )
        )

    def start(self, name: str, *fields: Any, **typed: Any) -> set[Any]:
        """Press Start on the receipt; ``fields`` are the form's and those about downloads, ``typed`` the receipt's."""
        count = len(self.view.form.fields)
        return self.press("begin", name, *fields[count:], fields={"name": name, **typed}, form=fields[:count])

    @property
    def view(self) -> SetupView:
        return self.handlers.view

    @property
    def stage(self) -> str:
        stages = {"choose": self.view.choose, "plan": self.view.plan, "run": self.view.run}
        seen = [name for name, column in stages.items() if self.shown[column].visible]
        at = str(self.shown[self.view.at_stage])
        assert seen == ([] if at == "machine" else [at])
        return at

    def page(self, card: Any) -> Page:
        return Page(self.shown[card])


@dataclass
class World:
    """One data folder with its services and page."""

    services: Services
    jobs: acting.ActedJobs
    engine: Engine
    handlers: SetupHandlers

    def visit(self, *, admin: bool = True, language: str = "en") -> Visitor:
        return Visitor(self.handlers, admin, language).load()

    def ended(self) -> JobState:
        self.jobs.join()
        return self.jobs.views()[0].state


NOBODY = Access(hubs=("http://127.0.0.1:9",), modelscope=None)  # nobody listens there


def make_world(settings: Settings, script: acting.Script, kind: type[Services] = Few, access: Access = NOBODY) -> World:
    jobs, engine = acting.ActedJobs(settings.data_dir, script), Engine()
    services = kind(settings, jobs, engine, Conversations(settings.database), access=access)  # type: ignore[arg-type]
    # Inside a running loop, because gradio makes loops of its own, and leaves them open, where it finds none.
    return asyncio.run(_lay_out(services, jobs, engine))


async def _lay_out(services: Services, jobs: acting.ActedJobs, engine: Engine) -> World:
    with gr.Blocks(analytics_enabled=False):
        notice = gr.HTML()
        with gr.Tabs() as tabs:
            with gr.Tab("Setup", id="setup"):
                view = build_setup()
            with gr.Tab("Chat", id="chat") as chat_tab:
                pass
        shell = Shell(tabs=tabs, chat_tab=chat_tab, notice=notice, options=EngineOptions(bits=8))
        bind_setup(view, services, shell)
    return World(services, jobs, engine, SetupHandlers(view, services, shell))


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    """Jobs that go well."""
    made = make_world(settings, acting.whole)
    yield made
    made.jobs.join()


@pytest.fixture
def slow(settings: Settings) -> Iterator[World]:
    """Jobs that stand in their second step until they are cancelled."""
    made = make_world(settings, acting.halfway)
    yield made
    for job in made.jobs.views():
        made.jobs.pause(job.id)
    made.jobs.join()


def wait_for(visitor: Visitor, card: Any, words: str) -> None:
    """Tick until a card contains some words."""
    for _ in range(500):
        visitor.tick()
        if words in visitor.shown[card]:
            return
        time.sleep(0.01)
    pytest.fail(f"never shown: {words}")


def test_a_first_visit_shows_the_machine_and_what_to_do_next(world: World) -> None:
    visitor = world.visit()
    assert visitor.stage == "machine"
    page = visitor.page(visitor.view.machine)
    assert "Your machine" in page.all("h2")[0].text
    assert page.acts()[:3] == [("check", ""), ("start", "demo"), ("look", "demo")]
    assert page.acts()[-1] == ("stage", "choose")
    assert visitor.shown[visitor.view.gallery] == ""
    visitor.press("stage", "choose")
    assert visitor.stage == "choose"
    assert page.all("section", cls="machine")
    assert visitor.page(visitor.view.machine).one("details", cls="machine")["data-keep"] == "machine"
    assert visitor.page(visitor.view.gallery).acts()[:2] == [("start", "demo"), ("look", "demo")]
    assert visitor.shown[visitor.view.guest] == ""
    assert visitor.shown[visitor.view.form.box].visible is True
    names = [value for _, value in visitor.shown[visitor.view.form.template].choices]
    assert names[0] == ""
    assert "vicuna-v1.1" in names


def test_one_button_leads_from_the_gallery_to_the_chat(world: World) -> None:
    visitor = world.visit()
    visitor.press("start", "demo")
    assert visitor.stage == "run"
    assert world.ended() is JobState.DONE
    visitor.tick()
    page = visitor.page(visitor.view.job)
    assert page.one("p", cls="answered").text == "Hello, <b>friend</b>!"
    assert page.acts()[0] == ("chat", "demo")
    assert visitor.press("chat", "demo") == {world.handlers.shell.tabs}
    assert world.engine.loads == [("demo", EngineOptions(bits=8))]
    assert visitor.shown[world.handlers.shell.tabs].selected == "chat"


def test_a_model_that_is_loaded_is_not_loaded_again(world: World) -> None:
    visitor = world.visit()
    visitor.press("start", "demo")
    world.ended()
    visitor.press("chat", "demo")
    visitor.press("chat", "demo")
    stranger = world.visit(admin=False)
    assert stranger.press("chat", "demo") == {world.handlers.shell.tabs}
    assert len(world.engine.loads) == 1


def test_nothing_is_sent_again_that_has_not_changed(world: World) -> None:
    visitor = world.visit()
    assert visitor.tick() == set()
    visitor.press("start", "demo")
    world.ended()
    assert visitor.view.job in visitor.tick()
    assert visitor.tick() == set()


def test_a_tick_before_the_page_is_drawn_changes_nothing(world: World) -> None:
    visitor = world.visit()
    assert visitor.take(world.handlers.tick(visitor.request, "", "", "")) == set()


def test_polling_is_fast_only_while_something_runs(slow: World) -> None:
    visitor = slow.visit()
    assert visitor.shown[visitor.view.timer].value == 3.0
    visitor.press("start", "demo")
    assert visitor.shown[visitor.view.timer].value == 0.5


def test_every_browser_sees_the_job_and_may_steer_it(slow: World) -> None:
    first, second = slow.visit(), slow.visit(language="zh-TW")
    first.press("start", "demo")
    wait_for(first, first.view.job, "Step 2 of 5")
    second.tick()
    job = first.shown[first.view.at_job]
    assert second.page(second.view.banner).acts() == [("show", job)]
    second.press("stage", "choose")
    assert ("show", job) in second.page(second.view.gallery).acts()
    second.press("show", job)
    second.press("pause", job)
    assert slow.ended() is JobState.CANCELLED
    first.tick()
    assert [act for act, _ in first.page(first.view.job).acts()] == ["resume", "delete"]
    first.press("resume", job)
    assert slow.ended() is JobState.DONE
    second.tick()
    assert second.page(second.view.job).acts()[0] == ("chat", "demo")


def test_a_fresh_page_lands_on_what_runs_and_only_tells_of_what_stopped(slow: World) -> None:
    visitor = slow.visit()
    visitor.press("start", "demo")
    job = visitor.shown[visitor.view.at_job]
    again = slow.visit(admin=False)
    assert (again.stage, again.shown[again.view.at_job]) == ("run", job)
    wait_for(visitor, visitor.view.job, "Step 2 of 5")
    visitor.press("pause", job)
    slow.ended()
    later = slow.visit()
    assert later.stage == "choose"
    assert "stopped before it was ready (Paused)" in later.page(later.view.banner).one("p").text
    assert later.page(later.view.banner).acts() == [("show", job)]
    visitor.press("resume", job)
    assert slow.ended() is JobState.DONE
    assert slow.visit().stage == "choose"


def test_going_back_to_the_gallery_leaves_the_job_alone(slow: World) -> None:
    visitor = slow.visit()
    visitor.press("start", "demo")
    job = visitor.shown[visitor.view.at_job]
    visitor.press("stage", "choose")
    assert visitor.stage == "choose"
    visitor.tick()
    assert visitor.stage == "choose"
    visitor.press("stage", "run")
    assert visitor.stage == "run"
    assert visitor.page(visitor.view.job).one("article")["data-job"] == job


def test_deleting_a_stopped_job_frees_its_leftovers(slow: World) -> None:
    visitor = slow.visit()
    visitor.press("start", "demo")
    wait_for(visitor, visitor.view.job, "Step 2 of 5")
    job = visitor.shown[visitor.view.at_job]
    visitor.press("pause", job)
    slow.ended()
    visitor.tick()
    assert "2.0 MB unfinished" in visitor.page(visitor.view.history).one("li").text
    visitor.press("delete", job)
    assert visitor.stage == "machine"
    assert slow.jobs.views() == ()
    assert not list(slow.jobs.models_dir.iterdir())


def test_cancelling_stops_a_job_and_removes_what_it_made(slow: World) -> None:
    visitor = slow.visit()
    visitor.press("start", "demo")
    wait_for(visitor, visitor.view.job, "Step 2 of 5")
    card = visitor.page(visitor.view.job)
    assert [act for act, _ in card.acts()] == ["pause", "cancel"]
    assert "for good" in card.one("button", data_do="cancel")["data-confirm"]
    visitor.press("cancel", visitor.shown[visitor.view.at_job])
    assert slow.jobs.views() == ()
    assert not list(slow.jobs.models_dir.iterdir())


def test_a_failure_is_shown_with_its_way_out_and_can_be_tried_again(settings: Settings) -> None:
    world = make_world(settings, acting.failing)
    visitor = world.visit(language="zh-CN")
    visitor.press("start", "demo")
    assert world.ended() is JobState.FAILED
    visitor.tick()
    page = visitor.page(visitor.view.job)
    assert "<i>consolidated.00.pth</i>" in page.one(role="alert").text
    visitor.press("resume", visitor.shown[visitor.view.at_job])
    assert world.ended() is JobState.DONE


def test_when_the_network_is_back_one_press_goes_on(settings: Settings) -> None:
    gone = SourceError("download.unreachable", host="huggingface.co", what="Connection refused")
    world = make_world(settings, partial(acting.failing, problem=gone))
    visitor = world.visit()
    visitor.press("start", "demo")
    assert world.ended() is JobState.FAILED
    visitor.tick()
    page = visitor.page(visitor.view.job)
    assert "huggingface.co cannot be reached" in page.one(role="alert").text
    main = page.one("button", cls="primary")
    assert (main["data-do"], main["data-name"]) == ("resume", visitor.shown[visitor.view.at_job])
    visitor.press(main["data-do"], main["data-name"])
    assert world.ended() is JobState.DONE


def test_what_cannot_begin_again_stays_as_it_was(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(settings, acting.failing)
    visitor = world.visit()
    visitor.start("mine", "builtin:demo/base", "builtin:demo/delta", "", "mine", "", "float16", "", "", keep=False)
    assert world.ended() is JobState.FAILED
    first = world.jobs.views()[0].id
    visitor.tick()
    with monkeypatch.context() as patched:
        patched.setattr(Few, "hardware", lambda self: replace(Services.hardware(self), disk_free=1000))
        with pytest.raises(MachineError):
            visitor.press("anew", first)
    assert [view.id for view in world.jobs.views()] == [first]
    visitor.press("anew", first)
    world.jobs.join()
    (view,) = world.jobs.views()
    assert view.id == visitor.shown[visitor.view.at_job] != first
    plan = world.jobs.plan(view.id)
    assert (plan.name, plan.delta, plan.dtype, plan.keep_sources) == ("mine", "builtin:demo/delta", "float16", False)


def test_beginning_again_goes_on_where_the_old_one_cannot_be_removed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(settings, acting.failing)
    visitor = world.visit()
    visitor.start("mine", "builtin:demo/base", "builtin:demo/delta", "", "mine", "", "float16", "", "", keep=False)
    assert world.ended() is JobState.FAILED
    first = world.jobs.views()[0].id
    visitor.tick()

    def busy(folder: Path) -> None:
        next(one for one in folder.iterdir() if one.name != PLAN).unlink()
        raise OSError(errno.EBUSY, "Device or resource busy")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", busy)
        with pytest.raises(JobError, match=r"mine has begun again.*resource busy"):
            visitor.press("anew", first)
    assert {view.id for view in world.jobs.views()} > {first}
    world.jobs.join()
    visitor.press("delete", first)
    (view,) = world.jobs.views()
    assert (view.model, view.state) == ("mine", JobState.FAILED)


def test_what_stands_in_the_way_of_the_one_button_is_shown_on_the_receipt(settings: Settings) -> None:
    world = make_world(settings, acting.whole, FullDisk)
    visitor = world.visit()
    visitor.press("start", "demo")
    assert visitor.stage == "plan"
    assert "Not enough disk space" in visitor.page(visitor.view.receipt).one(role="alert").text
    assert not visitor.page(visitor.view.receipt).all("button", cls="primary")
    visitor.start("demo")
    assert "Not enough disk space" in visitor.page(visitor.view.plan_problem).one(role="alert").text
    assert visitor.stage == "plan"
    assert world.jobs.views() == ()


def test_a_recipe_can_be_set_up_again_under_another_name(world: World) -> None:
    visitor = world.visit()
    visitor.press("start", "demo")
    world.ended()
    visitor.press("stage", "choose")
    assert visitor.page(visitor.view.gallery).acts()[:2] == [("chat", "demo"), ("look", "demo")]
    visitor.press("look", "demo")
    assert visitor.stage == "plan"
    assert visitor.page(visitor.view.receipt).one("input", data_field="name")["value"] == "demo-2"
    assert visitor.shown[visitor.view.plan_problem] == ""
    visitor.start("demo")
    assert "on the shelf already" in visitor.page(visitor.view.plan_problem).one(role="alert").text
    visitor.start("Not A Name")
    assert "cannot be the name" in visitor.page(visitor.view.plan_problem).one(role="alert").text
    visitor.start(" my-demo ")
    assert visitor.stage == "run"
    assert world.ended() is JobState.DONE
    assert {model.name for model in world.services.models()} == {"demo", "my-demo"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (("", "", "", "mine", "", "", ""), "base model is empty"),
        (("/nowhere", "", "", " ", "", "", ""), "no name yet"),
        (("/nowhere", "", "", "My Model", "", "", ""), "cannot be the name"),
        (("/nowhere", "", "", "mine", "", "", ""), "There is no folder /nowhere"),
        (("builtin:demo/base", "meta/llama", "", "mine", "", "", ""), "No connection to 127.0.0.1:9"),
        (("builtin:demo/base", "", "/lora/a:0.5\n", "mine", "", "", ""), "There is no folder /lora/a."),
    ],
)
def test_what_is_wrong_with_the_form_is_said_under_the_form(world: World, fields: Sequence[str], words: str) -> None:
    visitor = world.visit()
    changed = visitor.take(world.handlers.plan_form(visitor.request, *fields, ""))
    assert changed == {visitor.view.form.problem}
    assert words in visitor.page(visitor.view.form.problem).one(role="alert").text


def test_the_form_leads_to_a_plan_and_a_job_of_that_name(world: World) -> None:
    visitor = world.visit()
    fields = (
        "builtin:demo/base", "builtin:demo/delta", "builtin:demo/lora:0.5\n\n", "mine", "alpaca", "float32", "", "",
    )  # fmt: skip
    visitor.take(world.handlers.plan_form(visitor.request, *fields))
    assert visitor.stage == "plan"
    receipt = visitor.page(visitor.view.receipt)
    assert [one.text for one in receipt.all("span", cls="source")][2] == "ships with Cria (demo/lora) (scale 0.5)"
    facts = {
        term.text.split("How")[0]: value.text for term, value in zip(receipt.all("dt"), receipt.all("dd"), strict=True)
    }
    assert facts["Prompt template"] == "alpaca"
    assert facts["Number format"] == "float32"
    visitor.start("mine", *fields)
    assert visitor.stage == "run"
    assert world.ended() is JobState.DONE
    plan = world.jobs.plan(world.jobs.views()[0].id)
    assert (plan.name, plan.loras, plan.template) == ("mine", (("builtin:demo/lora", 0.5),), "alpaca")
    assert (plan.dtype, plan.layout) == ("float32", "huggingface")


def test_back_leads_to_the_gallery(world: World) -> None:
    visitor = world.visit()
    visitor.press("look", "demo-pirate")
    assert ("stage", "choose") in visitor.page(visitor.view.receipt).acts()
    visitor.press("stage", "choose")
    assert visitor.stage == "choose"
    assert visitor.shown[visitor.view.receipt] == ""


def test_a_stranger_may_look_and_not_touch(slow: World) -> None:
    admin = slow.visit()
    admin.press("start", "demo")
    job = admin.shown[admin.view.at_job]
    stranger = slow.visit(admin=False)
    assert "administrator's token" in stranger.page(stranger.view.guest).one(role="note").text
    assert stranger.shown[stranger.view.form.box].visible is False
    assert stranger.page(stranger.view.job).acts() == []
    for act, name in [
        ("start", "demo"),
        ("look", "demo"),
        ("begin", "demo"),
        ("replan", ""),
        ("pause", job),
        ("cancel", job),
        ("mend", job),
        ("anew", job),
        ("resume-free", job),
        ("resume", job),
        ("delete", job),
        ("chat", "x"),
    ]:
        with pytest.raises(Refused):
            stranger.press(act, name)
    with pytest.raises(Refused):
        slow.handlers.plan_form(stranger.request, "builtin:demo/base", "", "", "mine", "", "", "", "")
    stranger.press("stage", "choose")
    assert {act for act, _ in stranger.page(stranger.view.banner).acts()} == {"show"}
    stranger.press("show", job)
    assert stranger.stage == "run"
    assert slow.jobs.view(job).state is JobState.RUNNING
    assert len(slow.jobs.views()) == 1


def test_an_unknown_job_is_an_error_and_an_unknown_button_is_nothing(world: World) -> None:
    visitor = world.visit()
    with pytest.raises(JobError):
        visitor.press("show", "../../etc")
    assert visitor.press("explode", "demo") == set()


def test_a_job_deleted_elsewhere_is_said_to_be_gone(slow: World) -> None:
    first, second = slow.visit(), slow.visit()
    first.press("start", "demo")
    job = first.shown[first.view.at_job]
    second.press("show", job)
    first.press("pause", job)
    slow.ended()
    first.press("delete", job)
    second.tick()
    assert "There is no job" in second.page(second.view.job).one(role="note").text


def test_a_damaged_recipe_of_ones_own_is_shown_with_the_reason(world: World, settings: Settings) -> None:
    settings.recipes_dir.mkdir()
    (settings.recipes_dir / "broken.toml").write_text("name = ", encoding="utf-8")
    visitor, guest = world.visit(), world.visit(admin=False)
    visitor.press("stage", "choose")
    guest.press("stage", "choose")
    page = visitor.page(visitor.view.gallery)
    assert ("start", "demo") in page.acts()
    assert "broken.toml cannot be used" in page.one("section", cls="broken").text
    assert not guest.page(guest.view.gallery).all("section", cls="broken")


def test_a_recipe_from_a_hub_is_offered_without_asking_anybody(world: World, settings: Settings) -> None:
    settings.recipes_dir.mkdir()
    text = 'name = "far"\ntitle = "Far away"\n[base]\nsource = "nobody/nothing"\n'
    (settings.recipes_dir / "far.toml").write_text(text, encoding="utf-8")
    visitor = world.visit()
    visitor.press("stage", "choose")
    page = visitor.page(visitor.view.gallery)
    assert ("look", "far") in page.acts()
    card = page.one("div", data_recipe="far").text
    assert "Downloadthe plan tells" in card


def test_checking_again_looks_at_the_machine_anew(world: World) -> None:
    visitor = world.visit(language="zh-CN")
    before = visitor.shown.pop(visitor.view.machine)
    assert visitor.view.machine in visitor.press("check")
    assert "检查时间" in visitor.shown[visitor.view.machine]
    assert "检查时间" in before


def test_every_event_is_private_and_waits_in_no_queue(world: World) -> None:
    events = world.handlers.view.gallery.parent
    while events.parent is not None:
        events = events.parent
    handled = [event for event in events.fns.values() if event.fn is not None]  # the others only run in the browser
    assert len(handled) == 6
    for event in events.fns.values():
        assert event.api_visibility == "private"
        assert event.queue is False


def test_a_damaged_set_up_is_listed_and_can_be_deleted(world: World) -> None:
    folder = world.jobs.jobs_dir / "20260101-000000-demo-ab12"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text("{", encoding="utf-8")
    partial = acting.partial_folder(world.jobs.models_dir, folder.name)
    partial.mkdir(parents=True)
    (partial / "half").write_bytes(b"x" * 8192)
    visitor, guest = world.visit(), world.visit(admin=False)
    assert "cannot be read" not in guest.shown[guest.view.history]
    assert "Delete (8.2 kB)" in visitor.page(visitor.view.history).one("li", data_job=folder.name).text
    visitor.press("delete", folder.name)
    assert not folder.exists()
    assert not partial.exists()
    (world.jobs.jobs_dir / "empty").mkdir()
    visitor.press("delete", "empty")
    assert world.jobs.damaged() == {}


def test_another_server_on_the_folder_is_told_to_administrators(world: World) -> None:
    there = replace(world.services, other=Presence(77, "lab", 0.0, "http://lab:7860/"))
    handlers = SetupHandlers(world.handlers.view, there, world.handlers.shell)
    assert "process 77 on lab" in Visitor(handlers).load().shown[handlers.view.guest]
    assert "process 77" not in Visitor(handlers, admin=False).load().shown[handlers.view.guest]
