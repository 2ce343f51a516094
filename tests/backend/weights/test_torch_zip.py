"""The container of torch.save: damage of every kind is named, none of it is read as weights."""

import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import WeightsError
from backend.weights.disk import read_at
from backend.weights.torch_zip import Record, read_torch_zip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    torch.save({"a": torch.arange(1000, dtype=torch.float32).reshape(100, 10), "b": torch.ones(50)}, path)
    return path


def read_everything(path: Path) -> None:
    tensors, records = read_torch_zip(path)
    for tensor in tensors.values():
        tensor.array()
    finish(records)


def finish(records: tuple[Record, ...]) -> None:
    for record in records:
        record.finish()


def key_of(path: Path) -> str:
    with pytest.raises(WeightsError) as refused:
        read_everything(path)
    assert refused.value.hint is not None
    assert path.name in refused.value.text()
    return refused.value.key


def test_a_flipped_byte_of_a_tensor_is_found(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    at = raw.index(np.arange(500, 510, dtype=np.float32).tobytes())
    raw[at] ^= 1
    file.write_bytes(raw)
    assert torch.load(file)["a"][50, 0] != 500  # torch does not notice
    assert key_of(file) == "weights.checksum"


def test_a_flip_outside_the_rows_that_were_read_is_found_at_the_end(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[raw.index(np.arange(900, 910, dtype=np.float32).tobytes())] ^= 1
    file.write_bytes(raw)
    tensors, records = read_torch_zip(file)
    assert tensors["a"].rows(0, 10).shape == (10, 10)
    with pytest.raises(WeightsError, match="checksum"):
        finish(records)


def test_a_record_nobody_reads_stays_unread(file: Path) -> None:
    _, records = read_torch_zip(file)
    finish(records)
    assert all(record.seen == 0 for record in records)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_reads_in_any_order_check_every_byte_once(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "raw"
    content = bytes(range(256)) * 2
    path.write_bytes(b"head" + content)
    record = Record(path, "data/0", 4, len(content), zlib.crc32(content))
    for _ in range(data.draw(st.integers(0, 6))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, len(content)))
        assert record.read(start, stop).tobytes() == content[start:stop]
    record.read(0, 1)
    record.finish()
    assert record.seen == len(content)


def test_a_shared_storage_is_read_once_in_whatever_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLaMA-13B and larger keep the tensors of a layer in one storage, in another order than they are wanted."""
    pool = torch.arange(6000, dtype=torch.float32)
    shared = {name: pool[at * 1000 : at * 1000 + 1000].view(100, 10) for at, name in enumerate("abcdef")}
    torch.save(shared, tmp_path / "a")
    tensors, records = read_torch_zip(tmp_path / "a")
    spans = list[tuple[int, int]]()

    def watched(path: Path, offset: int, count: int) -> np.ndarray:
        spans.append((offset, count))
        return read_at(path, offset, count)

    monkeypatch.setattr("backend.weights.torch_zip.read_at", watched)
    with ThreadPoolExecutor(4) as pool_of_threads:
        asked = [(name, row) for name in "fbdaec" for row in range(0, 100, 5)]
        found = list(pool_of_threads.map(lambda one: tensors[one[0]].rows(one[1], one[1] + 5), asked))
    finish(records)
    assert [rows[0, 0] for rows in found] == [1000 * "abcdef".index(name) + 10 * row for name, row in asked]
    assert sum(count for _, count in spans) == 24_000 == records[0].seen
    assert len(set(spans)) == len(spans)


def test_truncation_at_every_boundary_is_refused(file: Path) -> None:
    raw = file.read_bytes()
    for size in [*range(0, len(raw), 97), len(raw) - 1]:
        file.write_bytes(raw[:size])
        assert key_of(file) in {
            "weights.file_empty", "weights.zip_truncated", "weights.not_torch_zip"
        }, size  # fmt: skip


def repacked(file: Path, change: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write the zip again with some members changed (None: left out)."""
    out = file.with_name("repacked.bin")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            inner = name.split("/", 1)[1]
            content = change.get(inner, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return out


@pytest.mark.parametrize(
    ("change", "compression", "key"),
    [
        ({}, zipfile.ZIP_DEFLATED, "weights.zip_compressed"),
        ({"data/0": None}, zipfile.ZIP_STORED, "weights.record_missing"),
        ({"data/0": b"short"}, zipfile.ZIP_STORED, "weights.record_size"),
        ({"data.pkl": None}, zipfile.ZIP_STORED, "weights.not_torch_zip"),
        ({"data.pkl": b"\x80\x02}."}, zipfile.ZIP_STORED, "weights.no_tensors"),
        ({"data.pkl": b"\x80\x02cos\nsystem\n."}, zipfile.ZIP_STORED, "weights.pickle_refused"),
        ({"data.pkl": b"\x80\x02}" + b"K\x010" * 6_000_000}, zipfile.ZIP_STORED, "weights.pickle_too_large"),
    ],
)
def test_repacked_files(file: Path, change: dict[str, bytes | None], compression: int, key: str) -> None:
    assert key_of(repacked(file, change, compression)) == key


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"", "weights.file_empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13476939516\n", "weights.file_is_pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "weights.file_is_page"),
        (b'{"error":"Repository not found"}', "weights.file_is_reply"),
        (b"Access to model meta-llama/Llama-2-7b is restricted", "weights.file_is_reply"),
        (b"GGUF\x03\x00\x00\x00", "files.other_kind"),
        (b"PK\x03\x04 nothing", "weights.zip_truncated"),
    ],
)
def test_what_is_not_a_torch_file_is_named(tmp_path: Path, content: bytes, key: str) -> None:
    path = tmp_path / "consolidated.00.pth"
    path.write_bytes(content)
    assert key_of(path) == key


def test_the_pointer_says_how_large_the_real_file_is(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13476939516\n")
    with pytest.raises(WeightsError, match=r"13.5 GB"):
        read_torch_zip(path)
