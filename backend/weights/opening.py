"""Opening a folder of weights whatever its layout. Knows nothing about the layouts but who reads them."""

from pathlib import Path

from backend.errors import WeightsError
from backend.weights.checkpoint import Checkpoint
from backend.weights.huggingface import has_weights, is_huggingface, open_huggingface
from backend.weights.meta import open_meta
from backend.weights.meta_files import is_meta, size_folders

# Names of other formats' files, and what they are.
_OTHERS = (
    ("*.gguf", "GGUF"),
    ("ggml*.bin", "GGML"),
    ("*.ckpt*", "TensorFlow / Lightning"),
    ("flax_model.msgpack", "Flax"),
    ("tf_model.h5", "TensorFlow"),
)
_UNFINISHED = ("*.part", "*.incomplete", "*.aria2", "*.crdownload", "*.download")


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a folder of weights: Meta's layout or Hugging Face's, whichever it is.

    Raises:
        WeightsError: not a folder, nothing recognisable in it, or the reader found something wrong.
    """
    try:
        return _open(folder)
    except OSError as problem:  # the folder itself: its files are opened where their names are known
        what = problem.strerror or str(problem)
        raise WeightsError("weights.cannot_read", file=folder.name[:120], what=what) from problem


def _open(folder: Path) -> Checkpoint:
    if not folder.is_dir():
        raise WeightsError("weights.no_folder", folder=str(folder))
    unfinished = sorted(path.name for pattern in _UNFINISHED for path in folder.glob(pattern))
    if unfinished:
        raise WeightsError("weights.unfinished", file=unfinished[0], folder=str(folder))
    if is_meta(folder) and not has_weights(folder):
        return open_meta(folder)
    sizes = size_folders(folder)
    if len(sizes) == 1 and not has_weights(folder):
        return _open(sizes[0])
    if is_huggingface(folder):
        return open_huggingface(folder)
    if (folder / "adapter_config.json").is_file():
        raise WeightsError("weights.is_adapter", folder=str(folder))
    for pattern, kind in _OTHERS:
        if any(folder.glob(pattern)):
            raise WeightsError("weights.other_format", folder=str(folder), kind=kind)
    if sizes:
        names = ", ".join(path.name for path in sizes[:8])
        raise WeightsError("weights.size_folders", folder=str(folder), sizes=names)
    raise WeightsError("weights.nothing_here", folder=str(folder))
