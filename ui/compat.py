"""The few private parts of gradio 6.31 that Cria sets, each guarded: a gradio without them keeps its own defaults.

Knows nothing about the page.
"""

from typing import Any

from gradio import context

# gradio wakes its queue loop every millisecond, 4-5 % of a core while nobody does anything; at these it is 0.5 %.
_IDLE = {"sleep_when_free": 0.02, "progress_update_sleep_when_free": 0.05}
MAX_RUNNING = 200  # queued events at once; gradio's 40 would make the 41st reader wait for somebody else's reply to end
MAX_QUEUED = 256


def page_load() -> Any:
    """Return the trigger of the page that is being built: its load and nothing else. ``gr.on(None, ...)`` would also
    listen to every change of the handler's inputs.
    """
    return context.Context.root_block.load


def open_queue(demo: Any) -> None:
    """Give a Blocks its queue: closed to direct calls, bounded, and calm while idle."""
    demo.max_threads = MAX_RUNNING  # must come first: the queue reads it once
    demo.queue(api_open=False, max_size=MAX_QUEUED, default_concurrency_limit=None)
    queue = getattr(demo, "_queue", None)
    for name, value in _IDLE.items():
        if hasattr(queue, name):
            setattr(queue, name, value)
