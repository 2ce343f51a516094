"""LoRAs folded into other kinds than Llama: the plain sum, and a folder that says what it holds."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from backend.weights.finish import finish_folder
from backend.weights.lora import add_lora
from backend.weights.opening import open_checkpoint
from backend.weights.writer import save
from tests.backend.weights.reading import loaded, same_bits
from tests.backend.weights.test_as_is import write_decoder

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Tensors = dict[str, torch.Tensor]


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def write_lora(folder: Path, state: Tensors, **config: object) -> Path:
    folder.mkdir()
    save_file({f"base_model.model.{name}": tensor for name, tensor in state.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    table = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(table | config))
    return folder


def pair(name: str, weight: torch.Tensor) -> Tensors:
    stem = name.removesuffix(".weight")
    return {f"{stem}.lora_A.weight": some(4, weight.shape[1]), f"{stem}.lora_B.weight": some(weight.shape[0], 4)}


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3"])
def test_the_plain_sum(kind: str, tmp_path: Path) -> None:
    state = write_decoder(tmp_path / "base", kind).state_dict()
    base = open_checkpoint(tmp_path / "base")
    layers = [name for name in base if name.endswith("_proj.weight")]
    assert len(layers) == (8 if kind == "phi3" else 14)
    adapter = {key: part for name in layers for key, part in pair(name, state[name]).items()}
    merged = loaded(add_lora(base, write_lora(tmp_path / "lora", adapter), scale=0.5))
    wanted = {name: state[name] for name in base}
    for name in layers:
        down, up = (adapter[f"{name.removesuffix('.weight')}.lora_{half}.weight"] for half in "AB")
        wanted[name] = (state[name].float() + (up @ down) * 1.0).half()
    assert same_bits(merged, wanted)


def merge(base: Path, lora: Path, out: Path) -> torch.nn.Module:
    checkpoint = add_lora(open_checkpoint(base), lora)
    list(save(checkpoint, out))
    finish_folder(checkpoint, out, sources=[lora, base])
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(out)
    return model


def test_word_tables_of_its_own(tmp_path: Path) -> None:
    """A copy of the shared table, which some uploads have, does not outlive a new one; two new ones stay apart."""
    base = tmp_path / "base"
    write_decoder(base, "qwen3", tie_word_embeddings=True)
    weights = load_file(base / "model.safetensors")
    save_file(weights | {HEAD: weights[EMBED].clone()}, base / "model.safetensors")
    rows, width = weights[EMBED].shape
    new = {EMBED: some(rows + 3, width).half()}
    grown = merge(base, write_lora(tmp_path / "grows", new), tmp_path / "grown").state_dict()
    assert same_bits({name: grown[name] for name in (EMBED, HEAD)}, {EMBED: new[EMBED], HEAD: new[EMBED]})
    both = new | {HEAD: some(rows + 3, width, seed=1).half()}
    apart = merge(base, write_lora(tmp_path / "both", both), tmp_path / "apart").state_dict()
    assert same_bits({name: apart[name] for name in (EMBED, HEAD)}, both)
    table = weights[EMBED].float()
    words = {
        "model.embed_tokens.lora_embedding_A": some(4, rows),
        "model.embed_tokens.lora_embedding_B": some(width, 4),
    }
    inside = merge(base, write_lora(tmp_path / "words", words), tmp_path / "inside").state_dict()
    product = (words["model.embed_tokens.lora_embedding_B"] @ words["model.embed_tokens.lora_embedding_A"]).T * 2
    assert torch.allclose(inside[EMBED].float(), table + product, atol=1e-3)
    assert not torch.allclose(table, table + product, atol=0.1)
    assert torch.equal(inside[HEAD], weights[EMBED])


def test_another_family_of_the_same_size_is_noted(tmp_path: Path) -> None:
    state = write_decoder(tmp_path / "base", "mistral").state_dict()
    name = "model.layers.0.self_attn.q_proj.weight"
    lora = write_lora(tmp_path / "lora", pair(name, state[name]), base_model_name_or_path="meta-llama/Meta-Llama-3-8B")
    notes = add_lora(open_checkpoint(tmp_path / "base"), lora).notes
    found = next(note.params for note in notes if note.key == "lora.found.other_family")
    assert found == {"base": "meta-llama/Meta-Llama-3-8B", "theirs": "Llama", "ours": "mistral"}
