"""A model folder as one GGUF file: every tensor where and what it should be, and nothing half-written, ever."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from backend.errors import Cancelled, MachineError, WeightsError
from backend.events import Progress
from backend.weights.checkpoint import Checkpoint
from backend.weights.gguf_file import write_gguf
from backend.weights.gguf_layout import check_convertible, converted_bytes, to_gguf_layout
from backend.weights.gguf_rope import Rope, check_rope
from backend.weights.huggingface import open_huggingface
from tests.backend.engines import tiny
from tests.backend.engines.llamacpp_server.models import write_variant

TOKENIZER = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": [b"a", b"\xe4\xbd\xa0"]}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_huggingface(tiny.write_model(tmp_path_factory.mktemp("source") / "model"))


def write(checkpoint: Checkpoint, out: Path, kind: str = "f16", **more: Any) -> list[Progress]:
    return list(write_gguf(checkpoint, out, kind=kind, tokenizer=TOKENIZER, part=out.with_suffix(".part"), **more))


def pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """Turn Hugging Face's order of a head's rows into Meta's, in the plainest way there is."""
    first, second = np.split(rows.reshape(heads, -1, *rows.shape[1:]), 2, axis=1)
    return np.stack([first, second], axis=2).reshape(rows.shape)


def wanted(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Return GGUF name -> numbers."""
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {
        "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
        "up_proj": "ffn_up", "down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    found = {}
    for name, tensor in checkpoint.items():
        stem, rows = name.removesuffix(".weight"), tensor.array()
        if stem in names:
            found[f"{names[stem]}.weight"] = rows
            continue
        part = stem.rpartition(".")[2]
        heads = {"q_proj": 4, "k_proj": 2}.get(part)
        found[f"blk.{stem.split('.')[2]}.{parts[part]}.weight"] = pairs(rows, heads) if heads else rows
    return found


@pytest.mark.parametrize(("kind", "most"), [("f16", 0.0), ("q8_0", 0.02), ("q4_k", 0.2)])
def test_tensors_are_the_folders(checkpoint: Checkpoint, tmp_path: Path, kind: str, most: float) -> None:
    out = tmp_path / "model.gguf"
    steps = write(checkpoint, out, kind)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == steps[-1].total == checkpoint.nbytes
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    assert converted_bytes(checkpoint, kind) < out.stat().st_size < converted_bytes(checkpoint, kind) + 10_000
    source = wanted(checkpoint)
    found = {tensor.name: tensor for tensor in GGUFReader(out).tensors}
    assert set(found) == set(source)
    for name, tensor in found.items():
        assert tuple(reversed(tensor.shape.tolist())) == source[name].shape
        numbers = dequantize(tensor.data, tensor.tensor_type).reshape(source[name].shape)
        if "norm" in name:
            assert tensor.tensor_type.name == "F32"
            assert numbers.tobytes() == source[name].tobytes()
        elif kind == "f16":
            assert numbers.astype(np.float16).tobytes() == source[name].astype(np.float16).tobytes()
        else:
            assert np.abs(numbers - source[name]).max() < most


def test_settings_are_the_folders(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write(checkpoint, tmp_path / "model.gguf")
    fields = GGUFReader(tmp_path / "model.gguf").fields
    found = {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}
    assert found["general.architecture"] == "llama"
    assert found["llama.attention.head_count_kv"] == 2
    assert found["llama.rope.dimension_count"] == found["llama.attention.key_length"] == 16
    assert found["llama.context_length"] == tiny.CONTEXT
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    assert found["tokenizer.ggml.tokens"] == ["a", "你"]


def test_stretched_positions_are_those_of_transformers(checkpoint: Checkpoint) -> None:
    shape = dataclasses.replace(checkpoint.llama, rope_theta=500000.0, rope_scaling=LLAMA3)
    entry = to_gguf_layout(dataclasses.replace(checkpoint, shape=shape), "f16")[-1]
    assert entry.name == "rope_freqs.weight"
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=4, head_dim=16, max_position_embeddings=512,
        rope_parameters={**LLAMA3, "rope_theta": 500000.0},
    )  # fmt: skip
    speeds, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** -(np.arange(0, 16, 2) / 16)
    assert np.allclose(plain / entry.tensor.array(), speeds.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 0.7},
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": "2"},
        {"rope_type": "llama3", "factor": 8.0},
    ],
)
def test_positions_that_cannot_be_expressed_are_refused(checkpoint: Checkpoint, scaling: dict[str, Any]) -> None:
    shape = dataclasses.replace(checkpoint.llama, rope_scaling=scaling)
    with pytest.raises(WeightsError, match="stretched positions"):
        check_convertible(dataclasses.replace(checkpoint, shape=shape))


@pytest.mark.parametrize(
    ("name", "value", "kind", "said"),
    [
        ("model.layers.1.mlp.up_proj.weight", np.nan, "f16", "model.layers.1.mlp.up_proj.weight"),
        ("model.layers.1.mlp.up_proj.weight", np.inf, "q8_0", "not a number"),
        ("model.norm.weight", -np.inf, "q4_k", "not a number"),
        ("lm_head.weight", 70000.0, "f16", "too large for float16"),
    ],
)
def test_numbers_that_are_none_are_refused(tmp_path: Path, name: str, value: float, kind: str, said: str) -> None:
    rows = tiny.weights()[name].copy()
    rows.reshape(-1)[-1] = value
    out = tmp_path / "out" / "model.gguf"
    out.parent.mkdir()
    with pytest.raises(WeightsError, match=said):
        write(open_huggingface(write_variant(tmp_path / "model", {}, arrays={name: rows})), out, kind)
    assert not out.exists()


def test_a_lost_tensor_and_another_kind_are_refused(tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "model")
    arrays = tiny.weights()
    del arrays["model.layers.1.self_attn.k_proj.weight"]
    tiny.write_safetensors(folder / "model.safetensors", arrays)
    with pytest.raises(WeightsError, match=r"layers\.1\.self_attn\.k_proj"):
        open_huggingface(folder)
    tiny.write_safetensors(folder / "model.safetensors", tiny.weights())
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"model_type": "llama"', '"model_type": "gpt_neox"'))
    with pytest.raises(WeightsError):
        check_convertible(open_huggingface(folder))


def test_a_run_that_is_cancelled_publishes_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    calls = iter([False, False, True])
    with pytest.raises(Cancelled):
        write(checkpoint, tmp_path / "model.gguf", cancelled=lambda: next(calls))
    assert not (tmp_path / "model.gguf").exists()


def test_a_full_disk_is_said_before_a_byte_is_written(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.weights.partial.free_bytes", lambda folder: 1000)
    with pytest.raises(MachineError, match="full"):
        write(checkpoint, tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == []


def test_it_holds_a_few_slabs_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slabs are small beside the model, so what is asked for at once tells what is in memory at most."""
    monkeypatch.setattr("backend.weights.gguf_file._SLAB", 4096)
    checkpoint = open_huggingface(tiny.write_model(tmp_path / "model"))
    asked: list[int] = []

    def spied(rows: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
        def read(start: int, stop: int) -> Any:
            found = rows(start, stop)
            asked.append(found.nbytes)
            return found

        return read

    tensors = {name: dataclasses.replace(one, rows=spied(one.rows)) for name, one in checkpoint.items()}
    seen: Iterator[Progress] = iter(write(dataclasses.replace(checkpoint, tensors=tensors), tmp_path / "m.gguf"))
    assert sum(1 for _ in seen) > 50
    assert max(asked) < 70 * 640 + 4096  # a short tail joins the slab before it: 64 rows of at most 640 bytes
    assert sum(asked) == checkpoint.nbytes


def test_stretching_without_a_middle_is_refused() -> None:
    rope = Rope(theta=10_000.0, rotary=8, scaling={**LLAMA3, "high_freq_factor": 1.0})
    with pytest.raises(WeightsError, match="stretched positions"):
        check_rope(rope, frozenset({"llama3"}))
    assert check_rope(dataclasses.replace(rope, scaling=LLAMA3), frozenset({"llama3"})).kind == "llama3"
