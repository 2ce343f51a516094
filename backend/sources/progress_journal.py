"""The journal of one unfinished file: which bytes are on the disk, and what they summed up to.

    cria-fetch 1 SIZE IDENTITY      whose bytes these are; another identity and everything starts over
    boot ID                         the machine's current run: what was written since survives a dead process
    + START STOP                    these bytes were written
    - START STOP                    these were bad and are gone
    = OFFSET DIGEST                 the sum over everything before OFFSET
    x OFFSET                        sums beyond OFFSET are not to be believed
    c START STOP                    these were compared with a second copy
    r                               a new comparison begins

Lines are appended and never waited for: a killed process loses none, since the kernel has them. After a power cut, when
the boot is another, only bytes below the last sum count, and that sum is checked against the disk before anything is
built on it. Reading stops at the first line that makes no sense; a journal without a good beginning is no journal.
Knows nothing about networks.
"""

import contextlib
import errno
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from backend.sources.extents import Extents

_HEAD = "cria-fetch 1"
_LINE = re.compile(r"([-+c]) (\d{1,15}) (\d{1,15})|(=) (\d{1,15}) ([0-9a-f]{40,64})|(x) (\d{1,15})|(r)|boot (\S{1,80})")
_LONG = 2 << 20  # bytes appended before a journal is written anew
_LIMIT = 16 << 20  # bytes; none gets that long


def boot_id() -> str:
    """Return what tells one run of this machine from the next; where nothing does, a word that never comes again."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"unknown-{os.getpid()}-{os.urandom(4).hex()}"


@dataclass
class Known:
    """What a journal says: spans that were written, spans that were compared, offset -> sum of everything before it."""

    have: Extents = field(default_factory=Extents)
    compared: Extents = field(default_factory=Extents)
    sums: dict[int, str] = field(default_factory=dict)
    comparing: bool = False


def read_journal(path: Path, size: int, identity: str) -> Known:
    """Return what the journal of these bytes says; nothing when it is missing, damaged or about other bytes."""
    known, boot = Known(), ""
    try:
        if path.stat().st_size > _LIMIT:
            return known
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return known
    head, *lines = text.split("\n")
    if head != f"{_HEAD} {size} {identity}":
        return known
    for line in lines[:-1]:  # what follows the last newline is torn
        found = _LINE.fullmatch(line)
        if not found or (found[2] and not 0 <= int(found[2]) < int(found[3]) <= size):
            break
        boot = found[10] or boot
        _feed(known, found)
    if boot != boot_id():
        known.have.remove(max(known.sums, default=0), size)
    return known


def _feed(known: Known, line: re.Match[str]) -> None:
    if line[4]:
        known.sums[int(line[5])] = line[6]
    elif line[7]:
        known.sums = believable(known.sums, int(line[8]))
    elif line[9]:
        known.comparing, known.compared = True, Extents()
    elif line[1]:
        start, stop = int(line[2]), int(line[3])
        if line[1] == "+":
            known.have.add(start, stop)
        elif line[1] == "c":
            known.compared.add(start, stop)
        else:
            known.have.remove(start, stop)


def believable(sums: dict[int, str], offset: int) -> dict[int, str]:
    """Return the sums over bytes up to ``offset``: later ones were made of bytes that have changed since."""
    return {mark: digest for mark, digest in sums.items() if mark <= offset}


class ProgressJournal:
    """Appends to a journal; opening it writes what is known anew, so that it stays short. Not for several threads."""

    def __init__(self, path: Path, size: int, identity: str, known: Known) -> None:
        lines = [f"{_HEAD} {size} {identity}", f"boot {boot_id()}"]
        lines += [f"+ {start} {stop}" for start, stop in known.have]
        lines += [f"= {offset} {digest}" for offset, digest in sorted(known.sums.items())]
        lines += ["r", *(f"c {start} {stop}" for start, stop in known.compared)] if known.comparing else []
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text("\n".join(lines) + "\n", encoding="utf-8")
        fresh.replace(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._room = _LONG

    def line(self, text: str) -> None:
        """Append one line; when it returns, a killed process has not lost it.

        Raises:
            OSError: the disk is full or gone.
        """
        data = f"{text}\n".encode()
        if os.write(self._file, data) != len(data):  # the torn line ends what a reader believes
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._room -= len(data)

    @property
    def is_long(self) -> bool:
        """Tell whether it is time to write it anew."""
        return self._room < 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
