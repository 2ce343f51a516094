"""Good files cut, changed, shrunk and grown: what opens has the right numbers, everything else is an error in words."""

import pickletools
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import CriaError, WeightsError
from backend.weights.adapter import open_adapter
from backend.weights.opening import open_checkpoint
from tests.backend.weights.hostile import GOOD, read_all

_PART = re.compile(b"PK(\x03\x04|\x01\x02|\x05\x06)")


def boundaries(raw: bytes, name: str) -> Iterator[int]:
    """Yield where one part of a file ends and the next begins."""
    yield from (0, 1, len(raw) // 2, len(raw) - 1)
    if name.endswith(".safetensors"):
        start = 8 + int.from_bytes(raw[:8], "little")
        yield from (7, 8, 9, start, *(start + int(end) for end in re.findall(rb", (\d+)\]", raw[8:start])))
    elif raw.startswith(b"PK"):
        for found in _PART.finditer(raw):
            yield found.start()
            yield found.start() + {3: 30, 1: 46, 5: 22}[found[1][0]]
            if found[1][0] == 3:
                names, extra = struct.unpack_from("<HH", raw, found.start() + 26)
                yield found.start() + 30 + names + extra
    elif raw.startswith(b"\x80\x02"):
        at = 0
        for _ in range(5):
            at += max(place or 0 for _, _, place in pickletools.genops(raw[at:])) + 1
            yield at
        while at < len(raw):
            at += 8
            yield at
            at += 4 * int.from_bytes(raw[at - 8 : at], "little")
            yield at


def made(folder: Path, kind: str) -> list[Path]:
    GOOD[kind](folder)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("kind", GOOD)
def test_truncation_at_every_boundary_of_every_file_is_an_error(tmp_path: Path, kind: str) -> None:
    count = 0
    for path in made(tmp_path, kind):
        raw = path.read_bytes()
        for place in sorted(set(boundaries(raw, path.name))):
            for size in (place - 1, place, place + 1):
                if 0 <= size < len(raw):
                    path.write_bytes(raw[:size])
                    with pytest.raises(CriaError) as refused:
                        read_all(tmp_path)
                    assert refused.value.hint, size
                    count += 1
        path.write_bytes(raw)
    assert read_all(tmp_path)
    assert count > 30


@pytest.mark.parametrize("kind", GOOD)
def test_a_missing_file_is_an_error(tmp_path: Path, kind: str) -> None:
    for path in made(tmp_path, kind):
        raw = path.read_bytes()
        path.unlink()
        with pytest.raises(CriaError) as refused:
            read_all(tmp_path)
        assert refused.value.hint
        path.write_bytes(raw)


CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(["flip", "insert", "delete", "zero", "swap"]),
              st.integers(0, 255), st.integers(1, 9)),
    min_size=1, max_size=4,
)  # fmt: skip


def damaged(raw: bytes, changes: list[tuple[float, str, int, int]]) -> bytes:
    data = bytearray(raw)
    for where, kind, byte, length in changes:
        at = int(where * len(data))
        if kind == "flip" and data:
            data[at] ^= byte
        elif kind == "insert":
            data[at:at] = bytes([byte]) * length
        elif kind == "delete":
            del data[at : at + length]
        elif kind == "zero":
            data[at : at + length] = bytes(len(data[at : at + length]))
        else:
            data[at : at + 2] = data[at : at + 2][::-1]
    return bytes(data)


def may_change_silently(path: Path, raw: bytes, new: bytes) -> bool:
    """Tell whether numbers may differ with nothing to show for it: there is no checksum over these bytes.

    params.json can be made to tell of another number of heads, which is another order of rows.
    """
    if path.name == "params.json" or raw.startswith(b"\x80\x02"):
        return True
    data = len(raw) - 8 - int.from_bytes(raw[:8], "little")
    return path.suffix == ".safetensors" and raw[-data:] != new[-data:]


@pytest.mark.parametrize("kind", GOOD)
@given(which=st.integers(0, 9), changes=CHANGES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=120, deadline=None)
def test_changed_files_open_with_the_same_numbers_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, kind: str, which: int, changes: list[tuple[float, str, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    files = made(folder, kind)
    before, path = read_all(folder), files[which % len(files)]
    raw = path.read_bytes()
    new = damaged(raw, changes)
    path.write_bytes(new)
    try:
        after = read_all(folder)
    except CriaError:
        return
    assert set(after) <= set(before)
    for name, content in after.items():
        assert len(content) == len(before[name])
        assert content == before[name] or may_change_silently(path, raw, new), name


@pytest.mark.parametrize("kind", [kind for kind in GOOD if "adapter" not in kind])
def test_a_file_that_shrinks_or_grows_while_it_is_read(tmp_path: Path, kind: str) -> None:
    paths = [path for path in made(tmp_path, kind) if path.suffix != ".json"]
    raws = [path.read_bytes() for path in paths]
    good = read_all(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    for path, raw in zip(paths, raws, strict=True):
        path.write_bytes(raw + b"more")
    assert {name: tensor.array().tobytes() for name, tensor in checkpoint.items()} == good
    for path in paths:
        path.write_bytes(b"")
    for tensor in checkpoint.values():
        with pytest.raises(WeightsError):
            tensor.array()


def test_an_adapter_that_vanishes_while_it_is_read(tmp_path: Path) -> None:
    GOOD["adapter"](tmp_path)
    adapter = open_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").unlink()
    with pytest.raises(WeightsError):
        next(iter(adapter.pairs.values())).up.array()
