"""The command line: its words and how they become settings and options. Knows nothing about what a command does."""

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.engines import AUTO, ENGINES
from backend.engines.base import EngineOptions
from backend.errors import UsageError
from backend.recipes import DTYPES, LAYOUTS, RULES
from backend.settings import REPLY_S, ROOT, Settings, new_token
from backend.text import pick_language, say

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GiB|MiB|GB|MB|G|M)?", re.IGNORECASE)
_SERVER = re.compile(r"https?://[A-Za-z0-9.\-:\[\]]+/?")
_UNITS = {"gib": 1 << 30, "mib": 1 << 20, "gb": 10**9, "mb": 10**6, "g": 1 << 30, "m": 1 << 20}


def size_bytes(text: str) -> int:
    """Return bytes for ``20GB``, ``20GiB`` (also ``20G``), ``800MB``; a bare number means GiB, as older tools do.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(say("en", "cli.bad_size", text=text[:40]))
    return int(float(match[1]) * _UNITS[(match[2] or "gib").lower()])


def byte_rate(text: str) -> float:
    """Return bytes a second for ``20MB/s`` or ``20MB``.

    Raises:
        argparse.ArgumentTypeError: anything else, or nothing at all.
    """
    rate = size_bytes(text.strip().removesuffix("/s"))
    if rate <= 0:
        raise argparse.ArgumentTypeError(say("en", "cli.bad_size", text=text[:40]))
    return float(rate)


def _server(text: str) -> str:
    if not _SERVER.fullmatch(text):
        raise argparse.ArgumentTypeError(say("en", "cli.bad_hub", text=text[:80]))
    return text.rstrip("/")


def gpu_list(text: str) -> tuple[int, ...]:
    """Return GPU indices for ``0,1``.

    Raises:
        argparse.ArgumentTypeError: anything but distinct whole numbers with commas.
    """
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts) or len({int(part) for part in parts}) != len(parts):
        raise argparse.ArgumentTypeError(say("en", "cli.bad_gpus", text=text[:40]))
    return tuple(int(part) for part in parts)


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(say("en", "cli.bad_port", text=text[:40]))
    return int(text)


def _minutes(text: str) -> float:
    """Return seconds."""
    if not re.fullmatch(r"\d{1,5}(\.\d{1,3})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(say("en", "hard.bad_minutes", text=text[:40]))
    return 60 * float(text)


def _help(name: str) -> str:
    return say("en", f"cli.help.{name}").replace("%", "%%")


def _engine_flags(parser: argparse.ArgumentParser, *, command: bool = False) -> None:
    """Add the flags that say how to load a model. A command inherits what was given before its name."""
    group = parser.add_argument_group(say("en", "cli.help.engine_group"))
    group.add_argument("--engine", choices=(AUTO, *ENGINES), default=AUTO, help=_help("engine"))
    group.add_argument("--device", choices=("auto", "cuda", "cpu", "mps"), default="auto", help=_help("device"))
    bits = group.add_mutually_exclusive_group()
    bits.add_argument("--load-8bit", action="store_const", const=8, dest="bits", help=_help("load_8bit"))
    bits.add_argument("--load-4bit", action="store_const", const=4, dest="bits", help=_help("load_4bit"))
    group.add_argument("--keep-quantised", action="store_true", help=say("en", "quantised.help_keep"))
    group.add_argument("--num-gpus", type=int, default=0, metavar="N", help=_help("num_gpus"))
    group.add_argument("--gpus", type=gpu_list, default=(), metavar="0,1", help=_help("gpus"))
    group.add_argument("--max-gpu-memory", type=size_bytes, default=0, metavar="20GiB", help=_help("max_gpu_memory"))
    group.add_argument(
        "--dtype", choices=("auto", "float32", "float16", "bfloat16"), default="auto", help=_help("dtype")
    )
    group.add_argument("--context", type=int, default=0, metavar="TOKENS", help=_help("context"))
    idle, url, key = (say("en", f"remote.help.{name}") for name in ("idle", "url", "key_file"))
    group.add_argument("--idle-unload", type=int, default=0, metavar="MINUTES", help=idle)
    group.add_argument("--url", default="", metavar="URL", help=url)
    group.add_argument("--api-key-file", default="", metavar="FILE", help=key)
    lora = say("en", "attach.help")
    group.add_argument("--lora", action="append", default=[], metavar="FOLDER[=SCALE]", help=lora, dest="attach")
    if command:
        for action in group._group_actions:
            action.default = argparse.SUPPRESS


def _common_flags(parser: argparse.ArgumentParser, *, default: Any = argparse.SUPPRESS) -> None:
    parser.add_argument("--data-dir", type=Path, default=default, metavar="FOLDER", help=_help("data_dir"))
    parser.add_argument("--debug", action="store_true", default=default, help=_help("debug"))
    parser.add_argument("--hub", type=_server, default=default, metavar="URL", help=_help("hub"))
    parser.add_argument(
        "--max-download-rate", type=byte_rate, default=default, metavar="20MB/s", help=_help("max_download_rate")
    )


def _server_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", action="store_true", help=_help("listen"))
    parser.add_argument("--listen-port", "--port", type=_port, default=7860, metavar="PORT", help=_help("listen_port"))
    limit = say("en", "hard.reply_limit", minutes=round(REPLY_S / 60))
    parser.add_argument("--reply-limit", type=_minutes, default=REPLY_S, metavar="MINUTES", help=limit, dest="reply_s")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=_help("allow_host"))
    parser.add_argument("--admin-token", default="", metavar="TOKEN", help=_help("admin_token"))
    parser.add_argument("--api-key", default="", metavar="KEY", help=_help("api_key"))
    parser.add_argument("--root-path", default="", metavar="/PATH", help=_help("root_path"))
    parser.add_argument("--model", default="", metavar="NAME", help=_help("model"))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; without a command it describes the web app."""
    parser = argparse.ArgumentParser(prog="app.py", description=_help("app"))
    _server_flags(parser)
    _common_flags(parser, default=None)
    _engine_flags(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in ("check", "recipes", "models", "downloads", "jobs"):
        command = commands.add_parser(name, help=_help(name), description=_help(name))
        command.add_argument("--json", action="store_true", help=_help("json"))
        _common_flags(command)
        if name == "check":
            command.add_argument("--again", action="store_true", help=say("en", "fit.help.again"))
        if name == "recipes":
            _recipes_flags(command)
        if name == "models":
            _models_flags(command)
        if name == "jobs":
            _jobs_flags(command)
        if name == "downloads":
            which = command.add_mutually_exclusive_group()
            which.add_argument("--delete", metavar="NAME", help=_help("delete_download"))
            which.add_argument("--delete-unused", action="store_true", help=_help("delete_unused"))
    _fit_flags(commands, say("en", "fit.help.fit"))
    _setup_flags(commands.add_parser("setup", help=_help("setup"), description=_help("setup")))
    chat = commands.add_parser("chat", help=_help("chat"), description=_help("chat"))
    chat.add_argument("name", metavar="MODEL", help=_help("chat_model"))
    chat.add_argument("--prompt", metavar="TEXT", help=_help("prompt"))
    chat.add_argument("--system", default="", metavar="TEXT", help=_help("system"))
    chat.add_argument("--temperature", type=float, default=0.7, help=_help("temperature"))
    chat.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help=_help("max_new_tokens"))
    _common_flags(chat)
    _engine_flags(chat, command=True)
    _bench_flags(commands.add_parser("bench", help=say("en", "bench.help"), description=say("en", "bench.help")))
    return parser


def _recipes_flags(recipes: argparse.ArgumentParser) -> None:
    def words(name: str) -> str:
        return say("en", f"recipelist.help.{name}").replace("%", "%%")

    recipes.add_argument("words", nargs="*", metavar="WORDS", help=words("words"))
    recipes.add_argument("--fits", action="store_true", help=words("fits"))
    recipes.add_argument("--language", default="", metavar="zh", help=words("language"))
    recipes.add_argument("--size", default="", metavar="7B", help=words("size"))


def _jobs_flags(jobs: argparse.ArgumentParser) -> None:
    which = jobs.add_mutually_exclusive_group()
    for name in ("watch", "pause", "resume", "cancel", "delete"):
        which.add_argument(f"--{name}", metavar="ID", help=say("en", f"jobs.help.{name}"))


def _models_flags(models: argparse.ArgumentParser) -> None:
    def words(name: str) -> str:
        return say("en", f"models.help.{name}")

    which = models.add_mutually_exclusive_group()
    for name in ("verify", "repair", "undo", "export"):
        which.add_argument(f"--{name}", metavar="NAME", help=words(name))
    which.add_argument("--adopt", metavar="FILE", help=say("en", "ggufready.help_adopt"))
    which.add_argument("--drop-converted", metavar="NAME", help=say("en", "quantised.help_drop"))
    which.add_argument("--rename", nargs=2, metavar=("OLD", "NEW"), help=words("rename"))
    which.add_argument("--delete", metavar="NAME", help=_help("delete"))
    models.add_argument("--template", metavar="NAME", help=words("template"))
    models.add_argument("--name", metavar="NEW", help=words("name"))
    models.add_argument("--layout", choices=LAYOUTS, help=words("layout"))
    # Another place than the engine's option of that name, which may stand before the command.
    models.add_argument("--dtype", choices=DTYPES, dest="copy_dtype", help=words("dtype"))
    models.add_argument("--lora", action="append", default=[], metavar="SRC[:SCALE]", help=words("lora"))


def _fit_flags(commands: Any, what: str) -> None:
    fit = commands.add_parser("fit", help=what, description=what)
    fit.add_argument("name", metavar="NAME", help=say("en", "fit.help.name"))
    fit.add_argument("--json", action="store_true", help=_help("json"))
    _common_flags(fit)
    _engine_flags(fit, command=True)


def _setup_flags(setup: argparse.ArgumentParser) -> None:
    setup.add_argument("recipe", nargs="?", metavar="RECIPE", help=_help("setup_recipe"))
    setup.add_argument("--base", metavar="SRC", help=_help("base"))
    setup.add_argument("--delta", metavar="SRC", help=_help("delta"))
    setup.add_argument("--lora", action="append", default=[], metavar="SRC[:SCALE]", help=_help("lora"))
    setup.add_argument("--name", metavar="NAME", help=_help("name"))
    setup.add_argument("--template", metavar="NAME", help=_help("template"))
    setup.add_argument("--delta-rule", choices=RULES, default="auto", help=_help("delta_rule"))
    setup.add_argument("--dtype", choices=("source", *DTYPES), dest="copy_dtype", help=_help("output_dtype"))
    setup.add_argument("--layout", choices=LAYOUTS, help=_help("layout"))
    setup.add_argument("--dry-run", action="store_true", help=_help("dry_run"))
    setup.add_argument("--no-self-test", action="store_true", help=_help("no_self_test"))
    setup.add_argument("--no-keep-sources", action="store_true", help=say("en", "lean.help"))
    setup.add_argument("--json", action="store_true", help=_help("json"))
    _common_flags(setup)


def _bench_flags(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("name", metavar="MODEL", help=_help("chat_model"))
    bench.add_argument("--json", action="store_true", help=say("en", "bench.help_json"))
    _common_flags(bench)
    _engine_flags(bench, command=True)


def engine_options(args: argparse.Namespace) -> EngineOptions:
    """Return the engine options that the flags ask for.

    Raises:
        UsageError: a number that makes no sense by itself (what fits this machine is checked at load).
    """
    if args.num_gpus < 0:
        raise UsageError("cli.negative", flag="--num-gpus", value=args.num_gpus)
    if args.idle_unload < 0:
        raise UsageError("cli.negative", flag="--idle-unload", value=args.idle_unload)
    if args.context < 0:
        raise UsageError("cli.negative", flag="--context", value=args.context)
    return EngineOptions(
        engine=args.engine,
        device=args.device,
        bits=args.bits or 16,
        num_gpus=args.num_gpus,
        gpus=args.gpus,
        max_gpu_memory=args.max_gpu_memory,
        dtype=args.dtype,
        context=args.context,
        idle_minutes=args.idle_unload,
        url=args.url,
        key_file=args.api_key_file,
        keep_quantised=args.keep_quantised,
    )


def model_elsewhere(options: EngineOptions, name: str) -> EngineOptions:
    """Return options that say which model a server elsewhere should use; ``-`` or nothing: the first it offers."""
    return replace(options, remote_model="" if name == "-" else name) if options.engine == "remote" else options


def read_settings(args: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Return this run's settings. ``--listen`` without ``--admin-token`` makes a token; localhost asks for none."""
    locale = environment.get("LC_ALL") or environment.get("LC_MESSAGES") or environment.get("LANG")
    listen = bool(getattr(args, "listen", False))
    data_dir = args.data_dir or (Path(environment["CRIA_DATA_DIR"]) if environment.get("CRIA_DATA_DIR") else None)
    return Settings(
        data_dir=(data_dir or ROOT / "data").expanduser().resolve(),
        listen=listen,
        port=args.listen_port,
        allow_hosts=tuple(args.allow_host),
        admin_token=args.admin_token or environment.get("CRIA_ADMIN_TOKEN", "") or (new_token() if listen else ""),
        api_key=args.api_key or environment.get("CRIA_API_KEY", ""),
        root_path=args.root_path.rstrip("/"),
        language=pick_language(None, locale),
        debug=bool(args.debug),
        reply_s=args.reply_s,
    )
