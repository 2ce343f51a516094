"""Which replies cannot be computed beside each other: llama.cpp computes one mixture of LoRAs at a time.

Knows nothing about queues or how a mixture is computed.
"""

from backend.engines.adapters import Scales, choose_scales
from backend.engines.base import EngineOptions, Sampling
from backend.engines.choice import ON_CPU


def mixture(options: EngineOptions, sampling: Sampling) -> Scales:
    """Return what must be the same for two replies to be computed at once; empty where anything goes together.

    Raises:
        UsageError: an adapter that is not attached, or a strength that makes no sense.
    """
    return choose_scales(options.loras, sampling) if options.engine == ON_CPU else ()
