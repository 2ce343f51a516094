"""Engines for the tests here: an echo that is quick, and one real engine that all tests of a session share."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from backend.engines.base import ChatMessage, EngineOptions, Piece, Sampling
from backend.engines.supervisor import Supervisor
from backend.hardware import Gpu, Hardware
from tests.backend.engines import tiny

READY_S = 120.0  # importing torch on a busy machine takes a while
GREEDY = Sampling(temperature=0.0, max_new_tokens=40)


def machine(*free: int, torch: str = "2.13.0+cu130", mps: bool = False) -> Hardware:
    """Return an imaginary machine with one GPU per number, of that many free bytes."""
    gpus = tuple(Gpu(index, f"Card {index}", bytes_ + 1, bytes_) for index, bytes_ in enumerate(free))
    return Hardware(
        cpu="cpu",
        cores=2,
        ram_total=16 * 10**9,
        ram_free=8 * 10**9,
        disk_path=Path("/"),
        disk_total=1,
        disk_free=1,
        gpus=gpus,
        gpu_problem=None if gpus else "no driver",
        mps=mps,
        driver=None,
        cuda_driver=None,
        python="3.11",
        system="Linux",
        versions={"torch": torch},
    )


async def answer(engine: Supervisor, text: str, sampling: Sampling = GREEDY) -> list[Piece]:
    """Return all pieces of one reply."""
    return [piece async for piece in engine.chat([ChatMessage("user", text)], sampling)]


def text_of(pieces: Sequence[Piece]) -> str:
    """Return the text of a reply."""
    return "".join(piece.text for piece in pieces)


def ask(engine: Supervisor, text: str, sampling: Sampling = GREEDY) -> list[Piece]:
    """Ask from a thread without an event loop, as the terminal does."""
    return asyncio.run(answer(engine, text, sampling))


@pytest.fixture
def echo_folder(tmp_path: Path) -> Path:
    """Return a folder that the echo engine answers from quickly."""
    folder = tmp_path / "parrot"
    folder.mkdir()
    (folder / "cria.json").write_text('{"echo": {"words_per_s": 200}}')
    return folder


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Callable[..., Supervisor]]:
    """Return a maker of supervisors that are closed in the end; without ``restart_delays_s`` they restart nothing."""
    made: list[Supervisor] = []

    def make(**settings: object) -> Supervisor:
        never: dict[str, object] = {"restart_delays_s": ()}
        made.append(Supervisor(tmp_path / "logs", probe=machine, **never | settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def echo(engines: Callable[..., Supervisor], echo_folder: Path) -> Supervisor:
    """Return a supervisor with the echo engine ready."""
    engine = engines()
    engine.load(echo_folder, EngineOptions(engine="echo"))
    engine.wait_ready(READY_S)
    return engine


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute on one thread: two that wait for each other by spinning take minutes where others compute too."""
    import torch

    used = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(used)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tiny model's folder."""
    return tiny.write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Supervisor]:
    """Return the transformers engine with the tiny model, on the CPU. Do not unload it."""
    engine = Supervisor(tmp_path_factory.mktemp("logs"), probe=machine)
    engine.load(tiny_folder, EngineOptions(engine="transformers", device="cpu"))
    engine.wait_ready(READY_S)
    yield engine
    engine.close()
