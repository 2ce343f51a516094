"""The uploads of March 2023 (decapoda-research), reproduced file by file: they open, and come out put right."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.errors import WeightsError
from backend.weights.finish import Finished, finish_folder
from backend.weights.huggingface import open_huggingface
from backend.weights.opening import open_checkpoint
from backend.weights.writer import save
from tests.backend.weights.make import Tiny, Weights, in_one_storage, tokenizer_model, weights
from tests.backend.weights.reading import loaded, same_bits
from tests.backend.weights.test_tokenizer import PIECES

TINY = Tiny(vocab=PIECES, layers=3)
LAST = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")


def part_of(name: str) -> int:
    return TINY.layers if name in LAST else int(name.split(".")[2])


def write_decapoda(folder: Path, found: Weights, *, shared: bool = False) -> Path:
    """One file a layer, embeddings, norm and head in the last; ``shared``: each file keeps one storage that is larger
    than its tensors, as the 13B had after its parts were joined."""
    folder.mkdir(parents=True)
    count, table = TINY.layers + 1, {}
    for number in range(count):
        part = {name: tensor.clone() for name, tensor in found.items() if part_of(name) == number}
        if number < TINY.layers:
            part[f"model.layers.{number}.self_attn.rotary_emb.inv_freq"] = torch.ones(TINY.head_dim // 2)
        if shared:
            halves = {name: tensor for name, tensor in part.items() if tensor.dtype == torch.float16}
            part |= dict(list(in_one_storage(halves | {"junk": torch.ones(999).half()}).items())[:-1])
        file = f"pytorch_model-{number + 1:05d}-of-{count:05d}.bin"
        torch.save(part, folder / file)
        table |= dict.fromkeys(part, file)
    files: dict[str, object] = {
        "pytorch_model.bin.index.json": {"weight_map": table, "metadata": {"total_size": 1}},
        "config.json": {
            "architectures": ["LLaMAForCausalLM"], "bos_token_id": 0, "eos_token_id": 1, "hidden_act": "silu",
            "hidden_size": TINY.hidden, "intermediate_size": TINY.ffn, "initializer_range": 0.02,
            "max_sequence_length": 2048, "model_type": "llama", "num_attention_heads": TINY.heads,
            "num_hidden_layers": TINY.layers, "pad_token_id": -1, "rms_norm_eps": 1e-06, "torch_dtype": "float16",
            "transformers_version": "4.27.0.dev0", "use_cache": True, "vocab_size": PIECES,
        },
        "generation_config.json": {"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0},
        "special_tokens_map.json": {},
        "tokenizer_config.json": {
            "bos_token": "", "eos_token": "", "model_max_length": 10**30, "tokenizer_class": "LLaMATokenizer",
            "unk_token": "",
        },
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "tokenizer.model").write_bytes(tokenizer_model())
    return folder


def stopping() -> Weights:
    """Weights whose first prediction is </s>, id 2, whatever was said."""
    found = weights(TINY)
    found["model.norm.weight"] = torch.zeros(TINY.hidden).half()
    found["model.norm.weight"][0] = 1
    found["model.embed_tokens.weight"][:, 0] = 30  # the last state starts with this, large and positive
    found["lm_head.weight"][:, 0] = 0
    found["lm_head.weight"][2, 0] = 9
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    folder = tmp_path_factory.mktemp("old")
    checkpoint = open_checkpoint(write_decapoda(folder / "source", stopping()))
    list(save(checkpoint, folder / "out"))
    return folder / "out", finish_folder(checkpoint, folder / "out", sources=[folder / "source"])


def test_it_loads_in_transformers_of_today_and_stops(model: tuple[Path, Finished]) -> None:
    loaded_model = AutoModelForCausalLM.from_pretrained(model[0]).float()
    assert type(loaded_model).__name__ == "LlamaForCausalLM"
    tokenizer = AutoTokenizer.from_pretrained(model[0])
    ids = tokenizer("Hello", return_tensors="pt")
    reply = loaded_model.generate(**ids, max_new_tokens=9, do_sample=False)[0].tolist()
    assert reply == [*ids["input_ids"][0].tolist(), 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)


def test_every_mistake_is_put_right(model: tuple[Path, Finished]) -> None:
    folder, found = model
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["LlamaForCausalLM"], "llama")
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, 0)
    assert config["max_position_embeddings"] == found.context == 2048
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (1, 2)
    special = json.loads((folder / "special_tokens_map.json").read_text())
    assert (special["bos_token"], special["eos_token"], special["unk_token"]) == ("<s>", "</s>", "<unk>")
    assert "LLaMA" not in (folder / "tokenizer_config.json").read_text()
    keys = {note.key for note in found.notes}
    assert {"weights.found.old_tokenizer_class", "weights.found.empty_tokens"} <= keys


def test_storages_larger_than_their_tensors(tmp_path: Path) -> None:
    wanted = weights(TINY)
    checkpoint = open_huggingface(write_decapoda(tmp_path / "source", wanted, shared=True))
    assert same_bits(loaded(checkpoint), wanted)
    assert checkpoint.nbytes == sum(tensor.nbytes for tensor in wanted.values())


def test_original_is_not_looked_into(tmp_path: Path) -> None:
    folder = write_decapoda(tmp_path / "source", weights(TINY))
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.00.pth").write_bytes(b"not to be read")
    (folder / "original" / "params.json").write_text("{}")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.kind == "huggingface"
    assert {file.path.parent for file in checkpoint.files} == {folder}


def rename(folder: Path, old: str, new: str) -> None:
    (folder / old).rename(folder / new)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(index.read_text().replace(old, new))


def test_parts_of_two_sets(tmp_path: Path) -> None:
    folder = write_decapoda(tmp_path / "a", weights(TINY))
    rename(folder, "pytorch_model-00002-of-00004.bin", "pytorch_model-00002-of-00033.bin")
    with pytest.raises(WeightsError) as refused:
        open_huggingface(folder)
    assert refused.value.key == "finish.mixed_parts"


def test_a_part_that_nobody_lists(tmp_path: Path) -> None:
    folder = write_decapoda(tmp_path / "a", weights(TINY))
    for number in range(1, 5):
        rename(folder, f"pytorch_model-{number:05d}-of-00004.bin", f"pytorch_model-{number:05d}-of-00005.bin")
    with pytest.raises(WeightsError) as refused:
        open_huggingface(folder)
    assert refused.value.key == "finish.part_unlisted"
    (folder / "pytorch_model-00005-of-00005.bin").write_bytes(b"left over")
    assert "finish.found.surplus" in [note.key for note in open_huggingface(folder).notes]


def test_safetensors_that_did_not_all_arrive(tmp_path: Path) -> None:
    wanted = weights(TINY)
    folder = write_decapoda(tmp_path / "a", wanted)
    table = dict.fromkeys(wanted, "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    checkpoint = open_huggingface(folder)
    assert same_bits(loaded(checkpoint), wanted)
    assert "finish.found.bin_used" in [note.key for note in checkpoint.notes]


def test_a_head_that_is_said_to_be_tied_and_is_not(tmp_path: Path) -> None:
    wanted = weights(TINY)
    folder = write_decapoda(tmp_path / "a", wanted)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = open_huggingface(folder)
    assert not checkpoint.shape.tie
    assert same_bits(loaded(checkpoint), wanted)
    copied = write_decapoda(tmp_path / "b", wanted | {"lm_head.weight": wanted["model.embed_tokens.weight"].clone()})
    (copied / "config.json").write_text(json.dumps(config))
    assert open_huggingface(copied).shape.tie
    assert "lm_head.weight" not in open_huggingface(copied)


@pytest.mark.parametrize(
    ("keys", "context"),
    [
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "max_sequence_length": 16384,
          "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 16384, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 4.0}}, 4096),
    ],
)  # fmt: skip
def test_stretched_positions(tmp_path: Path, keys: dict[str, object], context: int) -> None:
    folder = write_decapoda(tmp_path / "a", weights(TINY))
    config = json.loads((folder / "config.json").read_text())
    del config["max_sequence_length"]
    (folder / "config.json").write_text(json.dumps(config | keys))
    checkpoint = open_huggingface(folder)
    assert checkpoint.shape.max_positions == context
    list(save(checkpoint, tmp_path / "out"))
    finish_folder(checkpoint, tmp_path / "out", sources=[folder])
    again = open_huggingface(tmp_path / "out").llama
    assert (again.max_positions, again.rope_scaling) == (context, checkpoint.llama.rope_scaling)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["max_position_embeddings"] == 4096  # vLLM and FastChat multiply it by the factor themselves
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == context
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.rope_parameters["factor"] == 4.0
