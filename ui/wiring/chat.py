"""The conversation's events: send, stop, regenerate, undo, clear, edit, show earlier, and coming back after a reload.

The conversation itself is on the server and never an input: a page says what it wants, not what was said. Knows
nothing about how models are loaded (``ui.wiring.model``).
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from backend.conversations import Conversation, StoredMessage
from backend.engines.base import Sampling
from backend.errors import UsageError
from backend.replies import reply, require_ready
from backend.services import Services
from ui.access import language, owner, place
from ui.render.chat import WAITING, bubble, bubbles, mark, queued, typed
from ui.shell import SETUP_TAB, Shell, open_tab
from ui.streaming import Pacer, paced
from ui.views.chat import BUSY, FAST_S, ChatView
from ui.wiring.loras import LoraHandlers, mixed
from ui.wiring.model import ModelHandlers
from ui.wiring.options import OptionHandlers

PAGE = 60  # messages in the widget; the model always gets all of them
_SETTLE_S, _SETTLE_STEP_S = 2.0, 0.05


@dataclass(frozen=True)
class _Chat:
    """One visitor's current conversation, for one request."""

    services: Services
    owner: str
    language: str
    place: str
    window: int

    @staticmethod
    def of(services: Services, request: gr.Request, window: float | None) -> "_Chat":
        return _Chat(services, owner(request), language(request), place(request), max(PAGE, int(window or 0)))

    @property
    def current(self) -> Conversation:
        return self.services.conversations.current(self.owner)

    def messages(self, conversation: str) -> tuple[StoredMessage, ...]:
        return self.services.conversations.messages(self.owner, conversation)


def read_settings(form: dict[str, Any]) -> tuple[str, Sampling]:
    """Return system prompt and sampling from what the controls hold."""
    temperature, top_p, penalty = (form[key] for key in ("temperature", "top_p", "repetition_penalty"))
    sampling = Sampling(temperature, top_p, int(form["top_k"]), penalty, int(form["max_new_tokens"]))
    return str(form["system"] or ""), sampling


class _Handlers:
    """The conversation's event handlers. Those that stream change ``streamed``, those that redraw change ``drawn``."""

    def __init__(self, view: ChatView, services: Services) -> None:
        self.view, self.services = view, services
        self._running: dict[str, set[asyncio.Event]] = {}  # by owner: replies being made now, and how to stop them
        self.streamed = [view.chatbot, view.shown, view.send, view.stop, view.box, view.timer]
        self.drawn = [view.chatbot, view.shown, view.send, view.stop, view.earlier]

    # ---- drawing ----

    def draw(self, chat: _Chat) -> tuple[Any, ...]:
        """Return ``drawn``: the conversation as it is stored, ready for the next message."""
        conversation = chat.current.id
        messages = chat.messages(conversation)
        return (
            bubbles(messages[-chat.window :], chat.language),
            mark(conversation, messages, chat.language),
            gr.Button(visible=True),
            gr.Button(visible=False),
            gr.Button(visible=len(messages) > chat.window),
        )

    def restore(self, request: gr.Request) -> tuple[Any, ...]:
        """Show a fresh page this browser's conversation and how its replies are picked."""
        chat = _Chat.of(self.services, request, None)
        kept = chat.current
        own = {"system", "loras"}  # the strengths of adapters are drawn with the engine's state
        sampling = [getattr(kept.sampling, name) for name in self.view.sampling.inputs if name not in own]
        return (*self.draw(chat), kept.system, *sampling)

    def follow(self, request: gr.Request, shown: str, window: float | None) -> tuple[Any, ...]:
        """Redraw when the conversation has changed under this page, as from another tab of the same browser."""
        chat = _Chat.of(self.services, request, window)
        conversation = chat.current.id
        if shown == BUSY or mark(conversation, chat.messages(conversation), chat.language) == shown:
            return (gr.skip(),) * len(self.drawn)
        return self.draw(chat)

    async def settle(self, request: gr.Request, window: float | None) -> tuple[Any, ...]:
        """Redraw after a reply, however it ended; a stopped one may take a moment to be written down."""
        chat = _Chat.of(self.services, request, window)
        for _ in range(round(_SETTLE_S / _SETTLE_STEP_S)):
            last = chat.messages(chat.current.id)[-1:]
            if not (last and last[0].role == "assistant" and last[0].finish is None):
                break
            await asyncio.sleep(_SETTLE_STEP_S)
        return self.draw(chat)

    def show_earlier(self, request: gr.Request, window: float | None) -> tuple[Any, ...]:
        """Show another page of older messages."""
        chat = _Chat.of(self.services, request, max(PAGE, int(window or 0)) + PAGE)
        return (*self.draw(chat), chat.window)

    # ---- talking ----

    async def send(self, request: gr.Request, text: str, window: float | None, **form: Any) -> AsyncIterator[Any]:
        """Take a message and stream the reply. An empty message does nothing; a refused one stays in the box."""
        if not (text or "").strip():
            yield (gr.skip(),) * len(self.streamed)
            return
        chat = _Chat.of(self.services, request, window)
        conversation, sampling = self._prepare(chat, form)
        self.services.conversations.append(chat.owner, conversation, text)
        async for step in self._answer(chat, conversation, sampling):
            yield step

    async def example(
        self, request: gr.Request, chosen: gr.SelectData, window: float | None, **form: Any
    ) -> AsyncIterator[Any]:
        """Send a suggested question."""
        text = chosen.value.get("text", "") if isinstance(chosen.value, dict) else str(chosen.value)
        async for step in self.send(request, text, window, **form):
            yield step

    async def retry(self, request: gr.Request, window: float | None, **form: Any) -> AsyncIterator[Any]:
        """Answer the last question again; the old reply goes when the new one begins."""
        chat = _Chat.of(self.services, request, window)
        conversation, sampling = self._prepare(chat, form)
        question = self.services.conversations.last_question(chat.owner, conversation)
        if not question:
            raise UsageError("chat.nothing_to_retry")
        async for step in self._answer(chat, conversation, sampling, again=question):
            yield step

    async def edit(
        self, request: gr.Request, event: gr.EditData, window: float | None, **form: Any
    ) -> AsyncIterator[Any]:
        """Change what was said, drop what came after, and answer anew."""
        chat = _Chat.of(self.services, request, window)
        conversation, sampling = self._prepare(chat, form)
        message = self._at(chat, conversation, event)
        self.services.conversations.edit(chat.owner, conversation, message, typed(str(event.value)))
        async for step in self._answer(chat, conversation, sampling):
            yield step

    def _prepare(self, chat: _Chat, form: dict[str, Any]) -> tuple[str, Sampling]:
        """Make sure that a reply can be asked for, before anything is added or dropped; keep how it is picked."""
        require_ready(self.services.engine)
        current, (system, sampling) = chat.current, read_settings(form)
        attached = self.services.engine.status().options.loras
        sampling = replace(sampling, loras=mixed(attached, current.sampling, form["loras"]))
        conversation = current.id
        self.services.conversations.save_settings(chat.owner, conversation, system=system, sampling=sampling)
        return conversation, sampling

    def _at(self, chat: _Chat, conversation: str, event: gr.EditData) -> int:
        """Return the id of the message a page means by its place, if page and store still agree about it."""
        index = event.index[0] if isinstance(event.index, (list, tuple)) else event.index
        visible = chat.messages(conversation)[-chat.window :]
        if not 0 <= index < len(visible) or visible[index].text != typed(event.previous_value):
            raise UsageError("chat.changed_elsewhere")
        return visible[index].id

    async def _answer(
        self, chat: _Chat, conversation: str, sampling: Sampling, *, again: int | None = None
    ) -> AsyncIterator[Any]:
        """Stream one reply into the widget. The first step shows the question and empties the box."""
        store, line = self.services.conversations, self.services.line
        engine = line.seat(self.services.engine, chat.owner, place=chat.place)
        messages = [one for one in chat.messages(conversation) if again is None or one.id <= again]
        said, rest = bubbles(messages[-chat.window :], chat.language), (gr.skip(),) * (len(self.streamed) - 1)
        hide, show = gr.Button(visible=False), gr.Button(visible=True)
        yield [*said, bubble("assistant", WAITING)], BUSY, hide, show, "", gr.Timer(FAST_S)
        pacer = Pacer(sum(len(one.text) for one in messages[-chat.window :]))
        source = reply(
            store, engine, owner=chat.owner, conversation=conversation, sampling=sampling, again=again
        )  # fmt: skip
        text, meanwhile = "", WAITING
        async with aclosing(paced(source, pacer)) as batches:
            with self._stoppable(chat.owner) as stop:
                async for batch in batches:
                    if stop.is_set():
                        return
                    added = "".join(piece.text for piece in batch)
                    pacer.feed(added)
                    text += added
                    if batch:
                        meanwhile = queued(batch[-1].waiting, chat.language)
                    yield [*said, bubble("assistant", text or meanwhile)], *rest

    @contextmanager
    def _stoppable(self, owner: str) -> Iterator[asyncio.Event]:
        """Note that a reply is being made for this visitor until the block is left."""
        stop, running = asyncio.Event(), self._running.setdefault(owner, set())
        running.add(stop)
        try:
            yield stop
        finally:
            running.discard(stop)
            if not running:
                self._running.pop(owner, None)

    async def stop(self, request: gr.Request) -> None:
        """End this visitor's replies. gradio's own cancelling is quicker, but now and then misses one just begun."""
        for stop in self._running.get(owner(request), ()):
            stop.set()

    # ---- mending ----

    def undo(self, request: gr.Request, window: float | None, typed: str) -> tuple[Any, ...]:
        """Take the last question back into the box, unless something is being written there."""
        chat = _Chat.of(self.services, request, window)
        text = self.services.conversations.undo(chat.owner, chat.current.id)
        return (*self.draw(chat), gr.skip() if (typed or "").strip() or not text else text)

    def clear(self, request: gr.Request, sure: bool) -> tuple[Any, ...]:
        """Forget the conversation, once the visitor has said yes."""
        chat = _Chat.of(self.services, request, None)
        if sure is True:
            self.services.conversations.clear(chat.owner, chat.current.id)
        return (*self.draw(chat), chat.window)


def bind_chat(view: ChatView, services: Services, shell: Shell) -> None:
    """Bind every event of the tab. Call it inside the open ``gr.Blocks``."""
    handlers, form = _Handlers(view, services), view.sampling.inputs
    model = ModelHandlers(view, services)
    model.bind(shell)
    LoraHandlers(view, services).bind(shell)
    OptionHandlers(view, services).bind(shell)

    settings = [control for name, control in form.items() if name != "loras"]
    shell.on(None, handlers.restore, (), [*handlers.drawn, *settings])
    shell.on(view.timer.tick, handlers.follow, (view.shown, view.window), handlers.drawn, quiet=True)
    shell.on(view.earlier.click, handlers.show_earlier, (view.window,), [*handlers.drawn, view.window])

    stream: dict[str, Any] = {"queue": True, "concurrency_limit": None, "inputs_kwargs": form}
    replies = [
        shell.on(
            [view.box.submit, view.send.click], handlers.send, (view.box, view.window), handlers.streamed, **stream
        ),
        shell.on(view.chatbot.example_select, handlers.example, (view.window,), handlers.streamed, **stream),
        shell.on(view.retry.click, handlers.retry, (view.window,), handlers.streamed, **stream),
        shell.on(view.chatbot.edit, handlers.edit, (view.window,), handlers.streamed, **stream),
    ]
    for one in replies:
        shell.on(one, handlers.settle, (view.window,), handlers.drawn, quiet=True)
    shell.stop_on(view.stop.click, replies)
    shell.on(view.stop.click, handlers.stop)

    shell.on(view.undo.click, handlers.undo, (view.window, view.box), [*handlers.drawn, view.box])
    shell.on(
        view.clear.click,
        handlers.clear,
        (view.sure,),
        [*handlers.drawn, view.window],
        js="() => [window.cria.ask('clear')]",
    )
    shell.on(view.to_setup.click, lambda: open_tab(SETUP_TAB), (), (shell.tabs,))
