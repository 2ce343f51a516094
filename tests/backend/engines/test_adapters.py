"""Which adapters can be attached, and how strong each one is: names, numbers, and what only a merge can do."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from backend.engines import ENGINES, choice
from backend.engines.adapters import check_loras, choose_alone, choose_scales, count_numbers, open_loras
from backend.engines.base import MOST_LORAS, EngineOptions, Lora, Sampling
from backend.engines.folder import weights_bytes
from backend.engines.options import check_options
from backend.engines.serve import arguments, options_from_json
from backend.engines.supervisor import Supervisor
from backend.errors import UsageError, WeightsError, error_from_json
from backend.text import LANGUAGES
from backend.weights.opening import open_checkpoint
from tests.backend.engines import tiny
from tests.backend.engines.conftest import machine
from tests.backend.engines.kind_loras import write_lora
from tests.backend.engines.llamacpp_server.kinds import write_kind
from tests.backend.engines.loras import write_adapter, write_table_adapter

TWO = (Lora("/x/ada", 1.0), Lora("/x/bob", 0.5))


def test_a_name_is_that_of_the_folder_or_of_the_repository() -> None:
    assert Lora("/shelf/my-lora").name == "my-lora"
    assert Lora(f"/data/downloads/hf/tloen--alpaca-lora-7b/{'0a' * 20}").name == "alpaca-lora-7b"
    assert Lora(f"/elsewhere/{'0a' * 20}").name == "0a" * 20


def test_they_travel_to_the_engine_as_they_are() -> None:
    options = EngineOptions(gpus=(1,), loras=TWO)
    assert options_from_json(arguments(Path("m"), options)[3]) == options


@pytest.mark.parametrize(
    ("asked", "scales"),
    [(None, (1.0, 0.5)), ((), (0.0, 0.0)), ((("bob", 2.0),), (0.0, 2.0)), ((("bob", -1.0), ("ada", 0.0)), (0.0, -1.0))],
)
def test_strengths(asked: tuple[tuple[str, float], ...] | None, scales: tuple[float, ...]) -> None:
    assert choose_scales(TWO, Sampling(loras=asked)) == scales


@pytest.mark.parametrize(
    ("loras", "asked", "key"),
    [
        (TWO, ("carol", 1.0), "attach.unknown"),
        ((), ("ada", 1.0), "attach.none"),
        (TWO, ("ada", math.nan), "attach.scale"),
        (TWO, ("ada", math.inf), "attach.scale"),
        (TWO, ("ada", 100.5), "attach.scale"),
    ],
)
def test_what_makes_no_sense_is_refused(loras: tuple[Lora, ...], asked: tuple[str, float], key: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_scales(loras, Sampling(loras=(asked,)))
    assert caught.value.key == key
    assert asked[0] in caught.value.text()


@pytest.mark.parametrize(
    ("loras", "key"),
    [
        ((Lora("/x/ada"), Lora("/y/ada")), "attach.same_name"),
        ((Lora("/x/ada", math.nan),), "attach.scale"),
        (tuple(Lora(f"/x/{number}") for number in range(MOST_LORAS + 1)), "attach.too_many"),
    ],
)
def test_options_that_cannot_be(loras: tuple[Lora, ...], key: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_loras(EngineOptions(loras=loras))
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("scales", "asked", "chosen"),
    [
        ((1.0, 0.0), None, "ada"),
        ((1.0, 0.0), (), None),
        ((1.0, 1.0), (("bob", 1.0),), "bob"),
        ((0.0, 0.0), (("bob", 1.0), ("ada", 0.0)), "bob"),
        ((1.0, 1.0), None, "ada=1, bob=1"),
        ((1.0, 0.0), (("ada", 0.5),), "ada=0.5"),
        ((1.0, 0.0), (("ada", -1.0),), "ada=-1"),
    ],
)
def test_an_engine_that_does_not_mix_uses_one_as_it_was_trained(
    scales: tuple[float, float], asked: tuple[tuple[str, float], ...] | None, chosen: str | None
) -> None:
    loras = tuple(Lora(f"/x/{name}", scale) for name, scale in zip(("ada", "bob"), scales, strict=True))
    if chosen is None or "=" not in chosen:
        assert choose_alone(loras, Sampling(loras=asked)) == chosen
        return
    with pytest.raises(UsageError) as caught:
        choose_alone(loras, Sampling(loras=asked))
    assert caught.value.key == "attach.alone"
    assert chosen in caught.value.text()


def test_an_engine_without_weights_attaches_nothing() -> None:
    with pytest.raises(UsageError) as caught:
        check_options(EngineOptions(engine="echo", loras=TWO), machine())
    assert caught.value.key == "attach.engine"


def test_what_fits_is_counted(tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "ada", targets=("q_proj",), rank=2)
    (found,) = open_loras(open_checkpoint(tiny_folder), [Lora(str(folder), 0.5)])
    assert found.numbers == count_numbers([Lora(str(folder)), Lora("/nowhere")]) == 2 * (2 * 64 + 64 * 2)
    name, down, up = next(found.products())
    assert (name, down.shape, up.shape) == ("model.layers.0.self_attn.q_proj.weight", (2, 64), (64, 2))
    stored = np.fromfile(folder / "adapter_model.safetensors", np.float32)[-64 * 2 :]
    assert np.allclose(next(reversed(list(found.products())))[2].ravel(), stored * 4)  # alpha 8, rank 2
    table = open_loras(open_checkpoint(tiny_folder), [Lora(str(write_table_adapter(tmp_path / "words")))])[0]
    assert [(name, down.shape[1]) for name, down, _ in table.tables()] == [
        ("model.embed_tokens.weight", tiny.shape().vocab)
    ]


def whole(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    return {f"base_model.model.{name}": array}


def test_what_only_a_merge_can_do_is_refused_with_its_name(tiny_folder: Path, tmp_path: Path) -> None:
    base, ours = open_checkpoint(tiny_folder), tiny.weights()
    head = "lm_head.weight"
    grown = np.ones((tiny.shape().vocab + 1, 64), np.float32)
    lengths = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    dora = {lengths: np.ones(64, np.float32), lengths.replace(".0.", ".1."): np.ones(64, np.float32)}
    cases = {
        "grown": (write_adapter(tmp_path / "grown", extra=whole(head, grown)), "attach.replaces", head),
        "other": (write_adapter(tmp_path / "other", extra=whole(head, ours[head] * 2)), "attach.replaces", head),
        "norm": (
            write_adapter(tmp_path / "norm", extra=whole("model.norm.weight", ours["model.norm.weight"] + 1)),
            "attach.replaces",
            "model.norm.weight",
        ),
        "dora": (
            write_adapter(tmp_path / "dora", targets=("q_proj",), extra=dora, use_dora=True),
            "attach.dora",
            "layers.0.self_attn.q_proj",
        ),
    }
    for name, (folder, key, tensor) in cases.items():
        with pytest.raises(WeightsError) as caught:
            open_loras(base, [Lora(str(folder))])
        assert caught.value.key == key, name
        assert tensor in caught.value.text()
        assert "Setup" in caught.value.text()
    same = write_adapter(tmp_path / "same", extra=whole(head, ours[head]))  # as PEFT saves an untouched word table
    assert open_loras(base, [Lora(str(same))])


def test_the_wrong_base_is_refused_before_anything_is_unloaded(
    echo: Supervisor, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "ada")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"r": 5}))
    for lora in (folder, tmp_path / "nothing"):
        with pytest.raises(WeightsError) as caught:
            echo.load(tiny_folder, EngineOptions(engine="transformers", loras=(Lora(str(lora)),)))
        assert lora.name in caught.value.text()
    assert echo.status().answers
    assert echo.status().model == "parrot"


def test_an_error_says_which_adapter_it_is_about_and_why(tiny_folder: Path, tmp_path: Path) -> None:
    """Of several, a tensor's name would not tell; the way out is the cause's own."""
    good, bad = write_adapter(tmp_path / "good"), tmp_path / "half-there"
    write_adapter(bad)
    weights = bad / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(WeightsError) as caught:
        open_loras(open_checkpoint(tiny_folder), [Lora(str(good)), Lora(str(bad))])
    cause = caught.value.__cause__
    assert isinstance(cause, WeightsError)
    for language in LANGUAGES:
        said = error_from_json(caught.value.to_json()).text(language)
        assert "half-there" in said
        assert cause.text(language).splitlines()[0] in said
        assert said.splitlines()[1:] == cause.text(language).splitlines()[1:]


def test_broken_numbers_are_not_computed_with(tiny_folder: Path, tmp_path: Path) -> None:
    stem = "base_model.model.model.layers.0.mlp.up_proj.lora_"
    bad = {f"{stem}A.weight": np.full((4, 64), np.nan, np.float32), f"{stem}B.weight": np.ones((160, 4), np.float32)}
    folder = write_adapter(tmp_path / "bad", targets=("q_proj",), extra=bad)
    (found,) = open_loras(open_checkpoint(tiny_folder), [Lora(str(folder))])
    with pytest.raises(WeightsError) as caught:
        list(found.products())
    assert caught.value.key == "attach.not_finite"


def test_what_belongs_to_another_kind_of_model_is_refused_by_name(tmp_path: Path) -> None:
    write_kind(tmp_path / "phi", "phi3")
    write_kind(tmp_path / "mistral", "mistral")
    apart = write_lora(tmp_path / "apart", tmp_path / "mistral")  # gate and up, which Phi-3 has in one
    named = write_lora(tmp_path / "named", tmp_path / "mistral", base_model_name_or_path="meta-llama/Llama-3-8B")
    own = write_lora(tmp_path / "own", tmp_path / "mistral", base_model_name_or_path="/llama/Mistral-7B-v0.1/")
    for base, folder, key, said in (
        ("phi", apart, "attach.unfit", "model.layers.0.mlp.gate_proj.weight"),
        ("mistral", named, "attach.other_family", "meta-llama/Llama-3-8B"),
    ):
        with pytest.raises(WeightsError) as caught:
            open_loras(open_checkpoint(tmp_path / base), [Lora(str(folder))])
        assert caught.value.key == key
        assert folder.name in caught.value.text()
        assert said in caught.value.text()
        assert caught.value.hint is not None
    assert open_loras(open_checkpoint(tmp_path / "mistral"), [Lora(str(own))])
    config = tmp_path / "mistral" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "stablelm"}))
    with pytest.raises(WeightsError, match="stablelm") as caught:
        open_loras(open_checkpoint(tmp_path / "mistral"), [Lora(str(own))])
    assert caught.value.key == "lora.kind"


def test_what_an_engine_cannot_do_is_refused_before_anything_is_unloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    write_kind(folder, "qwen3, tied")
    words = Lora(str(write_lora(tmp_path / "words", folder, words=True)))
    uneven = Lora(str(write_lora(tmp_path / "uneven", folder, alpha_pattern={"q_proj": 2})))
    for engine, lora, key in (("llamacpp", words, "attach.unfit"), ("vllm", uneven, "attach.uneven")):
        with pytest.raises((WeightsError, UsageError)) as caught:
            weights_bytes(folder, EngineOptions(engine=engine, loras=(lora,)), ENGINES[engine])
        assert caught.value.key == key
        assert lora.name in caught.value.text()
    for engine, lora in (("transformers", words), ("transformers", uneven), ("llamacpp", uneven), ("vllm", words)):
        assert weights_bytes(folder, EngineOptions(engine=engine, loras=(lora,)), ENGINES[engine])
    monkeypatch.setattr(choice, "has_instructions", lambda: True)
    for lora, engine, why in ((words, "transformers", "gguf.instead.tied"), (uneven, "llamacpp", None)):
        chosen, said = choice.choose_engine(EngineOptions(loras=(lora,)), machine(), folder)
        assert (chosen.engine, said and said.key) == (engine, why)


def test_a_word_table_used_twice_is_its_own_in_both_places(tmp_path: Path) -> None:
    """PEFT saves the untouched table beside its layers, under both names."""
    write_kind(tmp_path / "model", "qwen3, tied")
    table = load_file(tmp_path / "model" / "model.safetensors")["model.embed_tokens.weight"]
    both = whole("lm_head.weight", table) | whole("model.embed_tokens.weight", table)
    base = open_checkpoint(tmp_path / "model")
    for name, factor in (("same", 1), ("other", 2)):
        folder = write_lora(tmp_path / name, tmp_path / "model")
        weights = folder / "adapter_model.safetensors"
        tiny.write_safetensors(weights, load_file(weights) | {key: part * factor for key, part in both.items()})
    assert open_loras(base, [Lora(str(tmp_path / "same"))])
    with pytest.raises(WeightsError) as caught:
        open_loras(base, [Lora(str(tmp_path / "other"))])
    assert (caught.value.key, caught.value.params["count"]) == ("attach.replaces", 2)
