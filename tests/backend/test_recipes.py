"""Recipes: the built-in ones are valid, a person's own are checked, and every refusal names file and field."""

from pathlib import Path

import pytest

from backend.errors import SourceError, UsageError
from backend.recipes import custom_recipe, find_recipe, read_recipe, read_recipes
from backend.settings import ASSETS

GOOD = 'name = "mine"\ntitle = "Mine"\n[base]\nsource = "/weights/base"\n'


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_demo_is_recommended_and_first() -> None:
    recipes = read_recipes([ASSETS / "recipes"])
    assert recipes[0].name == "demo"
    assert recipes[0].recommended
    assert recipes[0].delta is not None


def test_every_built_in_recipe_speaks_all_languages() -> None:
    for recipe in read_recipes([ASSETS / "recipes"]):
        for texts in (recipe.title, recipe.about, recipe.good_for):
            assert set(texts) == {"en", "zh-CN", "zh-TW"}, recipe.name


def test_own_recipes_come_last_and_replace_by_name(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    write(tmp_path, GOOD.replace("mine", "demo"), "demo.toml")
    recipes = read_recipes([ASSETS / "recipes", tmp_path])
    assert find_recipe(recipes, "demo").title == {"en": "Mine"}
    assert find_recipe(recipes, "mine").base.source == "/weights/base"


def test_a_missing_folder_has_no_recipes(tmp_path: Path) -> None:
    assert read_recipes([tmp_path / "nowhere"]) == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("name = ", "mine.toml"),
        ("colour = 1\n" + GOOD, "colour"),
        ('name = "mine"\n[base]\nsource = "x"', "title"),
        (GOOD.replace('source = "/weights/base"', ""), "base.source"),
        (GOOD.replace('"Mine"', '{de = "Meins"}'), "title.en"),
        (GOOD.replace("[base]\nsource", "base"), "base"),
        ('order = "q"\n' + GOOD, "order"),
        ("lora = [3]\n" + GOOD, "lora.source"),
        ('context = "long"\n' + GOOD, "context"),
        ("[lora]\n" + GOOD, "title"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SourceError) as caught:
        read_recipe(path)
    assert "mine.toml" in caught.value.text()
    assert named in caught.value.text()


def test_a_bad_file_takes_no_other_recipe_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "nonsense = ", "bad.toml")
    write(tmp_path, GOOD)
    names = [recipe.name for recipe in read_recipes([ASSETS / "recipes", tmp_path])]
    assert {"demo", "mine"} <= set(names)
    assert "bad.toml" in caplog.text


def test_loras_with_and_without_a_scale(tmp_path: Path) -> None:
    text = GOOD + '[[lora]]\nsource = "/a"\n[[lora]]\nsource = "/b"\nscale = 2\n'
    assert [(part.source, part.scale) for part in read_recipe(write(tmp_path, text)).loras] == [
        ("/a", None),
        ("/b", 2.0),
    ]


def test_number_format_layout_and_rule_are_read(tmp_path: Path) -> None:
    text = 'dtype = "bfloat16"\nlayout = "meta"\n' + GOOD + '[delta]\nsource = "/d"\nrule = "mean"\n'
    recipe = read_recipe(write(tmp_path, text))
    assert recipe.delta is not None
    assert (recipe.dtype, recipe.layout, recipe.delta.rule) == ("bfloat16", "meta", "mean")
    plain = read_recipe(write(tmp_path, GOOD))
    assert (plain.dtype, plain.layout) == (None, "huggingface")


@pytest.mark.parametrize("line", ['dtype = "int3"', 'layout = "gguf"', "dtype = 16"])
def test_a_number_format_or_layout_that_is_not_known_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(SourceError) as caught:
        read_recipe(write(tmp_path, f"{line}\n{GOOD}"))
    assert line.split()[0] in caught.value.text()


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        find_recipe(read_recipes([ASSETS / "recipes"]), "vicuna-900b")
    assert "vicuna-900b" in caught.value.text()
    assert "demo" in caught.value.text()


@pytest.mark.parametrize("name", ["", "..", "a/b", "UPPER", "-x", "a..b", "x" * 65, "a b", "中文"])
def test_a_name_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        custom_recipe(name, base="/b")


@pytest.mark.parametrize("scale", ["abc", "nan", "-0.5", "0,5", ""])
def test_a_scale_that_is_no_number_is_named(scale: str) -> None:
    with pytest.raises(UsageError) as caught:
        custom_recipe("mine", base="/b", loras=[f"/lora/a:{scale}"])
    assert (caught.value.key, caught.value.params["source"]) == ("recipes.bad_scale", "/lora/a")


def test_a_folder_with_a_colon_in_its_name_can_be_given() -> None:
    assert custom_recipe("mine", base="/b", loras=["/lora/a:b/"]).loras[0].source == "/lora/a:b/"


def test_lora_scales_are_read_and_paths_with_colons_kept() -> None:
    recipe = custom_recipe("mine", base="/b", loras=["/l1:0.5", "/l2", "C:/l3"])
    assert [(part.source, part.scale) for part in recipe.loras] == [("/l1", 0.5), ("/l2", None), ("C:/l3", None)]
