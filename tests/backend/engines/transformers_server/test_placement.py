"""Where a model goes, by tables of imaginary machines."""

import pytest

from backend.engines.base import EngineOptions
from backend.engines.transformers_server.placement import RESERVE, Machine, Need, Room, place
from backend.errors import MachineError

GB = 10**9
# LLaMA 7B and 13B: 2 * layers * hidden cache numbers a token.
SEVEN = Need(6_476_000_000, 262_000_000, 2 * 32 * 4096, 2048)
THIRTEEN = Need(12_688_000_000, 328_000_000, 2 * 40 * 5120, 2048)


def machine(ram: float, *gpus: float, mps: bool = False, bf16: bool = True) -> Machine:
    return Machine(int(ram * GB), tuple(Room(i, f"Card {i}", int(free * GB), bf16) for i, free in enumerate(gpus)), mps)


def test_sizes_are_those_everybody_knows() -> None:
    assert SEVEN.weights(16, "float16") == pytest.approx(13.5 * GB, rel=0.01)
    assert SEVEN.weights(8, "float16") == pytest.approx(7.0 * GB, rel=0.01)
    assert SEVEN.weights(4, "float16") == pytest.approx(3.9 * GB, rel=0.01)
    assert SEVEN.cache("float16") * 2048 == pytest.approx(1.07 * GB, rel=0.01)


@pytest.mark.parametrize(
    ("need", "options", "where", "expected"),
    [
        # device, dtype, GPUs, context
        (SEVEN, EngineOptions(), machine(64), ("cpu", "float32", (), 2048)),
        (SEVEN, EngineOptions(), machine(24), ("cpu", "bfloat16", (), 2048)),
        (SEVEN, EngineOptions(dtype="float32"), machine(64), ("cpu", "float32", (), 2048)),
        (SEVEN, EngineOptions(bits=8), machine(12), ("cpu", "float32", (), 2048)),
        (SEVEN, EngineOptions(bits=4), machine(8), ("cpu", "float32", (), 2048)),
        (SEVEN, EngineOptions(bits=4), machine(7), ("cpu", "bfloat16", (), 2048)),
        (SEVEN, EngineOptions(bits=4), machine(5.3), ("cpu", "bfloat16", (), 640)),  # all that is left
        (SEVEN, EngineOptions(), machine(24, mps=True), ("mps", "float16", (), 2048)),
        (SEVEN, EngineOptions(device="cpu"), machine(64, 80), ("cpu", "float32", (), 2048)),
        (SEVEN, EngineOptions(), machine(64, 24), ("cuda", "bfloat16", (0,), 2048)),
        (SEVEN, EngineOptions(), machine(64, 24, bf16=False), ("cuda", "float16", (0,), 2048)),
        (SEVEN, EngineOptions(), machine(64, 18, 24), ("cuda", "bfloat16", (1,), 2048)),  # the roomier one
        (SEVEN, EngineOptions(), machine(64, 24, 24), ("cuda", "bfloat16", (0,), 2048)),  # one is enough
        (SEVEN, EngineOptions(num_gpus=2), machine(64, 24, 24), ("cuda", "bfloat16", (0, 1), 2048)),
        (SEVEN, EngineOptions(gpus=(2, 3)), machine(64, 24, 24), ("cuda", "bfloat16", (0, 1), 2048)),
        (THIRTEEN, EngineOptions(), machine(64, 16, 24), ("cuda", "bfloat16", (0, 1), 2048)),  # needs both
        (THIRTEEN, EngineOptions(bits=8), machine(64, 16, 24), ("cuda", "bfloat16", (1,), 2048)),
        (THIRTEEN, EngineOptions(bits=8, max_gpu_memory=10 * GB), machine(64, 16, 24),
         ("cuda", "bfloat16", (0, 1), 2048)),
        (THIRTEEN, EngineOptions(context=512), machine(64, 28), ("cuda", "bfloat16", (0,), 512)),
    ],
)  # fmt: skip
def test_where_a_model_goes(need: Need, options: EngineOptions, where: Machine, expected: tuple[object, ...]) -> None:
    placed = place(need, options, where)
    assert (placed.device, placed.dtype, placed.gpus, placed.context) == expected
    assert placed.cache_room >= placed.context * need.cache(placed.dtype)
    assert placed.message.key.startswith("engine.placement.")
    assert placed.message.key.endswith("_bits") == (options.bits != 16)


def test_each_gpu_gets_what_it_has_room_for_less_its_part_of_the_cache() -> None:
    placed = place(THIRTEEN, EngineOptions(), machine(64, 16, 24))
    share = 2048 * THIRTEEN.cache("bfloat16") // 2
    assert placed.max_memory == {0: 16 * GB - RESERVE - share, 1: 24 * GB - RESERVE - share}
    assert sum(placed.max_memory.values()) > THIRTEEN.weights(16, "bfloat16")


@pytest.mark.parametrize(
    ("need", "options", "where", "key"),
    [
        (SEVEN, EngineOptions(), machine(8), "engine.no_room_ram"),
        (SEVEN, EngineOptions(dtype="float32"), machine(24), "engine.no_room_ram"),
        (SEVEN, EngineOptions(bits=4, context=2048), machine(5.3), "engine.no_room_ram"),  # asked for: not shortened
        (SEVEN, EngineOptions(device="cuda"), machine(64), "engine.no_cuda_here"),
        (THIRTEEN, EngineOptions(), machine(64, 24), "engine.no_room_gpu"),
        (THIRTEEN, EngineOptions(num_gpus=1), machine(64, 16, 24), "engine.no_room_gpu"),
        (THIRTEEN, EngineOptions(num_gpus=2, max_gpu_memory=8 * GB), machine(64, 16, 24), "engine.no_room_cap"),
        (SEVEN, EngineOptions(), machine(64, 0.5), "engine.no_room_gpu"),
    ],
)
def test_what_does_not_fit_is_said_with_the_numbers(
    need: Need, options: EngineOptions, where: Machine, key: str
) -> None:
    with pytest.raises(MachineError) as caught:
        place(need, options, where)
    assert caught.value.key == key
    assert "{" not in caught.value.text()


def test_a_cap_that_is_in_the_way_is_named() -> None:
    with pytest.raises(MachineError) as caught:
        place(SEVEN, EngineOptions(max_gpu_memory=2 * GB), machine(64, 150))
    assert caught.value.key == "engine.no_room_cap"
    assert (caught.value.params["cap"], caught.value.params["free"], caught.value.params["count"]) == (
        2 * GB,
        2 * GB,
        1,
    )
    with pytest.raises(MachineError) as caught:
        place(THIRTEEN, EngineOptions(num_gpus=2, max_gpu_memory=8 * GB), machine(64, 4, 24))
    assert caught.value.params["free"] == 12 * GB
    with pytest.raises(MachineError) as caught:
        place(THIRTEEN, EngineOptions(max_gpu_memory=80 * GB), machine(64, 8))
    assert (caught.value.key, caught.value.params["free"]) == ("engine.no_room_gpu", 8 * GB)


@pytest.mark.parametrize(
    ("where", "alone", "slots"),
    [
        (machine(64), False, 8), (machine(64), True, 1), (machine(64, 24), False, 16), (machine(64, 24), True, 1),
        (machine(64, mps=True), False, 1),  # batches are slow there before torch 2.14
        (machine(64, 12, 12), False, 1),  # layers on several cards
    ],
)  # fmt: skip
def test_how_many_are_computed_at_once(where: Machine, alone: bool, slots: int) -> None:
    assert place(SEVEN, EngineOptions(), where, alone=alone).batching.slots == slots
