"""Tokens for one request after the other, through ordinary ``generate``: for models that batching cannot serve.

A prompt is one step of ``generate``, which takes minutes where a long one meets a slow machine. So the layers are
counted too: a prompt that nobody waits for ends within a layer, and who watches can tell slow from hung. What the last
request computed is kept for one that begins alike. Knows nothing about text.
"""

import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, StoppingCriteria, StoppingCriteriaList

from backend.engines.adapters import Scales
from backend.engines.base import Sampling
from backend.engines.memory import computation_failed, is_out_of_memory
from backend.engines.transformers_server.adapters import Batch, Step
from backend.engines.transformers_server.kept import KeptConversation
from backend.engines.transformers_server.sampling import generate_options
from backend.engines.transformers_server.tokens import Mailbox, Reused, nobody
from backend.errors import CriaError, EngineError


class _Tap(StoppingCriteria):  # type: ignore[misc] # transformers is untyped
    """Sees every token right after it is computed: passes it on, and says when to stop."""

    def __init__(self, mailbox: Mailbox, stop: threading.Event, count: Callable[[], None]) -> None:
        self._mailbox, self._stop, self._count = mailbox, stop, count

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Take ids (1, length); return (1,) whether to stop."""
        self._count()
        self._mailbox.put([int(input_ids[0, -1])])
        return torch.tensor([self._stop.is_set()], device=input_ids.device)


class _Left(Exception):
    """Nobody waits for this reply any more. It ends ``generate`` in the middle of a prompt."""


class _Reply(threading.local):
    """The reply that a thread computes: its end flag, as long as it reads the prompt. The last reply may still be in
    its last layer when the next begins, in a thread of its own.
    """

    stop: threading.Event | None = None


@dataclass(frozen=True)
class _Work:
    """One reply to compute: the prompt, the words of ``generate``, and what goes with the thread that computes it."""

    ids: list[int]
    options: Mapping[str, float]
    mailbox: Mailbox
    stop: threading.Event
    cache: DynamicCache | None
    scales: Scales


class SingleTokens:
    """``TokenSource`` that answers one request at a time; others wait in the server's queue."""

    slots = 1

    def __init__(
        self,
        model: Any,
        *,
        eos: Sequence[int],
        start: int | None = None,
        adapters: Batch | None = None,
        keeps: bool = False,
    ) -> None:
        """``start``: the token a decoder begins with, where the prompt goes to an encoder. ``keeps``: keys and values
        depend on the tokens before them alone, so that those of the last request are good for the next.
        """
        self._model, self._eos, self._start, self._adapters = model, list(eos) or None, start, adapters
        self._kept = KeptConversation(model.config) if keeps else None
        self._computed = self._layers = 0
        self._reply = _Reply()
        for layer in _layers(model):
            layer.register_forward_hook(self._after_layer)
        model.register_forward_hook(_check_numbers)

    async def stream(
        self, ids: Sequence[int], sampling: Sampling, limit: int, reused: Reused = nobody
    ) -> AsyncIterator[Sequence[int]]:
        """Yield new tokens as they are computed; closing stops after the layer or the token being computed."""
        mailbox, stop = Mailbox(), threading.Event()
        scales = self._adapters.scales(sampling) if self._adapters else ()
        known, cache = self._kept.take(ids, scales) if self._kept else (0, None)
        reused(known)
        options = {**generate_options(sampling), "max_new_tokens": limit}
        work = _Work(list(ids), options, mailbox, stop, cache, scales)
        threading.Thread(target=self._generate, args=(work,), name="generate", daemon=True).start()
        try:
            while (tokens := await mailbox.get()) is not None:
                yield tokens
        finally:
            stop.set()

    def _generate(self, work: _Work) -> None:
        """Compute one reply. Whatever happens, the reply that waits for it hears of it."""
        self._reply.stop = work.stop
        if self._adapters is not None:
            self._adapters.step = Step([(1, work.scales)], [work.scales])  # every token of it is this reply's
        try:
            ids = self._compute(work)
            if self._kept and work.cache is not None:
                self._kept.keep(ids, work.scales, work.cache)
            work.mailbox.put(None)
        except _Left:
            work.mailbox.put(None)
        except CriaError as problem:
            work.mailbox.put(problem)
        except Exception as problem:  # noqa: BLE001 - the end of a thread that nobody awaits
            traceback.print_exc()
            work.mailbox.put(computation_failed(problem))
            if is_out_of_memory(problem) and torch.cuda.is_available():
                torch.cuda.empty_cache()  # what the failed reply held in reserve is for the next one

    def _compute(self, work: _Work) -> list[int]:
        """Return prompt and reply."""
        config = GenerationConfig(
            eos_token_id=self._eos,
            pad_token_id=(self._eos or [0])[0],
            decoder_start_token_id=self._start,
            **work.options,
        )
        batch = torch.tensor([work.ids], device=self._model.device)
        made = self._model.generate(
            batch,
            attention_mask=torch.ones_like(batch),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([_Tap(work.mailbox, work.stop, self._count)]),
            **({} if work.cache is None else {"past_key_values": work.cache}),
        )
        ids: list[int] = made[0].tolist()
        return ids

    def _count(self) -> None:
        """Runs after each token, in the thread that computes it: the prompt is read."""
        self._computed += 1
        self._reply.stop = None

    def _after_layer(self, *_: object) -> None:
        """Runs after each layer, in the thread that computes it."""
        self._layers += 1
        if self._reply.stop is not None and self._reply.stop.is_set():
            raise _Left

    def computed(self) -> int:
        """Return how many tokens were computed since the start."""
        return self._computed

    def steps(self) -> int:
        """Every layer counts: of a token, and of a prompt."""
        return self._layers + self._computed

    def cache(self) -> tuple[int, int]:
        """There is no fixed cache."""
        return 0, 0

    def problem(self) -> CriaError | None:
        """Every request starts afresh."""
        return None

    def close(self) -> None:
        """Nothing runs between requests; the process ends right after this."""


def _check_numbers(_: Any, __: Any, out: Any) -> None:
    """Make sure that scores are numbers, from which a greedy reply would otherwise pick in silence.

    Raises:
        EngineError: they are not.
    """
    if not torch.isfinite(out.logits[:, -1]).all():
        raise EngineError("engine.not_numbers")


def _layers(model: Any) -> Iterator[Any]:
    """Yield a model's layers: what the library never splits over devices."""
    kinds = frozenset(getattr(model, "_no_split_modules", None) or ())
    return (module for module in model.modules() if type(module).__name__ in kinds) if kinds else iter(())
