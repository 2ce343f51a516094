"""Completes a folder of weights into one that any engine loads: config.json, generation_config.json, tokenizer files
and the chat template, all consistent with each other. Knows nothing about how the weights were made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.text import Message
from backend.weights.as_is import AsIs
from backend.weights.checkpoint import Checkpoint
from backend.weights.disk import label
from backend.weights.dtypes import CONFIG_NAMES
from backend.weights.finish_as_is import GENERATION, KEPT, finish_as_is
from backend.weights.partial import writing
from backend.weights.shape import CONFIG, ModelShape
from backend.weights.templates import Template, detect_template, find_template
from backend.weights.tokenizer import Vocabulary, find_vocabulary, kept_template, write_json, write_tokenizer

# Position scalings that follow from max_position_embeddings: another number there would be another model.
_BOUND_ROPES = ("dynamic", "yarn", "longrope")


@dataclass(frozen=True)
class Finished:
    """What a folder was completed with: its template, its longest context in tokens, and what was found and mended."""

    template: Template
    context: int
    notes: tuple[Message, ...]


def finish_folder(
    checkpoint: Checkpoint,
    out: Path,
    *,
    sources: Sequence[Path],
    template: str | None = None,
    context: int | None = None,
    has_delta: bool = False,
) -> Finished:
    """Write everything but the weights into ``out``.

    ``sources`` are folders to look for a tokenizer in, the best first (the last LoRA, the delta, the base).
    ``template`` and ``context`` are what the recipe says; without them they follow from the weights.

    Raises:
        WeightsError: no tokenizer fits the embedding rows.
        UsageError: an unknown template.
        MachineError: the folder cannot be written.
    """
    longest = context or checkpoint.shape.max_positions
    if isinstance(checkpoint.shape, AsIs):
        return _finish_as_is(checkpoint, checkpoint.shape, out, sources=sources, template=template, context=longest)
    vocabulary, chosen, notes = choose(checkpoint, sources, template=template, has_delta=has_delta)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_tokenizer(vocabulary, out, template=chosen, context=longest)
        write_json(out / CONFIG, config(checkpoint, vocabulary, chosen, context=longest))
        write_json(out / GENERATION, generation_config(vocabulary, chosen))
    return Finished(chosen, longest, notes)


def choose(
    checkpoint: Checkpoint, sources: Sequence[Path], *, template: str | None = None, has_delta: bool = False
) -> tuple[Vocabulary, Template, tuple[Message, ...]]:
    """Return the tokenizer and the template that ``finish_folder`` gives a Llama model, and why; writes nothing.

    Raises:
        WeightsError: no tokenizer fits the embedding rows, or it is a model of another kind.
        UsageError: an unknown template.
    """
    vocabulary = find_vocabulary(sources, checkpoint.llama.vocab)
    chosen, why = _template(vocabulary, checkpoint, template, has_delta=has_delta)
    return vocabulary, chosen, (*vocabulary.notes, why)


def _finish_as_is(
    checkpoint: Checkpoint, shape: AsIs, out: Path, *, sources: Sequence[Path], template: str | None, context: int
) -> Finished:
    dtype = CONFIG_NAMES[checkpoint.dtype]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        chosen, notes = finish_as_is(shape, out, dtype=dtype, sources=sources, template=template, context=context)
    return Finished(chosen, context, notes)


def _template(
    vocabulary: Vocabulary, checkpoint: Checkpoint, name: str | None, *, has_delta: bool
) -> tuple[Template, Message]:
    if name is not None:
        return find_template(name), Message("weights.found.template_given", {"template": name})
    kept = kept_template(vocabulary)
    if kept is not None:
        return Template(KEPT, kept), Message("weights.found.template_kept", {"folder": label(vocabulary.place)})
    tokens = {token.text for token in vocabulary.added}
    detected = detect_template(
        rows=checkpoint.shape.vocab,
        tokens=tokens,
        delta_rows=checkpoint.delta_rows if has_delta else None,
        delta_fill=checkpoint.delta_fill,
    )
    return detected, Message(
        "weights.found.template_detected", {"template": detected.name, "rows": checkpoint.shape.vocab}
    )


def stop_ids(vocabulary: Vocabulary, template: Template) -> list[int]:
    """Return the ids that end a reply: end-of-text, and the template's own tokens where the vocabulary has them."""
    own = [vocabulary.id_of(token) for token in template.stop_tokens]
    return list(dict.fromkeys([vocabulary.eos.id, *(token for token in own if token is not None)]))


def config(checkpoint: Checkpoint, vocabulary: Vocabulary, template: Template, *, context: int) -> dict[str, Any]:
    """Return config.json with the keys of transformers 4.4x, which 5 and older ones read too."""
    shape, stops = checkpoint.llama, stop_ids(vocabulary, template)
    return {
        **_positions(shape, context),
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": dict(shape.rope_scaling) if shape.rope_scaling else None,
        "tie_word_embeddings": shape.tie,
        "attention_bias": shape.attention_bias,
        "attention_dropout": 0.0,
        "mlp_bias": shape.mlp_bias,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "pretraining_tp": 1,
        "use_cache": True,
        "bos_token_id": vocabulary.bos.id,
        "eos_token_id": stops[0] if len(stops) == 1 else stops,
        "pad_token_id": vocabulary.pad.id,
        "torch_dtype": CONFIG_NAMES[checkpoint.dtype],
    }


def _positions(shape: ModelShape, context: int) -> dict[str, int]:
    """Return the keys for the context. Linear scaling multiplies positions by itself: ``max_sequence_length`` tells a
    reader that the number is the stretched one already."""
    kind = (shape.rope_scaling or {}).get("rope_type", (shape.rope_scaling or {}).get("type"))
    if kind in _BOUND_ROPES:
        return {"max_position_embeddings": shape.max_positions}
    stretched = {"max_sequence_length": context} if kind == "linear" else {}
    return {"max_position_embeddings": context, **stretched}


def generation_config(vocabulary: Vocabulary, template: Template) -> dict[str, Any]:
    """Return generation_config.json: only the ids. How to sample is for whoever asks to say."""
    stops = stop_ids(vocabulary, template)
    return {
        "bos_token_id": vocabulary.bos.id,
        "eos_token_id": stops[0] if len(stops) == 1 else stops,
        "pad_token_id": vocabulary.pad.id,
    }
