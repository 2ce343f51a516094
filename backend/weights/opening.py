"""Opening a folder of weights whatever its layout. Knows nothing about the layouts but who reads them."""

from pathlib import Path

from backend.errors import WeightsError
from backend.weights.checkpoint import Checkpoint
from backend.weights.huggingface import has_weights, is_huggingface, open_huggingface
from backend.weights.meta import is_meta, open_meta

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
    if not folder.is_dir():
        raise WeightsError("weights.no_folder", folder=str(folder))
    unfinished = sorted(path.name for pattern in _UNFINISHED for path in folder.glob(pattern))
    if unfinished:
        raise WeightsError("weights.unfinished", file=unfinished[0], folder=str(folder))
    if is_meta(folder) and not has_weights(folder):
        return open_meta(folder)
    if is_huggingface(folder):
        return open_huggingface(folder)
    if (folder / "adapter_config.json").is_file():
        raise WeightsError("weights.is_adapter", folder=str(folder))
    for pattern, kind in _OTHERS:
        if any(folder.glob(pattern)):
            raise WeightsError("weights.other_format", folder=str(folder), kind=kind)
    sizes = sorted(path.name for path in folder.iterdir() if path.is_dir() and (path / "params.json").is_file())
    if sizes:
        raise WeightsError("weights.size_folders", folder=str(folder), sizes=", ".join(sizes[:8]))
    raise WeightsError("weights.nothing_here", folder=str(folder))
