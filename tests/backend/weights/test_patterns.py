"""Own matching against ``re``'s, on everything the own syntax knows; and that nothing can make it slow."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.weights.patterns import UnsupportedPattern, parse_pattern

PATHS = ["lm_head", "q_proj", "model.layers.0.self_attn.q_proj", "model.layers.11.mlp.up_proj", "model.layers.1.mlp"]
PIECES = ["model", "layers", ".", r"\.", "q_proj", "[0-9]", "[^0-9]", r"\d", r"\w", "(", "|", ")", "(?:", "1", "mlp",
          "self_attn", ".*", ".+?", "up_proj", "_proj", "[qk]", "+", "?", "*", "^", "$"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map("".join))
@settings(max_examples=600, deadline=None)
def test_it_matches_as_re_does(text: str) -> None:
    try:
        pattern = parse_pattern(text)
        tail = re.compile(rf"(.*\.)?({text})$")
    except (UnsupportedPattern, re.error):
        return
    for path in PATHS:
        assert pattern.matches_tail(path) == bool(tail.match(path)), path


@pytest.mark.parametrize(
    ("text", "path", "matches"),
    [
        ("q_proj", "model.layers.0.self_attn.q_proj", True),
        ("_proj", "model.layers.0.self_attn.q_proj", False),
        ("layers.1.q_proj", "layers.11.q_proj", False),
        ("^model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj", True),
        ("^layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj", False),
        (r"model\.layers\.(1[0-9]|2)\..*\.q_proj", "model.layers.12.self_attn.q_proj", True),
        (r"layers\.(?:0|1)\.mlp\.(up|down)_proj", "model.layers.1.mlp.gate_proj", False),
    ],
)
def test_patterns_that_people_write(text: str, path: str, matches: bool) -> None:
    assert parse_pattern(text).matches_tail(path) is matches


@pytest.mark.parametrize("text", ["", "a{9}", "(?=a)", "(?i)a", r"\1", "(a", "a)", "[a", "[z-a]", "*a", "a**",
                                  "a" * 201, "((((a))))", "a b", r"\b"])  # fmt: skip
def test_other_syntax_is_refused(text: str) -> None:
    with pytest.raises(UnsupportedPattern):
        parse_pattern(text)


@pytest.mark.parametrize("text", ["(a+)+", "(a|a)*", "(((a|a.)*b?)*.*)*x", "a*a*a*a*a*a*a*a*a*a*x", "(.*.*.*.*)*x"])
def test_patterns_made_to_take_for_ever_do_not(text: str) -> None:
    assert not parse_pattern(text).matches_tail("a" * 149 + "!")  # ``re`` would need longer than the sun has
