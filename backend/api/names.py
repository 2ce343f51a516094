"""The names under which programs find what is loaded: the model as it was loaded, and the model with one LoRA alone.

Knows nothing about HTTP, or how adapters are computed.
"""

from dataclasses import replace

from backend.api.schema import PublicRequest
from backend.engines.adapters import choose_scales
from backend.engines.base import EngineStatus, Sampling
from backend.errors import UsageError

_BETWEEN = ":"


def names(status: EngineStatus) -> list[str]:
    """Return every name that a request may ask for, the model's own first."""
    return [status.model, *(f"{status.model}{_BETWEEN}{lora.name}" for lora in status.options.loras)]


def check_name(asked: str, status: EngineStatus) -> None:
    """Make sure that a name ("": whatever is loaded) is one of them.

    Raises:
        UsageError: another model, or an adapter that is not attached.
    """
    if asked in {"", *names(status)}:
        return
    if status.options.loras and asked.startswith(status.model + _BETWEEN):
        known = ", ".join(lora.name for lora in status.options.loras)
        raise UsageError("attach.unknown", name=asked[len(status.model) + 1 :][:120], known=known[:300])
    raise UsageError("api.other_model", asked=asked, loaded=status.model)


def sampling_of(asked: PublicRequest, status: EngineStatus) -> Sampling:
    """Return how to answer: with the mixture that a request names, else with the adapter that its model's name does.

    Raises:
        UsageError: an adapter that is not attached.
    """
    sampling = asked.sampling()
    chosen = next((one for one in status.options.loras if asked.model == f"{status.model}{_BETWEEN}{one.name}"), None)
    if chosen is not None and sampling.loras is None:
        sampling = replace(sampling, loras=((chosen.name, chosen.scale or 1.0),))
    choose_scales(status.options.loras, sampling)
    return sampling
