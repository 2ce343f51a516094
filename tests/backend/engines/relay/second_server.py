"""Another Cria without its page: gateway and guard over the echo engine. Prints its port; ends with its standard input.

Arguments: a folder for everything, and the API key.
"""

import sys
import threading
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from backend.api import build_api
from backend.engines.base import EngineOptions
from backend.engines.supervisor import Supervisor
from backend.guard import Guard
from backend.settings import Settings

folder = Path(sys.argv[1])
model = folder / "parrot"
model.mkdir()
(model / "cria.json").write_text('{"echo": {"words_per_s": 300}}')
settings = Settings(data_dir=folder, api_key=sys.argv[2])
engine = Supervisor(folder / "logs")
engine.load(model, EngineOptions(engine="echo"))
engine.wait_ready(120)
web = FastAPI()
web.include_router(build_api(engine, settings))
server = uvicorn.Server(uvicorn.Config(Guard(web, settings), port=0, log_level="error", timeout_graceful_shutdown=1))
thread = threading.Thread(target=server.run)
thread.start()
while not server.started:
    thread.join(0.01)
print(server.servers[0].sockets[0].getsockname()[1], flush=True)
sys.stdin.read()
server.should_exit = True
thread.join()
engine.close()
