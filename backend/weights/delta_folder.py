"""Opening the folder of a delta, and telling what only looks like one. Knows nothing about how a delta is added.

Some releases hide the tuned files behind an exclusive or with the base's files, byte by byte: OpenAssistant's and
Pygmalion's with one exact Hugging Face conversion, others (``.enc``) with Meta's own. Undoing that needs the very bytes
that old versions of torch wrote, so it is refused with the reason.
"""

from pathlib import Path

from backend.errors import WeightsError
from backend.weights.checkpoint import Checkpoint
from backend.weights.disk import read_start
from backend.weights.opening import open_checkpoint

_SETTINGS = ("config.json", "tokenizer_config.json", "special_tokens_map.json")
_WEIGHTS = ("*.bin", "*.pth", "*.safetensors")
_MANY = 1000  # files to look at


def open_delta(folder: Path) -> Checkpoint:
    """Open a folder with a delta.

    Raises:
        WeightsError: as ``open_checkpoint``, or the files are an exclusive or.
    """
    if folder.is_dir():
        hidden = _hidden_file(folder)
        if hidden is not None:
            raise WeightsError("delta.exclusive_or", file=hidden, folder=str(folder))
    return open_checkpoint(folder)


def _hidden_file(folder: Path) -> str | None:
    """Return a file that is an exclusive or. Two files that begin alike give zeros where they do."""
    for name in ("xor_codec.py", *_SETTINGS):
        path = folder / name
        if path.is_file() and (name == "xor_codec.py" or _start(path, 1) == b"\0"):
            return name
    encoded = next((path.name for path in sorted(folder.glob("*.enc"))[:1]), None)
    if encoded is not None:
        return encoded
    weights = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))
    return next((path.name for path in weights[:_MANY] if path.is_file() and _start(path, 4) == b"\0\0\0\0"), None)


def _start(path: Path, count: int) -> bytes:
    return read_start(path, count)
