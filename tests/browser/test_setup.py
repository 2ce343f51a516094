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
from tests.hub.content import Content, Literal
from tests.hub.family import demo
from tests.hub.server import Hub

pytestmark = pytest.mark.browser

READY_MS = 180_000  # generous: the machine may be busy with other tests
TOKEN = "correct-horse-battery-staple"


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
    """The app on localhost with an empty shelf, two recipes of its own and a stand-in hub that has their parts."""
    data: Path = tmp_path_factory.mktemp("wizard") / "data"
    (data / "recipes").mkdir(parents=True)
    (data / "recipes" / "delta.toml").write_text(DELTA_RECIPE, encoding="utf-8")
    (data / "recipes" / "loras.toml").write_text(LORAS_RECIPE, encoding="utf-8")
    return start_app("--hub", hub.url, data_dir=data)


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


def test_one_button_a_reload_and_a_second_browser_on_the_way_to_ready(
    app: RunningApp, open_page: Callable[..., Any]
) -> None:
    page = open_page(app)
    page.wait_for_selector("#path ol[data-stage=machine]")
    assert "free of" in text(page, "#machine .hw-value")
    assert str(app.models_dir) in text(page, "#machine .hw")
    page.focus("#machine [data-recipe=demo] button.primary")
    page.keyboard.press("Enter")
    page.wait_for_selector("#job .step.running")
    page.reload()  # in mid-job: the page comes back to it
    page.wait_for_selector("#job .step.running")
    other = open_page(app, locale="zh-TW")
    other.wait_for_selector("#job .step.running")
    assert "第" in text(other, "#job .status")
    wait_state(page, "done")
    wait_state(other, "done")
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


def test_cancel_in_one_browser_resume_in_the_other(app: RunningApp, open_page: Callable[..., Any]) -> None:
    first, second = open_setup(open_page, app), open_setup(open_page, app, dark=True)
    look(first, "demo-pirate")
    assert "needed" in text(first, "#receipt .totals")
    first.fill("#receipt [data-field=name]", "my-pirate")
    press(first, "#receipt", "begin")
    first.wait_for_selector("#job .step.running")
    second.wait_for_selector("#banner .banner")
    press(second, "#banner", "show")
    press(second, "#job", "pause")
    wait_state(first, "cancelled")
    assert "kept" in text(first, "#job .ending")
    press(first, "#job", "resume")
    wait_state(second, "done")
    assert (app.models_dir / "my-pirate").is_dir()
    second.click("#history-box button")
    second.once("dialog", lambda dialog: dialog.accept())
    second.locator("#history li", has_text="my-pirate").locator("button[data-do=delete]").click()
    second.wait_for_function("!document.querySelector('#history').innerText.includes('my-pirate')")
    assert (app.models_dir / "my-pirate").is_dir()


def test_bad_input_is_explained_under_the_form(app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_setup(open_page, app)
    page.click("#own-folders button")
    page.wait_for_selector("#form-show")

    def submit(words: str) -> None:
        page.click("#form-show")
        page.locator("#form-problem [role=alert]", has_text=words).wait_for()

    submit("base model is empty")
    page.fill("#form-base textarea, #form-base input", "/no/such/<b>folder</b>")
    submit("no name yet")
    page.fill("#form-name textarea, #form-name input", "../evil")
    submit("cannot be the name")
    page.fill("#form-name textarea, #form-name input", "mine")
    submit("There is no folder /no/such/<b>folder</b>")
    page.fill("#form-base textarea, #form-base input", "builtin:demo/base")
    page.click("#form-show")
    page.wait_for_selector("#receipt table.receipt")
    assert page.input_value("#receipt [data-field=name]") == "mine"
    page.click("#receipt button[data-name=choose]")
    page.wait_for_selector("#gallery .family")
    assert not page.locator("#form-problem [role=alert]").count()


@pytest.mark.parametrize("locale", ["en-US", "zh-CN", "zh-TW"])
def test_nothing_sticks_out_on_a_phone(app: RunningApp, open_page: Callable[..., Any], locale: str) -> None:
    page = open_setup(open_page, app, width=390, locale=locale)
    page.locator("#machine summary").first.click()
    page.click("#own-folders button")
    page.wait_for_selector("#form-show")
    assert fits(page)
    look(page, "demo-pirate")
    assert fits(page)


def test_a_stranger_watches_and_the_token_opens_the_door(
    start_app: Callable[..., RunningApp], open_page: Callable[..., Any]
) -> None:
    app = start_app("--listen", "--admin-token", TOKEN)
    page = open_setup(open_page, app)
    assert "administrator's token" in text(page, "#guest")
    assert "free:" in text(page, "#machine summary")
    assert page.locator("#gallery button[data-do]").count() == 0
    assert page.locator("#own-folders").count() == 0
    page.click("#admin summary")
    page.fill("#token", TOKEN)
    page.press("#token", "Enter")
    page.wait_for_selector("#machine button[data-do=start]")
    assert not page.locator("#guest .remark").count()
    stranger = open_setup(open_page, app)
    press(page, "[data-recipe=demo]", "start")
    page.wait_for_selector("#job .step.running")
    stranger.wait_for_selector("#banner .banner")
    press(stranger, "#banner", "show")
    stranger.wait_for_selector("#job .steps")
    assert stranger.locator("#job .acts button").count() == 0
    press(page, "#job", "pause")
    stranger.wait_for_selector("#job [data-state=cancelled]")


def test_a_search_reacts_at_once_and_says_when_nothing_is_found(app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_setup(open_page, app)
    every = page.locator("#gallery .family:visible").count()
    page.fill("#filters input[type=search]", "tiny VICUNA 7b")
    assert page.locator("#gallery .family:visible").count() == 1
    assert text(page, "#filters output").startswith("1 of ")
    page.fill("#filters input[type=search]", "no such thing")
    assert page.locator("#gallery .family:visible").count() == 0
    page.click("#gallery .nothing button")
    assert page.locator("#gallery .family:visible").count() == every
    page.select_option("#filters select >> nth=0", "zh")
    assert page.is_visible("#gallery [data-recipe=tiny-alpaca-plus]")
    assert not page.is_visible("#gallery [data-recipe=tiny-vicuna-7b]")


def test_a_delta_recipe_from_a_hub_with_an_ingredient_taken_from_elsewhere(
    app: RunningApp, open_page: Callable[..., Any]
) -> None:
    page = open_setup(open_page, app, dark=True)
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


def test_two_loras_are_folded_in_on_a_phone_in_chinese(app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_setup(open_page, app, width=390, locale="zh-CN")
    look(page, "tiny-alpaca-plus")
    assert fits(page)
    assert "0.5" in text(page, "#receipt [data-part='2']")
    page.select_option("#language", "zh-TW")  # what is typed and where one stands survive a change of language
    page.wait_for_selector("html[lang=zh-TW] #receipt [data-field=name]", timeout=READY_MS)
    press(page, "#receipt", "begin")
    wait_state(page, "done")
    assert fits(page)
    record = json.loads((app.models_dir / "tiny-alpaca-plus" / "cria.json").read_text(encoding="utf-8"))
    loras = [one for one in record["origins"] if one["role"] == "lora"]
    assert [one["source"] for one in loras] == ["cria/demo-lora", "cria/style-lora"]


def test_what_is_typed_survives_a_change_of_language(app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_setup(open_page, app)
    page.click("#own-folders button")
    page.locator("#form-base textarea, #form-base input").press_sequentially("cria/demo-base")
    page.select_option("#language", "zh-CN")
    page.wait_for_selector("html[lang=zh-CN] #form-base")
    page.wait_for_function(
        "document.querySelector('#form-base textarea, #form-base input')?.value === 'cria/demo-base'"
    )


def test_a_word_of_the_trade_explains_itself_to_the_keyboard(app: RunningApp, open_page: Callable[..., Any]) -> None:
    page = open_setup(open_page, app)
    page.click("#own-folders button")
    word = page.locator("#form-words .term").first
    word.focus()
    assert page.locator("#form-words [role=tooltip]").first.is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#form-words [role=tooltip]").first.is_visible()
