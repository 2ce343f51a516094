"""Every event of the Models tab: which button does what. Knows nothing about how anything is drawn.

Whatever changes the machine asks ``require_admin`` first, in the handler: a hidden button protects nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import Any

import gradio as gr

from backend.errors import CriaError, UsageError
from backend.fit.result import Outlook
from backend.jobs.shelf import Shelf, Shelved
from backend.services import Services
from backend.text import say
from ui.access import is_admin, language, require_admin
from ui.render.markup import remark
from ui.render.models import Look, checks_list, models_list
from ui.shell import CHAT_TAB, SETUP_TAB, Shell, open_tab
from ui.views.models import FAST_S, SLOW_S, ModelsView
from ui.wiring.models_form import ENDINGS, form_outputs, open_form
from ui.wiring.setup import SetupHandlers
from ui.wiring.setup_place import Press
from ui.wiring.setup_screen import Updates


@dataclass(frozen=True)
class Asked:
    """A button pressed on a model's card, in one language."""

    shelf: Shelf
    found: Shelved
    press: Press
    language: str

    def tell(self, key: str, **values: Any) -> str:
        """Return a sentence about what was done, for everybody to read."""
        return remark(say(self.language, f"models.mended.{key}", **values))


def _rename(asked: Asked) -> str:
    new, old = asked.press.text("name"), asked.found.info.name
    asked.shelf.rename(asked.found.info.id, new)
    return asked.tell("renamed", old=old, new=new)


def _delete(asked: Asked) -> str:
    asked.shelf.delete(asked.found.info.id)
    return asked.tell("deleted", name=asked.found.info.name)


def _repair(asked: Asked) -> str:
    asked.shelf.repair(asked.found.info.id, template=asked.press.text("template") or None)
    return asked.tell("done", name=asked.found.info.name)


def _undo(asked: Asked) -> str:
    asked.shelf.undo(asked.found.info.id)
    return asked.tell("undone", name=asked.found.info.name)


def _drop(asked: Asked) -> str:
    freed = asked.shelf.drop(asked.found.info.id)
    return remark(say(asked.language, "quantised.dropped", name=asked.found.info.name, bytes=freed))


def _check(asked: Asked) -> str:
    asked.shelf.check(asked.found.info.id)
    return ""


def _stop(asked: Asked) -> str:
    asked.shelf.cancel_check(asked.found.info.id)
    return ""


CHANGING: Mapping[str, Callable[[Asked], str]] = {
    "rename": _rename, "delete": _delete, "repair": _repair, "undo": _undo, "drop": _drop, "check": _check,
    "stop": _stop,
}  # fmt: skip


class ModelsHandlers:
    """The tab's event handlers. ``shown`` are the tab's own components, ``outputs`` all that a button may change."""

    def __init__(self, view: ModelsView, services: Services, shell: Shell, setup: SetupHandlers) -> None:
        self.view, self.services, self.shell, self.setup = view, services, shell, setup
        self.shown = [view.said, view.checks, view.shelf, view.seen, view.timer]
        self.outputs = list(dict.fromkeys([*self.shown, *form_outputs(setup.view), *setup.outputs]))

    def _row(self, updates: Updates, outputs: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(updates.get(component, gr.skip()) for component in outputs)

    def tick(self, request: gr.Request, seen: str) -> tuple[Any, ...]:
        """Draw what changed since this browser looked last."""
        return self._row(self._changed(request, seen), self.shown)

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Draw the tab when somebody comes to it."""
        return self._row({**self._changed(request, ""), self.view.said: ""}, self.shown)

    def press(self, request: gr.Request, event: gr.EventData, seen: str) -> tuple[Any, ...]:
        """Do what a button on a card says."""
        press = Press.read(event)
        if press.act == "setup":
            return self._row({self.shell.tabs: open_tab(SETUP_TAB)}, self.outputs)
        if press.act == "chat":
            return self._row({self.shell.tabs: open_tab(CHAT_TAB)}, self.outputs)
        require_admin(request)
        return self._row(self._act(request, press, seen), self.outputs)

    def _act(self, request: gr.Request, press: Press, seen: str) -> Updates:
        if press.act == "adopt":
            return self._adopt(request, press, seen)
        try:
            found = self.services.shelf.find(press.name)
        except UsageError as error:  # another page was faster
            raise CriaError("models.gone") from error
        if press.act in ENDINGS:
            return open_form(press.act, found, self.setup.view, self.setup.screen(request), self.shell)
        if press.act == "load":
            self._load(found.info.name)
            return {self.shell.tabs: open_tab(CHAT_TAB)}
        if press.act == "unload":
            self.services.engine.unload()
            return {**self._changed(request, seen), self.view.said: ""}
        if press.act not in CHANGING:
            return {}
        told = CHANGING[press.act](Asked(self.services.shelf, found, press, language(request)))
        return {**self._changed(request, seen), self.view.said: told}

    def _adopt(self, request: gr.Request, press: Press, seen: str) -> Updates:
        """Put a ready-made GGUF file on the shelf; copying one takes long, and belongs into the terminal."""
        steps = list(self.services.shelf.adopt(press.text("given"), press.text("name"), may_copy=False))
        words = language(request)
        told = remark(say(words, "ggufready.on_shelf", name=str(steps[-1])))
        return {**self._changed(request, seen), self.view.said: told}

    def _load(self, model: str) -> None:
        """Load a model as the command line says, and as fits best where that says nothing."""
        self.services.load(model, self.services.best_options(model))

    def _changed(self, request: gr.Request, seen: str) -> Updates:
        """Return the parts that differ from what this browser has ``seen``, and the pace at which to ask again."""
        shelf, admin, words = self.services.shelf.shelved(), is_admin(request), language(request)
        folder = str(self.services.settings.models_dir) if admin else ""
        look = Look(words, admin, folder, self.services.templates())
        checks = checks_list(shelf, look)
        marks = [_mark(checks), _mark(words, admin, *map(_shown, shelf))]
        old = seen.split(" ")
        updates: Updates = {}
        if old[0] != marks[0]:
            updates[self.view.checks] = checks
        if old[1:] != marks[1:]:
            fits = {one.info.name: self._outlook(one) for one in shelf}
            outlooks = {name: outlook for name, outlook in fits.items() if outlook is not None}
            updates[self.view.shelf] = models_list(shelf, Look(words, admin, folder, look.templates, outlooks))
        if updates:
            busy = any(one.is_checking or one.found is None for one in shelf)
            updates |= {self.view.seen: " ".join(marks)}
            updates |= {self.view.timer: gr.Timer(FAST_S if busy else SLOW_S, active=True)}
        return updates

    def _outlook(self, shelved: Shelved) -> Outlook | None:
        """Return how a model would run here, where that can be told."""
        try:
            return None if shelved.info.problem else self.services.outlook(shelved.info)
        except CriaError:
            return None


def _shown(one: Shelved) -> str:
    """Return what of a model its card shows; how far a check is stands elsewhere."""
    check = (one.check.state, one.check.error and one.check.error.key) if one.check else None
    return ascii((one.info, one.found, check, one.users, one.is_loaded))


def _mark(*parts: object) -> str:
    return blake2s("\n".join(map(str, parts)).encode("utf-8", "replace"), digest_size=6).hexdigest()


def bind_models(view: ModelsView, tab: gr.Tab, services: Services, shell: Shell, setup: SetupHandlers) -> None:
    """Bind every event of the tab. Call it inside the open ``gr.Blocks``."""
    handlers = ModelsHandlers(view, services, shell, setup)
    shell.on(tab.select, handlers.open, (), handlers.shown)
    shell.on(view.timer.tick, handlers.tick, (view.seen,), handlers.shown, quiet=True)
    pressed = [view.shelf.click, view.checks.click]
    then = "window.cria.filled()"
    shell.on(pressed, handlers.press, (view.seen,), handlers.outputs, busy="[data-pressed]", then=then)
