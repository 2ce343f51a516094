"""What the page lends to every tab: the tabs, the one place for notices, and the one way to bind an event.

``Shell.on`` is the only caller of gradio's event functions: it keeps every event private, runs the handler behind
``guarded`` and shows what went wrong. Knows nothing about what any tab shows.
"""

import inspect
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import wraps
from typing import Any

import gradio as gr

from backend.engines.base import EngineOptions
from backend.errors import CriaError, unexpected
from ui.access import for_everybody, is_admin, language
from ui.compat import page_load
from ui.render.notices import notice_html

SETUP_TAB, CHAT_TAB, MODELS_TAB = "setup", "chat", "models"
_LOG = logging.getLogger("cria.page")

# An older notice goes when something is pressed, not when that is answered: an answer that comes late would take away
# what another event has said meanwhile.
_PRESSED = "(...given) => {{ document.querySelector('#notice .notice')?.remove(); {then} return ({js})(...given); }}"
_AS_GIVEN = "(...given) => given"
# The button is looked up when it is pressed; a second press while it works does nothing.
_BUSY = "document.querySelector({selector})?.setAttribute('aria-busy', 'true');"
_IDLE = "() => {{ document.querySelector({selector})?.removeAttribute('aria-busy'); {then} }}"

Handler = Callable[..., Any]


@dataclass(frozen=True)
class Shell:
    """The page around the tabs. ``options`` are the engine options of the command line, the page's defaults."""

    tabs: gr.Tabs
    chat_tab: gr.Tab
    notice: gr.HTML
    options: EngineOptions

    def on(
        self,
        triggers: Any,
        fn: Handler,
        inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
        *,
        quiet: bool = False,
        busy: str = "",
        then: str = "",
        **settings: Any,
    ) -> Any:
        """Bind one handler to one or several triggers and return gradio's dependency.

        ``fn(request: gr.Request, *inputs)`` returns a value per output: a tuple when there are several, nothing when
        there is none. It may be async, or an async generator (then pass ``queue=True``). A ``CriaError`` it raises
        becomes the page's notice and leaves the outputs alone; ``quiet`` (for timers) only logs. ``triggers`` may be
        None (page load), a component's events, or the dependency that this one follows, however that ended.
        ``busy`` selects a button that shows that it works until the answer is there, ``then`` is a script that runs
        when it is. Unless ``quiet``, an older notice goes first; so of several events of one press all but one must be
        quiet, for gradio begins the second when the first is answered. ``settings`` go to gradio.
        """
        every = list(outputs) if quiet else [*outputs, self.notice]
        options = {"queue": False, "show_progress": "hidden", "api_visibility": "private", **settings}
        handler = guarded(fn, len(outputs), quiet=quiet)
        if not quiet and triggers is not None:
            works = _BUSY.format(selector=json.dumps(busy)) if busy else ""
            options["js"] = _PRESSED.format(then=works, js=options.get("js", _AS_GIVEN))
        if busy:
            event = gr.on(triggers, handler, list(inputs), every, **options)
            idle = _IDLE.format(selector=json.dumps(busy), then=then)
            return event.then(None, js=idle, queue=False, api_visibility="private")
        if triggers is None and inputs:
            triggers = page_load()
        if isinstance(triggers, gr.events.Dependency):
            return triggers.then(handler, list(inputs), every, **options)
        return gr.on(triggers, handler, list(inputs), every, **options)

    def stop_on(self, trigger: Any, running: Sequence[Any]) -> Any:
        """Cancel events that run in this page when ``trigger`` fires; what they compute stops."""
        return trigger(None, None, None, cancels=list(running), queue=False, api_visibility="private")


def open_tab(name: str) -> Any:
    """Return the update for ``Shell.tabs`` that brings a tab to the front."""
    return gr.Tabs(selected=name)


@dataclass(frozen=True)
class _Edge:
    """What a handler's results become on their way out: a value per output, then the notice unless it is quiet.

    Only trouble touches the notice.
    """

    name: str
    count: int
    quiet: bool

    def shown(self, result: Any) -> Any:
        """Return a handler's result."""
        values = [] if self.count == 0 else [result] if self.count == 1 else list(result)
        if len(values) != self.count:
            raise ValueError(f"{self.name} returned {len(values)} values for {self.count} outputs")
        return self._row(values, gr.skip())

    def failed(self, problem: Exception, arguments: Sequence[Any]) -> Any:
        """Leave the outputs as they are and say what went wrong; what nobody planned for also goes to the log."""
        known = problem if isinstance(problem, CriaError) else unexpected(problem)
        if known is not problem:
            _LOG.error("a handler failed: %s", self.name, exc_info=problem)
        request = next((one for one in arguments if isinstance(one, gr.Request)), None)
        shown = known if request and is_admin(request) else for_everybody(known)
        return self._row([gr.skip()] * self.count, notice_html(shown, language(request) if request else "en"))

    def _row(self, values: list[Any], notice: Any) -> Any:
        """gradio wants a bare value for one output and none for none."""
        row = values if self.quiet else [*values, notice]
        return None if not row else row[0] if len(row) == 1 else tuple(row)


def guarded(fn: Handler, count: int, *, quiet: bool = False) -> Handler:
    """Wrap a handler of ``count`` outputs so that nothing but values and one notice ever reaches the page."""
    edge = _Edge(fn.__qualname__, count, quiet)
    if inspect.isasyncgenfunction(fn):
        return _streaming(fn, edge)
    if inspect.iscoroutinefunction(fn):
        return _waiting(fn, edge)

    @wraps(fn)
    def plain(*arguments: Any, **named: Any) -> Any:
        try:
            return edge.shown(fn(*arguments, **named))
        except Exception as problem:  # noqa: BLE001 - the edge of the page: it must say something
            return edge.failed(problem, arguments)

    return plain


def _waiting(fn: Handler, edge: _Edge) -> Handler:
    @wraps(fn)
    async def waits(*arguments: Any, **named: Any) -> Any:
        try:
            return edge.shown(await fn(*arguments, **named))
        except Exception as problem:  # noqa: BLE001 - the edge of the page: it must say something
            return edge.failed(problem, arguments)

    return waits


def _streaming(fn: Handler, edge: _Edge) -> Handler:
    @wraps(fn)
    async def stream(*arguments: Any, **named: Any) -> AsyncIterator[Any]:
        try:
            async with aclosing(fn(*arguments, **named)) as running:
                async for result in running:
                    yield edge.shown(result)
        except Exception as problem:  # noqa: BLE001 - the edge of the page: it must say something
            yield edge.failed(problem, arguments)

    return stream
