"""The page's fixed words: catalogue keys as markers that the browser translates. Knows nothing about who uses them.

Text that carries values, and everything that handlers return, comes from ``backend.text.say`` instead.
"""

from functools import cache
from typing import Any

import gradio as gr

from backend.text import LANGUAGES, catalogue

_AREAS = ("ui.", "chat.", "setup.", "fetchui.", "wizard.", "remote.", "loraui.", "quantised.")
_PREFIX = "cria."  # gradio's own words share the name space


def label(key: str) -> Any:
    """Return the marker for a key of one of the page's areas.

    Raises:
        KeyError: no such key in English, the complete language.
    """
    if not key.startswith(_AREAS) or key not in catalogue("en"):
        raise KeyError(key)
    return translations()(_PREFIX + key)


@cache
def translations() -> gr.I18n:
    """Return every fixed word of the page in every language; a word missing in one falls back to English."""
    english = _words("en")
    return gr.I18n(**{language: {**english, **_words(language)} for language in LANGUAGES})


def _words(language: str) -> dict[str, str]:
    """Templates with values are left out: the browser could not fill them."""
    every = catalogue(language).items()
    return {_PREFIX + key: text for key, text in every if key.startswith(_AREAS) and "{" not in text}
