"""The Models tab's events: who may press what, what each button does, and what a page is told when nothing changed."""

import asyncio
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from backend.conversations import Conversations
from backend.engines.base import EngineOptions, EngineStatus
from backend.errors import CriaError, Refused
from backend.jobs.manager import JobManager
from backend.jobs.shelf import Shelf
from backend.library.looking import Looker
from backend.recipes import META
from backend.services import Services
from backend.settings import Settings
from tests.backend.library.folders import TINY, ask_here, bare, early, examine_here, write_lora
from tests.backend.weights.gguf_files import write_tiny
from ui.shell import Shell
from ui.views.models import build_models
from ui.views.setup import build_setup
from ui.wiring.models import CHANGING, ModelsHandlers, bind_models
from ui.wiring.models_form import ENDINGS, fill, plain_name
from ui.wiring.setup import SetupHandlers


class Engine:
    """Remembers what it was told to load."""

    def __init__(self) -> None:
        self.loads: list[tuple[str, EngineOptions]] = []
        self.unloads = 0

    def load(self, folder: Path, options: EngineOptions) -> None:
        self.loads.append((folder.name, options))

    def unload(self) -> None:
        self.unloads += 1

    def status(self) -> EngineStatus:
        return EngineStatus()


@pytest.fixture
def services(settings: Settings) -> Services:
    engine: Any = Engine()
    made = Services(
        settings=settings,
        jobs=JobManager(settings.data_dir),
        engine=engine,
        conversations=Conversations(settings.database),
        examiner=lambda *_: None,
    )
    looker = Looker(settings.models_dir, settings.data_dir / "kept.json", examine=examine_here)
    made.__dict__["shelf"] = Shelf(settings.data_dir, made.jobs, engine.status, looker=looker, ask=ask_here)
    early(settings.models_dir / "old")
    made.shelf.shelved(wait=True)
    return made


@pytest.fixture
def handlers(services: Services) -> ModelsHandlers:
    async def lay_out() -> ModelsHandlers:
        with gr.Blocks():
            with gr.Tabs() as tabs:
                with gr.Tab("setup"):
                    setup = build_setup()
                with gr.Tab("chat") as chat:
                    pass
                with gr.Tab("models") as tab:
                    view = build_models()
            shell = Shell(tabs=tabs, chat_tab=chat, notice=gr.HTML(), options=EngineOptions())
            bind_models(view, tab, services, shell, SetupHandlers(setup, services, shell))
            return ModelsHandlers(view, services, shell, SetupHandlers(setup, services, shell))

    return asyncio.run(lay_out())


def request(*, admin: bool = True) -> gr.Request:
    return gr.Request(headers={"x-cria-admin": "1" if admin else "0", "accept-language": "en"}, cookies={})


def press(handlers: ModelsHandlers, act: str, who: str = "", *, admin: bool = True, **fields: str) -> dict[Any, Any]:
    event = gr.EventData(None, {"act": act, "name": who, "fields": fields})
    row = handlers.press(request(admin=admin), event, "")
    assert len(row) == len(handlers.outputs)
    return {one: value for one, value in zip(handlers.outputs, row, strict=True) if value != gr.skip()}


def name_of(handlers: ModelsHandlers, name: str) -> str:
    return handlers.services.shelf.find(name).info.id


def test_no_button_works_for_a_guest(handlers: ModelsHandlers) -> None:
    for act in (*CHANGING, *ENDINGS, "load", "unload", "adopt"):
        with pytest.raises(Refused):
            press(handlers, act, name_of(handlers, "old"), admin=False, name="new")
    assert [info.name for info in handlers.services.models()] == ["old"]


def test_a_page_is_told_only_what_changed(handlers: ModelsHandlers) -> None:
    shown = dict(zip(handlers.shown, handlers.open(request()), strict=True))
    seen = shown[handlers.view.seen]
    assert "old" in shown[handlers.view.shelf]
    assert set(map(str, handlers.tick(request(), seen))) == {str(gr.skip())}
    bare(handlers.services.settings.models_dir / "dropped-in")
    handlers.services.shelf.shelved(wait=True)
    again = dict(zip(handlers.shown, handlers.tick(request(), seen), strict=True))
    assert "dropped-in" in again[handlers.view.shelf]
    guest = dict(zip(handlers.shown, handlers.tick(request(admin=False), seen), strict=True))
    assert "data-do" not in guest[handlers.view.shelf]


def test_a_ready_made_file_is_put_on_the_shelf(handlers: ModelsHandlers, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "Own.gguf")
    with pytest.raises(Refused):
        press(handlers, "adopt", admin=False, given=str(source))
    told = press(handlers, "adopt", given=f" {source} ", name=" mine ")
    assert "mine is on the shelf" in told[handlers.view.said]
    assert "mine" in told[handlers.view.shelf]
    assert handlers.services.shelf.model("mine").kind == "llama"
    for do, key in (("repair", "ggufready.no_repair"), ("adopt", "ggufready.no_file")):
        with pytest.raises(CriaError) as caught:
            press(handlers, do, name_of(handlers, "mine"), given="nowhere")
        assert caught.value.key == key


def test_repair_undo_rename_and_delete(handlers: ModelsHandlers) -> None:
    shelf, models = handlers.services.shelf, handlers.services.settings.models_dir
    told = press(handlers, "repair", name_of(handlers, "old"), template="vicuna-v1.1")
    assert "old is repaired" in told[handlers.view.said]
    assert (models / "old" / "chat_template.jinja").is_file()
    press(handlers, "undo", name_of(handlers, "old"))
    assert not (models / "old" / "chat_template.jinja").exists()
    press(handlers, "rename", name_of(handlers, "old"), name=" new ")
    assert [info.name for info in shelf.models()] == ["new"]
    key = name_of(handlers, "new")
    press(handlers, "delete", key)
    assert shelf.models() == ()
    with pytest.raises(CriaError) as caught:  # another page pressed as well
        press(handlers, "delete", key)
    assert caught.value.key == "models.gone"


def test_what_engines_made_of_a_model_can_be_deleted_alone(handlers: ModelsHandlers) -> None:
    shelf, folder = handlers.services.shelf, handlers.services.settings.models_dir / "old"
    (folder / "quantised").mkdir()
    (folder / "quantised" / "int8.safetensors").write_bytes(b"x" * 9000)
    shelf.shelved(wait=True)
    told = press(handlers, "drop", name_of(handlers, "old"))
    assert "made from old" in told[handlers.view.said]
    assert not (folder / "quantised").exists()
    assert [info.converted for info in shelf.models()] == [0]


def test_load_and_unload(handlers: ModelsHandlers) -> None:
    engine: Any = handlers.services.engine
    assert handlers.shell.tabs in press(handlers, "load", name_of(handlers, "old"))
    assert [name for name, _ in engine.loads] == ["old"]
    press(handlers, "unload", name_of(handlers, "old"))
    assert engine.unloads == 1


def test_an_export_shows_its_plan_and_fills_in_the_form(handlers: ModelsHandlers) -> None:
    form, folder = handlers.setup.view.form, handlers.services.settings.models_dir / "old"
    shown = press(handlers, "meta", name_of(handlers, "old"))
    assert (shown[form.base], shown[form.layout], shown[form.name]) == (str(folder), META, "old-meta")
    assert shown[handlers.setup.view.at_stage] == "plan"
    assert "old-meta" in shown[handlers.setup.view.receipt]


def test_what_needs_a_word_more_shows_the_form(handlers: ModelsHandlers) -> None:
    form, models = handlers.setup.view.form, handlers.services.settings.models_dir
    shown = press(handlers, "lora", name_of(handlers, "old"))
    assert (shown[form.base], shown[form.loras], shown[form.name]) == (str(models / "old"), "", "old-merged")
    assert shown[handlers.setup.view.at_stage] == "choose"
    write_lora(models / "My LoRA", TINY, base_model_name_or_path="huggyllama/llama-7b")
    handlers.services.shelf.shelved(wait=True)
    shown = press(handlers, "merge", name_of(handlers, "My LoRA"))
    assert shown[form.base] == "huggyllama/llama-7b"
    assert (shown[form.loras], shown[form.name]) == (str(models / "My LoRA"), "my-lora-merged")


def test_an_adapters_word_about_its_base_is_taken_only_if_it_is_a_repository(handlers: ModelsHandlers) -> None:
    write_lora(handlers.services.settings.models_dir / "lora", TINY, base_model_name_or_path="../../etc")
    handlers.services.shelf.shelved(wait=True)
    found = handlers.services.shelf.find("lora")
    assert fill("merge", found, "x").base == ""
    assert fill("delta", found, "x").delta.endswith("lora")


def test_a_new_name_is_as_like_the_old_one_as_can_be() -> None:
    names = {"Vicuna_7B v1.1": "vicuna-7b-v1-1", "你好": "model", "-x-": "x", "a" * 99: "a" * 48}
    assert {name: plain_name(name) for name in names} == names


def test_a_button_that_means_nothing_does_nothing(handlers: ModelsHandlers) -> None:
    assert press(handlers, "format-the-disk", name_of(handlers, "old")) == {}
