"""Chat in a terminal: one answer with ``--prompt``, else a conversation. Knows nothing about pages."""

import argparse
import asyncio
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from backend.cli import loras
from backend.cli.draw import bar
from backend.cli.parser import engine_options, model_elsewhere
from backend.engines.base import ChatMessage, EngineOptions, EngineState, EngineStatus, Finish, Lora, Sampling
from backend.engines.elsewhere import folder_of
from backend.engines.supervisor import Supervisor
from backend.errors import ContextFull, CriaError, UsageError
from backend.services import Services
from backend.text import say, tell

_POLL_S = 0.1
_COMMAND = re.compile(r"/[A-Za-z]+( .*)?")  # and no path, which a question may begin with
_LEAVE = frozenset(("/quit", "/exit", "/bye"))
_SHOWN = 40
_GONE = frozenset((EngineState.OFF, EngineState.STOPPING, EngineState.FAILED))
_ENDINGS = {Finish.LENGTH: "cli.chat.length", Finish.CONTEXT: "cli.chat.context", Finish.TIME: "hard.late"}


def _loading_line(status: EngineStatus, language: str) -> str:
    share = status.loaded_bytes / status.total_bytes if status.total_bytes else 0.0
    return f"{bar(share)} " + say(
        language, "cli.chat.loading", model=status.model, done=status.loaded_bytes, total=status.total_bytes
    )


def wait_until_ready(engine: Supervisor, language: str) -> EngineStatus:
    """Show the loading until the engine is ready.

    Raises:
        EngineError: it failed to load; the message has the reason.
    """
    live, said = sys.stderr.isatty(), None
    while (status := engine.status()).state is not EngineState.READY:
        if status.state is EngineState.FAILED and status.error is not None:
            raise status.error
        if status.note is not None and status.note != said:  # converting takes minutes where loading takes seconds
            said = status.note
            print(("\r\x1b[K" if live else "") + tell(language, said), file=sys.stderr)
        if live:
            sys.stderr.write("\r" + _loading_line(status, language) + "\x1b[K")
            sys.stderr.flush()
        time.sleep(_POLL_S)
    if live:
        sys.stderr.write("\r\x1b[K")
    if status.placement is not None:
        print(tell(language, status.placement), file=sys.stderr)
    if status.note is not None:
        print(tell(language, status.note), file=sys.stderr)
    if status.options.loras:
        print(loras.told(status.options.loras, Sampling(), language, key="attach.with"), file=sys.stderr)
    return status


def model_folder(name: str, options: EngineOptions, services: Services) -> Path:
    """Return the folder of a model to load.

    Raises:
        UsageError: no such model; where a recipe has that name, the message says how to make it.
    """
    try:
        return folder_of(services.settings.models_dir, name, options)
    except UsageError as problem:
        if problem.key == "library.unknown" and any(recipe.name == name for recipe in services.recipes()):
            raise UsageError("library.recipe_only", name=name) from problem
        raise


async def answer(engine: Supervisor, messages: Sequence[ChatMessage], sampling: Sampling, language: str) -> str:
    """Stream one reply to stdout; return its text. Ctrl-C stops it and keeps what was said."""
    text = ""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    pieces = aiter(engine.chat(messages, sampling))
    try:
        while not stop.is_set():
            following, stopped = asyncio.ensure_future(anext(pieces, None)), asyncio.ensure_future(stop.wait())
            await asyncio.wait((following, stopped), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not following.done():
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                break
            piece = following.result()
            if piece is None:
                break
            text += piece.text
            sys.stdout.write(piece.text)
            sys.stdout.flush()
            if piece.finish in _ENDINGS:
                print("\n" + say(language, _ENDINGS[piece.finish]), file=sys.stderr, end="")
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()
    print()
    return text


def _conversation(engine: Supervisor, system: str, sampling: Sampling, language: str) -> None:
    start = [ChatMessage("system", system)] if system else []
    messages = list(start)
    attached = engine.status().options.loras
    _help(attached, language)
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return
        if text == "/clear":
            messages = list(start)
            continue
        if not text:
            continue
        if attached and loras.is_command(text):
            sampling = _switch(text, attached, sampling, language)
            continue
        if text in _LEAVE:
            return
        if _COMMAND.fullmatch(text):
            if text != "/help":
                print(say(language, "cli.chat.no_command", text=text[:_SHOWN]), file=sys.stderr)
            _help(attached, language)
            continue
        messages.append(ChatMessage("user", text))
        try:
            reply = asyncio.run(answer(engine, messages, sampling, language))
            messages.append(ChatMessage("assistant", reply))
        except ContextFull as problem:
            messages.pop()
            print(problem.text(language) + "\n" + say(language, "cli.chat.clear_hint"), file=sys.stderr)
        except CriaError as problem:
            messages.pop()
            if engine.status().state in _GONE:
                raise
            print(problem.text(language), file=sys.stderr)


def _help(attached: Sequence[Lora], language: str) -> None:
    print(say(language, "cli.chat.intro"), file=sys.stderr)
    if attached:
        print(loras.usage(attached, language), file=sys.stderr)


def _switch(text: str, attached: Sequence[Lora], sampling: Sampling, language: str) -> Sampling:
    """Do what a line about adapters asks for, and say what is on now."""
    try:
        sampling = loras.switched(text, attached, sampling)
    except UsageError as problem:
        print(problem.text(language), file=sys.stderr)
    print(loras.told(attached, sampling, language), file=sys.stderr)
    return sampling


def chat(args: argparse.Namespace, services: Services) -> int:
    """Load a model and talk to it; return 0.

    Raises:
        UsageError: unknown model, empty prompt, or numbers out of range.
        EngineError, MachineError: it cannot be loaded or died.
    """
    if args.prompt is not None and not args.prompt.strip():
        raise UsageError("cli.chat.empty")
    if not 0 <= args.temperature <= 5 or args.max_new_tokens < 1:
        raise UsageError("cli.chat.numbers", temperature=args.temperature, tokens=args.max_new_tokens)
    language, settings = services.settings.language, services.settings
    options = model_elsewhere(engine_options(args), args.name)
    options = loras.with_loras(options, args.attach, settings.downloads_dir)
    folder = model_folder(args.name, options, services)
    sampling = Sampling(temperature=args.temperature, max_new_tokens=args.max_new_tokens)
    engine = Supervisor(settings.logs_dir)

    try:
        machine = services.hardware()
        engine.load(folder, options)
        services.prospects.fitting.expect(folder, options, machine)
        status = wait_until_ready(engine, language)
        if (forecast := services.forecast(status)) is not None:
            held = "fit.measured.gpu" if forecast.gpu else "fit.measured.ram"
            print(say(language, held, predicted=forecast.predicted, measured=forecast.measured), file=sys.stderr)
        if args.prompt is None:
            _conversation(engine, args.system, sampling, language)
        else:
            system = [ChatMessage("system", args.system)] if args.system else []
            asyncio.run(answer(engine, [*system, ChatMessage("user", args.prompt)], sampling, language))
    except KeyboardInterrupt:
        return 130
    finally:
        engine.close()
    return 0
