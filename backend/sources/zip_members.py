"""The members of a zip file, with the names that people gave them, and their bytes one piece after the other.

Knows nothing about which members are wanted.
"""

import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from backend.sources.tar_stream import Damaged, Member

_DIRECTORY_LIMIT = 4_000_000  # bytes of a zip's list of members
_PIECE = 4 << 20
_UTF8 = 0x800  # the flag for names in UTF-8; without it zipfile takes them for code page 437


@contextmanager
def open_zip(path: Path) -> Iterator["Zip"]:
    """Open a zip file. What is wrong with it is told by the exceptions of ``zipfile``, or by ``Damaged``."""
    with _Sober(path) as raw, zipfile.ZipFile(raw) as opened:
        yield Zip(opened, os.fstat(raw.fileno()).st_size)


class Zip:
    """An open zip file of ``size`` bytes."""

    def __init__(self, opened: zipfile.ZipFile, size: int) -> None:
        self._opened, self._size = opened, size
        self._infos = {_name(info): info for info in opened.infolist()}

    def members(self) -> Iterator[Member]:
        """Yield every member in the order of the list.

        Raises:
            Damaged: two of one name, or more bytes than the file has.
        """
        infos = self._opened.infolist()
        if sum(info.compress_size for info in infos) > self._size or len(self._infos) != len(infos):
            raise Damaged
        for name, info in self._infos.items():
            yield Member(name, info.file_size, _kind(info))

    def content(self, member: Member) -> Iterator[bytes]:
        """Yield a member's bytes."""
        with self._opened.open(self._infos[member.name]) as content:
            while piece := content.read(_PIECE):
                yield piece


def _name(info: zipfile.ZipInfo) -> str:
    """Return a member's name. Where nothing says that it is UTF-8, it is in the code page of the machine that packed
    it: on Chinese Windows GBK, in which the second byte of a character may be that of a backslash."""
    if info.flag_bits & _UTF8 or info.filename.isascii() or info.filename != info.orig_filename:
        return info.filename
    raw = info.filename.encode("cp437")  # what Python takes it for, which has a character for every byte
    for encoding in ("utf-8", "gb18030", "big5"):
        with suppress(UnicodeDecodeError):
            return raw.decode(encoding)
    return info.filename


def _kind(info: zipfile.ZipInfo) -> str:
    mode = stat.S_IFMT(info.external_attr >> 16)
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "link" if mode == stat.S_IFLNK else "device"
    if info.is_dir():
        return "folder"
    if info.flag_bits & 1:
        return "encrypted"
    return "file" if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else "packing"


class _Sober(FileIO):
    """A file that will not be read into memory whole because a number inside it says so."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; the list of members is read at once, everything else in pieces."""
        if size is not None and size > max(_DIRECTORY_LIMIT, _PIECE):
            raise Damaged
        return super().read(-1 if size is None else size) or b""
