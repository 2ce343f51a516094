"""Growing a vocabulary, against torch's own zeros and ``mean(dim=0)``."""

from pathlib import Path

import pytest
import torch

from backend.errors import WeightsError
from backend.weights.checkpoint import Tensor
from backend.weights.huggingface import open_huggingface
from backend.weights.vocabulary import Fill, mean_row, resize_vocabulary
from tests.backend.weights.make import Tiny, weights, write_hf
from tests.backend.weights.reading import loaded, same_bits


def lazy(whole: torch.Tensor) -> Tensor:
    rows = whole.numpy()
    return Tensor("F16", tuple(whole.shape), lambda start, stop: rows[start:stop].copy())


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 255, 256, 257, 4097, 32000, 66000])
def test_the_mean_is_torchs_bit_for_bit(count: int) -> None:
    """Torch adds columns 32 or 64 at a time, so widths are multiples of 64, as every Llama's are."""
    whole = (torch.randn(count, 64, generator=torch.Generator().manual_seed(count)) * 0.02).half()
    assert torch.equal(torch.from_numpy(mean_row(lazy(whole))), whole.float().mean(dim=0))


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("fill", ["zero", "mean"])
@pytest.mark.parametrize("slab_bytes", [64, 1000, 10**6])
def test_new_rows(tmp_path: Path, dtype: str, fill: Fill, slab_bytes: int) -> None:
    tiny = Tiny(hidden=64, layers=1, dtype=dtype)
    wanted = weights(tiny)
    grown = resize_vocabulary(open_huggingface(write_hf(tmp_path / "b", tiny, wanted)), 307, fill=fill)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        row = wanted[name].float().mean(dim=0) if fill == "mean" else torch.zeros(64)
        wanted[name] = torch.cat([wanted[name], row.to(wanted[name].dtype).expand(7, 64)])
    assert same_bits(loaded(grown, slab_bytes), wanted)
    assert grown.llama.vocab == 307
    assert grown.notes[-1].params == {"before": 300, "after": 307}


def test_a_vocabulary_does_not_shrink(tmp_path: Path) -> None:
    tiny = Tiny(layers=1)
    checkpoint = open_huggingface(write_hf(tmp_path / "b", tiny, weights(tiny)))
    assert resize_vocabulary(checkpoint, 300) is checkpoint
    with pytest.raises(WeightsError, match="299"):
        resize_vocabulary(checkpoint, 299)


def test_tied_tables_stay_one(tmp_path: Path) -> None:
    tiny = Tiny(layers=1)
    found = {name: tensor for name, tensor in weights(tiny).items() if name != "lm_head.weight"}
    grown = resize_vocabulary(open_huggingface(write_hf(tmp_path / "b", tiny, found, tie_word_embeddings=True)), 310)
    assert "lm_head.weight" not in grown
    assert grown["model.embed_tokens.weight"].length == 310
