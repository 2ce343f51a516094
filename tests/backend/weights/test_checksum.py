"""Checksums of bytes in pieces against zlib's of the whole."""

import zlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.weights.checksum import ScatteredCrc


def as_array(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


@given(data=st.data(), content=st.binary(min_size=1, max_size=80))
@settings(deadline=None)
def test_pieces_in_any_order_have_the_checksum_of_the_whole(data: st.DataObject, content: bytes) -> None:
    scattered, array, seen = ScatteredCrc(len(content)), as_array(content), set[int]()
    for _ in range(data.draw(st.integers(0, 12))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, len(content)))
        missing = [at for gap in scattered.gaps(start, stop) for at in range(*gap)]
        assert missing == sorted(set(range(start, stop)) - seen)
        scattered.add(start, array[start:stop])
        seen.update(range(start, stop))
        assert scattered.seen == len(seen)
        assert (scattered.value is None) == (len(seen) < len(content))
    for start, stop in list(scattered.gaps(0, len(content))):
        scattered.add(start, array[start:stop])
    assert scattered.value == zlib.crc32(content)


def test_bytes_handed_over_twice_count_once() -> None:
    scattered = ScatteredCrc(4)
    scattered.add(0, as_array(b"abc"))
    scattered.add(1, as_array(b"XXd"))  # bytes that were seen already are not looked at again
    assert scattered.value == zlib.crc32(b"abcd")


def test_pieces_of_many_megabytes() -> None:
    content = as_array(bytes(range(251)) * 40_000)
    scattered = ScatteredCrc(len(content))
    cut = 3_000_001
    scattered.add(cut, content[cut:])
    scattered.add(0, content[:cut])
    assert scattered.value == zlib.crc32(content)
