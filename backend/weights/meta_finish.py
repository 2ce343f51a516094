"""Completes a folder of Meta shards into one that Meta's own code and old converters load: params.json, tokenizer.model
and the checklists. Knows nothing about how the weights were made.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from backend.storage import replace_file
from backend.text import Message
from backend.weights.checkpoint import Checkpoint
from backend.weights.disk import inside, label, read_start
from backend.weights.meta_files import CHECKLIST, TOKENIZER_CHECKLIST, checklist_bytes, read_checklist, shard_files
from backend.weights.meta_layout import to_meta_layout
from backend.weights.meta_params import PARAMS, params_bytes
from backend.weights.meta_releases import is_llama3
from backend.weights.partial import writing
from backend.weights.tiktoken_model import tiktoken_bytes
from backend.weights.tokenizer import MODEL, Vocabulary, find_vocabulary

_CHUNK = 8_000_000
_MODEL_LIMIT = 16_000_000  # bytes; what the readers of tokenizer.model accept


def finish_meta(checkpoint: Checkpoint, out: Path, *, sources: Sequence[Path]) -> tuple[Message, ...]:
    """Write everything but the weights into ``out``, where ``save_meta`` has been; returns what was found.

    ``sources`` are folders to look for a tokenizer in, the best first. LLaMA 1 and Llama 2 have a checklist of its own
    for the tokenizer, Llama 3 one for everything.

    Raises:
        WeightsError: no tokenizer fits the embedding rows, or the weights are not there.
        MachineError: the folder cannot be written.
    """
    shape = checkpoint.llama
    _, model, notes = _choose(checkpoint, sources)
    with writing(out):
        params = params_bytes(shape)
        replace_file(out / PARAMS, params)
        listed = dict(_shard_sums(out)) | {PARAMS: _md5(params)}
        if model is not None:
            replace_file(out / MODEL, model)
            if is_llama3(shape.rope_theta, shape.vocab):
                listed[MODEL] = _md5(model)
            else:
                replace_file(out / TOKENIZER_CHECKLIST, checklist_bytes({MODEL: _md5(model)}))
        replace_file(out / CHECKLIST, checklist_bytes(listed))
    return notes


def rehearse_meta(checkpoint: Checkpoint, sources: Sequence[Path]) -> tuple[Message, ...]:
    """Return what ``finish_meta`` will find, once the checkpoint is known to be one that can be cut; writes nothing.

    Raises:
        WeightsError: no tokenizer fits, or Meta's layout cannot describe this model.
        UsageError: it cannot be cut into shards.
    """
    to_meta_layout(checkpoint)
    return _choose(checkpoint, sources)[2]


def _choose(checkpoint: Checkpoint, sources: Sequence[Path]) -> tuple[Vocabulary, bytes | None, tuple[Message, ...]]:
    """Return the tokenizer, its tokenizer.model where it has one, and notes."""
    vocabulary = find_vocabulary(sources, checkpoint.llama.vocab)
    model = _tokenizer_model(vocabulary)
    lacks = [] if model else [Message("meta.found.no_tokenizer_model", {"folder": label(vocabulary.place)})]
    return vocabulary, model, (*vocabulary.notes, *lacks)


def _tokenizer_model(vocabulary: Vocabulary) -> bytes | None:
    """Return the bytes of tokenizer.model: the file, or for Llama 3 what its tokenizer.json was made from."""
    path = vocabulary.place / MODEL
    if path.is_file():
        return read_start(inside(vocabulary.place, MODEL), _MODEL_LIMIT)
    return tiktoken_bytes(vocabulary.fast) if vocabulary.fast is not None else None


def _shard_sums(out: Path) -> Iterator[tuple[str, str]]:
    """Yield name and md5 of every shard, as noted while they were written; a sum that was lost is made again."""
    known = read_checklist(out / CHECKLIST)
    for file in shard_files(out):
        name = file.path.name
        yield name, known.get(name) or _md5_of_file(file.path)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _md5_of_file(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
