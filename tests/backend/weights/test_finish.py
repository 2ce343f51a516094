"""A finished folder: what transformers makes of it, what verification finds, and what cria.json keeps."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.errors import Cancelled, UsageError, WeightsError
from backend.text import Message
from backend.weights.checkpoint import Checkpoint
from backend.weights.finish import finish_folder
from backend.weights.huggingface import open_huggingface
from backend.weights.meta import open_meta
from backend.weights.opening import open_checkpoint
from backend.weights.provenance import FILE, Origin, Provenance, SelfTest, read_cria_json, write_cria_json
from backend.weights.verify import verify
from backend.weights.writer import save, written
from tests.backend.weights.make import Tiny, tokenizer_model, weights, write_hf, write_meta
from tests.backend.weights.reading import same_bits
from tests.backend.weights.test_tokenizer import folder_with

TINY = Tiny(vocab=500, kv_heads=2)


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    folder = write_meta(tmp_path / "source", TINY, weights(TINY), shards=2)
    folder_with(folder, tokenizer_model())
    return open_meta(folder)


@pytest.fixture
def model(tmp_path: Path, source: Checkpoint) -> Path:
    out = tmp_path / "out"
    list(save(source, out, shard_bytes=30_000))
    finish_folder(source, out, sources=[source.folder], template="vicuna-v1.1", context=256)
    return out


def provenance(**more: object) -> Provenance:
    return replace(
        Provenance(
            recipe="demo",
            origins=(
                Origin("base", "builtin:demo/base", None, (("consolidated.00.pth", 3),)),
                Origin("lora", "x", 0.5),
            ),
            template="vicuna-v1.1",
            system="A chat.",
            stops=("###",),
            context=256,
            parameters=10,
            dtype="F16",
            questions=(("en", "Hi?"), ("zh-CN", "你好？")),
            notes=(Message("weights.found.pad_added", {"id": 3}),),
        ),
        **more,  # type: ignore[arg-type]
    )


def test_transformers_loads_it_as_it_was_meant(model: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(model)
    assert loaded.dtype == torch.float16
    state = loaded.state_dict()
    assert same_bits({name: state[name] for name in weights(TINY)}, weights(TINY))
    config = loaded.config
    assert (config.max_position_embeddings, config.vocab_size, config.num_key_value_heads) == (256, 500, 2)
    assert (loaded.generation_config.eos_token_id, loaded.generation_config.bos_token_id) == (2, 1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    talk = [{"role": "user", "content": "Hello!"}]
    ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    reply = loaded.float().generate(**ids, max_new_tokens=4, do_sample=False)
    assert reply.shape[1] <= ids["input_ids"].shape[1] + 4


def test_logits_are_those_of_a_model_built_by_hand(model: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{**TINY.config(), "max_position_embeddings": 256})  # type: ignore[arg-type]
    reference = LlamaForCausalLM(config)
    reference.load_state_dict({name: tensor.float() for name, tensor in weights(TINY).items()})
    ids = torch.arange(1, 40).reshape(1, -1)
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(ids).logits
        assert torch.equal(ours, reference(ids).logits)


def test_config_has_the_keys_that_old_and_new_versions_read(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    assert config["torch_dtype"] == "float16"
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert {"rope_theta", "rope_scaling", "head_dim", "num_key_value_heads", "pad_token_id"} <= set(config)
    assert open_huggingface(model).shape.eos == (2,)


def test_the_template_is_kept_detected_or_given(tmp_path: Path, source: Checkpoint) -> None:
    def name(**more: object) -> str:
        return finish_folder(source, tmp_path / "o", sources=[source.folder], **more).template.name  # type: ignore[arg-type]

    assert name() == "plain"
    assert name(has_delta=True) == "vicuna-v1.1"
    assert name(template="alpaca", has_delta=True) == "alpaca"
    (source.folder / "chat_template.jinja").write_text("{{ messages }}")
    assert name() == "kept"
    assert (tmp_path / "o" / "chat_template.jinja").read_text() == "{{ messages }}"
    with pytest.raises(UsageError):
        name(template="nonsense")


LLAMA_3 = {"<|begin_of_text|>": 0, "<|end_of_text|>": 1, "<|eom_id|>": 2, "<|eot_id|>": 3, "<|python_tag|>": 4}


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        ([257, 258, 259], 257, [257, 258, 259]),
        (259, 257, [257, 259]),
        (None, 260, [257, 260]),
        ([256, 70, 300, -1, None, "x"], [257, 260], [257, 260]),  # begin-of-text, a word, and what is no token
    ],
)
def test_what_ends_a_reply_is_kept_with_the_template(
    tmp_path: Path, generation: object, config: object, ends: list[int]
) -> None:
    """Llama 3.1 has three tokens that end one, and a kept template does not tell which."""
    tiny = Tiny(layers=1, vocab=261)
    folder = write_hf(tmp_path / "source", tiny, weights(tiny), eos_token_id=config)
    added = [{"id": 256 + number, "content": text, "special": True} for text, number in LLAMA_3.items()]
    fast = {"model": {"type": "BPE", "vocab": {chr(200 + n): n for n in range(256)}}, "added_tokens": added}
    settings = {"chat_template": "{{ messages }}"}
    folder_with(folder, tokenizer=fast, tokenizer_config=settings, generation_config={"eos_token_id": generation})
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    for name, sources in {"a": [folder], "b": [tmp_path / "lora", folder]}.items():
        finish_folder(open_huggingface(folder), tmp_path / name, sources=sources)
        for file in ("config.json", "generation_config.json"):
            assert json.loads((tmp_path / name / file).read_text())["eos_token_id"] == ends


@pytest.mark.parametrize("wrong", [0, 1, [0, 1], 99999])
def test_the_wrong_ends_of_early_uploads_are_not_kept(tmp_path: Path, wrong: object) -> None:
    folder = folder_with(write_hf(tmp_path / "s", TINY, weights(TINY), eos_token_id=wrong), tokenizer_model())
    finish_folder(open_huggingface(folder), tmp_path / "out", sources=[folder])
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == 2


def test_verification_passes_and_counts_every_byte(model: Path) -> None:
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in model.iterdir()}
    steps = list(verify(model, files))
    assert steps[-1].done == steps[-1].total == sum((model / name).stat().st_size for name in files)
    with pytest.raises(Cancelled):
        list(verify(model, files, cancelled=lambda: True))


def flip(path: Path, at: int = -2) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def set_infinite(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-2:] = b"\x00\x7c"
    path.write_bytes(raw)


def last(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[-1]


DAMAGE = {
    "weights flipped": (lambda f: flip(last(f)), "weights.hash_differs"),
    "tokenizer changed": (lambda f: flip(f / "tokenizer.model"), "weights.hash_differs"),
    "file missing": (lambda f: (f / "tokenizer.json").unlink(), "weights.file_missing"),
    "shard missing": (lambda f: last(f).unlink(), "weights.shard_missing"),
    "not finite": (lambda f: set_infinite(last(f)), "weights.not_finite"),
    "cut off": (
        lambda f: last(f).write_bytes(last(f).read_bytes()[:-1]),
        "weights.truncated",
    ),
}


@pytest.mark.parametrize(("damage", "key"), DAMAGE.values(), ids=DAMAGE.keys())
def test_verification_finds_damage(model: Path, damage: object, key: str) -> None:
    complete = write_cria_json(model, provenance(), sha256=written(model))
    assert set(complete.files) == {path.name for path in model.iterdir() if not path.name.startswith((".", FILE))}
    damage(model)  # type: ignore[operator]
    with pytest.raises(WeightsError) as refused:
        list(verify(model, complete.files))
    assert refused.value.key == key, refused.value.text()


def test_cria_json_keeps_what_it_was_told(model: Path) -> None:
    first = write_cria_json(model, provenance(), sha256=written(model))
    assert read_cria_json(model) == first
    assert first.made
    assert first.bytes == sum(
        path.stat().st_size for path in model.iterdir() if path.name != FILE and not path.name.startswith(".")
    )
    tried = SelfTest(True, False, "Hi?", "Hello", Message("weights.cancelled.say"))
    second = write_cria_json(model, replace(first, self_test=tried))
    assert read_cria_json(model) == second == replace(first, self_test=tried)
    assert json.loads((model / FILE).read_text())["stop"] == ["###"]


def test_a_cria_json_without_a_layout_is_hugging_faces(model: Path) -> None:
    write_cria_json(model, provenance(layout="meta"))
    found = read_cria_json(model)
    assert found is not None
    assert found.layout == "meta"
    table = json.loads((model / FILE).read_text())
    del table["layout"]
    (model / FILE).write_text(json.dumps(table))
    found = read_cria_json(model)
    assert found is not None
    assert found.layout == "huggingface"


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"format": 99}', '{"format": 1}', '{"format": 1, "origins": 5, "recipe": null}']
)
def test_a_damaged_cria_json_is_an_error_and_an_absent_one_is_none(tmp_path: Path, content: str) -> None:
    assert read_cria_json(tmp_path) is None
    (tmp_path / FILE).write_text(content)
    with pytest.raises(WeightsError):
        read_cria_json(tmp_path)


def test_a_hugging_face_folder_without_changes_keeps_its_bits(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_hf(tmp_path / "hf", TINY, weights(TINY), shards=3))
    list(save(checkpoint, tmp_path / "copy"))
    (tmp_path / "copy" / "config.json").write_text((tmp_path / "hf" / "config.json").read_text())
    copied = open_checkpoint(tmp_path / "copy")
    assert all(copied[name].array().tobytes() == checkpoint[name].array().tobytes() for name in checkpoint)
