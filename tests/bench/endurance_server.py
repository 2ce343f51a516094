"""What the endurance run puts under load: gateway, guard, queue and supervisor, without the page, in one process.

Arguments: a model folder, an engine, a folder for logs. Prints its port, then obeys lines on standard input:
``status`` prints one JSON line, ``reload`` loads the model again, ``unload`` unloads it, ``load`` loads and waits.
"""

import json
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import uvicorn
from fastapi import FastAPI

from backend.api import build_api
from backend.engines.base import EngineOptions
from backend.engines.line import Line
from backend.engines.supervisor import Supervisor
from backend.guard import Guard
from backend.settings import Settings

READY_S = 300.0


def parts(engine: int) -> dict[str, int]:
    """Return what this process, and the engine with the helpers it started, hold: bytes, open files and threads."""
    families = {"web": [psutil.Process()], "engine": []}
    with suppress(psutil.Error):
        families["engine"] = (
            [psutil.Process(engine), *psutil.Process(engine).children(recursive=True)] if engine else []
        )
    found = {}
    for name, family in families.items():
        for what, of in (("bytes", lambda one: one.memory_info().rss), ("files", psutil.Process.num_fds),
                         ("threads", psutil.Process.num_threads)):  # fmt: skip
            with suppress(psutil.Error):
                found[f"{name}_{what}"] = sum(map(of, family))
    return found


def main(model: Path, options: EngineOptions, data: Path) -> None:
    settings, engine, line = Settings(data_dir=data), Supervisor(data / "logs"), Line()
    engine.load(model, options)
    engine.wait_ready(READY_S)
    web = FastAPI()
    web.include_router(build_api(engine, settings, line))
    app = Guard(web, settings, tally=line.tally)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    for word in map(str.strip, sys.stdin):
        if word in {"reload", "load"}:
            engine.load(model, options)
        if word == "load":
            engine.wait_ready(READY_S)
        if word == "unload":
            engine.unload()
        status, counts = engine.status(), line.tally.counts()
        told = {
            "state": status.state, "active": status.active, "waiting": status.waiting + line.waiting,
            "restarts": status.restarts, "tokens": counts.tokens, "refused": counts.refused, "engine": status.pid,
            "parts": parts(status.pid), "children": len(psutil.Process().children(recursive=True)),
        }  # fmt: skip
        print(json.dumps(told), flush=True)
    server.should_exit = True
    thread.join()
    engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), EngineOptions(engine=sys.argv[2]), Path(sys.argv[3]))
