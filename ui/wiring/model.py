"""The model's events: load, unload, and the timer that shows every browser where the engine stands.

Knows nothing about conversations.
"""

import json
from collections.abc import Sequence
from hashlib import blake2s
from typing import Any

import gradio as gr

from backend.engines.base import EngineOptions, EngineState, EngineStatus
from backend.engines.options import MIN_CONTEXT
from backend.errors import UsageError
from backend.library import ModelInfo
from backend.services import Services
from backend.text import say
from ui.access import is_admin, language, owner, require_admin
from ui.render.chat import greeting, questions
from ui.render.engine import engine_card
from ui.render.notices import notice_html
from ui.shell import Shell
from ui.views.chat import BUSY, FAST_S, GIB, REMOTE, SLOW_S, ChatView
from ui.wiring.given import as_chosen, form_values, given
from ui.wiring.loras import mixer, read_loras

_MOVING = frozenset({EngineState.STARTING, EngineState.LOADING, EngineState.STOPPING})


def read_options(form: dict[str, Any], words: str = "en") -> EngineOptions:
    """Return engine options from what the controls hold; whether they fit together is the engine's to say.

    ``words``: the language in which a refusal names a control.

    Raises:
        UsageError: something is not a number or not a list of GPUs.
    """
    listed = [part.strip() for part in str(form["gpus"] or "").replace("，", ",").split(",") if part.strip()]
    if not all(part.isdecimal() for part in listed):
        raise UsageError("chat.bad_gpus", text=str(form["gpus"])[:80])
    return EngineOptions(
        engine=form["engine"],
        device=form["device"],
        bits=form["bits"],
        num_gpus=_whole("num_gpus", form, words),
        gpus=tuple(int(part) for part in listed),
        max_gpu_memory=int(_number("max_gpu_memory", form, words) * GIB),
        dtype=form["dtype"],
        context=_whole("context", form, words),
        idle_minutes=_whole("idle_minutes", form, words),
        url=str(form["url"] or "").strip(),
        remote_model=str(form["remote_model"] or "").strip(),
        loras=read_loras(form["loras"], form["lora_scales"]),
        keep_quantised=bool(form["keep_quantised"]) and form["bits"] != 16,
    )


def _number(name: str, form: dict[str, Any], words: str) -> float:
    """An emptied field means its default, 0."""
    if form[name] in (None, ""):
        return 0.0
    try:
        number = float(form[name])
    except (TypeError, ValueError):
        raise _bad_number(name, form[name], words) from None
    if not 0 <= number < 1e9:
        raise _bad_number(name, form[name], words)
    return number


def _whole(name: str, form: dict[str, Any], words: str) -> int:
    number = _number(name, form, words)
    if number != int(number):
        raise _bad_number(name, form[name], words)
    return int(number)


def _bad_number(name: str, value: Any, words: str) -> UsageError:
    if name == "context":
        return UsageError("engine.context_range", value=value, low=MIN_CONTEXT)
    field = say(words, "remote.idle" if name == "idle_minutes" else f"chat.{name}")
    return UsageError("chat.bad_number", name=field, value=value)


class ModelHandlers:
    """The model's event handlers; ``outputs`` is everything that may change by itself."""

    def __init__(self, view: ChatView, services: Services) -> None:
        self.view, self.services = view, services
        self.outputs = [
            view.controls, view.load_options, view.picker, view.load, view.unload, view.card, view.chatbot,
            view.to_setup, view.send, view.sampling.loras, view.timer, view.seen,
        ]  # fmt: skip
        self.form = {name: view.options.inputs[name] for name in form_values(services.options)}

    def bind(self, shell: Shell) -> None:
        """Bind every event."""
        view = self.view
        # One event for both: when the picker asks what a load would change, the form must be there.
        shell.on(None, self.open, (), [*self.outputs, *self.form.values()])
        shell.on(
            [view.timer.tick, shell.chat_tab.select],
            self.tick,
            (view.seen, view.picker, view.shown),
            [*self.outputs, shell.notice],
            quiet=True,
        )
        shell.on(view.picker.change, self.pick, (view.picker,), (view.load,), quiet=True)
        shell.on(view.load.click, self.load, (view.picker,), self.outputs, inputs_kwargs=view.options.inputs)
        there = [view.options.url, view.options.remote_model]
        shell.on(view.options.engine.input, self.choose_engine, (view.options.engine,), there)
        look = [view.options.url.submit, view.options.url.blur]
        shell.on(look, self.look_elsewhere, (view.options.url,), [view.options.remote_model])
        shell.on(view.card.click, self.load_smaller, (view.picker,), self.outputs)
        shell.on(view.unload.click, self.unload, (view.picker,), self.outputs)

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """Draw everything on a fresh page; "How to load it" begins with how the model that is there was loaded."""
        if is_admin(request):
            self.services.unsound(look=True)
        return (*self._changes(request, "", None), *self._begin(request))

    def _begin(self, request: gr.Request) -> tuple[Any, ...]:
        """Return the form's values, by its components; those of the command line are there already."""
        options = given(self.services)
        if not is_admin(request) or options == self.services.options:
            return (gr.skip(),) * len(self.form)
        values = form_values(as_chosen(self.services, options))
        shown = {name: {"visible": options.engine == REMOTE} for name in ("url", "remote_model")}
        return tuple(gr.update(value=values[name], **shown.get(name, {})) for name in self.form)

    def tick(self, request: gr.Request, seen: str, picked: str | None, shown: str = "") -> tuple[Any, ...]:
        """Draw what has changed since this page looked last; ``shown``: whether it streams a reply of its own. In the
        end comes the notice.
        """
        taken = self._taken(request, seen, picked)
        return (*self._changes(request, seen, picked, streams=shown == BUSY), taken)

    def _taken(self, request: gr.Request, seen: str, picked: str | None) -> Any:
        """Return a notice when what this page saw being loaded has given way to another model before it was ready."""
        now, old = _loaded(self.services.engine.status()), json.loads(seen) if seen else {}
        was_coming = old.get("loaded") == _stamp(picked) and old.get("ready") == _stamp(False)
        if not (picked and was_coming and is_admin(request)) or now in ("", picked):
            return gr.skip()
        return notice_html(UsageError("picker.taken", picked=picked, name=now), language(request))

    def pick(self, request: gr.Request, picked: str | None) -> Any:
        """Name the button by what it does for the model that was just chosen."""
        require_admin(request)
        return gr.update(value=_load_words(self.services.engine.status(), picked, language(request)))

    def load(self, request: gr.Request, picked: str | None, **form: Any) -> tuple[Any, ...]:
        """Load the chosen model; whatever was loaded goes, also what is on its way."""
        require_admin(request)
        options = read_options(form, language(request))
        if not picked and options.engine != REMOTE:
            raise UsageError("chat.no_model_chosen")
        self.services.load(picked or "", options)
        now = _loaded(self.services.engine.status())
        if options.engine != REMOTE and now not in ("", picked):  # somebody was quicker than this answer
            raise UsageError("picker.taken", picked=picked, name=now)
        return self._changes(request, "", picked)

    def choose_engine(self, request: gr.Request, engine: str) -> tuple[Any, ...]:
        """Ask for an address only where the engine is on another server."""
        require_admin(request)
        return (gr.update(visible=engine == REMOTE),) * 2

    def look_elsewhere(self, request: gr.Request, url: str) -> Any:
        """Offer the models of the server at an address."""
        require_admin(request)
        names = self.services.models_at(url) if (url or "").strip() else ()
        return gr.Dropdown(choices=[name for name in names if name.isprintable()])

    def load_smaller(self, request: gr.Request, picked: str | None) -> tuple[Any, ...]:
        """Load what ran out of memory in the smaller way that its card offers."""
        require_admin(request)
        status = self.services.engine.status()
        if status.offer is not None:  # another page may have pressed it already
            self.services.load(status.model, status.offer)
        return self._changes(request, "", picked)

    def unload(self, request: gr.Request, picked: str | None) -> tuple[Any, ...]:
        """Unload the model; returns when its memory is free."""
        require_admin(request)
        self.services.engine.unload()
        return self._changes(request, "", picked)

    def _changes(self, request: gr.Request, seen: str, picked: str | None, *, streams: bool = False) -> tuple[Any, ...]:
        """Return ``outputs``, each only if it differs from what this page has ``seen``."""
        status, models = self.services.engine.status(), self.services.models()
        parts = self._parts(request, status, models)
        # A page that only looks on comes less often: with many open, looking would cost more than talking.
        pace = FAST_S if status.state in _MOVING or (streams and status.active) else SLOW_S
        old = dict(json.loads(seen)) if seen else {}
        moved = {name for name in ("choices", "loaded") if old.get(name) != _stamp(parts[name])}
        chosen = _choice(parts, picked, moved)
        parts["load"].insert(0, _load_words(status, chosen, language(request)))
        marks = {name: _stamp(part) for name, part in parts.items()}
        changed = {name for name, stamp in marks.items() if old.get(name) != stamp}
        if not changed:
            return (*(gr.skip(),) * (len(self.outputs) - 2), gr.Timer(pace), gr.skip())
        shown = {name: _update(name, parts[name]) for name in changed}
        if "loras" in changed:
            shown["loras"] = mixer(self.services, request, status)
        if moved:
            shown["picker"] = gr.Dropdown(choices=[tuple(choice) for choice in parts["choices"]], value=chosen)
        names = ("admin", "admin", "picker", "load", "unload", "card", "greeting", "to_setup", "ready", "loras")
        return (*(shown.get(name, gr.skip()) for name in names), gr.Timer(pace), json.dumps(marks))

    def _parts(self, request: gr.Request, status: EngineStatus, models: Sequence[ModelInfo]) -> dict[str, Any]:
        """Return everything that is shown, as plain values that can be compared."""
        words, admin, state = language(request), is_admin(request), status.state
        # A folder's name may hold bytes that are no text; no page can show or send it.
        usable = [model for model in models if not model.problem and model.name.isprintable()]
        loaded = next((model for model in models if model.name == status.model), None)
        unsound = self.services.unsound() if admin else frozenset()
        ready, at_rest = status.answers, state in {EngineState.OFF, EngineState.FAILED}
        return {
            "admin": admin,
            "choices": [[_named(model, words, unsound=model.name in unsound), model.name] for model in usable],
            "unsound": sorted(unsound),
            "loaded": _loaded(status),
            "load": [at_rest and bool(usable), bool(usable)],
            "unload": state not in {EngineState.OFF, EngineState.STOPPING, EngineState.FAILED},
            "card": engine_card(
                status, words, admin=admin, forecast=self.services.forecast(status), line=self.services.line.live()
            ),
            "greeting": [greeting(status, models, words, admin=admin), questions(loaded, words) if ready else []],
            "to_setup": admin and not usable and at_rest,
            "ready": ready,
            "loras": self._strengths(request, status) if ready and status.options.loras else [],
        }

    def _strengths(self, request: gr.Request, status: EngineStatus) -> list[Any]:
        """Return what the strengths drawn for this visitor hang on; another tab may have sent others."""
        kept = self.services.conversations.current(owner(request)).sampling.loras
        return [status.model, [[lora.name, lora.scale] for lora in status.options.loras], kept]


def _update(name: str, part: Any) -> Any:
    """Return the gradio update for one part."""
    if name in {"admin", "to_setup"}:
        return gr.update(visible=part)
    if name == "load":
        text, primary, possible = part
        return gr.Button(text, variant="primary" if primary else "secondary", interactive=possible)
    if name == "ready":  # one thing to press at a time: Send is the main one once somebody can answer
        return gr.Button(variant="primary" if part else "secondary")
    if name == "unload":
        return gr.Button(interactive=part)
    if name == "greeting":
        text, asked = part
        return gr.Chatbot(placeholder=text, examples=[{"text": question} for question in asked])
    return part


def _choice(parts: dict[str, Any], picked: str | None, moved: set[str]) -> str | None:
    """Return the model that is chosen: one that gets loaded, else the visitor's, else the first that is not known to be
    broken. ``moved``: which of "choices" and "loaded" this page has not seen yet.
    """
    names, unsound, loaded = [name for _, name in parts["choices"]], parts["unsound"], parts["loaded"]
    if "loaded" in moved and loaded in names:
        return str(loaded)
    if picked in names and (picked not in unsound or picked == loaded or "choices" not in moved):
        return picked
    return next((name for name in names if name not in unsound), names[0] if names else None)


def _loaded(status: EngineStatus) -> str:
    """Return the model that is there or on its way, empty if there is none."""
    return status.model if status.state in _MOVING or status.answers else ""


def _load_words(status: EngineStatus, picked: str | None, words: str) -> str:
    """Return what the button does for the model that is chosen."""
    return say(words, "chat.reload" if status.answers and picked == status.model else "chat.load")


def _named(model: ModelInfo, words: str, *, unsound: bool) -> str:
    return say(words, "picker.unsound" if unsound else "chat.model_choice", name=model.name, bytes=model.bytes)


def _stamp(part: Any) -> str:
    return blake2s(json.dumps(part).encode(), digest_size=6).hexdigest()
