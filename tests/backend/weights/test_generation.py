"""Which Llama a model's settings, or its author's name for it, tell of."""

import pytest

from backend.weights.generation import generation, named_generation, named_size
from backend.weights.shape import ModelShape

SCALED = {"rope_type": "llama3", "factor": 8.0}


def shape(eps: float, positions: int = 2048, theta: float = 10000.0, **more: object) -> ModelShape:
    sizes = {"hidden": 4096, "layers": 32, "heads": 32, "kv_heads": 32, "head_dim": 128, "ffn": 11008, "vocab": 32000}
    table = {**sizes, "norm_eps": eps, "max_positions": positions, "rope_theta": theta, **more}
    return ModelShape(**table)  # type: ignore[arg-type]


CASES = [
    (shape(1e-6), "LLaMA 1"),
    (shape(1e-5, hidden=8192, layers=80, heads=64, kv_heads=64), "LLaMA 1"),
    (shape(1e-5, 4096), "Llama 2"),
    (shape(1e-5, 2048), "Llama 2"),  # conversions of summer 2023 say so
    (shape(1e-5, 4096, hidden=8192, layers=80, heads=64, kv_heads=8), "Llama 2"),
    (shape(1e-6, 4096), None),  # early Llama 2, or a stretched LLaMA 1
    (shape(1e-5, 16384, 1000000.0), "Code Llama"),
    (shape(1e-5, 8192, 500000.0, kv_heads=8), "Llama 3"),
    (shape(1e-5, 131072, 500000.0, kv_heads=8, rope_scaling=SCALED), "Llama 3.1"),
    (shape(1e-4), None),
    (shape(1e-6, theta=20000.0), None),
]


@pytest.mark.parametrize(("found", "wanted"), CASES)
def test_settings(found: ModelShape, wanted: str | None) -> None:
    assert generation(found) == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("decapoda-research/llama-7b-hf", "LLaMA 1"),
        ("huggyllama/llama-13b", "LLaMA 1"),
        ("meta-llama/Llama-2-13b-chat-hf", "Llama 2"),
        ("meta-llama/Meta-Llama-3-8B", "Llama 3"),
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama 3.1"),
        ("/data/Llama-3.2-1B", "Llama 3.1"),
        ("codellama/CodeLlama-7b-hf", "Code Llama"),
        ("/home/me/llama-30b", None),
        ("llama-33b_chinese", None),
        ("llama-30b_hf", None),
        ("Llama-3-8B_instruct", "Llama 3"),
        ("lmsys/vicuna-7b-v1.5", None),
        ("?", None),
    ],
)
def test_names(name: str, wanted: str | None) -> None:
    assert named_generation(name) == wanted


@pytest.mark.parametrize(
    ("name", "parameters", "wanted"),
    [
        ("llama-7b-hf", 6_738_415_616, None),
        ("llama-13b-hf", 6_738_415_616, "13B"),
        ("llama-33b", 32_528_943_616, None),
        ("Llama-3.2-1B", 1_235_814_400, None),
        ("llama-7b-merged-into-13b", 13_015_864_320, None),
        ("tiny", 1000, None),
        ("v1.5-4bit", 1000, None),
    ],
)
def test_sizes(name: str, parameters: int, wanted: str | None) -> None:
    assert named_size(name, parameters) == wanted
