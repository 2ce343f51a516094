"""Addresses and keys of other servers."""

from pathlib import Path

import pytest

from backend.engines.relay.address import check_url, host_of, read_key
from backend.errors import UsageError


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://box:8000", "http://box:8000"),
        (" http://box:8000/v1/ ", "http://box:8000"),
        ("https://api.example.com/v1", "https://api.example.com"),
        ("https://example.com/openai/v1", "https://example.com/openai"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
    ],
)
def test_an_address(given: str, used: str) -> None:
    assert check_url(given) == used
    assert host_of(used) in given


@pytest.mark.parametrize(
    "given",
    ["box:8000", "ftp://box", "file:///etc/passwd", "http://", "http://box:99999", "http://a b", "http://b\nox",
     "http://ann:secret@box", "http://box?key=secret", "http://box/#secret", "javascript:alert(1)"],
)  # fmt: skip
def test_no_address(given: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_url(given)
    assert caught.value.hint is not None
    assert "secret" not in str(caught.value)


def test_an_address_that_is_missing_is_called_missing() -> None:
    for empty in ("", "  "):
        with pytest.raises(UsageError) as caught:
            check_url(empty)
        assert caught.value.key == "remote.no_url"


def test_a_key_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("  sk-abc \n")
    assert read_key(str(file)) == "sk-abc"
    assert read_key("") == ""


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", "schlüssel".encode(), b"\xff\xfe"])
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_key(str(file))
    assert "two" not in str(caught.value)


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (str(tmp_path / "nowhere"), str(tmp_path), "~nobody-of-this-name/key", "a\0b"):
        with pytest.raises(UsageError):
            read_key(path)
