"""Tokens for one request after the other, through ordinary ``generate``: for models that batching cannot serve.

Knows nothing about text.
"""

import threading
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from backend.engines.base import Sampling
from backend.engines.memory import computation_failed, is_out_of_memory
from backend.engines.transformers_server.sampling import generate_options
from backend.engines.transformers_server.tokens import Mailbox
from backend.errors import CriaError


class _Tap(StoppingCriteria):  # type: ignore[misc] # transformers is untyped
    """Sees every token right after it is computed: passes it on, and says when to stop."""

    def __init__(self, mailbox: Mailbox, stop: threading.Event, count: Callable[[], None]) -> None:
        self._mailbox, self._stop, self._count = mailbox, stop, count

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Take ids (1, length); return (1,) whether to stop."""
        self._count()
        self._mailbox.put([int(input_ids[0, -1])])
        return torch.tensor([self._stop.is_set()], device=input_ids.device)


class SingleTokens:
    """``TokenSource`` that answers one request at a time; others wait in the server's queue."""

    slots = 1

    def __init__(self, model: Any, *, eos: Sequence[int], start: int | None = None) -> None:
        """``start``: the token a decoder begins with, where the prompt goes to an encoder."""
        self._model, self._eos, self._start = model, list(eos) or None, start
        self._computed = 0

    async def stream(self, ids: Sequence[int], sampling: Sampling, limit: int) -> AsyncIterator[Sequence[int]]:
        """Yield new tokens as they are computed; closing stops after the token being computed."""
        mailbox, stop = Mailbox(), threading.Event()
        work = threading.Thread(
            target=self._generate, args=(list(ids), sampling, limit, mailbox, stop), name="generate", daemon=True
        )
        work.start()
        try:
            while (tokens := await mailbox.get()) is not None:
                yield tokens
        finally:
            stop.set()

    def _generate(
        self, ids: list[int], sampling: Sampling, limit: int, mailbox: Mailbox, stop: threading.Event
    ) -> None:
        """Compute one reply. Whatever happens, the reply that waits for it hears of it."""
        try:
            config = GenerationConfig(
                max_new_tokens=limit,
                eos_token_id=self._eos,
                pad_token_id=(self._eos or [0])[0],
                decoder_start_token_id=self._start,
                **generate_options(sampling),
            )
            batch = torch.tensor([ids], device=self._model.device)
            self._model.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([_Tap(mailbox, stop, self._count)]),
            )
            mailbox.put(None)
        except Exception as problem:  # noqa: BLE001 - the end of a thread that nobody awaits
            traceback.print_exc()
            mailbox.put(computation_failed(problem))
            if is_out_of_memory(problem) and torch.cuda.is_available():
                torch.cuda.empty_cache()  # what the failed reply held in reserve is for the next one

    def _count(self) -> None:
        self._computed += 1

    def computed(self) -> int:
        """Return how many tokens were computed since the start."""
        return self._computed

    def steps(self) -> int:
        """A prompt is one step here, with its first token."""
        return self._computed

    def cache(self) -> tuple[int, int]:
        """There is no fixed cache."""
        return 0, 0

    def problem(self) -> CriaError | None:
        """Every request starts afresh."""
        return None

    def close(self) -> None:
        """Nothing runs between requests; the process ends right after this."""
