"""Which adapters on this machine are offered for a model."""

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backend.engines import attachable, attachable_child
from backend.engines.attachable import Attachables
from backend.errors import UsageError, WeightsError
from backend.services import Services
from backend.settings import Settings
from tests.backend.engines.loras import write_adapter
from tests.backend.engines.tiny import shape, write_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put_adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(bytes(100))
    return folder


def put_download(downloads: Path, *, whole: bool = True) -> Path:
    folder = put_adapter(downloads / "hf" / "org--pirate" / COMMIT)
    if whole:
        manifest = {"kind": "hf", "repository": "org/pirate", "revision": COMMIT}
        row = {"name": "adapter_config.json"}
        (folder / ".manifest.json").write_text(json.dumps({**manifest, "files": [row]}), encoding="utf-8")
    return folder


class Holder:
    """Lets every adapter fit but those named "other", and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, model: Path, adapters: Sequence[Path]) -> Mapping[Path, bool]:
        self.asked.append([one.name for one in adapters])
        return {one: one.name != "other" for one in adapters if one.name != "late"}


def test_the_shelf_and_whole_downloads_are_looked_through_once(tmp_path: Path) -> None:
    models, downloads, holder = tmp_path / "models", tmp_path / "downloads", Holder()
    for name in ("story", "other", "late", "line\nbreak"):
        put_adapter(models / name)
    (models / "toy").mkdir()
    put_download(downloads)
    here = Attachables(models, downloads, hold=holder)
    found = here.fitting(models / "toy")
    assert [(one.name, one.bytes) for one in found] == [("pirate", 100), ("story", 100)]
    assert here.fitting(models / "toy") == found
    assert len(holder.asked) == 1
    put_adapter(models / "new")
    assert [one.name for one in here.fitting(models / "toy")] == ["new", "pirate", "story"]
    assert holder.asked[1:] == [["new"]]
    (models / "toy" / "config.json").write_text("{}", encoding="utf-8")
    here.fitting(models / "toy")
    assert sorted(holder.asked[2]) == sorted([COMMIT, "late", "new", "other", "story"])


def test_one_that_ends_the_child_hides_the_others_only_once(tmp_path: Path) -> None:
    """Who comes after it has not been looked at; and where there was no child, nobody has."""
    for name in ("a", "b", "c"):
        put_adapter(tmp_path / "models" / name)
    (tmp_path / "models" / "toy").mkdir()
    asked: list[int] = []

    def hold(_: Path, adapters: Sequence[Path]) -> Mapping[Path, bool] | None:
        asked.append(len(adapters))
        return None if len(asked) == 1 else dict.fromkeys(takewhile(lambda one: one.name != "b", adapters), True)

    here = Attachables(tmp_path / "models", tmp_path / "downloads", hold=hold)
    found = [[one.name for one in here.fitting(tmp_path / "models" / "toy")] for _ in range(4)]
    assert (found[0], found[2], found[3]) == ([], ["a", "c"], ["a", "c"])
    assert asked[:2] == [3, 3]
    assert len(asked) <= 3


def test_what_is_half_there_is_not_offered(tmp_path: Path) -> None:
    put_download(tmp_path / "downloads", whole=False)
    (tmp_path / "models" / "toy").mkdir(parents=True)
    holder = Holder()
    assert Attachables(tmp_path / "models", tmp_path / "downloads", hold=holder).fitting(tmp_path / "models/toy") == ()
    assert holder.asked == []


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and adapters: one that fits, one for another size, one that replaces a tensor, one that is none."""
    models, size = tmp_path_factory.mktemp("shelf"), shape()
    write_model(models / "tiny")
    write_adapter(models / "fits", targets=("q_proj",))
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    wide = {f"{module}.lora_A.weight": np.ones((4, 2 * size.hidden)), f"{module}.lora_B.weight": np.ones((2, 4))}
    table = {"base_model.model.lm_head.weight": np.ones((size.vocab, size.hidden))}
    for name, extra in (("other", wide), ("whole", table)):
        arrays = {key: array.astype(np.float32) for key, array in extra.items()}
        write_adapter(models / name, targets=("v_proj",), extra=arrays)
    (models / "none").mkdir()
    (models / "none" / "adapter_config.json").write_text("[" * 5000, encoding="utf-8")
    return models


def test_each_adapter_is_held_against_the_model(shelf: Path) -> None:
    names = ("fits", "other", "whole", "none", "gone")
    answers = dict(
        zip(names, attachable_child.fits(shelf / "tiny", [str(shelf / name) for name in names]), strict=True)
    )
    assert answers == {"fits": True, "other": False, "whole": False, "none": False, "gone": False}
    assert list(attachable_child.fits(shelf / "none", ["a", "b"])) == [False, False]


def test_one_that_cannot_be_attached_is_refused_as_a_load_would(shelf: Path, settings: Settings) -> None:
    for name in ("tiny", "fits", "whole"):
        (settings.models_dir / name).symlink_to(shelf / name)
    services: Any = SimpleNamespace(settings=settings)
    Services.check_lora(services, "tiny", str(shelf / "fits"))
    for name, key in (("whole", "attach.replaces"), ("gone", None)):
        with pytest.raises(WeightsError) as caught:
            Services.check_lora(services, "tiny", str(shelf / name))
        assert key in (None, caught.value.key)
    with pytest.raises(UsageError):
        Services.check_lora(services, "no-model", str(shelf / "fits"))


def test_a_child_looks_and_one_that_is_late_has_no_opinion(shelf: Path) -> None:
    pair = (shelf / "other", shelf / "fits")
    assert attachable.hold(shelf / "tiny", pair) == {shelf / "other": False, shelf / "fits": True}
    assert attachable.hold(shelf / "tiny", pair, limit_s=0.0) == {}
    assert attachable.hold(shelf / "half \udcff", pair) == {shelf / "other": False, shelf / "fits": False}
