"""Options that cannot work are refused before anything is unloaded, each with its own reason."""

import pytest

from backend.engines import ENGINES, find_engine
from backend.engines.base import EngineOptions
from backend.engines.options import check_options, choose_gpus
from backend.errors import UsageError
from tests.backend.engines.conftest import machine

GB = 10**9
NONE, ONE, TWO = machine(), machine(24 * GB), machine(10 * GB, 16 * GB)


@pytest.mark.parametrize(
    ("options", "hardware"),
    [
        (EngineOptions(), NONE),
        (EngineOptions(device="cpu", bits=8), NONE),
        (EngineOptions(device="cpu", bits=4), TWO),
        (EngineOptions(num_gpus=2), TWO),
        (EngineOptions(gpus=(1,), bits=8, max_gpu_memory=8 * GB), TWO),
        (EngineOptions(gpus=(0, 1), num_gpus=2), TWO),
        (EngineOptions(device="mps"), machine(mps=True)),
        (EngineOptions(engine="echo"), NONE),
        (EngineOptions(engine="echo", context=100), NONE),
    ],
)
def test_good_options_pass(options: EngineOptions, hardware: object) -> None:
    check_options(options, hardware)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "hardware", "key"),
    [
        (EngineOptions(engine="magic"), NONE, "engine.unknown"),
        (EngineOptions(engine="echo", bits=8), NONE, "engine.idle_bits"),
        (EngineOptions(engine="echo", num_gpus=1), ONE, "engine.idle_gpus"),
        (EngineOptions(engine="echo", device="cuda"), ONE, "engine.idle_gpus"),
        (EngineOptions(num_gpus=3), ONE, "engine.too_few_gpus"),
        (EngineOptions(num_gpus=1), NONE, "engine.no_cuda"),
        (EngineOptions(device="cuda"), NONE, "engine.no_cuda"),
        (EngineOptions(max_gpu_memory=GB), NONE, "engine.no_cuda"),
        (EngineOptions(device="cuda"), machine(GB, torch="2.13.0+cpu"), "engine.torch_without_cuda"),
        (EngineOptions(gpus=(5,)), TWO, "engine.no_such_gpu"),
        (EngineOptions(gpus=(0, 0)), TWO, "engine.gpu_twice"),
        (EngineOptions(gpus=(0,), num_gpus=2), TWO, "engine.gpu_count"),
        (EngineOptions(device="cpu", num_gpus=1), TWO, "engine.gpu_options_without_gpu"),
        (EngineOptions(device="mps"), NONE, "engine.no_mps"),
        (EngineOptions(device="mps", bits=4), machine(mps=True), "engine.bits_on_mps"),
        (EngineOptions(bits=3), NONE, "engine.bits"),  # type: ignore[arg-type]
        (EngineOptions(num_gpus=-1), NONE, "engine.negative"),
        (EngineOptions(max_gpu_memory=-1), NONE, "engine.negative"),
        (EngineOptions(context=3), NONE, "engine.context_range"),
        (EngineOptions(context=1 << 30), NONE, "engine.context_range"),
    ],
)
def test_bad_options_are_refused(options: EngineOptions, hardware: object, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_options(options, hardware)  # type: ignore[arg-type]
    assert caught.value.key == key
    assert caught.value.hint is not None
    assert "{" not in caught.value.text()


def test_an_unknown_engine_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="transformers, llamacpp"):
        find_engine("magic")


def test_a_missing_package_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "accelerate" else name)
    with pytest.raises(UsageError, match="pip install accelerate"):
        find_engine("transformers")


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_of_the_table_is_a_module(name: str) -> None:
    import importlib.util

    assert importlib.util.find_spec(ENGINES[name].module)


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        (EngineOptions(), None),
        (EngineOptions(device="cpu"), ()),
        (EngineOptions(gpus=(0,)), (0,)),
        (EngineOptions(num_gpus=1), (1,)),  # the one with more free memory
        (EngineOptions(num_gpus=2), (1, 0)),
    ],
)
def test_which_gpus_an_engine_may_see(options: EngineOptions, seen: tuple[int, ...] | None) -> None:
    assert choose_gpus(options, TWO) == seen
