"""Numbers that are none stay with the request they come from, in a batch where all requests are one matrix.

Attention multiplies what a request must not see by zero, and zero times infinity is no number: one request whose
numbers outgrow their format (float16 ends at 65504) would end everybody's. So after each step all its tokens are looked
at; should one of them have no numbers, the step is computed again with such keys and values taken out, and whoever they
belong to is named. As long as all is well, this costs one look at a step's last hidden states. Knows nothing about
text, sampling or what becomes of those who are named.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers.generation.continuous_batching.requests import FutureRequestState

_MOST = 6e4  # no key or value of a model that works is as large; float16 ends at 65504
_WINDOW = "sliding_attention"


class OverflowGuard:
    """Watches every step of a model over a paged cache, in the thread that computes it."""

    def __init__(
        self,
        model: Any,
        cache: Any,
        requests: Callable[[], Sequence[FutureRequestState]],
        refuse: Callable[[Iterable[str]], None],
    ) -> None:
        """``requests`` returns those of the step under way, in order; ``refuse`` is told whose numbers are none,
        before anything is made of them."""
        self._cache, self._requests, self._refuse = cache, requests, refuse
        self._found: set[int] = set()  # places in the step
        self._hook = model.base_model.register_forward_hook(self._look, with_kwargs=True)

    def close(self) -> None:
        """Watch no longer."""
        self._hook.remove()

    def _look(self, module: Any, args: tuple[Any, ...], step: Mapping[str, Any], out: Any) -> Any:
        """Return the step's hidden states [1, tokens, hidden] as they are, or computed again."""
        if _sound(out.last_hidden_state).all():
            return None
        requests = self._requests()
        self._found = {number for number, one in enumerate(requests) if self._is_past_repair(one)}
        self._cache.update = partial(self._cleaned, self._cache.update)
        try:
            again = module.forward(*args, **step)
        finally:
            del self._cache.update  # the class' own is there again
        self._blame(~_sound(again.last_hidden_state)[0], step["cu_seq_lens_q"])
        self._refuse([requests[number].state.request_id for number in sorted(self._found)])
        return again

    def _cleaned(self, update: Callable[..., Any], *states: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values [1, heads, all tokens of the step's requests, width] for attention, without those that
        would spoil it. The cache keeps them: whoever begins alike, and finds them there, is no better off."""
        key, value = update(*states, **named)
        bad = ~(_small(key) & _small(value))
        self._blame(bad, named["kwargs"]["cu_seq_lens_k"])  # of this sort of layer: ``update`` has chosen them
        return key.masked_fill(bad[:, None], 0.0), value.masked_fill(bad[:, None], 0.0)

    def _blame(self, bad: torch.Tensor, ends: torch.Tensor) -> None:
        """Note whose tokens are bad; ``ends`` [requests + 1] is where each request's tokens begin and the last end."""
        places = bad.nonzero().flatten().to(ends.dtype)
        self._found.update(torch.bucketize(places, ends[1:].contiguous(), right=True).tolist())

    def _is_past_repair(self, one: FutureRequestState) -> bool:
        """Tell whether a step of a request cannot be computed twice: a part of a prompt that has taken the place of
        tokens at the other end of its window, which it had to look back at."""
        window = self._cache.cache_allocators.get(_WINDOW)
        begins = one.state.position_offset - one.query_length
        reaches = one.state.position_offset > getattr(window, "sliding_window", torch.inf)
        return bool(begins > 0 and one.query_length > 1 and reaches)


def _sound(states: torch.Tensor) -> torch.Tensor:
    """Return which tokens of [..., tokens, width] have numbers."""
    return torch.isfinite(states).all(dim=-1)


def _small(states: torch.Tensor) -> torch.Tensor:
    """Return which tokens of [1, heads, tokens, width] have numbers of a usual size."""
    return (states.abs() < _MOST).all(dim=-1).all(dim=1)[0]
