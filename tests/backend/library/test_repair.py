"""A repair touches no weights, is written down, and can be taken back to the last byte, however it ended."""

import hashlib
import json
from pathlib import Path

import pytest

from backend.errors import CriaError, UsageError, WeightsError
from backend.library import repair as repairing
from backend.library.child import look
from backend.library.models import read_model
from backend.library.repair import repair, undo
from backend.weights.provenance import read_cria_json
from backend.weights.tokenizer_settings import template_in
from tests.backend.library.folders import ask_here, contents, early, pointer


def test_a_repair_leaves_the_weights_keeps_the_old_and_is_written_down(tmp_path: Path) -> None:
    folder = early(tmp_path / "old")
    before = contents(folder)
    notes = repair(folder, template="vicuna-v1.1")
    after = contents(folder)
    assert {name for name in before if name.endswith((".bin", ".model")) and before[name] != after[name]} == set()
    assert json.loads(after["generation_config.json"])["eos_token_id"] == 2
    assert json.loads(after["tokenizer_config.json"])["eos_token"] == "</s>"
    assert "weights.found.old_tokenizer_class" in [note.key for note in notes]
    record = read_cria_json(folder)
    assert record is not None
    assert (record.template, record.recipe, record.origins) == ("vicuna-v1.1", None, ())
    assert record.files["config.json"] == hashlib.sha256(after["config.json"]).hexdigest()
    info = read_model(folder)
    assert info.mended
    assert info.adopted
    assert [path for path in folder.iterdir() if path.name.startswith(".")] == [folder / ".cria-before"]
    undo(folder)
    assert contents(folder) == before


def test_links_that_somebody_laid_out_are_not_written_through(tmp_path: Path) -> None:
    folder, theirs = early(tmp_path / "old"), tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "notes").write_text("mine")
    (folder / "cria.json.part").symlink_to(theirs / "notes")
    (folder / ".cria-before").symlink_to(theirs)
    with pytest.raises(WeightsError):
        repair(folder, template="plain")
    with pytest.raises(UsageError):
        undo(folder)
    (folder / ".cria-before").unlink()
    repair(folder, template="plain")
    assert contents(theirs) == {"notes": b"mine"}


def test_a_second_repair_goes_back_to_the_first_beginning(tmp_path: Path) -> None:
    folder = early(tmp_path / "old")
    before = contents(folder)
    repair(folder, template="plain")
    repair(folder, template="alpaca")
    assert read_model(folder).template == "alpaca"
    assert len(json.loads((folder / "cria.json").read_text())["repairs"]) == 2
    undo(folder)
    assert contents(folder) == before


@pytest.mark.parametrize("at", range(1, 9))
def test_whatever_interrupts_a_repair_it_can_be_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    folder, count = early(tmp_path / "old"), 0
    before, real = contents(folder), repairing.replace_file

    def failing(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(repairing, "replace_file", failing)
    with pytest.raises(KeyboardInterrupt):
        repair(folder, template="vicuna-v1.1")
    monkeypatch.undo()
    if at > 5:  # the list of what was replaced is written by then
        undo(folder)
        assert contents(folder) == before
    else:
        kept = {name: data for name, data in contents(folder).items() if not name.startswith(".cria")}
        assert kept == before


def test_a_record_of_a_set_up_keeps_what_it_says(tmp_path: Path) -> None:
    folder = early(tmp_path / "old")
    repair(folder, template="vicuna-v1.1")
    record = json.loads((folder / "cria.json").read_text())
    (folder / "cria.json").write_text(json.dumps({**record, "recipe": "demo", "extra": 1, "adopted": None}))
    repair(folder, template="alpaca")
    again = json.loads((folder / "cria.json").read_text())
    assert (again["recipe"], again["extra"], again["template"]) == ("demo", 1, "alpaca")


def test_what_cannot_be_repaired_stays_as_it_is(tmp_path: Path) -> None:
    folder = pointer(tmp_path / "lfs")
    before = contents(folder)
    with pytest.raises(CriaError) as caught:
        ask_here("repair", folder)
    assert caught.value.key == "weights.file_is_pointer"
    assert contents(folder) == before
    with pytest.raises(UsageError):
        undo(folder)


@pytest.mark.parametrize("name", ["../../outside.json", "/etc/passwd", "model.safetensors", "a\0b.json"])
def test_a_list_of_replaced_files_that_reaches_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    folder = early(tmp_path / "old")
    (tmp_path / "outside.json").write_text("mine")
    (folder / ".cria-before").mkdir()
    (folder / ".cria-before" / "list.json").write_text(json.dumps({"files": {name: False, "config.json": False}}))
    with pytest.raises(WeightsError):
        undo(folder)
    assert (tmp_path / "outside.json").read_text() == "mine"
    assert (folder / "config.json").is_file()


def _without_template(folder: Path, **record: object) -> Path:
    """A folder that Cria made, whose template and self-test somebody's tool then spoilt."""
    repair(early(folder), template="vicuna-v1.1")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "LLaMATokenizer"}))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    known = json.loads((folder / "cria.json").read_text())
    tested = {"verified": True, "stops": True, "question": "Hello!", "answer": "Hi", "problem": None}
    (folder / "cria.json").write_text(json.dumps({**known, "adopted": None, "self_test": tested, **record}))
    return folder


def test_a_lost_template_comes_back_from_the_record_and_the_old_try_counts_no_more(tmp_path: Path) -> None:
    folder = _without_template(tmp_path / "mine", checked={"when": "2026-01-01T00:00:00+00:00", "files": 3})
    found = look(folder)
    assert (found.template, found.guessed) == ("vicuna-v1.1", False)
    assert read_model(folder).stops is True
    notes = repair(folder)
    assert "finish.found.template_recorded" in [note.key for note in notes]
    info = read_model(folder)
    assert (info.template, info.stops, info.checked) == ("vicuna-v1.1", None, None)
    assert "USER: " in (template_in(folder) or "")
    assert look(folder).faults == ()


def test_damaged_weights_stay_known_as_damaged_after_a_repair(tmp_path: Path) -> None:
    bad = {"when": "2026-01-01T00:00:00+00:00", "files": 3, "bad": ["model.safetensors"]}
    folder = _without_template(tmp_path / "mine", checked=bad)
    repair(folder)
    checked = read_model(folder).checked
    assert checked is not None
    assert checked.bad == ("model.safetensors",)


@pytest.mark.parametrize("record", [{"template": "kept"}, {"template": "plain", "adopted": "2026-01-01"}])
def test_where_nothing_tells_the_template_a_repair_asks_and_writes_nothing(
    tmp_path: Path, record: dict[str, object]
) -> None:
    folder = _without_template(tmp_path / "mystery", **record)
    before = contents(folder)
    assert look(folder).template is None
    with pytest.raises(UsageError) as caught:
        repair(folder)
    assert caught.value.key == "models.which_template"
    assert contents(folder) == before
    repair(folder, template="plain")
    assert read_model(folder).template == "plain"


def test_a_base_model_that_was_made_as_one_stays_one(tmp_path: Path) -> None:
    folder = _without_template(tmp_path / "base", template="plain")
    repair(folder)
    assert read_model(folder).template == "plain"
