"""The network: a small LlamaForCausalLM, and LoRA layers put over its linear ones.

Knows nothing about text, tokenizers or files on disk.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from .config import LORA, MAX_TOKENS, SHAPE

State = dict[str, Tensor]


def build(vocab_size: int = SHAPE.vocab_size) -> LlamaForCausalLM:
    """A freshly initialised model of the family's shape."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=SHAPE.dim,
        intermediate_size=SHAPE.ffn,
        num_hidden_layers=SHAPE.n_layers,
        num_attention_heads=SHAPE.n_heads,
        max_position_embeddings=MAX_TOKENS,
        rms_norm_eps=SHAPE.norm_eps,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def load(state: State) -> LlamaForCausalLM:
    """A float32 model holding the given (usually fp16) weights."""
    model = build(state["lm_head.weight"].shape[0])
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model


def half(model: nn.Module) -> State:
    """The weights rounded to fp16, in model order."""
    return {name: tensor.detach().half().clone() for name, tensor in model.state_dict().items()}


class LoraLinear(nn.Module):
    """y = W x + (alpha / r) B A x, with W frozen, A random and B zero at the start."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.lora_A = nn.Linear(inner.in_features, LORA.r, bias=False)
        self.lora_B = nn.Linear(LORA.r, inner.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, in) -> (B, T, out)."""
        return self.inner(x) + self.lora_B(self.lora_A(x)) * (LORA.alpha / LORA.r)


def add_lora(model: LlamaForCausalLM, vocab_size: int) -> None:
    """Enlarge the vocabulary and put LoRA over the targets; the rest of the model is frozen."""
    model.requires_grad_(False)
    _enlarge(model, vocab_size)
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, child in list(block.named_children()):
                if name in LORA.targets:
                    setattr(block, name, LoraLinear(child))


def _enlarge(model: LlamaForCausalLM, vocab_size: int) -> None:
    for owner, name in ((model.model, "embed_tokens"), (model, "lm_head")):
        old = getattr(owner, name).weight.detach()
        fresh = old.mean(0, keepdim=True).repeat(vocab_size - len(old), 1)
        fresh = fresh + 0.02 * torch.randn_like(fresh)
        getattr(owner, name).weight = nn.Parameter(torch.cat([old, fresh]))
    model.config.vocab_size = vocab_size
    model.model.embed_tokens.num_embeddings = vocab_size
    model.lm_head.out_features = vocab_size


def lora_state(model: LlamaForCausalLM) -> State:
    """The adapter in fp16, under the names that PEFT 0.3 gave its files."""
    found = {}
    for name, tensor in model.state_dict().items():
        if "lora_" in name or name in ("model.embed_tokens.weight", "lm_head.weight"):
            found[f"base_model.model.{name}"] = tensor.detach().half().clone()
    return found
