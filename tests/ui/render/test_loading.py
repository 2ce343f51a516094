"""What options mean on a machine: bits with forecast and fact, what a reload changes, what there is to choose."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from backend.engines.base import Dtype, EngineOptions, EngineState, EngineStatus
from backend.fit.measured import Load
from backend.fit.result import Fit, Memory, Verdict, Way
from backend.hardware import Gpu, Hardware
from backend.text import LANGUAGES, Message
from ui.render.loading import Precision, devices, precisions, reload_changes

READY = EngineStatus(EngineState.READY, "one", EngineOptions(engine="llamacpp", context=2048))
BARE = Hardware(None, 2, 8 << 30, 4 << 30, Path(), 1, 1, (), None, False, None, None, "", "", {})
CARD = Gpu(0, "H200", 1 << 30, 1 << 30)


def _fit(bits: int, *, device: str = "cpu", engine: str = "llamacpp", verdict: Verdict = Verdict.WELL) -> Fit:
    needs = {"ram": Memory(bits * 100_000_000, 0, 0, 0)}
    way = Way(device, bits, (0,) if device == "cuda" else (), engine=engine)
    return Fit(way, verdict, needs, {}, Message("fit.no"), 2048, tokens_per_s=200 / bits)


def _told(
    *ways: Precision, chosen: str = "auto", dtype: Dtype = "auto", computes: str = "llamacpp", has: bool = True
) -> str:
    options = EngineOptions(engine=chosen, dtype=dtype)
    return precisions(ways, "en", chosen=options, computes=computes, has_llamacpp=has)


def test_every_precision_says_what_it_takes_and_what_was_measured() -> None:
    held = Load("one", "w", 1, 850_000_000, tokens_per_s=22.4)
    told = _told(Precision(_fit(16)), Precision(_fit(8), held), Precision(_fit(4)))
    rows = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", told)
    assert [name for name, _ in rows] == ["16-bit", "8-bit", "4-bit"]
    assert [row.split(" ·")[0] for _, row in rows] == ["1.6 GB", "800 MB", "400 MB"]
    assert "850 MB, 22 tokens/s" in rows[1][1]
    assert "measured" not in rows[0][1] + rows[2][1]
    assert "Q4_K" in told


def test_where_it_was_faster_than_memory_allows_no_bound_is_claimed() -> None:
    held = Load("one", "w", 1, 850_000_000, tokens_per_s=6700.0)
    assert "at most" in _told(Precision(_fit(16)))
    told = _told(Precision(_fit(16), held))
    assert "at most" not in told
    assert "6,700 tokens/s" in told


@pytest.mark.parametrize(
    ("device", "chosen", "dtype", "computes", "has", "word"),
    [
        ("cuda", "auto", "auto", "transformers", True, "LLM.int8"),
        ("cpu", "auto", "auto", "llamacpp", True, "llama.cpp computes"),
        ("cpu", "auto", "auto", "transformers", True, "cannot run this model"),
        ("cpu", "auto", "float32", "transformers", True, "Transformers computes"),
        ("cpu", "transformers", "auto", "transformers", True, "Transformers computes"),
        ("cpu", "transformers", "auto", "transformers", False, "pip install xllamacpp"),
    ],
)
def test_what_fewer_bits_cost_depends_on_who_computes(
    device: str, chosen: str, dtype: Dtype, computes: str, *, has: bool, word: str
) -> None:
    told = _told(Precision(_fit(8, device=device)), chosen=chosen, dtype=dtype, computes=computes, has=has)
    assert word in told


def test_what_does_not_fit_says_so_and_nothing_known_says_nothing() -> None:
    assert "Does not fit" in _told(Precision(_fit(16, verdict=Verdict.NO)))
    assert _told() == ""


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_reload_names_exactly_what_changes(language: str) -> None:
    wanted = replace(READY.options, bits=4, context=0, gpus=(0, 1), max_gpu_memory=3 << 30, idle_minutes=5)
    told = reload_changes(READY, "one", wanted, language)
    for value in ("16", "4", "2048", "0,1", "5"):
        assert value in told
    assert "llamacpp" not in told
    assert "{" not in told
    assert reload_changes(READY, "one", READY.options, language) == ""


def test_another_model_unloads_the_first_and_at_rest_nothing_changes() -> None:
    assert "unloads one" in reload_changes(READY, "two", READY.options, "en")
    assert reload_changes(EngineStatus(), "two", READY.options, "en") == ""
    assert reload_changes(READY, None, READY.options, "en") == ""


def test_only_what_the_machine_has_is_offered() -> None:
    offered, missing = devices(BARE, "auto", "en")
    assert [value for _, value in offered] == ["auto", "cpu"]
    assert "No GPU" in missing
    offered, missing = devices(replace(BARE, gpus=(CARD,)), "auto", "en")
    assert [value for _, value in offered] == ["auto", "cuda", "cpu"]
    assert missing == ""
    assert "cuda" in [value for _, value in devices(BARE, "cuda", "en")[0]]  # asked for on the command line
