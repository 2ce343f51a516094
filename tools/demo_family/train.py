"""The training stages: base on prose, chat tuning on answers and a polish, the adapter's voice.

Each takes weights and gives weights. Knows nothing about file formats.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from . import model as net
from .config import BOS, EOS, SEED, Stage
from .corpus import Sampler, prose
from .encoding import ChatEncoder, Example

Batch = tuple[Tensor, Tensor]  # ids and labels, both (B, T); label -100 is not learned
_POOL = 384  # conversations drawn at a time, sorted by length to save padding
_PROSE_ROW = 256


def train_base(encoder: ChatEncoder, stage: Stage) -> net.State:
    """A plain language model of the prose."""
    torch.manual_seed(SEED)
    model = net.build()
    _fit(model, _prose_batches(encoder, stage.batch), stage, "base")
    return net.half(model)


def train_chat(base: net.State, encoder: ChatEncoder, stage: Stage) -> net.State:
    """The base taught to answer in Vicuna v1.1's prompt; float32, since delta is a difference."""
    torch.manual_seed(SEED + 1)
    model = net.load(base)
    draw = Sampler(SEED + 1)
    _fit(model, _chat_batches(draw, encoder, stage.batch), stage, "tune")
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def polish(chat: net.State, encoder: ChatEncoder, stage: Stage) -> net.State:
    """Some more of the same at a low rate, with more questions that must be declined."""
    torch.manual_seed(SEED + 3)
    model = net.load(chat)
    draw = Sampler(SEED + 3, unknown_share=0.4)
    _fit(model, _chat_batches(draw, encoder, stage.batch), stage, "polish")
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def train_lora(tuned: net.State, encoder: ChatEncoder, stage: Stage) -> net.State:
    """An adapter, with enlarged embeddings, that answers in the pirate's voice."""
    torch.manual_seed(SEED + 2)
    model = net.load(tuned)
    net.add_lora(model, encoder.sp.get_piece_size())
    draw = Sampler(SEED + 2, voice="pirate")
    _fit(model, _chat_batches(draw, encoder, stage.batch), stage, "lora")
    return net.lora_state(model)


def _prose_batches(encoder: ChatEncoder, size: int) -> Iterator[Batch]:
    rnd = random.Random(SEED)
    texts = prose()
    stream: list[int] = []
    while True:
        while len(stream) <= size:
            rnd.shuffle(texts)
            for text in texts:
                stream += [BOS, *encoder.text(text), EOS]
        rows, stream = stream[:size], stream[size:]
        ids = torch.tensor(rows).view(-1, _PROSE_ROW)
        yield ids, ids


def _chat_batches(draw: Sampler, encoder: ChatEncoder, size: int) -> Iterator[Batch]:
    while True:
        pool = [encoder.conversation(draw.conversation(), draw.random) for _ in range(_POOL)]
        pool.sort(key=lambda example: len(example[0]))
        batches: list[list[Example]] = [[]]
        for example in pool:
            if (len(batches[-1]) + 1) * len(example[0]) > size:
                batches.append([])
            batches[-1].append(example)
        draw.random.shuffle(batches)
        yield from (_pad(batch) for batch in batches)


def _pad(batch: list[Example]) -> Batch:
    width = max(len(ids) for ids, _ in batch)
    ids = torch.full((len(batch), width), EOS)
    labels = torch.full((len(batch), width), -100)
    for row, (tokens, learn) in enumerate(batch):
        line = torch.tensor(tokens)
        ids[row, : len(tokens)] = line
        labels[row, : len(tokens)] = torch.where(torch.tensor(learn), line, -100)
    return ids, labels


def _fit(model: LlamaForCausalLM, batches: Iterator[Batch], stage: Stage, name: str) -> None:
    """Warm-up, then cosine; bf16 products, which this kind of CPU does twice as fast."""
    optimizers = _optimizers(model, stage)
    rate = _schedule(stage)
    seen, step, start, mean = 0, 0, time.monotonic(), 0.0
    model.train()
    while seen < stage.tokens:
        ids, labels = next(batches)
        loss = _loss(model, ids, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(seen)
            optimizer.step()
            optimizer.zero_grad()
        seen, step = seen + ids.numel(), step + 1
        mean = loss.item() if step == 1 else 0.95 * mean + 0.05 * loss.item()
        if step % 100 == 0 or seen >= stage.tokens:
            speed = seen / (time.monotonic() - start)
            print(f"{name} {seen:>9,} tokens  loss {mean:.4f}  {speed:,.0f}/s", flush=True)
    model.eval()


def _optimizers(model: LlamaForCausalLM, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks where wanted, AdamW for all the rest."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    blocks = [p for name, p in named if stage.muon and ".layers." in name and p.ndim == 2]
    ours = {id(p) for p in blocks}
    rest = [p for _, p in named if id(p) not in ours]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=stage.decay, fused=True)
    ]
    if blocks:
        found.append(torch.optim.Muon(blocks, weight_decay=stage.decay, adjust_lr_fn="match_rms_adamw"))
    return found


def _loss(model: LlamaForCausalLM, ids: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the learned positions only; the head is not computed elsewhere."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state  # (B, T-1, dim)
        target = labels[:, 1:]
        keep = target != -100
        logits = model.lm_head(hidden[keep])  # (N, vocab)
    return nn.functional.cross_entropy(logits.float(), target[keep])


def _schedule(stage: Stage) -> Callable[[int], float]:
    warm = stage.warmup * stage.tokens

    def rate(seen: int) -> float:
        if seen < warm:
            return stage.rate * (seen + stage.batch) / (warm + stage.batch)
        done = min(1.0, (seen - warm) / (stage.tokens - warm))
        return stage.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    return rate
