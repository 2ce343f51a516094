"""A fetch that is killed again and again ends bit-identical; the long form is ``python -m tests.bench.kill_sweep``."""

from pathlib import Path

from tests.bench.kill_sweep import sweep


def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    tally = sweep(20, tmp_path, rate=40e6, each=5, seed=1)
    assert tally.is_good, tally
    assert tally.kills == 20
    again = tally.bytes_sent - tally.bytes_to_nobody - tally.bytes_payload
    assert again < 20 * 4 * (256 << 10)  # a journal line's worth and a socket's, of each connection
