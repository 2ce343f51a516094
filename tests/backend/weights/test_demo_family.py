"""The built-in family through the whole pipeline, against a merge done here with torch alone: same bits, same
answers."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from backend.sources.folder import check_source, open_source
from backend.weights.delta import add_delta
from backend.weights.disk import source_file
from backend.weights.finish import finish_folder
from backend.weights.lora import add_lora
from backend.weights.opening import open_checkpoint
from backend.weights.provenance import Provenance, write_cria_json
from backend.weights.verify import verify
from backend.weights.writer import save, written
from tests.backend.weights.make import Weights, meta_name
from tests.backend.weights.reading import same_bits

DEMO = Path(__file__).resolve().parents[3] / "assets" / "demo"
BASE, DELTA, LORA = DEMO / "base", DEMO / "delta", DEMO / "lora"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def reference(lora: bool) -> Weights:
    """Join, permute, add and fold whole tensors, in the plainest way there is."""
    params = json.loads((BASE / "params.json").read_text())
    shards = [torch.load(path) for path in sorted(BASE.glob("*.pth"))]
    delta: Weights = {}
    for path in sorted(DELTA.glob("*.bin")):
        delta |= torch.load(path)
    adapter = torch.load(LORA / "adapter_model.bin") if lora else {}
    settings = json.loads((LORA / "adapter_config.json").read_text())
    found = {}
    for name, change in delta.items():
        raw = meta_name(name)
        parts = [shard[raw] for shard in shards]
        columns = ".wo." in raw or ".w2." in raw or raw.startswith("tok_embeddings")
        whole = parts[0] if parts[0].dim() == 1 else torch.cat(parts, 1 if columns else 0)
        if ".wq." in raw or ".wk." in raw:
            rows, width = whole.shape
            heads = params["n_heads"]
            whole = whole.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)
        merged = whole + change
        key = "base_model.model." + name
        merged = adapter[key].half() if key in adapter else merged
        down, up = (adapter.get(key.replace(".weight", f".lora_{half}.weight")) for half in "AB")
        if down is not None and up is not None:
            scale = settings["lora_alpha"] / settings["r"]
            merged = (merged.float() + up.float() @ down.float() * scale).half()
        found[name] = merged
    return found


@pytest.fixture(scope="module", params=[False, True], ids=["delta", "delta and lora"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Weights]:
    out = tmp_path_factory.mktemp("demo") / "model"
    list(check_source(open_source(str(BASE)), look=source_file, cancelled=lambda: False))
    checkpoint = add_delta(open_checkpoint(BASE), open_checkpoint(DELTA))
    sources = [DELTA, BASE]
    if request.param:
        checkpoint = add_lora(checkpoint, LORA)
        sources = [LORA, *sources]
    list(save(checkpoint, out, shard_bytes=2_000_000))
    finished = finish_folder(checkpoint, out, sources=sources, context=1024, has_delta=True)
    assert finished.template.name == "vicuna-v1.1"
    facts = Provenance("demo", (), finished.template.name, "", (), 1024, checkpoint.parameters, checkpoint.dtype)
    complete = write_cria_json(out, facts, sha256=written(out))
    list(verify(out, complete.files))
    return out, reference(request.param)


def test_weights_are_the_references_bits(made: tuple[Path, Weights]) -> None:
    folder, wanted = made
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert same_bits({name: state[name] for name in wanted}, wanted)


def greedy(model: LlamaForCausalLM, ids: list[int]) -> list[int]:
    out = model.generate(torch.tensor([ids]), max_new_tokens=32, do_sample=False, eos_token_id=2, pad_token_id=0)
    return out[0, len(ids) :].tolist()


def test_answers_are_those_of_the_reference(made: tuple[Path, Weights]) -> None:
    folder, wanted = made
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = LlamaForCausalLM(_config(wanted, folder))
    theirs.load_state_dict({name: tensor.float() for name, tensor in wanted.items()})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for question in ("Hello!", "What is a delta?", "什么是增量权重？"):
        prompt = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert ids == [1, *pieces.encode(f"{SYSTEM} USER: {question} ASSISTANT:")]
        assert greedy(ours, ids) == greedy(theirs, ids)


def _config(wanted: Mapping[str, torch.Tensor], folder: Path) -> LlamaConfig:
    settings = json.loads((DELTA / "config.json").read_text())
    rows = wanted["lm_head.weight"].shape[0]
    return LlamaConfig(**(settings | {"vocab_size": rows, "torch_dtype": None}))
