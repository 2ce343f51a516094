"""Reads rendered HTML the way a browser does, strictly: every tag closed in order, text unescaped."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"br", "hr", "img", "input", "meta"}


@dataclass
class Element:
    """One element: its tag, attributes, and all text inside it."""

    tag: str
    attributes: dict[str, str]
    words: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def __getitem__(self, name: str) -> str:
        return self.attributes[name]


class Page(HTMLParser):
    """All elements of a piece of HTML, in order; fails on a tag that is not closed in its place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.every: list[Element] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()
        assert not self._open, f"not closed: {[one.tag for one in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.every.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"closed but never opened: {tag}"
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.words.append(data)

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """Return elements by tag and attributes; ``cls`` is one class, underscores stand for hyphens."""

        def fits(one: Element) -> bool:
            wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
            cls = wanted.pop("cls", "")
            return (
                (not tag or one.tag == tag)
                and (not cls or cls in one.attributes.get("class", "").split())
                and all(one.attributes.get(name) == value for name, value in wanted.items())
            )

        return [one for one in self.every if fits(one)]

    def one(self, tag: str = "", **attributes: str) -> Element:
        found = self.all(tag, **attributes)
        assert len(found) == 1, f"{len(found)} elements of {tag} {attributes}"
        return found[0]

    def facts(self) -> dict[str, str]:
        """Return term -> text of every description list."""
        terms, values = self.all("dt"), self.all("dd")
        return {term.text: value.text for term, value in zip(terms, values, strict=True)}

    def acts(self) -> list[tuple[str, str]]:
        """Return what every button would report; those that only the browser heeds report nothing."""
        return [(one["data-do"], one["data-name"]) for one in self.all("button") if "data-do" in one.attributes]
