"""Flags become settings and options; what cannot be meant is refused with an example of what can."""

import argparse
from pathlib import Path

import pytest

from backend.cli.parser import build_parser, engine_options, gpu_list, model_elsewhere, read_settings, size_bytes
from backend.engines.base import EngineOptions
from backend.errors import UsageError
from backend.settings import ROOT


def parse(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(words)


@pytest.mark.parametrize(
    ("text", "count"),
    [("20GiB", 20 << 30), ("20G", 20 << 30), ("20", 20 << 30), ("20GB", 20 * 10**9), ("800 MB", 800 * 10**6),
     ("1.5GiB", 3 << 29)],
)  # fmt: skip
def test_sizes(text: str, count: int) -> None:
    assert size_bytes(text) == count


@pytest.mark.parametrize("text", ["", "much", "-3GB", "3TBx", "1e9"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="20GiB"):
        size_bytes(text)


def test_gpu_lists() -> None:
    assert gpu_list("0, 2") == (0, 2)


@pytest.mark.parametrize("text", ["", "0,0", "a", "1,", "-1"])
def test_bad_gpu_lists(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        gpu_list(text)


def test_defaults_are_localhost_without_a_token() -> None:
    settings = read_settings(parse(), {})
    assert (settings.host, settings.port, settings.admin_token) == ("127.0.0.1", 7860, "")
    assert settings.data_dir == ROOT / "data"
    assert engine_options(parse()) == EngineOptions()


@pytest.mark.parametrize(("words", "seconds"), [((), 3600), (("--reply-limit", "5"), 300), (("--reply-limit", "0"), 0)])
def test_the_longest_that_a_reply_may_take(words: tuple[str, ...], seconds: float) -> None:
    assert read_settings(parse(*words), {}).reply_s == seconds


@pytest.mark.parametrize("words", ["-1", "soon", "nan", "1e9", "99999999", ""])
def test_a_limit_that_is_no_number_of_minutes(words: str) -> None:
    with pytest.raises(SystemExit):
        parse(f"--reply-limit={words}")


def test_listening_makes_a_fresh_token_each_time() -> None:
    args = parse("--listen", "--listen-port", "8080")
    first, second = read_settings(args, {}), read_settings(args, {})
    assert (first.host, first.port) == ("0.0.0.0", 8080)
    assert len(first.admin_token) > 30
    assert first.admin_token != second.admin_token
    assert first.admin_token not in repr(first)


def test_a_token_of_ones_own() -> None:
    assert read_settings(parse("--listen", "--admin-token", "s3cret"), {}).admin_token == "s3cret"


def test_the_language_of_the_terminal() -> None:
    assert read_settings(parse("check"), {"LANG": "zh_TW.UTF-8"}).language == "zh-TW"


def test_flags_before_and_after_a_command_both_count(tmp_path: Path) -> None:
    for words in (("--data-dir", str(tmp_path), "models"), ("models", "--data-dir", str(tmp_path))):
        assert read_settings(parse(*words), {}).data_dir == tmp_path


def test_engine_flags() -> None:
    args = parse("chat", "demo", "--load-4bit", "--gpus", "1,0", "--max-gpu-memory", "10GiB", "--context", "512")
    assert engine_options(args) == EngineOptions(bits=4, gpus=(1, 0), max_gpu_memory=10 << 30, context=512)


def test_engine_flags_before_the_command_count_too() -> None:
    assert engine_options(parse("--device", "cpu", "chat", "demo")) == EngineOptions(device="cpu")
    assert engine_options(parse("--device", "cpu", "chat", "demo", "--device", "cuda")).device == "cuda"


@pytest.mark.parametrize("command", [("setup", "demo"), ("models",)])
def test_the_format_of_a_result_is_not_the_engines(command: tuple[str, ...]) -> None:
    args = parse("--dtype", "bfloat16", *command, "--dtype", "float16")
    assert (engine_options(args).dtype, args.copy_dtype) == ("bfloat16", "float16")
    assert engine_options(parse(*command)) == EngineOptions()


@pytest.mark.parametrize(
    "words",
    [("--load-8bit", "--load-4bit"), ("--listen-port", "0"), ("--listen-port", "99999"), ("--device", "tpu"),
     ("fly",), ("chat",)],
)  # fmt: skip
def test_wrong_usage_exits_with_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--num-gpus", "--context"])
def test_negative_numbers_name_their_flag(flag: str) -> None:
    with pytest.raises(UsageError, match=flag):
        engine_options(parse(flag, "-1"))


def test_help_covers_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    for flag in ("--listen", "--listen-port", "--load-8bit", "--num-gpus", "--admin-token", "setup", "chat", "check"):
        assert flag in text
    assert "cli." not in text


def test_engines_elsewhere_and_idle_time() -> None:
    told = ["--engine", "remote", "--url", "http://box:8000/v1", "--api-key-file", "key.txt", "--idle-unload", "5"]
    options = engine_options(build_parser().parse_args(told))
    assert (options.engine, options.url, options.key_file, options.idle_minutes) == (
        "remote", "http://box:8000/v1", "key.txt", 5,
    )  # fmt: skip
    assert model_elsewhere(options, "theirs").remote_model == "theirs"
    assert model_elsewhere(options, "-").remote_model == ""
    assert model_elsewhere(EngineOptions(), "mine").remote_model == ""
    after = build_parser().parse_args(["bench", "m", "--json", "--engine", "echo"])
    assert (after.command, after.name, after.json, after.engine) == ("bench", "m", True, "echo")
    with pytest.raises(UsageError):
        engine_options(build_parser().parse_args(["--idle-unload", "-1"]))
