"""Weights, cache and work in bytes, against figures that are known from elsewhere."""

import pytest

from backend.dimensions import Dimensions
from backend.fit.formats import gguf_bytes, int8_bytes, nf4_bytes
from backend.fit.need import ON_CPU, ON_GPU, ONE_AT_A_TIME, PAGE, need_of, pages
from tests.backend.fit.machines import LLAMA3, SEVEN, SEVENTY, SIXTY, THIRTEEN, THIRTY

GIB = 1 << 30


@pytest.mark.parametrize(
    ("size", "half", "eight", "four"),
    [
        (SEVEN, 12.55, 6.52, 3.60),
        (THIRTEEN, 24.24, 12.43, 6.70),
        (THIRTY, 60.59, 30.7, 16.2),
        (SIXTY, 121.6, 61.3, 32.1),
        (SEVENTY, 128.48, 64.75, 33.87),
    ],
)
def test_weights_in_every_format(size: Dimensions, half: float, eight: float, four: float) -> None:
    need = need_of(size)
    assert need.weights(16, "float16") / GIB == pytest.approx(half, rel=0.001)
    assert need.weights(16, "float32") == 2 * need.weights(16, "bfloat16")
    assert need.weights(8, "float16") / GIB == pytest.approx(eight, rel=0.003)
    assert need.weights(4, "float16") / GIB == pytest.approx(four, rel=0.003)


@pytest.mark.parametrize(
    ("size", "kib"), [(SEVEN, 512), (THIRTEEN, 800), (THIRTY, 1560), (SIXTY, 2560), (SEVENTY, 320), (LLAMA3, 128)]
)
def test_the_cache_of_one_token(size: Dimensions, kib: int) -> None:
    assert need_of(size).cache("float16") == kib * 1024


def test_quantised_formats_by_hand() -> None:
    assert int8_bytes(4096 * 4096, 4096) == 4096 * 4096 + 4096 * 4
    blocks = 4096 * 4096 // 64
    assert nf4_bytes(4096 * 4096, 1) == 4096 * 4096 // 2 + blocks + blocks // 256 * 4 + 1104
    assert [gguf_bytes(256, layout) for layout in ("F16", "Q8_0", "Q4_0", "Q4_K", "Q6_K")] == [512, 272, 144, 144, 210]


def test_layers_with_a_window_keep_no_more_than_it() -> None:
    usual = {"vocab": 1000, "hidden": 256, "layers": 6, "heads": 4, "kv_heads": 2, "head_dim": 64, "ffn": 512}
    size = Dimensions(kind="gemma3_text", **usual, context=8192, window=1024, window_layers=5)
    need, short = need_of(size), need_of(size, 512)
    assert (need.cache_per_token, need.window_cache) == (2 * 128, 5 * 2 * 128 * 1024)
    assert (short.cache_per_token, short.window_cache) == (6 * 2 * 128, 0)


def test_t5_keeps_two_caches_and_some_matrices_wide() -> None:
    flan = Dimensions(  # Flan-T5 XL, of which FastChat-T5 was made: 2.85 billion weights
        kind="t5", vocab=32128, hidden=2048, layers=24, heads=32, kv_heads=32, head_dim=64, ffn=5120, context=2048
    )
    assert flan.parameters == pytest.approx(2.85e9, rel=0.001)
    need = need_of(flan)
    assert need.cache_per_token == 2 * 2 * 24 * 2048
    assert need.kept == 48 * 2048 * 5120
    assert need.weights(16, "float16") - need.weights(16, "bfloat16") == 2 * need.kept


def test_long_prompts_are_cut_in_batches_and_whole_alone() -> None:
    need = need_of(SEVEN)
    assert need.fixed(16, "bfloat16", ON_GPU) > need.fixed(16, "bfloat16", ON_CPU)
    assert need.token("bfloat16", ONE_AT_A_TIME) > need.token("bfloat16", ON_CPU) > need.cache("bfloat16")
    assert (
        need.fixed(4, "bfloat16", ON_CPU) - need.fixed(16, "bfloat16", ON_CPU) == need.largest * 2 == 11008 * 4096 * 2
    )


def test_logits_are_of_answers_and_not_of_prompts() -> None:
    big, small = need_of(LLAMA3).fixed(16, "bfloat16", ON_GPU), need_of(SEVEN).fixed(16, "bfloat16", ON_GPU)
    assert big - small < 200e6  # a row of 128256 float32 for each of 2048 prompt tokens would be 1.05 GB


@pytest.mark.parametrize(
    ("room", "conversations", "taken"), [(10**9, 2, 66), (10**9, 8, 264), (100 * PAGE * 1000, 8, 100), (-5, 8, 33)]
)
def test_pages(room: int, conversations: int, taken: int) -> None:
    assert pages(2048, room, 1000, conversations=conversations) == taken
