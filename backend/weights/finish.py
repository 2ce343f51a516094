"""Completes a folder of weights into one that any engine loads: config.json, generation_config.json, tokenizer files
and the chat template, all consistent with each other. Knows nothing about how the weights were made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backend.recipes import META
from backend.text import Message, Value
from backend.weights.as_is import AsIs
from backend.weights.checkpoint import Checkpoint
from backend.weights.disk import inside, label, read_json
from backend.weights.dtypes import CONFIG_NAMES
from backend.weights.finish_as_is import GENERATION, KEPT, choose_as_is, finish_as_is
from backend.weights.partial import writing
from backend.weights.provenance import Provenance, read_cria_json
from backend.weights.shape import CONFIG, ModelShape, token_ids
from backend.weights.templates import NAMES, Template, detect_template, find_template
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
    vocabulary, chosen, notes = _choose(checkpoint, sources, template=template, has_delta=has_delta)
    record = None if has_delta else _record(vocabulary)
    if record is not None and not context:
        longest = record.context
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_tokenizer(vocabulary, out, template=chosen, context=longest)
        write_json(out / CONFIG, config(checkpoint, vocabulary, chosen, context=longest))
        write_json(out / GENERATION, generation_config(vocabulary, chosen))
    return Finished(chosen, longest, notes)


def rehearse_finish(
    checkpoint: Checkpoint, sources: Sequence[Path], *, template: str | None = None, has_delta: bool = False
) -> tuple[Template, tuple[Message, ...]]:
    """Return the template that ``finish_folder`` gives a model, and what it finds; writes nothing. Raises as it does,
    but for the disk.
    """
    if isinstance(checkpoint.shape, AsIs):
        choice = choose_as_is(checkpoint.shape, sources, template=template)
        return choice.template, choice.notes
    _, chosen, notes = _choose(checkpoint, sources, template=template, has_delta=has_delta)
    return chosen, notes


def _choose(
    checkpoint: Checkpoint, sources: Sequence[Path], *, template: str | None, has_delta: bool
) -> tuple[Vocabulary, Template, tuple[Message, ...]]:
    vocabulary = find_vocabulary(sources, checkpoint.llama.vocab)
    vocabulary = replace(vocabulary, ends=tuple(_stated_ends(vocabulary, sources)))
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
    record = None if has_delta else _record(vocabulary)
    if record is not None and record.template in NAMES:
        values: dict[str, Value] = {"folder": label(vocabulary.place), "template": record.template}
        return find_template(record.template), Message("finish.found.template_recorded", values)
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


def _record(vocabulary: Vocabulary) -> Provenance | None:
    """Return what Cria itself wrote about a folder in Meta's layout, which has no place for a template or a context."""
    record = read_cria_json(vocabulary.place)
    return record if record is not None and record.layout == META else None


def _stated_ends(vocabulary: Vocabulary, sources: Sequence[Path]) -> Iterator[int]:
    """Yield the ids of special tokens that the sources' own settings end a reply with.

    Llama 3.1 ends a turn with one of three, and a template that is kept does not tell which. Uploads of March 2023
    state 0 or 1, which are <unk> and <s>: no reply ends with those.
    """
    ends = {token.id for token in vocabulary.added} - {vocabulary.bos.id, vocabulary.unk.id if vocabulary.unk else -1}
    for folder in dict.fromkeys((vocabulary.place, *sources)):
        for name in (GENERATION, CONFIG):
            if (folder / name).is_file():
                stated = token_ids(read_json(inside(folder, name)).get("eos_token_id"))
                yield from (token for token in stated if token in ends)


def stop_ids(vocabulary: Vocabulary, template: Template) -> list[int]:
    """Return the ids that end a reply: end-of-text, what the model's own settings say, and the template's own tokens
    where the vocabulary has them."""
    own = [vocabulary.id_of(token) for token in template.stop_tokens]
    return list(dict.fromkeys([vocabulary.eos.id, *vocabulary.ends, *(token for token in own if token is not None)]))


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
    """Return the keys for the context. With linear scaling, ``max_position_embeddings`` is what the base was trained
    on: vLLM and FastChat multiply it by the factor. ``max_sequence_length`` is the product, as in Vicuna v1.5 16k."""
    scaling = shape.rope_scaling or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in _BOUND_ROPES:
        return {"max_position_embeddings": shape.max_positions}
    if kind == "linear":
        return {
            "max_position_embeddings": int(shape.max_positions / scaling["factor"]),
            "max_sequence_length": context,
        }
    return {"max_position_embeddings": context}


def generation_config(vocabulary: Vocabulary, template: Template) -> dict[str, Any]:
    """Return generation_config.json: only the ids. How to sample is for whoever asks to say."""
    stops = stop_ids(vocabulary, template)
    return {
        "bos_token_id": vocabulary.bos.id,
        "eos_token_id": stops[0] if len(stops) == 1 else stops,
        "pad_token_id": vocabulary.pad.id,
    }
