"""The written container against its readers: torch itself, Python's zipfile, and our own."""

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.weights.torch_zip import read_torch_zip
from backend.weights.torch_zip_writer import Entry, TorchZip, TorchZipWriter
from tests.backend.weights.make import TORCH
from tests.backend.weights.reading import as_torch, same_bits


def tensors(shapes: list[tuple[str, tuple[int, ...]]]) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return {
        f"layers.{number}.é": torch.randn(*shape, generator=random).to(TORCH[dtype])
        for number, (dtype, shape) in enumerate(shapes)
    }


def write(path: Path, state: dict[str, torch.Tensor], *, step: int = 1 << 20, stem: str = "consolidated.00") -> int:
    names = {dtype: name for name, dtype in TORCH.items()}
    plan = TorchZip(stem, [Entry(name, names[tensor.dtype], tuple(tensor.shape)) for name, tensor in state.items()])
    with path.open("wb") as file:
        writer = TorchZipWriter(plan, file.write)
        for tensor in state.values():
            data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            for at in range(0, len(data), step):
                writer.append(data[at : at + step])
        writer.close()
    return plan.nbytes


shape = st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple)


@given(
    shapes=st.lists(st.tuples(st.sampled_from(sorted(TORCH)), shape), min_size=1, max_size=6),
    step=st.integers(1, 300),
    stem=st.sampled_from(["archive", "consolidated.07", "a" * 90]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_torch_and_we_read_what_was_written(
    tmp_path: Path, *, shapes: list[tuple[str, tuple[int, ...]]], step: int, stem: str
) -> None:
    wanted, path = tensors(shapes), tmp_path / "x.pth"
    assert write(path, wanted, step=step, stem=stem) == path.stat().st_size
    assert same_bits(torch.load(path, weights_only=True), wanted)
    assert same_bits(torch.load(path, weights_only=True, mmap=True), wanted)
    found, records = read_torch_zip(path)
    assert same_bits({name: as_torch(tensor) for name, tensor in found.items()}, wanted)
    for record in records:
        assert record.offset % 64 == 0
        record.finish()


def test_other_zip_programs_find_nothing_wrong(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    write(path, tensors([("F16", (50, 30)), ("BF16", (7,))]))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("consolidated.00/version") == b"3\n"
        assert archive.read("consolidated.00/byteorder") == b"little"


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    state = tensors([("F32", (50, 30))])
    sums = set()
    for step in (7, 1000):
        write(tmp_path / "x.pth", state, step=step)
        sums.add(hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest())
    assert len(sums) == 1


class Sparse(io.FileIO):
    """A file in which blocks of zeros take no room."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if len(data) < 1 << 20:
            return super().write(data)
        self.seek(len(data), io.SEEK_CUR)
        return len(data)


@pytest.mark.slow
def test_tensors_and_offsets_beyond_four_gigabytes(tmp_path: Path) -> None:
    """A float32 embedding of 405B is one record of 8.4 GB; here a sparse one, with two small ones behind it."""
    path, zeros = tmp_path / "x.pth", bytes(1 << 26)
    rows = (1 << 32) // 4096 + 1
    plan = TorchZip("a", [Entry("large", "F16", (rows, 2048)), Entry("x", "F32", (3,)), Entry("y", "F32", (5,))])
    with Sparse(path, "w") as file:
        writer, left = TorchZipWriter(plan, file.write), rows * 4096
        while left:
            writer.append(zeros[: min(left, len(zeros))])
            left -= min(left, len(zeros))
        writer.append(torch.arange(3.0).numpy().tobytes())
        writer.append(torch.arange(5.0).numpy().tobytes())
        writer.close()
    assert path.stat().st_size == plan.nbytes
    state = torch.load(path, weights_only=True, mmap=True)
    assert state["large"].shape == (rows, 2048)
    assert state["large"][-1].sum() == 0
    assert state["y"].tolist() == [0, 1, 2, 3, 4]
    found, _ = read_torch_zip(path)
    assert found["x"].array().tolist() == [0, 1, 2]
    assert found["large"].shape == (rows, 2048)
    with zipfile.ZipFile(path) as archive:
        assert [info.file_size for info in archive.infolist()][2] == rows * 4096
