"""Verdicts on imaginary machines: what runs well, what is tight, what does not fit, and the cheapest way out."""

from dataclasses import replace

import pytest

from backend.dimensions import Dimensions, Stored
from backend.fit.remedy import Making, advise, with_alternatives, with_making
from backend.fit.result import Fit, Outlook, Verdict
from backend.fit.verdict import RUNNABLE, Asked, Known, look
from backend.hardware import GpuProcess, Hardware
from backend.text import LANGUAGES, Message, tell
from tests.backend.fit.machines import GB, LLAMA3, SEVEN, SIXTY, THIRTEEN, THIRTY, machine

FAST, LLAMACPP = Known(20e9), Known(20e9, llamacpp=True)
WELL, TIGHT, NO = Verdict.WELL, Verdict.TIGHT, Verdict.NO


def seen(size: Dimensions | None, hardware: Hardware, known: Known = FAST, asked: Asked | None = None) -> Outlook:
    return advise(look(size, hardware, known=known, asked=asked), hardware)


def way(outlook: Outlook, device: str, bits: int, *gpus: int) -> Fit:
    return next(one for one in outlook.ways if (one.way.device, one.way.bits, one.way.gpus) == (device, bits, gpus))


@pytest.mark.parametrize(
    ("size", "hardware", "known", "best", "verdict"),
    [
        # (device, bits, GPUs) of the way to pick
        (SEVEN, machine(64, 24), FAST, ("cuda", 16, (0,)), WELL),
        (SEVEN, machine(64, 12), FAST, ("cuda", 8, (0,)), WELL),
        (SEVEN, machine(64, 6.5), FAST, ("cuda", 4, (0,)), TIGHT),
        (THIRTEEN, machine(64, 24), FAST, ("cuda", 8, (0,)), WELL),
        (THIRTEEN, machine(64, 24, 24), FAST, ("cuda", 16, (0, 1)), WELL),
        (THIRTEEN, machine(64, 10, 24), FAST, ("cuda", 8, (1,)), WELL),  # the roomier card
        (THIRTEEN, machine(64, 80), FAST, ("cuda", 16, (0,)), WELL),
        (THIRTY, machine(64, 24, 24), FAST, ("cuda", 8, (0, 1)), WELL),
        (SIXTY, machine(64, 24), LLAMACPP, ("cpu", 4, ()), TIGHT),
        (SEVEN, machine(20), LLAMACPP, ("cpu", 4, ()), WELL),
        (SEVEN, machine(40), FAST, ("cpu", 16, ()), TIGHT),  # bitsandbytes would save memory and be slower still
        (SEVEN, machine(32, mps=True), FAST, ("mps", 16, ()), WELL),
        (SEVEN, machine(3), FAST, ("cpu", 16, ()), NO),
        (LLAMA3, machine(64, 24), FAST, ("cuda", 16, (0,)), WELL),
    ],
)
def test_the_way_to_pick(
    size: Dimensions, hardware: Hardware, known: Known, best: tuple[str, int, tuple[int, ...]], verdict: Verdict
) -> None:
    found = seen(size, hardware, known)
    assert found.best is not None
    if verdict is NO:
        assert {one.verdict for one in found.ways} == {NO}
    else:
        assert (found.best.way.device, found.best.way.bits, found.best.way.gpus) == best
    assert found.verdict is found.best.verdict is verdict


def test_a_13b_on_a_cpu_is_tight_and_says_how_slow() -> None:
    found = way(seen(THIRTEEN, machine(60), Known(10e9, llamacpp=True)), "cpu", 16)
    assert (found.verdict, found.why.key) == (TIGHT, "fit.why.slow")
    assert found.tokens_per_s == pytest.approx(0.39, rel=0.02)
    assert "0.4 tokens" in tell("en", found.why)


@pytest.mark.parametrize(
    ("hardware", "asked", "remedy"),
    [
        (machine(8, 12), None, Message("fit.remedy.bits", {"bits": 8, "place": "GPU 0"})),
        (machine(8, 12, 24), None, Message("fit.remedy.place", {"bits": 16, "place": "GPU 1"})),
    ],
)
def test_the_cheapest_change(hardware: Hardware, asked: Asked | None, remedy: Message) -> None:
    found = seen(SEVEN, hardware, asked=asked)
    one = next(fit for fit in found.ways if fit.way.bits == 16 and fit.way.device == "cuda" and fit.verdict is NO) \
        if remedy.key.endswith("bits") else found.ways[0]  # fmt: skip
    if remedy.key.endswith("bits"):
        assert one.remedy == remedy
    else:
        assert one.way.gpus == (1,)


def test_who_holds_the_rest_is_named_where_that_would_be_enough() -> None:
    ann = GpuProcess(4, 18 * GB, "python", "ann")
    found = way(seen(THIRTEEN, machine(4, 6, held=(ann,))), "cuda", 4, 0)
    assert found.verdict is NO
    assert found.remedy == Message(
        "fit.remedy.close", {"name": "python", "user": "ann", "pid": 4, "held": 18 * GB, "place": "GPU 0"}
    )
    small = GpuProcess(4, 10**6, "python", "ann")
    assert way(seen(THIRTEEN, machine(4, 6, held=(small,))), "cuda", 4, 0).remedy is None
    bob = GpuProcess(9, 20 * GB, "java", "bob")
    hardware = machine(3)
    in_ram = advise(look(SEVEN, hardware), hardware, (bob,))
    assert in_ram.remedy is not None
    assert in_ram.remedy.params["user"] == "bob"


@pytest.mark.parametrize(
    "hardware", [machine(None), machine(None, None), machine(None, None, None), machine(None, mps=True)]
)
def test_what_is_not_known_is_never_a_no(hardware: Hardware) -> None:
    for size in (SEVEN, SIXTY, None):
        found = seen(size, hardware)
        assert (found.best, found.verdict, found.remedy) == (None, None, None)


def test_a_card_that_does_not_tell_leaves_the_others_their_verdicts() -> None:
    found = seen(SEVEN, machine(64, None, 24))
    assert {one.way.gpus for one in found.ways} == {(1,), ()}
    assert found.verdict is WELL


def test_gpus_that_torch_cannot_use_are_not_offered_but_named() -> None:
    hardware = machine(40, 24, versions={"torch": "2.13.0+cpu", "bitsandbytes": "0.50"})
    found = seen(SEVEN, hardware)
    assert {one.way.device for one in found.ways} == {"cpu"}
    assert found.remedy == Message("fit.remedy.torch", {"count": 1})


def test_without_bitsandbytes_there_is_no_8_bit_on_a_gpu() -> None:
    found = seen(THIRTEEN, machine(8, 24, versions={"torch": "2.13.0+cu130"}))
    assert {one.way.bits for one in found.ways} == {16}
    assert found.remedy == Message("fit.remedy.bitsandbytes")


def test_a_kind_that_the_engine_does_not_run_is_said_to_be_one() -> None:
    found = seen(replace(SEVEN, kind="mixtral", experts=8, active_experts=2), machine(64, 80))
    assert found.verdict is NO
    assert found.remedy == Message("fit.remedy.kind", {"kind": "mixtral"})


def test_the_kinds_are_those_of_the_engine() -> None:
    from backend.engines.transformers_server import other_kinds

    assert set(RUNNABLE) == {"llama", "t5", *other_kinds._DECODERS}


def test_an_asked_context_is_not_shortened() -> None:
    shorter = seen(SEVEN, machine(8, 15.5))
    assert way(shorter, "cuda", 16, 0).why.key == "fit.why.context"
    asked = seen(SEVEN, machine(8, 15.5), asked=Asked(context=2048))
    assert way(asked, "cuda", 16, 0).verdict is NO
    capped = seen(SEVEN, machine(8, 80), asked=Asked(max_gpu_memory=10 * GB))
    assert way(capped, "cuda", 16, 0).verdict is NO


@pytest.mark.parametrize(
    ("making", "verdict", "remedy"),
    [
        (Making(30 * GB, 15 * GB, GB), WELL, None),
        (Making(600 * GB, 300 * GB, GB), TIGHT, "fit.remedy.lean"),
        (Making(900 * GB, 600 * GB, GB), NO, "fit.remedy.disk"),
        (Making(900 * GB, None, GB), NO, "fit.remedy.disk"),
        (Making(30 * GB, 15 * GB, 100 * GB), NO, "fit.remedy.memory"),
    ],
)
def test_making_it_counts_as_well(making: Making, verdict: Verdict, remedy: str | None) -> None:
    hardware = machine(64, 24)
    found = with_making(seen(SEVEN, hardware), making, hardware)
    assert found.verdict is verdict
    assert (found.remedy.key if found.remedy else None) == remedy
    assert (found.disk_needed, found.disk_needed_lean, found.disk_free) == (making.disk, making.disk_lean, 500 * GB)
    unknown = machine(None, disk=None)
    assert with_making(seen(SEVEN, unknown), making, unknown).verdict in (None, WELL)


def test_a_smaller_size_is_offered() -> None:
    found = with_alternatives(seen(SIXTY, machine(8)), ("llama-7b",))
    assert found.remedy == Message("fit.remedy.smaller", {"name": "llama-7b"})
    assert found.alternatives == ("llama-7b",)


def test_everything_is_said_whole_in_every_language() -> None:
    for size in (SEVEN, THIRTEEN, SIXTY):
        for hardware in (machine(64, 24), machine(8, 6, 6), machine(40), machine(6, mps=True)):
            found = seen(size, hardware, LLAMACPP)
            said = [found.remedy, *(part for one in found.ways for part in (one.why, one.remedy))]
            said += [line for one in found.ways for memory in one.needs.values() for line in memory.formula]
            for message in said:
                for language in LANGUAGES:
                    assert message is None or not {"{", "?"} & set(tell(language, message))


def test_the_terms_add_up() -> None:
    for one in seen(THIRTEEN, machine(64, 24, 24), LLAMACPP).ways:
        for memory in one.needs.values():
            total = memory.formula[-1].params["bytes"]
            assert isinstance(total, int)
            assert abs(memory.total - total) <= len(one.needs)


def test_a_long_context_need_not_fit_whole() -> None:
    size = replace(LLAMA3, context=131072)
    found = way(seen(size, machine(8, 24)), "cuda", 16, 0)
    assert (found.verdict, found.why.key) == (WELL, "fit.why.well_context")
    assert 8192 < found.context < 131072
    assert way(seen(size, machine(8, 17.8)), "cuda", 16, 0).why.key == "fit.why.context"


def test_who_would_have_to_leave_is_named_for_all_of_the_context() -> None:
    ann = GpuProcess(4, GB // 10, "python", "ann")
    found = way(seen(SEVEN, machine(4, 5.9, held=(ann,))), "cuda", 4, 0)
    assert (found.verdict, found.why.key, found.remedy) == (TIGHT, "fit.why.context", None)


def test_a_ready_made_file_has_one_way_on_every_machine() -> None:
    ready = replace(SEVEN, kind="gguf", stored=Stored(4 * GB, 100_000, 4 * GB))
    for hardware in (machine(64, 24), machine(64), machine(64, mps=True)):
        found = seen(ready, hardware, LLAMACPP)
        assert [(one.way.device, one.way.engine, one.way.stored) for one in found.ways] == [("cpu", "llamacpp", True)]
        assert found.best is not None
        memory = found.best.needs["ram"]
        assert memory.weights == 8 * GB  # with what is laid out anew
        assert memory.cache == found.best.context * 100_000 * 4
    assert seen(ready, machine(4), LLAMACPP).verdict is NO
    assert seen(ready, machine(64), FAST).best is None  # without llama.cpp, there is nothing to say


def test_what_must_be_free_is_never_more_than_what_is_where_it_fits() -> None:
    """What is held may be more: several conversations, and a file's pages that make room."""
    for size in (SEVEN, THIRTEEN):
        for gigabytes in (6, 12, 24, 64):
            for one in seen(size, machine(gigabytes), LLAMACPP).ways:
                assert (one.enough > gigabytes * GB) is (one.verdict is NO)
                assert one.enough_for == (one.context or 512)
                if one.why.key in ("fit.why.well", "fit.why.no"):
                    assert one.enough == one.why.params["need"]
