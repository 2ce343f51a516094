import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from backend.errors import WeightsError
from backend.weights.huggingface import open_huggingface
from backend.weights.opening import open_checkpoint
from tests.backend.weights.make import Tiny, weights, write_hf, write_lora, write_meta
from tests.backend.weights.reading import loaded, same_bits


@given(
    kind=st.sampled_from(["safetensors", "bin"]),
    shards=st.integers(1, 4),
    dtype=st.sampled_from(["F16", "BF16", "F32"]),
    slab_bytes=st.integers(1, 4000),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_layout_is_bit_exact(tmp_path: Path, kind: str, shards: int, dtype: str, slab_bytes: int) -> None:
    tiny = Tiny(kv_heads=2, dtype=dtype)
    wanted = weights(tiny)
    folder = tmp_path / f"{kind}-{shards}-{dtype}"
    checkpoint = open_huggingface(write_hf(folder, tiny, wanted, kind=kind, shards=shards))
    assert same_bits(loaded(checkpoint, slab_bytes), wanted)


def test_old_uploads_are_read_and_named(tmp_path: Path) -> None:
    tiny = Tiny()
    found = weights(tiny)
    extra = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in range(2)}
    write_hf(tmp_path, tiny, found | extra, kind="bin", shards=3, architectures=["LLaMAForCausalLM"], vocab_size=-1,
             max_sequence_length=1024)  # fmt: skip
    ghost = {"model.layers.9.self_attn.rotary_emb.inv_freq": "pytorch_model-00001-of-00003.bin"}
    edit(tmp_path / "pytorch_model.bin.index.json", lambda d: d["weight_map"].update(ghost))
    checkpoint = open_huggingface(tmp_path)
    assert same_bits(loaded(checkpoint), found)
    keys = {note.key for note in checkpoint.notes}
    assert {"weights.found.old_class", "weights.found.vocab_size"} <= keys
    assert checkpoint.shape.max_positions == 1024


def test_the_old_name_of_a_scaling_becomes_todays(tmp_path: Path) -> None:
    """transformers 5 reads ``rope_type`` only, and computes without scaling where it is absent (Vicuna v1.5-16k)."""
    tiny = Tiny()
    shape = open_huggingface(
        write_hf(tmp_path, tiny, weights(tiny), rope_scaling={"type": "linear", "factor": 4.0})
    ).llama
    assert shape.rope_scaling == {"rope_type": "linear", "factor": 4.0}


def test_new_style_rope_parameters(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 500000.0}
    tiny = Tiny()
    shape = open_huggingface(write_hf(tmp_path, tiny, weights(tiny), rope_parameters=scaling)).shape
    assert shape.rope_theta == 500000.0
    assert shape.rope_scaling == {"rope_type": "llama3", "factor": 8.0}


def test_tied_heads_need_no_tensor(tmp_path: Path) -> None:
    tiny = Tiny()
    found = weights(tiny)
    del found["lm_head.weight"]
    checkpoint = open_huggingface(write_hf(tmp_path, tiny, found, tie_word_embeddings=True))
    assert checkpoint.shape.tie
    assert same_bits(loaded(checkpoint), found)


def edit(path: Path, change: object) -> None:
    data = json.loads(path.read_text())
    change(data)  # type: ignore[operator]
    path.write_text(json.dumps(data))


INDEX = "model.safetensors.index.json"
ONE = "model-00001-of-00002.safetensors"


def point_at(name: str) -> object:
    return lambda f: edit(f / INDEX, lambda d: d["weight_map"].update({"lm_head.weight": name}))


CASES = {
    "dot dot": (point_at("../model.safetensors"), "weights.bad_name"),
    "absolute": (point_at("/etc/passwd.bin"), "weights.bad_name"),
    "backslash": (point_at("..\\x.safetensors"), "weights.bad_name"),
    "drive": (point_at("C:x.safetensors"), "weights.bad_name"),
    "nul": (point_at("x\0.safetensors"), "weights.bad_name"),
    "hidden": (point_at(".x.safetensors"), "weights.bad_name"),
    "other suffix": (point_at("config.json"), "weights.bad_name"),
    "file not here": (point_at("model-00003-of-00003.safetensors"), "weights.shard_missing"),
    "wrong file": (point_at(ONE), "weights.index_differs"),
    "number as a file": (lambda f: edit(f / INDEX, lambda d: d["weight_map"].update({"x": 3})), "weights.index_bad"),
    "no map": (lambda f: (f / INDEX).write_text("{}"), "weights.index_bad"),
    "index lists a ghost": (
        lambda f: edit(f / INDEX, lambda d: d["weight_map"].update({"ghost": ONE})),
        "weights.index_differs",
    ),
    "index forgets one": (
        lambda f: edit(f / INDEX, lambda d: d["weight_map"].pop("lm_head.weight")),
        "weights.index_differs",
    ),
    "no index": (lambda f: (f / INDEX).unlink(), "weights.index_missing"),
    "shard is a pointer": (
        lambda f: (f / ONE).write_text("version https://git-lfs.github.com/spec/v1\nsize 5\n"),
        "weights.file_is_pointer",
    ),
    "shard is empty": (lambda f: (f / ONE).write_bytes(b""), "weights.file_empty"),
    "another model": (lambda f: edit(f / "config.json", lambda d: d.update(model_type="t5")), "weights.tensor_missing"),
    "type a list": (lambda f: edit(f / "config.json", lambda d: d.update(model_type=[1])), "weights.not_llama"),
    "quantised": (
        lambda f: edit(f / "config.json", lambda d: d.update(quantization_config={"bits": 4})),
        "weights.quantised",
    ),
    "layers": (lambda f: edit(f / "config.json", lambda d: d.update(num_hidden_layers=4)), "weights.tensor_missing"),
    "fewer layers": (
        lambda f: edit(f / "config.json", lambda d: d.update(num_hidden_layers=1)),
        "weights.tensor_unknown",
    ),
    "hidden size": (lambda f: edit(f / "config.json", lambda d: d.update(hidden_size=64)), "weights.tensor_shape"),
    "heads": (
        lambda f: edit(f / "config.json", lambda d: d.update(num_attention_heads=5)),
        "weights.config_does_not_fit",
    ),
    "kv heads": (
        lambda f: edit(f / "config.json", lambda d: d.update(num_key_value_heads=3)),
        "weights.config_does_not_fit",
    ),
    "huge": (lambda f: edit(f / "config.json", lambda d: d.update(hidden_size=1 << 40)), "weights.bad_number"),
    "rope": (
        lambda f: edit(f / "config.json", lambda d: d.update(rope_scaling={"type": "magic"})),
        "weights.rope_unknown",
    ),
    "context a text": (
        lambda f: edit(f / "config.json", lambda d: d.update(max_position_embeddings="2048")),
        "weights.bad_number",
    ),
}


@pytest.mark.parametrize(("damage", "key"), CASES.values(), ids=CASES.keys())
def test_what_is_wrong_is_said(tmp_path: Path, damage: object, key: str) -> None:
    tiny = Tiny()
    write_hf(tmp_path, tiny, weights(tiny), shards=2)
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(WeightsError) as refused:
        open_huggingface(tmp_path)
    assert refused.value.key == key, refused.value.text()
    assert refused.value.hint is not None


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    tiny = Tiny()
    found = weights(tiny)
    write_hf(tmp_path, tiny, found, shards=2)
    both = {name: found[name] for name in ("lm_head.weight", "model.embed_tokens.weight")}
    save_file(both, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(WeightsError, match=r"two files|do not agree"):
        open_huggingface(tmp_path)


def test_a_link_out_of_the_folder_is_refused_and_a_hub_cache_is_not(tmp_path: Path) -> None:
    tiny = Tiny()
    elsewhere = write_hf(tmp_path / "elsewhere", tiny, weights(tiny))
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(elsewhere / name)
    with pytest.raises(WeightsError, match="leads out"):
        open_huggingface(folder)
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (elsewhere / name).rename(cache / "blobs" / f"h{len(name)}")
        (snapshot / name).symlink_to(Path("../../blobs") / f"h{len(name)}")
    assert open_huggingface(snapshot).shape.hidden == 32


def renamed(folder: Path, name: str, first: int, *, count: int = 3) -> Path:
    """Number the parts of a folder in another way, in their names and in the index."""
    index = folder / INDEX
    for part in range(count):
        old, new = f"model-{part + 1:05d}-of-{count:05d}", name.format(part + first, count)
        (folder / f"{old}.safetensors").rename(folder / f"{new}.safetensors")
        index.write_text(index.read_text().replace(old, new))
    return folder


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["model-{:05d}-of-{:05d}", "model-{}-of-{}", "model-{:02d}-of-{:04d}"])
def test_parts_may_count_from_zero_and_without_leading_zeros(tmp_path: Path, name: str, first: int) -> None:
    tiny = Tiny()
    folder = renamed(write_hf(tmp_path, tiny, weights(tiny), shards=3), name, first)
    assert same_bits(loaded(open_huggingface(folder)), weights(tiny))
    lost = f"{name.format(1 + first, 3)}.safetensors"
    edit(folder / INDEX, lambda d: d.update(weight_map={k: v for k, v in d["weight_map"].items() if v != lost}))
    (folder / lost).unlink()
    with pytest.raises(WeightsError, match=lost) as refused:
        open_huggingface(folder)
    assert refused.value.key == "finish.part_unlisted"


def test_other_settings_make_other_work_of_the_same_files(tmp_path: Path) -> None:
    tiny = Tiny()
    folder = write_hf(tmp_path, tiny, weights(tiny))
    before = open_huggingface(folder).made_of
    assert open_huggingface(folder).made_of == before
    edit(folder / "config.json", lambda d: d.update(num_attention_heads=2, num_key_value_heads=2))
    assert open_huggingface(folder).made_of != before


def test_safetensors_come_before_bin(tmp_path: Path) -> None:
    tiny = Tiny()
    wanted = weights(tiny, 1)
    write_hf(tmp_path, tiny, weights(tiny, 2), kind="bin")
    write_hf(tmp_path, tiny, wanted)
    checkpoint = open_huggingface(tmp_path)
    assert same_bits(loaded(checkpoint), wanted)
    assert "weights.found.both_kinds" in [note.key for note in checkpoint.notes]


def test_any_folder_is_recognised(tmp_path: Path) -> None:
    tiny = Tiny()
    assert open_checkpoint(write_meta(tmp_path / "m", tiny, weights(tiny))).kind == "meta"
    assert open_checkpoint(write_hf(tmp_path / "h", tiny, weights(tiny))).kind == "huggingface"
    # Meta's files in a folder that has a config.json too, as some mirrors do
    (tmp_path / "m" / "config.json").write_text("{}")
    assert open_checkpoint(tmp_path / "m").kind == "meta"


def files(*names: str) -> object:
    def write(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("{}")

    return write


OTHERS = {
    "nothing": (files(), "weights.nothing_here"),
    "readme": (files("README.md"), "weights.nothing_here"),
    "gguf": (files("model.gguf"), "weights.other_format"),
    "config only": (files("config.json"), "weights.no_weights"),
    "unfinished": (files("config.json", "model.safetensors.part"), "weights.unfinished"),
    "sizes": (files("7B/params.json", "13B/params.json"), "weights.size_folders"),
    "params only": (files("params.json"), "weights.meta_no_shards"),
}


@pytest.mark.parametrize(("write", "key"), OTHERS.values(), ids=OTHERS.keys())
def test_folders_that_are_no_model(tmp_path: Path, write: object, key: str) -> None:
    write(tmp_path)  # type: ignore[operator]
    with pytest.raises(WeightsError) as refused:
        open_checkpoint(tmp_path)
    assert refused.value.key == key


def test_an_adapter_and_no_folder_at_all(tmp_path: Path) -> None:
    write_lora(tmp_path / "lora", Tiny())
    with pytest.raises(WeightsError, match="adapter"):
        open_checkpoint(tmp_path / "lora")
    with pytest.raises(WeightsError, match="no folder"):
        open_checkpoint(tmp_path / "nowhere")
