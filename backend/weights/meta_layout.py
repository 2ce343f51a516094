"""A checkpoint in Meta's raw layout: which shard gets which rows or columns of which tensor, under which name. Nothing
is read; ``meta_save`` writes it. Knows nothing about disks.

Cut as Meta's ColumnParallel (rows) and RowParallel (columns) layers are, embeddings along columns in LLaMA 1 and
Llama 2 and along rows from Llama 3 on (meta-llama/llama and llama3 ``model.py``). Vocabulary rows that do not divide
evenly go to the last shard, as in Chinese-LLaMA-Alpaca's merge script.
"""

from dataclasses import dataclass

from backend.errors import UsageError, WeightsError
from backend.weights.checkpoint import Checkpoint, Tensor
from backend.weights.meta_files import shard_name
from backend.weights.meta_names import EMBED, meta_name
from backend.weights.meta_params import params_bytes
from backend.weights.meta_releases import SIZES, find_size, is_llama3
from backend.weights.shape import EMBED as HF_EMBED
from backend.weights.shape import HEAD, ModelShape
from backend.weights.split import Cut, Piece, even_bounds, pairs_from_halves
from backend.weights.torch_zip_writer import Entry, TorchZip

MAX_SHARDS = 99  # two digits in the names
_CUT_ALONG_COLUMNS = (".attention.wo.weight", ".feed_forward.w2.weight")
_HEADS_REORDERED = (".attention.wq.weight", ".attention.wk.weight")


@dataclass(frozen=True)
class MetaLayout:
    """A model cut into ``shards`` files. ``pieces`` are in file order; ``params`` are the bytes of params.json."""

    shards: int
    pieces: tuple[Piece, ...]
    params: bytes

    def files(self) -> dict[str, TorchZip]:
        """Return the shard files by name, planned to the last byte."""
        names = [shard_name(shard) for shard in range(self.shards)]
        return {name: TorchZip(name.removesuffix(".pth"), self._entries(shard)) for shard, name in enumerate(names)}

    def _entries(self, shard: int) -> list[Entry]:
        return [Entry(piece.name, piece.tensor.dtype, piece.shape(shard)) for piece in self.pieces]


def to_meta_layout(checkpoint: Checkpoint, shards: int | None = None) -> MetaLayout:
    """Return a checkpoint in Meta's names, head order and cut; ``shards`` as Meta published that size, by default.

    A head that is the embeddings is stored, as Meta does.

    Raises:
        UsageError: the model cannot be cut into so many parts.
        WeightsError: not a Llama, or one that params.json cannot describe.
    """
    shape = checkpoint.llama
    _check(shape)
    count = default_shards(shape) if shards is None else shards
    _check_cut(shape, count)
    whole = dict(checkpoint.items())
    whole.setdefault(HEAD, whole[HF_EMBED])
    pieces = tuple(_piece(name, tensor, shape, shards=count) for name, tensor in whole.items())
    return MetaLayout(count, pieces, params_bytes(shape))


def default_shards(shape: ModelShape) -> int:
    """Return how many shards Meta's release of that size has; by width alone for sizes they never published, else
    1."""
    size = find_size(dim=shape.hidden, layers=shape.layers, heads=shape.heads, kv_heads=shape.kv_heads, ffn=shape.ffn)
    similar = size or next((size for size in SIZES if size.dim == shape.hidden), None)
    return similar.shards if similar else 1


def _check(shape: ModelShape) -> None:
    """Make sure that Meta's code could compute with this model."""
    if shape.head_dim * shape.heads != shape.hidden:
        raise WeightsError("meta.cannot_head_dim", heads=shape.heads, head_dim=shape.head_dim, hidden=shape.hidden)
    if shape.attention_bias or shape.mlp_bias:
        raise WeightsError("meta.cannot_bias")


def _check_cut(shape: ModelShape, shards: int) -> None:
    """Make sure that every shard gets whole heads and equally many: Meta's code computes with nothing else."""
    if not 1 <= shards <= min(MAX_SHARDS, shape.vocab):
        raise UsageError("meta.shards_range", shards=shards, most=min(MAX_SHARDS, shape.vocab))
    if shape.heads % shards or shape.kv_heads % shards or shape.ffn % shards:
        sizes = {"heads": shape.heads, "kv_heads": shape.kv_heads, "ffn": shape.ffn}
        raise UsageError("meta.cannot_cut", shards=shards, **sizes)


def _piece(source: str, tensor: Tensor, shape: ModelShape, *, shards: int) -> Piece:
    name = meta_name(source)
    if len(tensor.shape) == 1:
        return Piece(name, source, tensor, Cut.COPY, even_bounds(tensor.length, shards))
    if name.endswith(_CUT_ALONG_COLUMNS) or (name == EMBED and not is_llama3(shape.rope_theta, shape.vocab)):
        return Piece(name, source, tensor, Cut.COLUMNS, even_bounds(tensor.shape[1], shards))
    if name.endswith(_HEADS_REORDERED):
        tensor = pairs_from_halves(tensor, shape.head_dim)
    return Piece(name, source, tensor, Cut.ROWS, even_bounds(tensor.length, shards))
