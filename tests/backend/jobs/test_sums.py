"""Checking files against their sums: what differs is named, what had no sum gets one, and the date is kept."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import Cancelled, MachineError, WeightsError
from backend.events import Log, Progress
from backend.jobs import sums
from backend.jobs.check import check_plan
from backend.jobs.steps import Context
from backend.jobs.sums import check_sums
from backend.library.models import read_model
from backend.plan import Plan
from tests.backend.library.folders import bare, pointer, write_lora
from tests.backend.weights.gguf_files import write_tiny
from tests.backend.weights.test_early_uploads import TINY


def context(folder: Path, *, cancelled: bool = False) -> Context:
    plan = check_plan(folder, name="0123", size=1)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    here = folder.parent
    return Context(plan, here, here / ".partial", here, lambda: cancelled, downloads=here)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return bare(tmp_path / "models" / "mine")


def progress(events: Iterator[object]) -> list[Progress]:
    return [event for event in events if isinstance(event, Progress)]


def test_the_first_check_notes_sums_and_the_next_compares_them(folder: Path) -> None:
    steps = progress(check_sums(context(folder)))
    assert (
        steps[-1].done
        == steps[-1].total
        == sum(path.stat().st_size for path in folder.iterdir()) - (folder / "cria.json").stat().st_size
    )
    first = read_model(folder)
    assert first.checked is not None
    assert (first.checked.files, first.checked.noted, first.checked.bad, first.sums) == (3, 3, (), 3)
    assert first.adopted
    list(check_sums(context(folder)))
    again = read_model(folder).checked
    assert again is not None
    assert (again.noted, again.bad) == (0, ())


def test_a_damaged_file_and_a_lost_one_are_named_and_remembered(folder: Path) -> None:
    list(check_sums(context(folder)))
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (folder / "tokenizer.model").unlink()
    with pytest.raises(WeightsError) as caught:
        list(check_sums(context(folder)))
    assert caught.value.key == "models.damaged"
    assert (caught.value.params["count"], caught.value.hint is not None) == (2, True)
    checked = read_model(folder).checked
    assert checked is not None
    assert checked.bad == ("tokenizer.model", "model.safetensors")
    assert "model.safetensors" not in json.dumps(caught.value.params["name"])


def test_what_does_not_open_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        list(check_sums(context(pointer(tmp_path / "models" / "lfs"))))
    assert caught.value.key == "weights.file_is_pointer"
    with pytest.raises(WeightsError):
        list(check_sums(context(tmp_path / "models" / "gone")))


def test_an_adapter_is_checked_too(tmp_path: Path) -> None:
    write_lora(tmp_path / "models" / "lora", TINY)
    list(check_sums(context(tmp_path / "models" / "lora")))
    assert read_model(tmp_path / "models" / "lora").sums == 2


def test_a_check_can_be_stopped_and_leaves_no_word(folder: Path) -> None:
    with pytest.raises(Cancelled):
        list(check_sums(context(folder, cancelled=True)))
    assert not (folder / "cria.json").exists()


def test_a_folder_that_may_not_be_written_is_checked_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MachineError("weights.cannot_write", folder="mine", what="read-only")

    monkeypatch.setattr(sums, "write_record", refuse)
    events = list(check_sums(context(folder)))
    assert isinstance(events[-1], Log)


def test_a_ready_made_gguf_is_checked_from_its_head_on(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "ready"
    folder.mkdir(parents=True)
    file = write_tiny(folder / "a.gguf")
    assert progress(check_sums(context(folder)))[-1].done == file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError) as caught:
        list(check_sums(context(folder)))
    assert caught.value.key == "models.damaged"
    file.write_bytes(file.read_bytes()[:-150])
    with pytest.raises(WeightsError) as cut:
        list(check_sums(context(folder)))
    assert cut.value.key == "weights.truncated"
