"""Finding recipes by words, language and size, and putting sources of one's own into them."""

from dataclasses import replace

import pytest

from backend.errors import UsageError
from backend.recipes import Part, Recipe, find_recipe, search_recipes

VICUNA = Recipe(
    "vicuna-7b", {"en": "Vicuna 7B", "zh-CN": "小羊驼"}, Part("a/llama", alternatives=("b/llama",), bytes=5, access="https://x"),
    Part("a/delta", rule="zero", bytes=3), (Part("a/one", 0.5, bytes=2), Part("a/two", bytes=2)),
    languages=("en",), size="7B", tags=("chat",),
)  # fmt: skip
QWEN = replace(VICUNA, name="qwen", title={"en": "Qwen"}, base=Part("q/w"), delta=None, loras=(),
               languages=("zh-Hans", "en"), size="1.5B", tags=())  # fmt: skip


def names(*words: str, language: str = "", size: str = "") -> list[str]:
    return [one.name for one in search_recipes((VICUNA, QWEN), words, language=language, size=size)]


def test_every_word_must_be_there_in_any_language_of_the_page() -> None:
    assert names() == ["vicuna-7b", "qwen"]
    assert names("VICUNA", "chat") == names("小羊驼") == names("a/delta") == ["vicuna-7b"]
    assert names("vicuna", "qwen") == []


def test_a_size_among_the_words_means_that_size() -> None:
    mentions = replace(QWEN, about={"en": "The only one that comes in 7B."})
    assert [one.name for one in search_recipes((mentions, VICUNA), ["7b"])] == ["vicuna-7b"]
    assert [one.name for one in search_recipes((mentions, VICUNA), ["1.5b"])] == ["qwen"]


def test_what_is_called_so_comes_before_what_only_mentions_it() -> None:
    mentions = replace(QWEN, name="demo", about={"en": "A Vicuna-style delta."})
    found = search_recipes((mentions, VICUNA), ["vicuna"])
    assert [one.name for one in found] == ["vicuna-7b", "demo"]
    assert search_recipes((mentions, VICUNA)) == (mentions, VICUNA)


def test_language_and_size_are_exact() -> None:
    assert names(language="zh-TW") == names(size="1.5b") == ["qwen"]
    assert names(language="en") == ["vicuna-7b", "qwen"]
    assert names(size="5B") == []


def test_ones_own_sources_take_the_place_of_the_recipes() -> None:
    mine = VICUNA.with_sources(base="/data/7B", loras=["/mine/one", Part("/mine/two", 2.0)])
    assert mine.base == Part("/data/7B")  # nothing is known of it beforehand, and there is no other place for it
    assert mine.delta == VICUNA.delta
    assert [(one.source, one.scale) for one in mine.loras] == [("/mine/one", 0.5), ("/mine/two", 2.0)]
    delta = VICUNA.with_sources(delta="/d").delta
    assert delta is not None
    assert (delta.source, delta.rule, delta.bytes) == ("/d", "zero", None)
    assert VICUNA.access == "https://x"
    assert mine.access == ""
    assert VICUNA.with_sources() == VICUNA


def test_what_has_no_place_in_a_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match="has no delta"):
        QWEN.with_sources(delta="/d")
    with pytest.raises(UsageError, match="2 LoRAs"):
        VICUNA.with_sources(loras=["/one"])


def test_a_slip_of_the_pen_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(UsageError) as caught:
        find_recipe((QWEN, VICUNA), "vicunia-7B")
    assert str(caught.value.params["known"]).startswith("vicuna-7b")


def test_of_many_recipes_a_few_are_named_and_the_rest_counted() -> None:
    many = [replace(QWEN, name=f"model-{number}") for number in range(30)]
    with pytest.raises(UsageError) as caught:
        find_recipe(many, "nothing")
    assert (str(caught.value.params["known"]).count("model-"), caught.value.params["count"]) == (8, 30)
    assert "app.py recipes" in caught.value.text("en")
