"""LoRAs in llama.cpp: files that it reads once, and the words of a request that say how strong each one is.

The files are made anew at every load, in a private folder that goes again: that takes no longer than reading them, and
nothing can be out of date. Knows nothing about how a request is answered.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from backend.engines.adapters import Attachable, Scales, naming
from backend.weights.checkpoint import Checkpoint
from backend.weights.gguf_adapter import adapter_bytes, write_gguf_adapter


def nbytes(adapters: Sequence[Attachable]) -> int:
    """Return the bytes of memory that adapters take."""
    return adapter_bytes(sum(one.numbers for one in adapters))


def write_adapters(checkpoint: Checkpoint, adapters: Sequence[Attachable], folder: Path) -> tuple[Path, ...]:
    """Write the file of each adapter into a folder, and return them in order.

    Raises:
        WeightsError: an adapter is damaged, or does not fit the model's file.
        MachineError: the disk is full or cannot be written.
    """
    paths = []
    for number, one in enumerate(adapters):
        path = folder / f"lora-{number}.gguf"
        with naming(one.name):
            write_gguf_adapter(checkpoint, chain(one.products(), one.tables()), path)
        paths.append(path)
    return tuple(paths)


def lora_fields(scales: Scales) -> dict[str, Any]:
    """Return the fields of a request that say how strong each adapter is; nothing where none is attached."""
    return {"lora": [{"id": number, "scale": scale} for number, scale in enumerate(scales)]} if scales else {}


class Gate:
    """Lets in only replies of the same strengths together, first come, first served.

    llama.cpp computes one mixture of adapters in a step and would go on with the first for as long as anybody uses it
    (server-context.cpp, ``can_batch_with``): others might wait for ever. The queue in front of the engine calls one
    mixture at a time as well, and tells people; but it goes by what was attached when they came, and hears of a reply's
    end before llama.cpp does. Used from one event loop at a time.
    """

    def __init__(self) -> None:
        self._now: Scales = ()
        self._inside = 0
        self._waiting: deque[tuple[Scales, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def held(self, scales: Scales) -> AsyncIterator[None]:
        """Wait until replies of these strengths have their turn, and take part in it."""
        coming: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((scales, coming))
        self._admit()
        try:
            await coming
        except asyncio.CancelledError:
            if coming.cancelled():
                with suppress(ValueError):  # it was passed over already
                    self._waiting.remove((scales, coming))
                self._admit()  # who stood behind may fit those inside
            else:
                self._leave()
            raise
        try:
            yield
        finally:
            self._leave()

    def _admit(self) -> None:
        while self._waiting and (not self._inside or self._waiting[0][0] == self._now):
            scales, coming = self._waiting.popleft()
            if not coming.done():  # who was cancelled a moment ago has yet to hear of it
                self._now, self._inside = scales, self._inside + 1
                coming.set_result(None)

    def _leave(self) -> None:
        self._inside -= 1
        self._admit()
