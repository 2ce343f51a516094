"""New tokens become the text that the folder's own tokenizer makes of them: bytes of letters, spaces, added words."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram

from backend.engines import choice
from backend.engines.base import EngineOptions, Finish, Sampling
from backend.engines.choice import choose_engine
from backend.engines.folder import open_folder
from backend.engines.generator import Prompt, Readiness
from backend.engines.llamacpp_server import loading
from backend.engines.transformers_server.tokenizer import load_tokenizer
from backend.errors import WeightsError
from backend.weights.gguf_vocabulary import can_express, tokenizer_settings
from tests.backend.engines import tiny
from tests.backend.engines.conftest import machine

HIDDEN = 64
SPECIAL = ("<|begin|>", "<|end|>", "<|user|>")  # not shown
WORDS = ("<think>", "</think>", "  ", "▁▁▁", "\n\n", "hé你llo")  # added, and shown
PIECES = ("▁the", "lama", "s", "▁a", "你好", "▁", "ing")


def characters() -> list[list[int]]:
    """Return UTF-8 characters, as bytes, that use no byte twice: of one, two, three and four bytes."""
    inner = iter(range(0x80, 0xC0))
    made = [[byte] for byte in (*range(0x20, 0x7F), 0x0A, 0x09)]
    made += [[0xF0, 0x9F, next(inner), next(inner)]]
    made += [[lead, *(next(inner) for _ in range(2))] for lead in range(0xE1, 0xEC)]
    return made + [[lead, byte] for lead in range(0xC2, 0xD6) if (byte := next(inner)) != 0x9F]


def spelled(made: Tokenizer) -> Tokenizer:
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    made.add_tokens([AddedToken(text, special=False, normalized=False) for text in WORDS])
    return made


def with_letters() -> Tokenizer:
    """A tokenizer as Qwen's: every byte is a letter."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("i", "n"), ("in", "g"), ("Ã", "©")]
    pieces = [*letters, *("".join(pair) for pair in merges)]
    made = Tokenizer(BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return spelled(made)


def with_pieces(*, strips: bool) -> Tokenizer:
    """A tokenizer as Mistral's and Phi's, which strip the first space, or as Gemma's, which does not."""
    pieces = ["<pad>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    made = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strips else [])])
    made.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in pieces[:2]])
    return spelled(made)


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "letters": with_letters,
    "pieces": lambda: with_pieces(strips=True),
    "pieces, spaces kept": lambda: with_pieces(strips=False),
}


def way(made: Tokenizer) -> list[int]:
    """Return tokens, none of them twice: all sorts, one after the other."""
    vocabulary = made.get_vocab()
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    by_byte = [
        vocabulary[one if one in vocabulary else other] for one, other in zip(pieces, byte_letters(), strict=True)
    ]
    found = [number for text in (PIECES[0], "Ġthe") if (number := vocabulary.get(text)) is not None]
    found += [
        vocabulary[WORDS[0]],
        *(by_byte[byte] for one in characters()[-6:] for byte in one),
        vocabulary[SPECIAL[2]],
    ]
    found += [by_byte[byte] for one in characters()[:-6] for byte in one]
    found += [vocabulary[text] for text in (*PIECES[1:], *WORDS[1:], "ing") if text in vocabulary]
    return list(dict.fromkeys(found))


def byte_letters() -> list[str]:
    """Return GPT-2's letter of every byte."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = iter(range(256, 512))
    return [chr(byte if byte in shown else next(moved)) for byte in range(256)]


def write_walker(folder: Path, made: Tokenizer) -> list[int]:
    """Write a model that says certain tokens one after the other, and return those: nothing in it looks at anything
    but the last token, whose row of the head is the next one's."""
    steps, vocabulary = way(made), made.get_vocab()
    begin, end, rows = vocabulary[SPECIAL[0]], vocabulary[SPECIAL[1]], max(vocabulary.values()) + 8
    random = np.random.default_rng(1)
    embeddings = random.standard_normal((rows, HIDDEN)).astype(np.float16).astype(np.float32)
    head = np.zeros_like(embeddings)
    for before, after in zip([begin, *steps], [*steps, end], strict=True):
        head[after] = embeddings[before]
    arrays = {"model.embed_tokens.weight": embeddings, "lm_head.weight": head}
    arrays["model.norm.weight"] = np.ones(HIDDEN, np.float32)
    for part, width in (("q", HIDDEN), ("k", 32), ("v", 32)):
        arrays[f"model.layers.0.self_attn.{part}_proj.weight"] = np.zeros((width, HIDDEN), np.float32)
        arrays[f"model.layers.0.self_attn.{part}_proj.bias"] = np.zeros(width, np.float32)
    for part, shape in (("self_attn.o", (HIDDEN, HIDDEN)), ("mlp.gate", (64, HIDDEN)), ("mlp.up", (64, HIDDEN)),
                        ("mlp.down", (HIDDEN, 64))):  # fmt: skip
        arrays[f"model.layers.0.{part}_proj.weight"] = np.zeros(shape, np.float32)
    for part in ("input_layernorm", "post_attention_layernorm"):
        arrays[f"model.layers.0.{part}.weight"] = np.ones(HIDDEN, np.float32)
    folder.mkdir()
    tiny.write_safetensors(folder / "model.safetensors", arrays)
    (folder / "config.json").write_text(json.dumps({
        "model_type": "qwen2", "hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 64, "rms_norm_eps": 1e-6, "max_position_embeddings": 512,
        "vocab_size": rows, "eos_token_id": end, "bos_token_id": None,
    }))  # fmt: skip
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": SPECIAL[1], "chat_template": tiny.TEMPLATE}))
    return steps


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_text_is_the_tokenizers(name: str, tmp_path: Path) -> None:
    made = TOKENIZERS[name]()
    steps = write_walker(tmp_path / "model", made)
    wanted = load_tokenizer(open_folder(tmp_path / "model")).decode(steps, skip_special_tokens=True)
    assert all(text in wanted for text in ("~", "\n\n", "<think>", "hé你llo"))
    assert "�" not in wanted
    generator = loading.load(Readiness(tmp_path / "model", EngineOptions(engine="llamacpp")))
    begin = Prompt(1, (made.get_vocab()[SPECIAL[0]],))
    greedy = Sampling(temperature=0.0, max_new_tokens=400)

    async def run() -> tuple[str, Finish | None, int]:
        said = [step async for step in generator.generate(begin, greedy)]
        return "".join(step.text for step in said), said[-1].finish, said[-1].tokens

    text, finish, tokens = asyncio.run(run())
    generator.close()
    assert text == wanted
    assert (finish, tokens) == (Finish.STOP, len(steps) + 1)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_the_file_says_of_it(name: str, tmp_path: Path) -> None:
    made = TOKENIZERS[name]()
    steps = write_walker(tmp_path / "model", made)
    assert can_express(tmp_path / "model")
    rows = max(steps) + 30
    table = tokenizer_settings(tmp_path / "model", rows, (5, 6), own=True)
    found = {key.removeprefix("tokenizer.ggml."): value for key, value in table.items()}
    assert (found["model"], found["pre"]) == ("gpt2" if name == "letters" else "llama", "default")
    assert (found["eos_token_id"], found["eot_token_id"], found["add_bos_token"]) == (5, 6, False)
    assert "bos_token_id" not in found
    assert len(set(found["tokens"])) == rows
    assert found["tokens"][made.token_to_id("▁▁▁")].decode() == ("▁▁▁" if name == "letters" else "   ")
    assert found["token_type"][made.token_to_id(SPECIAL[2])] == 3
    with pytest.raises(WeightsError, match="tokens"):
        tokenizer_settings(tmp_path / "model", 100, (5,), own=True)


def test_a_tokenizer_that_it_cannot_express_is_left_to_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "has_instructions", lambda: True)
    folder = tmp_path / "model"
    write_walker(folder, with_letters())
    assert choose_engine(EngineOptions(), machine(), folder)[0].engine == "llamacpp"
    lost = Tokenizer(BPE({"a": 0, "b": 1}, []))  # neither letters for bytes nor pieces for them
    for made in (Tokenizer(Unigram([("<unk>", 0.0), ("a", -1.0)], 0, byte_fallback=True)), lost):
        made.save(str(folder / "tokenizer.json"))
        chosen, why = choose_engine(EngineOptions(), machine(), folder)
        assert (chosen.engine, why and why.key) == ("transformers", "gguf.instead.tokenizer")
        with pytest.raises(WeightsError):
            tokenizer_settings(folder, 600, (5,), own=True)
