"""The tokenizer inside a GGUF file, as llama.cpp itself cuts text, and the file's chat template in its own process.

As with every engine, text that looks like a special token is one, also in what people write, and only the template
decides what a prompt begins with. Knows nothing about replies.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from backend.engines.llamacpp_server.serving import Door
from backend.engines.templates import Renderer
from backend.errors import EngineError
from backend.weights.gguf_head import GgufHead, Passed, texts_at

_KEY = "tokenizer.ggml."
_TOKENS = f"{_KEY}tokens"
# What templates may name -> the key of its id.
_NAMED = {
    "bos_token": f"{_KEY}bos_token_id",
    "eos_token": f"{_KEY}eos_token_id",
    "unk_token": f"{_KEY}unknown_token_id",
    "pad_token": f"{_KEY}padding_token_id",
}


class OwnTokenizer:
    """What ``conversation.prompt_ids`` needs of a tokenizer. ``first``: an id that a text may begin with;
    ``drops_space``: a reply's first space is no part of it, as with SentencePiece; ``longest``: of a token, in bytes.
    """

    def __init__(self, head: GgufHead, door: Door, renderer: Renderer | None = None) -> None:
        self._door, self._renderer = door, renderer or Renderer()
        template, listed = head.values.get("tokenizer.chat_template"), head.values.get(_TOKENS)
        self.chat_template = template if isinstance(template, str) and template.strip() else None
        self.longest = listed.longest if isinstance(listed, Passed) else 0
        ids = {name: head.values.get(key) for name, key in _NAMED.items()}
        known = {name: found for name, found in ids.items() if type(found) is int}
        texts = texts_at(head, _TOKENS, set(known.values()))
        self._variables = {name: texts[found] for name, found in known.items() if found in texts}
        self.first = known.get("bos_token", known.get("eos_token", 0))
        prefixed = head.values.get(f"{_KEY}add_space_prefix", True)
        self.drops_space = head.values.get(f"{_KEY}model") == "llama" and prefixed is True

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Return the ids of a text.

        Raises:
            EngineError: llama.cpp gave no answer, or one that is none.
        """
        content = text.encode("utf-8", "replace").decode("utf-8")
        asked = {"content": content, "add_special": add_special_tokens, "parse_special": True}
        ids = self._door.ask("/tokenize", asked).get("tokens")
        if not isinstance(ids, list) or not all(type(one) is int for one in ids):
            raise EngineError("engine.nonsense", what="/tokenize")
        return {"input_ids": ids}

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], **_: Any) -> str:
        """Return the prompt as text.

        Raises:
            EngineError: as ``Renderer.render``.
        """
        return self._renderer.render(self.chat_template or "", self._variables, messages)
