"""The writer against the safetensors library, its memory, its resuming, and its failures."""

import errno
import gc
import json
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.errors import Cancelled, MachineError, WeightsError
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.delta import add_delta
from backend.weights.huggingface import open_huggingface
from backend.weights.lora import add_lora
from backend.weights.partial import JOURNAL, hash_file, publish
from backend.weights.safetensors_file import read_safetensors
from backend.weights.shape import ModelShape
from backend.weights.writer import plan_shards, save, written
from tests.backend.weights.make import Tiny, weights, write_hf, write_lora
from tests.backend.weights.reading import loaded, same_bits


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    tiny = Tiny()
    return open_huggingface(write_hf(tmp_path / "source", tiny, weights(tiny), kind="bin", shards=2))


def run(steps: Iterator[object]) -> list[object]:
    return list(steps)


def test_one_file_is_the_librarys_byte_for_byte(tmp_path: Path) -> None:
    source = open_huggingface(write_hf(tmp_path / "source", Tiny(), weights(Tiny())))
    steps = list(save(source, tmp_path / "out", slab_bytes=500))
    save_file(weights(Tiny()), tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    ours = tmp_path / "out" / "model.safetensors"
    assert ours.read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    assert written(tmp_path / "out") == {"model.safetensors": hash_file(ours)}
    assert steps[-1].done == steps[-1].total == ours.stat().st_size
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].note is not None
    assert dict(steps[-1].note.params) == {"index": 21, "count": 21}


def test_what_needs_the_last_source_file_comes_last(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """So that most of a file can be written before everything has been downloaded; the safetensors library reads it."""
    run(save(checkpoint, tmp_path / "out"))
    ours = tmp_path / "out" / "model.safetensors"
    _, late = sorted(checkpoint.arrival, key=checkpoint.arrival.__getitem__)
    order = [late in checkpoint[name].files for name in read_safetensors(ours)]
    assert order == sorted(order)
    assert len(set(order)) == 2
    found = load_file(ours)
    assert same_bits({name: found[name] for name in checkpoint}, weights(Tiny()))


def test_several_files_and_an_index(tmp_path: Path, checkpoint: Checkpoint) -> None:
    run(save(checkpoint, tmp_path / "out", shard_bytes=30_000))
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == checkpoint.nbytes
    names = sorted(set(index["weight_map"].values()))
    assert names == [f"model-{n:05d}-of-{len(names):05d}.safetensors" for n in range(1, len(names) + 1)]
    assert set(written(tmp_path / "out")) == {*names, "model.safetensors.index.json"}
    everything = {}
    for name in names:
        everything |= load_file(tmp_path / "out" / name)
    assert same_bits({name: everything[name] for name in checkpoint}, weights(Tiny()))
    assert all(shard.nbytes - len(shard.header) <= 30_000 for shard in plan_shards(checkpoint, 30_000))


def test_sizes_of_published_models_are_predicted() -> None:
    """Llama-3.1-8B-Instruct on the hub: four files of these sizes (bf16, limit 5 GB)."""
    shape = ModelShape(
        hidden=4096, layers=32, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=128256, norm_eps=1e-5
    )
    tensors = {name: Tensor("BF16", size, lambda start, stop: np.zeros(0)) for name, size in shape.expected()}
    sizes = [shard.nbytes for shard in plan_shards(tensors)]
    assert sizes == [4_976_698_672, 4_999_802_720, 4_915_916_176, 1_168_138_808]


class Meter:
    """Counts the bytes of arrays that are alive at one time, whichever threads make them."""

    def __init__(self) -> None:
        self.alive = self.peak = 0
        self.lock = threading.RLock()

    def watch(self, array: np.ndarray) -> np.ndarray:
        self._count(array.nbytes)
        weakref.finalize(array, self._count, -array.nbytes)
        return array

    def _count(self, size: int) -> None:
        with self.lock:
            self.alive += size
            self.peak = max(self.peak, self.alive)


@pytest.mark.parametrize("rows", [2_000, 20_000])
def test_memory_is_a_few_slabs_whatever_the_size(tmp_path: Path, checkpoint: Checkpoint, rows: int) -> None:
    meter, slab = Meter(), 8_000
    big = Tensor("F16", (rows, 40), lambda start, stop: meter.watch(np.ones((stop - start, 40), np.float16)))
    run(save(replace(checkpoint, tensors={"a": big, "b": big}), tmp_path / "out", slab_bytes=slab))
    gc.collect()
    assert meter.alive == 0
    assert meter.peak <= 4 * (slab + 64 * 80)


def test_a_whole_pipeline_asks_for_no_more_than_slabs(tmp_path: Path) -> None:
    """Base, delta and LoRA together: the largest piece that any reader was asked for stays at one slab."""
    tiny = Tiny(hidden=64, heads=4, kv_heads=4, vocab=4000)
    base = open_huggingface(write_hf(tmp_path / "b", tiny, weights(tiny)))
    delta = open_huggingface(write_hf(tmp_path / "d", tiny, weights(tiny, 2, scale=0.01, norm=0.0)))
    write_lora(tmp_path / "l", tiny)
    largest = 0

    def watched(tensor: Tensor) -> Tensor:
        def rows(start: int, stop: int) -> np.ndarray:
            nonlocal largest
            found = tensor.rows(start, stop)
            largest = max(largest, found.nbytes)
            return found

        return replace(tensor, rows=rows)

    base, delta = (
        replace(part, tensors={name: watched(tensor) for name, tensor in part.items()}) for part in (base, delta)
    )
    slab = 20_000
    merged = add_lora(add_delta(base, delta), tmp_path / "l")
    largest = 0
    run(save(merged, tmp_path / "out", slab_bytes=slab))
    assert 0 < largest <= slab + 2 * 64 * tiny.hidden * 2


def stop_after(count: int) -> object:
    calls = iter(range(10**9))
    return lambda: next(calls) >= count


@pytest.mark.parametrize("slabs", [0, 1, 7, 15, 20])
def test_cancelling_and_going_on(tmp_path: Path, checkpoint: Checkpoint, slabs: int) -> None:
    out = tmp_path / "out"
    with pytest.raises(Cancelled):
        run(save(checkpoint, out, shard_bytes=30_000, cancelled=stop_after(slabs)))  # type: ignore[arg-type]
    kept = {name: (out / name).stat().st_mtime_ns for name in written(out)}
    run(save(checkpoint, out, shard_bytes=30_000))
    assert all((out / name).stat().st_mtime_ns == time for name, time in kept.items())
    run(save(checkpoint, tmp_path / "once", shard_bytes=30_000))
    assert written(out) == written(tmp_path / "once")


def test_a_kept_file_that_changed_is_written_again(tmp_path: Path, checkpoint: Checkpoint) -> None:
    out = tmp_path / "out"
    run(save(checkpoint, out, shard_bytes=30_000))
    wanted = written(out)
    first = out / sorted(wanted)[0]
    raw = bytearray(first.read_bytes())
    raw[-1] ^= 1
    first.write_bytes(raw)
    run(save(checkpoint, out, shard_bytes=30_000))
    assert written(out) == wanted
    assert {name: hash_file(out / name) for name in wanted} == wanted


def test_files_of_other_work_are_not_gone_on_with(tmp_path: Path, checkpoint: Checkpoint) -> None:
    tiny = Tiny()
    run(save(checkpoint, tmp_path / "out", shard_bytes=30_000))
    other = open_huggingface(write_hf(tmp_path / "other", tiny, weights(tiny, 9), kind="bin"))
    run(save(other, tmp_path / "out", shard_bytes=30_000))
    run(save(other, tmp_path / "clean", shard_bytes=30_000))
    assert written(tmp_path / "out") == written(tmp_path / "clean")
    run(save(other, tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors", JOURNAL}


def test_damage_in_a_source_is_never_noted_as_done(tmp_path: Path) -> None:
    """The checksum of a half-read record is finished before its file counts as complete."""
    pool = torch.randn(60_000).half()
    tiny = Tiny()
    found = weights(tiny)
    shared = {}
    at = 0
    for name, tensor in found.items():
        shared[name] = pool[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    write_hf(tmp_path / "s", tiny, found, kind="bin")
    torch.save(shared, tmp_path / "s" / "pytorch_model.bin")
    path = tmp_path / "s" / "pytorch_model.bin"
    raw = bytearray(path.read_bytes())
    raw[raw.index(pool[-100:].numpy().tobytes())] ^= 1  # a part of the storage that no tensor uses
    path.write_bytes(raw)
    for _ in range(2):
        with pytest.raises(WeightsError, match="checksum"):
            run(save(open_huggingface(tmp_path / "s"), tmp_path / "out"))
        assert written(tmp_path / "out") == {}
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_full_disk_is_said_before_and_during(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.posix_fallocate", full)
        with pytest.raises(MachineError) as refused:
            run(save(checkpoint, tmp_path / "out"))
        assert refused.value.key == "weights.disk_full"
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(tmp_path)
        patch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(MachineError, match=r"1\.0 kB free"):
            run(save(checkpoint, tmp_path / "out2"))
        assert not list((tmp_path / "out2").glob("*.safetensors*"))


def test_a_folder_that_cannot_be_made(tmp_path: Path, checkpoint: Checkpoint) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError) as refused:
        run(save(checkpoint, tmp_path / "file" / "out"))
    assert refused.value.key == "weights.cannot_write"


def test_publishing(tmp_path: Path, checkpoint: Checkpoint) -> None:
    part, final = tmp_path / ".part", tmp_path / "model"
    run(save(checkpoint, part))
    (part / "model-00009-of-00009.safetensors.part").write_bytes(b"left over")
    publish(part, final)
    assert sorted(path.name for path in final.iterdir()) == ["model.safetensors"]
    assert not part.exists()
    part.mkdir()
    with pytest.raises(MachineError) as refused:
        publish(part, final)
    assert refused.value.key == "weights.target_exists"
    with pytest.raises(MachineError):
        publish(tmp_path / "nowhere", tmp_path / "other")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"work": 1, "done": [1]}', b"\xff"])
def test_a_damaged_journal_means_starting_anew(tmp_path: Path, checkpoint: Checkpoint, content: bytes) -> None:
    run(save(checkpoint, tmp_path / "out"))
    (tmp_path / "out" / JOURNAL).write_bytes(content)
    assert written(tmp_path / "out") == {}
    run(save(checkpoint, tmp_path / "out"))
    assert loaded(open_or_config(tmp_path, checkpoint)).keys() == checkpoint.keys()


def open_or_config(tmp_path: Path, checkpoint: Checkpoint) -> Checkpoint:
    (tmp_path / "out" / "config.json").write_text((checkpoint.folder / "config.json").read_text())
    return open_huggingface(tmp_path / "out")


SLOW_SAVE = """
import sys, time
from pathlib import Path
from backend.weights.huggingface import open_huggingface
from backend.weights.partial import publish
from backend.weights.writer import save

source, part, final = map(Path, sys.argv[1:])
pause = lambda: time.sleep(0.003)
for step in save(open_huggingface(source), part, shard_bytes=10_000, slab_bytes=500, cancelled=pause):
    print(step.done, flush=True)
publish(part, final)
"""


def test_a_killed_process_leaves_nothing_that_looks_finished(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """Killed at several points of its work, then run once more: the same files as of one undisturbed run."""
    part, final = tmp_path / ".part", tmp_path / "model"
    command = [sys.executable, "-c", SLOW_SAVE, str(checkpoint.folder), str(part), str(final)]
    root = Path(__file__).resolve().parents[3]
    kept = 0
    for steps in (1, 40, 15, 60):
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(steps):
                process.stdout.readline()
            process.kill()
        assert not final.exists()
        assert all(hash_file(part / name) == sha256 for name, sha256 in written(part).items())
        assert len(written(part)) >= kept
        kept = len(written(part))
    assert kept > 0
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL, timeout=120)
    run(save(checkpoint, tmp_path / "once", shard_bytes=10_000))
    assert {path.name: hash_file(path) for path in final.iterdir()} == written(tmp_path / "once")
