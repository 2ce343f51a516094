"""The two clients that the fault table compares, each in a process of its own: ``python -m tests.hub.clients WHO ...``.

Prints one line of JSON: where the files are, or what the error was, and the most memory the process had.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from backend.settings import ROOT

HUB, LOCAL_DIR, CRIA = "snapshot_download", "snapshot_download(local_dir)", "cria"
PATIENCE_S = 2  # without a byte, for both


def start(who: str, url: str, repository: str, folder: Path) -> subprocess.Popen[str]:
    """Start a client; huggingface_hub reads its environment when it is imported, so it gets it here."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()
    }
    given = {"HF_ENDPOINT": url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1",
             "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
             "HF_HUB_DOWNLOAD_TIMEOUT": str(PATIENCE_S), "HF_HUB_ETAG_TIMEOUT": str(PATIENCE_S)}  # fmt: skip
    command = [sys.executable, "-m", "tests.hub.clients", who, url, repository, str(folder)]
    return subprocess.Popen(
        command, cwd=ROOT, env=kept | given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def with_hub(repository: str, folder: Path, local: bool) -> str:
    """Let huggingface_hub fetch a repository, into a cache or into a plain folder."""
    from huggingface_hub import snapshot_download

    return str(snapshot_download(repository, **({"local_dir": folder / "out"} if local else {"cache_dir": folder})))


def with_cria(url: str, repository: str, folder: Path) -> str:
    """Let Cria fetch a repository."""
    from backend.sources.fetch import Options, fetch
    from backend.sources.hub import list_hub
    from backend.sources.spec import Repository
    from backend.sources.store import home

    listing = list_hub(Repository("hf", repository), endpoint=url)
    target = home(folder, listing)
    options = Options(window_s=PATIENCE_S, patience_s=30.0, retry_s=0.2)
    for _ in fetch(listing, target, options=options, cancelled=lambda: False):
        pass
    return str(target)


def main() -> None:
    """Fetch and say how it went."""
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=(HUB, LOCAL_DIR, CRIA))
    for name in ("url", "repository"):
        parser.add_argument(name)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    said: dict[str, object] = {}
    try:
        if given.who == CRIA:
            said["folder"] = with_cria(given.url, given.repository, given.folder)
        else:
            said["folder"] = with_hub(given.repository, given.folder, given.who == LOCAL_DIR)
    except Exception as problem:  # noqa: BLE001 - whatever it is, it is what the table shows
        said["error"] = getattr(problem, "key", "") or type(problem).__name__
    said["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(said))


if __name__ == "__main__":
    main()
