"""Requests for bytes: what is sent to whom, where redirects may lead, proxies, and ending one from another thread."""

import socket
import threading
from collections.abc import Iterator

import pytest

from backend.errors import SourceError
from backend.sources.address import in_ascii
from backend.sources.trouble import Stopped, Trouble
from backend.sources.wire import Session, Token
from tests.hub.server import Hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as made:
        made.add("cria/model", {"model.bin": b"w" * 1000, "config.json": b"{}"})
        yield made


@pytest.fixture
def session() -> Iterator[Session]:
    made = Session(timeout_s=2.0, proxies={})
    yield made
    made.close()


def weights(hub: Hub) -> str:
    return f"{hub.url}/cria/model/resolve/main/model.bin"


def test_a_redirect_to_another_origin_is_followed_without_the_token(hub: Hub, session: Session) -> None:
    reply = session.get(weights(hub), token=Token(hub.url, "hf_secret"))
    assert reply.read_all(5000) == b"w" * 1000
    assert reply.url.startswith(hub.cdn)
    assert [(entry.kind, entry.token) for entry in hub.log] == [("link", "hf_secret"), ("file", "")]


def test_a_token_is_not_sent_where_it_was_not_given_for(hub: Hub, session: Session) -> None:
    session.get(weights(hub), token=Token("https://huggingface.co", "hf_secret")).close()
    assert {entry.token for entry in hub.log} == {""}
    assert "hf_secret" not in repr(Token(hub.url, "hf_secret"))


def test_a_connection_is_used_again_and_a_stale_one_is_no_failure(hub: Hub, session: Session) -> None:
    url = f"{hub.url}/cria/model/resolve/main/config.json"
    assert session.get(url).read_all(100) == b"{}"
    assert session.get(url).read_all(100) == b"{}"
    assert len(session._open) == 1
    hub._server.hang_up()
    assert session.get(url).read_all(100) == b"{}"


@pytest.mark.parametrize(("location", "key"), [
    ("file:///etc/passwd", "redirect_bad"),
    ("loop", "redirects"),
    ("gopher://127.0.0.1/", "redirect_bad"),
])  # fmt: skip
def test_a_redirect_that_leads_astray_is_refused(hub: Hub, session: Session, location: str, key: str) -> None:
    hub.fault("redirect", location, kind="*", times=0)
    with pytest.raises(Trouble) as caught:
        session.get(weights(hub))
    assert caught.value.error.key == f"download.{key}"
    assert caught.value.hopeless


PRIVATE = ("10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "192.168.1.1", "0.0.0.0")


@pytest.mark.parametrize("inside", PRIVATE)
def test_a_public_server_does_not_lead_inside(
    hub: Hub, session: Session, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    """The name ``public.example`` is made to stand for a public address that is really the stand-in."""
    real, dialled = socket.getaddrinfo, list[object]()

    def fake(host: str, port: object, *rest: object, **more: object) -> object:
        address = {"public.example": "93.184.216.34", "inside.example": inside}.get(host, host)
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        dialled.append(address)
        wire = socket.socket.__mro__[1]
        wire.connect(self, ("127.0.0.1", hub.port))  # type: ignore[attr-defined]

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    monkeypatch.setattr(socket.socket, "connect", connect)
    hub.fault("redirect", "http://inside.example/secret", kind="*", times=0)
    with pytest.raises(Trouble) as caught:
        session.get(weights(hub).replace("127.0.0.1", "public.example"))
    assert caught.value.error.key == "download.private"
    assert dialled == [("93.184.216.34", hub.port)]
    monkeypatch.setattr(socket, "getaddrinfo", real)


def test_a_host_that_is_no_name_is_a_sentence(session: Session) -> None:
    with pytest.raises(Trouble) as caught:
        session.get(f"http://{'模' * 60}.example/x")
    assert caught.value.error.key == "download.unreachable"


@pytest.mark.parametrize("how", ["utf-8", "encoded", "bytes"])
def test_files_with_chinese_names_come_also_through_redirects(hub: Hub, session: Session, how: str) -> None:
    hub.serve("模型 7b.zip", b"z" * 50)
    address = f"{hub.url}/files/模型 7b.zip"
    led = {"utf-8": address.encode().decode("latin-1"), "encoded": in_ascii(address), "bytes": f"{hub.url}/files/\xe9"}
    assert session.get(address).read_all(100) == b"z" * 50
    hub.fault("redirect", led[how], kind="link", times=1)
    reply = session.get(weights(hub))
    reply.close()
    assert (reply.status, reply.url.isascii()) == (404 if how == "bytes" else 200, True)
    assert reply.url.endswith("/%E9" if how == "bytes" else "%207b.zip")


def test_a_proxy_gets_the_whole_address_and_its_password(hub: Hub) -> None:
    session = Session(timeout_s=2.0, proxies={"http": f"http://me:pw@127.0.0.1:{hub.port}"})
    reply = session.get("http://hub.example/cria/model/resolve/main/config.json")
    assert reply.read_all(100) == b"{}"
    assert [(entry.origin, entry.proxied) for entry in hub.log] == [("hub.example", True)]
    session.close()


def test_a_proxy_of_another_kind_is_named_without_its_password() -> None:
    session = Session(timeout_s=2.0, proxies={"all": "socks5://me:secret@127.0.0.1:1080"})
    with pytest.raises(Trouble) as caught:
        session.get("https://hub.example/")
    assert caught.value.error.key == "download.proxy_kind"
    assert "secret" not in caught.value.error.text()


def test_what_is_asked_is_plain_bytes() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    said: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            said.append(connection.recv(4096))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    thread = threading.Thread(target=serve)
    thread.start()
    session = Session(timeout_s=2.0, proxies={})
    assert session.get(f"http://127.0.0.1:{listener.getsockname()[1]}/x", {"Range": "bytes=0-1"}).read_all(9) == b"ok"
    thread.join()
    listener.close()
    session.close()
    assert said[0].count(b"Accept-Encoding: identity\r\n") == said[0].lower().count(b"accept-encoding")
    assert b"Range: bytes=0-1\r\n" in said[0]


def test_another_thread_can_end_a_request_that_hangs(hub: Hub) -> None:
    session = Session(timeout_s=30.0, proxies={})
    hub.fault("stall", "20", kind="link", times=0)
    ended: list[type[BaseException]] = []

    def ask() -> None:
        try:
            session.get(weights(hub)).read_all(100)
        except (Stopped, Trouble) as problem:
            ended.append(type(problem))

    thread = threading.Thread(target=ask)
    thread.start()
    while not hub.log:
        threading.Event().wait(0.01)
    session.abort()
    thread.join(5.0)
    session.close()
    assert not thread.is_alive()
    assert ended in ([Stopped], [])  # a redirect's headers may have come before the stall


def test_nobody_there_is_a_sentence(session: Session) -> None:
    with pytest.raises(Trouble) as caught:
        session.get("http://127.0.0.1:9/x")
    assert isinstance(caught.value.error, SourceError)
    assert not caught.value.hopeless
    assert "127.0.0.1:9" in caught.value.error.text()
