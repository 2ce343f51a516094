"""The Setup tab in real Chromium, on the real app with real jobs: from a fresh page to a model ready to chat."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from backend.settings import ASSETS
from tests.browser.conftest import RunningApp
from tests.browser.test_chat import press_until
from tests.hub.content import Content, Literal
from tests.hub.family import demo
from tests.hub.server import Hub

pytestmark = pytest.mark.browser

READY_MS = 180_000  # generous: the machine may be busy with other tests
TOKEN = "correct-horse-battery-staple"
ADMIN = f"?token={TOKEN}"

DELTA_RECIPE = """
name = "tiny-vicuna-7b"
title = "Tiny Vicuna 7B"
size = "7B"
family = "tiny"
parameters = 6_738_415_616
languages = ["en"]
[base]
source = "nobody/llama"
alternatives = ["cria/demo-base"]
bytes = 2_400_000
[delta]
source = "cria/demo-delta"
bytes = 2_400_000
"""
LORAS_RECIPE = """
name = "tiny-alpaca-plus"
title = "Tiny Alpaca Plus"
family = "tiny-plus"
languages = ["zh"]
[base]
source = "cria/demo-base"
bytes = 2_400_000
[[lora]]
source = "cria/demo-lora"
bytes = 2_000_000
[[lora]]
source = "cria/style-lora"
bytes = 100_000
scale = 0.5
"""


def style_lora() -> dict[str, Content]:
    """Return a plain LoRA over the demo's queries, as the second of a Chinese-Alpaca-Plus pair would be."""
    sizes = json.loads(demo("delta")["config.json"].read())
    hidden, rank, random = sizes["hidden_size"], 4, np.random.default_rng(3)
    tensors = {}
    for layer in range(sizes["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_"
        tensors[f"{name}A.weight"] = (random.standard_normal((rank, hidden)) * 0.01).astype(np.float16)
        tensors[f"{name}B.weight"] = (random.standard_normal((hidden, rank)) * 0.01).astype(np.float16)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    weights = Literal(save(tensors))
    return {"adapter_config.json": Literal(json.dumps(config).encode()), "adapter_model.safetensors": weights}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as served:
        for member in ("base", "delta", "lora"):
            served.add(f"cria/demo-{member}", demo(member))
        served.add("cria/style-lora", style_lora())
        yield served


@pytest.fixture(scope="module")
def app(start_app: Callable[..., RunningApp], hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> RunningApp:
    """A shared app with an empty shelf, two recipes of its own and a stand-in hub that has their parts."""
    data: Path = tmp_path_factory.mktemp("wizard") / "data"
    (data / "recipes").mkdir(parents=True)
    (data / "recipes" / "delta.toml").write_text(DELTA_RECIPE, encoding="utf-8")
    (data / "recipes" / "loras.toml").write_text(LORAS_RECIPE, encoding="utf-8")
    return start_app("--listen", "--admin-token", TOKEN, "--hub", hub.url, data_dir=data)


def text(page: Any, selector: str) -> str:
    return str(page.locator(selector).first.inner_text())


def expected(question: str) -> list[str]:
    """Return what a right answer to one of the demo's questions contains, in lower case."""
    known = json.loads((ASSETS / "demo" / "questions.json").read_text(encoding="utf-8"))
    phrases: list[str] = next(one["expect"] for one in known if one["question"] == question)
    return phrases


def wait_state(page: Any, state: str) -> None:
    page.wait_for_selector(f"#job [data-state={state}]", timeout=READY_MS)


def press(page: Any, where: str, do: str) -> None:
    page.click(f"{where} button[data-do={do}]")


def open_setup(open_page: Callable[..., Any], app: RunningApp, **wish: Any) -> Any:
    """Open the app and go to its Setup tab: where a model is loaded, a fresh page opens the chat."""
    page = open_page(app, **wish)
    page.locator("button[role=tab]").first.click()
    page.wait_for_selector("#path ol")
    if page.get_attribute("#path ol", "data-stage") != "choose":
        page.click("#path button[data-name=choose]")
    page.wait_for_selector("#gallery .family")
    return page


def look(page: Any, recipe: str) -> None:
    """Open the plan of a recipe from the gallery, picking its size first where there are several."""
    chip = page.locator(f"[data-pick='{recipe}']")
    if chip.count():
        chip.click()
    press(page, f"#gallery [data-recipe='{recipe}']", "look")
    page.wait_for_selector("#receipt table.receipt", timeout=READY_MS)


def fits(page: Any) -> bool:
    """Tell whether nothing sticks out to the right."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def form(name: str) -> str:
    return f"#form-{name} textarea, #form-{name} input"


def open_form(page: Any) -> None:
    page.click("#own-folders button")
    page.wait_for_selector("#form-show")


def test_one_button_a_reload_and_a_second_browser_on_the_way_to_ready(
    app: RunningApp, open_page: Callable[..., Any]
) -> None:
    page = open_page(app, path=ADMIN)
    page.wait_for_selector("#path ol[data-stage=machine]")
    assert "free of" in text(page, "#machine .hw-value")
    assert str(app.models_dir) in text(page, "#machine .hw")
    page.focus("#machine [data-recipe=demo] button.primary")
    page.keyboard.press("Enter")
    page.wait_for_selector("#job .step.running")
    page.reload()  # in mid-job: the page comes back to it
    page.wait_for_selector("#job .step.running")
    other = open_page(app, locale="zh-TW", path=ADMIN)
    other.wait_for_selector("#job .step.running, #job [data-state=done]")
    wait_state(page, "done")
    wait_state(other, "done")
    assert "準備就緒" in text(other, "#job .status")
    assert page.locator("#job .step.done").count() == 5
    assert page.get_attribute("#job .bar.whole", "aria-valuenow") == "100"
    assert len(text(page, "#job .answered")) > 10
    assert page.locator("#job .log li").count() >= 3
    assert (app.models_dir / "demo" / "cria.json").is_file()
    press(page, "#job", "chat")
    page.wait_for_selector(
        "#chat-tab-button[aria-selected=true], button[role=tab][aria-selected=true]:has-text('Chat')"
    )
    page.wait_for_selector("#engine .engine.ready[data-model=demo]", timeout=READY_MS)
    asked = page.locator("#chat .example").first
    question = asked.inner_text()
    asked.click()
    page.wait_for_selector("#chat small.figures", timeout=READY_MS)
    said = page.locator("#chat [data-testid=bot]").first.inner_text().lower()
    assert all(phrase in said for phrase in expected(question)), (question, said)
    other.click("#path button[data-name=choose]")
    other.wait_for_selector("#gallery [data-recipe=demo] button[data-do=chat]")


def test_the_form_explains_what_is_wrong_and_keeps_what_is_typed(
    app: RunningApp, open_page: Callable[..., Any]
) -> None:
    page = open_setup(open_page, app, path=ADMIN)
    open_form(page)
    word = page.locator("#form-words .term").first
    word.focus()  # a word of the trade explains itself to the keyboard
    assert page.locator("#form-words [role=tooltip]").first.is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#form-words [role=tooltip]").first.is_visible()

    def submit(words: str) -> None:
        page.click("#form-show")
        page.locator("#form-problem [role=alert]", has_text=words).wait_for()

    submit("base model is empty")
    page.fill(form("base"), "/no/such/<b>folder</b>")
    submit("no name yet")
    page.fill(form("name"), "../evil")
    submit("cannot be the name")
    page.fill(form("name"), "mine")
    submit("There is no folder /no/such/<b>folder</b>")
    page.locator(form("base")).clear()
    page.locator(form("base")).press_sequentially("builtin:demo/base")
    page.select_option("#language", "zh-CN")
    page.wait_for_selector("html[lang=zh-CN] #form-base")
    page.wait_for_function(
        "document.querySelector('#form-base textarea, #form-base input')?.value === 'builtin:demo/base'"
    )
    page.fill(form("name"), "mine")
    page.click("#form-show")
    page.wait_for_selector("#receipt table.receipt")
    assert page.input_value("#receipt [data-field=name]") == "mine"
    page.click("#receipt button[data-name=choose]")
    page.wait_for_selector("#gallery .family")
    assert not page.locator("#form-problem [role=alert]").count()


def test_nothing_sticks_out_on_a_phone(app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_setup(open_page, app, width=390, path=ADMIN)
    page.locator("#machine summary").first.click()
    open_form(page)
    assert fits(page)
    for language in ("zh-CN", "zh-TW"):
        page.select_option("#language", language)
        page.wait_for_selector(f"html[lang={language}] #gallery .family")
        page.wait_for_selector("#form-show")  # it unfolds again by itself
        assert fits(page)
    look(page, "demo-pirate")
    assert fits(page)


def test_a_search_reacts_at_once_and_says_when_nothing_is_found(app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_setup(open_page, app, path=ADMIN)
    every = page.locator("#gallery .family:visible").count()
    assert every == 12
    assert not page.is_visible("#gallery [data-recipe='llama-7b']")
    page.fill("#filters input[type=search]", "llama 7b")  # what is not shown at first is found all the same
    assert page.is_visible("#gallery [data-recipe='llama-7b']")
    page.fill("#filters input[type=search]", "tiny VICUNA 7b")
    assert page.locator("#gallery .family:visible").count() == 1
    assert text(page, "#filters output").startswith("1 of ")
    page.fill("#filters input[type=search]", "no such thing")
    assert page.locator("#gallery .family:visible").count() == 0
    page.click("#gallery .nothing button")
    assert page.locator("#gallery .family:visible").count() == every
    page.click("#gallery [data-more]")
    assert page.is_visible("#gallery [data-recipe='llama-7b']")
    assert not page.is_visible("#gallery [data-more]")
    page.select_option("#filters select >> nth=0", "zh")
    assert page.is_visible("#gallery [data-recipe=tiny-alpaca-plus]")
    assert not page.is_visible("#gallery [data-recipe=tiny-vicuna-7b]")


def test_a_delta_recipe_from_a_hub_with_an_ingredient_taken_from_elsewhere(
    app: RunningApp, open_page: Callable[..., Any]
) -> None:
    page = open_setup(open_page, app, dark=True, path=ADMIN)
    look(page, "tiny-vicuna-7b")
    assert "cria/demo-base" in text(page, "#receipt [data-part='0']"), "the alternative stands in"
    page.click("#receipt [data-part='0'] summary")
    page.fill("#receipt [data-field='own.0']", str(ASSETS / "demo" / "base"))
    page.press("#receipt [data-field='own.0']", "Enter")
    page.wait_for_selector(f"#receipt [data-part='0'] .source:has-text('{ASSETS}')", timeout=READY_MS)
    press(page, "#receipt", "begin")
    wait_state(page, "done")
    journal = next((app.data_dir / "jobs").glob("*-tiny-vicuna-7b-*/journal.jsonl")).read_text(encoding="utf-8")
    assert '"narration.delta"' in journal, "the merge names what it puts together"
    assert len(text(page, "#job .answered")) > 10
    press(page, "#job", "chat")
    page.wait_for_selector("#engine .engine.ready[data-model=tiny-vicuna-7b]", timeout=READY_MS)


def test_a_stranger_watches_and_the_token_opens_the_door(app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_setup(open_page, app)
    assert "administrator's token" in text(page, "#guest")
    assert "free:" in text(page, "#machine summary")
    assert page.locator("#gallery button[data-do=look], #gallery button[data-do=start]").count() == 0
    assert page.locator("#own-folders").count() == 0
    page.click("#admin summary")
    page.fill("#token", TOKEN)
    page.press("#token", "Enter")
    page.wait_for_selector("#leave")  # the page comes anew
    page.locator("button[role=tab]").first.click()
    page.wait_for_selector("#own-folders")
    assert not page.locator("#guest .remark").count()


def test_two_loras_on_a_phone_in_chinese_paused_from_another_browser(
    app: RunningApp, open_page: Callable[..., Any]
) -> None:
    phone = open_setup(open_page, app, width=390, locale="zh-CN", path=ADMIN)
    desk = open_setup(open_page, app, dark=True, path=ADMIN)
    look(phone, "tiny-alpaca-plus")
    assert fits(phone)
    assert "0.5" in text(phone, "#receipt [data-part='2']")
    phone.select_option("#language", "zh-TW")  # what is typed and where one stands survive a change of language
    phone.wait_for_selector("html[lang=zh-TW] #receipt [data-field=name]", timeout=READY_MS)
    phone.fill("#receipt [data-field=name]", "my-alpaca")
    press(phone, "#receipt", "begin")
    desk.wait_for_selector("#banner .banner")
    press(desk, "#banner", "show")
    press(desk, "#job", "pause")
    wait_state(phone, "cancelled")
    assert "保留" in text(phone, "#job .ending")
    paused = phone.locator("#job [data-state=cancelled]")
    press_until(phone, "#job button[data-do=resume]", lambda: paused.count() == 0)
    wait_state(desk, "done")
    wait_state(phone, "done")
    assert fits(phone)
    record = json.loads((app.models_dir / "my-alpaca" / "cria.json").read_text(encoding="utf-8"))
    loras = [one for one in record["origins"] if one["role"] == "lora"]
    assert [one["source"] for one in loras] == ["cria/demo-lora", "cria/style-lora"]
    desk.click("#history-box button")
    desk.once("dialog", lambda dialog: dialog.accept())
    desk.locator("#history li", has_text="my-alpaca").locator("button[data-do=delete]").click()
    desk.wait_for_function("!document.querySelector('#history')?.innerText?.includes('my-alpaca')")
    assert (app.models_dir / "my-alpaca").is_dir()
