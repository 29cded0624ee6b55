"""Fetching, from a real server on loopback: what arrives, and all that is refused."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stablesig_detector import urls
from stablesig_detector.errors import ImageError
from stablesig_detector.sources import Source
from stablesig_detector.urls import FetchPolicy, fetch, is_public

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
HERE = FetchPolicy(seconds=5.0, allow_private=True)


@dataclass
class Server:
    """A web server on loopback; `routes`: path -> what its handler does."""

    port: int = 0
    routes: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    secure: Callable[[ssl.SSLContext], None] = field(default=lambda context: None)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


def _answer(
    handler: BaseHTTPRequestHandler, body: bytes = PICTURE, status: int = 200, **headers: str
) -> None:
    handler.send_response(status)
    for name, value in {"Content_Length": str(len(body)), "Content_Type": "image/png", **headers}.items():
        if value:
            handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            state.hosts.append(self.headers["Host"])
            try:
                state.routes.get(self.path, _answer)(self)
            except OSError:  # the client has left, as some tests mean it to
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        state.port = http.server_address[1]

        def secure(context: ssl.SSLContext) -> None:
            http.socket = context.wrap_socket(http.socket, server_side=True)

        state.secure = secure
        http.handle_error = lambda *_: None  # type: ignore[method-assign]  a client that hangs up
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        state.over.set()
        http.shutdown()
        thread.join()


def _refused(url: str, policy: FetchPolicy = HERE) -> str:
    with pytest.raises(ImageError) as caught:
        fetch(url, policy)
    text = str(caught.value)
    assert text.startswith(f"{url}: ")
    assert "\n" not in text
    return text


def test_a_file_arrives_whole(server: Server) -> None:
    assert fetch(server.url("/a.png"), HERE) == PICTURE
    source = Source("a", url=server.url("/a b.png?x=1&y=ä#part"))
    assert fetch(source, HERE) == PICTURE
    assert server.asked[1] == "/a%20b.png?x=1&y=%C3%A4"


def test_a_body_without_length_or_in_chunks_arrives_whole(server: Server) -> None:
    def in_chunks(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(PICTURE), 1000):
            piece = PICTURE[start : start + 1000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    server.routes = {"/chunks": in_chunks, "/plain": lambda h: _answer(h, Content_Length="")}
    assert fetch(server.url("/chunks"), HERE) == PICTURE
    assert fetch(server.url("/plain"), HERE) == PICTURE


def test_redirects_are_followed_a_few_times(server: Server) -> None:
    server.routes = {
        "/first": lambda h: _answer(h, b"", 302, Location="/second"),
        "/second": lambda h: _answer(h, b"", 308, Location=server.url("/a.png")),
        "/loop": lambda h: _answer(h, b"", 301, Location="/loop"),
    }
    assert fetch(server.url("/first"), HERE) == PICTURE
    assert "leads on more than 5 times" in _refused(server.url("/loop"))
    assert server.asked.count("/loop") == 6


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://[::1"])
def test_a_redirect_to_something_else_is_refused(location: str, server: Server) -> None:
    server.routes = {"/": lambda h: _answer(h, b"", 302, Location=location)}
    _refused(server.url("/"))
    assert server.asked == ["/"]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://example.org/a.png", "is not an http or https address"),
        ("http:///a.png", "is not an http or https address"),
        ("http://127.0.0.1:99999/", "cannot be fetched"),
        ("http://127.0.0.1:1/", "cannot be fetched"),
    ],
)
def test_addresses_that_cannot_be_fetched(url: str, problem: str) -> None:
    assert problem in _refused(url)


def test_a_password_is_not_sent_and_not_shown(server: Server) -> None:
    with pytest.raises(ImageError) as caught:
        fetch(server.url("/a.png").replace("//", "//user:secret@"), HERE)
    assert "holds a user name or password" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"status": 404}, "answers 404"),
        ({"status": 204, "body": b""}, "answers 204"),
        ({"status": 302}, "answers 302"),  # leads nowhere
        ({"Content_Encoding": "gzip"}, "comes compressed"),
        ({"Content_Length": str(len(PICTURE) + 5)}, "broke off before its end"),
        ({"body": b"<html><img src=a.png>", "Content_Type": "text/html"}, "is a web page, not an image"),
    ],
)
def test_answers_that_are_no_file(answer: dict[str, Any], problem: str, server: Server) -> None:
    server.routes = {"/": lambda h: _answer(h, **answer)}
    assert problem in _refused(server.url("/"))


def test_what_is_no_http_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        assert "cannot be fetched" in _refused(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()


def test_size_is_capped_whether_or_not_it_is_announced(server: Server) -> None:
    small = replace(HERE, max_bytes=len(PICTURE) - 1)

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not server.over.is_set():
            handler.wfile.write(b"x" * 1000)

    server.routes = {"/endless": endless}
    assert f"is more than {len(PICTURE) - 1:,} bytes" in _refused(server.url("/a.png"), small)
    assert "is more than" in _refused(server.url("/endless"), small)
    assert fetch(server.url("/a.png"), replace(HERE, max_bytes=len(PICTURE))) == PICTURE


def _drip(server: Server, start: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        while not server.over.wait(0.02):
            handler.wfile.write(b"x")

    return drip


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.0 200 OK\r\nX-Slow: ", b"HTTP/1.0 200 OK\r\nContent-Type: image/png\r\n\r\n"]
)
def test_time_is_limited_however_slowly_it_drips(start: bytes, server: Server) -> None:
    server.routes = {"/": _drip(server, start)}
    began = time.monotonic()
    assert "did not arrive within 0.3 s" in _refused(server.url("/"), replace(HERE, seconds=0.3))
    assert time.monotonic() - began < 30  # the drip itself never ends


def test_a_name_that_takes_long_to_look_up_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def never(*_: object, **__: object) -> list[Any]:
        over.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "later")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    monkeypatch.setattr(urls, "_GRACE", 0.0)
    assert "did not arrive within 0.1 s" in _refused("http://slow.test/", FetchPolicy(seconds=0.1))
    over.set()


# Where a fetch may lead.


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.0.192",
        "::ffff:192.0.0.192",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "fe80::1",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "2606:2800:21f::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::1]"])
def test_this_machine_is_not_reached_by_any_of_its_names(host: str, server: Server) -> None:
    text = _refused(server.url("/a.png", host), FetchPolicy())
    assert "not on the public internet" in text or "cannot be f" in text  # not every system knows them all
    assert server.asked == []


def _look_up(monkeypatch: pytest.MonkeyPatch, port: int, answers: dict[str, list[str]]) -> list[str]:
    """Look names up in `answers`, one answer each time; connections to public addresses end at the server."""
    looked_up = []
    connect = socket.socket.connect

    def getaddrinfo(host: str, service: int, **_: object) -> list[Any]:
        looked_up.append(host)
        addresses = answers[host]
        found = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, service)) for address in found.split(",")
        ]

    def connected(self: socket.socket, address: Any) -> None:
        connect(self, ("127.0.0.1", port) if is_public(address[0]) else address)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", connected)
    return looked_up


def test_a_redirect_into_a_private_network_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"public.test": ["93.184.215.14"], "inside.test": ["169.254.169.254"]}
    _look_up(monkeypatch, server.port, answers)
    inside = server.url("/latest/meta-data", "inside.test")
    server.routes = {"/": lambda h: _answer(h, b"", 302, Location=inside)}
    text = _refused(server.url("/", "public.test"), FetchPolicy())
    assert "leads to 169.254.169.254, which is not on the public internet" in text
    assert f"by way of {inside}" in text
    assert server.asked == ["/"]


def test_a_name_that_changes_its_address_after_the_check_is_not_asked_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = _look_up(monkeypatch, server.port, {"rebound.test": ["93.184.215.14", "127.0.0.1"]})
    assert fetch(server.url("/a.png", "rebound.test"), FetchPolicy(seconds=5.0)) == PICTURE
    assert looked_up == ["rebound.test"]
    assert server.hosts == [f"rebound.test:{server.port}"]
    # The second look-up, which a redirect makes, is checked like the first.
    assert "leads to 127.0.0.1" in _refused(server.url("/", "rebound.test"), FetchPolicy())


def test_one_private_address_among_public_ones_is_enough_to_refuse(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    _look_up(monkeypatch, server.port, {"mixed.test": ["93.184.215.14,10.0.0.1"]})
    assert "leads to 10.0.0.1" in _refused(server.url("/", "mixed.test"), FetchPolicy())
    assert server.asked == []


def test_proxies_of_the_environment_are_not_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch(server.url("/a.png"), HERE) == PICTURE


def test_https_where_no_tls_is_spoken(server: Server) -> None:
    assert "cannot be fetched" in _refused(server.url("/a.png").replace("http:", "https:"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_https_needs_a_certificate_that_holds_for_the_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    make += " -subj /CN=here.test -addext subjectAltName=DNS:here.test"
    subprocess.run(
        ["openssl", *make.split(), "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.secure(context)
    _look_up(monkeypatch, server.port, {name: ["93.184.215.14"] for name in ("here.test", "other.test")})
    here, other = (
        server.url("/a.png", name).replace("http:", "https:") for name in ("here.test", "other.test")
    )
    assert "has a certificate that does not hold" in _refused(here)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # where OpenSSL looks for those it trusts
    assert fetch(here, HERE) == PICTURE
    assert "has a certificate that does not hold" in _refused(other)
    assert server.asked == ["/a.png"]
