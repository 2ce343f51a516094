"""LoRAs against the published rule, computed on whole tensors: round(float32(W) + (B @ A) * scale), one rounding
each."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import WeightsError
from backend.weights.checkpoint import Checkpoint
from backend.weights.huggingface import open_huggingface
from backend.weights.lora import add_lora
from tests.backend.weights.make import TORCH, Tiny, Weights, weights, write_hf, write_lora
from tests.backend.weights.reading import loaded, same_bits


def base(folder: Path, tiny: Tiny, seed: int = 0) -> Checkpoint:
    return open_huggingface(write_hf(folder, tiny, weights(tiny, seed)))


def folded(found: Weights, adapter: Weights, scale: float) -> Weights:
    """The reference: Chinese-LLaMA-Alpaca's merge script and peft's merge_and_unload, on whole tensors."""
    merged = {}
    for name, tensor in found.items():
        key = "base_model.model." + name
        merged[name] = adapter[key].to(tensor.dtype) if key in adapter else tensor
        down = adapter.get(key.replace(".weight", ".lora_A.weight"))
        up = adapter.get(key.replace(".weight", ".lora_B.weight"))
        if down is not None and up is not None:
            merged[name] = (merged[name].float() + (up.float() @ down.float()) * scale).to(tensor.dtype)
    return merged


@given(
    dtype=st.sampled_from(["F16", "BF16", "F32"]),
    adapter_dtype=st.sampled_from(["F16", "F32", "BF16"]),
    rank=st.sampled_from([1, 4, 8]),
    alpha=st.sampled_from([3, 8, 16.0]),
    kind=st.sampled_from(["bin", "safetensors"]),
    slab_bytes=st.sampled_from([1, 5000, 10**6]),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_folding_is_the_references_bits(
    tmp_path: Path, *, dtype: str, adapter_dtype: str, rank: int, alpha: float, kind: str, slab_bytes: int
) -> None:
    tiny = Tiny(hidden=96, heads=4, kv_heads=2, layers=1, dtype=dtype)
    folder = tmp_path / f"{adapter_dtype}{rank}{alpha}{kind}"
    adapter = write_lora(folder, tiny, rank=rank, alpha=alpha, dtype=adapter_dtype, kind=kind)
    merged = add_lora(base(tmp_path / dtype, tiny), folder)
    assert same_bits(loaded(merged, slab_bytes), folded(weights(tiny), adapter, alpha / rank))


def test_two_loras_in_order_and_a_growing_vocabulary(tmp_path: Path) -> None:
    tiny = Tiny()
    first = write_lora(tmp_path / "plus", tiny, vocab=350, seed=1)
    second = write_lora(tmp_path / "alpaca", tiny, vocab=351, seed=2, alpha=4)
    merged = add_lora(add_lora(base(tmp_path / "b", tiny), tmp_path / "plus"), tmp_path / "alpaca")
    assert same_bits(loaded(merged), folded(folded(weights(tiny), first, 2.0), second, 1.0))
    assert merged.shape.vocab == 351
    assert [note.key for note in merged.notes].count("weights.found.vocabulary_grows") == 2
    with pytest.raises(WeightsError) as refused:
        add_lora(add_lora(base(tmp_path / "b", tiny), tmp_path / "alpaca"), tmp_path / "plus")
    assert refused.value.key == "weights.adapter_fewer_rows"


def test_scale_multiplies_what_was_trained(tmp_path: Path) -> None:
    tiny = Tiny()
    adapter = write_lora(tmp_path / "l", tiny, vocab=310)
    merged = add_lora(base(tmp_path / "b", tiny), tmp_path / "l", scale=0.5)
    assert same_bits(loaded(merged), folded(weights(tiny), adapter, 1.0))
    assert "weights.found.whole_not_scaled" in [note.key for note in merged.notes]
    assert "lora.found.scale_zero" not in [note.key for note in merged.notes]
    idle = add_lora(base(tmp_path / "c", tiny), tmp_path / "l", scale=0.0)
    assert "lora.found.scale_zero" in [note.key for note in idle.notes]


def test_rslora_and_patterns(tmp_path: Path) -> None:
    tiny = Tiny()
    patterns = {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {r"layers\.1\..*\.(up|down)_proj": 20, "up_proj": 3}}
    adapter = write_lora(tmp_path / "l", tiny, use_rslora=True, **patterns)
    found = loaded(add_lora(base(tmp_path / "b", tiny), tmp_path / "l"))
    plain = folded(weights(tiny), adapter, 8 / math.sqrt(4))
    special = folded(weights(tiny), adapter, 20 / math.sqrt(4))
    first = folded(weights(tiny), adapter, 3 / math.sqrt(4))
    for name in found:
        wanted = special if name.endswith(("1.mlp.up_proj.weight", "1.mlp.down_proj.weight")) else plain
        if name.endswith("0.mlp.up_proj.weight"):
            wanted = first
        assert torch.equal(found[name], wanted[name]), name


def rewrite(folder: Path, change: object) -> None:
    path = folder / "adapter_model.bin"
    state = torch.load(path)
    change(state)  # type: ignore[operator]
    torch.save(state, path)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


def test_keys_of_other_eras(tmp_path: Path) -> None:
    tiny = Tiny()
    adapter = write_lora(tmp_path / "l", tiny, vocab=310)

    def other_names(state: Weights) -> None:
        for name in list(state):
            tensor = state.pop(name)
            new = name.replace(".lora_A.weight", ".lora_A.default.weight").replace(
                ".lora_B.weight", ".lora_B.default.weight"
            )
            if "lora_" not in name:
                new = name.replace(".weight", ".modules_to_save.default.weight")
                state[name.replace(".weight", ".original_module.weight")] = torch.zeros_like(tensor)
            state[new.removeprefix("base_model.model.")] = tensor

    rewrite(tmp_path / "l", other_names)
    found = loaded(add_lora(base(tmp_path / "b", tiny), tmp_path / "l"))
    assert same_bits(found, folded(weights(tiny), adapter, 2.0))


BROKEN = {
    "no A": (lambda s: s.pop(Q + ".lora_A.weight"), "weights.adapter_half"),
    "shapes": (lambda s: s.update({Q + ".lora_B.weight": torch.zeros(32, 3)}), "weights.adapter_shapes"),
    "rank": (
        lambda s: s.update({Q + ".lora_B.weight": torch.zeros(32, 3), Q + ".lora_A.weight": torch.zeros(3, 32)}),
        "weights.adapter_rank",
    ),
    "other size": (
        lambda s: s.update({Q + ".lora_B.weight": torch.zeros(64, 4)}),
        "weights.adapter_other_size",
    ),
    "dora": (lambda s: s.update({Q + ".lora_magnitude_vector": torch.zeros(32)}), "weights.adapter_key"),
    "embedding lora": (
        lambda s: s.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 300)}),
        "weights.adapter_half",
    ),
    "bias": (lambda s: s.update({Q + ".bias": torch.zeros(32)}), "lora.no_bias"),
    "bias of B": (lambda s: s.update({Q + ".lora_B.bias": torch.zeros(32)}), "lora.lora_bias"),
    "twice": (
        lambda s: s.update({Q + ".lora_A.default.weight": torch.zeros(4, 32)}),
        "weights.adapter_key",
    ),
    "unknown": (lambda s: s.update({Q + ".lora_C.weight": torch.zeros(4, 32)}), "weights.adapter_key"),
    "long name": (lambda s: s.update({"." * 500 + ".lora_C": torch.zeros(4)}), "weights.adapter_key"),
    "lora on the word table": (
        lambda s: s.update({"base_model.model.model.embed_tokens.lora_A.weight": torch.zeros(4, 32),
                            "base_model.model.model.embed_tokens.lora_B.weight": torch.zeros(300, 4)}),
        "weights.adapter_key",
    ),
    "integers": (
        lambda s: s.update({Q + ".lora_A.weight": torch.zeros(4, 32, dtype=torch.int8)}),
        "weights.dtype_unknown",
    ),
    "another layer": (
        lambda s: s.update({Q.replace("0", "7") + f".lora_{h}.weight": t for h, t in
                            (("A", torch.zeros(4, 32)), ("B", torch.zeros(32, 4)))}),
        "weights.adapter_no_place",
    ),
    "one sided": (
        lambda s: s.update({"base_model.model.lm_head.weight": torch.zeros(320, 32)}),
        "weights.adapter_one_sided",
    ),
    "empty": (lambda s: [s.clear(), s.update(x=1)], "weights.adapter_empty"),
    "really empty": (lambda s: s.clear(), "weights.adapter_empty"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "key"), BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_folded_is_refused(tmp_path: Path, change: object, key: str) -> None:
    tiny = Tiny()
    write_lora(tmp_path / "l", tiny)
    rewrite(tmp_path / "l", change)
    with pytest.raises(WeightsError) as refused:
        add_lora(base(tmp_path / "b", tiny), tmp_path / "l")
    assert refused.value.key == key, refused.value.text()
    assert refused.value.hint is not None


FIELDS: list[tuple[dict[str, object], str]] = [
    ({"peft_type": "LOHA"}, "weights.adapter_kind"),
    ({"use_dora": True}, "lora.dora_incomplete"),
    ({"use_rslora": "yes"}, "weights.adapter_field"),
    ({"bias": "some"}, "weights.adapter_field"),
    ({"lora_bias": True}, "lora.lora_bias"),
    ({"init_lora_weights": "pissa"}, "lora.changed_base"),
    ({"init_lora_weights": "pissa_niter_4"}, "lora.changed_base"),
    ({"init_lora_weights": "OLoRA"}, "lora.changed_base"),
    ({"init_lora_weights": ["loftq"]}, "lora.changed_base"),
    ({"layer_replication": [[0, 2]]}, "weights.adapter_field"),
    ({"target_parameters": ["mlp.experts"]}, "weights.adapter_field"),
    ({"trainable_token_indices": [1]}, "lora.saved_missing"),
    ({"trainable_token_indices": [1, 1]}, "weights.adapter_field"),
    ({"trainable_token_indices": {"embed_tokens": [-1]}}, "weights.adapter_field"),
    ({"auto_mapping": {"base_model_class": "X"}}, "weights.adapter_field"),
    ({"auto_mapping": {"base_model_class": "LlamaForCausalLM", "parent_library": "mine"}}, "weights.adapter_field"),
    ({"auto_mapping": "transformers.x"}, "weights.adapter_field"),
    ({"rank_pattern": {"(?<=a)q_proj": 4}}, "lora.pattern"),
    ({"rank_pattern": {"q_proj": 3}}, "weights.adapter_rank"),
    ({"alpha_pattern": ["q_proj"]}, "weights.adapter_field"),
    ({"modules_to_save": ["embed_tokens"]}, "lora.saved_missing"),
    ({"r": 5}, "weights.adapter_rank"),
    ({"r": "4"}, "weights.bad_number"),
    ({"lora_alpha": None}, "weights.bad_number"),
    ({"lora_alpha": math.inf}, "weights.bad_number"),
]


@pytest.mark.parametrize(("field", "key"), FIELDS, ids=lambda value: str(value)[:40])
def test_settings_that_change_the_sum_are_refused(tmp_path: Path, field: dict[str, object], key: str) -> None:
    tiny = Tiny(layers=1)
    write_lora(tmp_path / "l", tiny, **field)
    with pytest.raises(WeightsError) as refused:
        add_lora(base(tmp_path / "b", tiny), tmp_path / "l")
    assert refused.value.key == key, refused.value.text()


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal"])
def test_starts_that_leave_the_base_alone_are_fine(tmp_path: Path, start: object) -> None:
    tiny = Tiny(layers=1)
    adapter = write_lora(tmp_path / "l", tiny, init_lora_weights=start, merge_weights=False)
    assert same_bits(loaded(add_lora(base(tmp_path / "b", tiny), tmp_path / "l")), folded(weights(tiny), adapter, 2.0))


def test_an_adapter_that_was_saved_without_a_task_is_fine(tmp_path: Path) -> None:
    """PEFT notes the class of the base model then."""
    tiny = Tiny(layers=1)
    library = "transformers.models.llama.modeling_llama"
    mapping = {"base_model_class": "LlamaForCausalLM", "parent_library": library}
    adapter = write_lora(tmp_path / "l", tiny, task_type=None, auto_mapping=mapping)
    assert same_bits(loaded(add_lora(base(tmp_path / "b", tiny), tmp_path / "l")), folded(weights(tiny), adapter, 2.0))


def test_folders_without_an_adapter(tmp_path: Path) -> None:
    tiny = Tiny()
    checkpoint = base(tmp_path / "b", tiny)
    with pytest.raises(WeightsError, match=r"adapter_config\.json"):
        add_lora(checkpoint, tmp_path / "b")
    write_lora(tmp_path / "l", tiny)
    (tmp_path / "l" / "adapter_model.bin").unlink()
    with pytest.raises(WeightsError, match=r"adapter_model\.bin"):
        add_lora(checkpoint, tmp_path / "l")


def test_fan_in_fan_out_is_ignored_as_peft_does(tmp_path: Path) -> None:
    tiny = Tiny()
    adapter = write_lora(tmp_path / "l", tiny, fan_in_fan_out=True)
    merged = add_lora(base(tmp_path / "b", tiny), tmp_path / "l")
    assert same_bits(loaded(merged), folded(weights(tiny), adapter, 2.0))
    assert "weights.found.fan_in_fan_out" in [note.key for note in merged.notes]


def save_adapter(folder: Path, state: Weights, **config: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "adapter_model.bin")
    table = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(table | config))


def some(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


BOTH = pytest.mark.parametrize("dtype", ["F16", "BF16"])


@BOTH
@pytest.mark.parametrize("slab_bytes", [1, 3000, 10**6])
def test_dora_gives_each_row_its_length(tmp_path: Path, dtype: str, slab_bytes: int) -> None:
    tiny = Tiny(hidden=96, layers=1, dtype=dtype)
    adapter = write_lora(tmp_path / "l", tiny, use_dora=True)
    plain = weights(tiny)
    wanted = {}
    for name, tensor in plain.items():
        stem = "base_model.model." + name.removesuffix(".weight")
        if stem + ".lora_A.weight" not in adapter:
            wanted[name] = tensor
            continue
        total = tensor.float() + (adapter[stem + ".lora_B.weight"] @ adapter[stem + ".lora_A.weight"]) * 2.0
        length = 0.5 + some(len(tensor)).abs()
        adapter[stem + ".lora_magnitude_vector"] = length
        wanted[name] = ((length / torch.linalg.norm(total, dim=1)).view(-1, 1) * total).to(tensor.dtype)
    torch.save(adapter, tmp_path / "l" / "adapter_model.bin")
    assert same_bits(loaded(add_lora(base(tmp_path / "b", tiny), tmp_path / "l"), slab_bytes), wanted)


def test_dora_of_a_raw_state_dictionary(tmp_path: Path) -> None:
    tiny = Tiny(layers=1)
    state = {Q + ".lora_A.a.weight": some(4, 32), Q + ".lora_B.a.weight": some(32, 4)}
    found = []
    for key in (".lora_magnitude_vector", ".lora_magnitude_vector.a", ".lora_magnitude_vector.a.weight"):
        save_adapter(tmp_path / key, state | {Q + key: torch.ones(32)}, use_dora=True)
        found.append(
            loaded(add_lora(base(tmp_path / "b", tiny), tmp_path / key))["model.layers.0.self_attn.q_proj.weight"]
        )
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert torch.allclose(found[0].float().norm(dim=1), torch.ones(32), atol=1e-2)


EMB = "base_model.model.model.embed_tokens"


@BOTH
@pytest.mark.parametrize("slab_bytes", [1, 3000, 10**6])
def test_a_product_on_the_word_table_is_rounded_before_it_is_added(tmp_path: Path, dtype: str, slab_bytes: int) -> None:
    tiny = Tiny(hidden=96, layers=1, dtype=dtype)
    down, up, whole = some(4, 300, seed=1), some(96, 4, seed=2), some(300, 96)
    state = {EMB + ".lora_embedding_A": down, EMB + ".lora_embedding_B": up, EMB + ".base_layer.weight": whole}
    save_adapter(tmp_path / "l", state)
    found = loaded(add_lora(base(tmp_path / "b", tiny), tmp_path / "l"), slab_bytes)
    table = whole.to(TORCH[dtype])
    table += ((up @ down).T * 2.0).to(TORCH[dtype])
    assert same_bits(found, weights(tiny) | {"model.embed_tokens.weight": table})


@pytest.mark.parametrize("slab_bytes", [1, 3000, 10**6])
def test_single_rows_are_replaced(tmp_path: Path, slab_bytes: int) -> None:
    tiny = Tiny(layers=1)
    rows, values, head = [299, 7, 8, 9, 100], some(5, 32, seed=1), some(2, 32, seed=2)
    state = {EMB + ".token_adapter.trainable_tokens_delta": values}
    save_adapter(tmp_path / "l", state, trainable_token_indices=rows)
    other = {"base_model.model.lm_head.token_adapter.trainable_tokens_delta.default": head}
    save_adapter(tmp_path / "m", state | other, trainable_token_indices={"embed_tokens": rows, "lm_head": [3, 0]})
    wanted = weights(tiny)
    wanted["model.embed_tokens.weight"][rows] = values.half()
    once = add_lora(base(tmp_path / "b", tiny), tmp_path / "l")
    assert same_bits(loaded(once, slab_bytes), wanted)
    wanted["lm_head.weight"][[3, 0]] = head.half()
    assert same_bits(loaded(add_lora(base(tmp_path / "b", tiny), tmp_path / "m"), slab_bytes), wanted)


def test_rows_of_another_model_are_refused(tmp_path: Path) -> None:
    tiny = Tiny(layers=1)
    key = EMB + ".token_adapter.trainable_tokens_delta"
    for number, (rows, shape, wanted) in enumerate(
        [([300], (1, 32), "lora.token_beyond"), ([1, 2], (1, 32), "lora.token_rows"),
         ([1], (1, 64), "weights.adapter_other_size")]
    ):  # fmt: skip
        save_adapter(tmp_path / f"l{number}", {key: some(*shape)}, trainable_token_indices=rows)
        with pytest.raises(WeightsError) as refused:
            add_lora(base(tmp_path / "b", tiny), tmp_path / f"l{number}")
        assert refused.value.key == wanted
    both = {key: some(1, 32), EMB + ".lora_embedding_A": some(4, 300), EMB + ".lora_embedding_B": some(32, 4)}
    save_adapter(tmp_path / "both", both, trainable_token_indices=[1])
    with pytest.raises(WeightsError) as refused:
        add_lora(base(tmp_path / "b", tiny), tmp_path / "both")
    assert refused.value.key == "lora.tokens_and_pair"


def test_biases_replace_those_of_a_model_that_has_some(tmp_path: Path) -> None:
    tiny = Tiny(layers=1)
    found = weights(tiny) | {
        f"model.layers.0.self_attn.{part}_proj.bias": some(32, seed=ord(part)).half() for part in "qkvo"
    }
    checkpoint = open_huggingface(write_hf(tmp_path / "b", tiny, found, attention_bias=True))
    new = some(32), some(32, seed=9)
    state = {Q + ".base_layer.bias": new[0], Q.replace("q_proj", "v_proj") + ".bias": new[1]}
    save_adapter(tmp_path / "l", state, bias="all")
    merged = loaded(add_lora(checkpoint, tmp_path / "l"))
    for name, tensor in found.items():
        wanted = {"q": new[0].half(), "v": new[1].half()}.get(name[-11]) if name.endswith("bias") else None
        assert torch.equal(merged[name], tensor if wanted is None else wanted), name


def test_a_whole_training_dictionary(tmp_path: Path) -> None:
    """What a trainer's own saving left: every tensor of the base, under the keys of PEFT 0.3 and of today."""
    tiny = Tiny(layers=1)
    trained = weights(tiny, 4)
    for number, base_layer in enumerate(("", ".base_layer")):
        state: Weights = {"base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
        for name, tensor in trained.items():
            state["base_model.model." + name.replace("proj.weight", f"proj{base_layer}.weight")] = tensor
        state |= {Q + ".lora_A.default.weight": some(4, 32), Q + ".lora_B.default.weight": some(32, 4, seed=8)}
        save_adapter(tmp_path / f"l{number}", state)
        wanted = dict(trained)
        name = "model.layers.0.self_attn.q_proj.weight"
        wanted[name] = (trained[name].float() + (some(32, 4, seed=8) @ some(4, 32)) * 2.0).half()
        assert same_bits(loaded(add_lora(base(tmp_path / "b", tiny), tmp_path / f"l{number}")), wanted)


def test_a_module_that_two_adapters_touch(tmp_path: Path) -> None:
    """Replaced by the second, whatever the first had added; then the second's own product on top, one rounding each."""
    tiny = Tiny(layers=1)
    name = "model.layers.0.self_attn.q_proj.weight"
    pair = {Q + ".lora_A.weight": some(4, 32), Q + ".lora_B.weight": some(32, 4, seed=8)}
    save_adapter(tmp_path / "one", pair)
    save_adapter(tmp_path / "two", pair | {Q + ".modules_to_save.default.weight": some(32, 32, seed=5)}, lora_alpha=4)
    product = some(32, 4, seed=8) @ some(4, 32)
    first = (weights(tiny)[name].float() + product * (2.0 * 0.5)).half()
    once = add_lora(base(tmp_path / "b", tiny), tmp_path / "one", scale=0.5)
    assert torch.equal(loaded(once)[name], first)
    twice = add_lora(once, tmp_path / "two", scale=3.0)
    assert torch.equal(loaded(twice)[name], (some(32, 32, seed=5).half().float() + product * 3.0).half())


def test_tied_tables(tmp_path: Path) -> None:
    tiny = Tiny(layers=1)
    found = {name: tensor for name, tensor in weights(tiny).items() if name != "lm_head.weight"}
    tied = open_huggingface(write_hf(tmp_path / "b", tiny, found, tie_word_embeddings=True))
    save_adapter(tmp_path / "rows", {EMB + ".weight": some(310, 32)})
    grown = add_lora(tied, tmp_path / "rows")
    assert (grown.llama.vocab, grown.llama.tie, "lm_head.weight" in grown) == (310, True, False)
    state = {EMB + ".weight": some(310, 32), "base_model.model.lm_head.weight": some(310, 32, seed=9)}
    save_adapter(tmp_path / "both", state)
    apart = add_lora(tied, tmp_path / "both")
    assert not apart.llama.tie
    assert torch.equal(loaded(apart)["lm_head.weight"], some(310, 32, seed=9).half())
    assert "lora.found.untied" in [note.key for note in apart.notes]
    head = {
        "base_model.model.lm_head.lora_A.weight": some(4, 32),
        "base_model.model.lm_head.lora_B.weight": some(300, 4),
    }
    save_adapter(tmp_path / "head", head)
    found = loaded(tied)
    added = loaded(add_lora(tied, tmp_path / "head", scale=0.5))
    assert torch.equal(added["model.embed_tokens.weight"], found["model.embed_tokens.weight"])
    product = head["base_model.model.lm_head.lora_B.weight"] @ head["base_model.model.lm_head.lora_A.weight"]
    assert torch.equal(added["lm_head.weight"], (found["model.embed_tokens.weight"].float() + product).half())
    save_adapter(tmp_path / "one", head | {EMB + ".weight": some(310, 32)})
    with pytest.raises(WeightsError) as refused:
        add_lora(tied, tmp_path / "one")
    assert refused.value.key == "weights.adapter_one_sided"


def test_an_untrained_adapter_is_said_to_change_nothing(tmp_path: Path) -> None:
    tiny = Tiny(layers=1)
    save_adapter(tmp_path / "l", {Q + ".lora_A.weight": some(4, 32), Q + ".lora_B.weight": torch.zeros(32, 4)})
    save_adapter(tmp_path / "m", {Q + ".lora_A.weight": some(4, 32), Q + ".lora_B.weight": some(32, 4)})
    checkpoint = base(tmp_path / "b", tiny)
    assert "lora.found.no_op" in [note.key for note in add_lora(checkpoint, tmp_path / "l").notes]
    assert "lora.found.no_op" not in [note.key for note in add_lora(checkpoint, tmp_path / "m").notes]


def test_an_adapter_of_a_model_without_its_head(tmp_path: Path) -> None:
    tiny = Tiny(layers=1)
    pair = {Q + ".lora_A.weight": some(4, 32), Q + ".lora_B.weight": some(32, 4)}
    save_adapter(tmp_path / "l", pair)
    save_adapter(
        tmp_path / "m", {key.replace("model.model.model.", "model.model."): part for key, part in pair.items()}
    )
    checkpoint = base(tmp_path / "b", tiny)
    assert same_bits(loaded(add_lora(checkpoint, tmp_path / "m")), loaded(add_lora(checkpoint, tmp_path / "l")))


def test_dora_where_it_does_not_belong_is_refused(tmp_path: Path) -> None:
    """On the word table lengths go down the columns, past every row; and lengths alone are no LoRA."""
    tiny = Tiny(layers=1)
    table = {EMB + ".lora_embedding_A": some(4, 300), EMB + ".lora_embedding_B": some(32, 4)}
    save_adapter(tmp_path / "table", table | {EMB + ".lora_magnitude_vector": torch.ones(32)}, use_dora=True)
    pair = {Q + ".lora_A.weight": some(4, 32), Q + ".lora_B.weight": some(32, 4)}
    norm = {"base_model.model.model.norm.lora_magnitude_vector": torch.ones(32)}
    save_adapter(tmp_path / "lonely", pair | norm | {Q + ".lora_magnitude_vector": torch.ones(32)}, use_dora=True)
    save_adapter(tmp_path / "short", pair | {Q + ".lora_magnitude_vector": torch.ones(31)}, use_dora=True)
    for name, key in (
        ("table", "lora.dora_embedding"), ("lonely", "weights.adapter_key"), ("short", "weights.adapter_other_size")
    ):  # fmt: skip
        with pytest.raises(WeightsError) as refused:
            add_lora(base(tmp_path / "b", tiny), tmp_path / name)
        assert refused.value.key == key
