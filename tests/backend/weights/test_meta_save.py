"""Meta's layout written: what torch reads from the files is what was cut up independently (``make.write_meta``), and
reading it back gives the same bits whatever the number of shards."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import Cancelled, MachineError, UsageError, WeightsError
from backend.weights.checkpoint import Checkpoint
from backend.weights.delta import add_delta
from backend.weights.huggingface import open_huggingface
from backend.weights.lora import add_lora
from backend.weights.meta import open_meta
from backend.weights.meta_finish import finish_meta
from backend.weights.meta_layout import to_meta_layout
from backend.weights.meta_save import planned_files, save_meta
from backend.weights.opening import open_checkpoint
from backend.weights.partial import JOURNAL
from backend.weights.tiktoken_model import read_tiktoken, special_tokens, tiktoken_json
from backend.weights.tokenizer import find_vocabulary
from backend.weights.verify import verify
from tests.backend.weights.make import Tiny, tokenizer_model, weights, write_hf, write_meta
from tests.backend.weights.reading import loaded, same_bits
from tests.backend.weights.test_demo_family import BASE, DELTA, LORA

TINY = Tiny(hidden=64, heads=8, kv_heads=8, vocab=301)


def hf(folder: Path, tiny: Tiny = TINY, **config: object) -> Checkpoint:
    theta = {"rope_theta": 500000.0} if tiny.llama3 else {}
    return open_huggingface(write_hf(folder, tiny, weights(tiny), **(theta | config)))


def written(checkpoint: Checkpoint, folder: Path, shards: int | None = None, slab_bytes: int = 5000) -> Path:
    """Write and finish; the reader wants params.json."""
    list(save_meta(checkpoint, folder, shards=shards, slab_bytes=slab_bytes))
    (folder / "params.json").write_bytes(to_meta_layout(checkpoint, shards).params)
    return folder


def states(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [torch.load(path, weights_only=True, mmap=True) for path in sorted(folder.glob("*.pth"))]


@given(
    shards=st.sampled_from([1, 2, 4, 8]),
    again=st.sampled_from([1, 2, 4, 8]),
    grouped=st.booleans(),
    head_dim=st.sampled_from([4, 8]),
    vocab=st.sampled_from([40, 41, 47]),
    dtype=st.sampled_from(["F16", "BF16", "F32"]),
    llama3=st.booleans(),
    slab_bytes=st.sampled_from([300, 1111, 5000]),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_there_and_back_gives_the_same_bits(
    tmp_path: Path,
    *,
    shards: int,
    again: int,
    grouped: bool,
    head_dim: int,
    vocab: int,
    dtype: str,
    llama3: bool,
    slab_bytes: int,
) -> None:
    tiny = Tiny(
        hidden=16 * head_dim, heads=16, kv_heads=8 if grouped else 16, vocab=vocab, dtype=dtype, llama3=llama3, layers=1
    )
    shutil.rmtree(tmp_path, ignore_errors=True)
    source = hf(tmp_path / "hf", tiny)
    first = open_meta(written(source, tmp_path / "a", shards, slab_bytes))
    assert same_bits(loaded(first, slab_bytes), weights(tiny))
    second = open_meta(written(first, tmp_path / "b", again, slab_bytes))
    assert same_bits(loaded(second, slab_bytes), weights(tiny))
    for shape in (first.shape, second.shape):
        assert (shape.vocab, shape.tie) == (vocab, False)
    assert second.llama.kv_heads == tiny.kv_heads
    assert second.llama.ffn == tiny.ffn


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("llama3", [False, True])
def test_the_files_are_those_of_an_independent_cut(tmp_path: Path, shards: int, llama3: bool) -> None:
    tiny = Tiny(hidden=64, heads=8, kv_heads=4, vocab=300, llama3=llama3)
    write_meta(tmp_path / "wanted", tiny, weights(tiny), shards=shards)
    written(hf(tmp_path / "hf", tiny), tmp_path / "made", shards)
    for wanted, made in zip(states(tmp_path / "wanted"), states(tmp_path / "made"), strict=True):
        del wanted["rope.freqs"]
        assert same_bits({name: made[name] for name in wanted}, wanted)
        assert len(made) == len(wanted)


def test_rows_that_do_not_divide_go_to_the_last_shard(tmp_path: Path) -> None:
    """Chinese-LLaMA 13B: 49953 output rows are 24976 and 24977."""
    source = hf(tmp_path / "hf")
    rows = [shard["output.weight"].shape[0] for shard in states(written(source, tmp_path / "m", 2))]
    assert rows == [150, 151]
    by_four = to_meta_layout(source, 4).pieces[-1]
    assert [by_four.shape(shard)[0] for shard in range(4)] == [75, 75, 75, 76]


def test_a_tied_head_is_stored_as_meta_does_and_tied_again(tmp_path: Path) -> None:
    state = weights(TINY)
    del state["lm_head.weight"]
    folder = write_hf(tmp_path / "hf", TINY, state, tie_word_embeddings=True)
    made = written(open_huggingface(folder), tmp_path / "m", 2)
    assert torch.equal(
        torch.cat([shard["output.weight"] for shard in states(made)]), state["model.embed_tokens.weight"]
    )
    back = open_meta(made)
    assert back.shape.tie
    assert same_bits(loaded(back), state)


def test_the_demo_goes_there_and_back(tmp_path: Path) -> None:
    base = open_checkpoint(BASE)
    made = written(base, tmp_path / "m", 2, 100_000)
    for ours, theirs in zip(states(made), states(BASE), strict=True):
        theirs.pop("rope.freqs", None)
        assert same_bits({name: ours[name] for name in theirs}, theirs)
    assert same_bits(loaded(open_meta(made)), loaded(base))
    assert same_bits(loaded(open_meta(written(base, tmp_path / "one", 1))), loaded(base))


def test_queries_and_keys_turn_back_after_a_lora_was_folded_in(tmp_path: Path) -> None:
    composed = add_lora(add_delta(open_checkpoint(BASE), open_checkpoint(DELTA)), LORA)
    back = open_meta(written(composed, tmp_path / "m", 2, 100_000))
    assert same_bits(loaded(back, 100_000), loaded(composed, 100_000))


def test_sizes_are_known_before_and_progress_ends_at_the_whole(tmp_path: Path) -> None:
    source = hf(tmp_path / "hf")
    planned = planned_files(source, 4)
    seen = list(save_meta(source, tmp_path / "m", shards=4, slab_bytes=3000))
    assert planned == {path.name: path.stat().st_size for path in (tmp_path / "m").glob("*.pth")}
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert seen[-1].done == seen[-1].total == sum(planned.values())
    assert len(seen) > 20


def test_a_finished_folder_has_what_meta_ships(tmp_path: Path) -> None:
    tiny = Tiny(hidden=64, heads=8, kv_heads=8, vocab=500)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "tokenizer.model").write_bytes(tokenizer_model())
    source, out = hf(tmp_path / "hf", tiny), tmp_path / "m"
    list(save_meta(source, out, shards=2))
    notes = finish_meta(source, out, sources=[tmp_path / "hf"])
    assert "weights.found.tokenizer" in [note.key for note in notes]
    lines = [line.split("  ") for line in (out / "checklist.chk").read_text().splitlines()]
    assert [name for _, name in lines] == ["consolidated.00.pth", "consolidated.01.pth", "params.json"]
    lines += [(out / "tokenizer_checklist.chk").read_text().rstrip("\n").split("  ")]
    for md5, name in lines:
        assert hashlib.md5((out / name).read_bytes()).hexdigest() == md5
    assert json.loads((out / "params.json").read_bytes())["vocab_size"] == -1
    (out / "checklist.chk").unlink()
    finish_meta(source, out, sources=[tmp_path / "hf"])  # sums that were lost are made again
    assert [line.split("  ") for line in (out / "checklist.chk").read_text().splitlines()] == lines[:-1]
    assert same_bits(loaded(open_checkpoint(out)), weights(tiny))


def test_llama_3_has_one_checklist_and_its_own_kind_of_tokenizer(tmp_path: Path) -> None:
    tiny = Tiny(vocab=513, llama3=True, dtype="BF16")
    source, out = hf(tmp_path / "hf", tiny), tmp_path / "m"
    list(save_meta(source, out))
    ranks = {bytes([value]): value for value in range(256)} | {"é!".encode(): 256}
    added = special_tokens(257)
    fast = tiktoken_json(ranks, added, bos=added[0])
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps(fast))
    finish_meta(source, out, sources=[tmp_path / "hf"])
    names = [line.split()[1] for line in (out / "checklist.chk").read_text().splitlines()]
    assert names == ["consolidated.00.pth", "params.json", "tokenizer.model"]
    assert read_tiktoken(out / "tokenizer.model") == ranks
    assert not (out / "tokenizer_checklist.chk").exists()
    assert find_vocabulary([out], 513).size == 513


def test_a_tokenizer_model_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "▁a": 3}
    added = [{"id": number, "content": text, "special": True} for text, number in list(vocab.items())[:3]]
    source, out = hf(tmp_path / "hf"), tmp_path / "m"
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocab}, "added_tokens": added}))
    list(save_meta(source, out))
    notes = finish_meta(source, out, sources=[tmp_path / "hf"])
    assert "meta.found.no_tokenizer_model" in [note.key for note in notes]
    assert not (out / "tokenizer.model").exists()


def test_a_finished_folder_is_verified_like_any_other(tmp_path: Path) -> None:
    source, out = hf(tmp_path / "hf"), tmp_path / "m"
    written(source, out, 2)
    sums = json.loads((out / JOURNAL).read_text())["done"]
    assert list(verify(out, sums))[-1].done == sum(planned_files(source, 2).values())
    path = out / "consolidated.01.pth"
    raw = bytearray(path.read_bytes())
    raw[raw.index(weights(TINY)["model.norm.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(raw)
    with pytest.raises(WeightsError) as refused:
        list(verify(out, sums))
    assert refused.value.key == "weights.hash_differs"


def test_a_run_that_was_stopped_is_started_again_and_one_that_ended_is_kept(tmp_path: Path) -> None:
    source, out = hf(tmp_path / "hf"), tmp_path / "m"
    stop = iter([False] * 12 + [True] * 100)
    with pytest.raises(Cancelled):
        list(save_meta(source, out, shards=2, slab_bytes=2000, cancelled=lambda: next(stop)))
    assert not list(out.glob("*.pth"))
    list(save_meta(source, out, shards=2))
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.pth")}
    list(save_meta(source, out, shards=2))
    assert times == {path.name: path.stat().st_mtime_ns for path in out.glob("*.pth")}
    (out / "consolidated.01.pth").write_bytes(b"x" * (out / "consolidated.01.pth").stat().st_size)
    list(save_meta(source, out, shards=2))
    assert set(json.loads((out / JOURNAL).read_text())["done"]) == set(times)
    list(save_meta(source, out, shards=1))  # other work
    assert [path.name for path in out.glob("*.pth")] == ["consolidated.00.pth"]
    (out / "params.json").write_bytes(to_meta_layout(source, 1).params)
    assert same_bits(loaded(open_meta(out)), weights(TINY))


def test_damage_of_a_source_is_found_and_nothing_is_called_complete(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", TINY, weights(TINY), kind="bin")
    path = folder / "pytorch_model.bin"
    raw = bytearray(path.read_bytes())
    at = raw.index(weights(TINY)["model.layers.1.mlp.up_proj.weight"].numpy().tobytes())
    raw[at + 100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(WeightsError) as refused:
        list(save_meta(open_huggingface(folder), tmp_path / "m", shards=2))
    assert refused.value.key == "weights.checksum"
    assert not list((tmp_path / "m").glob("*.pth"))


def test_sources_are_finished_before_anything_gets_its_name(tmp_path: Path) -> None:
    def damaged() -> None:
        raise WeightsError("weights.checksum", file="x", record="y")

    with pytest.raises(WeightsError):
        list(save_meta(replace(hf(tmp_path / "hf"), checks=(damaged,)), tmp_path / "m"))
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["consolidated.00.pth.part"]


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = weights(TINY)
    state["model.layers.0.mlp.up_proj.weight"][3, 4] = np.inf
    with pytest.raises(WeightsError) as refused:
        list(save_meta(open_huggingface(write_hf(tmp_path / "hf", TINY, state)), tmp_path / "m"))
    assert (refused.value.key, refused.value.params["name"]) == (
        "weights.not_finite",
        "layers.0.feed_forward.w3.weight",
    )


def test_a_full_disk_is_known_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = hf(tmp_path / "hf")
    monkeypatch.setattr("backend.weights.partial.free_bytes", lambda _: 9)
    with pytest.raises(MachineError) as refused:
        list(save_meta(source, tmp_path / "m"))
    assert refused.value.key == "weights.disk_full"
    assert not list((tmp_path / "m").glob("*.pth*"))


@pytest.mark.parametrize(
    ("shards", "config", "key"),
    [
        (3, {}, "meta.cannot_cut"),
        (16, {}, "meta.cannot_cut"),
        (0, {}, "meta.shards_range"),
        (100, {}, "meta.shards_range"),
        (1, {"attention_bias": True}, "meta.cannot_bias"),
        (1, {"rope_scaling": {"type": "linear", "factor": 4.0}}, "meta.cannot_scale"),
    ],
)
def test_what_meta_cannot_express_is_refused(tmp_path: Path, shards: int, config: dict[str, object], key: str) -> None:
    state = weights(TINY)
    if "attention_bias" in config:
        for name in [name for name in state if "self_attn" in name]:
            state[name.replace(".weight", ".bias")] = state[name][:, 0].clone()
    source = open_huggingface(write_hf(tmp_path / "hf", TINY, state, **config))
    with pytest.raises((UsageError, WeightsError)) as refused:
        to_meta_layout(source, shards)
    assert refused.value.key == key
    assert refused.value.hint is not None


def test_heads_that_do_not_make_up_the_width_are_refused(tmp_path: Path) -> None:
    state = weights(TINY)
    for name, tensor in list(state.items()):
        if "self_attn" in name:
            state[name] = tensor[:, :32].clone() if "o_proj" in name else tensor[:32].clone()
    source = open_huggingface(write_hf(tmp_path / "hf", TINY, state, head_dim=4))
    with pytest.raises(WeightsError) as refused:
        to_meta_layout(source)
    assert refused.value.key == "meta.cannot_head_dim"
