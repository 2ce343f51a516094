"""The program as a person starts it: exit codes, messages, ports, signals; and the demo from files to an answer."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import app
from backend.settings import ROOT


def cria(*words: str, data: Path, timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
    """Run one terminal command to its end."""
    command = [sys.executable, "app.py", "--data-dir", str(data), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(port: int, path: str, host: str = "localhost") -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path, headers={"Host": f"{host}:{port}"})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")


def wait_for_page(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        try:
            if fetch(port, "/health")[0] == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the page did not come up")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the demo set up by the terminal."""
    folder = tmp_path_factory.mktemp("cria")
    done = cria("setup", "demo", data=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "app.py chat demo" in done.stderr
    return folder


@pytest.mark.slow
def test_set_up_and_chat_as_the_readme_says(data: Path) -> None:
    answer = cria("chat", "demo", "--prompt", "What is a delta?", data=data)
    assert answer.returncode == 0, answer.stderr
    assert "difference" in answer.stdout.lower()
    assert answer.stdout.endswith("\n")


@pytest.mark.slow
def test_the_finished_model_was_tried_and_says_where_it_came_from(data: Path) -> None:
    shelf = json.loads(cria("models", "--json", data=data).stdout)
    assert [(model["name"], model["stops"], model["template"]) for model in shelf] == [("demo", True, "vicuna-v1.1")]
    record = json.loads((data / "models" / "demo" / "cria.json").read_text(encoding="utf-8"))
    assert [origin["role"] for origin in record["origins"]] == ["base", "delta"]
    assert len(record["files"]["model.safetensors"]) == 64
    assert record["self_test"]["answer"]
    assert not list((data / "models").glob(".partial-*"))


@pytest.mark.slow
def test_a_second_set_up_of_the_same_recipe_is_no_error(data: Path) -> None:
    again = cria("setup", "demo", data=data)
    assert again.returncode == 0
    assert "already" in again.stderr


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("chat", "nope", "--prompt", "hi"), 2, "nope"),
        (("setup", "nope"), 2, "nope"),
        (("setup", "--base", "/no/such/folder", "--name", "x"), 1, "/no/such/folder"),
        (("setup",), 2, "recipes"),
        (("chat", "demo", "--prompt", "  "), 2, "empty"),
        (("--listen-port", "notaport"), 2, "notaport"),
        (("--num-gpus", "-3"), 2, "--num-gpus"),
    ],
)
def test_bad_input_is_a_sentence_with_an_exit_code(
    tmp_path: Path, words: tuple[str, ...], code: int, named: str
) -> None:
    done = cria(*words, data=tmp_path)
    assert done.returncode == code, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_bytes(b"")
    done = cria("models", data=blocker)
    assert done.returncode == 1
    assert str(blocker) in done.stderr
    assert "--data-dir" in done.stderr


def test_a_port_in_use_is_an_error_and_not_another_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = cria("--listen-port", str(port), data=tmp_path)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "--listen-port" in done.stderr


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The web app on a free port."""
    port = free_port()
    command = [sys.executable, "-u", "app.py", "--data-dir", str(tmp_path), "--listen-port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_page(port, process)
    yield process, port
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_the_page_is_served_and_ends_cleanly(server: tuple[subprocess.Popen[str], int]) -> None:
    process, port = server
    status, page = fetch(port, "/")
    assert status == 200
    assert "<html" in page
    assert fetch(port, "/", host="evil.test")[0] == 421
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert f"http://localhost:{port}/" in out
    assert "Traceback" not in err
    assert "Cria is starting" in err  # before anything slow is imported
    assert time.monotonic() - began < 15


def test_ctrl_c_ends_the_server_too(server: tuple[subprocess.Popen[str], int]) -> None:
    process, _ = server
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in err


def test_listening_prints_the_administrators_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = app.build_parser().parse_args(["--listen", "--data-dir", str(tmp_path)])
    settings = app.read_settings(args, {})
    app.announce(settings)
    link = re.search(r"\?token=(\S+)", capsys.readouterr().out)
    assert link is not None
    assert link[1] == settings.admin_token
