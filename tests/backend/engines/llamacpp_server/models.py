"""Llama models of all sorts for the converter: tiny, random, with whatever a config.json can ask for."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from backend.weights.shape import shape_from_config
from tests.backend.engines import tiny

Arrays = dict[str, np.ndarray]


def write_variant(folder: Path, changes: dict[str, Any], *, arrays: Arrays | None = None) -> Path:
    """Write the tiny model with another config.json and weights that fit it; ``arrays`` replace some."""
    tiny.write_model(folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(3)
    made: Arrays = {}
    for name, size in shape_from_config(config, vocab=tiny.shape().vocab).expected():
        scale, middle = (0.05, 1.0) if "norm" in name else (0.2, 0.0)
        made[name] = (random.standard_normal(size) * scale + middle).astype(np.float16).astype(np.float32)
    (folder / "model.safetensors").unlink()
    tiny.write_safetensors(folder / "model.safetensors", made | (arrays or {}))
    return folder
