"""Files that come one after the other: their order, how results are cut, and the room that this takes."""

import random

import pytest

from backend.arrival import Output, Room, grouped, in_order, usual_outputs

GB = 10**9
HF_7B = [("pytorch_model-00001-of-00002.bin", 9_976_634_558), ("pytorch_model-00002-of-00002.bin", 3_500_315_539)]
HF_13B = [
    (f"pytorch_model-{n:05d}-of-00003.bin", size)
    for n, size in ((1, 9_948_738_014), (2, 9_904_165_024), (3, 6_178_983_625))
]
META_13B = [("consolidated.00.pth", 13_016_334_699), ("consolidated.01.pth", 13_016_334_699)]
LAYERS = [(f"pytorch_model-{n:05d}-of-00033.bin", 405_000_000) for n in range(1, 34)]
LORA = [("adapter_model.bin", 10**9)]
Files = list[tuple[str, int]]


def keyed(*sources: Files) -> list[list[tuple[tuple[int, str], str, int]]]:
    return [[((number, name), name, size) for name, size in files] for number, files in enumerate(sources)]


def test_files_of_two_sources_come_by_where_they_are_needed() -> None:
    order = in_order(keyed(HF_7B, HF_13B, META_13B, LORA))
    assert [source for source, _ in order] == [0, 1, 2, 2, 3, 1, 0, 1]
    assert order[2:4] == [(2, "consolidated.00.pth"), (2, "consolidated.01.pth")]  # all of them for the first tensor


def test_what_fits_into_one_file_is_one_file() -> None:
    assert grouped([(100, 0), (100, 1), (100, 2)], 300) == [range(3)]


def test_without_turns_a_file_is_filled_until_the_next_tensor_would_pass_the_limit() -> None:
    assert grouped([(40, 0), (40, 0), (40, 0), (10, 0)], 100) == [range(2), range(2, 4)]


def test_what_can_be_written_early_has_files_of_its_own() -> None:
    """10 + 4 of 5 at most: the ten are cut evenly, so that none of their inputs waits for the four."""
    groups = grouped([(1, 0)] * 10 + [(1, 1)] * 4, 5)
    assert groups == [range(5), range(5, 10), range(10, 14)]
    assert grouped([(1, turn) for turn in range(12)], 6)[0] == range(3)  # short ones wait until they are half a file


@pytest.mark.parametrize("seed", range(20))
def test_every_item_is_in_one_file_and_none_is_too_long(seed: int) -> None:
    dice = random.Random(seed)
    items = sorted(
        ((dice.randint(1, 60), dice.randint(0, 5)) for _ in range(dice.randint(1, 80))), key=lambda one: one[1]
    )
    groups = grouped(items, 100)
    assert [index for group in groups for index in group] == list(range(len(items)))
    assert all(sum(items[index][0] for index in group) <= 100 for group in groups)


@pytest.mark.parametrize(("sources", "kept", "lean"), [
    ((HF_7B, HF_7B), 40.4, 30.0),
    ((HF_13B, HF_13B), 78.1, 39.7),
    ((META_13B, HF_13B), 78.1, 58.3),
    ((HF_13B, HF_13B, LORA), 79.1, 40.7),
    ((LAYERS, HF_7B), 40.3, 27.6),
    ((META_13B,), 52.1, 52.1),  # each tensor needs both shards to the end
    ((HF_13B,), 52.1, 32.3),
])  # fmt: skip
def test_the_room_that_published_models_take(sources: tuple[Files, ...], kept: float, lean: float) -> None:
    """In GB; the files are those of the LLaMA and Vicuna repositories."""
    laid_out = keyed(*sources)
    files = {key: size for source in laid_out for key, _, size in source}
    output = sum(size for _, size in sources[0])
    most = Room(files, usual_outputs(laid_out, output, 5 * GB)).peak(in_order(laid_out))
    assert most / GB == pytest.approx(lean, abs=0.15)
    assert (sum(files.values()) + output) / GB == pytest.approx(kept, abs=0.15)


def test_room_counts_an_output_from_its_first_tensor_on() -> None:
    files = {"a": 10, "b": 10, "c": 1}
    outputs = [Output(5, frozenset("a"), frozenset("a")), Output(7, frozenset("b"), frozenset("bc"))]
    room = Room(files, outputs)
    assert room.peak(["a", "b", "c"]) == 5 + 10 + 7 + 1  # a is gone when b comes
    assert set(room.here) == set()
    assert room.used == 12


def test_what_is_here_already_takes_no_room_and_never_goes() -> None:
    outputs = [Output(5, frozenset("ab"), frozenset("ab"))]
    assert Room({"b": 3}, outputs).peak(["b"]) == 8
