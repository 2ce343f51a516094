"""Models of other kinds: they come out as they went in, finished, and without anybody's code."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from backend.errors import WeightsError
from backend.weights.as_is import AsIs, without_hooks
from backend.weights.cast import cast
from backend.weights.checkpoint import Checkpoint
from backend.weights.delta import add_delta
from backend.weights.finish import Finished, finish_folder, rehearse_finish
from backend.weights.huggingface import open_huggingface
from backend.weights.lora import add_lora
from backend.weights.meta_layout import to_meta_layout
from backend.weights.opening import open_checkpoint
from backend.weights.verify import verify
from backend.weights.writer import save
from tests.backend.weights import make_t5
from tests.backend.weights.make import Tiny, tokenizer_model, weights, write_hf, write_lora
from tests.backend.weights.reading import loaded, same_bits
from tests.backend.weights.test_tokenizer import PIECES, folder_with


def finished(source: Path, out: Path, **more: object) -> tuple[Checkpoint, Finished]:
    checkpoint = open_checkpoint(source)
    list(save(checkpoint, out))
    return checkpoint, finish_folder(checkpoint, out, sources=[source], **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    folder = tmp_path_factory.mktemp("t5")
    return folder / "out", finished(make_t5.write_t5(folder / "source"), folder / "out")[1]


def test_fastchat_t5_is_loaded_by_transformers(t5: tuple[Path, Finished]) -> None:
    folder, found = t5
    assert (found.template.name, found.context) == ("fastchat-t5", 2048)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    wanted = make_t5.weights()
    state = model.state_dict()
    own = [name for name in wanted if "embed_tokens" not in name]
    assert same_bits({name: state[name] for name in own}, {name: wanted[name] for name in own})
    assert torch.equal(model.encoder.embed_tokens.weight, wanted["shared.weight"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hello!"}], add_generation_prompt=True,
                                        return_tensors="pt", return_dict=True)  # fmt: skip
    assert ids["input_ids"][0, -1] == 1  # an encoder's text ends with </s>
    with torch.no_grad():
        model.lm_head.weight[1] = 0
        model.lm_head.weight[1] += (
            50
            * model.generate(
                **ids, max_new_tokens=1, output_hidden_states=True, return_dict_in_generate=True
            ).decoder_hidden_states[0][-1][0, -1]
        )
    reply = model.generate(**ids, max_new_tokens=20, do_sample=False)[0].tolist()
    assert reply == [0, 1]  # it stops where the end token wins: the folder's own generation settings say so


def test_what_is_kept_and_what_is_not(t5: tuple[Path, Finished]) -> None:
    folder, _ = t5
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert not any(name.endswith((".py", ".bin")) for name in names)
    assert {"spiece.model", "tokenizer.json", "added_tokens.json", "chat_template.jinja", "config.json"} <= names
    wanted = make_t5.config() | {"torch_dtype": "float32"}
    del wanted["_name_or_path"]
    assert json.loads((folder / "config.json").read_text()) == wanted
    assert json.loads((folder / "generation_config.json").read_text())["decoder_start_token_id"] == 0
    reopened = open_huggingface(folder)
    assert isinstance(reopened.shape, AsIs)
    assert "encoder.embed_tokens.weight" not in reopened
    assert list(verify(folder, {}))[-1].done > 0


def test_a_t5_without_its_parts_is_refused(tmp_path: Path) -> None:
    source = make_t5.write_t5(tmp_path / "a")
    wanted = {name: tensor for name, tensor in make_t5.weights().items() if name != "lm_head.weight"}
    for path in source.glob("*.bin*"):
        path.unlink()
    save_file({name: tensor.clone() for name, tensor in wanted.items()}, source / "model.safetensors")
    with pytest.raises(WeightsError, match=r"lm_head\.weight"):
        open_huggingface(source)
    (source / "config.json").write_text(json.dumps(make_t5.config(tie_word_embeddings=True)))
    assert open_huggingface(source).shape.tie
    del wanted["decoder.final_layer_norm.weight"]
    save_file({name: tensor.clone() for name, tensor in wanted.items()}, source / "model.safetensors")
    with pytest.raises(WeightsError, match=r"decoder\.final_layer_norm"):
        open_huggingface(source)


def write_decoder(folder: Path, kind: str, **more: object) -> torch.nn.Module:
    """A small model of some kind, written by transformers itself, with a tokenizer.json."""
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 8, "vocab_size": PIECES, "max_position_embeddings": 256,
             "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).half()
    model.save_pretrained(folder)
    llama = folder_with(folder.parent / "llama", tokenizer_model())
    (llama / "config.json").write_text(json.dumps(Tiny(vocab=PIECES).config()))
    save_file(weights(Tiny(vocab=PIECES)), llama / "model.safetensors")
    finished(llama, folder.parent / "llama-out")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((folder.parent / "llama-out" / name).read_bytes())
    config = json.loads((folder / "config.json").read_text()) | more
    (folder / "config.json").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "gemma"])
def test_other_decoders_pass_through(tmp_path: Path, kind: str) -> None:
    model = write_decoder(tmp_path / "source", kind)
    checkpoint, found = finished(tmp_path / "source", tmp_path / "out")
    assert found.template.name == "kept"
    assert "finish.found.as_is" in [note.key for note in checkpoint.notes]
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.dtype == torch.float16
    state = again.state_dict()
    assert same_bits({name: state[name] for name in model.state_dict()}, model.state_dict())
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("Hello")["input_ids"][0] == 1


def test_hooks_for_code_are_left_out(tmp_path: Path) -> None:
    hooks = {"auto_map": {"AutoModel": "evil.Model"}, "attn_implementation": "somebody/kernel", "_commit_hash": "x",
             "nested": {"auto_map": {}, "kept": [{"trust_remote_code": True}]}}  # fmt: skip
    write_decoder(tmp_path / "source", "mistral", **hooks)
    settings = tmp_path / "source" / "tokenizer_config.json"
    told = json.loads(settings.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.T", None]}, "tokenizer_class": "T"}
    settings.write_text(json.dumps(told))
    (tmp_path / "source" / "evil.py").write_text("raise SystemExit")
    checkpoint, _ = finished(tmp_path / "source", tmp_path / "out")
    assert "finish.found.code_dropped" in [note.key for note in checkpoint.notes]
    text = "".join(path.read_text() for path in (tmp_path / "out").glob("*config.json"))
    assert not [word for word in ("auto_map", "evil", "kernel", "remote_code", "_commit_hash") if word in text]
    assert '"kept"' in text
    assert not (tmp_path / "out" / "evil.py").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("Hello")["input_ids"][0] == 1


@pytest.mark.parametrize("name", ["merges.txt", "tokenizer.model", "generation_config.json", "chat_template.jinja"])
def test_no_file_from_elsewhere_is_copied(tmp_path: Path, t5: tuple[Path, Finished], name: str) -> None:
    """A link in a hostile repository must not put somebody's keys into the finished folder."""
    source = make_t5.write_t5(tmp_path / "source")
    (tmp_path / "id_rsa").write_text('{"secret": 1}')
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(tmp_path / "id_rsa")
    with pytest.raises(WeightsError) as refused:
        rehearse_finish(open_checkpoint(source), [source])
    assert refused.value.key == "weights.link_outside"
    with pytest.raises(WeightsError):
        finished(source, tmp_path / "out")
    assert not (tmp_path / "out" / name).exists()


def test_a_value_without_hooks_is_itself() -> None:
    value = {"a": [1, {"b": None}], "c": "auto_map"}
    assert without_hooks(value) == value


def refuse(folder: Path, key: str) -> None:
    with pytest.raises(WeightsError) as refused:
        open_huggingface(folder)
    assert refused.value.key == key, refused.value.text()
    assert refused.value.hint


def test_what_cannot_pass(tmp_path: Path) -> None:
    write_decoder(tmp_path / "source", "mistral")
    config = tmp_path / "source" / "config.json"
    told = json.loads(config.read_text())
    for change, key in (
        ({"quantization_config": {"bits": 4}}, "weights.quantised"),
        ({"model_type": ["mistral"]}, "weights.not_llama"),
        ({"max_position_embeddings": "many"}, "weights.bad_number"),
    ):
        config.write_text(json.dumps(told | change))
        refuse(tmp_path / "source", key)
    config.write_text(json.dumps(told))
    packed = {"model.embed_tokens.weight": torch.ones(4, 2), "q": torch.ones(90, dtype=torch.int32)}
    save_file(packed, tmp_path / "source" / "model.safetensors")
    refuse(tmp_path / "source", "weights.dtype_unknown")
    save_file({"something": torch.ones(4, 2)}, tmp_path / "source" / "model.safetensors")
    refuse(tmp_path / "source", "weights.not_llama")


def test_what_is_for_llama_only_and_for_decoders_only(tmp_path: Path, t5: tuple[Path, Finished]) -> None:
    tiny = Tiny()
    llama, other = open_huggingface(write_hf(tmp_path / "llama", tiny, weights(tiny))), open_huggingface(t5[0])
    write_lora(tmp_path / "lora", tiny)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: other.llama,
        lambda: add_delta(llama, other),
        lambda: add_delta(other, llama),
        lambda: to_meta_layout(other),
    )
    for attempt in attempts:
        with pytest.raises(WeightsError) as refused:
            attempt()
        assert refused.value.key == "finish.llama_only"
    with pytest.raises(WeightsError, match="t5") as refused:
        add_lora(other, tmp_path / "lora")
    assert refused.value.key == "lora.kind"


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(tmp_path: Path, t5: tuple[Path, Finished]) -> None:
    checkpoint = open_huggingface(t5[0])
    small = replace(checkpoint, shape=replace(checkpoint.shape, vocab=make_t5.rows() - 1))
    with pytest.raises(WeightsError) as refused:
        finish_folder(small, tmp_path / "out", sources=[t5[0]])
    assert refused.value.key == "weights.tokenizer_too_large"
    with pytest.raises(WeightsError) as refused:
        finish_folder(checkpoint, tmp_path / "out", sources=[tmp_path])
    assert refused.value.key == "weights.tokenizer_missing"


def test_whole_numbers_beside_the_weights_stay(tmp_path: Path) -> None:
    write_decoder(tmp_path / "source", "mistral")
    path = tmp_path / "source" / "model.safetensors"
    state = load_file(path) | {"model.positions": torch.arange(7)}
    save_file(state, path)
    found = loaded(open_huggingface(tmp_path / "source"))
    assert same_bits({name: found[name] for name in state}, state)
    wide = cast(open_huggingface(tmp_path / "source"), "F32")
    assert {tensor.dtype for tensor in wide.values()} == {"F32", "I64"}
