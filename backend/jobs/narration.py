"""What merging says while it runs, with the names of what is put together instead of "the base" and "the delta".

Knows nothing about weights: it only words the notes of a plan's one pass over the bytes.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from backend.events import Event, Progress
from backend.plan import Plan
from backend.text import Message

_NOTE = re.compile(r"weights\.doing\.\w+")
_SHOWN = 60  # characters of a name


def short_name(source: str) -> str:
    """Return what people call a source: ``organisation/model``, or the last part of a path or an address."""
    bare = source.removeprefix("builtin:").removeprefix("modelscope:").partition("#")[0]
    head, _, _ = bare.partition("@")
    parts = [part for part in re.split(r"[/\\]+", head) if part and not part.endswith(":")]
    is_path = bare.startswith(("/", "~", ".")) or "://" in bare or "\\" in bare or len(parts) > 2
    return ("/".join(parts[-1:] if is_path else parts) or source)[:_SHOWN]


def told(events: Iterable[Event], plan: Plan) -> Iterator[Event]:
    """Yield a merge's events with notes that name the ingredients; other notes are left as they are."""
    kind = "_".join([*(["delta"] if plan.delta else []), *(["lora"] if plan.loras else [])]) or "one"
    names = {
        "base": short_name(plan.base),
        "delta": short_name(plan.delta or ""),
        "lora": ", ".join(short_name(source) for source, _ in plan.loras),
    }
    for event in events:
        note = event.note if isinstance(event, Progress) else None
        if isinstance(event, Progress) and note and _NOTE.fullmatch(note.key) and "count" in note.params:
            counted = {name: note.params[name] for name in ("index", "count")}
            event = replace(event, note=Message(f"narration.{kind}", {**names, **counted}))
        yield event
