"""The stand-in hub answers as the real places do, and huggingface_hub works with it unharmed."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.settings import ROOT
from tests.hub import __main__ as by_hand
from tests.hub.content import Content, Flipped, Generated, Joined, Literal, OnDisk
from tests.hub.family import demo, local, random_model, zipped
from tests.hub.server import Hub

BIG = Generated(12_000_000, 5)
FILES: dict[str, Content | bytes] = {"config.json": b'{"a": 1}', "deep/er/notes.txt": b"hello", "model.bin": BIG}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as made:
        made.add("cria/model", FILES)
        yield made


@pytest.fixture
def client(hub: Hub) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.url, trust_env=False) as made:
        yield made


def in_a_child(hub: Hub, code: str) -> Any:
    """Run code with huggingface_hub set to the stand-in; it prints JSON."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    hub_only = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | hub_only, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- contents ---------------------------------------------------------------------------------------------------------


def test_contents_give_any_part_of_themselves(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(256)) * 9000)
    for content in (
        Generated(3_000_001, 2),
        OnDisk(tmp_path / "x"),
        Joined(Literal(b"abc"), Generated(1_100_000), BIG),
    ):
        data = content.read()
        assert len(data) == content.size
        for start, stop in ((0, 10), (1_048_570, 1_048_580), (content.size - 3, content.size), (2, 1_100_010), (7, 7)):
            assert content.read(start, stop) == data[start:stop]
        assert content.sha256 == hashlib.sha256(data).hexdigest()


def test_generated_bytes_differ_by_seed_and_place_and_hold_no_infinite_number() -> None:
    one, again, other = Generated(4 << 20, 1).read(), Generated(4 << 20, 1).read(), Generated(4 << 20, 2).read()
    assert one == again
    assert len({one[at : at + (1 << 20)] for at in range(0, 4 << 20, 1 << 20)} | {other[: 1 << 20]}) == 5
    assert all(high >> 2 & 31 != 31 for high in set(one[1::2]))


def test_flipping_turns_one_byte_over_or_all_of_them() -> None:
    true = Generated(1_100_000, 3)
    at = 1_048_576
    found = Flipped(true, at).read()
    assert [index for index, pair in enumerate(zip(found, true.read(), strict=True)) if pair[0] != pair[1]] == [at]
    assert Flipped(true, at).read(at - 1, at + 2) == found[at - 1 : at + 2]
    assert Flipped(true).read(5, 9) == bytes(255 - value for value in true.read(5, 9))


# --- the Hugging Face hub ---------------------------------------------------------------------------------------------


def test_huggingface_hub_reads_info_and_tree(hub: Hub) -> None:
    hub.page = 2
    code = """
import json
from huggingface_hub import HfApi
api = HfApi()
files = [(e.path, e.size, e.blob_id, e.lfs.sha256 if e.lfs else None)
         for e in api.list_repo_tree("cria/model", recursive=True) if hasattr(e, "blob_id")]
print(json.dumps([api.model_info("cria/model").sha, files]))
"""
    commit, files = in_a_child(hub, code)
    assert commit == hub.repositories["cria/model"].revisions["main"]
    git = hashlib.sha1(b'blob 8\0{"a": 1}').hexdigest()
    assert ["config.json", 8, git, None] in files
    assert ["deep/er/notes.txt", 5, hashlib.sha1(b"blob 5\0hello").hexdigest(), None] in files
    assert next(file for file in files if file[0] == "model.bin")[3] == hashlib.sha256(BIG.read()).hexdigest()
    assert len(hub.asked("*/tree/*")) == 3  # two folders and three files, two a page


def test_snapshot_download_makes_the_requests_that_it_makes_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.add("cria/five", {**FILES, "other.bin": b"y" * 1000, "z.json": b"{}"})
    code = f"""
import json
from huggingface_hub import snapshot_download
print(json.dumps(snapshot_download("cria/five", local_dir={str(tmp_path / "out")!r}, token="hf_mine")))
"""
    in_a_child(hub, code)
    for name, content in hub.repositories["cria/five"].files().items():
        assert (tmp_path / "out" / name).read_bytes() == content.read()
    # One info, one tree, five HEAD, five GET; it goes to the CDN by the address that HEAD gave.
    assert [sum(entry.kind == kind for entry in hub.log) for kind in ("info", "tree", "head", "file")] == [1, 1, 5, 5]
    assert {entry.origin.partition(":")[0] for entry in hub.log if "/cdn/" in entry.target} == {"localhost"}
    assert all(entry.token == "hf_mine" for entry in hub.log if entry.kind == "head")
    assert not any(entry.token for entry in hub.log if "/cdn/" in entry.target)
    assert hub.sent("/cdn/*model.bin*") == BIG.size


def test_resolve_says_what_a_client_needs_to_know(hub: Hub, client: httpx.Client) -> None:
    commit = hub.repositories["cria/model"].revisions["main"]
    small = client.head("/cria/model/resolve/main/config.json")
    assert (small.status_code, small.headers["content-length"]) == (200, "8")
    assert small.headers["x-repo-commit"] == commit
    large = client.head(f"/cria/model/resolve/{commit}/model.bin")
    assert (large.status_code, large.headers["x-linked-size"]) == (302, str(BIG.size))
    assert large.headers["x-linked-etag"] == f'"{BIG.sha256}"'
    assert large.headers["location"].startswith(hub.cdn)
    assert client.get(large.headers["location"].replace("Signature=", "Signature=0")).status_code == 403


def test_ranges_and_conditions(hub: Hub, client: httpx.Client) -> None:
    address = hub.serve("a/b.bin", BIG)
    tag = client.head(address).headers["etag"]

    def ask(span: str, condition: str = "") -> httpx.Response:
        return client.get(address, headers={"Range": span} | ({"If-Range": condition} if condition else {}))

    for span, start, stop in (
        ("bytes=10-19", 10, 20),
        ("bytes=11999990-", 11_999_990, 12_000_000),
        ("bytes=-5", 11_999_995, 12_000_000),
        ("bytes=11999998-99999999", 11_999_998, 12_000_000),
    ):
        found = ask(span, tag)
        assert (found.status_code, found.content) == (206, BIG.read(start, stop))
        assert found.headers["content-range"] == f"bytes {start}-{stop - 1}/{BIG.size}"
    beyond = ask("bytes=12000000-")
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{BIG.size}")
    for span, condition in (("bytes=10-19", '"else"'), ("bytes=5-1,9-9", ""), ("bytes=-", "")):
        assert ask(span, condition).status_code == 200
    assert [entry.sent for entry in hub.log if entry.range == "bytes=10-19"] == [10, BIG.size]


@pytest.mark.parametrize(
    ("path", "token", "status", "code"),
    [
        ("/api/models/cria/none", "", 401, "RepoNotFound"),
        ("/api/models/cria/none", "hf_x", 404, "RepoNotFound"),
        ("/api/models/cria/model/revision/v9", "", 404, "RevisionNotFound"),
        ("/cria/model/resolve/v9/config.json", "", 404, "RevisionNotFound"),
        ("/cria/model/resolve/main/none.json", "", 404, "EntryNotFound"),
        ("/cria/secret/resolve/main/a.bin", "", 401, "GatedRepo"),
        ("/cria/secret/resolve/main/a.bin", "hf_stranger", 403, "GatedRepo"),
        ("/cria/secret/resolve/main/a.bin", "hf_granted", 302, None),
        ("/api/models/cria/secret/tree/main", "", 200, None),
    ],
)
def test_what_is_refused_and_with_which_code(
    hub: Hub, client: httpx.Client, path: str, token: str, status: int, code: str | None
) -> None:
    hub.add("cria/secret", {"a.bin": b"a"}, gated=True)
    hub.tokens |= {"hf_granted": True, "hf_stranger": False}
    answer = client.get(path, headers={"Authorization": f"Bearer {token}"} if token else {})
    assert (answer.status_code, answer.headers.get("x-error-code")) == (status, code)


def test_a_revision_moves_and_old_commits_stay(hub: Hub, client: httpx.Client) -> None:
    repository = hub.repositories["cria/model"]
    old = repository.revisions["main"]
    repository.publish({"config.json": b"v1"}, "v1.0")
    hub.fault("move", kind="tree")
    client.get("/api/models/cria/model/tree/main")
    now = client.get("/api/models/cria/model/revision/main").json()["sha"]
    assert now != old
    assert client.get(f"/cria/model/resolve/{old}/config.json").content == FILES["config.json"]
    assert client.get("/cria/model/resolve/main/config.json").content == Flipped(Literal(b'{"a": 1}')).read()
    assert client.get("/cria/model/resolve/v1.0/config.json").content == b"v1"


# --- ModelScope -------------------------------------------------------------------------------------------------------


def test_modelscope_lists_files_with_their_sums(client: httpx.Client) -> None:
    listing = "/api/v1/models/cria/model/repo/files"
    found = client.get(listing, params={"Revision": "master", "Recursive": "true"}).json()
    assert (found["Code"], found["Success"]) == (200, True)
    files = {file["Path"]: file for file in found["Data"]["Files"] if file["Type"] == "blob"}
    assert {path: file["Size"] for path, file in files.items()} == {
        "config.json": 8, "deep/er/notes.txt": 5, "model.bin": BIG.size
    }  # fmt: skip
    assert files["deep/er/notes.txt"]["Sha256"] == hashlib.sha256(b"hello").hexdigest()
    flat = client.get(listing, params={"Revision": "master"}).json()["Data"]["Files"]
    assert {(file["Path"], file["Type"]) for file in flat} == {
        ("deep", "tree"), ("config.json", "blob"), ("model.bin", "blob")
    }  # fmt: skip
    unknown = client.get(listing, params={"Revision": "none"})
    assert (unknown.status_code, unknown.json()["Data"]["Files"]) == (200, None)
    assert client.get("/api/v1/models/cria/none/repo/files").status_code == 404


def test_modelscope_sends_files_from_the_gateway_and_weights_from_the_cdn(hub: Hub, client: httpx.Client) -> None:
    address = "/api/v1/models/cria/model/repo"
    part = client.get(address, params={"Revision": "master", "FilePath": "config.json"}, headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content, part.headers["content-range"]) == (200, b'"a"', "bytes 1-3/8")
    weights = client.get(address, params={"Revision": "master", "FilePath": "model.bin"})
    assert weights.status_code == 302
    assert weights.headers["location"].startswith(hub.cdn)
    rest = client.get(weights.headers["location"], headers={"Range": "bytes=11999000-"})
    assert (rest.status_code, rest.content) == (206, BIG.read(11_999_000))
    missing = client.get(address, params={"Revision": "master", "FilePath": "none"})
    assert (missing.status_code, missing.json()["Success"]) == (404, False)


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_a_proxied_request_is_understood(hub: Hub) -> None:
    with httpx.Client(proxy=hub.url, trust_env=False) as client:
        assert client.get("http://somewhere.test/cria/model/resolve/main/config.json").content == FILES["config.json"]
    assert [(entry.origin, entry.proxied) for entry in hub.log] == [("somewhere.test", True)]


def test_the_demo_family_is_served_with_a_zip_and_a_persons_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.bin").write_bytes(b"m")
    (tmp_path / ".hidden").mkdir()
    with Hub() as hub:
        by_hand.fill(hub, [tmp_path, tmp_path / "mine"], 0)
        by_hand.show(hub)
        assert list(hub.repositories) == [
            "cria/demo-base", "cria/demo-delta", "cria/demo-lora", "cria/demo-gated", "local/mine"
        ]  # fmt: skip
        assert "HF_ENDPOINT=http://127.0.0.1:" in capsys.readouterr().out
    with zipfile.ZipFile(BytesIO(zipped("lora"))) as archive:
        assert archive.read("lora/adapter_model.bin") == demo("lora")["adapter_model.bin"].read()
    assert dict(local(tmp_path / "mine"))["local/mine"]["model.bin"].read() == b"m"


def test_a_random_model_is_a_real_one_of_about_the_size_asked_for() -> None:
    from safetensors import deserialize

    files = random_model(120_000_000)
    assert 0.75 < sum(file.size for file in files.values()) / 1.2e8 < 1.25
    shard = files["model-00001-of-00001.safetensors"]
    length = int.from_bytes(shard.read(0, 8), "little")
    table = json.loads(shard.read(8, 8 + length))
    index = json.loads(files["model.safetensors.index.json"].read())
    assert set(table) == set(index["weight_map"])
    assert max(entry["data_offsets"][1] for entry in table.values()) + 8 + length == shard.size
    config = json.loads(files["config.json"].read())
    assert f"model.layers.{config['num_hidden_layers'] - 1}.mlp.up_proj.weight" in table
    norm = table["model.norm.weight"]["data_offsets"]
    assert shard.read(8 + length + norm[0], 8 + length + norm[1]) == b"\0\x3c" * config["hidden_size"]
    assert len(deserialize(shard.read())) == len(table)
    delta = random_model(120_000_000, is_delta=True)
    assert {path: file.size for path, file in delta.items()} == {path: file.size for path, file in files.items()}
    assert delta["model-00001-of-00001.safetensors"].read(50_000_000, 50_001_000) != shard.read(50_000_000, 50_001_000)


def test_rules_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    given = by_hand.options().parse_args(["--fault", "status=429 retry-after=date:3 times=2 path=*.bin kind=file,link"])
    (rule,) = given.fault
    assert (rule.fault, rule.value, rule.retry_after, rule.times, rule.path) == ("status", "429", "date:3", 2, "*.bin")
    for wrong in ("explode", "cut after=much", "cut when=now"):
        with pytest.raises(SystemExit):
            by_hand.options().parse_args(["--fault", wrong])
        assert "--fault" in capsys.readouterr().err
