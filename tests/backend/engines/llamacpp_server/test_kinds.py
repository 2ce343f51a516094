"""Other kinds than Llama in llama.cpp: what transformers computes, to rounding; and what cannot be is refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.dimensions import dimensions_from_config
from backend.engines import choice
from backend.engines.adapters import open_loras
from backend.engines.base import EngineOptions, Lora
from backend.engines.choice import choose_engine
from backend.engines.folder import open_folder, small_json
from backend.engines.generator import Readiness
from backend.engines.llamacpp_server import loading, serving
from backend.engines.llamacpp_server.adapters import lora_fields, write_adapters
from backend.engines.llamacpp_server.sizes import Room
from backend.engines.llamacpp_server.store import make_gguf
from backend.errors import UsageError, WeightsError
from backend.fit import llamacpp
from backend.weights import gguf_layout
from backend.weights.gguf_kinds import check_convertible
from backend.weights.gguf_layout import converted_bytes, to_gguf_layout
from tests.backend.engines.conftest import machine
from tests.backend.engines.kind_loras import added, write_lora
from tests.backend.engines.llamacpp_server.kinds import LONG, SHORT, VARIANTS, write_kind

TEXT = 259  # the first token that is no byte: half a character would not be reported
PROMPTS = ([1, 300, 270, 281], [1, *range(265, 300), *range(310, 270, -1), *range(262, 320, 3), *range(318, 262, -2)])
TOKENS = 32
F32 = 0
NEAR_LORA = 0.015  # llama.cpp multiplies with a LoRA in float16


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def precise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let llama.cpp keep weights and cache in float32, so that what differs is a mistake and not rounding."""
    import xllamacpp

    made = xllamacpp.CommonParams

    def params() -> Any:
        found = made()
        found.cache_type_k = found.cache_type_v = found.flash_attn_type = F32
        return found

    monkeypatch.setattr(xllamacpp, "CommonParams", params)
    monkeypatch.setitem(gguf_layout.KINDS, "f32", ("F32", "F32", F32))


def serve(folder: Path, kind: str, *loras: Path) -> Any:
    found = open_folder(folder)
    room = Room(check_convertible(found.checkpoint).longest, 1)
    attached = open_loras(found.checkpoint, [Lora(str(one)) for one in loras])
    files = write_adapters(found.checkpoint, attached, folder.parent)
    return serving.start_server(make_gguf(found, kind, lambda progress: None), room, files)


def reply(server: Any, ids: list[int], *scales: float) -> tuple[list[int], list[dict[int, float]]]:
    """Return the tokens of a greedy reply, and the likeliest ones at each step with their log-probabilities."""
    said: list[Any] = []

    def take(data: Any) -> bool:
        said.extend((data["choices"][0]["logprobs"] or {}).get("content", ()))
        return False

    request = {"prompt": ids, "n_predict": TOKENS, "max_tokens": TOKENS, "temperature": 0.0, "n_probs": 6,
               "samplers": ["temperature"], "logit_bias": [[token, False] for token in range(TEXT)]}  # fmt: skip
    server.handle_completions(request | lora_fields(scales) | {"stream": True}, take)
    return [step["id"] for step in said], [{one["id"]: one["logprob"] for one in step["top_logprobs"]} for step in said]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_as_transformers(name: str, tmp_path: Path, precise: None) -> None:
    folder = tmp_path / "model"
    model = write_kind(folder, name)
    near = 0.01 if "gemma" in name else 0.001  # llama.cpp looks GELU up in a table of float16
    loras = [write_lora(tmp_path / "layers", folder)]
    if not model.config.tie_word_embeddings:
        loras.append(write_lora(tmp_path / "words", folder, words=True))
    server = serve(folder, "f32", *loras)
    compare(model, server, near, [0.0] * len(loras))
    sizes(folder)
    with added(model, [(lora, 0.5) for lora in loras]):
        compare(model, server, NEAR_LORA, [0.5] * len(loras))


def compare(model: Any, server: Any, near: float, scales: Sequence[float]) -> None:
    """Make sure that llama.cpp takes the tokens that transformers finds likeliest, and finds them as likely."""
    for prompt in PROMPTS:
        tokens, steps = reply(server, prompt, *scales)
        assert len(tokens) == TOKENS
        with torch.inference_mode():
            scores = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        likely = torch.log_softmax(scores, dim=-1)
        for row, token, found in zip(likely, tokens, steps, strict=True):
            assert float(row[TEXT:].max() - row[token]) < near
            assert max(abs(value - float(row[one])) for one, value in found.items()) < near
    assert len(set(tokens)) > 1


def sizes(folder: Path) -> None:
    """The forecast counts what the converter writes, beside a few numbers that positions are divided by."""
    size, checkpoint = dimensions_from_config(small_json(folder / "config.json")), open_folder(folder).checkpoint
    assert size is not None
    assert llamacpp.longest(size) == check_convertible(checkpoint).longest
    for bits, kind in choice.KIND_OF_BITS.items():
        factors = sum(entry.nbytes for entry in to_gguf_layout(checkpoint, kind) if not entry.source)
        assert llamacpp.weights_bytes(size, bits) + factors == converted_bytes(checkpoint, kind)


def test_the_comparison_can_tell(tmp_path: Path, precise: None) -> None:
    """A window that llama.cpp ignores, seen beyond it."""
    model = write_kind(tmp_path / "model", "mistral, within its window", sliding_window=32)
    change(tmp_path / "model", sliding_window=None)
    tokens, steps = reply(serve(tmp_path / "model", "f32"), PROMPTS[1])
    with torch.inference_mode():
        row = torch.log_softmax(model(torch.tensor([PROMPTS[1]])).logits[0, -1], dim=-1)
    assert len(tokens) == TOKENS
    assert max(abs(value - float(row[one])) for one, value in steps[0].items()) > 0.1


def change(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("mistral", {"hidden_act": "gelu"}, "hidden_act"),
    ("mistral", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "gguf.rope"),
    ("mistral", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ("mistral", {"num_key_value_heads": None}, "num_key_value_heads"),
    ("mistral", {"num_key_value_heads": 3}, "hidden_size"),
    ("mistral", {"intermediate_size": 128}, "weights.tensor_shape"),
    ("mistral", {"num_hidden_layers": 1}, "weights.tensor_unknown"),
    ("mistral", {"num_hidden_layers": 3}, "weights.tensor_missing"),
    ("mistral", {"model_type": "mixtral"}, "gguf.kind"),
    ("mistral", {"tie_word_embeddings": True}, "weights.tensor_unknown"),
    ("qwen2", {"rope_scaling": {"type": "llama3", "factor": 8.0}}, "gguf.rope"),
    ("qwen2", {"rms_norm_eps": "1e-6"}, "weights.bad_number"),
    ("phi3, longrope", {"original_max_position_embeddings": 200}, "gguf.rope"),
    (
        "phi3, longrope",
        {"rope_parameters": {"type": "su", "short_factor": SHORT, "long_factor": LONG[1:]}},
        "gguf.rope",
    ),
    ("gemma2", {"query_pre_attn_scalar": 224}, "query_pre_attn_scalar"),
    ("gemma2", {"final_logit_softcapping": None}, "final_logit_softcapping"),
    ("gemma2", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation"),
    ("gemma2", {"tie_word_embeddings": False}, "tie_word_embeddings"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ("gemma3", {"layer_types": None, "sliding_window_pattern": 4}, "sliding_window_pattern"),
    ("gemma3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "rope_parameters"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("kinds")
    for name in {name for name, _, _ in REFUSED}:
        write_kind(place / name, name)
    return place


@pytest.mark.parametrize(("name", "changes", "said"), REFUSED)
def test_what_it_cannot_compute_is_refused(name: str, changes: dict[str, Any], said: str, folders: Path) -> None:
    path = folders / name / "config.json"
    before = path.read_text()
    try:
        change(path.parent, **changes)
        with pytest.raises(WeightsError) as caught:
            check_convertible(open_folder(path.parent).checkpoint)
    finally:
        path.write_text(before)
    assert said in (caught.value.key, caught.value.params.get("key"))
    assert caught.value.hint is not None or "tensor" in said


def test_biases_that_it_has_no_place_for(tmp_path: Path) -> None:
    write_kind(tmp_path / "model", "qwen3", attention_bias=True)
    with pytest.raises(WeightsError, match="attention_bias"):
        check_convertible(open_folder(tmp_path / "model").checkpoint)


WINDOW = "mistral, within its window"


@pytest.mark.parametrize(
    ("changes", "context", "engine", "why"),
    [
        ({}, 0, "llamacpp", None),
        ({}, 256, "llamacpp", None),
        ({}, 257, "transformers", "gguf.instead.context"),
        ({"hidden_act": "gelu"}, 0, "transformers", "gguf.instead.setting"),
        ({"model_type": "mixtral"}, 0, "transformers", "gguf.instead.kind"),
        ({"tie_word_embeddings": True}, 0, "transformers", "gguf.instead.tensor"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 0, "transformers", "gguf.instead.rope"),
    ],
)
def test_the_engine_that_is_chosen(
    changes: dict[str, Any], context: int, engine: str, why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "has_instructions", lambda: True)
    write_kind(tmp_path / "model", WINDOW)
    change(tmp_path / "model", **changes)
    chosen, said = choose_engine(EngineOptions(context=context), machine(), tmp_path / "model")
    assert (chosen.engine, said and said.key) == (engine, why)


def test_a_window_bounds_the_context_and_that_is_said(tmp_path: Path) -> None:
    write_kind(tmp_path / "model", WINDOW)
    generator = loading.load(Readiness(tmp_path / "model", EngineOptions(engine="llamacpp", bits=4)))
    assert generator.context == 256
    assert generator.note is not None
    assert (generator.note.key, generator.note.params) == ("gguf.shorter", {"context": 256, "wanted": 512})
    generator.close()
    with pytest.raises(UsageError, match="up to 256 tokens"):
        loading.load(Readiness(tmp_path / "model", EngineOptions(engine="llamacpp", context=400)))
