"""What a loaded model will hold, term by term, each with the sum behind it. Knows nothing about verdicts.

The fixed parts were measured: an engine on a CPU, after its first answer, less its weights and its cache
(tests/bench/bench_fit.py prints the table). What a GPU's driver takes is a usual figure until a load here has told.
"""

from dataclasses import dataclass

from backend.fit.formats import ITEM
from backend.fit.need import PAGE, Need, pages
from backend.fit.result import Memory
from backend.fit.seat import Seat
from backend.text import Message

RAM_OVERHEAD = 430_000_000  # Python, torch, transformers, thread pools, tokenizer
QUANTISED_OVERHEAD = 45_000_000  # bitsandbytes on top
GPU_OVERHEAD = 600_000_000  # CUDA's context with torch's kernels, cuBLAS' workspace


@dataclass(frozen=True)
class Correction:
    """Bytes by which engines on this machine held more than was foretold (less: negative): in RAM with transformers
    and with llama.cpp, and on a GPU."""

    ram: int = 0
    gpu: int = 0
    llamacpp: int = 0


def expected(need: Need, bits: int, seat: Seat, correction: Correction | None = None) -> Memory:
    """Return what one device will hold when the model answers; with several GPUs, what each holds of an even split."""
    correction, count = correction or Correction(), max(1, len(seat.gpus))
    dtype, batching = seat.dtype, seat.batching
    weights = need.weights(bits, dtype)
    tokens, work = seat.context, need.fixed(bits, dtype, batching)
    each, item = need.cache(dtype), ITEM[dtype]
    if batching.chunk:
        tokens = PAGE * pages(
            seat.context, seat.left, need.token(dtype, batching), conversations=batching.conversations
        )
        work += tokens * batching.chunk * item + seat.context * need.reads * item
    else:
        work += seat.context * (need.reads + need.step) * item
    on_gpu = seat.device == "cuda"
    fixed = GPU_OVERHEAD if on_gpu else RAM_OVERHEAD + (QUANTISED_OVERHEAD if bits != 16 else 0)
    overhead = max(0, fixed + (correction.gpu if on_gpu else correction.ram))
    cache = tokens * each // count
    work = work if count == 1 else work // count
    lines = [_weights_line(need, bits, dtype, weights)]
    if count > 1:
        lines.append(Message("fit.sum.split", {"count": count, "bytes": weights // count}))
    lines += [
        Message("fit.sum.cache", {"tokens": tokens, "each": each, "bytes": tokens * each}),
        Message("fit.sum.work", {"bytes": work}),
        Message("fit.sum.overhead_gpu" if on_gpu else "fit.sum.overhead_ram", {"bytes": overhead}),
        Message("fit.sum.together", {"bytes": weights // count + cache + work + overhead}),
    ]
    return Memory(weights // count, cache, work, overhead, tuple(lines))


def _weights_line(need: Need, bits: int, dtype: str, total: int) -> Message:
    others = need.others + need.kept
    if bits == 16:
        count = need.matrices + others
        return Message("fit.sum.weights", {"count": count, "item": ITEM[dtype], "dtype": dtype, "bytes": total})
    values = {"bits": bits, "matrices": need.matrices, "others": others, "item": ITEM[dtype], "bytes": total}
    return Message("fit.sum.quantised", values)
