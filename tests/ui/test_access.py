"""Who is asking, as the guard's headers and the browser say it."""

from types import SimpleNamespace
from typing import Any

import pytest

from backend.errors import EngineError, MachineError, Refused, UsageError
from ui.access import for_everybody, is_admin, language, owner, require_admin


def request(headers: dict[str, str] | None = None, cookies: dict[str, str] | None = None) -> Any:
    return SimpleNamespace(headers=headers or {}, cookies=cookies or {})


def test_the_owner_is_what_the_guard_says() -> None:
    assert owner(request({"x-cria-visitor": "abc"})) == "abc"
    with pytest.raises(Refused) as caught:
        owner(request())
    assert caught.value.hint is not None


@pytest.mark.parametrize(("said", "admin"), [("1", True), ("0", False), ("", False), ("true", False), (None, False)])
def test_only_one_value_makes_an_administrator(said: str | None, admin: bool) -> None:
    asking = request({} if said is None else {"x-cria-admin": said})
    assert is_admin(asking) is admin
    if admin:
        require_admin(asking)
    else:
        with pytest.raises(Refused):
            require_admin(asking)


@pytest.mark.parametrize(
    ("cookie", "accepted", "expected"),
    [
        (None, "zh-HK,en;q=0.5", "zh-TW"),
        (None, "zh-Hans-CN", "zh-CN"),
        (None, None, "en"),
        ("en", "zh-CN", "en"),
        ("zh-TW", "en", "zh-TW"),
        ("<script>", "zh-CN", "zh-CN"),
    ],
)
def test_a_choice_wins_over_the_browser(cookie: str | None, accepted: str | None, expected: str) -> None:
    asking = request({"accept-language": accepted} if accepted else {}, {"lang": cookie} if cookie else {})
    assert language(asking) == expected


def test_strangers_are_told_no_folders_and_no_logs() -> None:
    for error in (
        EngineError("engine.died", how="9", log="/home/ann/x.py"),
        MachineError("conversations.cannot_write", path="/home/ann/c.sqlite", what="full"),
    ):
        assert "/home" in error.text()
        assert "administrator" in for_everybody(error).text()
        assert "/home" not in for_everybody(error).text()
    plain = UsageError("conversations.empty")
    assert for_everybody(plain) is plain
