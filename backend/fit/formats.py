"""How many bytes numbers take: plain formats, bitsandbytes' 8 and 4 bits, the blocks of GGUF. Knows nothing of models.

Sources: bitsandbytes' Linear8bitLt keeps int8 and one float32 a row; its NF4 keeps half a byte a weight, a byte for
every block of 64, and, quantised doubly, four for every 256 of those (QLoRA, Dettmers et al. 2023). GGUF's blocks are
those of ggml-common.h.
"""

from collections.abc import Mapping

ITEM: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
NF4_BLOCK, NF4_NESTED = 64, 256
NF4_TABLE = 1104  # bytes a matrix: two code books of 16 and 256 float32, and an offset
# Bytes of one block, and the weights in it.
GGUF_BLOCKS: Mapping[str, tuple[int, int]] = {
    "F32": (4, 1), "F16": (2, 1), "Q8_0": (34, 32), "Q5_0": (22, 32), "Q4_0": (18, 32), "Q4_K": (144, 256),
    "Q5_K": (176, 256), "Q6_K": (210, 256),
}  # fmt: skip


def int8_bytes(weights: int, rows: int) -> int:
    """Return the bytes of matrices in 8-bit; ``rows`` is of all of them together."""
    return weights + 4 * rows


def nf4_bytes(weights: int, matrices: int) -> int:
    """Return the bytes of matrices in 4-bit, doubly quantised; ``matrices`` is how many they are."""
    blocks = -(-weights // NF4_BLOCK)
    return -(-weights // 2) + blocks + 4 * -(-blocks // NF4_NESTED) + NF4_TABLE * matrices


def gguf_bytes(weights: int, layout: str) -> int:
    """Return the bytes of a tensor in one of ``GGUF_BLOCKS``."""
    size, count = GGUF_BLOCKS[layout]
    return -(-weights // count) * size
