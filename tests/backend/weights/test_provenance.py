"""cria.json lists the files of a model, and nothing that only a kill or a full disk left of them."""

from pathlib import Path

from backend.weights.provenance import Provenance, read_cria_json, write_cria_json


def test_torn_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    (tmp_path / "cria.json.part").write_bytes(b'{"format": 1, "fi')
    made = Provenance("demo", (), "vicuna-v1.1", "", (), 2048, 1, "float16")
    written = write_cria_json(tmp_path, made)
    assert list(written.files) == ["model.safetensors"]
    assert written.bytes == 5
    assert read_cria_json(tmp_path) == written
    assert not (tmp_path / "cria.json.part").exists()
