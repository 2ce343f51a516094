"""Why a finished folder talks nonsense, judged by its files and its answer."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.text import LANGUAGES, tell
from backend.weights.fast_tokenizer import AddedToken
from backend.weights.finish import finish_folder
from backend.weights.huggingface import open_huggingface
from backend.weights.likely_cause import likely_cause
from backend.weights.provenance import Origin, Provenance, write_cria_json
from tests.backend.weights.make import Tiny, tokenizer_model, weights, write_hf
from tests.backend.weights.test_tokenizer import PIECES, folder_with


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def folder(template: str, *roles: str) -> Path:
        tiny = Tiny(vocab=PIECES)
        out, source = write_hf(tmp_path / "model", tiny, weights(tiny)), folder_with(tmp_path / "t", tokenizer_model())
        finish_folder(open_huggingface(out), out, sources=[source], template=template)
        origins = tuple(Origin(role, "x") for role in ("base", *roles))
        write_cria_json(out, Provenance("r", origins, template, "", (), 2048, 1, "float16"))
        return out

    return folder


CASES = [
    ("vicuna-v1.1", "Hi.\n### Human: what", "other_turns", {"mark": "### Human", "better": "vicuna-v0"}),
    ("vicuna-v0", "Hi. USER: what", "other_turns", {"mark": "USER:", "better": "vicuna-v1.1"}),
    ("vicuna-v1.1", "### Instruction: x", "other_turns", {"better": "alpaca"}),
    ("vicuna-v1.1", "  ", "empty", {"template": "vicuna-v1.1"}),
    ("plain", "Hello and welcome to my page about llamas", "base_model", {"template": "plain"}),
    ("vicuna-v1.1", "Hello, how can I help you today", "unknown", {"template": "vicuna-v1.1"}),
    ("vicuna-v1.1", "Hi. USER: what", "unknown", {}),  # its own turns
]


@pytest.mark.parametrize(("template", "answer", "cause", "values"), CASES)
def test_the_answer_tells(
    make: Callable[..., Path], template: str, answer: str, cause: str, values: dict[str, str]
) -> None:
    found = likely_cause(make(template), answer=answer)
    assert found.key == f"finish.cause.{cause}"
    assert values.items() <= found.params.items()
    assert all("{" not in tell(language, found) for language in LANGUAGES)


def test_numbers_that_are_none_come_first(make: Callable[..., Path]) -> None:
    assert likely_cause(make("plain"), answer="### Human", finite=False).key == "finish.cause.not_finite"


@pytest.mark.parametrize("answer", ["la " * 60, "bad \N{REPLACEMENT CHARACTER} bytes"])
def test_nonsense_after_merging_points_at_the_base(make: Callable[..., Path], answer: str) -> None:
    assert likely_cause(make("vicuna-v1.1", "delta"), answer=answer).key == "finish.cause.delta_base"
    assert likely_cause(make("vicuna-v1.1"), answer=answer).key == "finish.cause.unknown"


def test_an_end_token_that_nobody_stops_at(make: Callable[..., Path]) -> None:
    folder = make("vicuna-v1.1")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
    found = likely_cause(folder, answer="Hello there")
    assert (found.key, found.params["token"]) == ("finish.cause.no_end_token", "</s>")
    fast = json.loads((folder / "tokenizer.json").read_text())
    fast["added_tokens"].append(AddedToken(PIECES, "<|eot_id|>").to_json())
    (folder / "tokenizer.json").write_text(json.dumps(fast))
    write_cria_json(folder, Provenance("r", (), "llama-3", "", (), 2048, 1, "float16"))
    assert likely_cause(folder, answer="Hello there").params["token"] == "<|eot_id|>"


def test_rows_without_a_token(make: Callable[..., Path]) -> None:
    folder = make("vicuna-v1.1")
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 49954}
    (folder / "config.json").write_text(json.dumps(config))
    found = likely_cause(folder, answer="Hello there")
    assert (found.key, found.params) == ("finish.cause.rows_unnamed", {"tokens": PIECES, "rows": 49954})
