"""What is foretold of other kinds than Llama: which engine, how much context, from config.json or a recipe alike."""

from dataclasses import replace
from typing import Any

import pytest

from backend.dimensions import dimensions_from_config
from backend.fit.llamacpp import longest
from backend.fit.verdict import Asked, Known, look
from tests.backend.fit.machines import machine

BASE = {
    "vocab_size": 32064, "hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "intermediate_size": 8192, "max_position_embeddings": 131072,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({"model_type": "mistral", "sliding_window": None}, 131072),
        ({"model_type": "mistral", "sliding_window": 4096}, 4096),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, 131072),
        ({"model_type": "qwen3", "sliding_window": 4096, "use_sliding_window": True}, 4096),
        ({"model_type": "gemma3_text", "sliding_window": 512}, 131072),
        ({"model_type": "phi3", "sliding_window": 2047, "max_position_embeddings": 4096}, 2047),
        ({"model_type": "phi3", "rope_scaling": {"type": "su"}, "sliding_window": 262144}, 4096),
        ({"model_type": "phi3", "rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 8200}, 8192),
        ({"model_type": "phi3", "rope_scaling": None}, 131072),
    ],
)
def test_the_context_that_llama_cpp_computes_exactly(config: dict[str, Any], context: int) -> None:
    size = dimensions_from_config({**BASE, **config})
    assert size is not None
    assert longest(size) == context
    here, known = machine(60), Known(20e9, llamacpp=True)
    found = look(size, here, known=known).ways
    assert {fit.way.engine for fit in found} == {"llamacpp"}
    if context < 10_000:  # more would not fit here
        assert {fit.context for fit in found} == {context}
    beyond = look(size, here, asked=Asked(context=context + 1), known=known).ways
    assert {fit.way.engine for fit in beyond} == {"transformers"}


def test_other_kinds_are_left_to_transformers() -> None:
    size = dimensions_from_config({**BASE, "model_type": "gemma", "num_key_value_heads": 1})
    assert size is not None
    assert {fit.way.engine for fit in look(size, machine(60), known=Known(llamacpp=True)).ways} == {"transformers"}
    assert {fit.way.engine for fit in look(replace(size, kind="mistral"), machine(60), known=Known()).ways} == {
        "transformers"
    }
