"""Engine processes whose memory runs out for real: llama.cpp's while loading, transformers' at a long prompt.

An allocator refuses what no machine has, or what is beyond this process' own limit.
"""

import resource
from typing import Any

import psutil

from backend.engines.generator import Generator, Readiness
from backend.engines.serve import serve

MOST = 700_000_000  # bytes of addresses, beside what libraries have mapped already
TOKENS = 1 << 22  # whose keys and values take more than that
ENDLESS = 1 << 50
LONG = 60  # tokens of a prompt in one step


def llamacpp(readiness: Readiness) -> Generator:
    """Load with room for more conversations than there is memory."""
    import xllamacpp  # noqa: F401 - mapped before there is a limit

    from backend.engines.llamacpp_server import loading
    from backend.engines.llamacpp_server.sizes import Room

    def short(*_: Any, **__: Any) -> Room:
        most = psutil.Process().memory_info().vms + MOST
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        return Room(TOKENS, 1)

    vars(loading)["fit_room"] = short
    return loading.load(readiness)


def transformers(readiness: Readiness) -> Generator:
    """Load a model that wants more memory than there is for a long prompt."""
    import torch

    from backend.engines.transformers_server import loading
    from backend.engines.transformers_server.computing import token_source

    def wanting(model: Any, *given: Any, **named: Any) -> Any:
        def want(_: Any, __: Any, step: dict[str, Any]) -> None:
            if step["max_length_q"] > LONG:
                torch.empty(ENDLESS, dtype=torch.uint8)

        source = token_source(model, *given, **named)
        model.base_model.register_forward_pre_hook(want, with_kwargs=True)
        return source

    vars(loading)["token_source"] = wanting
    return loading.load(readiness)


if __name__ == "__main__":
    serve(lambda readiness: {"llamacpp": llamacpp, "transformers": transformers}[readiness.options.engine](readiness))
