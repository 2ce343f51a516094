"""Addresses as people type them and servers send them become what may be sent, once."""

import pytest

from backend.sources.address import in_ascii


@pytest.mark.parametrize(("address", "sent"), [
    ("http://host/模型.zip", "http://host/%E6%A8%A1%E5%9E%8B.zip"),
    ("http://host/%E6%A8%A1%E5%9E%8B.zip", "http://host/%E6%A8%A1%E5%9E%8B.zip"),
    ("http://host/a%2Fb/c d?名=x%20y&z=1+2", "http://host/a%2Fb/c%20d?%E5%90%8D=x%20y&z=1+2"),
    ("http://中国.example:8080/x", "http://xn--fiqs8s.example:8080/x"),
    ("http://[::1]:80/x", "http://[::1]:80/x"),
    ("http://bücher.example", "http://xn--bcher-kva.example"),
])  # fmt: skip
def test_an_address_is_sent_in_ascii_and_what_is_encoded_stays_so(address: str, sent: str) -> None:
    assert in_ascii(address) == sent
    assert in_ascii(sent) == sent
