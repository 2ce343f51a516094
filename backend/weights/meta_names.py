"""Meta's names for the tensors of a Llama and Hugging Face's, both ways. Knows nothing about files, axes or numbers.

Source of Meta's names: meta-llama/llama ``model.py``; they are the same from LLaMA 1 to Llama 3.3.
"""

import re
from collections.abc import Mapping

EMBED, OUTPUT, ROPE = "tok_embeddings.weight", "output.weight", "rope.freqs"

_TOP: Mapping[str, str] = {
    EMBED: "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    OUTPUT: "lm_head.weight",
}
_IN_LAYER: Mapping[str, str] = {
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
_META_TOP = {theirs: ours for ours, theirs in _TOP.items()}
_META_IN_LAYER = {theirs: ours for ours, theirs in _IN_LAYER.items()}
_LAYER = re.compile(r"layers\.(0|[1-9]\d{0,3})\.(.+)")


def hf_name(name: str) -> str:
    """Return the Hugging Face name of a Meta tensor; an unknown one keeps its own."""
    found = _LAYER.fullmatch(name)
    if found and found[2] in _IN_LAYER:
        return f"model.layers.{found[1]}.{_IN_LAYER[found[2]]}"
    return _TOP.get(name, name)


def meta_name(name: str) -> str:
    """Return the Meta name of a tensor that a Llama without biases has; an unknown one keeps its own."""
    found = _LAYER.fullmatch(name.removeprefix("model."))
    if found and found[2] in _META_IN_LAYER:
        return f"layers.{found[1]}.{_META_IN_LAYER[found[2]]}"
    return _META_TOP.get(name, name)
