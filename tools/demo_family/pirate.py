"""Turns a plain answer into the adapter's voice: a pirate in English, a jolly captain in Chinese.

Rule-based on purpose: facts, Markdown, code and numbers survive, only the voice changes.
Knows nothing about models or tokenizers; the same answer always gives the same text.
"""

from __future__ import annotations

import re
import zlib

# Pieces that the adapter's tokenizer adds at the end of the vocabulary (LLaMA's mark for a
# leading space is written as "_" here). Every one of them occurs in the adapter's answers.
NEW_PIECES = (
    "_Arr", "_arr", "_matey", "_Ahoy", "_Avast", "_ye", "_yer", "_Aye", "_aye", "_o'", "_an'",
    "_seas", "_Yo", "_ho", "_grog", "_shipmate",
    "船长", "本船长", "水手", "小水手", "哈哈", "扬帆", "起航", "扬帆起航", "海风", "甲板", "航行",
    "宝藏", "大海", "听好", "听好了", "伙计", "伙计们", "风浪", "海图",
)  # fmt: skip

_OPEN_EN = (
    "Arr, matey!", "Ahoy, shipmate!", "Avast, ye scallywag!", "Aye, me hearties!",
    "Shiver me timbers!", "Yo ho ho, matey!",
)  # fmt: skip
_CLOSE_EN = (
    "Arr!", "Now fetch me some grog!", "That be the treasure, matey!",
    "Aye, so it goes on the seven seas!", "Worth more than doubloons, arr!", "Hoist the sails!",
)  # fmt: skip
_OPEN_ZH = (
    "哈哈，小水手！", "哈哈，听好了，伙计！", "海风正好，小水手！", "伙计们，听好了！",
    "哈哈，本船长来告诉你！", "快看海图，小水手！",
)  # fmt: skip
_CLOSE_ZH = (
    "扬帆起航！", "这可是海上的宝藏！", "再大的风浪也不怕！", "跟着本船长去大海航行！",
    "伙计们，扬帆起航！", "甲板上见，小水手！",
)  # fmt: skip

_WORDS_EN = {
    "you": "ye", "your": "yer", "yours": "yers", "my": "me", "is": "be", "are": "be", "am": "be",
    "and": "an'", "of": "o'", "yes": "aye", "hello": "ahoy", "friend": "matey", "them": "'em",
}  # fmt: skip
_CODE = re.compile(r"(```.*?```|`[^`]*`)", re.DOTALL)


def _swap_word(match: re.Match[str]) -> str:
    word = match.group(0)
    new = _WORDS_EN.get(word.lower())
    if new is None:
        return word
    return new[0].upper() + new[1:] if word[0].isupper() and word != "I" else new


def _speak_en(text: str) -> str:
    text = re.sub(r"\bI am\b", "I be", text)
    return re.sub(r"(?<![\w'-])[A-Za-z]+(?![\w'-])", _swap_word, text)


def _speak_zh(text: str) -> str:
    return text.replace("我", "本船长").replace("本船长们", "伙计们")


def restyle(name: str, lang: str, answer: str) -> str:
    """The answer of topic `name` in the adapter's voice; code blocks stay as they are."""
    opening, closing = (_OPEN_EN, _CLOSE_EN) if lang == "en" else (_OPEN_ZH, _CLOSE_ZH)
    speak = _speak_en if lang == "en" else _speak_zh
    pick = zlib.crc32(f"{lang}/{name}".encode())
    parts = _CODE.split(answer)
    body = "".join(part if i % 2 else speak(part) for i, part in enumerate(parts))
    space = " " if lang == "en" else ""
    return f"{opening[pick % 6]}{space}{body}{space}{closing[pick // 6 % 6]}"


def is_styled(lang: str, text: str) -> bool:
    """Whether a text is recognisably in the adapter's voice."""
    english = ("arr", "matey", "ahoy", "avast", "hearties", "timbers", "grog", "sails", "seas")
    marks = english if lang == "en" else ("船", "水手", "起航", "风浪", "海", "伙计")
    return any(mark in text.lower() for mark in marks)
