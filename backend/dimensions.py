"""A model's dimensions, enough to count every weight without opening a file. Knows nothing about machines or files.

The words are those of transformers' config.json.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """Sizes in elements. ``kind`` is config.json's ``model_type``; ``layers`` of a T5 are those of each half.

    ``window``: tokens that attention looks back in ``window_layers`` of the layers (None: in all of them no limit).
    """

    kind: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    context: int
    tie: bool = False
    attention_bias: bool = False
    qk_norm: bool = False
    window: int | None = None
    window_layers: int = 0
