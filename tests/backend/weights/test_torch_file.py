"""The container of torch before 1.6, against the torch that still writes it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.errors import WeightsError
from backend.weights.huggingface import open_huggingface
from backend.weights.torch_file import read_torch_file
from tests.backend.weights.make import Tiny, weights, write_hf
from tests.backend.weights.reading import loaded, same_bits


def old(path: Path, value: object) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=False)
    return path


def test_old_files_are_read(tmp_path: Path) -> None:
    pool = torch.arange(60, dtype=torch.float32)
    wanted = {"a": torch.randn(4, 5).half(), "b": pool[10:30].view(4, 5), "c": pool[30:60].view(10, 3).t()}
    tensors, records = read_torch_file(old(tmp_path / "a.bin", wanted))
    assert records == ()
    for name, tensor in wanted.items():
        assert np.array_equal(tensors[name].array(), tensor.numpy()), name
        assert np.array_equal(tensors[name].rows(1, 2), tensor.numpy()[1:2]), name


def test_a_whole_model_of_that_time(tmp_path: Path) -> None:
    tiny = Tiny()
    write_hf(tmp_path, tiny, weights(tiny), kind="bin")
    old(tmp_path / "pytorch_model.bin", weights(tiny))
    assert same_bits(loaded(open_huggingface(tmp_path)), weights(tiny))


def test_truncation_anywhere_is_refused(tmp_path: Path) -> None:
    path = old(tmp_path / "a.bin", {"a": torch.ones(30), "b": torch.zeros(7)})
    raw = path.read_bytes()
    for size in range(0, len(raw), 7):
        path.write_bytes(raw[:size])
        with pytest.raises(WeightsError):
            read_torch_file(path)


def test_lengths_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = old(tmp_path / "a.bin", {"a": torch.full((30,), 3.0)})
    raw = path.read_bytes()
    at = raw.index(np.full(30, 3.0, np.float32).tobytes()) - 8
    path.write_bytes(raw[:at] + (1 << 60).to_bytes(8, "little") + raw[at + 8 :])
    with pytest.raises(WeightsError) as refused:
        read_torch_file(path)
    assert refused.value.key == "weights.record_size"


def test_code_in_an_old_file_is_not_run(tmp_path: Path) -> None:
    path = old(tmp_path / "a.bin", torch.nn.Linear(2, 2))
    with pytest.raises(WeightsError) as refused:
        read_torch_file(path)
    assert refused.value.key == "weights.pickle_refused"
