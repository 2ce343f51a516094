"""The tokenizer of a model folder, mended where it came as early uploads left it. Knows nothing about devices.

transformers can read a lone ``tokenizer.model`` only with another library installed, and then cuts text after ``</s>``
otherwise than the model was trained on; Cria's own reader does what a set-up would have done.
"""

import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from backend.engines.folder import ModelFolder
from backend.engines.templates import ApartTokenizer, Renderer
from backend.engines.transformers_server.exact import exact
from backend.errors import WeightsError
from backend.weights.templates import Template, detect_template
from backend.weights.tokenizer import find_vocabulary, kept_template, write_tokenizer


def load_tokenizer(folder: ModelFolder) -> Any:
    """Load the folder's tokenizer: ``tokenizer.json`` as it is, else one built and mended from ``tokenizer.model``.

    Raises:
        WeightsError: the files cannot be read, or fit other weights.
    """
    if not (folder.path / "tokenizer.json").is_file():
        with tempfile.TemporaryDirectory(prefix="cria-tokenizer-") as temporary:
            _mend_tokenizer(folder, Path(temporary))
            return _apart(exact(_read_tokenizer(Path(temporary), folder.path), folder.path))
    return _apart(exact(_read_tokenizer(folder.path, folder.path), folder.path))


def _apart(tokenizer: Any) -> ApartTokenizer:
    return ApartTokenizer(tokenizer, Renderer())


def _mend_tokenizer(folder: ModelFolder, place: Path) -> None:
    """Write what a set-up would have written: folders from elsewhere often have SentencePiece's file only."""
    rows = folder.checkpoint.shape.vocab
    vocabulary = find_vocabulary([folder.path], rows)
    kept = kept_template(vocabulary)
    tokens = {token.text for token in vocabulary.added}
    template = Template("kept", kept) if kept else detect_template(rows=rows, tokens=tokens, delta_rows=None)
    write_tokenizer(vocabulary, place, template=template, context=folder.context)


def _read_tokenizer(place: Path, blamed: Path) -> Any:
    """Read the files in ``place``; if they are no good, the folder they were made from is to blame."""
    try:
        read = PreTrainedTokenizerFast.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
    except Exception as problem:  # the parser of an untrusted file raises whatever it likes
        raise WeightsError("engine.bad_tokenizer", folder=str(blamed), what=str(problem)[:300]) from problem
    model = read.backend_tokenizer.model
    # It would keep ten thousand words for every thread that comes by. Llama's prompts are one word, and take 8 kB each:
    # hundreds of MB in a day. Without them 185,000 characters are cut in 0.11 s instead of 0.07.
    if hasattr(model, "_resize_cache"):
        model._resize_cache(0)
    return read
