"""Steps over real sources: an archive gives the same model as its folder, and leaves nothing behind."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import Cancelled, SourceError
from backend.events import Event, Progress
from backend.jobs.steps import STEPS, Context
from backend.plan import make_plan
from backend.recipes import custom_recipe
from tests.backend.weights.make import Tiny, tokenizer_model, weights, write_hf, write_lora

TINY = Tiny(vocab=500)


def never() -> bool:
    return False


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = write_hf(tmp_path / "base", TINY, weights(TINY))
    (folder / "tokenizer.model").write_bytes(tokenizer_model())
    return folder


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    write_lora(tmp_path / "lora", TINY)
    return tmp_path / "lora"


def packed(lora: Path) -> Path:
    path = lora.parent / "packed" / "lora.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for file in lora.iterdir():
            out.write(file, f"my_lora/{file.name}")
    return path


def context(tmp_path: Path, base: Path, lora: Path, name: str) -> Context:
    plan = make_plan(custom_recipe(name, base=str(base), loras=[str(lora)]), self_test=False)
    models = tmp_path / "models"
    return Context(plan, models, models / f".partial-{name}", tmp_path / "logs", never, tmp_path / "downloads")


def run(job: Context) -> list[Event]:
    """Run the steps of a plan and put the model on the shelf."""
    return [event for step in (*job.plan.steps, None) for event in STEPS[step.id if step else "publish"](job)]


def test_a_packed_lora_makes_the_same_model(tmp_path: Path, base: Path, lora: Path) -> None:
    archive = packed(lora)
    job = context(tmp_path, base, archive, "packed")
    events = [event for event in STEPS["fetch"](job) if isinstance(event, Progress)]
    assert events[-1].done == events[-1].total == job.plan.steps[0].writes
    run(job)
    run(context(tmp_path, base, lora, "plain"))
    models = tmp_path / "models"
    assert sorted(entry.name for entry in models.iterdir()) == ["packed", "plain"]
    assert (models / "packed" / "model.safetensors").read_bytes() == (
        models / "plain" / "model.safetensors"
    ).read_bytes()
    assert not (models / "packed" / ".sources").exists()
    origins = json.loads((models / "packed" / "cria.json").read_text())
    assert str(archive) in json.dumps(origins)
    assert archive.is_file()


def test_fetching_again_unpacks_nothing_twice(tmp_path: Path, base: Path, lora: Path) -> None:
    job = context(tmp_path, base, packed(lora), "x")
    assert list(STEPS["fetch"](job))
    assert list(STEPS["fetch"](job)) == []


def test_what_was_unpacked_and_is_gone_is_said(tmp_path: Path, base: Path, lora: Path) -> None:
    job = context(tmp_path, base, packed(lora), "x")
    list(STEPS["fetch"](job))
    shutil.rmtree(job.unpacked)
    with pytest.raises(SourceError) as caught:
        list(STEPS["merge"](job))
    assert caught.value.key == "archive.changed"
    assert "lora.zip" in caught.value.text()


def test_unpacking_stops_when_asked_and_starts_again(tmp_path: Path, base: Path, lora: Path) -> None:
    job = context(tmp_path, base, packed(lora), "x")
    job.cancelled = lambda: True
    with pytest.raises(Cancelled):
        list(STEPS["fetch"](job))
    job.cancelled = never
    run(job)
    assert (job.models_dir / "x" / "model.safetensors").is_file()


def test_a_pointer_instead_of_weights_is_said_before_anything_is_written(
    tmp_path: Path, base: Path, lora: Path
) -> None:
    (lora / "adapter_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    job = context(tmp_path, base, lora, "x")
    with pytest.raises(Exception, match="git-lfs"):
        list(STEPS["fetch"](job))
    assert not job.partial.exists()


def test_metas_layout_and_back_keeps_weights_template_and_context(tmp_path: Path, base: Path) -> None:
    models = tmp_path / "models"

    def make(name: str, source: Path, **wishes: str) -> Path:
        recipe = custom_recipe(name, base=str(source), **wishes)
        plan = make_plan(replace(recipe, context=None if name == "back" else 512), self_test=False)
        run(Context(plan, models, models / f".partial-{name}", tmp_path / "logs", never, tmp_path / "downloads"))
        return models / name

    plain, meta = make("plain", base, template="koala"), make("meta", base, template="koala", layout="meta")
    back = make("back", meta)
    assert (meta / "consolidated.00.pth").is_file()
    assert (back / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    records = [json.loads((folder / "cria.json").read_text()) for folder in (plain, meta, back)]
    assert [record["template"] for record in records] == ["koala"] * 3
    assert [record["context"] for record in records] == [512] * 3
    assert [record["layout"] for record in records] == ["huggingface", "meta", "huggingface"]
