"""Picking tokens for several requests in one batch, each by its own rules.

transformers' batched temperature, top-k and top-p processors cannot be greedy for one request of a batch (equal scores
are drawn by lot) and know no repetition penalty; this one processor does all of it, row by row. Knows nothing about
prompts.
"""

from collections.abc import Mapping, Sequence

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor
from transformers.generation.continuous_batching.requests import FutureRequestState

from backend.engines.base import Sampling

_NEVER = float("-inf")


class PerRequestSampling(ContinuousBatchingLogitsProcessor):  # type: ignore[misc] # transformers is untyped
    """Turns each row of scores into what its request may pick from. Used by the generation thread only.

    ``broken`` are the ids of requests of this step whose scores are not numbers, instead of an end of everybody's
    generation: those that somebody noted before, and those found here. ``steps`` counts calls: one for each step of the
    batch, whether it made tokens or only read a part of a prompt.
    """

    supported_kwargs: dict[str, type] = {"sampling": Sampling}
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._rows: list[tuple[str, Sampling, tuple[Sequence[int], Sequence[int]]]] = []
        self.broken: set[str] = set()
        self.steps = 0

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Nothing travels in the argument tensor."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> torch.Tensor:
        """Remember whose scores come next, in order. Batches are computed one after the other, in this same thread."""
        self.broken.clear()
        self._rows = [
            (state.request_id, state.logit_processor_kwargs["sampling"], (state.initial_tokens, state.generated_tokens))
            for state in (request.state for request in requests_with_new_token)
        ]
        return torch.zeros(len(self._rows), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        """Process ``scores`` (rows, vocabulary); rows beyond the remembered ones are nobody's."""
        self.steps += 1
        sound = torch.isfinite(scores).all(dim=-1).tolist()
        for row, (request, sampling, parts) in enumerate(self._rows):
            if not sound[row] or request in self.broken:
                self.broken.add(request)
                scores[row] = _only(scores[row], 0)
                continue
            seen = [token for part in parts for token in part] if sampling.repetition_penalty != 1.0 else ()
            scores[row] = shape_scores(scores[row], sampling, seen)
        for row in range(len(self._rows), scores.shape[0]):
            scores[row] = _only(scores[row], 0)
        return scores


def shape_scores(scores: torch.Tensor, sampling: Sampling, seen: Sequence[int]) -> torch.Tensor:
    """Return the scores (vocabulary,) from which a softmax is drawn: penalty, then temperature, top-k, top-p.

    The penalty divides positive and multiplies negative scores of tokens seen before (CTRL, Keskar et al. 2019).
    """
    if seen:
        ids = torch.tensor(sorted(set(seen)), device=scores.device)
        old = scores[ids]
        penalty = sampling.repetition_penalty
        scores = scores.index_copy(0, ids, torch.where(old > 0, old / penalty, old * penalty))
    if sampling.temperature == 0 or sampling.top_k == 1:
        return _only(scores, int(scores.argmax()))
    scores = scores / max(sampling.temperature, 1e-3)
    if 0 < sampling.top_k < scores.numel():
        least = torch.topk(scores, sampling.top_k).values[-1]
        scores = scores.masked_fill(scores < least, _NEVER)
    if sampling.top_p < 1.0:
        ranked, order = torch.sort(scores, descending=True)
        before = torch.softmax(ranked, dim=-1).cumsum(dim=-1) - torch.softmax(ranked, dim=-1)
        beyond = before >= sampling.top_p
        beyond[0] = False
        scores = scores.masked_fill(torch.zeros_like(beyond).scatter(0, order, beyond), _NEVER)
    return scores


def _only(scores: torch.Tensor, token: int) -> torch.Tensor:
    """Return scores that leave one token to pick."""
    alone = torch.full_like(scores, _NEVER)
    alone[token] = 0.0
    return alone


def generate_options(sampling: Sampling) -> Mapping[str, float | int | bool]:
    """Return the same rules in the words of ``model.generate``, for the one-at-a-time fallback."""
    if sampling.temperature == 0 or sampling.top_k == 1:
        return {"do_sample": False, "repetition_penalty": sampling.repetition_penalty}
    return {
        "do_sample": True,
        "temperature": max(sampling.temperature, 1e-3),
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "repetition_penalty": sampling.repetition_penalty,
    }
