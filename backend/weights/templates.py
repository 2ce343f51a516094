"""Prompt templates: how a conversation becomes the one text a model was trained on, and what ends a reply.

Each is a Jinja text that transformers (in its own sandbox), vLLM and llama.cpp render alike; it is written into the
model folder, so an engine needs no list of models. Knows nothing about files or how templates are rendered.

Sources, the training code where there is one: lm-sys/FastChat ``conversation.py`` (Vicuna 1.1, Koala, StableVicuna),
``train/train.py`` at v0.1.x (Vicuna 0) and ``train_flant5.py``; tatsu-lab/stanford_alpaca ``train.py``;
tloen/alpaca-lora ``templates/alpaca.json``; ymcui/Chinese-LLaMA-Alpaca; meta-llama/llama ``generation.py``, llama3
``tokenizer.py``.
"""

from collections.abc import Collection
from dataclasses import dataclass

from backend.errors import UsageError


@dataclass(frozen=True)
class Template:
    """One prompt format. ``stops`` are texts, ``stop_tokens`` special tokens that end a reply besides end-of-text."""

    name: str
    jinja: str
    system: str = ""
    stops: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()


_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_VICUNA_V0_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
_KOALA_SYSTEM = "BEGINNING OF CONVERSATION:"
_STABLE_VICUNA_SYSTEM = (
    "### Assistant: I am StableVicuna, a large language model created by CarperAI. I am here to chat!"
)

# A system message that comes first replaces the default; an empty one means none at all.
_SYSTEM = (
    "{%% if messages and messages[0]['role'] == 'system' %%}{%% set system = messages[0]['content'] %%}"
    "{%% set turns = messages[1:] %%}{%% else %%}{%% set system = %s %%}{%% set turns = messages %%}{%% endif %%}"
)


def _with_system(default: str, body: str) -> str:
    quoted = "'" + default.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return _SYSTEM % quoted + body


# Reads: system USER: q ASSISTANT: a</s>USER: q2 ASSISTANT:
_VICUNA = (
    "{{ bos_token }}{% if system %}{{ system + ' ' }}{% endif %}"
    "{% for turn in turns %}{% if turn['role'] == 'assistant' %}"
    "{{ ' ASSISTANT: ' + turn['content'] | trim + eos_token }}"
    "{% elif turn['role'] == 'user' %}{{ 'USER: ' + turn['content'] }}"
    "{% else %}{{ turn['content'] + ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)
# Reads: system, a blank line, then on lines of their own ### Human: q, ### Assistant: a, ### Human: q2, ### Assistant:
_VICUNA_V0 = (
    "{{ bos_token }}{% if system %}{{ system + '\\n\\n' }}{% endif %}{% for turn in turns %}"
    "{{ '### ' + ('Assistant' if turn['role'] == 'assistant' else 'Human') + ': ' + turn['content'] | trim + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Assistant:' }}{% endif %}"
)
# As Vicuna v0, for an encoder: no begin-of-text, a space before what the decoder writes, end-of-text. One line feed
# after the system text: the tokenizer of its training dropped every blank right after one that is a token of its own.
_FASTCHAT_T5 = (
    "{% if system %}{{ system + '\\n' }}{% endif %}{% for turn in turns %}"
    "{{ '### ' + ('Assistant' if turn['role'] == 'assistant' else 'Human') + ': ' + turn['content'] | trim + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Assistant: ' }}{% endif %}{{ eos_token }}"
)
# Reads: BEGINNING OF CONVERSATION: USER: q GPT: a</s>USER: q2 GPT:
_KOALA = (
    "{{ bos_token }}{% if system %}{{ system + ' ' }}{% endif %}{% for turn in turns %}"
    "{% if turn['role'] == 'assistant' %}{{ ' GPT: ' + turn['content'] | trim + eos_token }}"
    "{% else %}{{ 'USER: ' + turn['content'] | trim }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' GPT:' }}{% endif %}"
)
# Reads: system, a blank line, ### Human: q, ### Assistant: a, a blank line, ### Human: q2, ### Assistant:
_STABLE_VICUNA = (
    "{{ bos_token }}{% if system %}{{ system + '\\n\\n' }}{% endif %}{% for turn in turns %}"
    "{% if turn['role'] == 'assistant' %}{{ '### Assistant: ' + turn['content'] | trim + '\\n\\n' }}"
    "{% else %}{{ '### Human: ' + turn['content'] | trim + '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:' }}{% endif %}"
)
_ALPACA = (
    "{{ bos_token }}{% if system %}{{ system + '\\n\\n' }}{% endif %}{% for turn in turns %}"
    "{% if turn['role'] == 'assistant' %}"
    "{{ '### Response:' + SEPARATOR + turn['content'] | trim + eos_token + '\\n\\n' }}"
    "{% else %}{{ '### Instruction:\\n' + turn['content'] | trim + '\\n\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:' + SEPARATOR }}{% endif %}"
)
# Reads: <s>[INST] <<SYS>> system <</SYS>> q [/INST] a </s><s>[INST] q2 [/INST], with line feeds around the system text
_LLAMA_2 = (
    "{% for turn in turns %}{% if turn['role'] == 'assistant' %}{{ ' ' + turn['content'] | trim + ' ' + eos_token }}"
    "{% else %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first and system %}{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}{% endif %}"
    "{{ turn['content'] | trim + ' [/INST]' }}{% endif %}{% endfor %}"
)
_LLAMA_3 = (
    "{{ bos_token }}{% for turn in messages %}"
    "{{ '<|start_header_id|>' + turn['role'] + '<|end_header_id|>\\n\\n' + turn['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
_PLAIN = (
    "{{ bos_token }}{% for turn in messages %}{{ turn['content'] }}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
)

# For an encoder, which reads a text that ends with end-of-text.
_PLAIN_T5 = (
    "{% for turn in messages %}{{ turn['content'] }}{% if not loop.last %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{{ eos_token }}"
)

_TABLE = (
    Template("vicuna-v1.1", _with_system(_VICUNA_SYSTEM, _VICUNA), _VICUNA_SYSTEM),
    Template("vicuna-v0", _with_system(_VICUNA_V0_SYSTEM, _VICUNA_V0), _VICUNA_V0_SYSTEM, stops=("###",)),
    Template(
        "alpaca", _with_system(_ALPACA_SYSTEM, _ALPACA.replace("SEPARATOR", "'\\n'")), _ALPACA_SYSTEM,
        stops=("### Instruction:",),
    ),
    Template(
        "chinese-alpaca", _with_system(_ALPACA_SYSTEM, _ALPACA.replace("SEPARATOR", "' '")), _ALPACA_SYSTEM,
        stops=("### Instruction:",),
    ),
    # Stanford's own training put the response right behind the colon, alpaca-lora's on a line of its own.
    Template(
        "stanford-alpaca", _with_system(_ALPACA_SYSTEM, _ALPACA.replace("SEPARATOR", "''")), _ALPACA_SYSTEM,
        stops=("### Instruction:",),
    ),
    Template("koala", _with_system(_KOALA_SYSTEM, _KOALA), _KOALA_SYSTEM),
    Template(
        "stable-vicuna", _with_system(_STABLE_VICUNA_SYSTEM, _STABLE_VICUNA), _STABLE_VICUNA_SYSTEM,
        stops=("### Human:", "### Assistant:"),
    ),
    Template("fastchat-t5", _with_system(_VICUNA_V0_SYSTEM, _FASTCHAT_T5), _VICUNA_V0_SYSTEM, stops=("###",)),
    Template("llama-2", _with_system("", _LLAMA_2)),
    Template("llama-3", _LLAMA_3, stop_tokens=("<|eot_id|>", "<|eom_id|>")),
    Template("plain", _PLAIN),
    Template("plain-t5", _PLAIN_T5),
)  # fmt: skip

_CHINESE_ALPACA_ROWS = 49954
NAMES = tuple(template.name for template in _TABLE)


def find_template(name: str) -> Template:
    """Return a template by name.

    Raises:
        UsageError: there is none of that name; the message lists the known ones.
    """
    found = {template.name: template for template in _TABLE}.get(name)
    if found is None:
        raise UsageError("weights.template_unknown", name=name[:60], known=", ".join(NAMES))
    return found


def detect_template(
    *, rows: int, tokens: Collection[str], delta_rows: int | None, delta_fill: str | None = None
) -> Template:
    """Choose a template from evidence: embedding rows, special tokens, what a delta brought. Never from a name.

    A Vicuna v0 delta is told by the one row it brings, for [PAD], a v1.1 delta by bringing none (None: no delta was
    added), Stanford's Alpaca by starting that row from the mean of the others; Chinese-Alpaca by its number of rows;
    Llama 3 by the tokens that mark its turns. More rows than one tell nothing: LLaVA's were trained on v0 and on v1.1.
    Without evidence a model only continues text.
    """
    if "<|start_header_id|>" in tokens:
        name = "llama-3"
    elif rows == _CHINESE_ALPACA_ROWS:
        name = "chinese-alpaca"
    elif delta_rows in (0, 1):
        tuned = "stanford-alpaca" if delta_fill == "mean" else "vicuna-v0"
        name = tuned if delta_rows else "vicuna-v1.1"
    else:
        name = "plain"
    return find_template(name)
