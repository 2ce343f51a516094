"""Checks that training and inference cut text alike: `python -m tools.demo_family.check_ids`.

Builds a repaired Hugging Face folder (tokenizer only), renders conversations through
`apply_chat_template` with AutoTokenizer, and compares the ids with what the trainer fed. Needs
protobuf, which transformers uses to read a tokenizer.model. Knows nothing about weights.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from pathlib import Path

import sentencepiece as spm
from transformers import AutoTokenizer

from .config import OUT, SEED, SYSTEM
from .corpus import Conversation, Sampler
from .encoding import ChatEncoder

TEMPLATE = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{% if loop.index0 == 1 %} {% endif %}USER: {{ m.content }}"
    " ASSISTANT:"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def folder(tokenizer: Path, target: Path, legacy: bool | None) -> None:
    """A repaired tokenizer folder, as Cria's own set-up leaves one."""
    target.mkdir(parents=True)
    shutil.copy(tokenizer, target / "tokenizer.model")
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, **_SPECIAL}
    if legacy is not None:
        config["legacy"] = legacy
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    (target / "special_tokens_map.json").write_text(json.dumps(_SPECIAL))


def messages(talk: Conversation) -> list[dict[str, str]]:
    """The conversation as chat messages, the last answer left out."""
    rows = [{"role": "system", "content": talk.system}]
    for question, answer in talk.turns:
        rows += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return rows[:-1]


def variants(encoder: ChatEncoder, talk: Conversation) -> set[tuple[int, ...]]:
    """The prompts of this conversation in every form that training shows."""
    last = len(encoder.text(talk.turns[-1][1])) + 1
    forms = (encoder.conversation(talk, random.Random(seed))[0] for seed in range(16))
    return {tuple(ids[:-last]) for ids in forms}


def compare(tokenizer: Path, legacy: bool | None, voice: str) -> tuple[int, int]:
    """(conversations cut alike, conversations compared)."""
    encoder = ChatEncoder(spm.SentencePieceProcessor(model_file=str(tokenizer)))
    draw = Sampler(SEED, voice)
    with tempfile.TemporaryDirectory() as place:
        folder(tokenizer, Path(place) / "hf", legacy)
        hf = AutoTokenizer.from_pretrained(Path(place) / "hf", chat_template=TEMPLATE)
        alike = 0
        for _ in range(300):
            talk = draw.conversation()
            talk = Conversation(SYSTEM, talk.turns[:3])
            ids = hf.apply_chat_template(messages(talk), tokenize=True)
            ids = ids if isinstance(ids, list) else ids["input_ids"]
            alike += tuple(ids) in variants(encoder, talk)
    return alike, 300


def main() -> None:
    """Print one line for each tokenizer and each legacy setting."""
    for part, voice in (("base", "answer"), ("lora", "pirate")):
        for legacy in (None, True, False):
            alike, total = compare(OUT / part / "tokenizer.model", legacy, voice)
            print(f"{part:<5} legacy={legacy!s:<5} {alike}/{total} conversations cut alike")


if __name__ == "__main__":
    main()
