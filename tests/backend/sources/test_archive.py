"""Archives as sources: what comes out is what went in, and what could do harm is refused with a reason."""

import bz2
import gzip
import io
import lzma
import random
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import Cancelled, CriaError, MachineError, SourceError
from backend.events import Progress
from backend.settings import ROOT
from backend.sources import archive, tar_stream
from backend.sources.archive import list_archive, unpack, unpacked_folder
from backend.sources.folder import fetch_bytes, open_source
from backend.text import LANGUAGES, catalogue

NOISE = random.Random(0).randbytes(300_000)
LORA = {"adapter_config.json": b'{"r": 8}', "adapter_model.bin": NOISE, "tokenizer.model": NOISE[:5000]}
ENDINGS = ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"]
Files = Mapping[str, bytes]


def never() -> bool:
    return False


def packed(path: Path, files: Files, top: str = "chinese_alpaca_lora_7b/") -> Path:
    """Pack files with the standard library, by the ending of the archive's name."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
            for name, data in files.items():
                out.writestr(top + name, data)
        return path
    kind = {"tar": "", "gz": "gz", "tgz": "gz", "bz2": "bz2", "xz": "xz"}[path.suffix[1:]]
    with tarfile.open(path, f"w:{kind}", format=tarfile.PAX_FORMAT) as out:
        if top:
            out.addfile(folder := tarfile.TarInfo(top))
            folder.type = tarfile.DIRTYPE
        for name, data in files.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(data)
            member.pax_headers = {"LIBARCHIVE.xattr.com.apple.quarantine": "x" * 300}
            out.addfile(member, io.BytesIO(data))
    return path


def unpack_all(path: Path, into: Path) -> dict[str, bytes]:
    source = open_source(str(path), unpacked=into)
    events = list(unpack(source, into, cancelled=never)) if source.packed else []
    assert not events or events[-1].done == events[-1].total == source.bytes
    found = open_source(str(path), unpacked=into)
    assert not found.packed
    assert found.files == tuple(type(file)(file.name, file.size) for file in list_archive(path, str(path)))
    return {file.name: (found.folder / file.name).read_bytes() for file in found.files}


def refused(path: Path, into: Path) -> SourceError:
    """Return the error of listing or unpacking, once it reads well in every language and nothing was left behind."""
    with pytest.raises(SourceError) as caught:
        unpack_all(path, into)
    reads_well(caught.value, path.name)
    assert not unpacked_folder(path, into).exists()
    assert {entry.name for entry in into.parent.iterdir()} <= {path.name, into.name}
    return caught.value


def reads_well(problem: CriaError, name: str) -> None:
    for language in LANGUAGES:
        text = problem.text(language)
        assert name in text
        assert len(text.splitlines()) == 2
        assert "{" not in text


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("top", ["", "lora_7b/", "./", "a/b/c/", "颜/"])
def test_what_went_in_comes_out(tmp_path: Path, ending: str, top: str) -> None:
    path = packed(tmp_path / f"x.{ending}", LORA, top)
    source = open_source(str(path))
    if ending in ("zip", "tar"):
        assert {file.name: file.size for file in source.files} == {name: len(data) for name, data in LORA.items()}
        assert source.has("adapter_config.json")
        assert source.weight_bytes == len(NOISE)
    else:
        assert source.weight_bytes == source.bytes == path.stat().st_size
    assert source.address == str(path)
    assert fetch_bytes(source) == (path.stat().st_size, source.bytes)
    assert unpack_all(path, tmp_path / "out") == LORA


def test_a_compressed_tar_is_not_decompressed_to_be_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(tmp_path / "x.tar.gz", LORA)
    opened = []
    monkeypatch.setattr(archive, "open_tar", lambda *args: opened.append(args) or tar_stream.open_tar(*args))
    source = open_source(str(path))
    assert not opened
    events = list(unpack(source, tmp_path / "out", cancelled=never))
    assert len(opened) == 2  # once for the list, once for the bytes
    assert isinstance(events[-1], Progress)
    assert events[-1].done == events[-1].total == path.stat().st_size


@pytest.mark.parametrize("encoding", ["gbk", "big5", "utf-8"])
def test_names_in_the_code_page_of_chinese_windows(tmp_path: Path, encoding: str) -> None:
    """The second byte of 誠, 功 (Big5) and 昞 (GBK) is that of a backslash."""
    folder = "功/" if encoding == "big5" else "昞/"
    assert (b"\\" in folder.encode(encoding)) is (encoding != "utf-8")
    ascii_name = "@" * len(folder.encode(encoding)[:-1]) + "/"
    path = packed(tmp_path / "x.zip", LORA, ascii_name)
    path.write_bytes(path.read_bytes().replace(ascii_name.encode(), folder.encode(encoding)))
    assert unpack_all(path, tmp_path / "out") == LORA
    for name in (b"\x81\\..\\evil.bin", b"..\\\x81\x40.bin"):
        path = packed(tmp_path / f"{len(name)}.zip", LORA | {"@" * len(name): b"x"}, "")
        path.write_bytes(path.read_bytes().replace(b"@" * len(name), name))
        with pytest.raises(SourceError) as caught:
            open_source(str(path))
        assert caught.value.key == "archive.unsafe"


@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_only_the_model_comes_out(tmp_path: Path, ending: str) -> None:
    others = {"README.md": b"hi", "run.py": b"boom", ".DS_Store": b"x", "._adapter_model.bin": b"x",
              "training_args.bin": b"x", "optimizer.pt": NOISE, "checkpoint-500/adapter_model.bin": NOISE,
              "evil name.bin": b"x", ".git/config.json": b"{}"}  # fmt: skip
    path = packed(tmp_path / f"x.{ending}", LORA | others, "top/")
    if ending == "zip":
        with zipfile.ZipFile(path, "a") as out:
            out.writestr("__MACOSX/top/adapter_model.bin", b"x")
    assert unpack_all(path, tmp_path / "out") == LORA


def test_long_names_of_both_kinds_of_tar(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form) as out:
            for name, data in LORA.items():
                member = tarfile.TarInfo(("d" * 60 + "/") * (2 if form == tarfile.USTAR_FORMAT else 3) + name)
                member.size = len(data)
                out.addfile(member, io.BytesIO(data))
        assert unpack_all(path, tmp_path / f"out{form}") == LORA


def test_sizes_of_eight_gigabytes_and_more(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        member = tarfile.TarInfo("pytorch_model.bin")
        member.size = 9_000_000_000
        path = tmp_path / f"{form}.tar"
        with path.open("wb") as out:
            header = member.tobuf(form)
            out.write(header)
            out.truncate(len(header) + member.size // 512 * 512 + 512 + 1024)  # sparse on the disk
        assert list_archive(path, "x")[0].size == member.size


def test_several_streams_in_one_file(tmp_path: Path) -> None:
    raw = packed(tmp_path / "x.tar", LORA).read_bytes()
    for ending, pack in (("bz2", bz2.compress), ("xz", lzma.compress), ("gz", gzip.compress)):
        path = tmp_path / f"y.tar.{ending}"
        path.write_bytes(pack(raw[:100_000]) + pack(raw[100_000:]))
        assert unpack_all(path, tmp_path / ending) == LORA


def test_an_interrupted_unpacking_starts_again(tmp_path: Path) -> None:
    path, into = packed(tmp_path / "x.zip", LORA | {"pytorch_model.bin": NOISE * 30}), tmp_path / "out"
    source, calls = open_source(str(path)), iter([False, False, True])
    with pytest.raises(Cancelled):
        list(unpack(source, into, cancelled=lambda: next(calls)))
    assert open_source(str(path), unpacked=into).packed
    assert [entry.suffix for entry in into.iterdir()] == [".part"]
    assert len(unpack_all(path, into)) == 4
    assert len(list(into.iterdir())) == 1


def test_another_archive_of_that_name_is_not_taken_for_unpacked(tmp_path: Path) -> None:
    path, into = packed(tmp_path / "x.zip", LORA), tmp_path / "out"
    unpack_all(path, into)
    packed(path, LORA | {"config.json": b"{}"})
    assert open_source(str(path), unpacked=into).packed


def test_an_archive_that_changes_between_listing_and_unpacking(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.zip", LORA)
    source = open_source(str(path))
    packed(path, LORA | {"adapter_model.bin": NOISE[1:]})
    with pytest.raises(SourceError) as caught:
        list(unpack(source, tmp_path / "out", cancelled=never))
    assert caught.value.key == "archive.damaged"


def test_a_full_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(str(packed(tmp_path / "x.zip", LORA)))
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(MachineError) as caught:
        list(unpack(source, tmp_path / "out", cancelled=never))
    assert caught.value.key == "archive.disk"
    reads_well(caught.value, "5 B")


@pytest.mark.parametrize("name", ["../adapter_model.bin", "a/../../x.bin", "/etc/x.bin", "a\\b.bin", "C:/x.bin",
                                  "C:x.bin", "a/..", "x\x1b[31m.bin", "x\n.bin"])  # fmt: skip
@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str, ending: str) -> None:
    path = packed(tmp_path / f"x.{ending}", LORA | {name: b"evil"}, "")
    assert refused(path, tmp_path / "out").key == "archive.unsafe"
    assert not (tmp_path / "adapter_model.bin").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
                                  tarfile.BLKTYPE, b"Z"])  # fmt: skip
def test_links_and_devices_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    path = packed(tmp_path / "x.tar", LORA)
    with tarfile.open(path, "a") as out:
        member = tarfile.TarInfo("adapter.bin")
        member.type, member.linkname = kind, "/etc/passwd"
        out.addfile(member)
    wanted = "archive.is_link" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else "archive.is_device"
    assert refused(path, tmp_path / "out").key == wanted


@pytest.mark.parametrize(("mode", "key"), [(stat.S_IFLNK, "is_link"), (stat.S_IFIFO, "is_device")])
def test_links_and_devices_in_a_zip(tmp_path: Path, mode: int, key: str) -> None:
    path = packed(tmp_path / "x.zip", LORA)
    with zipfile.ZipFile(path, "a") as out:
        info = zipfile.ZipInfo("a/model.bin")
        info.create_system, info.external_attr = 3, (mode | 0o777) << 16
        out.writestr(info, "/etc/passwd")
    assert refused(path, tmp_path / "out").key == f"archive.{key}"


def changed_zip(change: Callable[[bytearray, int], None]) -> Callable[[Path], None]:
    """Return what changes the first member's central entry, which begins at the position it is given."""

    def apply(path: Path) -> None:
        raw = bytearray(packed(path, LORA).read_bytes())
        change(raw, raw.index(b"PK\x01\x02"))
        path.write_bytes(raw)

    return apply


def put(raw: bytearray, at: int, form: str, value: int) -> None:
    struct.pack_into(form, raw, at, value)


def overlapping(path: Path) -> None:
    """A hundred names for the bytes of one member: how 10 MB are made to unpack to 281 TB."""
    raw = bytearray(packed(path, {"adapter_model.bin": NOISE}, "").read_bytes())
    at, end = raw.index(b"PK\x01\x02"), raw.index(b"PK\x05\x06")
    entry, tail = raw[at:end], raw[end:]
    entries = b"".join(bytes(entry).replace(b"adapter_model", b"adapter_%05d" % number) for number in range(100))
    put(tail, 8, "<H", 100)
    put(tail, 10, "<H", 100)
    put(tail, 12, "<I", len(entries))
    path.write_bytes(raw[:at] + entries + tail)


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out, out.open("adapter_model.bin", "w") as file:
        for _ in range(100):
            file.write(bytes(1_000_000))


def long_list(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as out:
        for number in range(80):
            info = zipfile.ZipInfo(f"{number}.bin")
            info.comment = bytes(60_000)
            out.writestr(info, b"")


def many_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as out:
        for number in range(archive.MEMBER_LIMIT + 1):
            out.writestr(f"{number:x}.txt", b"")


def two_models(path: Path) -> None:
    packed(path, {"a/adapter_model.bin": NOISE, "b/adapter_model.bin": NOISE}, "top/")


def two_cases(path: Path) -> None:
    packed(path, LORA | {"Adapter_model.bin": b"x"})


def one_name_twice(path: Path) -> None:
    raw = packed(path, {"adapter_model.bin": b"1", "adapter_model.bim": b"2"}, "").read_bytes()
    path.write_bytes(raw.replace(b".bim", b".bin"))


ZIPS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "encrypted": (changed_zip(lambda raw, at: put(raw, at + 8, "<H", 1)), "is_encrypted"),
    "an unknown method": (changed_zip(lambda raw, at: put(raw, at + 10, "<H", 9)), "is_packed_oddly"),
    "a memory-hungry method": (changed_zip(lambda raw, at: put(raw, at + 10, "<H", 14)), "is_packed_oddly"),
    "a later version": (changed_zip(lambda raw, at: put(raw, at + 6, "<H", 99)), "damaged"),
    "a wrong checksum": (changed_zip(lambda raw, at: put(raw, at + 16, "<I", 1)), "damaged"),
    "a smaller declared size": (changed_zip(lambda raw, at: put(raw, at + 24, "<I", 3)), "damaged"),
    "a larger declared size": (changed_zip(lambda raw, at: put(raw, at + 24, "<I", 999)), "damaged"),
    "4 GB declared": (changed_zip(lambda raw, at: put(raw, at + 24, "<I", 0xFFFFFFFE)), "bomb"),
    "zip64 without its field": (changed_zip(lambda raw, at: put(raw, at + 24, "<I", 0xFFFFFFFF)), "bomb"),
    "a larger packed size": (changed_zip(lambda raw, at: put(raw, at + 20, "<I", 0xFFFFFFF)), "damaged"),
    "an offset beyond the end": (changed_zip(lambda raw, at: put(raw, at + 42, "<I", 0xFFFFFFF)), "damaged"),
    "an offset of another member": (changed_zip(lambda raw, at: put(raw, at + 42, "<I", 60)), "damaged"),
    "another local name": (changed_zip(lambda raw, at: put(raw, 35, "<B", 65)), "damaged"),
    "a huge directory": (changed_zip(lambda raw, at: put(raw, len(raw) - 10, "<I", 0x7FFFFFFF)), "damaged"),
    "overlapping members": (overlapping, "damaged"),
    "a zip bomb": (bomb, "bomb"),
    "a long list": (long_list, "damaged"),
    "many members": (many_members, "too_many"),
    "two models": (two_models, "several"),
    "two cases": (two_cases, "twice"),
    "one name twice": (one_name_twice, "damaged"),
    "nothing": (lambda path: packed(path, {"a.txt": b"", "adapter_config.json": b"{}"}) and None, "nothing"),
    "no members": (lambda path: packed(path, {}) and None, "nothing"),
    "a web page": (lambda path: path.write_text("<!DOCTYPE html><html>Sign in") and None, "not_archive"),
    "control characters": (lambda path: path.write_bytes(b"\x1b[31m\xe2\x80\xaex") and None, "not_archive"),
    "a file of nothing": (lambda path: path.write_bytes(b"") and None, "not_archive"),
    "half a zip": (lambda path: path.write_bytes(packed(path, LORA).read_bytes()[:100_000]) and None, "damaged"),
}


@pytest.mark.parametrize(("make", "key"), ZIPS.values(), ids=ZIPS.keys())
def test_hostile_zips(tmp_path: Path, make: Callable[[Path], None], key: str) -> None:
    path = tmp_path / "x.zip"
    make(path)
    assert refused(path, tmp_path / "out").key == f"archive.{key}"


def test_a_member_that_inflates_beyond_its_size_is_stopped(tmp_path: Path) -> None:
    """Whatever a member says, no more than it says is written."""
    source = open_source(str(packed(tmp_path / "x.zip", LORA)))
    small = [type(file)(file.name, 3, file.member) for file in source.files]
    with pytest.raises(SourceError):
        list(unpack(type(source)(source.spec, source.folder, tuple(small), True), tmp_path / "out", cancelled=never))
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.bin")) <= 3


def header(name: bytes, size: bytes, kind: bytes = b"0", magic: bytes = b"ustar\00000") -> bytes:
    raw = bytearray(512)
    raw[:100] = name.ljust(100, b"\0")
    raw[124:136], raw[156:157], raw[257:265] = size.ljust(12, b"\0"), kind, magic
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


END = bytes(1024)
BIG = b"\x80" + (1 << 62).to_bytes(11, "big")
ROW = b"12 path=a/b\n"
TARS: Mapping[str, tuple[bytes, str]] = {
    "a size of 2^62": (header(b"a.bin", BIG) + END, "damaged"),
    "a negative size": (header(b"a.bin", b"\xff" * 12) + END, "damaged"),
    "a size that is no number": (header(b"a.bin", b"12x") + END, "damaged"),
    "no end": (header(b"a.bin", b"0"), "damaged"),
    "cut in a header": (header(b"a.bin", b"0")[:300], "damaged"),
    "cut in its bytes": (header(b"a.bin", b"7777") + b"abc", "damaged"),
    "a bad checksum": (header(b"a.bin", b"0").replace(b"a.bin", b"b.bin") + END, "damaged"),
    "a huge extension": (header(b"x", b"77777777777", b"x") + END, "damaged"),
    "a huge long name": (header(b"x", b"77777777777", b"L") + END, "damaged"),
    "a record that goes nowhere": (header(b"x", b"14", b"x") + ROW.ljust(512, b"\0") + END, "nothing"),
    "a record of no length": (header(b"x", b"14", b"x") + b"0 path=a/bc\n".ljust(512, b"\0") + END, "damaged"),
    "a record too long": (header(b"x", b"14", b"x") + b"99 path=a/b\n".ljust(512, b"\0") + END, "damaged"),
    "records without spaces": (header(b"x", b"14", b"x") + (ROW[:11] + b"=").ljust(512, b"\0") + END, "damaged"),
    "a size that is no size": (header(b"x", b"11", b"x") + b"9 size=x\n".ljust(512, b"\0")
                               + header(b"a.bin", b"0") + END, "damaged"),
    "a sparse file": (header(b"x", b"26", b"x") + b"22 GNU.sparse.major=1\n".ljust(512, b"\0")
                      + header(b"a.bin", b"0") + END, "is_packed_oddly"),
    "an old sparse file": (header(b"a.bin", b"0", b"S") + END, "is_packed_oddly"),
    "a long link": (header(b"././@LongLink", b"0", b"K") + END, "is_link"),
    "nothing": (header(b"a.txt", b"0") + END, "nothing"),
    "the same file twice": (header(b"a.bin", b"0") * 2 + END, "twice"),
    "long names on and on": ((header(b"x", b"1", b"L") + b"n".ljust(512)) * 5000 + END, "nothing"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "key"), TARS.values(), ids=TARS.keys())
@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_hostile_tars(tmp_path: Path, raw: bytes, key: str, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    path.write_bytes(gzip.compress(raw) if ending == "tar.gz" else raw)
    assert refused(path, tmp_path / "out").key == f"archive.{key}"


def test_too_many_members(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(header(b"a.txt", b"0") * (archive.MEMBER_LIMIT + 1) + END)
    assert refused(tmp_path / "x.tar", tmp_path / "out").key == "archive.too_many"


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_a_compressed_bomb_is_stopped_while_it_goes_off(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_RATIO_FROM", 1_000_000)
    monkeypatch.setattr(archive, "MEMBER_LIMIT", 10)
    path = tmp_path / f"x.tar.{ending}"
    path.write_bytes(pack(header(b"a.bin", b"77777777") + bytes(10_000_000)))
    assert refused(path, tmp_path / "out").key == "archive.bomb"


def test_xz_that_wants_gigabytes_of_memory(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 12}]
    raw = bytearray(lzma.compress(header(b"a.bin", b"0") + END, filters=filters))
    at = raw.index(b"\x21\x01\x00") + 2  # LZMA2's filter flags: id, size of its properties, dictionary
    raw[at] = 40  # 4 GiB
    raw[20:24] = struct.pack("<I", zlib.crc32(raw[12:20]))
    (tmp_path / "x.tar.xz").write_bytes(raw)
    assert refused(tmp_path / "x.tar.xz", tmp_path / "out").key == "archive.damaged"
    with pytest.raises(lzma.LZMAError, match=r"[Mm]emory"), tar_stream.open_tar(tmp_path / "x.tar.xz", 9999) as stream:
        stream.read(1)


@pytest.mark.parametrize("ending", ENDINGS)
def test_truncation_anywhere_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    raw = packed(path, {"adapter_config.json": b"{}", "adapter_model.bin": NOISE[:3000]}).read_bytes()
    padding = len(raw) - len(raw.rstrip(b"\0")) - 512 if ending == "tar" else 0  # one zero block must stay
    for size in range(1, len(raw) - padding, 211):
        path.write_bytes(raw[:size])
        assert refused(path, tmp_path / "out").key.startswith("archive.")


SMALL = {"adapter_config.json": b"{}", "adapter_model.bin": NOISE[:400]}


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
def test_changed_archives_give_the_same_files_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = packed(folder / f"x.{data.draw(st.sampled_from(ENDINGS))}", SMALL)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    path.write_bytes(raw)
    try:
        found = unpack_all(path, folder / "out")
    except CriaError:
        return
    if path.suffix != ".tar":  # a plain tar has no checksum over its content
        assert all(SMALL.get(name, content) == content for name, content in found.items())
    assert all(len(content) < 2000 for content in found.values())
    assert {entry.name for entry in folder.iterdir()} == {path.name, "out"}


@pytest.mark.parametrize("name", ["lora.rar", "lora.7z", "lora.tar.zst", "model.bin.gz"])
def test_other_archives_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"Rar!")
    with pytest.raises(SourceError) as caught:
        open_source(str(tmp_path / name))
    assert caught.value.key == "archive.other_kind"
    reads_well(caught.value, Path(name).suffix)


def test_progress_is_true(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.tar", {"pytorch_model.bin": NOISE * 40})
    source = open_source(str(path))
    steps = [event.done for event in unpack(source, tmp_path / "out", cancelled=never) if isinstance(event, Progress)]
    assert len(steps) >= 3
    assert steps == sorted(steps)
    assert steps[-1] == len(NOISE) * 40


def test_nothing_in_the_catalogue_is_unused() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "backend").rglob("*.py"))
    for key in catalogue("en"):
        if key.startswith(("archive.", "sources.")):
            assert f'"{key.removesuffix(".say").removesuffix(".hint")}"' in source, key
