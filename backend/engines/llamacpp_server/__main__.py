"""Start the engine process. llama.cpp is loaded by the loading thread, so that the process answers within a second."""

from backend.engines.generator import Generator, Readiness
from backend.engines.serve import serve


def load(readiness: Readiness) -> Generator:
    """Load the folder; see ``loading.load``."""
    from backend.engines.llamacpp_server.loading import load as load_model

    return load_model(readiness)


if __name__ == "__main__":
    serve(load)
