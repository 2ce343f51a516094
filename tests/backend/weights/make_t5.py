"""A tiny FastChat-T5 in the layout of its upload: float32 .bin parts, copies of the embeddings, spiece.model only."""

import io
import json
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from transformers import T5Config, T5ForConditionalGeneration

from tests.backend.weights.make import TEXT, Weights

# Training added these, and [PAD] before them (lm-sys/FastChat, train_flant5.py).
WORDS = ("<", "{", "\n", "}", "`", " ", "\\", "^", "\t")
TAGS = 100


@cache
def spiece(vocab: int = 150) -> bytes:
    """The bytes of a T5-like spiece.model: unigram, pad 0, end 1, unknown 2, and none of the words added later."""
    out = io.BytesIO()
    lines = [line.replace("{", "").replace("<", "") for line in TEXT]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 9), model_writer=out, model_type="unigram", vocab_size=vocab,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return out.getvalue()


def added_tokens() -> dict[str, int]:
    """The contents of added_tokens.json as transformers 4.28 wrote it: the tags are not listed."""
    first = sentencepiece.SentencePieceProcessor(model_proto=spiece()).get_piece_size() + TAGS
    return {word: first + number for number, word in enumerate(("[PAD]", *WORDS))}


def config(**more: object) -> dict[str, object]:
    table = {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "vocab_size": rows(), "d_model": 32,
        "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "n_positions": 512,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "is_encoder_decoder": True,
        "relative_attention_num_buckets": 8, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
        "_name_or_path": "/home/somebody/flan-t5-xl",
    }  # fmt: skip
    return table | more


def rows() -> int:
    return max(added_tokens().values()) + 1


def weights() -> Weights:
    """Random weights with a head of their own, as Flan-T5 has, and the two copies that old versions saved."""
    torch.manual_seed(3)
    made = T5ForConditionalGeneration(T5Config(**config())).state_dict()  # type: ignore[arg-type]
    found = {name: tensor.clone() for name, tensor in made.items()}
    found["lm_head.weight"] = torch.randn(rows(), 32) * 0.5
    return found


def write_t5(folder: Path, **more: object) -> Path:
    """Write the upload; the copies in it are wrong, as some training runs left them."""
    folder.mkdir(parents=True)
    found = weights()
    found["encoder.embed_tokens.weight"] = torch.zeros(rows(), 32)
    (folder / "config.json").write_text(json.dumps(config(**more)))
    (folder / "generation_config.json").write_text(
        json.dumps({"_from_model_config": True, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0})
    )
    names, table = list(found), {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: found[name] for name in part}, folder / file)
        table |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    (folder / "spiece.model").write_bytes(spiece())
    (folder / "added_tokens.json").write_text(json.dumps(added_tokens()))
    special = {"eos_token": "</s>", "pad_token": "[PAD]", "unk_token": "<unk>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": TAGS, "model_max_length": 2048, "sp_model_kwargs": {}}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | settings))
    (folder / "modeling_t5.py").write_text("raise SystemExit")
    return folder
