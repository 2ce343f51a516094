"""What llama.cpp computes from our file is what transformers computes from the folder: every sort of Llama."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from backend.engines.folder import open_folder
from backend.engines.llamacpp_server import serving
from backend.engines.llamacpp_server.sizes import Room
from backend.engines.llamacpp_server.store import make_gguf
from backend.engines.transformers_server.reading import config_of
from tests.backend.engines.llamacpp_server.models import write_variant

IDS = [1, *range(270, 320), *range(300, 330), *range(262, 300)]  # long enough for stretched positions to matter
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama3": {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 64}, "rope_theta": 500000.0},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}},
    "biases, tied, wide heads": {
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "head_dim": 32,
    },
    "one key head": {"num_key_value_heads": 1, "rms_norm_eps": 1e-3, "rope_theta": 1000.0},
}


def ours(folder: Path, kind: str) -> dict[int, float]:
    """Return the likeliest next tokens with their log-probabilities."""
    path = make_gguf(open_folder(folder), kind, lambda progress: None)
    server = serving.start_server(path, Room(512, 1))
    said: list[Any] = []
    never = [[token, False] for token in range(259)]  # half a character would not be reported; this changes no figure
    request = {"prompt": IDS, "n_predict": 1, "max_tokens": 1, "temperature": 0.0, "n_probs": 8, "stream": True}
    server.handle_completions(request | {"logit_bias": never}, lambda data: bool(said.append(data)))
    found = next(data["choices"][0]["logprobs"] for data in said if data["choices"][0]["logprobs"])["content"][0]
    return {entry["id"]: entry["logprob"] for entry in found["top_logprobs"]}


def theirs(folder: Path) -> list[float]:
    """Return the log-probability of every token."""
    checkpoint = open_folder(folder).checkpoint
    model = LlamaForCausalLM(config_of(checkpoint.llama)).float().eval()
    state = {name: torch.from_numpy(tensor.array()) for name, tensor in checkpoint.items()}
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([IDS])).logits[0, -1], dim=-1).tolist()


def distance(found: dict[int, float], wanted: list[float]) -> float:
    assert len(found) == 8
    return max(abs(likely - wanted[token]) for token, likely in found.items())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_as_transformers(name: str, tmp_path: Path) -> None:
    folder = write_variant(tmp_path / "model", VARIANTS[name])
    wanted = theirs(folder)
    found = ours(folder, "f16")
    assert distance(found, wanted) < 0.02
    assert max(found.values()) == pytest.approx(max(wanted), abs=0.02)
    if name == "plain":
        assert 0.0001 < distance(ours(folder, "q8_0"), wanted) < 0.3


def test_the_comparison_can_tell(tmp_path: Path) -> None:
    folder = write_variant(tmp_path / "model", VARIANTS["llama3"])
    config = json.loads((folder / "config.json").read_text())
    wanted = theirs(folder)
    (folder / "config.json").write_text(json.dumps(config | {"rope_scaling": None}))
    assert distance(ours(folder, "f16"), wanted) > 0.05
