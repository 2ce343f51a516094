"""Proxies, between this machine and the stand-in hub: with and without TLS, with a password, with a login page."""

import base64
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from backend.errors import SourceError
from backend.sources.proxy import proxy_of
from backend.sources.remote import Servers, list_remote
from backend.sources.spec import Repository
from backend.sources.trouble import Trouble
from backend.sources.wire import Session
from tests.hub.server import Hub

PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"


class Proxy(threading.Thread):
    """A proxy for CONNECT. ``secret`` is name:password, ``answer`` what it says in place of connecting; it leads to
    ``target`` whoever is asked for.
    """

    def __init__(self, target: int = 0, *, secret: str = "", answer: bytes = b"") -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._target, self._secret, self._answer = target, secret, answer
        self.asked: list[str] = []

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def run(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            self.asked.append(head.split(b" ")[1].decode())
            wanted = b"Proxy-Authorization: Basic " + base64.b64encode(self._secret.encode())
            if self._secret and wanted not in head:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            elif self._answer:
                client.sendall(self._answer)
                client.recv(4096)
            else:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                with socket.create_connection(("127.0.0.1", self._target)) as server:
                    back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                    back.start()
                    _copy(client, server)
                    back.join()

    def close(self) -> None:
        self._listener.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


Make = Callable[..., Proxy]


@pytest.fixture
def proxy() -> Iterator[Make]:
    made: list[Proxy] = []

    def make(target: int = 0, **more: object) -> Proxy:
        made.append(Proxy(target, **more))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a certificate for hub.example."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    both = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=hub.example", "-addext", "subjectAltName=DNS:hub.example", "-keyout", both,
         "-out", f"{both}.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    both.write_text(both.read_text() + Path(f"{both}.crt").read_text())
    return both


@pytest.fixture
def behind_tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Serve two bytes by https as hub.example; return the port."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                raw, _ = listener.accept()
                with suppress(OSError), context.wrap_socket(raw, server_side=True) as made:
                    made.recv(4096)
                    made.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    threading.Thread(target=serve, daemon=True).start()
    yield int(listener.getsockname()[1])
    listener.close()


def ask(port: int, *, who: str = "") -> bytes:
    session = Session(timeout_s=5.0, proxies={"https": f"http://{who}127.0.0.1:{port}"})
    try:
        return session.get("https://hub.example/file").read_all(100)
    finally:
        session.close()


def problem(port: int) -> SourceError:
    with pytest.raises(Trouble) as caught:
        ask(port)
    assert isinstance(caught.value.error, SourceError)
    return caught.value.error


def test_https_goes_through_a_tunnel_with_a_password(proxy: Make, behind_tls: int) -> None:
    made = proxy(behind_tls, secret="me:p@ss")
    assert ask(made.port, who="me:p%40ss@") == b"ok"
    assert made.asked == ["hub.example:443"]
    assert problem(made.port).key == "proxy.login"


@pytest.mark.parametrize(("answer", "key"), [
    (PAGE, "proxy.portal"),
    (b"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\n\r\n", "proxy.portal"),
    (b"HTTP/1.1 511 Network Authentication Required\r\n\r\n", "proxy.portal"),
    (b"HTTP/1.1 403 Forbidden\r\n\r\n", "proxy.refused"),
])  # fmt: skip
def test_what_a_proxy_says_instead_is_understood(proxy: Make, answer: bytes, key: str) -> None:
    error = problem(proxy(answer=answer).port)
    assert error.key == key
    assert "hub.example" in error.text()


def usual(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_hub_is_listed_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in answers for any host when it is asked as a proxy; the library is asked in a process of its own."""
    with Hub() as hub:
        hub.add("cria/model", {"config.json": b"{}", "model.safetensors": b"w" * 1000})
        usual(monkeypatch, HTTP_PROXY=f"http://me:pw@127.0.0.1:{hub.port}", NO_PROXY="other.example")
        servers = Servers(hubs=("http://hub.example",), modelscope=None)
        listing, _ = list_remote(Repository("hf", "cria/model"), servers=servers)
        assert listing.bytes == 1002
        assert {(entry.origin, entry.proxied) for entry in hub.log} == {("hub.example", True)}


def test_a_proxy_is_passed_by_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    usual(monkeypatch, HTTP_PROXY="http://127.0.0.1:9", NO_PROXY="127.0.0.1,localhost")
    with Hub() as hub:
        hub.add("cria/model", {"config.json": b"{}", "model.safetensors": b"w" * 1000})
        listing, _ = list_remote(Repository("hf", "cria/model"), servers=Servers(hubs=(hub.url,), modelscope=None))
        assert listing.bytes == 1002
        assert not any(entry.proxied for entry in hub.log)


def test_socks_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    usual(monkeypatch, ALL_PROXY="socks5://me:secret@127.0.0.1:1080")
    with pytest.raises(SourceError) as caught:
        list_remote(Repository("hf", "cria/model"), servers=Servers(hubs=("https://hub.example",), modelscope=None))
    assert caught.value.key == "download.proxy_kind"
    assert "socks5://127.0.0.1" in caught.value.text()
    assert "secret" not in caught.value.text()


def test_a_proxy_without_a_scheme_is_a_plain_one() -> None:
    from urllib.parse import urlsplit

    found = proxy_of(urlsplit("https://hub.example"), {"https": "proxy.example:3128"})
    assert found is not None
    assert (found.hostname, found.port) == ("proxy.example", 3128)
