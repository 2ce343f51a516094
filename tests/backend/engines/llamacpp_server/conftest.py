"""The demo model, set up once for the tests here, and llama.cpp with it, in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.engines.base import EngineOptions
from backend.engines.generator import Readiness
from backend.engines.llamacpp_server import loading
from backend.engines.llamacpp_server.generator import LlamaGenerator
from backend.settings import ASSETS
from backend.weights.delta import add_delta
from backend.weights.finish import finish_folder
from backend.weights.opening import open_checkpoint
from backend.weights.provenance import Provenance, write_cria_json
from backend.weights.writer import save, written

BASE, DELTA = ASSETS / "demo" / "base", ASSETS / "demo" / "delta"


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo's folder as a set-up makes it; the delta's tokenizer has the mistakes of its time."""
    out = tmp_path_factory.mktemp("models") / "demo"
    checkpoint = add_delta(open_checkpoint(BASE), open_checkpoint(DELTA))
    list(save(checkpoint, out))
    finished = finish_folder(checkpoint, out, sources=[DELTA, BASE], context=1024, has_delta=True)
    facts = Provenance("demo", (), finished.template.name, "", (), 1024, checkpoint.parameters, checkpoint.dtype)
    write_cria_json(out, facts, sha256=written(out))
    return out


@pytest.fixture(scope="session")
def llama(demo_folder: Path) -> Iterator[LlamaGenerator]:
    """Return llama.cpp with the demo in float16."""
    generator = loading.load(Readiness(demo_folder, EngineOptions(engine="llamacpp")))
    assert isinstance(generator, LlamaGenerator)
    yield generator
    generator.close()
