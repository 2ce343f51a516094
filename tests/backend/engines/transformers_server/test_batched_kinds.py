"""Every kind of model that is computed in batches: the same tokens as ordinary ``generate``, several requests at once,
looking back through a window or not, with a cache that holds no more than it must.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig

from backend.dimensions import Dimensions, dimensions_from_config
from backend.engines.base import Sampling
from backend.engines.transformers_server.batching import BatchedTokens
from backend.engines.transformers_server.computing import token_source
from backend.engines.transformers_server.one_at_a_time import SingleTokens
from backend.engines.transformers_server.placement import Placement
from backend.engines.transformers_server.tokens import TokenSource
from backend.fit.need import ON_CPU, PAGE, Batching, blocks, is_batched, need_of, pages
from backend.text import Message

CONTEXT, WORDS, NEW = 256, 200, 24
SIZES = {
    "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": CONTEXT, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
GREEDY = Sampling(temperature=0.0)
WINDOW = 24
MIXED = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral, windows": ("mistral", {"sliding_window": WINDOW}),
    "qwen2": ("qwen2", {}),
    "qwen2, windows": ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {}),
    "gemma3": ("gemma3_text", {"sliding_window": WINDOW, "query_pre_attn_scalar": 8, "layer_types": MIXED}),
    "gemma3, windows longer than the context": (
        "gemma3_text",
        {"sliding_window": 512, "query_pre_attn_scalar": 8, "layer_types": MIXED},
    ),
    "phi3, windows": ("phi3", {"sliding_window": WINDOW}),
}


def a_model(kind: str, **more: Any) -> tuple[Any, Dimensions]:
    """Return a lively random model, and its dimensions as they are read from a config.json."""
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **{**SIZES, **more})
    config._attn_implementation = "sdpa"
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.25)
    model.generation_config = GenerationConfig(pad_token_id=0)
    size = dimensions_from_config(config.to_dict())
    assert size is not None
    return model, size


def prompts(*lengths: int) -> list[list[int]]:
    random = torch.Generator().manual_seed(5)
    return [torch.randint(3, WORDS, (length,), generator=random).tolist() for length in lengths]


def generated(model: Any, ids: list[int], count: int = NEW) -> list[int]:
    batch = torch.tensor([ids])
    config = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0)
    made: list[int] = model.generate(batch, attention_mask=torch.ones_like(batch), generation_config=config)[0].tolist()
    return made[len(ids) :]


async def one(source: TokenSource, ids: Sequence[int], count: int = NEW) -> list[int]:
    return [token async for part in source.stream(ids, GREEDY, count) for token in part]


def together(source: TokenSource, many: Sequence[Sequence[int]], count: int = NEW) -> list[list[int]]:
    async def crowd() -> list[list[int]]:
        return list(await asyncio.gather(*(one(source, ids, count) for ids in many)))

    return asyncio.run(asyncio.wait_for(crowd(), 120))


@pytest.mark.parametrize("kind", KINDS)
def test_several_at_once_as_each_alone(kind: str) -> None:
    name, more = KINDS[kind]
    model, size = a_model(name, **more)
    assert is_batched(size)
    asked = prompts(5, 40, 150, 33)
    asked.append([*asked[2][:100], 7, 8, 9])  # begins like another one
    asked.append(prompts(CONTEXT - NEW)[0])  # and one that fills the context
    wanted = [generated(model, ids) for ids in asked]
    need = need_of(size, CONTEXT)
    least = pages(CONTEXT, 0, need.token("float32", ON_CPU), conversations=ON_CPU.conversations)
    source = BatchedTokens(model, eos=(), pages=blocks(need, least, ON_CPU), batching=ON_CPU)
    try:
        assert together(source, asked) == wanted
        assert together(source, asked[::-1]) == wanted[::-1]
        cache = source._manager.batch_processor.cache
        # What is taken is what was counted, and what each sort of layer leaves over of its last share.
        counted = (least * PAGE * need.cache_per_token + ON_CPU.conversations * need.window_cache) * 4
        assert counted <= cache.num_sectors * cache.bytes_per_sector <= counted + 6 * cache.bytes_per_sector
    finally:
        source.close()
    assert len({tuple(tokens) for tokens in wanted}) == len(wanted)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
        ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}}),
        ("gemma3_text", {"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 2.0}}}),
        ("gemma2", {}),
    ],
)
def test_what_one_request_would_spoil_for_another_is_computed_alone(kind: str, more: dict[str, Any]) -> None:
    size = dimensions_from_config({"model_type": kind, **SIZES, **more})
    assert size is not None
    assert not is_batched(size)


def _placed(batching: Batching) -> Placement:
    return Placement("cpu", "float32", CONTEXT, 0, Message("engine.placement.cpu"), batching=batching)


def test_what_batching_refuses_is_computed_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, size = a_model("qwen2")

    def refuse(*_: object) -> None:
        raise ValueError("Invalid layer type: chunked_attention")  # what the library says of layers it has no cache for

    monkeypatch.setattr(model, "init_continuous_batching", refuse)
    source = token_source(model, need_of(size, CONTEXT), _placed(ON_CPU), eos=(), bos=1, start=None)
    assert "chunked_attention" in capsys.readouterr().err  # for the log
    assert isinstance(source, SingleTokens)
    asked = prompts(20)[0]
    assert asyncio.run(one(source, asked)) == generated(model, asked)


def test_what_fails_in_a_batch_is_computed_one_at_a_time() -> None:
    model, size = a_model("qwen2")
    forward = model.forward

    def only_plain(*args: Any, **more: Any) -> Any:
        if "cu_seq_lens_q" in more:
            raise TypeError("no packed requests, please")
        return forward(*args, **more)

    model.forward = only_plain
    source = token_source(model, need_of(size, CONTEXT), _placed(ON_CPU), eos=(), bos=1, start=None)
    assert isinstance(source, SingleTokens)
    asked = prompts(20)[0]
    assert asyncio.run(one(source, asked)) == generated(model, asked)
