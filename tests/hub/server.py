"""The stand-in hub: what it serves, what goes wrong with it, and what it was asked.

Listens on the loopback interface only, as two origins: ``127.0.0.1`` is the hub, ``localhost`` the CDN.
"""

from collections.abc import Callable
from email.utils import formatdate
from fnmatch import fnmatchcase
from threading import Event, Thread
from urllib.parse import quote

from tests.hub import huggingface, modelscope
from tests.hub.answer import Answer, Request, as_file, whole
from tests.hub.content import Content, Literal
from tests.hub.faults import Injector, Rule
from tests.hub.repository import MAIN, Files, Repository
from tests.hub.transport import Entry, Pace, Server


class Hub:
    """A stand-in for the hub, ModelScope and a plain web server, from ``with`` to the end of its block."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        rate: float = 0.0,
        page: int = 1000,
        seen: Callable[[Entry], None] = lambda entry: None,
    ) -> None:
        self.repositories: dict[str, Repository] = {}
        self.plain: dict[str, Content] = {}
        self.tokens: dict[str, bool] = {}  # token -> whether it was granted the gated repositories
        self.page = page  # entries of a page of a tree
        self.log: list[Entry] = []
        self.defects: list[BaseException] = []  # of the stand-in itself; they are raised when it ends
        self.pace = Pace(rate) if rate else None  # of all answers together
        self.stopped = Event()
        self.seen = seen  # called with every request when it has been answered
        self.rules: list[Rule] = []
        self._injector, self._host = Injector(self.rules), host
        self._server = Server((host, port), self)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def port(self) -> int:
        """The port of both origins."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The hub's own address, without a slash at its end: what HF_ENDPOINT should be."""
        return f"http://{self._host}:{self.port}"

    @property
    def cdn(self) -> str:
        """The origin that LFS files come from."""
        return f"http://localhost:{self.port}" if self._host == "127.0.0.1" else self.url

    def add(self, name: str, files: Files, *, revision: str = MAIN, gated: bool = False) -> Repository:
        """Publish files as ``owner/name``; more revisions of it come by the repository's ``publish``."""
        repository = self.repositories.setdefault(name, Repository(name, gated))
        repository.publish(files, revision)
        return repository

    def serve(self, name: str, content: Content | bytes) -> str:
        """Publish one file that belongs to no repository, and return its address."""
        self.plain[name] = Literal(content) if isinstance(content, bytes) else content
        return f"{self.url}/files/{quote(name)}"

    def fault(self, fault: str, value: object = "", **where: object) -> Rule:
        """Add a rule; the names of its fields and faults are in ``faults``."""
        rule = Rule(fault, str(value), **where)  # type: ignore[arg-type]
        self.rules.append(rule)
        return rule

    def mend(self) -> None:
        """Forget all rules and the log."""
        self.rules.clear()
        self.log.clear()

    def asked(self, path: str = "*", *, kind: str = "*") -> list[Entry]:
        """Return the requests whose target matches a pattern."""
        return [entry for entry in self.log if fnmatchcase(entry.target, path) and fnmatchcase(entry.kind, kind)]

    def sent(self, path: str = "*") -> int:
        """Return how many bytes of files went out for a pattern."""
        return sum(entry.sent for entry in self.asked(path, kind="file"))

    def answer(self, request: Request) -> tuple[Answer, tuple[str, ...]]:
        """Return the answer to a request, spoiled as the rules have it, and the names of the faults."""
        right = huggingface.answer(self, request) or modelscope.answer(self, request) or self._plain(request)
        answer, faults = self._injector.spoil(request, right)
        if "move" in faults:
            for repository in self.repositories.values():
                if f"/{repository.name}/" in request.target:
                    repository.move()
        return answer, faults

    def _plain(self, request: Request) -> Answer:
        content = self.plain.get("/".join(request.parts[1:])) if request.parts[0] == "files" else None
        if content is None:
            return whole("none", 404, b"Not found\n", {"Content-Type": "text/plain"})
        since = {"Last-Modified": formatdate(1_680_000_000, usegmt=True)}
        return as_file(request, content, f'"{content.sha256[:32]}"', since)

    def __enter__(self) -> "Hub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()  # waits for the threads
        self._thread.join()
        if self.defects:
            raise self.defects[0]
