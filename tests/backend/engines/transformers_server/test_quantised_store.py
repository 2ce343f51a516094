"""Quantised weights kept beside a model: the same answers, no stale file, nobody's file believed unseen."""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from backend.engines.base import ChatMessage, EngineOptions, Sampling
from backend.engines.folder import open_folder
from backend.engines.generator import Generator, Readiness
from backend.engines.transformers_server import loading, quantised_store
from backend.errors import MachineError
from backend.library import QUANTISED, read_model
from backend.weights.checkpoint import Tensor
from backend.weights.safetensors_file import header_bytes, read_safetensors
from tests.backend.engines import tiny

SHORT = Sampling(temperature=0.0, max_new_tokens=12)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Generator, Readiness]]]:
    """Return a loader into this very process."""
    monkeypatch.setattr(loading, "_quiet", lambda: None)
    made: list[Generator] = []

    def make(folder: Path, **options: object) -> tuple[Generator, Readiness]:
        readiness = Readiness(folder, EngineOptions(device="cpu", **options))  # type: ignore[arg-type]
        made.append(loading.load(readiness))
        return made[-1], readiness

    yield make
    for generator in made:
        generator.close()


def said(generator: Generator) -> str:
    async def collect() -> str:
        prompt = generator.prepare([ChatMessage("user", "hello")], SHORT)
        return "".join([step.text async for step in generator.generate(prompt, SHORT)])

    return asyncio.run(collect())


def kept(folder: Path) -> list[Path]:
    place = folder / QUANTISED
    return sorted(path for path in place.iterdir() if not path.name.startswith(".")) if place.is_dir() else []


@pytest.mark.parametrize(("bits", "kind"), [(8, "int8"), (4, "nf4")])
def test_kept_weights_answer_alike_and_are_read_instead(
    load: Callable[..., tuple[Generator, Readiness]], tmp_path: Path, bits: int, kind: str
) -> None:
    folder = tiny.write_model(tmp_path / "m")
    first, readiness = load(folder, bits=bits, keep_quantised=True)
    (path,) = kept(folder)
    assert path.name.startswith(f"{kind}-float32-")
    assert readiness.note is None
    assert read_model(folder).converted >= path.stat().st_size > 0
    again, readiness = load(folder, bits=bits)  # nobody need ask twice
    assert said(again) == said(first)
    assert readiness.total_bytes == readiness.loaded_bytes
    # The embedding and the head, four bytes a number, are most of this tiny model; the rest must have shrunk.
    assert readiness.total_bytes < open_folder(folder).checkpoint.nbytes


def test_nothing_is_kept_unasked(load: Callable[..., tuple[Generator, Readiness]], tmp_path: Path) -> None:
    folder = tiny.write_model(tmp_path / "m")
    load(folder, bits=8)
    load(folder, bits=16, keep_quantised=True)
    assert not (folder / QUANTISED).exists()


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its 8-bit weights kept."""
    from backend.engines.transformers_server.placement import Machine

    folder = tiny.write_model(tmp_path_factory.mktemp("stock") / "m")
    opened, options = open_folder(folder), EngineOptions(device="cpu", bits=8)
    placement = loading.place(loading.need_of(opened.checkpoint, 64), options, Machine(10**12))
    model = loading.load_model(opened.checkpoint, options, placement, loading.ReadBytes(Readiness(folder, options)))
    heard: list[tuple[int, int]] = []
    quantised_store.write_store(
        model, opened, bits=8, dtype="float32", report=lambda done, total: heard.append((done, total))
    )
    (path,) = kept(folder)
    assert heard[-1] == (path.stat().st_size, path.stat().st_size)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    return folder


@pytest.fixture
def copy(stocked: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt, with times as they were: they are part of what a file was made from."""
    folder = tmp_path / "copy"
    (folder / QUANTISED).mkdir(parents=True)
    for path in stocked.rglob("*"):
        if path.is_file():
            place = folder / path.relative_to(stocked)
            place.write_bytes(path.read_bytes())
            os.utime(place, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    return folder


def test_it_is_found_in_its_format_only(copy: Path) -> None:
    opened = open_folder(copy)
    assert quantised_store.open_store(opened, 8, "float32") is not None
    assert quantised_store.open_store(opened, 8, "bfloat16") is None
    assert quantised_store.open_store(opened, 4, "float32") is None


def test_weights_that_changed_have_no_kept_ones_and_the_old_go(copy: Path) -> None:
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    opened = open_folder(copy)
    assert quantised_store.open_store(opened, 8, "float32") is None
    quantised_store.sweep(opened)
    assert kept(copy) == []


def test_what_an_interrupted_run_left_goes_and_other_files_stay(copy: Path) -> None:
    (path,) = kept(copy)
    path.with_name(path.name + ".part").write_bytes(b"half")
    (copy / QUANTISED / "notes.txt").write_text("mine")
    quantised_store.sweep(open_folder(copy))
    assert [one.name for one in kept(copy)] == [path.name, "notes.txt"]


def _rows(array: np.ndarray, start: int, stop: int) -> np.ndarray:
    return array[start:stop]


def _rewrite(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = read_safetensors(path)
    arrays = {name: tensor.array() for name, tensor in tensors.items()}
    loaded = {name: Tensor(one.dtype, one.shape, partial(_rows, arrays[name])) for name, one in tensors.items()}
    change(loaded)
    data = header_bytes(loaded.items()) + b"".join(np.ascontiguousarray(t.array()).tobytes() for t in loaded.values())
    path.write_bytes(data)


def _another_shape(tensors: dict[str, Tensor]) -> None:
    name = next(name for name in tensors if name.endswith(".SCB"))
    tensors[name] = Tensor("F32", (1,), lambda a, b: np.ones(1, np.float32)[a:b])


def _another_format(tensors: dict[str, Tensor]) -> None:
    name = next(name for name, tensor in tensors.items() if tensor.dtype == "I8")
    old = tensors[name]
    tensors[name] = Tensor("U8", old.shape, lambda a, b: old.rows(a, b).view(np.uint8))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("model.norm.weight"),
        lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.SCB"),
        lambda tensors: tensors.update(extra=tensors["model.norm.weight"]),
        _another_shape,
        _another_format,
    ],
    ids=["missing", "no scales", "nobody's", "shape", "format"],
)
def test_a_file_that_does_not_fit_is_not_believed(
    copy: Path, change: Callable[[dict[str, Tensor]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = kept(copy)
    _rewrite(path, change)
    assert quantised_store.open_store(open_folder(copy), 8, "float32") is None
    assert "do not fit the model" in capsys.readouterr().err  # for the log
    assert kept(copy) == []  # so that another can take its place


def _no_numbers(tensors: dict[str, Tensor]) -> None:
    name = next(name for name in tensors if name.endswith(".SCB"))
    rotten = np.full(tensors[name].shape, np.nan, np.float32)
    tensors[name] = Tensor("F32", rotten.shape, partial(_rows, rotten))


def test_a_rotten_file_is_replaced_and_the_model_is_loaded_all_the_same(
    load: Callable[..., tuple[Generator, Readiness]], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its header is as it should be; what is wrong shows when the first token is computed."""
    (path,) = kept(copy)
    good = path.read_bytes()
    _rewrite(path, _no_numbers)
    generator, readiness = load(copy, bits=8, keep_quantised=True)
    assert "not a number" in capsys.readouterr().err
    assert said(generator)
    assert kept(copy) == [path]
    assert path.read_bytes() == good
    assert readiness.loaded_bytes == readiness.total_bytes


@pytest.mark.parametrize(
    "state", [b"{", b'{"nested_offset": NaN}', b'{"nested_offset": 0.5, "dtype": "os"}', b"x" * 9000]
)
def test_the_small_text_of_a_matrix_is_checked_and_written_anew(state: bytes) -> None:
    from backend.engines.transformers_server.quantised_layout import checked
    from backend.errors import WeightsError

    def flat(dtype: str, *shape: int) -> Tensor:
        return Tensor(dtype, shape, lambda start, stop: np.zeros(shape, np.uint8)[start:stop])

    def text(data: bytes) -> Tensor:
        return Tensor("U8", (len(data),), lambda start, stop: np.frombuffer(data, np.uint8)[start:stop])

    key = "a.weight.quant_state.bitsandbytes__nf4"
    stored = {
        "a.weight": flat("U8", 2048, 1), "a.weight.absmax": flat("U8", 64), "a.weight.quant_map": flat("F32", 16),
        "a.weight.nested_absmax": flat("F32", 1), "a.weight.nested_quant_map": flat("F32", 256),
    }  # fmt: skip
    model = {"a.weight": flat("F16", 64, 64)}
    good = b'{"nested_offset": 0.5, "dtype": "float32", "shape": [1, 1], "quant_type": "evil", "blocksize": 0}'
    anew = json.loads(checked(stored | {key: text(good)}, model, bits=4, dtype="F32")[key].array().tobytes())
    assert (anew["shape"], anew["blocksize"], anew["quant_type"], anew["nested_offset"]) == ([64, 64], 64, "nf4", 0.5)
    with pytest.raises(WeightsError):
        checked(stored | {key: text(state)}, model, bits=4, dtype="F32")


def test_a_place_that_leads_elsewhere_is_neither_read_nor_written(copy: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (copy / QUANTISED).rename(outside)
    (copy / QUANTISED).symlink_to(outside)
    opened = open_folder(copy)
    assert quantised_store.open_store(opened, 8, "float32") is None
    before = sorted(outside.iterdir())
    quantised_store.sweep(opened)
    assert sorted(outside.iterdir()) == before


def test_no_room_is_said_and_the_model_is_loaded_all_the_same(
    load: Callable[..., tuple[Generator, Readiness]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, needed: int) -> None:
        raise MachineError("weights.disk_full", folder=str(folder), needed=needed, free=7)

    monkeypatch.setattr(quantised_store, "check_room", full)
    folder = tiny.write_model(tmp_path / "m")
    generator, _ = load(folder, bits=8, keep_quantised=True)
    assert generator.note is not None
    assert (generator.note.key, generator.note.params["free"]) == ("quantised.note.no_room", 7)
    assert kept(folder) == []
    assert said(generator)
