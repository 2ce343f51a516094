"""The engine's card in each state, and the header."""

from dataclasses import replace

import pytest

from backend.engines.base import EngineOptions, EngineState, EngineStatus
from backend.engines.fitting import Forecast
from backend.engines.line import Live
from backend.engines.tally import Latest
from backend.errors import EngineError
from backend.text import LANGUAGES, Message
from ui.render.engine import engine_card
from ui.render.header import header_html


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("state", EngineState)
def test_every_state_has_its_words(state: EngineState, language: str) -> None:
    card = engine_card(EngineStatus(state, "my-model"), language, admin=True)
    assert "chat." not in card
    assert ("my-model" in card) or state is EngineState.OFF


def test_loading_shows_bytes_and_a_bar() -> None:
    status = EngineStatus(EngineState.LOADING, "m", loaded_bytes=2_500_000_000, total_bytes=10_000_000_000, seconds=4.2)
    card = engine_card(status, "en", admin=True)
    assert 'aria-valuenow="25"' in card
    assert "2.5 GB of 10.0 GB · 4.2 s" in card


def test_before_the_size_is_known_the_bar_only_moves() -> None:
    card = engine_card(EngineStatus(EngineState.STARTING, "m", total_bytes=10), "en", admin=True)
    assert "waiting" in card
    assert "aria-valuenow" not in card


def test_a_ready_engine_shows_its_figures_and_leaves_out_what_is_unknown() -> None:
    status = EngineStatus(
        EngineState.READY, "m", context=4096, active=2, waiting=1, tokens_per_s=12.34, memory_bytes=1_500_000_000
    )
    card = engine_card(status, "en", admin=True)
    for text in ("4,096 tokens", "12 tokens/s", "2 answering, 1 waiting", "1.5 GB"):
        assert text in card
    assert "GPU memory" not in card
    assert "Runs on" not in card
    assert "tokens/s" not in engine_card(EngineStatus(EngineState.READY, "m"), "en", admin=True)


def test_a_failure_shows_reason_way_out_and_the_folded_log() -> None:
    status = EngineStatus(
        EngineState.FAILED, "m", error=EngineError("replies.not_loaded"), log_tail=("one", "<script>alert(1)</script>")
    )
    card = engine_card(status, "en", admin=True)
    assert "No model is loaded." in card
    assert "press Load" in card
    assert "<details><summary>" in card
    assert "<script>" not in card


def test_strangers_learn_that_it_failed_but_read_no_error_and_no_log() -> None:
    status = EngineStatus(
        EngineState.FAILED, "m", error=EngineError("engine.died", how="9", log="in /home/ann/x.py"),
        log_tail=("/home/ann/secret",),
    )  # fmt: skip
    assert "/home/ann/x.py" in engine_card(status, "en", admin=True)
    card = engine_card(status, "en", admin=False)
    assert "m could not be loaded" in card
    assert "administrator" in card
    assert "/home" not in card


def test_names_are_escaped() -> None:
    card = engine_card(
        EngineStatus(EngineState.READY, '"><img src=x>', note=Message("chat.engine.log")), "en", admin=True
    )
    assert "<img" not in card


def test_the_header_marks_the_language_and_has_a_door_only_on_a_shared_server() -> None:
    local = header_html("zh-TW", shared=False, admin=True)
    assert '<option value="zh-TW" lang="zh-TW" selected>' in local
    assert local.count(" selected") == 1
    assert "token" not in local
    assert "leave" not in local
    assert 'type="password"' in header_html("en", shared=True, admin=False)
    inside = header_html("en", shared=True, admin=True)
    assert 'id="leave"' in inside
    assert "password" not in inside


def test_forecast_and_fact_stand_side_by_side() -> None:
    status = EngineStatus(EngineState.READY, "m", memory_bytes=900_000_000, gpu_memory_bytes=15_100_000_000)
    card = engine_card(status, "en", admin=True, forecast=Forecast(14_900_000_000, 15_000_000_000, gpu=True))
    assert "15.1 GB now, predicted 14.9 GB" in card
    assert "900 MB" in card
    assert "predicted" not in engine_card(status, "en", admin=True)


def test_the_last_reply_is_told_while_nobody_is_answered_and_only_of_this_process() -> None:
    status = EngineStatus(EngineState.READY, "m", pid=7, cache_used=812, cache_total=8192)
    card = engine_card(status, "en", admin=True, line=Live(3, Latest(7, 0.42, 21.7)))
    assert "22 tokens/s in the last reply" in card
    assert "0.4 s in the last reply" in card
    assert "812 of 8,192 tokens" in card
    assert "0 answering, 3 waiting" in card
    assert "last reply" not in engine_card(status, "en", admin=True, line=Live(0, Latest(8, 0.42, 21.7)))


def test_memory_of_several_gpus_is_told_of_each() -> None:
    held = ((0, 15_100_000_000), (1, 14_200_000_000))
    status = EngineStatus(EngineState.READY, "m", gpu_memory_bytes=29_300_000_000, gpu_memory_each=held)
    card = engine_card(status, "en", admin=True)
    assert "29.3 GB (GPU 0: 15.1 GB, GPU 1: 14.2 GB)" in card
    assert "GPU 0" not in engine_card(replace(status, gpu_memory_each=held[:1]), "en", admin=True)


def test_the_way_out_stands_before_the_log() -> None:
    offer, error = EngineOptions(bits=8), EngineError("engine.died", code=1, log="")
    card = engine_card(
        EngineStatus(EngineState.FAILED, "m", error=error, log_tail=("last",), offer=offer), "en", admin=True
    )
    assert card.index('data-do="smaller"') < card.index("<details>")


def test_room_for_several_conversations_is_told_apart_from_the_context_of_one() -> None:
    status = EngineStatus(EngineState.READY, "m", context=1024, slots=4, cache_total=4096)
    card = engine_card(status, "en", admin=True)
    assert "0 tokens in use now; room for 4 conversations of 1,024 tokens each" in card
    assert "0 of 1,024 tokens in use now" in engine_card(replace(status, slots=1, cache_total=1024), "en", admin=True)


def test_a_speed_that_cannot_be_told_yet_is_not_shown_as_nothing() -> None:
    status = EngineStatus(EngineState.READY, "m", pid=7, active=1, memory_bytes=144_000_000)
    assert "0 tokens/s" not in engine_card(status, "en", admin=True)
    assert "22 tokens/s in the last reply" in engine_card(status, "en", admin=True, line=Live(0, Latest(7, 0.4, 21.7)))
    short = engine_card(replace(status, active=0), "en", admin=True, line=Live(0, Latest(7, 0.4)))
    assert "no reply long enough to tell yet" in short
    few = engine_card(status, "en", admin=True, line=Live(0, Latest(7, 0.4, 960.0, replies=4)))
    assert "960 tokens/s in the last 4 replies" in few
    told = engine_card(status, "en", admin=True, forecast=Forecast(169_000_000, 143_000_000, gpu=False))
    assert "144 MB now, predicted 169 MB before loading" in told


def test_memory_that_was_short_in_mid_reply_is_told_with_the_smaller_way() -> None:
    status = EngineStatus(EngineState.READY, "m", context=4096, short=2, offer=EngineOptions(context=2048))
    card = engine_card(status, "en", admin=True)
    assert "replies that ended because of it: 2" in card
    assert "shorter context (2,048 tokens)" in card
    everybody = engine_card(status, "en", admin=False)
    assert "replies that ended because of it: 2" in everybody
    assert "shorter context" not in everybody
