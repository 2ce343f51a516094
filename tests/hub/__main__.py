"""The stand-in hub by hand: ``python -m tests.hub --rate 2MB/s``. Serves until Ctrl-C and shows requests."""

import argparse
import sys
from pathlib import Path

from tests.hub.family import DEMO, demo, local, random_model, zipped
from tests.hub.faults import FAULTS, Rule, amount, parse
from tests.hub.server import Hub
from tests.hub.transport import Entry

GATED, TOKEN, STRANGER = "cria/demo-gated", "hf_granted", "hf_stranger"


def rule(text: str) -> Rule:
    """Read a rule; argparse shows what is wrong with it."""
    try:
        return parse(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from problem


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.hub",
        description="A stand-in for the Hugging Face hub, ModelScope and a plain web server, on this machine only.",
        epilog=f"Faults: {', '.join(FAULTS)}. What each means and more examples: docs/downloads.md",
    )
    parser.add_argument("--port", type=int, default=8990)
    parser.add_argument("--folder", type=Path, action="append", default=[], help="serve its subfolders as local/NAME")
    parser.add_argument("--random", type=amount, default=0, metavar="2GB", help="serve a random base and delta")
    parser.add_argument("--rate", type=amount, default=0, metavar="20MB/s", help="of all downloads together")
    parser.add_argument("--page", type=int, default=1000, help="entries of a page of a file list")
    parser.add_argument("--fault", type=rule, action="append", default=[], metavar="'cut after=1MB path=*.bin times=2'")
    return parser


def fill(hub: Hub, folders: list[Path], size: int) -> None:
    """Publish what there is to serve."""
    for member in DEMO:
        hub.add(f"cria/demo-{member}", demo(member))
    hub.add(GATED, demo("base"), gated=True)
    hub.tokens |= {TOKEN: True, STRANGER: False}
    hub.serve("demo-lora.zip", zipped("lora"))
    for folder in folders:
        for name, files in local(folder):
            hub.add(name, files)
    if size:
        hub.add("cria/random-base", random_model(size))
        hub.add("cria/random-delta", random_model(size, is_delta=True))


def show(hub: Hub) -> None:
    """Say what is served and what to type."""
    for repository in hub.repositories.values():
        files = repository.files().values()
        print(
            f"  {repository.name:24} {sum(file.size for file in files) / 1e6:10.1f} MB in {len(files)} files",
            flush=True,
        )
        for file in files:
            _ = file.sha256  # now, so that no client waits for it
    print(f"  {hub.url}/files/demo-lora.zip\nType in another terminal:\n")
    print(
        f"  HF_ENDPOINT={hub.url} python app.py setup --base cria/demo-base --delta cria/demo-delta --name downloaded"
    )
    if "cria/random-base" in hub.repositories:
        rest = "--base cria/random-base --delta cria/random-delta --name random --no-self-test"
        print(f"  HF_ENDPOINT={hub.url} python app.py setup {rest}")
    print(f"\n{GATED} wants the token {TOKEN}; {STRANGER} is known and refused. Ctrl-C ends.\n", flush=True)


def tell(entry: Entry) -> None:
    """Show a request that has been answered."""
    print(entry, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted."""
    given = options().parse_args(arguments)
    with Hub(port=given.port, rate=given.rate, page=given.page, seen=tell) as hub:
        fill(hub, given.folder, given.random)
        hub.rules += given.fault
        show(hub)
        try:
            hub.stopped.wait()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
