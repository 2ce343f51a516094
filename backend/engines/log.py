"""What an engine process prints: its last lines in memory, all of them in a file of its own, old files cleared away.

The file carries the process id, so that engines of several apps and jobs that share a folder never touch each other's.
Knows nothing about what the lines mean.
"""

import contextlib
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO

import psutil

TAIL_LINES = 50
LAST_LINES = 8  # that stand in an error
KEPT = 5  # log files of engines that are gone
_LINE_LIMIT = 2000  # bytes kept together; a longer line is several: progress bars never end theirs
_FILE_LIMIT = 10_000_000  # bytes written to the file


class EngineLog:
    """Follows a stream until its other end closes."""

    def __init__(self, stream: IO[bytes], folder: Path, pid: int) -> None:
        """Start to follow ``stream`` of process ``pid``; the file lies in ``folder`` and is called ``name``."""
        self.name = f"engine-{time.strftime('%Y%m%d-%H%M%S')}-{pid}.log"
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._reader = threading.Thread(target=self._read, args=(stream, folder), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[bytes], folder: Path) -> None:
        written = 0
        with contextlib.ExitStack() as stack, stream:
            file: IO[str] | None = None
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                clear_old_logs(folder)
                file = stack.enter_context((folder / self.name).open("w", encoding="utf-8"))
            for raw in iter(lambda: stream.readline(_LINE_LIMIT), b""):
                line = raw.decode("utf-8", "replace").rstrip()
                self._lines.append(line)
                if file is not None and written < _FILE_LIMIT:
                    with contextlib.suppress(OSError):
                        written += file.write(line + "\n")
                        file.flush()

    def wait(self) -> None:
        """Wait a moment for the stream to run dry; for a process that has ended."""
        self._reader.join(1.0)

    def tail(self) -> tuple[str, ...]:
        """Return the last lines."""
        return tuple(self._lines)

    def last_words(self, lines: int = LAST_LINES) -> str:
        """Return the last lines as text to put after a sentence: each on a line of its own; empty if there are none."""
        return "".join(f"\n{line}" for line in list(self._lines)[-lines:])


def clear_old_logs(folder: Path) -> None:
    """Remove log files but for the newest few; those of living processes stay."""
    gone = [path for path in folder.glob("engine-*.log") if not _lives(path)]
    for path in sorted(gone, key=lambda path: path.name, reverse=True)[KEPT:]:
        path.unlink(missing_ok=True)


def _lives(path: Path) -> bool:
    pid = path.stem.rpartition("-")[2]
    return pid.isascii() and pid.isdigit() and psutil.pid_exists(int(pid))
