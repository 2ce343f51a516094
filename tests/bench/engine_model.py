"""A random model for the engine benchmarks, of TinyLlama's shape (1.1 billion weights) or another, in float16, and a
tokenizer whose words are numbers. Nothing larger than a pool of random numbers is ever in memory.
"""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from backend.weights.checkpoint import Tensor
from backend.weights.safetensors_file import header_bytes
from backend.weights.shape import ModelShape

SHAPE = ModelShape(
    hidden=2048, layers=22, heads=32, kv_heads=4, head_dim=64, ffn=5632, vocab=32000, norm_eps=1e-5
)  # fmt: skip
SEVEN = ModelShape(
    hidden=4096, layers=32, heads=32, kv_heads=32, head_dim=128, ffn=11008, vocab=32000, norm_eps=1e-5
)  # fmt: skip
SMALL = ModelShape(
    hidden=256, layers=2, heads=4, kv_heads=2, head_dim=64, ffn=512, vocab=32000, norm_eps=1e-5
)  # fmt: skip
WORDS = 30_000
_POOL = 16_777_213  # numbers; prime, so that no two rows are alike
_ROWS = 512
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def write_model(folder: Path, shape: ModelShape = SHAPE) -> Path:
    """Write the model into a new folder; word number 7 is `` w00007``, one token."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.ffn,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.max_positions,
        "rms_norm_eps": shape.norm_eps,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    _write_weights(folder / "model.safetensors", shape)
    return folder


def prompt(tokens: int, seed: int) -> str:
    """Return a text of so many tokens."""
    numbers = np.random.default_rng(seed).integers(WORDS, size=tokens)
    return "".join(f"<w{number:05d}>" for number in numbers)


def _tokenizer() -> dict[str, Any]:
    """Return a tokenizer.json in which every word is an added token: nothing has to be merged."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [f"<w{number:05d}>" for number in range(SHAPE.vocab - len(pieces))]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": number, "content": text, "special": True, **flags} for number, text in enumerate(pieces[:3])]
    words = list(enumerate(pieces))[259:]
    added += [{"id": number, "content": text, "special": False, **flags} for number, text in words]
    vocab = {text: number for number, text in enumerate(pieces)}
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "vocab": vocab, "merges": []}
    decoder = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    return {"version": "1.0", "added_tokens": added, "decoder": decoder, "model": model}


def _write_weights(path: Path, shape: ModelShape) -> None:
    pool = (np.random.default_rng(7).standard_normal(_POOL, np.float32) * 0.02).astype(np.float16)

    def nothing(start: int, stop: int) -> Any:
        raise NotImplementedError

    sizes = dict(shape.expected())
    with path.open("wb") as out:
        out.write(header_bytes([(name, Tensor("F16", size, nothing)) for name, size in sizes.items()]))
        for name, size in sizes.items():
            row = int(np.prod(size[1:]))
            for start in range(0, size[0], _ROWS):
                stop = min(start + _ROWS, size[0])
                first = zlib.crc32(f"{name} {start}".encode()) % (_POOL - (stop - start) * row)
                rows = pool[first : first + (stop - start) * row].reshape(stop - start, *size[1:])
                rows = np.ones_like(rows) if "norm" in name else rows.copy()
                if name == "lm_head.weight" and start == 0:
                    rows[:3] = 0  # nothing ends a reply early
                out.write(rows.tobytes())
