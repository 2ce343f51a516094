"""Colours that carry words reach WCAG AA (4.5:1), and marks 3:1, in both themes; worked out from the theme itself."""

import re

import pytest

from backend.settings import ASSETS
from ui.theme import build_theme

# text over background, as variables of the theme; each pair is checked in light and in dark
TEXT = [
    ("body_text_color", "body_background_fill"),
    ("body_text_color", "block_background_fill"),
    ("body_text_color", "background_fill_secondary"),
    ("body_text_color_subdued", "body_background_fill"),
    ("body_text_color_subdued", "block_background_fill"),
    ("block_title_text_color", "block_background_fill"),
    ("block_info_text_color", "block_background_fill"),
    ("block_label_text_color", "block_background_fill"),
    ("button_primary_text_color", "button_primary_background_fill"),
    ("button_primary_text_color", "button_primary_background_fill_hover"),
    ("button_secondary_text_color", "button_secondary_background_fill"),
    ("button_secondary_text_color", "button_secondary_background_fill_hover"),
    ("button_cancel_text_color", "button_cancel_background_fill"),
    ("button_cancel_text_color", "button_cancel_background_fill_hover"),
    ("link_text_color", "block_background_fill"),
    ("link_text_color", "body_background_fill"),
    ("input_placeholder_color", "input_background_fill"),
]
# what is only seen: rings of focus, bars; the colours of verdicts stand beside their word
LIGHT_MARKS, DARK_MARKS = ("color_accent", "*primary_700"), ("*primary_400",)


def colour(name: str, *, dark: bool) -> str:
    """Return a variable's colour, followed through the names it points to."""
    theme = build_theme()
    value = getattr(theme, f"{name}_dark", None) if dark else None
    value = value or getattr(theme, name, None) or getattr(theme, f"{name}_dark", None)
    while str(value).startswith("*"):
        name = str(value)[1:]
        value = (getattr(theme, f"{name}_dark", None) if dark else None) or getattr(theme, name)
    return {"white": "#ffffff", "black": "#000000"}.get(str(value), str(value))


def luminance(text: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    found = re.fullmatch(r"#([0-9a-f]{6})", text.lower())
    assert found, text
    parts = [int(found[1][at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, two: str) -> float:
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_measure_itself() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("text", "under"), TEXT)
def test_every_pair_that_carries_words_can_be_read(text: str, under: str, dark: bool) -> None:
    assert contrast(colour(text, dark=dark), colour(under, dark=dark)) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("under", ["body_background_fill", "block_background_fill"])
def test_bars_and_rings_of_focus_are_seen(under: str, dark: bool) -> None:
    for mark in DARK_MARKS if dark else LIGHT_MARKS:
        assert contrast(colour(mark.lstrip("*"), dark=dark), colour(under, dark=dark)) >= 3


@pytest.mark.parametrize("dark", [False, True])
def test_colours_of_verdicts_and_errors_are_seen_on_cards(dark: bool) -> None:
    style = "".join(path.read_text(encoding="utf-8") for path in (ASSETS / "css").glob("wizard.css"))
    dots = re.findall(r"i\.dot\.(?:well|tight|no) \{ background: (#[0-9a-f]{6})", style)
    assert len(dots) == 3
    for dot in dots:
        assert contrast(dot, colour("block_background_fill", dark=dark)) >= 3


def test_nobody_who_wants_no_motion_sees_any() -> None:
    style = (ASSETS / "css" / "wizard.css").read_text(encoding="utf-8")
    assert "prefers-reduced-motion: reduce" in style
    assert "animation: none !important" in style
