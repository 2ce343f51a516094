"""Runs transformers' own LLaMA tokenizers over mixed text and stores a hash of the ids of each line.

Versions 4.28.1 and 4.46.3, each in a virtual environment of its own (what to install is written in ``convert``), then
``python -m tests.oracles.tokenize_text`` in the repository's root. SentencePiece vocabularies go through
``LlamaTokenizer`` (the slow one, which asks SentencePiece itself), Llama 3's through the conversion script's own class.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.oracles.convert import DEMO_TOKENIZER, tiktoken_like
from tests.oracles.models import keep, words

# The second has Chinese pieces appended, and [PAD] as Chinese-Alpaca's.
SENTENCEPIECE = {"llama": DEMO_TOKENIZER.parent, "grown": DEMO_TOKENIZER.parents[1] / "lora"}
_PIECES = (
    *("Hello", "hello,", "world!", "The quick brown fox", "jumps over", "the lazy dog.", "I'm", "don't", "can't"),
    "it's",
    *("USER:", "ASSISTANT:", "### Human:", "### Instruction:", "def f(x):", "return x**2", "a+b=c", "{}[]()"),
    "https://a.b/c?d=e",
    *("3.14159", "1,000,000", "2023-04-12", "0x1F", "12345678901234567890", "½", "№5", "€20", "100%", "x²"),
    *("你好", "世界！", "中文分词", "人工智能助手", "骆马和羊驼", "。", "，", "「引用」", "ＡＢＣ１２３", "繁體中文"),
    *("日本語のテキスト", "한국어", "龘"),
    *("😀", "👍🏽", "👨‍👩‍👧‍👦", "🇨🇳", "❤️", "é", "e\u0301", "ñ", "Ünïcödé", "Привет", "مرحبا", "שלום", "नमस्ते"),
    *("𝔘𝔫𝔦", "\u200b", "\ufeff"),
    *(" ", "  ", "   ", "     ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u3000", "▁", "▁▁a", "", ""),
)  # fmt: skip
_SPECIAL = ("<s>", "</s>", "<unk>", "[PAD]", "<0x41>", "<|eot_id|>", "<|begin_of_text|>")


def lines() -> list[str]:
    """Return text lines: words and signs of many scripts, joined with and without spaces, and a few awkward ones."""
    found = ["", " ", "\n", "▁", "a", " a", "a ", "  a  b  ", "\x00", "\x01\x7f", "ﬁ", "Ａ", "\u0301", "𐍈", "a\u0000b"]
    for number in range(300):
        chosen = words(f"line {number}", 9)
        joint = (" ", "", " ", "")[int(chosen[0]) % 4]
        found.append(joint.join(_PIECES[int(word >> 8) % len(_PIECES)] for word in chosen[1 : 3 + number % 7]))
    return found


def special_lines() -> list[str]:
    """Return lines that name special tokens, which are tokens wherever they stand."""
    text = ("Hi", "你好", "", "a b", "  x", "y  ")
    return [f"{left}{token}{right}" for token in _SPECIAL for left in text for right in text]


def hashes(encode: Callable[[str], Sequence[int]], text: Sequence[str]) -> list[str]:
    """Return a short hash of the ids of each line."""
    return [hashlib.sha256(str(list(encode(line))).encode()).hexdigest()[:6] for line in text]


def meaning(tokenizer_json: str) -> str:
    """Return a hash of what a tokenizer.json says: versions write merges as pairs or as one string, and keys in any
    order."""
    table = json.loads(tokenizer_json)
    merges = table["model"]["merges"]
    table["model"]["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def main() -> None:
    import transformers
    from transformers.models.llama.convert_llama_weights_to_hf import LlamaTokenizer

    version = transformers.__version__
    for name, folder in SENTENCEPIECE.items():
        tokenizer = LlamaTokenizer.from_pretrained(folder)
        for kind, text in (("lines", lines()), ("special", special_lines())):
            keep(f"tokenize_{kind}", name, version=version, result=" ".join(hashes(tokenizer.encode, text)))
    if version == "4.46.3":
        from transformers.models.llama import convert_llama_weights_to_hf as script

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokenizer.model"
            path.write_bytes(tiktoken_like())
            special = script.DEFAULT_LLAMA_SPECIAL_TOKENS["3.1"]
            tokenizer = script.Llama3Converter(str(path), special, False, "3.1").converted_tokenizer
            tokenizer.save_pretrained(folder)
            written = (Path(folder) / "tokenizer.json").read_text()
        for kind, text in (("lines", lines()), ("special", special_lines())):
            keep(f"tokenize_{kind}", "llama3", version=version, result=" ".join(hashes(tokenizer.encode, text)))
        keep("tokenizer_json", "llama3", version=version, result=meaning(written))


if __name__ == "__main__":
    main()
