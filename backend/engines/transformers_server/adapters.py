"""LoRAs computed beside a loaded model: each layer's output gets its adapters' products, token by token at the strength
that the token's request asked for. Requests with different adapters are one batch.

The adapters of a layer lie side by side: x times all their first matrices, each column times the strength of its
adapter for that token, times all their second matrices. Whatever is switched off adds exact zeros. The weights
themselves stay untouched, so they may be quantised. Knows nothing about requests, files or how batches are made.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.nn.functional import embedding, linear

from backend.engines.adapters import Attachable, Matrix, Scales, choose_scales, naming
from backend.engines.base import Lora, Sampling
from backend.errors import WeightsError
from backend.weights.shape import HEAD

Segment = tuple[int, Scales]  # tokens that follow each other, and the strength of every adapter for them
Part = tuple[int, Matrix, Matrix]  # of one layer: number of the adapter, down, up


class Step:
    """One step of computing: the strengths of each token's adapters."""

    def __init__(self, segments: Sequence[Segment], answers: Sequence[Scales]) -> None:
        """``segments`` are its tokens in order; ``answers``: of those that get an answer, which the last layer sees
        first, and sees nobody else's of any use."""
        self.is_off = not any(chain.from_iterable(scales for _, scales in segments))  # the base alone
        if self.is_off:
            return
        counts = torch.tensor([count for count, _ in segments])
        self._tokens = torch.tensor([scales for _, scales in segments]).repeat_interleave(counts, dim=0)
        self._answers = torch.tensor(list(answers)).reshape(len(answers), self._tokens.shape[1])
        self._ready: dict[tuple[object, ...], torch.Tensor] = {}

    def columns(self, owners: tuple[int, ...], rows: int, device: torch.device, *, last: bool) -> torch.Tensor:
        """Return the strengths [rows, len(owners)] (or [1, ...] for all rows) of columns that belong to adapters."""
        key = owners, rows, device, last
        found = self._ready.get(key)
        if found is None:
            table = self._answers if last else self._tokens
            if len(table) not in (1, rows):  # the rest is padding, nobody's
                table = torch.nn.functional.pad(table, (0, 0, 0, rows - len(table)))
            found = self._ready[key] = table[:, list(owners)].to(device)
        return found


class Batch(threading.local):
    """What is being computed. ``step`` is replaced before each step, by the thread that computes it and for that thread
    alone: a reply that nobody waits for may still be in its last layers when the next begins.
    """

    def __init__(self, loras: Sequence[Lora]) -> None:
        self.loras = tuple(loras)
        self.step = Step((), ())

    def scales(self, sampling: Sampling) -> Scales:
        """Return the strength of each adapter that a request asks for; raises ``UsageError`` for what is not there."""
        return choose_scales(self.loras, sampling)


class Products:
    """The adapters of one layer, side by side: ``down`` [ranks, in], ``up`` [out, ranks]; ``owners`` says whose each of
    the ranks is. A forward hook."""

    def __init__(self, parts: Sequence[Part], batch: Batch, *, last: bool) -> None:
        self._batch, self._last = batch, last
        self._owners = tuple(index for index, down, _ in parts for _ in range(down.shape[0]))
        self._down = torch.cat([torch.from_numpy(down) for _, down, _ in parts])
        self._up = torch.cat([torch.from_numpy(up) for _, _, up in parts], dim=1)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Products":
        """Move to where the layer is."""
        self._down, self._up = self._down.to(device, dtype), self._up.to(device, dtype).contiguous()
        return self

    def __call__(self, _: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor | None:
        """Return what the layer made of x [..., tokens, in], with the products added."""
        step = self._batch.step
        if step.is_off:
            return None
        return out + linear(self._weighed(linear(given[0].to(self._down), self._down), step), self._up).to(out.dtype)

    def _weighed(self, inner: torch.Tensor, step: Step) -> torch.Tensor:
        """Return [..., tokens, ranks] with each column at its strength; the product is rounded once."""
        scales = step.columns(self._owners, inner.shape[-2], inner.device, last=self._last)
        return (inner * scales).to(inner.dtype)


class TableProducts(Products):
    """The same for a word table, where the first matrix [ranks, words] is looked up instead of multiplied."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "TableProducts":
        """Move to where the table is, a row a word."""
        self._down, self._up = self._down.to(device, dtype).T.contiguous(), self._up.to(device, dtype).contiguous()
        return self

    def __call__(self, _: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor | None:
        """Return the words' rows [..., tokens, width], with the products added."""
        step = self._batch.step
        if step.is_off:
            return None
        ids = given[0].to(self._down.device)
        return out + linear(self._weighed(embedding(ids, self._down), step), self._up).to(out.dtype)


def attach(model: Any, loras: Sequence[Lora], adapters: Sequence[Attachable], dtype: torch.dtype) -> Batch:
    """Hang adapters onto a model's layers, and return where to say how strong they are before each step.

    Raises:
        WeightsError: an adapter is damaged, or changes a layer that the model does not have.
    """
    batch = Batch(loras)
    for kind, read in ((Products, Attachable.products), (TableProducts, Attachable.tables)):
        layers = _by_layer(adapters, read)
        while layers:  # one by one: what was moved to its layer need not stay here as well
            name, parts = layers.popitem()
            try:
                module = model.get_submodule(name.removesuffix(".weight"))
            except AttributeError as problem:
                raise WeightsError("attach.no_module", name=name[:120]) from problem
            factor = _factor(module, dtype)
            parts = [(index, down, up * factor) for index, down, up in parts]
            products = kind(parts, batch, last=name == HEAD).to(module.weight.device, dtype)
            module.register_forward_hook(products)
    return batch


def _factor(module: Any, dtype: torch.dtype) -> np.float32:
    """Return what a layer multiplies its result by: Gemma's word table hands its rows on larger than they are."""
    scale = getattr(module, "embed_scale", None)
    return np.float32(1.0 if scale is None else float(torch.as_tensor(scale).to(dtype)))


def _by_layer(
    adapters: Sequence[Attachable], read: Callable[[Attachable], Iterator[tuple[str, Matrix, Matrix]]]
) -> dict[str, list[Part]]:
    found: dict[str, list[Part]] = {}
    for index, adapter in enumerate(adapters):
        with naming(adapter.name):
            for name, down, up in read(adapter):
                found.setdefault(name, []).append((index, down, up))
    return found
