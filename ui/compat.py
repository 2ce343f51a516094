"""The few private parts of gradio 6.31 that Cria sets, each guarded: a gradio without them keeps its own defaults.

Knows nothing about the page.
"""

from collections.abc import Mapping
from functools import wraps
from typing import Any

from gradio import blocks, context

# gradio wakes its queue loop every millisecond, 4-5 % of a core while nobody does anything; at these it is 0.5 %.
_IDLE = {"sleep_when_free": 0.02, "progress_update_sleep_when_free": 0.05}
MAX_RUNNING = 200  # queued events at once; gradio's 40 would make the 41st reader wait for somebody else's reply to end
MAX_QUEUED = 256
# Page loads that gradio remembers, a megabyte each: it never hears that one is closed, and would keep 10,000. The one
# that was used longest ago goes first, and an open page is used every few seconds.
MAX_SESSIONS = 256


def page_load() -> Any:
    """Return the trigger of the page that is being built: its load and nothing else. ``gr.on(None, ...)`` would also
    listen to every change of the handler's inputs.
    """
    return context.Context.root_block.load


def skip_for_good() -> None:
    """Make ``gr.skip()`` leave a ``gr.HTML`` alone. gradio sends it the update's own mark as if that were a property of
    the element; the browser then puts back what the element showed a moment ago, and so one of two events at once takes
    away what the other has just said.
    """
    original = getattr(blocks, "postprocess_update_dict", None)
    if original is None or hasattr(original, "__wrapped__"):  # another gradio, or done already
        return

    @wraps(original)
    def sent(block: Any, update_dict: Mapping[str, Any], postprocess: bool = True) -> Any:
        bare = {key: value for key, value in update_dict.items() if key != "__type__"}
        return original(block, bare, postprocess)

    blocks.postprocess_update_dict = sent


def open_queue(demo: Any) -> None:
    """Give a Blocks its queue: closed to direct calls, bounded, and calm while idle."""
    skip_for_good()
    demo.state_session_capacity = MAX_SESSIONS
    demo.max_threads = MAX_RUNNING  # must come first: the queue reads it once
    demo.queue(api_open=False, max_size=MAX_QUEUED, default_concurrency_limit=None)
    queue = getattr(demo, "_queue", None)
    for name, value in _IDLE.items():
        if hasattr(queue, name):
            setattr(queue, name, value)
