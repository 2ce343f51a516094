"""A shelf is listed quickly: each folder is looked into once, until it changes; also in the next run."""

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from backend.library import asking, looking
from backend.library.asking import Take, examine_all
from backend.library.condition import Condition
from backend.library.listing import Listing
from backend.library.looking import Looker
from tests.backend.library.folders import early, pointer


class Counting:
    """Looks into nothing; counts."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, folders: Sequence[Path], take: Take) -> None:
        for folder in folders:
            self.seen.append(folder.name)
            take(folder, Condition(parameters=7))


def shelf(tmp_path: Path, count: int) -> Path:
    for number in range(count):
        folder = tmp_path / "models" / f"m{number:02d}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"x")
    return tmp_path / "models"


def test_fifty_models_are_looked_into_once_and_again_where_something_changed(tmp_path: Path) -> None:
    models, look = shelf(tmp_path, 50), Counting()
    looker = Looker(models, tmp_path / "kept.json", examine=look)
    for _ in range(3):
        assert len([one for one in looker.looked(wait=True) if one.found]) == 50
    assert len(look.seen) == 50
    (models / "m07" / "tokenizer.model").write_bytes(b"y")
    (models / "m08" / "cria.json").write_text('{"template": "alpaca"}')  # what a look does not depend on
    every = {one.info.name: one.info for one in looker.looked(wait=True)}
    assert look.seen[50:] == ["m07"]
    assert every["m08"].template == "alpaca"
    again = Looker(models, tmp_path / "kept.json", examine=look)
    assert all(one.found == Condition(parameters=7) for one in again.looked(look=False))
    again.forget("m00")
    again.looked(wait=True)
    assert look.seen[51:] == ["m00"]


def test_a_page_does_not_wait_for_a_look(tmp_path: Path) -> None:
    models, gate, done = shelf(tmp_path, 1), threading.Event(), threading.Event()

    def slow(folders: Sequence[Path], take: Take) -> None:
        assert gate.wait(20)
        take(folders[0], Condition())
        done.set()

    looker = Looker(models, tmp_path / "kept.json", examine=slow)
    assert looker.looked()[0].found is None
    assert looker.looked()[0].found is None  # and one look at a time
    gate.set()
    assert done.wait(20)
    assert looker.looked(look=False)[0].found == Condition()


@pytest.mark.parametrize("kept", [b"", b"{", b'{"format": 99}', b'{"format": 1, "found": {"m00": 1}}', b"[" * 100_000])
def test_a_damaged_memory_costs_another_look(tmp_path: Path, kept: bytes) -> None:
    models, look = shelf(tmp_path, 1), Counting()
    (tmp_path / "kept.json").write_bytes(kept)
    assert Looker(models, tmp_path / "kept.json", examine=look).looked(wait=True)[0].found
    assert look.seen == ["m00"]


def test_a_folder_that_vanishes_and_links_in_a_circle_hide_nothing(tmp_path: Path) -> None:
    models = shelf(tmp_path, 2)
    (models / "loop").symlink_to(models / "pool")
    (models / "pool").symlink_to(models / "loop")
    (models / "m01" / "a").symlink_to(models / "m01" / "b")
    (models / "m01" / "b").symlink_to(models / "m01" / "a")

    def vanishing(folders: Sequence[Path], take: Take) -> None:
        for folder in folders:
            take(folder, None if folder.name == "m00" else Condition())

    looker = Looker(models, tmp_path / "kept.json", examine=vanishing)
    found = {one.info.name: one.found for one in looker.looked(wait=True)}
    assert found == {"m00": None, "m01": Condition()}


def test_a_folder_that_may_not_be_read_is_listed_and_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, look, real = shelf(tmp_path, 2), Counting(), looking.list_folder

    def refuse(folder: Path) -> Listing:
        if folder.name == "m00":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(looking, "list_folder", refuse)
    every = {one.info.name: one for one in Looker(models, tmp_path / "kept.json", examine=look).looked(wait=True)}
    assert (every["m00"].info.problem, every["m00"].found) == ("library.unreadable", None)
    assert look.seen == ["m01"]


def test_a_real_child_answers_for_every_folder_whatever_its_name(tmp_path: Path) -> None:
    models = tmp_path / "models"
    early(models / "old")
    pointer(models / os.fsdecode(b"bad\xff\xfe"))
    pointer(models / "<img src=x onerror=alert(1)>")
    (models / "empty").mkdir()
    looker = Looker(models, tmp_path / "kept.json")
    found = {one.info.name: one.found for one in looker.looked(wait=True)}
    assert len(found) == 4
    assert all(one is not None and one.faults for one in found.values())
    kept = json.loads((tmp_path / "kept.json").read_bytes())
    assert set(kept["found"]) == set(found)


def test_a_child_that_stands_still_is_ended_and_the_others_are_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps({"folder": "", "found": Condition().to_json()})
    # Answers for the first folder it is asked about, and stands still at the second.
    script = f"read -r _ || true; [ -e {tmp_path}/second ] && exec sleep 600; touch {tmp_path}/second; echo '{answer}'"
    monkeypatch.setattr(asking, "_COMMAND", ["sh", "-c", f"{script}; exec sleep 600"])
    found: dict[str, Condition | None] = {}
    folders = [tmp_path / name for name in ("a", "b", "c")]
    examine_all(folders, lambda folder, one: found.update({folder.name: one}), limit_s=1.0)
    assert found["a"] == Condition()
    for name in ("b", "c"):
        one = found[name]
        assert one is not None
        assert one.faults[0].say.key == "models.fault.no_answer.say"
