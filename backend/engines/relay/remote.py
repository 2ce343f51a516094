"""The engine for a model on another server: any URL that speaks OpenAI's protocol. Started with ``python -m``.

Knows nothing about this machine: nothing is computed here.
"""

from backend.engines.client import Endpoint
from backend.engines.generator import Generator, Readiness
from backend.engines.relay.address import check_url, host_of, read_key
from backend.engines.relay.upstream import Upstream, choose_model, list_models
from backend.engines.serve import serve
from backend.text import Message

SILENCE_S = 300.0  # the longest wait for the next word, the other server's own queue included


def load(readiness: Readiness) -> Generator:
    """Ask the server for its models; it is ready when it has the wanted one.

    Raises:
        UsageError: the address or the key file cannot be used.
        EngineError: the server cannot be reached, refuses the key, or does not have the model.
    """
    options = readiness.options
    url = check_url(options.url)
    asking = Endpoint(url, read_key(options.key_file))
    chosen = choose_model(list_models(asking), options.remote_model, host_of(url))
    endpoint = Endpoint(url, asking.key, chosen.name, silence_s=SILENCE_S)
    placement = Message("remote.placement", {"host": host_of(url)})
    return Upstream(endpoint, context=chosen.context, placement=placement)


if __name__ == "__main__":
    serve(load)
