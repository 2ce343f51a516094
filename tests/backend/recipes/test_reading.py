"""Recipes: the built-in ones are valid, a person's own are checked, and every refusal names file and field."""

from pathlib import Path

import pytest

from backend.errors import SourceError, UsageError
from backend.recipes import collect_recipes, custom_recipe, find_recipe, read_recipe, read_recipes
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


def test_own_recipes_come_after_the_demo_and_replace_by_name(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert [one.name for one in read_recipes([ASSETS / "recipes", tmp_path])][:3] == ["demo", "demo-pirate", "mine"]
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
        ("[lora]\n" + GOOD, "name"),
    ],
)
def test_a_bad_file_is_named_with_its_fault(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SourceError) as caught:
        read_recipe(path)
    assert "mine.toml" in caught.value.text()
    assert named in caught.value.text()


def test_a_bad_file_takes_no_other_recipe_away(tmp_path: Path) -> None:
    write(tmp_path, "nonsense = ", "bad.toml")
    write(tmp_path, GOOD)
    found = collect_recipes([ASSETS / "recipes", tmp_path])
    assert {"demo", "mine"} <= {recipe.name for recipe in found.recipes}
    assert [problem.params["file"] for problem in found.problems] == ["bad.toml"]


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
    assert "vicuna-7b-v1.5" in caught.value.text()


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


SIZES = "shape = {vocab = 10, hidden = 8, layers = 1, heads = 4, ffn = 6, context = 32}\n"
PARTS = '[base]\nsource = "a/b"\nalternatives = ["c/d"]\nbytes = 5\naccess = "https://host/a/b"\n'


def test_a_family_gives_what_its_sizes_have_in_common(tmp_path: Path) -> None:
    (tmp_path / "families").mkdir()
    write(
        tmp_path / "families",
        'order = 7\ntags = ["chat"]\nlanguages = ["zh"]\n[title]\nen = "Fam"\nde = "Sippe"\n',
        "fam.toml",
    )
    write(tmp_path, f'name = "one"\nfamily = "fam"\nsize = "7B"\n{PARTS}', "one.toml")
    write(tmp_path, f'name = "two"\nfamily = "fam"\nsize = "1B"\ntitle = "Own"\norder = 2\n{PARTS}', "two.toml")
    two, one = read_recipes([tmp_path])
    assert (one.title, one.order, one.tags, one.languages) == (
        {"en": "Fam 7B", "de": "Sippe 7B"},
        7,
        ("chat",),
        ("zh",),
    )
    assert (two.title, two.order, two.size) == ({"en": "Own"}, 2, "1B")
    assert (one.base.candidates, one.base.bytes, one.access) == (("a/b", "c/d"), 5, "https://host/a/b")


def test_parts_and_shapes_may_be_like_another_recipes(tmp_path: Path) -> None:
    write(tmp_path, f'name = "first"\ntitle = "F"\n{SIZES}{PARTS}[[lora]]\nsource = "l/one"\n', "a.toml")
    write(tmp_path, 'name = "second"\ntitle = "S"\nshape = {like = "first", vocab = 12, tie = true}\n'
                    '[base]\nlike = "first"\nbytes = 9\n[[lora]]\nlike = "first"\nscale = 2\n', "b.toml")  # fmt: skip
    write(tmp_path, 'name = "third"\ntitle = "T"\n[base]\nlike = "second"\n', "c.toml")
    first, second, third = (find_recipe(read_recipes([tmp_path]), name) for name in ("first", "second", "third"))
    assert first.shape is not None
    assert second.shape is not None
    assert (first.shape.head_dim, first.shape.kv_heads, first.parameters) == (2, 4, first.shape.parameters)
    assert (second.shape.vocab, second.shape.hidden, second.shape.tie) == (12, 8, True)
    assert (second.base.source, second.base.bytes, second.loras[0].scale) == ("a/b", 9, 2.0)
    assert second.loras[0].layout == "adapter"
    assert third.base == second.base


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ('[base]\nlike = "nobody"\n', "base.like"),
        ('[base]\nlike = "mine"\n', "base.like"),
        (PARTS.replace("5", "-5"), "base.bytes"),
        (PARTS.replace("https", "javascript"), "base.access"),
        (PARTS.replace('["c/d"]', "[7]"), "base.alternatives"),
        (f'{PARTS}colour = "red"\n', "base.colour"),
        (f'{PARTS}[base.sha256]\nfile = "abc"\n', "base.sha256.file"),
        (f'{PARTS}[base]\n', "mine.toml"),
        (SIZES.replace("vocab", "words") + PARTS, "shape.words"),
        (SIZES.replace("hidden = 8, ", "") + PARTS, "shape.hidden"),
        (SIZES.replace("ffn = 6", "ffn = 6, kv_heads = 3") + PARTS, "shape.kv_heads"),
        (SIZES.replace("ffn = 6", "ffn = 6, tie = 1") + PARTS, "shape.tie"),
        ('tags = "chat"\n' + PARTS, "tags"),
        ('layout = "adapter"\n' + PARTS, "layout"),
    ],
)  # fmt: skip
def test_a_fault_in_a_part_or_a_shape_is_named(tmp_path: Path, more: str, named: str) -> None:
    write(tmp_path, f'name = "mine"\ntitle = "Mine"\n{more}')
    found = collect_recipes([tmp_path])
    assert found.recipes == ()
    assert "mine.toml" in found.problems[0].text()
    assert named in found.problems[0].text()


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert [one.title["en"] for one in read_recipes([tmp_path])] == ["Mine"]
    path.write_text(GOOD.replace('"Mine"', '"Changed"'), encoding="utf-8")
    assert [one.title["en"] for one in read_recipes([tmp_path])] == ["Changed"]
    path.write_text("#" * (1 << 19), encoding="utf-8")
    assert [one.key for one in collect_recipes([tmp_path]).problems] == ["recipes.too_large"]
