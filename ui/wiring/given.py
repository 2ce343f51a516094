"""What "How to load it" begins with on a fresh page: how the model that is there was loaded, else what the command line
says. Knows nothing about events; a page that is open keeps what somebody chose in it.
"""

from dataclasses import replace
from typing import Any

from backend.engines import AUTO
from backend.engines.base import EngineOptions, EngineState
from backend.services import Services
from ui.views.chat import GIB

_COMING = frozenset({EngineState.STARTING, EngineState.LOADING})


def given(services: Services) -> EngineOptions:
    """Return the options of the model that is loaded, asleep or on its way, else those of the command line."""
    status = services.engine.status()
    return status.options if status.answers or status.state in _COMING else services.options


def as_chosen(services: Services, options: EngineOptions) -> EngineOptions:
    """Return a loaded model's options as somebody would choose them: an engine that automatic comes down to here is
    automatic, for another model may need another one.
    """
    name = services.engine.status().model
    model = next((one for one in services.models() if one.name == name), None)
    automatic = replace(options, engine=AUTO)
    return automatic if model and services.prospects.meant(model, automatic) == options else options


def form_values(options: EngineOptions) -> dict[str, Any]:
    """Return what the controls hold for some options, by their names in ``OptionsView``; ``read_options`` is the
    inverse. LoRAs are left out.
    """
    return {
        "engine": options.engine,
        "device": options.device,
        "bits": options.bits,
        "num_gpus": options.num_gpus,
        "gpus": ",".join(map(str, options.gpus)),
        "max_gpu_memory": options.max_gpu_memory / GIB,
        "dtype": options.dtype,
        "context": options.context,
        "idle_minutes": options.idle_minutes,
        "url": options.url,
        "remote_model": options.remote_model or None,
        "keep_quantised": options.keep_quantised,
    }
