"""The real app in its own process, and real Chromium pages that fail on what no visitor should cause or see."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
_START_S = 180
_PROGRAM = (sys.executable, str(ROOT / "app.py"))
REBOUND = "evil.test"  # a name of somebody else's that leads to this machine


@dataclass
class RunningApp:
    """One app process: where it answers, where it writes, how to end it."""

    url: str
    port: int
    data_dir: Path
    log: Path
    process: "subprocess.Popen[bytes]"

    @property
    def models_dir(self) -> Path:
        return self.data_dir / "models"

    def stop(self) -> None:
        """End it as a service manager would; kill it if it does not go."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(5)


def free_port() -> int:
    """Return a port that nobody had a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def toy_model(models_dir: Path, name: str, **record: Any) -> Path:
    """Put a folder on the shelf that looks like a model; the echo engine asks for no more."""
    folder = models_dir / name
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(bytes(100_000))
    (folder / "cria.json").write_text(json.dumps({"made": "2026-01-01T00:00:00", **record}), encoding="utf-8")
    return folder


def _wait_until_up(app: RunningApp) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if app.process.poll() is not None:
            break
        with contextlib.suppress(OSError, urllib.error.URLError):
            with urllib.request.urlopen(app.url, timeout=5) as answer:
                if answer.status == 200:
                    return
        time.sleep(0.1)
    app.stop()
    pytest.fail(f"the app did not come up:\n{app.log.read_text(encoding='utf-8')[-4000:]}")


@contextlib.contextmanager
def running_app(data_dir: Path, *flags: str, program: tuple[str, ...] = _PROGRAM) -> Iterator[RunningApp]:
    """Start ``app.py`` on a free port with its own data folder, and end it afterwards."""
    port, log = free_port(), data_dir.parent / f"{data_dir.name}.log"
    data_dir.mkdir(parents=True, exist_ok=True)
    command = [*program, "--data-dir", str(data_dir), "--listen-port", str(port), *flags]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    app = RunningApp(f"http://127.0.0.1:{port}/", port, data_dir, log, process)
    try:
        _wait_until_up(app)
        yield app
    finally:
        app.stop()


@pytest.fixture(scope="module")
def start_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RunningApp]]:
    """``start_app(*flags, models=("demo",), data_dir=None)`` starts an app with toy models on its shelf."""
    with contextlib.ExitStack() as stack:

        def start(*flags: str, models: tuple[str, ...] = (), data_dir: Path | None = None) -> RunningApp:
            folder = data_dir or tmp_path_factory.mktemp("cria") / "data"
            for name in models:
                if not (folder / "models" / name).exists():
                    toy_model(folder / "models", name)
            return stack.enter_context(running_app(folder, *flags))

        yield start


@pytest.fixture(scope="module")
def echo_app(start_app: Callable[..., RunningApp]) -> RunningApp:
    """The app on localhost with the echo engine and a model called "toy" loaded."""
    return start_app("--engine", "echo", "--model", "toy", models=("toy",))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium; skipped where playwright or the browser is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.skip("no chromium found (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        rebound = f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu", rebound])
        yield browser
        browser.close()


@dataclass
class Faults:
    """What pages did that no page may do."""

    foreign: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def watch(self, page: Any, port: int) -> None:
        """Block and note foreign hosts; note console errors and uncaught exceptions."""

        def route(one: Any) -> None:
            place = urlsplit(one.request.url)
            if place.scheme in {"http", "https"} and (place.hostname, place.port) != ("127.0.0.1", port):
                self.foreign.append(one.request.url)
                one.abort()
            else:
                one.continue_()

        page.route("**/*", route)
        page.on("console", lambda said: said.type == "error" and self.console.append(said.text))
        page.on("pageerror", lambda problem: self.errors.append(str(problem)))

    def check(self) -> None:
        assert not self.foreign, f"the page called out: {self.foreign}"
        assert not self.errors, f"uncaught exceptions in the page: {self.errors}"
        assert not self.console, f"console errors: {self.console}"


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """``open_page(app, locale="zh-TW", width=390, dark=True, context=None, path="", ready=True)`` opens the app.

    ``ready`` also waits until a model can be talked to. Each call is a visitor of its own unless ``context`` (of an
    earlier page) is given. The test fails at its end if any of its pages asked another host for something, logged an
    error or threw one; ``page.faults`` may be emptied where one is meant.
    """
    contexts, faults = [], Faults()

    def open_one(app: RunningApp, **wish: Any) -> Any:
        context = wish.get("context")
        if context is None:
            width = wish.get("width", 1280)
            context = chromium.new_context(
                locale=wish.get("locale", "en-US"),
                color_scheme="dark" if wish.get("dark") else "light",
                viewport={"width": width, "height": wish.get("height", 844 if width < 700 else 900)},
            )
            context.set_default_timeout(wish.get("timeout", 60_000))  # others may be computing too
            contexts.append(context)
        page = context.new_page()
        page.faults = faults
        faults.watch(page, app.port)
        page.goto(app.url + wish.get("path", ""))
        page.wait_for_selector("h1")
        if wish.get("ready"):
            page.wait_for_selector("#engine .engine.ready", timeout=60_000)
        return page

    yield open_one
    for context in contexts:
        context.close()
    faults.check()
