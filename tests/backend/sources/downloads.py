"""What the tests of downloads share: a hub with one repository, and fetching it quickly."""

from collections.abc import Callable, Sequence
from pathlib import Path

from backend.events import Log, Progress
from backend.sources import store
from backend.sources.fetch import Options, fetch
from backend.sources.listing import Listing, RemoteFile, hub_url
from tests.hub.content import Content, Generated
from tests.hub.repository import is_lfs
from tests.hub.server import Hub

NAME = "cria/model"
WEIGHTS, SECOND = "model-1.safetensors", "model-2.safetensors"
FILES: dict[str, Content | bytes] = {
    "config.json": b'{"model_type": "llama"}',
    WEIGHTS: Generated(9_000_000, 1),
    SECOND: Generated(5_000_001, 2),
}
QUICK = Options(retry_s=0.01, window_s=1.0, patience_s=8.0, proxies={})


def never() -> bool:
    return False


def listed(hub: Hub, name: str = NAME, revision: str = "main") -> Listing:
    """Return a listing without asking the hub, so that a test's log and faults are about the fetch only."""
    repository = hub.repositories[name]
    commit = repository.commit(revision)
    assert commit is not None
    files = []
    for path, content in sorted(repository.files(commit).items()):
        sums = {"sha256": content.sha256} if is_lfs(path, content) else {"git_sha1": content.git_sha1}
        files.append(RemoteFile(path, content.size, hub_url(hub.url, name, commit, path), **sums))
    return Listing("hf", name, commit, hub.url, tuple(files))


def run(
    listing: Listing,
    folder: Path,
    *,
    options: Options = QUICK,
    others: Sequence[Listing] = (),
    cancelled: Callable[[], bool] = never,
) -> list[Progress | Log]:
    """Fetch to the end and return what was told."""
    return list(fetch(listing, folder, options=options, others=others, cancelled=cancelled))


def logged(events: Sequence[Progress | Log]) -> list[str]:
    """Return the keys of what was logged."""
    return [event.message.key for event in events if isinstance(event, Log)]


def assert_right(hub: Hub, listing: Listing, folder: Path) -> None:
    """Make sure that the folder holds the listing's files bit by bit, and nothing else."""
    for path, content in hub.repositories[listing.repository].files(listing.revision).items():
        assert (folder / path).read_bytes() == content.read(), path
    assert {path.name for path in folder.iterdir()} == {file.name for file in listing.files} | {store.MANIFEST}
    assert store.is_complete(folder, listing)
