"""The room that a set-up takes when used files go: what the plan promises, and what it offers when room is short."""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from backend.errors import MachineError
from backend.hardware import probe
from backend.plan import Plan, check_plan, make_plan
from backend.recipes import custom_recipe
from backend.sources import store
from backend.sources.listing import Listing, RemoteFile
from backend.sources.pinned import Pinned

GB = 10**9
SIZES = (9_976_634_558, 3_500_315_539)  # of LLaMA-7B, and of its Vicuna deltas, in two files


def pinned(spec: str, sizes: tuple[int, ...] = SIZES) -> Pinned:
    names = [f"pytorch_model-{n:05d}-of-{len(sizes):05d}.bin" for n in range(1, len(sizes) + 1)]
    files = [RemoteFile(name, size, f"http://hub/{name}", hashlib.sha256(name.encode()).hexdigest())
             for name, size in zip(names, sizes, strict=True)]  # fmt: skip
    files.append(RemoteFile("config.json", 1000, "http://hub/config.json", git_sha1="0" * 40))
    revision = hashlib.sha1(spec.encode()).hexdigest()
    return Pinned(spec, Listing("hf", spec, revision, "http://hub", tuple(files)))


def plan(downloads: Path, *, layout: str = "huggingface") -> Plan:
    recipe = custom_recipe("made", base="cria/base", delta="cria/delta", layout=layout)
    return make_plan(recipe, self_test=False, find=pinned, downloads=downloads)


def test_a_plan_has_both_figures(tmp_path: Path) -> None:
    made = plan(tmp_path)
    assert made.disk_bytes / GB == pytest.approx(40.4, abs=0.1)
    assert made.lean_disk_bytes / GB == pytest.approx(30.1, abs=0.1)
    assert made.needed_disk == made.disk_bytes
    lean = replace(made, keep_sources=False)
    assert lean.needed_disk == made.lean_disk_bytes
    assert Plan.from_json(lean.to_json()) == lean
    assert lean.same_work(made)
    grown = lean.with_output(sum(SIZES) + GB)
    assert grown.lean_disk_bytes - lean.lean_disk_bytes == GB


def test_what_is_here_already_is_not_counted(tmp_path: Path) -> None:
    """Nor does it go: it was not fetched for this."""
    one = pinned("cria/base")
    small = replace(one, listing=replace(one.listing, files=one.listing.files[1:]))
    find = partial(lambda spec, base: base if spec == "cria/base" else None, base=small)
    before = make_plan(custom_recipe("made", base="cria/base"), self_test=False, find=find, downloads=tmp_path)
    folder = small.folder(tmp_path)
    (folder / store.PARTS).mkdir(parents=True)
    with (folder / small.listing.files[0].name).open("wb") as file:
        file.truncate(small.listing.files[0].size)
    store.note_ready(folder, small.listing.files[0])
    after = make_plan(custom_recipe("made", base="cria/base"), self_test=False, find=find, downloads=tmp_path)
    assert before.lean_disk_bytes - after.lean_disk_bytes == pytest.approx(SIZES[1], rel=0.01)


def test_metas_shards_grow_together_so_nothing_goes_early(tmp_path: Path) -> None:
    made = plan(tmp_path, layout="meta")
    assert made.lean_disk_bytes == made.disk_bytes


def test_where_room_is_short_the_lean_way_is_offered(tmp_path: Path) -> None:
    made, machine = plan(tmp_path), probe(tmp_path)
    machine = replace(machine, disk_free=35 * GB, ram_free=None)
    with pytest.raises(MachineError) as caught:
        check_plan(made, machine, tmp_path)
    assert caught.value.key == "lean.disk"
    assert "--no-keep-sources" in caught.value.text()
    check_plan(replace(made, keep_sources=False), machine, tmp_path)
    with pytest.raises(MachineError) as caught:
        check_plan(replace(made, keep_sources=False), replace(machine, disk_free=20 * GB), tmp_path)
    assert caught.value.key == "plan.disk"
