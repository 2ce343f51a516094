"""Files that engines make from a model: what is left of others goes, and nothing else."""

import os
from pathlib import Path

import pytest

from backend.engines.made import alone, clear, sweep, sweep_all
from backend.locks import try_lock

KEY, OLD = "0" * 16, "1" * 16
PLACES = {"gguf": f"q8_0-{KEY}.gguf", "quantised": f"nf4-bfloat16-{KEY}.safetensors"}


def put(place: Path, *names: str) -> list[Path]:
    place.mkdir(parents=True, exist_ok=True)
    for name in names:
        (place / name).write_bytes(b"some")
    return [place / name for name in names]


@pytest.mark.parametrize("name", PLACES)
def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path: Path, name: str) -> None:
    whole = PLACES[name]
    path, left, other = put(tmp_path / "model" / name, whole, f"{whole.replace(KEY, OLD)}.part", "notes.part")
    lock = try_lock(path.parent / ".lock")
    assert lock is not None
    sweep_all(tmp_path)  # somebody is at it
    assert left.exists()
    os.close(lock)
    sweep_all(tmp_path)
    assert not left.exists()
    assert path.exists()
    assert other.exists()
    sweep_all(tmp_path / "nowhere")


@pytest.mark.parametrize("name", PLACES)
def test_what_another_model_was_made_into_goes(tmp_path: Path, name: str) -> None:
    whole = PLACES[name]
    path, old, other = put(tmp_path / name, whole, whole.replace(KEY, OLD), whole.replace(KEY, "mine"))
    sweep(tmp_path / name, KEY)
    assert (path.exists(), old.exists(), other.exists()) == (True, False, True)


def test_what_lies_elsewhere_is_nobodys_to_remove(tmp_path: Path) -> None:
    (left,) = put(tmp_path / "away", f"f16-{KEY}.gguf.part")
    (tmp_path / "models" / "model").mkdir(parents=True)
    (tmp_path / "models" / "model" / "gguf").symlink_to(tmp_path / "away")
    sweep_all(tmp_path / "models")
    assert left.exists()


def test_a_folder_is_let_go_of_even_when_nothing_can_be_removed(tmp_path: Path) -> None:
    (tmp_path / f"f16-{OLD}.gguf").mkdir()  # no file, and not to be unlinked
    with alone(tmp_path) as mine, alone(tmp_path) as again:
        assert (mine, again) == (True, False)
        with pytest.raises(OSError, match="director"):
            clear(tmp_path, KEY)
    sweep(tmp_path, KEY)
    with alone(tmp_path) as mine:
        assert mine
