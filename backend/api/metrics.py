"""``/metrics`` for Prometheus: what the engine does, who waits, memory, jobs, refusals.

Read by the administrator, who is everybody where no token is asked for, and by callers with the API key: it tells model
names and how much a server is used. Knows nothing about how the figures come about.
"""

import hmac
from collections import Counter
from collections.abc import Iterator

from fastapi import APIRouter, Request, Response

from backend.api.errors import OpenAIRoute
from backend.engines.base import EngineState, EngineStatus
from backend.engines.exposition import CONTENT_TYPE, Family, exposition
from backend.engines.tally import Counts
from backend.errors import Refused
from backend.hardware import Hardware
from backend.jobs.view import JobState
from backend.services import Services

_ADMIN_HEADER = "x-cria-admin"  # the guard's own finding; no client can send it through


def build_metrics(services: Services) -> APIRouter:
    """Return the route."""
    routes = APIRouter(route_class=OpenAIRoute, include_in_schema=False)

    @routes.get("/metrics")
    def metrics(request: Request) -> Response:
        check_reader(request, services.settings.api_key)
        return Response(page(services), media_type=CONTENT_TYPE)

    return routes


def check_reader(request: Request, key: str) -> None:
    """Let the administrator and the API key through. An address proves nothing: behind a proxy all look alike.

    Raises:
        Refused: it is somebody else.
    """
    given = request.headers.get("authorization", "").encode()
    keyed = bool(key) and hmac.compare_digest(given, b"Bearer " + key.encode())
    if not (keyed or request.headers.get(_ADMIN_HEADER) == "1"):
        raise Refused("metrics.refused")


def page(services: Services) -> str:
    """Return all figures as they are now."""
    counts = services.line.tally.counts()
    families = [
        *engine_families(services.engine.status()),
        Family.of("queue_waiting", services.line.waiting),
        *_count_families(counts),
        *_memory_families(services.hardware()),
        _job_family(services),
    ]
    return exposition(families, {"first_token_seconds": counts.first_token, "queue_seconds": counts.queue})


def engine_families(status: EngineStatus) -> Iterator[Family]:
    """Yield what the engine says of itself."""
    yield Family("engine_state", "gauge", tuple(({"state": one}, float(one is status.state)) for one in EngineState))
    named = {"model": status.model, "engine": status.options.engine, "bits": str(status.options.bits)}
    yield Family("model_loaded", "gauge", ((named, 1.0),) if status.answers else ())
    yield Family.of("engine_active", status.active)
    yield Family.of("engine_waiting", status.waiting)
    yield Family.of("engine_slots", status.slots)
    yield Family.of("engine_tokens_per_second", status.tokens_per_s)
    yield Family.of("engine_computed_tokens", status.computed_tokens)
    yield Family.of("engine_cache_used_tokens", status.cache_used)
    yield Family.of("engine_cache_tokens", status.cache_total)
    yield Family.of("engine_memory_bytes", status.memory_bytes)
    yield Family.of("engine_gpu_memory_bytes", status.gpu_memory_bytes)
    yield Family.of("engine_restarts", status.restarts)


def _count_families(counts: Counts) -> Iterator[Family]:
    replies = tuple(({"kind": kind, "finish": finish}, float(n)) for (kind, finish), n in counts.replies.items())
    yield Family("replies_total", "counter", replies)
    yield Family.of("tokens_total", counts.tokens, "counter")
    refused = tuple(({"reason": reason}, float(n)) for reason, n in counts.refused.items())
    yield Family("refused_total", "counter", refused)


def _memory_families(machine: Hardware) -> Iterator[Family]:
    yield Family.of("ram_free_bytes", machine.ram_free or 0)
    yield Family.of("ram_bytes", machine.ram_total or 0)
    labels = [{"gpu": str(gpu.index), "name": gpu.name} for gpu in machine.gpus]
    for name, values in (
        ("gpu_free_bytes", [gpu.free_bytes for gpu in machine.gpus]),
        ("gpu_bytes", [gpu.total_bytes for gpu in machine.gpus]),
    ):
        pairs = zip(labels, values, strict=True)
        yield Family(name, "gauge", tuple((label, float(value)) for label, value in pairs if value is not None))


def _job_family(services: Services) -> Family:
    states = Counter(view.state for view in services.jobs.views())
    return Family("jobs", "gauge", tuple(({"state": one}, float(states[one])) for one in JobState))
