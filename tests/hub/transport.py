"""The stand-in's sockets: a thread for each connection, and the bytes on their way with what an answer says of them.

Requests of a client that takes this for its proxy (an absolute address in the request line) are understood too. Files
go out by sendfile. Knows nothing about what is served.
"""

import fcntl
import os
import select
import socket
import struct
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from threading import Event, Lock
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.hub.answer import Answer, Request
from tests.hub.content import Piece, Stretch

if TYPE_CHECKING:
    from tests.hub.server import Hub

_CHUNK = 4 << 20
_PACED_CHUNKS = 64, 256 << 10  # bytes; the least and the most that a paced answer sends at once
_DRAINED = 2.0  # seconds that a reset waits for what was sent before it


@dataclass
class Entry:
    """One request and what became of it. ``sent`` counts bytes of the body, as they leave."""

    method: str
    origin: str
    target: str
    range: str
    if_range: str
    token: str
    proxied: bool
    kind: str = ""
    status: int = 0
    faults: tuple[str, ...] = ()
    sent: int = 0

    def __str__(self) -> str:
        marks = "".join(f" [{fault}]" for fault in self.faults) + (" token" if self.token else "")
        return f"{self.status} {self.method} {self.origin}{self.target} {self.range} {self.sent} bytes{marks}"


class Pace:
    """Shares out a number of bytes a second among those who ask."""

    def __init__(self, rate: float) -> None:
        self.rate, self._lock, self._next = rate, Lock(), 0.0

    @property
    def chunk(self) -> int:
        """How many bytes to send at once, so that it looks smooth."""
        least, most = _PACED_CHUNKS
        return min(max(int(self.rate / 50), least), most)

    def wait(self, count: int, stopped: Event) -> None:
        """Return when it is time to send that many bytes more."""
        with self._lock:
            now = time.monotonic()
            start = max(self._next, now)
            self._next = start + count / self.rate
        stopped.wait(start - now)


class Server(ThreadingTCPServer):
    """Every connection in a thread of its own."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], hub: "Hub") -> None:
        self.hub, self._open, self._lock = hub, set[socket.socket](), Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End every connection, so that no thread waits for a client any more."""
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the client was faster

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing about clients that went away; anything else is a defect of the stand-in."""
        problem = sys.exception()
        if problem and not isinstance(problem, ConnectionError):
            self.hub.defects.append(problem)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_: object) -> None:
        """Keep quiet; the log is the hub's."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        proxied = bool(address.scheme)
        target = self.path[len(f"{address.scheme}://{address.netloc}") :] if proxied else self.path
        headers = {key.lower(): value for key, value in self.headers.items()}
        origin = address.netloc if proxied else headers.get("host", "")
        request = Request(self.command, origin, target, headers)
        entry = Entry(
            self.command, origin, target, headers.get("range", ""), headers.get("if-range", ""), request.token, proxied
        )
        self.server.hub.log.append(entry)
        self.rfile.read(int(headers.get("content-length", 0)))
        answer, entry.faults = self.server.hub.answer(request)
        entry.kind, entry.status = answer.kind, answer.status
        try:
            self._send(answer, entry)
        except OSError:
            self.close_connection = True  # the client went away
        finally:
            self.server.hub.seen(entry)

    do_HEAD = do_POST = do_GET

    def _send(self, answer: Answer, entry: Entry) -> None:
        if not answer.status:
            self._reset()
            return
        self.server.hub.stopped.wait(answer.wait)
        self.connection.sendall(self._head(answer))
        if self.command == "HEAD":
            return
        stop = answer.stop if answer.until is None else min(answer.stop, answer.start + answer.until)
        self._send_body(answer.body.pieces(answer.start, stop), Pace(answer.rate) if answer.rate else None, entry)
        if answer.ending == "reset":
            self._reset()
        elif answer.ending == "stall":
            if not self._left(answer.pause):
                self._send_body(answer.body.pieces(stop, answer.stop), None, entry)
        elif answer.ending == "cut" or answer.declared:
            self.close_connection = True

    def _head(self, answer: Answer) -> bytes:
        length = str(max(answer.stop - answer.start + answer.declared, 0))
        headers = {"Date": formatdate(usegmt=True), "Content-Length": length, **answer.headers}
        self.close_connection |= headers.get("Connection") == "close"
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        lines += [f"{key}: {value}" for key, value in headers.items() if value]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _send_body(self, pieces: Iterator[Piece], own: Pace | None, entry: Entry) -> None:
        paces = [pace for pace in (own, self.server.hub.pace) if pace]
        chunk = min((pace.chunk for pace in paces), default=_CHUNK)
        for piece in pieces:
            count = piece.length if isinstance(piece, Stretch) else len(piece)
            for at in range(0, count, chunk):
                size = min(chunk, count - at)
                for pace in paces:
                    pace.wait(size, self.server.hub.stopped)
                if paces and self.server.hub.stopped.is_set():
                    raise ConnectionAbortedError  # else the rest would go out at once
                self._send_piece(piece, at, size, entry)

    def _send_piece(self, piece: Piece, at: int, size: int, entry: Entry) -> None:
        if not isinstance(piece, Stretch):
            self.connection.sendall(memoryview(piece)[at : at + size])
            entry.sent += size
            return
        while size:
            done = os.sendfile(self.connection.fileno(), piece.descriptor, piece.offset + at, size)
            if not done:
                raise OSError("the file became shorter")
            entry.sent, at, size = entry.sent + done, at + done, size - done

    def _left(self, seconds: float) -> bool:
        """Wait in silence; tell whether the client hung up meanwhile."""
        return bool(select.select([self.connection], [], [], seconds)[0])

    def _reset(self) -> None:
        """End the connection with RST, once the client's side has what was sent before."""
        until = time.monotonic() + _DRAINED
        while time.monotonic() < until and _unsent(self.connection):
            time.sleep(0.002)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()
        self.close_connection = True


def _unsent(connection: socket.socket) -> int:
    """Return how many bytes the other side has not acknowledged yet."""
    answer = fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", answer)[0])
