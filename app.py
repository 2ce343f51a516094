"""The one place that builds everything: flags, services, then a command, or guard + gateway + page on one port.

Knows how the parts fit together and nothing about what they do. Imports gradio only to serve the page, torch never.
"""

import argparse
import errno
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote

if importlib.util.find_spec("psutil") is None:  # the first of the packages that anything here needs
    # Before the catalogues can be read, so in English: the README's commands name the environment's own Python.
    sys.exit(
        f"cria: {sys.executable} has none of Cria's packages. Run .venv/bin/python app.py ..., as the README says."
    )

from backend.cli.parser import build_parser, engine_options, model_elsewhere, read_settings
from backend.engines.base import EngineOptions
from backend.errors import CriaError, MachineError, UsageError, unexpected
from backend.settings import Settings
from backend.text import say, tell

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from backend.services import Services
    from backend.sources.access import Access

USAGE, FAILED, INTERRUPTED = 2, 1, 130
SPEEDS_AFTER_S = 60.0


def prepare_folders(settings: Settings) -> None:
    """Make the data folder and prove that it can be written.

    Raises:
        MachineError: it cannot; the message names the folder and the system's reason.
    """
    try:
        for folder in (settings.data_dir, settings.models_dir, settings.jobs_dir, settings.logs_dir):
            folder.mkdir(parents=True, exist_ok=True)
        settings.temp_dir.mkdir(mode=0o700, exist_ok=True)
        probe = settings.temp_dir / f".write-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as problem:
        what = problem.strerror or str(problem)
        raise MachineError("cli.data_dir", folder=str(settings.data_dir), what=what) from problem


def build_services(settings: Settings, options: EngineOptions, access: "Access") -> "Services":
    """Build the one value that every edge gets. Starts nothing."""
    from backend.conversations import Conversations
    from backend.engines.line import Limits, Line
    from backend.engines.supervisor import Supervisor
    from backend.jobs.manager import JobManager
    from backend.services import Services

    return Services(
        settings=settings,
        jobs=JobManager(settings.data_dir, environment=access.to_environment()),
        engine=Supervisor(settings.logs_dir),
        line=Line(Limits(reply_s=settings.reply_s)),
        conversations=Conversations(settings.database),
        options=options,
        access=access,
    )


def build_app(services: "Services") -> "ASGIApp":
    """Join gateway and page on one FastAPI app and put the guard around both."""
    from fastapi import FastAPI

    from backend.api import build_api, build_metrics
    from backend.guard import Guard
    from ui.mount import mount_page

    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    web.include_router(build_metrics(services))
    web.include_router(build_api(services.engine, services.settings, services.line))
    mount_page(web, services)
    return Guard(web, services.settings, tally=services.line.tally)


def open_port(settings: Settings) -> socket.socket:
    """Bind the port before anything slow happens.

    Raises:
        MachineError: somebody has it; another port is suggested, never taken in silence.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen()  # now, so that a second start fails here and not after a long import
    except OSError as problem:
        listener.close()
        if problem.errno == errno.EADDRINUSE:
            raise MachineError("cli.port_taken", port=settings.port, other=settings.port % 65535 + 1) from problem
        what = problem.strerror or str(problem)
        raise MachineError("cli.port_refused", port=settings.port, what=what) from problem
    return listener


def address(settings: Settings) -> str:
    """Return where the page is."""
    name = socket.gethostname() if settings.listen else "localhost"
    return f"http://{name}:{settings.port}{settings.root_path}/"


def announce(settings: Settings) -> None:
    """Say where the page is, and on a shared server how the administrator gets in."""
    url = address(settings)
    print(say(settings.language, "cli.ready", url=url), flush=True)  # noqa: T201 - the one line a person waits for
    if settings.admin_token:
        text = say(settings.language, "cli.listen_admin")
        print(f"{text}\n  {url}?token={quote(settings.admin_token, safe='')}", flush=True)  # noqa: T201 - shown at start, as Jupyter does


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def serve(args: argparse.Namespace, services: "Services") -> int:
    """Serve the page until a signal comes; then end the engine. Returns 0."""
    listener = open_port(services.settings)
    import uvicorn

    from backend.engines.made import sweep_all
    from backend.guard.farewell import is_news
    from backend.jobs.presence import claim

    signal.signal(signal.SIGTERM, _leave)
    claimed = claim(services.settings.data_dir, address(services.settings))
    services = replace(services, other=claimed.other)
    try:
        services.conversations.settle()  # replies that a killed server left growing
        sweep_all(services.settings.models_dir)
        services.prospects.fitting.measure_memory()  # half a second, once: the page's first words depend on it
        app = build_app(services)
        config = uvicorn.Config(
            app,
            log_level="info" if services.settings.debug else "warning",
            access_log=False,
            timeout_graceful_shutdown=2,
            root_path=services.settings.root_path,
            server_header=False,
        )
        if args.model or services.options.engine == "remote":
            services.load(args.model, model_elsewhere(services.options, args.model))
        logging.getLogger("uvicorn.error").addFilter(is_news)
        announce(services.settings)
        # Once people have had their page: a second's work. At every start, for the best that was seen counts, and the
        # machine may have been busy the last time.
        measure = partial(services.prospects.measure_later, services.settings.models_dir, again=True)
        speeds = threading.Timer(SPEEDS_AFTER_S, measure)
        speeds.daemon = True
        speeds.start()
        if (notice := services.conversations.notice) is not None:
            print(tell(services.settings.language, notice), file=sys.stderr)  # noqa: T201
        if (other := services.other_server()) is not None:
            print(tell(services.settings.language, other), file=sys.stderr)  # noqa: T201
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        print(say(services.settings.language, "cli.stopping"), file=sys.stderr)  # noqa: T201
    finally:
        services.engine.close()
        listener.close()
        claimed.close()
    return 0


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Build the services and carry out the command, or serve the page."""
    prepare_folders(settings)
    if args.command is None:  # before the imports, which take many seconds from a cold disk
        print(say(settings.language, "cli.starting"), file=sys.stderr, flush=True)  # noqa: T201
    from backend.cli import bench, chat, commands, downloads, fit, jobs, models, recipes, setup
    from backend.cli.loras import with_loras
    from backend.sources.access import read_access

    access = read_access(os.environ, hub=args.hub or "", rate=args.max_download_rate)
    options = with_loras(engine_options(args), args.attach, settings.downloads_dir)
    services = build_services(settings, options, access)
    table = {
        "check": commands.check,
        "recipes": recipes.recipes,
        "models": models.models,
        "downloads": downloads.downloads,
        "jobs": jobs.jobs,
        "setup": setup.setup,
        "chat": chat.chat,
        "bench": bench.bench,
        "fit": fit.fit,
        None: serve,
    }
    return table[args.command](args, services)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run Cria; return the exit code: 0 done, 1 failed with a message, 2 wrong usage, 130 interrupted."""
    args = build_parser().parse_args(arguments)
    settings = read_settings(args, os.environ)
    logging.basicConfig(level=logging.INFO if settings.debug else logging.WARNING, format="%(levelname)s %(message)s")
    try:
        return run(args, settings)
    except CriaError as problem:
        if settings.debug:
            logging.exception("the reason for the message below")
        prefix = say(settings.language, "cli.error_prefix")
        print(prefix + problem.text(settings.language), file=sys.stderr)  # noqa: T201 - the edge of the program
        return USAGE if isinstance(problem, UsageError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        return FAILED
    except Exception as problem:  # the last edge: a person reads a sentence, --debug shows the rest
        if settings.debug:
            raise
        print(say(settings.language, "cli.error_prefix") + unexpected(problem).text(settings.language), file=sys.stderr)  # noqa: T201
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
