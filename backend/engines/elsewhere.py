"""Models that another server has: what stands for their folder, which key goes to which server, what it offers.

Knows nothing about processes, or how a reply comes back.
"""

from dataclasses import replace
from pathlib import Path

from backend.engines import is_elsewhere
from backend.engines.base import EngineOptions
from backend.engines.client import Endpoint
from backend.engines.relay.address import check_url, read_key
from backend.engines.relay.upstream import list_models
from backend.library import find_model


def folder_of(models_dir: Path, model: str, options: EngineOptions) -> Path:
    """Return the folder of a model to load; for one on another server, where there is no folder, its name there.

    Raises:
        UsageError: no such model.
    """
    if is_elsewhere(options.engine):
        return Path(options.remote_model or "-")
    return find_model(models_dir, model)


def keyed(options: EngineOptions, own: EngineOptions) -> EngineOptions:
    """Return options with the command line's key file (``own``), if they name the server it is for, and no other."""
    if not is_elsewhere(options.engine) or options.key_file or not (own.key_file and own.url):
        return options
    if check_url(options.url) != check_url(own.url):
        return options
    return replace(options, key_file=own.key_file)


def models_at(url: str, own: EngineOptions) -> tuple[str, ...]:
    """Return the names of the models that another server offers.

    Raises:
        UsageError: no address, or a key file that cannot be read.
        EngineError: the server does not answer as it should.
    """
    options = keyed(EngineOptions(engine="remote", url=url), own)
    return tuple(one.name for one in list_models(Endpoint(check_url(url), read_key(options.key_file))))
