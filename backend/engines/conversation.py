"""A conversation as the token ids a model reads: the folder's own chat template and tokenizer, the same for every
engine. Knows nothing about how tokens are computed.

A template is somebody's program: this runs in an engine process only, and the server gives up on one that takes too
long.
"""

from collections.abc import Sequence
from typing import Any

from backend.engines.base import ChatMessage
from backend.engines.memory import is_out_of_memory, out_of_memory
from backend.errors import ContextFull, CriaError, EngineError

_MARGIN = 2  # some tokenizers make one space of many, and other characters fewer


def prompt_ids(tokenizer: Any, messages: Sequence[ChatMessage], context: int = 0) -> tuple[int, ...]:
    """Return the prompt. Without a template the texts are sent as they are.

    Raises:
        EngineError: the template refused the conversation.
        MachineError: memory ran out.
        ContextFull: it is so long that there is no need to count: a million tokens take a quarter of a minute.
    """
    longest = getattr(tokenizer, "longest", 0)  # characters of a token
    chars = sum(len(message.content) for message in messages)
    if context and longest and chars > _MARGIN * longest * context:
        raise ContextFull("ops.too_long", chars=chars, context=context)
    if tokenizer.chat_template:
        return tuple(tokenizer(_rendered(tokenizer, messages), add_special_tokens=False)["input_ids"])
    return tuple(tokenizer("\n".join(message.content for message in messages))["input_ids"])


def _rendered(tokenizer: Any, messages: Sequence[ChatMessage]) -> str:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except CriaError:
        raise
    except Exception as problem:  # the template is the model's own program: anything may come
        if is_out_of_memory(problem):  # in here: the template itself runs in a process of its own
            raise out_of_memory(problem) from problem
        raise EngineError("engine.template_refused", what=str(problem)[:300]) from problem
