"""Prompt formats, rendered by transformers as an engine does."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from backend.errors import UsageError
from backend.weights.finish import stop_ids
from backend.weights.templates import NAMES, detect_template, find_template
from backend.weights.tokenizer import find_vocabulary
from tests.backend.weights.make import tokenizer_model
from tests.backend.weights.test_tokenizer import PIECES, folder_with, legacy_ids, written

__all__ = ["written"]  # the fixture

TALK = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": "q2"},
]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
STABLE = "### Assistant: I am StableVicuna, a large language model created by CarperAI. I am here to chat!"
HUMAN = VICUNA.replace("curious user", "curious human").replace("the user's", "the human's")

EXPECTED = {
    "vicuna-v1.1": "<s>" + VICUNA + " USER: q ASSISTANT: a</s>USER: q2 ASSISTANT:",
    "vicuna-v0": "<s>" + HUMAN + "\n\n### Human: q\n### Assistant: a\n### Human: q2\n### Assistant:",
    "fastchat-t5": HUMAN + "\n### Human: q\n### Assistant: a\n### Human: q2\n### Assistant: </s>",
    "stable-vicuna": "<s>" + STABLE + "\n\n### Human: q\n### Assistant: a\n\n### Human: q2\n### Assistant:",
    "koala": "<s>BEGINNING OF CONVERSATION: USER: q GPT: a</s>USER: q2 GPT:",
    "stanford-alpaca": f"<s>{ALPACA}\n\n### Instruction:\nq\n\n### Response:a</s>\n\n"
    "### Instruction:\nq2\n\n### Response:",
    "alpaca": f"<s>{ALPACA}\n\n### Instruction:\nq\n\n### Response:\na</s>\n\n"
    "### Instruction:\nq2\n\n### Response:\n",
    "chinese-alpaca": f"<s>{ALPACA}\n\n### Instruction:\nq\n\n### Response: a</s>\n\n"
    "### Instruction:\nq2\n\n### Response: ",
    "llama-2": "<s>[INST] q [/INST] a </s><s>[INST] q2 [/INST]",
    "llama-3": "<s><|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nq2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "plain": "<s>q\na\nq2",
    "plain-t5": "q\na\nq2</s>",
}  # fmt: skip
WITH_SYSTEM = {
    "vicuna-v1.1": "<s>It's S. USER: q ASSISTANT:",
    "vicuna-v0": "<s>It's S.\n\n### Human: q\n### Assistant:",
    "fastchat-t5": "It's S.\n### Human: q\n### Assistant: </s>",
    "stable-vicuna": "<s>It's S.\n\n### Human: q\n### Assistant:",
    "koala": "<s>It's S. USER: q GPT:",
    "stanford-alpaca": "<s>It's S.\n\n### Instruction:\nq\n\n### Response:",
    "alpaca": "<s>It's S.\n\n### Instruction:\nq\n\n### Response:\n",
    "chinese-alpaca": "<s>It's S.\n\n### Instruction:\nq\n\n### Response: ",
    "llama-2": "<s>[INST] <<SYS>>\nIt's S.\n<</SYS>>\n\nq [/INST]",
    "llama-3": "<s><|start_header_id|>system<|end_header_id|>\n\nIt's S.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "plain": "<s>It's S.\nq",
    "plain-t5": "It's S.\nq</s>",
}


@pytest.fixture(scope="module")
def tokenizer(written: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(written)


def render(tokenizer: PreTrainedTokenizerFast, name: str, talk: list[dict[str, str]]) -> str:
    jinja = find_template(name).jinja
    return tokenizer.apply_chat_template(talk, chat_template=jinja, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_what_the_models_were_trained_on(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    assert render(tokenizer, name, TALK) == EXPECTED[name]
    system = {"role": "system", "content": "It's S."}
    assert render(tokenizer, name, [system, TALK[0]]) == WITH_SYSTEM[name]


@pytest.mark.parametrize("name", NAMES)
def test_text_with_quotes_and_braces_stays_text(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    text = "{{ 7 * 7 }} {% raw %} 'single' \"double\" \\n <b>"
    assert text in render(tokenizer, name, [{"role": "user", "content": text}])


def test_an_empty_system_text_means_none(tokenizer: PreTrainedTokenizerFast) -> None:
    talk = [{"role": "system", "content": ""}, TALK[0]]
    assert render(tokenizer, "vicuna-v1.1", talk) == "<s>USER: q ASSISTANT:"


def test_the_vicuna_prompt_gets_the_ids_of_training(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.apply_chat_template(TALK, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids == legacy_ids(tokenizer_model(), EXPECTED["vicuna-v1.1"].removeprefix("<s>"))


@pytest.mark.parametrize(
    ("rows", "tokens", "delta_rows", "name"),
    [
        (32000, {"</s>"}, 0, "vicuna-v1.1"),
        (32001, {"</s>", "[PAD]"}, 1, "vicuna-v0"),
        (32003, {"</s>", "<im_start>"}, 3, "plain"),
        (32000, {"</s>"}, None, "plain"),
        (2456, {"</s>", "[PAD]"}, 0, "vicuna-v1.1"),
        (49953, {"</s>"}, None, "plain"),
        (49954, {"</s>", "[PAD]"}, None, "chinese-alpaca"),
        (128256, {"<|start_header_id|>", "<|eot_id|>"}, None, "llama-3"),
    ],
)
def test_detection_goes_by_evidence(rows: int, tokens: set[str], delta_rows: int | None, name: str) -> None:
    assert detect_template(rows=rows, tokens=tokens, delta_rows=delta_rows).name == name


def test_a_row_that_starts_from_the_mean_is_stanfords() -> None:
    assert detect_template(rows=32001, tokens={"[PAD]"}, delta_rows=1, delta_fill="mean").name == "stanford-alpaca"
    assert detect_template(rows=32001, tokens={"[PAD]"}, delta_rows=1, delta_fill="zero").name == "vicuna-v0"
    assert detect_template(rows=32000, tokens=set(), delta_rows=0, delta_fill="mean").name == "vicuna-v1.1"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"vicuna-v1\.1"):
        find_template("koala-9")


def test_stop_tokens_are_those_that_the_vocabulary_has(tmp_path: Path) -> None:
    vocabulary = find_vocabulary([folder_with(tmp_path, tokenizer_model())], PIECES)
    assert stop_ids(vocabulary, find_template("vicuna-v1.1")) == [2]
    assert stop_ids(vocabulary, find_template("llama-3")) == [2]
    folder_with(tmp_path, added_tokens={"<|eot_id|>": PIECES})
    vocabulary = find_vocabulary([tmp_path], PIECES + 1)
    assert stop_ids(vocabulary, find_template("llama-3")) == [2, PIECES]
