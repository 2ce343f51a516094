"""How near the forecasts of memory come: models of several shapes in the real engines, 16, 8 and 4 bits, on the CPU.

Run it alone: ``python -m pytest -n 0 -s tests/bench/bench_fit.py``; ``CRIA_BENCH_FIT=large`` adds a model of 1.1
billion weights (10 GB of RAM). Prints a table; asserts the target, 5 % or 300 MB, whichever is more. Each row is one
load and one short answer; no correction from earlier loads goes in.
"""

import asyncio
import json
import os
from pathlib import Path

import numpy as np
import pytest

from backend.dimensions import Dimensions, dimensions_from_config
from backend.engines.base import ChatMessage, EngineOptions, Sampling
from backend.engines.fitting import Fitting
from backend.engines.folder import small_json
from backend.engines.supervisor import Supervisor
from backend.hardware import probe
from backend.units import bytes_text
from backend.weights.checkpoint import Tensor
from backend.weights.safetensors_file import header_bytes
from tests.backend.engines import tiny

pytestmark = pytest.mark.slow
READY_S = 1200.0
# hidden, layers, heads, KV heads, feed-forward, words
SHAPES = {
    "100M": (1024, 6, 16, 4, 2816, 16000),
    "440M": (1536, 12, 12, 12, 4096, 32000),
    **({"1.1B": (2048, 22, 32, 4, 5632, 32000)} if os.environ.get("CRIA_BENCH_FIT") == "large" else {}),
}
POOL = np.random.default_rng(3).standard_normal(1 << 22).astype(np.float16) * np.float16(0.02)


def write_model(folder: Path, sizes: tuple[int, ...]) -> Dimensions:
    """Write a float16 model of random numbers, with a tokenizer of as many words."""
    hidden, layers, heads, kv_heads, ffn, words = sizes
    tiny.write_model(folder)
    config = json.loads((folder / "config.json").read_text()) | {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": words,
        "num_key_value_heads": kv_heads, "head_dim": hidden // heads, "intermediate_size": ffn,
        "max_position_embeddings": 2048,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    known = tokenizer["model"]["vocab"]
    known |= {f"word{number}": number for number in range(len(known), words)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    size = dimensions_from_config(config)
    assert size is not None

    def rows(tensor: Tensor) -> bytes:
        count = int(np.prod(tensor.shape))
        return np.ones(count, np.float16).tobytes() if len(tensor.shape) == 1 else np.resize(POOL, count).tobytes()

    tensors = [(one.name, Tensor("F16", one.shape, lambda start, stop: POOL[start:stop])) for one in size.tensors()]
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header_bytes(tensors))
        for _, tensor in tensors:
            file.write(rows(tensor))
    return size


@pytest.mark.parametrize("engine", ["transformers", "llamacpp"])
@pytest.mark.parametrize("shape", SHAPES)
def test_forecast_and_fact(tmp_path: Path, shape: str, engine: str) -> None:
    folder = tmp_path / shape
    write_model(folder, SHAPES[shape])
    for bits in (16, 8, 4):
        options = EngineOptions(engine=engine, device="cpu", bits=bits)  # type: ignore[arg-type]
        fitting, running = Fitting(tmp_path / f"{engine}-{bits}"), Supervisor(tmp_path / "logs")
        try:
            fitting.expect(folder, options, probe(tmp_path))
            running.load(folder, options)
            running.wait_ready(READY_S)
            asyncio.run(answer(running))
            found = fitting.compare(running.status())
        finally:
            running.close()
        assert found is not None
        off = found.predicted - found.measured
        predicted, measured = bytes_text(found.predicted), bytes_text(found.measured)
        print(f"{engine:<13}{shape:>6}{bits:>4} bits  predicted {predicted:>9}  measured {measured:>9}  "
              f"{off / 1e6:+6.0f} MB  {off / found.measured:+6.1%}")  # fmt: skip
        assert abs(off) <= max(300e6, 0.05 * found.measured)


async def answer(engine: Supervisor) -> None:
    async for _ in engine.chat([ChatMessage("user", "hello")], Sampling(temperature=0.0, max_new_tokens=8)):
        pass


def test_the_folder_is_what_the_forecast_reads(tmp_path: Path) -> None:
    size = write_model(tmp_path / "m", (64, 2, 4, 2, 160, 400))
    assert dimensions_from_config(small_json(tmp_path / "m" / "config.json")) == size
