"""Where the ingredients of a recipe are: on this machine, on the network, or, if nobody is asked, as the recipe says.

An ingredient that cannot be had is looked for in its other places, in the recipe's order. Knows nothing about steps,
or about the network: who asks it is given as a function.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from backend.errors import SourceError
from backend.recipes import ADAPTER, META, Part
from backend.sources.folder import open_source
from backend.sources.pinned import Pinned, is_remote
from backend.sources.remote import is_nobody_there
from backend.sources.source import Source, SourceFile
from backend.sources.spec import Repository, parse
from backend.text import Message, say, tell

ADAPTER_CONFIG = "adapter_config.json"
_CONFIGS = {META: "params.json", ADAPTER: ADAPTER_CONFIG, "huggingface": "config.json"}
_USUAL_FILE = 10_000_000_000  # bytes; what transformers cut files at in the days of LLaMA
_GATES = ("download.gated", "download.gated_token")
Find = Callable[[str], Pinned | None]
Admit = Callable[[Pinned], None]
Stored = Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class Instead:
    """An ingredient that could not be had where the recipe says, where it comes from now, and why."""

    wanted: str
    used: str
    why: Message

    def text(self, language: str) -> str:
        """Return it as a sentence."""
        return say(language, "plan.shown.instead", wanted=self.wanted, used=self.used, why=tell(language, self.why))

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Instead":
        """Build one from its dictionary."""
        return Instead(str(data["wanted"]), str(data["used"]), Message.from_json(data["why"]))


class Finder(Protocol):
    """Opens ingredients. ``coming`` has the bytes to be fetched of each that is not on this machine, by its spec."""

    coming: dict[str, int]

    def open(self, part: Part) -> Source:
        """Return an ingredient's source.

        Raises:
            SourceError: it cannot be had anywhere.
        """
        ...


@dataclass
class Asked:
    """Ingredients as they are: here, or as the network tells. ``admit`` raises if a server only lists what it has."""

    find: Find
    downloads: Path
    admit: Admit
    coming: dict[str, int] = field(default_factory=dict)
    remotes: list[Pinned] = field(default_factory=list)
    instead: list[Instead] = field(default_factory=list)

    def open(self, part: Part) -> Source:
        """Return the first of an ingredient's places that has it. A licence that has to be accepted is not got round.

        Raises:
            SourceError: none has; what the first one said, which is the one that people know.
        """
        first: SourceError | None = None
        silent: set[str] = set()
        for spec in part.candidates:
            if (kind := _kind(spec)) in silent:
                continue  # the same servers
            try:
                found = self._open(spec, part)
            except SourceError as problem:
                if part.access and problem.key in _GATES:
                    raise _licence_first(part) from problem
                first = first or problem
                if kind and is_nobody_there(problem):
                    silent.add(kind)
            else:
                if first is not None:
                    self.instead.append(Instead(part.source, spec, first.message))
                return found
        raise first or SourceError("sources.missing", source=part.source)

    def _open(self, spec: str, part: Part) -> Source:
        pinned = self.find(spec)
        if pinned is None:
            return open_source(spec)
        check_published(pinned, part)
        if missing := pinned.missing_bytes(self.downloads):
            self.admit(pinned)
        self.remotes.append(pinned)
        self.coming[spec] = missing
        return pinned.source(self.downloads)


@dataclass
class Estimated:
    """Ingredients as the recipe describes them, where they are not on this machine; nobody is asked.

    ``stored``: bytes of earlier downloads, by kind and repository; whether of the same version, only a server can tell.
    """

    stored: Stored = field(default_factory=dict)
    coming: dict[str, int] = field(default_factory=dict)

    def open(self, part: Part) -> Source:
        """Return a stand-in with the recipe's figures for what is elsewhere.

        Raises:
            SourceError: it is not here, and the recipe does not say how large it is.
        """
        if not is_remote(part.source):
            return open_source(part.source)
        if part.bytes is None:
            raise SourceError("plan.no_figures", source=part.source)
        self.coming[part.source] = max(0, part.bytes - max(map(self._there, part.candidates)))
        files = (SourceFile(_CONFIGS[part.layout], 0), *_usual_files(part.bytes, whole=part.layout != "huggingface"))
        return Source(part.source, Path(), files)

    def _there(self, spec: str) -> int:
        wanted = parse(spec)
        return self.stored.get((wanted.kind, wanted.name), 0) if isinstance(wanted, Repository) else 0


def _licence_first(part: Part) -> SourceError:
    others = ", ".join(spec for spec in part.candidates if spec != part.source)
    key = "plan.licence_first" if others else "plan.licence_only"
    return SourceError(key, source=part.source, page=part.access, others=others)


def _usual_files(size: int, *, whole: bool) -> Iterator[SourceFile]:
    """Yield the files that so many bytes of weights are usually published in; ``whole``: all in one."""
    count = 1 if whole else -(-size // _USUAL_FILE)
    for number in range(count):
        name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        yield SourceFile(name, min(_USUAL_FILE, size - number * _USUAL_FILE) if count > 1 else size)


def check_published(pinned: Pinned, part: Part) -> None:
    """Compare what a server lists with the sums that were published, where it has a sum for the same file.

    Raises:
        SourceError: a file of that name is another one.
    """
    for file in pinned.listing.files:
        want = part.sha256.get(file.name)
        if want and file.sha256 and file.sha256 != want:
            sums = {"have": file.sha256[:12], "want": want[:12]}
            raise SourceError("recipes.other_bytes", source=pinned.spec, file=file.name, **sums)


def _kind(spec: str) -> str:
    """Return which servers are asked about a source; empty for one that no other shares."""
    wanted = parse(spec)
    return f"{wanted.kind} {wanted.endpoint}" if isinstance(wanted, Repository) else ""
