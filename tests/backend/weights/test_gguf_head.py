"""The head of a GGUF file as the ``gguf`` package writes it, and whatever a stranger may have made of one."""

import contextlib
import struct
import tracemalloc
from pathlib import Path

import pytest
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import WeightsError
from backend.weights.gguf_head import MOST_HELD, Passed, peek, read_head, texts_at
from tests.backend.weights.gguf_files import TOKENS, write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_head_is_read_as_the_package_reads_it(tiny: Path) -> None:
    head, theirs = read_head(tiny), GGUFReader(tiny)
    assert {(one.name, one.shape, one.nbytes) for one in head.tensors} == {
        (one.name, tuple(map(int, one.shape)), int(one.n_bytes)) for one in theirs.tensors
    }
    assert (head.parameters, head.bytes) == (5 * 64 + 64, tiny.stat().st_size)
    for key, value in head.values.items():
        if not isinstance(value, Passed):
            assert value == theirs.fields[key].contents()
    listed = head.values["tokenizer.ggml.tokens"]
    assert isinstance(listed, Passed)
    assert (listed.count, listed.longest) == (5, len("▁hello".encode()))
    assert texts_at(head, "tokenizer.ggml.tokens", {1, 4, 99}) == {1: TOKENS[1], 4: TOKENS[4]}
    assert texts_at(head, "general.architecture", {1}) == {}


def test_a_glance_sees_the_settings_without_the_lists(tiny: Path, tmp_path: Path) -> None:
    seen = peek(tiny)
    assert seen["llama.context_length"] == 512
    listed = seen["tokenizer.ggml.tokens"]
    assert isinstance(listed, Passed)
    assert listed.count == 5
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[: listed.offset + 9])  # in the midst of the first token
    assert peek(cut)["tokenizer.ggml.tokens"] == listed
    (tmp_path / "none.gguf").write_bytes(b"no such thing")
    assert peek(tmp_path / "none.gguf") == peek(tmp_path / "gone.gguf") == {}


def _bad(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        read_head(path)
    return caught.value.key


def _file(*, version: int = 3, tensors: int = 0, keys: int = 0, body: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


BIG = struct.pack("<Q", (1 << 63) - 1)
KEY = _text(b"k")
TENSOR = _text(b"t") + struct.pack("<I2Q", 2, 32, 2)


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (b"GGML" + bytes(40), "ggufready.bad_head"),
        (b"GG", "ggufready.bad_head"),
        (_file(version=1), "ggufready.bad_head"),
        (_file(version=3 << 24), "ggufready.bad_head"),
        (b"GGUF" + struct.pack("<I", 3) + BIG + BIG, "ggufready.bad_head"),
        (_file(keys=1, body=BIG), "ggufready.bad_head"),
        (_file(keys=1, body=_text(b"\xff") + struct.pack("<IB", 0, 1)), "ggufready.bad_head"),
        (_file(keys=1, body=KEY + struct.pack("<I", 13)), "ggufready.bad_head"),
        (_file(keys=1, body=KEY + struct.pack("<I", 8) + BIG), "ggufready.bad_head"),
        (_file(keys=1, body=KEY + struct.pack("<II", 9, 8) + BIG), "ggufready.bad_head"),
        (_file(keys=1, body=KEY + struct.pack("<IIQ", 9, 8, 1_000_000)), "weights.truncated"),
        (_file(keys=1, body=KEY + struct.pack("<IIQ", 9, 12, 1_000_000)), "weights.truncated"),
        (_file(keys=1, body=KEY + struct.pack("<IIQ", 9, 9, 1)), "ggufready.bad_head"),
        (_file(keys=2, body=2 * (KEY + struct.pack("<IB", 0, 1))), "ggufready.bad_head"),
        (_file(keys=1, body=_text(b"general.alignment") + struct.pack("<II", 4, 3)), "ggufready.bad_head"),
        (_file(tensors=1, body=_text(b"t") + struct.pack("<I", 5)), "ggufready.bad_head"),
        (_file(tensors=1, body=_text(b"t") + struct.pack("<IQIQ", 1, 0, 0, 0)), "ggufready.bad_head"),
        (_file(tensors=1, body=_text(b"t") + struct.pack("<IQIQ", 1, 33, 8, 0)), "ggufready.bad_head"),
        (_file(tensors=1, body=TENSOR + struct.pack("<IQ", 0, 7)), "ggufready.bad_head"),
        (_file(tensors=1, body=TENSOR + struct.pack("<IQ", 0, 0)), "weights.truncated"),
        (_file(tensors=1, body=TENSOR + struct.pack("<IQ", 0, 1 << 50)), "weights.truncated"),
        (_file(tensors=2, body=2 * (TENSOR + struct.pack("<IQ", 0, 0)) + bytes(999)), "ggufready.bad_head"),
    ],
)
def test_nonsense_is_an_error_in_words(data: bytes, key: str, tmp_path: Path) -> None:
    assert _bad(tmp_path / "bad.gguf", data) == key


def test_what_is_kept_of_a_head_is_bounded(tmp_path: Path) -> None:
    texts = b"".join(_text(b"%d" % number) + struct.pack("<I", 8) + _text(bytes(1_000_000)) for number in range(70))
    path = tmp_path / "long.gguf"
    assert _bad(path, _file(keys=70, body=texts)) == "ggufready.bad_head"
    tracemalloc.start()
    with pytest.raises(WeightsError):
        read_head(path)
    assert tracemalloc.get_traced_memory()[1] < MOST_HELD + 10_000_000
    tracemalloc.stop()


@settings(max_examples=150, deadline=None)
@given(
    cut=st.integers(0, 900),
    changes=st.lists(st.tuples(st.integers(0, 899), st.integers(0, 255)), max_size=6),
    word=st.tuples(st.integers(0, 890), st.sampled_from([0, 1, 255, 1 << 20, 1 << 31, 1 << 40, (1 << 64) - 1])),
)
def test_a_damaged_head_is_read_or_refused(
    tiny: Path, cut: int, changes: list[tuple[int, int]], word: tuple[int, int]
) -> None:
    data = bytearray(tiny.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    struct.pack_into("<Q", data, min(word[0], len(data) - 8), word[1])
    path = tiny.with_name("damaged.gguf")
    path.write_bytes(data[: len(data) - cut] if cut else data)
    peek(path)
    tracemalloc.start()
    with contextlib.suppress(WeightsError):  # anything else is a failure
        texts_at(read_head(path), "tokenizer.ggml.tokens", {0, 1})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000
