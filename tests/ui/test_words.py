"""The page's words: markers for what is fixed, the same keys and placeholders in every language."""

import re
import string

import pytest

from backend.text import LANGUAGES, catalogue
from ui.i18n import label, translations

AREAS = ("ui.", "chat.", "replies.")


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_every_language_says_the_same_with_the_same_values(language: str) -> None:
    english = {key: text for key, text in catalogue("en").items() if key.startswith(AREAS)}
    other = {key: text for key, text in catalogue(language).items() if key.startswith(AREAS)}
    assert set(english) == set(other)
    for key, text in english.items():
        assert fields(text) == fields(other[key]), key


def test_fixed_words_are_translated_by_the_browser() -> None:
    for language in LANGUAGES:
        words = translations().translations_dict[language]
        assert words["cria.chat.send"] == catalogue(language)["chat.send"]
        assert not any("{" in text for text in words.values())


@pytest.mark.parametrize("key", ["chat.nothing_like_it", "error.unexpected.say"])
def test_a_key_that_is_not_the_pages_is_refused(key: str) -> None:
    with pytest.raises(KeyError):
        label(key)


def test_no_traditional_text_is_left_in_simplified_and_the_other_way_round() -> None:
    simplified = "".join(text for key, text in catalogue("zh-CN").items() if key.startswith(AREAS))
    traditional = "".join(text for key, text in catalogue("zh-TW").items() if key.startswith(AREAS))
    assert not re.search("[載輸訊權憶體對話這個將說應該為]", simplified)
    assert not re.search("[载输讯权忆体对话这个将说应该为]", traditional)
