"""The app as ``app.py`` starts it, with the engine of ``clock_engine`` in the echo engine's place. Takes its flags."""

import sys

import backend.engines
from app import main
from backend.engines import EngineKind

if __name__ == "__main__":
    backend.engines.ENGINES["echo"] = EngineKind("tests.bench.clock_engine", computes=False)  # type: ignore[index]
    sys.exit(main(sys.argv[1:]))
