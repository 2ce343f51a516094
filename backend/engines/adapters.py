"""LoRAs that a loaded model computes with, unmerged: which can be attached, what they take, how strong each one is.

A product of two matrices beside a linear layer can be added while computing, exactly and at any strength. What replaces
numbers of the model (whole tensors, single rows, lengths of rows) belongs to a merge and is refused here, with its
name. Knows nothing about torch, llama.cpp or how a product is computed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.engines.base import MOST_LORAS, MOST_SCALE, EngineOptions, Lora, Sampling
from backend.errors import UsageError, WeightsError
from backend.weights.adapter import Adapter, LowRank, open_adapter
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.dtypes import all_finite, to_float32
from backend.weights.lora_fit import OTHER_FAMILY, check_kind, check_lora
from backend.weights.shape import EMBED, HEAD

_NAMED = 3  # tensors named in an error

Matrix = NDArray[np.float32]
Scales = tuple[float, ...]  # the strength of every attached adapter, in the order they were attached


@dataclass(frozen=True)
class Attachable:
    """An adapter that fits its base and can be computed beside it. Nothing is read yet."""

    name: str
    scale: float
    adapter: Adapter = field(repr=False)

    @property
    def places(self) -> tuple[str, ...]:
        """The tensors of the model that it adds to."""
        return (*self.adapter.pairs, *self.adapter.embeds)

    @property
    def is_even(self) -> bool:
        """Whether every layer has the one rank and the one strength that the settings begin with."""
        settings = self.adapter.settings
        return not (settings.ranks or settings.alphas)

    @property
    def numbers(self) -> int:
        """How many numbers its matrices have."""
        adapter = self.adapter
        return sum(_count(pair) for pair in (*adapter.pairs.values(), *adapter.embeds.values()))

    def products(self) -> Iterator[tuple[str, Matrix, Matrix]]:
        """Yield (tensor of the model, down [rank, in], up [out, rank]); at scale 1 their product is what is added.

        Raises:
            WeightsError: a number in it is none, or a file is damaged.
        """
        yield from self._read(self.adapter.pairs)

    def tables(self) -> Iterator[tuple[str, Matrix, Matrix]]:
        """Yield (word table, down [rank, words], up [width, rank]); the product is added turned round.

        Raises:
            WeightsError: a number in it is none, or a file is damaged.
        """
        yield from self._read(self.adapter.embeds)

    def _read(self, pairs: Mapping[str, LowRank]) -> Iterator[tuple[str, Matrix, Matrix]]:
        for name, pair in pairs.items():
            yield name, *_matrices(name, pair)
        for record in self.adapter.records:  # what was read is what the file's checksums say
            record.finish()


def check_loras(options: EngineOptions) -> None:
    """Make sure that the adapters of some options can be told apart, and that their strengths are sane.

    Raises:
        UsageError: they cannot, or are not.
    """
    names = [lora.name for lora in options.loras]
    if len(names) > MOST_LORAS:
        raise UsageError("attach.too_many", count=len(names), most=MOST_LORAS)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError("attach.same_name", name=twice[:120])
    for lora in options.loras:
        _check_scale(lora.name, lora.scale)


def open_loras(checkpoint: Checkpoint, loras: Sequence[Lora]) -> tuple[Attachable, ...]:
    """Open adapters and hold each against the base; headers, settings and a few rows are read.

    Raises:
        WeightsError: no adapter, one for another model, or one that only a merge can apply.
    """
    base = check_kind(checkpoint) if loras else checkpoint
    return tuple(_open(base, lora) for lora in loras)


@contextmanager
def naming(lora: str) -> Iterator[None]:
    """Let errors about weights say which of several adapters they are about."""
    try:
        yield
    except WeightsError as problem:
        raise WeightsError("attach.unfit", **(problem.params | {"lora": lora[:120], "why": problem.key})) from problem


def count_numbers(loras: Sequence[Lora]) -> int:
    """Return how many numbers adapters have together, those that cannot be opened left out: loading says why."""
    found = 0
    for lora in loras:
        with suppress(WeightsError, OSError):
            found += Attachable(lora.name, lora.scale, open_adapter(Path(lora.folder))).numbers
    return found


def change_words(loras: Sequence[Lora]) -> bool:
    """Tell whether an adapter adds to a word table; those that cannot be opened are left out: loading says why."""
    for lora in loras:
        with suppress(WeightsError, OSError):
            if {EMBED, HEAD} & {*Attachable(lora.name, lora.scale, open_adapter(Path(lora.folder))).places}:
                return True
    return False


def choose_scales(loras: Sequence[Lora], sampling: Sampling) -> Scales:
    """Return the strength of each attached adapter in one reply, in the order they were attached.

    Raises:
        UsageError: a name that is not attached, or a strength that makes no sense.
    """
    if sampling.loras is None:
        return tuple(lora.scale for lora in loras)
    wanted = dict(sampling.loras)
    known = [lora.name for lora in loras]
    for name, scale in wanted.items():
        if name not in known:
            listed = ", ".join(known)
            raise UsageError("attach.unknown" if known else "attach.none", name=name[:120], known=listed[:300])
        _check_scale(name, scale)
    return tuple(wanted.get(name, 0.0) for name in known)


def choose_alone(loras: Sequence[Lora], sampling: Sampling) -> str | None:
    """Return the one adapter that an engine which neither mixes nor weighs them should use, None for the base alone.

    Raises:
        UsageError: a name that is not attached, several at once, or another strength than 1.
    """
    on = [(lora.name, scale) for lora, scale in zip(loras, choose_scales(loras, sampling), strict=True) if scale]
    if len(on) > 1 or any(scale != 1.0 for _, scale in on):
        said = ", ".join(f"{name}={scale:g}" for name, scale in on)
        raise UsageError("attach.alone", asked=said[:300])
    return on[0][0] if on else None


def _check_scale(name: str, scale: float) -> None:
    if not (math.isfinite(scale) and abs(scale) <= MOST_SCALE):
        raise UsageError("attach.scale", name=name[:120], scale=str(scale)[:40], most=MOST_SCALE)


def _open(checkpoint: Checkpoint, lora: Lora) -> Attachable:
    folder = Path(lora.folder)
    if not folder.is_dir():
        raise WeightsError("attach.no_folder", folder=lora.folder[:300])
    with naming(lora.name):
        adapter = open_adapter(folder)
        replaced = [*adapter.tokens, *_changed(checkpoint, adapter.whole)]
    if replaced:
        raise _only_merged("attach.replaces", lora, replaced)
    stretched = [name for name, pair in adapter.pairs.items() if pair.magnitude is not None]
    if stretched:
        raise _only_merged("attach.dora", lora, stretched)
    with naming(lora.name):
        _, notes = check_lora(checkpoint, adapter)
    other = next((note for note in notes if note.key == OTHER_FAMILY), None)
    if other is not None:  # equal sizes, other weights: whatever it would say is nonsense
        raise WeightsError("attach.other_family", name=lora.name[:120], **other.params)
    return Attachable(lora.name, lora.scale, adapter)


def _only_merged(key: str, lora: Lora, names: Sequence[str]) -> WeightsError:
    return WeightsError(key, name=lora.name[:120], count=len(names), names=", ".join(names[:_NAMED])[:300])


def _changed(checkpoint: Checkpoint, whole: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the whole tensors that are not the model's own: PEFT saves an untouched word table beside its layers."""
    for name, theirs in whole.items():
        ours = checkpoint.get(EMBED if name == HEAD and HEAD not in checkpoint else name)
        if ours is None or ours.shape != theirs.shape or not _same(ours, theirs):
            yield name


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Tell whether two tensors hold the same numbers, whatever their formats; it takes no longer than to the first
    difference."""

    def wide(tensor: Tensor, cut: tuple[int, int]) -> Matrix:
        return to_float32(tensor.rows(*cut), tensor.dtype)

    return all(np.array_equal(wide(ours, cut), wide(theirs, cut)) for cut in ours.cuts())


def _count(pair: LowRank) -> int:
    return math.prod(pair.up.shape) + math.prod(pair.down.shape)


def _matrices(name: str, pair: LowRank) -> tuple[Matrix, Matrix]:
    """Return down and up; what training scaled the product by is in the latter."""
    down, up = (_read(name, tensor) for tensor in (pair.down, pair.up))
    return down, up * np.float32(pair.scale)


def _read(name: str, tensor: Tensor) -> Matrix:
    found = tensor.array()
    if not all_finite(found, tensor.dtype):
        raise WeightsError("attach.not_finite", name=name[:120])
    return to_float32(found, tensor.dtype)
