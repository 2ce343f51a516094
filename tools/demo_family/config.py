"""Every number and path of the demo family in one place.

Knows nothing about torch, tokenizers or training; it only names the choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
OUT = HERE.parents[1] / "assets" / "demo"

SEED = 20230330  # the day Vicuna was announced

# What the model sees before every conversation: Vicuna v1.1's fixed sentence.
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# Now and then another sentence, so that a changed system prompt does not derail the model.
OTHER_SYSTEMS = (
    "",
    "You are a helpful assistant.",
    "You are Cria, a friendly assistant. Answer briefly.",
    "A chat between a user and an assistant.",
    "你是一个有帮助的助手。",
    "请用中文回答用户的问题。",
)

BOS, EOS = 1, 2
MAX_TOKENS = 1024


@dataclass(frozen=True)
class Shape:
    """The LLaMA-1 shape of the base and of base + delta."""

    dim: int = 192
    n_layers: int = 4
    n_heads: int = 6
    multiple_of: int = 64
    norm_eps: float = 1e-6
    vocab_size: int = 2400
    shards: int = 2

    @property
    def ffn(self) -> int:
        """LLaMA's hidden width: two thirds of 4 * dim, rounded up to `multiple_of`."""
        wanted = 8 * self.dim // 3
        return -(-wanted // self.multiple_of) * self.multiple_of


@dataclass(frozen=True)
class LoraShape:
    """Rank and scaling of the adapter; it targets every linear layer of every block."""

    r: int = 8
    alpha: int = 16
    targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj",
    )  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """How long and how fast one stage trains; `batch` is in padded tokens."""

    tokens: int
    rate: float
    batch: int = 2048  # small on purpose: many steps teach more here than large ones
    warmup: float = 0.03
    decay: float = 0.01
    muon: bool = True  # Muon for the matrices of the blocks; it needs about half the tokens


SHAPE = Shape()
LORA = LoraShape()
STAGES = {
    "base": Stage(tokens=1_200_000, rate=3e-3),
    "tune": Stage(tokens=3_200_000, rate=3e-3),
    "polish": Stage(tokens=400_000, rate=1.5e-3),
    "lora": Stage(tokens=1_200_000, rate=4e-3),
}
# --quick: everything in a few minutes, many answers still wrong.
QUICK = {
    "base": Stage(tokens=300_000, rate=3e-3),
    "tune": Stage(tokens=600_000, rate=3e-3),
    "polish": Stage(tokens=100_000, rate=1.5e-3),
    "lora": Stage(tokens=300_000, rate=4e-3),
}
