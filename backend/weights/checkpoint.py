"""The one value the whole pipeline passes along: a lazy mapping from tensor name to tensor.

Readers make a ``Checkpoint``, transforms turn one into another, one writer streams it to disk. Names and axis order are
Hugging Face's, whatever the source. Nothing is read until somebody asks a tensor for rows, and no more than those rows
then. Knows nothing about file formats, transforms or output.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Literal

from backend.arrival import in_order
from backend.errors import WeightsError
from backend.text import Message
from backend.weights.disk import SourceFile, label
from backend.weights.dtypes import FLOATS, Array, itemsize
from backend.weights.shape import ModelShape, Shape

SLAB_BYTES = 8_000_000  # long enough to read at full speed; twice that took 20 % more memory and was no faster
SHORT_TAIL = 64  # rows; a shorter rest joins the slab before it: matrix products of a few rows round differently

Kind = Literal["meta", "huggingface"]


@dataclass(frozen=True)
class Tensor:
    """One array, not loaded. ``rows(start, stop)`` returns it from row start to row stop, in ``NUMPY[dtype]``.

    ``unit`` is the number of rows that are cheapest to ask for together (one attention head, say); any other range is
    answered too, with the same numbers. It may be asked from several threads at once, and what it returns belongs to
    whoever asked. ``files`` are all that its numbers come from.
    """

    dtype: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], Array] = field(repr=False)
    unit: int = 1
    files: frozenset[Path] = field(default=frozenset(), repr=False)

    @property
    def length(self) -> int:
        """Number of rows: the first axis."""
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.shape[1:]) * itemsize(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.length * self.row_bytes

    def cuts(self, slab_bytes: int = SLAB_BYTES) -> Iterator[tuple[int, int]]:
        """Yield start and stop of slabs of about ``slab_bytes`` of whole units, from the first row to the last."""
        per_unit = max(1, self.unit * self.row_bytes)
        step = max(1, slab_bytes // per_unit) * self.unit
        start = 0
        while start < self.length:
            stop = min(start + step, self.length)
            if self.length - stop < min(SHORT_TAIL, step):
                stop = self.length
            yield start, stop
            start = stop

    def slabs(self, slab_bytes: int = SLAB_BYTES) -> Iterator[Array]:
        """Yield the rows of every slab."""
        for start, stop in self.cuts(slab_bytes):
            yield self.rows(start, stop)

    def array(self) -> Array:
        """Return the whole tensor; for the small ones."""
        return self.rows(0, self.length)


@dataclass(frozen=True, eq=False)
class Checkpoint(Mapping[str, Tensor]):
    """A model's weights, not loaded, with what is known about it. Iterates in the order a model lists its tensors.

    ``notes`` are facts found on the way that a person should see; ``doing`` is the catalogue key that says what making
    one tensor of it means; ``made_of`` names source files and transforms, so that a resumed job knows its own work.
    """

    kind: Kind
    folder: Path
    tensors: Mapping[str, Tensor] = field(repr=False)
    shape: Shape
    files: tuple[SourceFile, ...] = field(repr=False)
    doing: str = "weights.doing.copy"
    notes: tuple[Message, ...] = ()
    delta_rows: int = 0  # embedding rows that a delta brought beyond its base's
    delta_fill: str | None = None  # what those were added to: "zero" or "mean"
    made_of: tuple[str, ...] = field(default=(), repr=False)
    checks: tuple[Callable[[], None], ...] = field(default=(), repr=False)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def llama(self) -> ModelShape:
        """The shape, for what can be done with Llama models only.

        Raises:
            WeightsError: this is a model of another kind.
        """
        if not isinstance(self.shape, ModelShape):
            raise WeightsError("finish.llama_only", folder=label(self.folder))
        return self.shape

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def source_bytes(self) -> int:
        """Bytes of the files all this comes from."""
        return sum(file.bytes for file in self.files)

    @property
    def arrival(self) -> dict[Path, int]:
        """The files in the order in which they would come from a hub."""
        folders = dict[Path, list[tuple[Path, str, int]]]()
        for file in self.files:
            folders.setdefault(file.path.parent, []).append((file.path, file.path.name, file.bytes))
        return {path: number for number, path in enumerate(in_order(list(folders.values())))}

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def dtype(self) -> str:
        """The number format that holds most of the weights."""
        totals = dict.fromkeys(FLOATS, 0)
        for tensor in self.tensors.values():
            totals[tensor.dtype] = totals.get(tensor.dtype, 0) + tensor.nbytes
        return max(totals, key=lambda dtype: totals[dtype])

    def check_sources(self) -> None:
        """Finish the checksums of everything that was read; call it after the last row.

        Raises:
            WeightsError: the bytes of a file are not the ones that were saved.
        """
        for check in self.checks:
            check()
