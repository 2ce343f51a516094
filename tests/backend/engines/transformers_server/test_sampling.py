"""Which tokens each request of a batch may pick from, against transformers' own processors."""

from types import SimpleNamespace

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from backend.engines.base import Sampling
from backend.engines.transformers_server.sampling import PerRequestSampling, generate_options, shape_scores

SCORES = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)) * 3
OPEN = Sampling(temperature=1.0, top_p=1.0, top_k=0)


@pytest.mark.parametrize(
    "sampling",
    [
        OPEN,
        Sampling(temperature=0.7, top_p=1.0, top_k=0),
        Sampling(temperature=1.0, top_p=1.0, top_k=5),
        Sampling(temperature=1.0, top_p=0.8, top_k=0),
        Sampling(temperature=1.0, top_p=0.01, top_k=0),
        Sampling(temperature=2.0, top_p=0.9, top_k=10, repetition_penalty=1.7),
        Sampling(temperature=0.3, top_p=0.5, top_k=999, repetition_penalty=0.8),
    ],
)
def test_the_same_as_ordinary_generation(sampling: Sampling) -> None:
    seen = [3, 7, 7, 20]
    for row in SCORES:
        wanted, ids = row[None].clone(), torch.tensor([seen])
        if sampling.repetition_penalty != 1:
            wanted = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, wanted)
        wanted = TemperatureLogitsWarper(sampling.temperature)(ids, wanted) if sampling.temperature != 1 else wanted
        wanted = TopKLogitsWarper(sampling.top_k)(ids, wanted) if sampling.top_k else wanted
        wanted = TopPLogitsWarper(sampling.top_p)(ids, wanted) if sampling.top_p < 1 else wanted
        found = shape_scores(row.clone(), sampling, seen if sampling.repetition_penalty != 1 else ())
        torch.testing.assert_close(torch.softmax(found, -1), torch.softmax(wanted[0], -1))


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(temperature=1, top_k=1)])
def test_greedy_leaves_one_token_even_among_equals(sampling: Sampling) -> None:
    scores = torch.tensor([0.0, 5.0, 5.0, 1.0])
    assert torch.softmax(shape_scores(scores, sampling, ()), -1).tolist() == [0, 1, 0, 0]
    assert generate_options(sampling)["do_sample"] is False


def test_greedy_heeds_the_penalty() -> None:
    scores = torch.tensor([0.0, 5.0, 4.0])
    sampling = Sampling(temperature=0, repetition_penalty=2.0)
    assert int(shape_scores(scores, sampling, [1]).argmax()) == 2


def _request(name: str, sampling: Sampling, prompt: list[int], made: list[int]) -> SimpleNamespace:
    state = SimpleNamespace(
        request_id=name, logit_processor_kwargs={"sampling": sampling}, initial_tokens=prompt, generated_tokens=made
    )
    return SimpleNamespace(state=state, has_new_token=True)


def test_each_row_by_its_own_rules_and_broken_rows_alone() -> None:
    processor = PerRequestSampling()
    greedy, hot = Sampling(temperature=0), Sampling(temperature=0, repetition_penalty=100.0)
    first = int(SCORES[0].argmax())
    requests = [
        _request("a", greedy, [1], []),
        _request("b", hot, [1], [first]),
        _request("bad", OPEN, [1], []),
    ]
    argument = processor.prepare_tensor_args(requests)  # type: ignore[arg-type]
    scores = torch.stack([SCORES[0], SCORES[0], torch.full((50,), float("nan")), SCORES[1]])  # the last is nobody's
    picked = torch.multinomial(torch.softmax(processor(scores, argument), -1), 1).flatten().tolist()
    assert picked[0] == first
    assert picked[1] != first
    assert processor.broken == {"bad"}
