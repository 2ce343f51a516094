"""What lies in a folder, looked at once and with a limit: names, lengths and times, and a stamp that changes with them.

A folder dropped in by hand may hold a hundred thousand files, links in a circle, or vanish while it is read. Knows
nothing about models.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2s
from itertools import islice
from pathlib import Path

MOST_ENTRIES = 2000  # the largest model (405B) has 200 files; whatever holds more is no model


@dataclass(frozen=True)
class Listing:
    """The files directly inside a folder: name -> (bytes, time of change in ns). A link that leads nowhere is in
    ``lost``; ``crowded``: there are more entries than were looked at.
    """

    files: Mapping[str, tuple[int, int]]
    lost: tuple[str, ...] = ()
    crowded: bool = False

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name."""
        return name in self.files

    def size(self, suffixes: tuple[str, ...]) -> int:
        """Return the bytes of all files with one of these endings."""
        return sum(size for name, (size, _) in self.files.items() if name.endswith(suffixes))

    @property
    def bytes(self) -> int:
        """Return the bytes of all files."""
        return sum(size for size, _ in self.files.values())

    def stamp(self, *, without: Collection[str] = ()) -> str:
        """Return a text that is another one whenever a file comes, goes, grows or is written again."""
        rows = sorted((name, *found) for name, found in self.files.items() if name not in without)
        seen = ascii((rows, self.lost, self.crowded))  # names may hold bytes that are no text
        return blake2s(seen.encode(), digest_size=12).hexdigest()


def list_folder(folder: Path) -> Listing:
    """Look into a folder.

    Raises:
        OSError: it is gone, no folder, or may not be read.
    """
    files, lost = dict[str, tuple[int, int]](), list[str]()
    with os.scandir(folder) as entries:
        found = list(islice(entries, MOST_ENTRIES + 1))
    for entry in found[:MOST_ENTRIES]:
        try:
            if entry.is_file():
                known = entry.stat()
                files[entry.name] = (known.st_size, known.st_mtime_ns)
            elif entry.is_symlink() and not entry.is_dir():
                lost.append(entry.name)
        except OSError:  # it vanished a moment ago, or links lead in a circle
            lost.append(entry.name)
    return Listing(files, tuple(sorted(lost)), len(found) > MOST_ENTRIES)
