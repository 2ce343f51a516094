"""The forecast and the engines decide alike: the same numbers, the same machine, the same answer."""

from pathlib import Path

import pytest

from backend.dimensions import dimensions_from_config
from backend.engines import choice
from backend.engines.base import EngineOptions
from backend.engines.folder import open_folder, small_json
from backend.engines.llamacpp_server import sizes
from backend.engines.transformers_server.placement import Machine, Room, place
from backend.errors import MachineError
from backend.fit import llamacpp
from backend.fit.need import need_of
from backend.fit.verdict import Known, look
from backend.weights.gguf_layout import converted_bytes
from tests.backend.engines import tiny
from tests.backend.fit.machines import GB, LLAMA3, SEVEN, THIRTEEN, THIRTY, machine


@pytest.mark.parametrize("size", [SEVEN, THIRTEEN, THIRTY, LLAMA3], ids=["7B", "13B", "33B", "8B"])
@pytest.mark.parametrize("ram", [3, 6, 12, 30, 80])
@pytest.mark.parametrize("gpus", [(), (6,), (16,), (24, 24), (10, 24, 40)])
def test_a_verdict_is_what_the_engine_will_decide(size: object, ram: float, gpus: tuple[float, ...]) -> None:
    hardware = machine(ram, *gpus)
    rooms = tuple(Room(gpu.index, gpu.name, gpu.free_bytes or 0) for gpu in hardware.gpus)
    for fit in look(size, hardware).ways:  # type: ignore[arg-type]
        seen = tuple(room for room in rooms if room.index in fit.way.gpus)
        options = EngineOptions(
            device=fit.way.device,  # type: ignore[arg-type]
            bits=fit.way.bits,  # type: ignore[arg-type]
            gpus=fit.way.gpus,
        )
        where = Machine(int(ram * GB), seen)
        if fit.verdict == "no":
            with pytest.raises(MachineError) as caught:
                place(need_of(size), options, where)  # type: ignore[arg-type]
            assert caught.value.params["need"] == fit.why.params["need"]
        else:
            placed = place(need_of(size), options, where)  # type: ignore[arg-type]
            assert (placed.context, placed.dtype) == (fit.context, fit.way.dtype)


@pytest.mark.parametrize("ram", [0.3, 3, 4.9, 5.5, 7, 12, 30, 60])
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_llama_cpp_decides_as_foretold(ram: float, bits: int) -> None:
    fit = next(one for one in look(SEVEN, machine(ram), known=Known(llamacpp=True)).ways if one.way.bits == bits)
    weights, each, free = llamacpp.weights_bytes(SEVEN, bits), llamacpp.cache_per_token(SEVEN), int(ram * GB)
    if fit.verdict == "no":
        with pytest.raises(MachineError) as caught:
            sizes.fit_room(weights, each, free, wanted=2048, asked=False)
        assert caught.value.params["need"] == fit.why.params["need"]
    else:
        assert sizes.fit_room(weights, each, free, wanted=2048, asked=False).context == fit.context


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_gguf_file_has_the_foretold_bytes(tmp_path: Path, bits: int) -> None:
    folder = tiny.write_model(tmp_path / "m")
    size = dimensions_from_config(small_json(folder / "config.json"))
    assert size is not None
    written = converted_bytes(open_folder(folder).checkpoint, choice.KIND_OF_BITS[bits])
    assert llamacpp.weights_bytes(size, bits) == written


def test_the_engine_counts_a_folder_as_the_forecast_counts_its_config(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from backend.engines.transformers_server import loading

    folder = tiny.write_model(tmp_path / "m")
    size = dimensions_from_config(small_json(folder / "config.json"))
    assert size is not None
    assert loading.need_of(open_folder(folder).checkpoint, 512) == need_of(size, 512)
