"""params.json against the published files' sums, and which release a raw checkpoint is taken for."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.weights.meta_files import checklist_bytes, read_checklist
from backend.weights.meta_layout import default_shards
from backend.weights.meta_params import ffn_from_params, llama3_scaling, params_bytes, size_from_params
from backend.weights.meta_releases import SIZES, Release, find_size, recognise
from backend.weights.shape import ModelShape

PARAMS_7B = b'{"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1}'


def shape(
    hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, norm_eps: float = 1e-6, **rest: object
) -> ModelShape:
    values = {"vocab": 32000, **rest}
    return ModelShape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        ffn=ffn,
        norm_eps=norm_eps,
        **values,  # type: ignore[arg-type]
    )


SEVEN = shape(4096, 32, 32, 32, 11008)


@pytest.mark.parametrize(
    ("model", "md5"),
    [
        (SEVEN, "7596560e011154b90eb51a1b15739763"),
        (shape(5120, 40, 40, 40, 13824), "0171286599e0f8858893e49fb74b71f8"),
        (shape(6656, 60, 52, 52, 17920), "4babdbd05b8923226a9e9622492054b6"),
        (shape(8192, 80, 64, 64, 22016, 1e-5), "0306cf93a1c2c3891166fe1fd782c2b7"),
        (replace(SEVEN, norm_eps=1e-5), "9a3757de7196d1840b551a85b82efbc8"),  # Llama 2
    ],
    ids=["7B", "13B", "30B", "65B", "Llama 2 7B"],
)
def test_params_json_is_the_published_one(model: ModelShape, md5: str) -> None:
    assert hashlib.md5(params_bytes(model)).hexdigest() == md5


def test_params_json_of_llama_3_1_is_the_published_one() -> None:
    scaling = llama3_scaling(4096)
    model = shape(4096, 32, 32, 8, 14336, 1e-5, vocab=128256, rope_theta=500000.0, rope_scaling=scaling)
    data = params_bytes(model)
    assert len(data) == 199
    assert hashlib.sha256(data).hexdigest() == "b15b6b31b2043c0400b028ecc25c8946e21d76ac260e9ac6a357ed8727c8865f"


def test_the_checklist_of_7b_is_the_published_one(tmp_path: Path) -> None:
    sums = {
        "consolidated.00.pth": "6efc8dab194ab59e49cd24be5574d85e",
        "params.json": hashlib.md5(PARAMS_7B).hexdigest(),
    }
    data = checklist_bytes(sums)
    assert hashlib.sha256(data).hexdigest() == "7935c843a25ae265d60bf4543b90bfd91c4911b728412b5c1d5cff42a3cd5645"
    (tmp_path / "checklist.chk").write_bytes(data + b"not a line\n../x\n")
    assert read_checklist(tmp_path / "checklist.chk") == sums
    (tmp_path / "checklist.chk").write_bytes(data * 2000)
    assert read_checklist(tmp_path / "checklist.chk") == {}
    assert read_checklist(tmp_path / "none") == {}


@given(
    hidden=st.integers(10, 200).map(lambda n: 8 * n),
    ffn=st.integers(1, 60000),
    kv_heads=st.sampled_from([2, 4]),
    theta=st.sampled_from([10000.0, 500000.0, 1000000.0]),
)
def test_any_feed_forward_size_can_be_said(hidden: int, ffn: int, kv_heads: int, theta: float) -> None:
    table = json.loads(params_bytes(shape(hidden, 3, 4, kv_heads, ffn, 1e-5, rope_theta=theta)))
    assert ffn_from_params(table) == ffn
    assert (table["dim"], table["n_layers"], table["n_heads"]) == (hidden, 3, 4)
    assert table.get("n_kv_heads", 4) == kv_heads
    assert table.get("rope_theta", 10000.0) == theta


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size.label} in {size.shards}")
def test_the_table_agrees_with_the_formula_and_names_itself(size: object) -> None:
    assert size in SIZES
    table = {"dim": size.dim, "n_layers": size.layers, "n_heads": size.heads, "n_kv_heads": size.kv_heads}
    table |= {"multiple_of": size.multiple_of, "ffn_dim_multiplier": size.multiplier}
    assert ffn_from_params(table) == size.ffn
    assert size_from_params(table) is size


@pytest.mark.parametrize(
    ("model", "shards"),
    [
        (SEVEN, 1),
        (shape(5120, 40, 40, 40, 13824), 2),
        (shape(6656, 60, 52, 52, 17920), 4),
        (shape(8192, 80, 64, 64, 22016), 8),
        (shape(8192, 48, 64, 8, 22016), 4),
        (shape(16384, 126, 128, 8, 53248), 8),
        (shape(5120, 36, 40, 40, 13824), 2),  # never published: by its width
        (shape(192, 4, 6, 6, 512), 1),
    ],
)
def test_shards_by_default(model: ModelShape, shards: int) -> None:
    assert default_shards(model) == shards


def taken_for(label: str | None, **facts: object) -> Release:
    """Recognise a published size, or none, with LLaMA 1's settings unless told otherwise."""
    size = next((size for size in SIZES if size.label == label), None)
    values: dict[str, object] = {"theta": 10000.0, "scaled": False, "norm_eps": 1e-6, "dtype": "F16", "vocab": 32000}
    values |= {"grouped": size is not None and size.kv_heads != size.heads} | facts
    return recognise(size, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("label", "facts", "name", "positions", "why"),
    [
        ("7B", {}, "LLaMA-7B", 2048, "by_eps"),
        ("7B", {"norm_eps": 1e-5}, "Llama-2-7B", 4096, "by_eps"),
        ("7B", {"norm_eps": 1e-5, "dtype": "BF16"}, "Llama-2-7B", 4096, "by_eps"),
        ("7B", {"dtype": "BF16"}, "Llama-2-7B", 4096, "by_dtype"),  # the first upload of the chat model
        ("7B", {"dtype": "F32"}, "LLaMA-7B", 2048, "by_eps"),
        ("7B", {"norm_eps": 1e-4}, "LLaMA-7B", 2048, "by_dtype"),
        ("7B", {"dtype": "BF16", "listed": ["6efc8dab194ab59e49cd24be5574d85e"]}, "LLaMA-7B", 2048, "by_checksum"),
        ("7B", {"listed": ["0" * 32, "daa8e3109935070df7fe8fc42d34525e"]}, "Llama-2-7B", 4096, "by_checksum"),
        ("13B", {}, "LLaMA-13B", 2048, "by_eps"),
        ("30B", {"dtype": "BF16", "norm_eps": 1e-5}, "LLaMA-30B", 2048, "by_size"),
        ("65B", {"norm_eps": 1e-5}, "LLaMA-65B", 2048, "by_size"),
        ("70B", {"norm_eps": 1e-5, "dtype": "F16"}, "Llama-2-70B", 4096, "by_size"),
        ("34B", {"norm_eps": 1e-5, "theta": 1e6, "dtype": "BF16"}, "Code-Llama-34B", 16384, "by_theta"),
        ("8B", {"theta": 5e5, "vocab": 128256}, "Llama-3-8B", 8192, "by_theta"),
        ("8B", {"theta": 5e5, "scaled": True}, "Llama-3.1-8B", 131072, "by_theta"),
        ("1B", {"theta": 5e5, "scaled": True}, "Llama-3.2-1B", 131072, "by_theta"),
        ("70B", {"theta": 5e5, "scaled": True}, "Llama-3.1/3.3-70B", 131072, "by_theta"),
        (None, {}, None, 2048, "by_eps"),
    ],
)
def test_releases_are_told_apart(
    label: str | None, facts: dict[str, object], name: str | None, positions: int, why: str
) -> None:
    release = taken_for(label, **facts)
    assert (release.name, release.positions) == (name, positions)
    assert release.notes[-1].key == f"meta.found.{why}"
    assert len(release.notes) == (1 if name is None else 2)
    assert release.is_tied == (label == "1B")


def test_other_sizes_have_no_name() -> None:
    assert find_size(dim=4096, layers=33, heads=32, kv_heads=32, ffn=11008) is None
