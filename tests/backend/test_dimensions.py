"""Dimensions against transformers' own classes, built on no device, and against published numbers of parameters."""

from typing import Any

import pytest

from backend.dimensions import Dimensions, Role, dimensions_from_config
from backend.weights.shape import shape_from_config

SMALL = {
    "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 300, "max_position_embeddings": 512, "pad_token_id": 0,
}  # fmt: skip
KINDS: list[tuple[str, dict[str, Any], tuple[int | None, int]]] = [
    ("llama", {}, (None, 0)),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}, (None, 0)),
    ("mistral", {"sliding_window": 128}, (128, 6)),
    ("mistral", {"sliding_window": None, "head_dim": 32}, (None, 0)),
    ("qwen2", {}, (None, 0)),
    ("qwen3", {"head_dim": 32}, (None, 0)),
    ("gemma", {"head_dim": 32}, (None, 0)),
    ("gemma2", {"head_dim": 32, "sliding_window": 64}, (64, 3)),
    ("gemma3_text", {"head_dim": 32, "sliding_window": 64}, (64, 5)),
    ("phi3", {"eos_token_id": 2, "bos_token_id": 1, "sliding_window": None}, (None, 0)),
    ("t5", {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}, (None, 0)),
    ("t5", {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4,
            "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, (None, 0)),
]  # fmt: skip
COPIES = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}


@pytest.mark.parametrize(("kind", "more", "window"), KINDS)
def test_every_tensor_has_the_name_and_shape_that_transformers_gives_it(
    kind: str, more: dict[str, Any], window: tuple[int | None, int]
) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, T5ForConditionalGeneration

    config = AutoConfig.for_model(kind, **({"vocab_size": 300} if kind == "t5" else SMALL), **more)
    with torch.device("meta"):
        made = T5ForConditionalGeneration if kind == "t5" else AutoModelForCausalLM.from_config
        model = made(config)
    size = dimensions_from_config(config.to_dict())
    assert size is not None
    theirs = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in COPIES}
    if size.tie:
        theirs.pop("lm_head.weight")
    assert {tensor.name: tensor.shape for tensor in size.tensors()} == theirs
    assert size.parameters == sum(value.numel() for value in model.parameters())
    assert (size.window, size.window_layers) == window


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        # Published: LLaMA (Touvron et al. 2023), Llama 3.1, Mistral, Qwen2.5 and Gemma 2 model cards, in weights.
        ({"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008,
          "vocab_size": 32000}, 6_738_415_616),
        ({"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "intermediate_size": 13824,
          "vocab_size": 32000}, 13_015_864_320),
        ({"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 22016,
          "vocab_size": 32000}, 65_285_660_672),
        ({"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
          "intermediate_size": 14336, "vocab_size": 128256}, 8_030_261_248),
        ({"model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
          "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000}, 7_241_732_096),
        ({"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
          "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064}, 7_615_616_512),
        ({"model_type": "gemma2", "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
          "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216, "vocab_size": 256000}, 2_614_341_888),
        ({"model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
          "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "num_local_experts": 8,
          "num_experts_per_tok": 2}, 46_702_792_704),
    ],
)  # fmt: skip
def test_published_numbers_of_parameters(config: dict[str, Any], parameters: int) -> None:
    size = dimensions_from_config(config)
    assert size is not None
    assert size.parameters == parameters == sum(tensor.count for tensor in size.tensors())


def test_a_token_reads_the_experts_it_uses() -> None:
    size = dimensions_from_config({
        "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "num_local_experts": 8,
        "num_experts_per_tok": 2,
    })  # fmt: skip
    assert size is not None
    assert size.active_parameters == pytest.approx(12.75e9, rel=0.01)  # the model card's 12.9 has the embeddings too
    assert size.active_parameters < size.parameters / 3
    assert sum(tensor.role is Role.EXPERT for tensor in size.tensors()) == 32 * 8 * 3


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "mamba", **SMALL},
        {**SMALL, "hidden_size": "many"},
        {**SMALL, "hidden_size": True},
        {**SMALL, "num_hidden_layers": -3},
        {**SMALL, "vocab_size": 10**12},
        {key: value for key, value in SMALL.items() if key != "intermediate_size"},
        {"model_type": ["llama"], **SMALL},
    ],
)
def test_what_cannot_be_told_stays_unknown(config: dict[str, Any]) -> None:
    assert dimensions_from_config(config) is None


def test_a_wrapped_gemma_3_is_its_text_part() -> None:
    inner = {**SMALL, "head_dim": 32, "sliding_window": 64}
    found = dimensions_from_config({"model_type": "gemma3", "text_config": inner, "vision_config": {}})
    assert found is not None
    assert (found.kind, found.tie, found.window_layers) == ("gemma3_text", True, 5)


def test_the_reader_of_weights_expects_the_same_tensors() -> None:
    config = {**SMALL, "attention_bias": True}
    found = dimensions_from_config(config)
    assert isinstance(found, Dimensions)
    theirs = dict(shape_from_config(config, vocab=300).expected())
    assert {tensor.name: tensor.shape for tensor in found.tensors()} == theirs
