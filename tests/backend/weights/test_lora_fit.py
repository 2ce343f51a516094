"""What is refused or said before a LoRA is folded in: order, tokenizer, size, settings that promise something else."""

import json
from pathlib import Path

import pytest
import torch

from backend.errors import WeightsError
from backend.weights import known_adapters, lora_fit
from backend.weights.checkpoint import Checkpoint
from backend.weights.huggingface import open_huggingface
from backend.weights.lora import add_lora
from backend.weights.partial import hash_file
from tests.backend.weights.make import Tiny, tokenizer_model, weights, write_hf, write_lora

LLAMA, ALPACA = known_adapters.CHINESE_LLAMA_ROWS, known_adapters.CHINESE_ALPACA_ROWS
SMALL = Tiny(hidden=8, heads=2, kv_heads=2, layers=1)


def base(folder: Path, tiny: Tiny = SMALL, **config: object) -> Checkpoint:
    return open_huggingface(write_hf(folder, tiny, weights(tiny), **config))


def keys(checkpoint: Checkpoint) -> list[str]:
    return [note.key for note in checkpoint.notes]


def refusal(checkpoint: Checkpoint, adapter: Path) -> WeightsError:
    with pytest.raises(WeightsError) as refused:
        add_lora(checkpoint, adapter)
    assert refused.value.hint is not None
    return refused.value


def test_chinese_alpaca_plus_needs_chinese_llama_plus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by its hash, or by what it says it was trained on; a first-generation LoRA is not even looked at."""
    for name, rows, rank in (("llama", LLAMA, 8), ("alpaca", ALPACA, 8), ("plus", ALPACA, 16)):
        write_lora(tmp_path / name, SMALL, vocab=rows, rank=rank, seed=rows + rank, dtype="F16")
    write_lora(tmp_path / "named", SMALL, vocab=ALPACA, rank=16, base_model_name_or_path="x/Chinese_LLaMA-plus-7b")
    checkpoint = base(tmp_path / "b")
    hashed: list[Path] = []
    monkeypatch.setattr(lora_fit, "hash_file", lambda path: hashed.append(path) or hash_file(path))
    assert "lora.found.perhaps_second" not in keys(add_lora(checkpoint, tmp_path / "alpaca"))
    assert hashed == []
    assert "lora.found.perhaps_second" in keys(add_lora(checkpoint, tmp_path / "plus"))
    assert "lora.found.perhaps_second" not in keys(
        add_lora(add_lora(checkpoint, tmp_path / "llama"), tmp_path / "plus")
    )
    problem = refusal(checkpoint, tmp_path / "named")
    assert (problem.key, problem.params["base"]) == ("lora.needs_chinese_llama", SMALL.vocab)
    sha256 = hash_file(tmp_path / "plus" / "adapter_model.bin")
    monkeypatch.setattr(lora_fit, "AFTER_CHINESE_LLAMA_PLUS", {sha256: "Chinese-Alpaca-Pro-7B"})
    problem = refusal(checkpoint, tmp_path / "plus")
    assert problem.params["name"] == "Chinese-Alpaca-Pro-7B"
    monkeypatch.setattr(lora_fit, "AFTER_CHINESE_LLAMA_PLUS", {})
    monkeypatch.setattr(lora_fit, "ON_LLAMA", {sha256: "Chinese-Alpaca-7B"})
    assert "lora.found.perhaps_second" not in keys(add_lora(checkpoint, tmp_path / "plus"))
    assert len(hashed) == 3


def test_the_wrong_way_round(tmp_path: Path) -> None:
    for name, rows in (("llama", LLAMA), ("alpaca", ALPACA)):
        write_lora(tmp_path / name, SMALL, vocab=rows, seed=rows, dtype="F16")
    alpaca = add_lora(base(tmp_path / "b"), tmp_path / "alpaca")
    assert refusal(alpaca, tmp_path / "llama").key == "lora.chinese_order"


def test_known_hashes_are_hashes_of_different_files() -> None:
    tables = (known_adapters.AFTER_CHINESE_LLAMA_PLUS, known_adapters.ON_LLAMA)
    hashes = [sha256 for table in tables for sha256 in table]
    assert len(hashes) == len(set(hashes)) == 15
    assert all(len(sha256) == 64 and int(sha256, 16) for sha256 in hashes)


def test_the_same_adapter_twice(tmp_path: Path) -> None:
    """By its place, or by its content under another name; another adapter of the same size is another adapter."""
    write_lora(tmp_path / "one", SMALL)
    write_lora(tmp_path / "copy", SMALL)
    write_lora(tmp_path / "other", SMALL, seed=6)
    once = add_lora(base(tmp_path / "b"), tmp_path / "one", scale=0.5)
    assert refusal(once, tmp_path / "one").key == "lora.twice"
    assert refusal(once, tmp_path / "copy").key == "lora.twice"
    assert len(add_lora(once, tmp_path / "other").files) == 3


def with_tokenizer(folder: Path, *, added: dict[str, int] | None = None) -> Path:
    (folder / "tokenizer.model").write_bytes(tokenizer_model(500))
    if added:
        (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder


def test_tokens_without_rows_are_refused_and_a_filler_is_not(tmp_path: Path) -> None:
    tiny = Tiny(hidden=8, heads=2, kv_heads=2, layers=1, vocab=500)
    for name in ("fits", "pad", "more", "word"):
        write_lora(tmp_path / name, tiny)
    checkpoint = base(tmp_path / "b", tiny)
    add_lora(checkpoint, with_tokenizer(tmp_path / "fits"))
    padded = add_lora(checkpoint, with_tokenizer(tmp_path / "pad", added={"[PAD]": 500}))
    assert "lora.found.pad_without_row" in keys(padded)
    problem = refusal(checkpoint, with_tokenizer(tmp_path / "more", added={"[PAD]": 500, "<user>": 501}))
    assert (problem.key, problem.params["tokens"], problem.params["rows"]) == ("lora.tokens_without_rows", 502, 500)
    assert refusal(checkpoint, with_tokenizer(tmp_path / "word", added={"<user>": 500})).key == problem.key
    smaller = base(tmp_path / "small", SMALL)
    write_lora(tmp_path / "grows", SMALL, vocab=500)
    assert add_lora(smaller, with_tokenizer(tmp_path / "grows")).llama.vocab == 500


def test_another_size_is_named(tmp_path: Path) -> None:
    other = Tiny(hidden=16, heads=2, kv_heads=2, layers=1)
    write_lora(tmp_path / "l", other, base_model_name_or_path="someone/llama-13b-hf")
    problem = refusal(base(tmp_path / "b"), tmp_path / "l")
    assert (problem.key, problem.params["size"]) == ("lora.other_size", "13B")
    write_lora(tmp_path / "rows", other, vocab=400, base_model_name_or_path="someone/llama-13b-hf")
    assert refusal(base(tmp_path / "b"), tmp_path / "rows").key == "lora.other_size"
    write_lora(tmp_path / "m", other)
    assert refusal(base(tmp_path / "b"), tmp_path / "m").key == "weights.adapter_other_size"


def test_another_generation_is_noted(tmp_path: Path) -> None:
    write_lora(tmp_path / "l", SMALL, base_model_name_or_path="meta-llama/Llama-2-7b-hf")
    old = add_lora(base(tmp_path / "one"), tmp_path / "l")
    new = add_lora(base(tmp_path / "two", rms_norm_eps=1e-5, max_position_embeddings=4096), tmp_path / "l")
    assert "lora.found.other_generation" in keys(old)
    assert "lora.found.other_generation" not in keys(new)


def test_targets_and_file_that_disagree_are_noted(tmp_path: Path) -> None:
    tiny = Tiny(hidden=8, heads=2, kv_heads=2)
    cases = {
        "as named": ({}, []),
        "keyword": ({"target_modules": "all-linear"}, []),
        "pattern": ({"target_modules": r".*\.(self_attn|mlp)\..*_proj"}, []),
        "surplus": ({"target_modules": ["q_proj"]}, [("lora.found.targets_surplus", 12)]),
        "but not": ({"target_modules": ["q_proj"], "exclude_modules": ["0.self_attn.q_proj"]}, []),
        "layers": ({"layers_to_transform": [1]}, [("lora.found.targets_surplus", 7)]),
        "not understood": ({"target_modules": "(?i)x"}, []),
    }
    checkpoint = base(tmp_path / "b", tiny)
    for name, (config, wanted) in cases.items():
        write_lora(tmp_path / name, tiny, **config)
        notes = add_lora(checkpoint, tmp_path / name).notes
        assert [(n.key, n.params["count"]) for n in notes if "targets" in n.key] == wanted, name
    write_lora(tmp_path / "l", tiny)
    path = tmp_path / "l" / "adapter_model.bin"
    torch.save({key: tensor for key, tensor in torch.load(path).items() if "layers.1.mlp.up" not in key}, path)
    notes = add_lora(checkpoint, tmp_path / "l").notes
    absent = [note.params for note in notes if note.key == "lora.found.targets_absent"]
    assert absent == [{"count": 1, "name": "model.layers.1.mlp.up_proj.weight"}]
