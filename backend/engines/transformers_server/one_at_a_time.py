"""Tokens for one request after the other, through ordinary ``generate``: for models that batching cannot serve.

Knows nothing about text.
"""

import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from backend.engines.base import Sampling
from backend.engines.transformers_server.sampling import generate_options
from backend.engines.transformers_server.tokens import Mailbox
from backend.errors import CriaError, EngineError


class _Tap(StoppingCriteria):  # type: ignore[misc] # transformers is untyped
    """Sees every token right after it is computed: passes it on, and says when to stop."""

    def __init__(self, mailbox: Mailbox, stop: threading.Event) -> None:
        self._mailbox, self._stop = mailbox, stop
        self.computed = 0

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Take ids (1, length); return (1,) whether to stop."""
        self.computed += 1
        self._mailbox.put([int(input_ids[0, -1])])
        return torch.tensor([self._stop.is_set()], device=input_ids.device)


class SingleTokens:
    """``TokenSource`` that answers one request at a time; others wait in the server's queue."""

    slots = 1

    def __init__(self, model: Any, *, eos: Sequence[int]) -> None:
        self._model, self._eos = model, list(eos) or None
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
        tap = _Tap(mailbox, stop)
        config = GenerationConfig(
            max_new_tokens=limit,
            eos_token_id=self._eos,
            pad_token_id=(self._eos or [0])[0],
            **generate_options(sampling),
        )
        try:
            batch = torch.tensor([ids], device=self._model.device)
            self._model.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                generation_config=config,
                stopping_criteria=StoppingCriteriaList([tap]),
            )
            mailbox.put(None)
        except (RuntimeError, ValueError, MemoryError) as problem:
            mailbox.put(EngineError("engine.computation_failed", what=str(problem)[:300]))
        finally:
            self._computed += tap.computed

    def computed(self) -> int:
        """Return how many tokens were computed in finished requests."""
        return self._computed

    def cache(self) -> tuple[int, int]:
        """There is no fixed cache."""
        return 0, 0

    def problem(self) -> CriaError | None:
        """Every request starts afresh."""
        return None

    def close(self) -> None:
        """Nothing runs between requests; the process ends right after this."""
