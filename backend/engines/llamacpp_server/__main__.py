"""Start the engine process. llama.cpp is loaded by the loading thread, so that the process answers within a second."""

import os
import signal

from backend.engines.generator import Generator, Readiness
from backend.engines.llamacpp_server.serving import tidy
from backend.engines.serve import serve
from backend.weights.gguf_ready import holds_ready

# Threads wait for each other some 300 times for every token. Asleep at once, as the supervisor asks of other engines
# (OMP_WAIT_POLICY), they lose a third of the speed of a free machine; spinning for long, nearly all of it on a busy
# one. So many turns, some 20 microseconds, cost little of either. Read when llama.cpp is loaded.
SPINS = "2000"


def load(readiness: Readiness) -> Generator:
    """Load the folder, or the ready-made file in it; see ``loading.load`` and ``ready.load_ready``."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    from backend.engines.llamacpp_server.loading import load as load_model
    from backend.engines.llamacpp_server.ready import load_ready

    return load_ready(readiness) if holds_ready(readiness.folder) else load_model(readiness)


def _end(number: int, _: object) -> None:
    """End as the signal wants it, but leave nothing behind. The web server passes it on here when it has ended."""
    tidy()
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    serve(load, tidy)
