"""Every recipe that ships with Cria: it loads, its figures fit each other, and its plan needs no network."""

import ast
import re
from collections.abc import Callable

import pytest

from backend.errors import SourceError
from backend.plan import Plan, estimate_plan
from backend.recipes import ADAPTER, META, Recipe, collect_recipes
from backend.settings import ASSETS, ROOT
from backend.sources.spec import Local, Repository, parse
from backend.weights.known_adapters import AFTER_CHINESE_LLAMA_PLUS, CHINESE_ALPACA_ROWS, ON_LLAMA
from backend.weights.templates import NAMES

LANGUAGES = {"en", "zh-CN", "zh-TW"}
SHELF = collect_recipes([ASSETS / "recipes"])
EVERY = {recipe.name: recipe for recipe in SHELF.recipes}
REAL = [recipe for recipe in SHELF.recipes if recipe.family]  # all but the demo
FAMILIES = {recipe.family for recipe in REAL}


def test_all_files_are_recipes() -> None:
    assert SHELF.problems == ()
    files = {path.stem for path in (ASSETS / "recipes").glob("*.toml")}
    assert files == set(EVERY)  # a file is called what its recipe is called
    assert {path.stem for path in (ASSETS / "recipes" / "families").glob("*.toml")} == FAMILIES


def test_the_demo_comes_first_and_is_the_only_recommended_one() -> None:
    assert [recipe.name for recipe in SHELF.recipes if recipe.recommended] == ["demo"]
    assert SHELF.recipes[0].name == "demo"


def test_families_stand_together_smallest_first() -> None:
    order = [recipe.family for recipe in REAL]
    assert len([one for one, before in zip(order, [None, *order], strict=False) if one != before]) == len(FAMILIES)
    for family in FAMILIES:
        sizes = [recipe for recipe in REAL if recipe.family == family]
        assert [one.parameters for one in sizes] == sorted(one.parameters or 0 for one in sizes)
        assert len({one.size + one.name for one in sizes}) == len(sizes)
        assert len({(one.template, one.languages, one.tags, one.delta is None, len(one.loras)) for one in sizes}) == 1


def its_texts_are_there_in_every_language_and_short(recipe: Recipe) -> None:
    for texts in (recipe.title, recipe.about, recipe.good_for, recipe.licence):
        assert set(texts) == LANGUAGES
        assert all(0 < len(text) <= 200 for text in texts.values())
    assert recipe.template is None or recipe.template in NAMES
    assert recipe.languages


def its_size_is_that_of_its_shape(recipe: Recipe) -> None:
    assert recipe.shape is not None
    assert recipe.size
    assert recipe.parameters == recipe.shape.parameters
    said = float(recipe.size[:-1]) * {"B": 1e9, "M": 1e6}[recipe.size[-1]]
    assert recipe.parameters == pytest.approx(said, rel=0.31)  # people round; small models have large vocabularies
    assert recipe.shape.context <= 131072


def the_bytes_of_its_sources_are_those_of_their_weights(recipe: Recipe) -> None:
    assert recipe.shape is not None
    shape, base = recipe.shape, recipe.base.bytes
    assert base is not None
    head = shape.vocab * shape.hidden
    whole = [shape.parameters, shape.parameters + head] if shape.tie else [shape.parameters]
    before = 2 * head - 2 * min(shape.vocab, 32000) * shape.hidden  # what LoRAs and deltas add to the vocabulary
    counts = [*whole, shape.parameters - before] if len(recipe.parts) > 1 else whole
    assert any(base == pytest.approx(count * width, rel=0.001) for count in counts for width in (2, 4))
    if recipe.delta:
        assert recipe.delta.bytes == pytest.approx(
            shape.parameters * (4 if recipe.name == "alpaca-7b" else 2), rel=1e-3
        )
    for lora in recipe.loras:
        assert lora.bytes is not None
        assert 0.002 < lora.bytes / base < 0.1
        assert lora.layout == ADAPTER
    if before and recipe.loras:
        assert sum(lora.bytes or 0 for lora in recipe.loras) > 4 * head


def every_place_it_names_is_understood(recipe: Recipe) -> None:
    for part in recipe.parts:
        found = [parse(spec) for spec in part.candidates]
        assert all(isinstance(one, Repository) for one in found)
        assert len(set(part.candidates)) == len(part.candidates)
        assert not part.access or part.access.endswith(part.source)
        assert not part.access or len(part.candidates) > 1  # who has no access gets on


def its_plan_is_estimated_without_a_network(recipe: Recipe) -> None:
    plan = estimate_plan(recipe)
    assert plan.estimated
    assert plan.download_bytes == sum(part.bytes or 0 for part in recipe.parts)
    made = plan.disk_bytes - plan.download_bytes
    assert recipe.parameters is not None
    assert made == pytest.approx(
        recipe.parameters * (4 if recipe.base.bytes == 4 * recipe.parameters else 2), rel=0.27
    ) or (recipe.name == "alpaca-7b" and made == pytest.approx(recipe.parameters * 4, rel=0.01))
    assert plan.seconds > 10
    assert made <= plan.lean_disk_bytes <= plan.disk_bytes
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.sources == [part.source for part in recipe.parts]


CHECKS = (its_texts_are_there_in_every_language_and_short, its_size_is_that_of_its_shape,
          the_bytes_of_its_sources_are_those_of_their_weights, every_place_it_names_is_understood,
          its_plan_is_estimated_without_a_network)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_real_recipe(check: Callable[[Recipe], None]) -> None:
    assert len(REAL) > 90
    for recipe in REAL:
        try:
            check(recipe)
        except AssertionError as problem:
            raise AssertionError(f"{recipe.name}: {problem}") from problem


def test_the_demos_speak_every_language() -> None:
    for name in ("demo", "demo-pirate"):
        its_texts_are_there_in_every_language_and_short(EVERY[name])


def test_the_demo_is_planned_exactly() -> None:
    plan = estimate_plan(EVERY["demo"])
    assert not plan.estimated
    assert isinstance(parse(EVERY["demo"].base.source), Local)


def test_chinese_adapters_come_in_the_order_that_their_authors_name() -> None:
    stacks = [recipe for recipe in REAL if recipe.family.startswith("chinese-") and recipe.base == _llama(recipe)]
    assert len(stacks) == 15
    for recipe in stacks:
        sums = [lora.sha256["adapter_model.bin"] for lora in recipe.loras]
        known = [(AFTER_CHINESE_LLAMA_PLUS | ON_LLAMA)[one].lower() for one in sums]
        assert known[-1] == recipe.name
        if sums[-1] in AFTER_CHINESE_LLAMA_PLUS:
            assert known[0] == f"chinese-llama-plus-{recipe.size.lower()}"
        assert len(sums) == (2 if sums[-1] in AFTER_CHINESE_LLAMA_PLUS else 1)
        assert recipe.shape is not None
        assert (recipe.shape.vocab == CHINESE_ALPACA_ROWS) is (recipe.template == "chinese-alpaca")


def _llama(recipe: Recipe) -> object:
    return EVERY[f"llama-{ {'33b': '30b'}.get(recipe.size.lower(), recipe.size.lower()) }"].base if recipe.size in (
        "7B", "13B", "33B") else None  # fmt: skip


def test_metas_files_have_their_published_sums() -> None:
    for name in ("llama-7b-meta", "llama-13b-meta"):
        base = EVERY[name].base
        assert base.layout == META
        assert [*base.sha256] == [f"consolidated.{number:02d}.pth" for number in range(len(base.sha256))]
        assert estimate_plan(EVERY[name]).steps[1].title.key == "steps.merge_convert"


def test_every_kind_is_one_that_the_engine_runs() -> None:
    source = ROOT / "backend" / "engines" / "transformers_server" / "other_kinds.py"  # importing it takes seconds
    listed = re.search(r"^_DECODERS = (\(.*?\))$", source.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert listed is not None
    runs = {"llama", "t5", *ast.literal_eval(listed[1])}
    assert {recipe.shape.kind for recipe in REAL if recipe.shape} <= runs


def test_without_figures_a_remote_source_cannot_be_estimated() -> None:
    with pytest.raises(SourceError) as caught:
        estimate_plan(EVERY["vicuna-7b-v1.1"].with_sources(delta="somebody/else"))
    assert caught.value.key == "plan.no_figures"
