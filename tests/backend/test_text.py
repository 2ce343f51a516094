"""The catalogue: languages say the same things, every key in the code exists, numbers are formatted in one place."""

import re
import string
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import CriaError, WeightsError, error_from_json, unexpected
from backend.settings import ROOT
from backend.text import (
    LANGUAGES,
    LOCALES,
    Message,
    catalogue,
    guess,
    pick_language,
    plain_lines,
    say,
    started_as,
    tell,
)

ENGLISH = catalogue("en")
OTHERS = [language for language in LANGUAGES if language != "en"]


def fields(template: str) -> set[str]:
    return {f"{name}:{spec}" for _, name, spec, _ in string.Formatter().parse(template) if name is not None}


@pytest.mark.parametrize("language", OTHERS)
def test_every_language_has_every_key(language: str) -> None:
    theirs = catalogue(language)
    assert sorted(set(ENGLISH) - set(theirs)) == []
    assert sorted(set(theirs) - set(ENGLISH)) == []


@pytest.mark.parametrize("language", OTHERS)
def test_every_language_names_the_same_values(language: str) -> None:
    theirs = catalogue(language)
    differing = {key for key in ENGLISH if key in theirs and fields(ENGLISH[key]) != fields(theirs[key])}
    assert differing == set()


# Characters that only the simplified script has, of those that are written often.
SIMPLIFIED = frozenset(
    "这们来说时为对发经还过进动开关问题样无没见观觉个么从会东车长门马书买卖产亲亿仅价众优伤传体侧债储兴养内写军农"
    "减准几击则刚创别办务势华单卫历厉压县参双变号听吗员响团园围国图圆场坏块坚备处头够奖学宁宝实审宽导寿将尔尽层属"
    "岁币师帐带帮归当录忆怀态总惊惯愿户执扩扫扬护报担择挂换据损摆数断旧显权条极构标栈样检欢气汇汉沟测济温湿满滤灭"
    "灵点炼热爱爷状独环现电疗监盖盘码确种积称稳窗笔签简类粮级纪纯线练组细织终绍结给络绝统继绩续维综编缓缩缺网罗义"
    "习职联聪脑节荐获虑虽补装视规览计订认让议记讲许论设访证评识译试话该详语误请诸读课谁调谈谢谱负责败货质购费资赋"
    "赛跃车转轮软轻载较输边达运违连迟适选递邮释针钟钮钱链锁错锅键镜闪闭间闻队阳阴阶际险随隐难页项顺须预领频颜风饭"
    "馆驱验骑鱼鸟黄齐龙"
) - frozenset("准户据气几内窗缺")  # some of these are right in Taiwan too


def texts(table: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield every (name, text) of a TOML file."""
    if isinstance(table, dict):
        for key, value in table.items():
            yield from texts(value, key)
    elif isinstance(table, str):
        yield name, table


def test_traditional_texts_have_no_simplified_characters() -> None:
    found, looked = [], 0
    for path in (ROOT / "assets").rglob("*.toml"):
        for name, text in texts(tomllib.loads(path.read_text(encoding="utf-8"))):
            if "zh-TW" in (name, *path.parts):
                looked += 1
                if wrong := SIMPLIFIED & set(text):
                    found.append((path.name, text, wrong))
    assert looked > 1500
    assert found == []


def test_every_error_with_a_hint_also_says_what_is_wrong() -> None:
    hints = {key.removesuffix(".hint") for key in ENGLISH if key.endswith(".hint")}
    assert {key for key in hints if f"{key}.say" not in ENGLISH} == set()


def used_keys() -> dict[str, Path]:
    """Every string literal in the code that looks like a key of a known area."""
    areas = {path.stem for path in (LOCALES / "en").glob("*.toml")}
    pattern = re.compile(r'"((?:' + "|".join(sorted(areas)) + r')(?:\.[a-z0-9_]+)+)"')
    found: dict[str, Path] = {}
    for path in [ROOT / "app.py", *(ROOT / "backend").rglob("*.py"), *(ROOT / "ui").rglob("*.py")]:
        for key in pattern.findall(path.read_text(encoding="utf-8")):
            found[key] = path
    return found


def test_every_key_in_the_code_is_in_the_catalogue() -> None:
    used = used_keys()
    assert len(used) > 50
    endings = (
        ".py",
        ".sqlite",
        ".json",
        ".toml",
        ".log",
        "chat.completion",
        "chat.completion.chunk",
    )  # files, OpenAI's words
    missing = {
        key: path.name
        for key, path in used.items()
        if key not in ENGLISH and f"{key}.say" not in ENGLISH and not key.endswith(endings)
        and not any(known.startswith(f"{key}.") for known in ENGLISH)
    }  # fmt: skip
    assert missing == {}


def test_numbers_are_formatted_by_the_catalogue() -> None:
    text = say("en", "plan.disk.say", need=13.5e9, free=2e9, folder="/data")
    assert "13.5 GB" in text
    assert "2.0 GB" in text
    assert "/data" in text


def test_a_sentence_within_a_sentence_comes_to_an_end() -> None:
    """Even where another process names the sentence itself as its cause."""
    assert say("en", "attach.unfit.say", lora="ada", why="attach.unfit").count("ada") == 2
    assert say("en", "attach.unfit.say", lora="ada", why="attach.none", name="x").endswith(
        say("en", "attach.none.say", name="x")
    )


def test_short_guesses_are_not_numbers() -> None:
    assert guess("en", 0.02) == "a moment"
    assert guess("en", 42) == "about 42 s"


def test_braces_in_a_value_are_left_alone() -> None:
    assert "{0.__class__}" in say("en", "recipes.unknown.say", name="{0.__class__}")


def test_half_a_character_from_a_hostile_file_can_be_printed_and_stored() -> None:
    text = say("en", "recipes.unknown.say", name="bad \ud800 name")
    assert text.encode("utf-8")
    assert "bad" in text


@pytest.mark.parametrize(("interpreter", "command"), [
    (str(ROOT / ".venv" / "bin" / "python"), ".venv/bin/python app.py"),
    ("/usr/bin/python3", "python3 app.py"),
    ("/home/somebody/secret/bin/python", "python app.py"),
    ("", "python app.py"),
])  # fmt: skip
def test_a_command_is_named_as_it_was_started_without_folders_of_strangers(interpreter: str, command: str) -> None:
    assert started_as(interpreter) == command


def test_hints_name_the_command_in_every_language() -> None:
    for language in LANGUAGES:
        texts = [text for text in catalogue(language).values() if "app.py" in text]
        assert [text for text in texts if "python app.py" in text] == []
        assert f"{started_as(sys.executable)} setup demo" in say(language, "cli.models.none")


def test_a_missing_value_shows_its_name_instead_of_failing() -> None:
    assert "{name}" in say("en", "recipes.unknown.say")


def test_another_language_falls_back_to_english() -> None:
    assert say("fr", "plan.exists.say", name="x") == say("en", "plan.exists.say", name="x")


@pytest.mark.parametrize(
    ("chosen", "accepted", "language"),
    [
        (None, "zh-CN,zh;q=0.9", "zh-CN"),
        (None, "zh", "zh-CN"),
        (None, "zh-HK,en;q=0.5", "zh-TW"),
        (None, "zh-Hant-SG", "zh-TW"),
        (None, "zh_TW.UTF-8", "zh-TW"),
        (None, "de-DE,zh;q=0.1", "en"),
        (None, None, "en"),
        (None, "C.UTF-8", "en"),
        ("zh-TW", "en-GB", "zh-TW"),
        ("xx", "zh-CN", "zh-CN"),
    ],
)
def test_language_choice(chosen: str | None, accepted: str | None, language: str) -> None:
    assert pick_language(chosen, accepted) == language


def test_a_message_survives_json() -> None:
    message = Message("plan.exists.say", {"name": "demo"})
    assert Message.from_json(message.to_json()) == message
    assert "demo" in tell("en", message)


def test_an_error_survives_json_with_its_class() -> None:
    problem = WeightsError("plan.exists", name="demo")
    again = error_from_json(problem.to_json())
    assert type(again) is WeightsError
    assert again.text() == problem.text()
    assert again.hint is not None


def test_an_error_kind_from_a_newer_cria_is_still_readable() -> None:
    again = error_from_json({"kind": "Newer", "key": "plan.exists", "params": {"name": "x"}})
    assert type(again) is CriaError


def test_an_unplanned_exception_becomes_a_sentence() -> None:
    text = unexpected(ValueError("bad thing")).text()
    assert "ValueError" in text
    assert "bad thing" in text


@pytest.mark.parametrize("value", ["a\nb", "a\x1b[31mb", "a\0b", "a\u202eb", "a\u2028b", "a\ud800b", "a\x9bb"])
def test_a_value_cannot_say_something_else_than_its_sentence(value: str) -> None:
    text = WeightsError("weights.tensor_missing", name=value).text()
    assert len(text.splitlines()) == 2
    assert value[1] not in text.splitlines()[0]
    assert "\\" in text
    text.encode("utf-8")
    assert "骆马 é 🦙" in say("en", "weights.tensor_missing.say", name="骆马 é 🦙")


def test_an_answer_keeps_its_lines_and_loses_its_terminal_commands() -> None:
    assert plain_lines("Hi.\n\t- a\x1b[2J\u202e") == "Hi.\n\t- a\\x1b[2J\\u202e"
