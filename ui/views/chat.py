"""The Chat tab's layout: the model and how it is loaded, the conversation, the message box, how replies are picked.

Binds no events and knows nothing about services: what the controls do is ``ui.wiring.chat``'s business.
"""

from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from backend.engines import AUTO, ENGINES, is_installed
from backend.engines.base import MOST_LORAS, EngineOptions, Sampling
from backend.text import has
from ui.i18n import label

FAST_S, SLOW_S = 0.5, 3.0
BUSY = "busy"  # what ``shown`` says while a page streams: nobody else may redraw the conversation
GIB = 1 << 30
REMOTE = "remote"  # the engine whose model is on another server
# The card's one button reports what it means; the card is redrawn in place, so the listener is the card's.
_REPORT = """
element.addEventListener('click', (event) => {
  const pressed = event.target.closest('button[data-do]');
  if (pressed && element.contains(pressed)) trigger('click', {act: pressed.dataset.do});
});
"""
_LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": r"\[", "right": r"\]", "display": True},
    {"left": r"\(", "right": r"\)", "display": False},
]


@dataclass(frozen=True)
class _Named:
    """A group of inputs whose field names are the names their values arrive under."""

    @property
    def inputs(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class OptionsView(_Named):
    """How to load a model; one control per field of ``EngineOptions``. The cap is in GiB here; adapters come as folders
    and, apart from them, their strengths.
    """

    engine: gr.Dropdown
    device: gr.Dropdown
    bits: gr.Radio
    num_gpus: gr.Number
    gpus: gr.Textbox
    max_gpu_memory: gr.Number
    dtype: gr.Dropdown
    context: gr.Number
    idle_minutes: gr.Number
    url: gr.Textbox
    remote_model: gr.Dropdown
    loras: gr.Dropdown
    lora_scales: gr.HTML
    keep_quantised: gr.Checkbox


@dataclass(frozen=True)
class SamplingView(_Named):
    """How replies are picked; one control per field of ``Sampling``, and the system prompt."""

    system: gr.Textbox
    temperature: gr.Slider
    top_p: gr.Slider
    top_k: gr.Slider
    repetition_penalty: gr.Slider
    max_new_tokens: gr.Slider
    loras: gr.HTML


@dataclass(frozen=True)
class ChatView:
    """References to everything that events read or change.

    Hidden: ``seen`` and ``shown`` stamp what this page shows of the model and of the conversation, ``window`` is how
    many messages it shows, ``sure`` carries a visitor's yes.
    """

    controls: gr.Column
    load_options: gr.Column
    picker: gr.Dropdown
    load: gr.Button
    unload: gr.Button
    card: gr.HTML
    reload: gr.HTML
    options_fold: gr.Accordion
    options: OptionsView
    bits_cost: gr.HTML
    sampling: SamplingView
    earlier: gr.Button
    chatbot: gr.Chatbot
    to_setup: gr.Button
    box: gr.Textbox
    send: gr.Button
    stop: gr.Button
    retry: gr.Button
    undo: gr.Button
    clear: gr.Button
    seen: gr.Textbox
    shown: gr.Textbox
    window: gr.Number
    sure: gr.Checkbox
    timer: gr.Timer


def _choices(area: str, values: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    return [(label(f"chat.{area}.{value}"), value) for value in values]


def _engines() -> list[tuple[Any, str]]:
    """Return the engines there are; one that is not installed says how it can be."""
    named: list[tuple[Any, str]] = [(label(f"chat.engines.{AUTO}"), AUTO)]
    for name, kind in ENGINES.items():
        how = f"chat.engines_missing.{name}"
        named.append((label(how if has(how) and not is_installed(kind) else f"chat.engines.{name}"), name))
    return named


def _number(key: str, name: str, value: float) -> gr.Number:
    return gr.Number(value, label=label(f"chat.{key}"), info=label(f"chat.{key}_info"), precision=None, elem_id=name)


def _strengths(name: str, *, keep: bool) -> gr.HTML:
    """Lay out strengths of LoRAs. The value is JSON: ``rows`` is drawn, ``said`` is what somebody made of it.

    Not a property of gradio's besides the value: an event that skips this output would empty it.
    """
    script = f"window.cria.strengths(element, props, watch, {str(keep).lower()})"
    return gr.HTML(value="", html_template="${window.cria.rows(value)}", js_on_load=script, elem_id=name)


def _loras() -> tuple[gr.Dropdown, gr.HTML]:
    """Return the adapters to attach and their strengths. Filled in by events: folders of this machine are for
    administrators.
    """
    chosen = gr.Dropdown(
        [], value=[], label=label("loraui.attach"), info=label("loraui.attach_info"), elem_id="loras",
        multiselect=True, max_choices=MOST_LORAS, allow_custom_value=True,
    )  # fmt: skip
    return chosen, _strengths("lora-scales", keep=True)


def _options(defaults: EngineOptions) -> dict[str, Any]:
    """Return the options by their names in ``ChatView``: where they fold, the controls, and what fewer bits cost."""
    with gr.Accordion(label("chat.options"), open=False, elem_id="options") as fold:
        bits = gr.Radio(
            _choices("bits", (16, 8, 4)), value=defaults.bits, label=label("chat.bits_label"),
            elem_id="bits",
        )  # fmt: skip
        bits_cost = gr.HTML(elem_id="bits-cost")
        keep = gr.Checkbox(
            defaults.keep_quantised,
            label=label("quantised.keep"),
            info=label("quantised.keep_info"),
            elem_id="keep-quantised",
            visible=False,
        )
        device = gr.Dropdown(
            _choices("device", ("auto", "cuda", "cpu", "mps")), value=defaults.device,
            label=label("chat.device_label"), elem_id="device", filterable=False,
        )  # fmt: skip
        num_gpus = _number("num_gpus", "num-gpus", defaults.num_gpus)
        gpus = gr.Textbox(
            ",".join(map(str, defaults.gpus)), label=label("chat.gpus"), info=label("chat.gpus_info"), elem_id="gpus"
        )
        cap = _number("max_gpu_memory", "max-gpu-memory", defaults.max_gpu_memory / GIB)
        dtype = gr.Dropdown(
            _choices("dtype", ("auto", "float32", "float16", "bfloat16")), value=defaults.dtype,
            label=label("chat.dtype_label"), elem_id="dtype", filterable=False,
        )  # fmt: skip
        context = _number("context", "context", defaults.context)
        loras, scales = _loras()
        engine = gr.Dropdown(
            _engines(), value=defaults.engine, label=label("chat.engines_label"),
            info=label("chat.engines_info"), elem_id="engine-kind", filterable=False,
        )  # fmt: skip
        elsewhere = defaults.engine == REMOTE
        url = gr.Textbox(
            defaults.url, label=label("remote.url"), info=label("remote.url_info"), elem_id="remote-url",
            visible=elsewhere,
        )  # fmt: skip
        there = gr.Dropdown(
            [], value=defaults.remote_model or None, label=label("remote.model"), info=label("remote.model_info"),
            elem_id="remote-model", allow_custom_value=True, visible=elsewhere,
        )  # fmt: skip
        idle = gr.Number(
            defaults.idle_minutes, label=label("remote.idle"), info=label("remote.idle_info"), precision=None,
            elem_id="idle-minutes",
        )  # fmt: skip
    controls = (engine, device, bits, num_gpus, gpus, cap, dtype, context, idle, url, there, loras, scales, keep)
    return {"options_fold": fold, "options": OptionsView(*controls), "bits_cost": bits_cost}


def _slider(key: str, value: float, low: float, high: float, step: float) -> gr.Slider:
    return gr.Slider(
        low, high, value=value, step=step, label=label(f"chat.{key}"), info=label(f"chat.{key}_info"),
        elem_id=key.replace("_", "-"), buttons=[],
    )  # fmt: skip


def _sampling(mix: gr.HTML) -> SamplingView:
    normal = Sampling()
    with gr.Accordion(label("chat.sampling"), open=False, elem_id="sampling"):
        system = gr.Textbox(
            label=label("chat.system"), info=label("chat.system_info"), lines=2, max_lines=8, elem_id="system"
        )
        return SamplingView(
            system,
            _slider("temperature", normal.temperature, 0, 2, 0.05),
            _slider("top_p", normal.top_p, 0.05, 1, 0.01),
            _slider("top_k", normal.top_k, 0, 200, 1),
            _slider("repetition_penalty", normal.repetition_penalty, 0.8, 2, 0.01),
            _slider("max_new_tokens", normal.max_new_tokens, 1, 4096, 1),
            mix,
        )


def _small(key: str) -> gr.Button:
    return gr.Button(label(f"chat.{key}"), size="sm", elem_id=f"chat-{key}", min_width=80, scale=0)


def build_chat(defaults: EngineOptions) -> ChatView:
    """Lay the tab out inside the open ``gr.Tab``; return its parts."""
    with gr.Row(elem_id="chat-row"):
        with gr.Column(scale=1, min_width=280, elem_id="chat-side"):
            with gr.Column(visible=False, elem_id="model-controls") as controls:
                picker = gr.Dropdown([], label=label("chat.model"), elem_id="model", filterable=False)
                with gr.Row():
                    load = gr.Button(label("chat.load"), variant="primary", elem_id="load", min_width=80)
                    unload = gr.Button(label("chat.unload"), elem_id="unload", min_width=80, interactive=False)
                reload = gr.HTML(elem_id="reload")  # beside the button that it is about
            card = gr.HTML(elem_id="engine", js_on_load=_REPORT)
            mix = _strengths("lora-mix", keep=False)
            with gr.Column(visible=False, elem_id="load-options") as load_options:
                loading = _options(defaults)
            sampling = _sampling(mix)
        with gr.Column(scale=3, min_width=300, elem_id="chat-main"):
            earlier = gr.Button(label("chat.earlier"), size="sm", visible=False, elem_id="earlier")
            chatbot = gr.Chatbot(
                label=label("chat.conversation"), show_label=False, elem_id="chat", layout="panel", buttons=["copy"],
                editable="user", latex_delimiters=_LATEX, feedback_options=None, allow_file_downloads=False,
                placeholder=label("chat.greet.wait"),
            )  # fmt: skip
            to_setup = gr.Button(label("chat.to_setup"), variant="primary", visible=False, elem_id="to-setup")
            with gr.Row(elem_id="compose", equal_height=False):
                box = gr.Textbox(
                    label=label("chat.box"), placeholder=label("chat.box"), show_label=False, container=False,
                    lines=1, max_lines=8, elem_id="box", scale=8, autofocus=False,
                )  # fmt: skip
                send = gr.Button(label("chat.send"), variant="primary", elem_id="send", scale=1, min_width=88)
                stop = gr.Button(
                    label("chat.stop"), variant="stop", elem_id="stop", scale=1, min_width=88, visible=False
                )
            with gr.Row(elem_id="chat-actions"):
                retry, undo, clear = _small("retry"), _small("undo"), _small("clear")
    seen, shown = gr.Textbox(visible=False), gr.Textbox(visible=False)
    window, sure = gr.Number(visible=False), gr.Checkbox(visible=False)
    timer = gr.Timer(FAST_S)
    return ChatView(
        controls=controls, load_options=load_options, picker=picker, load=load, unload=unload, card=card,
        reload=reload, **loading, sampling=sampling, earlier=earlier, chatbot=chatbot, to_setup=to_setup, box=box,
        send=send, stop=stop, retry=retry, undo=undo, clear=clear, seen=seen, shown=shown, window=window, sure=sure,
        timer=timer,
    )  # fmt: skip
