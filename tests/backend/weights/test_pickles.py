"""The pickle reader against what torch writes, and against pickles that want to be more than data."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import WeightsError
from backend.settings import ROOT
from backend.weights.pickles import read_pickle, state_dict
from backend.weights.torch_zip import read_torch_zip


def saved(folder: Path, value: object, name: str = "a.bin") -> Path:
    path = folder / name
    torch.save(value, path)
    return path


def test_every_number_format_comes_back(tmp_path: Path) -> None:
    wanted = {
        "half": torch.randn(5, 3).half(),
        "brain": torch.randn(4, 2).bfloat16(),
        "single": torch.randn(7),
        "double": torch.randn(2, 2, 2, dtype=torch.float64),
        "long": torch.arange(6).reshape(2, 3),
        "byte": torch.arange(6, dtype=torch.uint8),
        "flag": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
    }
    tensors, records = read_torch_zip(saved(tmp_path, wanted))
    for name, tensor in wanted.items():
        raw = tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
        assert tensors[name].array().tobytes() == raw.numpy().tobytes(), name
    for record in records:
        record.finish()


def test_views_of_one_storage_and_strided_views(tmp_path: Path) -> None:
    pool = torch.arange(100, dtype=torch.float32)
    wanted = {"middle": pool[10:40].view(5, 6), "turned": pool[40:100].view(10, 6).t(), "every_third": pool[::3]}
    tensors, _ = read_torch_zip(saved(tmp_path, wanted))
    for name, tensor in wanted.items():
        assert np.array_equal(tensors[name].array(), tensor.numpy()), name
        assert np.array_equal(tensors[name].rows(1, 3), tensor.numpy()[1:3]), name


def test_a_module_state_with_attributes_and_parameters(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    state = module.state_dict()  # an OrderedDict with _metadata
    state["weight"] = torch.nn.Parameter(module.weight.detach())
    tensors, _ = read_torch_zip(saved(tmp_path, {"state_dict": state}))
    assert set(tensors) == {"weight", "bias"}


class _Evil:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


MARKER = "CRIA_PICKLE_RAN"


@pytest.mark.parametrize(
    "value",
    [
        _Evil(os.putenv, MARKER, "1"),
        _Evil(exec, f"import os; os.environ['{MARKER}'] = '1'"),
        _Evil(eval, "1"),
        _Evil(getattr, "x", "y"),
        _Evil(io.open, "/etc/passwd"),
        torch.nn.Linear(2, 2),
        np.float64(3),
        {1, 2},
        object(),
    ],
    ids=lambda value: getattr(value, "call", (type(value),))[0].__name__,
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_called(value: object, protocol: int) -> None:
    with pytest.raises(WeightsError) as refused:
        read_pickle(pickle.dumps({"a": value}, protocol=protocol), "x.bin")
    assert refused.value.key in ("weights.pickle_refused", "weights.pickle_damaged")
    assert MARKER not in os.environ


HOSTILE = {
    "stack underflow": b"\x80\x020.",
    "no stop": b"\x80\x02}",
    "mark without items": b"\x80\x02(u.",
    "no mark": b"\x80\x02}u.",
    "memo never set": b"\x80\x02h\x07.",
    "huge memo index": b"\x80\x02}r\xff\xff\xff\xff}.",
    "build on nothing": b"\x80\x02b.",
    "set item on a number": b"\x80\x02K\x01K\x02K\x03s.",
    "inst opcode": b"(ios\nsystem\n.",
    "long text": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "unhashable key": b"\x80\x02}}K\x01s.",
    "extension": b"\x80\x02\x82\x01.",
    "empty": b"",
    "shared tuples called": b"\x80\x02)" + b"q\0h\0\x86" * 40 + b")R.",
    "shared tuples as a key": b"\x80\x02})" + b"q\0h\0\x86" * 40 + b"K\x01s.",
    "shared tuples as one of many keys": b"\x80\x02}()" + b"q\0h\0\x86" * 40 + b"K\x01u.",
    "shared tuples as a name": b"\x80\x04)" + b"q\0h\0\x86" * 40 + b"\x8c\x01x\x93.",
    "shared tuples as a storage": b"\x80\x02(X\x07\0\0\0storage)" + b"q\0h\0\x86" * 40 + b"X\x01\0\0\x000NK\x01tQ.",
    "shared tuples as a key of an ordered dictionary": (
        b"\x80\x02ccollections\nOrderedDict\n]])" + b"q\0h\0\x86" * 40 + b"aK\x01aa\x85R."
    ),
    "deep tuples called": b"\x80\x02)" + b"\x85" * 5000 + b")R.",
    "deep tuples as a key": b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.",
    "half a character as a name": b"\x80\x04\x8c\x03\xed\xa0\x80\x8c\x01x\x93.",
    "one long list made into many dictionaries": (
        b"\x80\x02]q\0(" + b"K\x01K\x02\x86" * 40_000 + b"eccollections\nOrderedDict\nq\1" + b"h\1h\0\x85R" * 40_000
        + b"N."
    ),
}  # fmt: skip
_PROGRAM = """
import sys
from backend.errors import WeightsError
from backend.settings import ROOT
from backend.weights.pickles import state_dict
try:
    state_dict(sys.stdin.buffer.read(), "x.bin")
except WeightsError as refused:
    print(refused.text().encode())
"""


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_pickles_are_refused_at_once_and_in_utf_8(data: bytes) -> None:
    # In a process of its own: what goes wrong here holds the interpreter, and no time limit would get a word in.
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], cwd=ROOT, input=data, capture_output=True, timeout=20, check=True
    )
    assert b"x.bin" in done.stdout


def test_half_a_character_is_no_name() -> None:
    with pytest.raises(WeightsError) as refused:
        read_pickle(b"\x80\x02}X\x03\0\0\0\xed\xa0\x80K\x01s.", "x.bin")
    assert refused.value.key == "weights.pickle_damaged"


def test_a_number_made_into_many_by_a_stride_of_zero(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as refused:
        read_torch_zip(saved(tmp_path, {"a": torch.zeros(1).expand(1 << 40)}))
    assert refused.value.key == "files.view_outside"


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_random_bytes_never_do_more_than_fail(data: bytes) -> None:
    with pytest.raises(WeightsError):
        state_dict(b"\x80\x02" + data, "x.bin")


@given(st.data())
@settings(max_examples=150)
def test_a_changed_byte_of_a_real_pickle_is_read_or_refused(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    torch.save(OrderedDict(a=torch.zeros(2, 2), b=torch.ones(3)), buffer)
    with zipfile.ZipFile(buffer) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        raw = bytearray(archive.read(name))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        views = state_dict(bytes(raw), "x.bin")
    except WeightsError:
        return
    for view in views.values():
        count = view.storage.count
        assert all(size >= 0 for size in view.shape)
        assert view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True)) < max(count, 1)
