"""A threading HTTP server on loopback that hands requests to `respond`, and goes wrong where it is told."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Fault:
    """What goes wrong with `times` requests whose "METHOD path" matches `pattern`, after `skip` others.

    kind: "status" answers `status` with `headers` and `message`; "drop" reads `after` bytes of the body and
    closes the connection; "cut" sends `after` bytes of the answer's body and closes it; "lose" does what was
    asked and closes the connection without an answer; "slow" waits `seconds` before every chunk that is read
    or written.
    """

    pattern: str
    kind: str = "status"
    status: int = 500
    times: int = 1
    skip: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "injected"
    after: int = 0
    seconds: float = 0.0
    hits: int = 0


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    token: str | None
    size: int  # bytes of the body that were read

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)


class FaultyServer:
    """Answers with what `respond` returns, unless one of `faults` is due. Listens from the start."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self._choosing = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def respond(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        raise NotImplementedError

    def asked(self, pattern: str) -> list[Request]:
        """The requests so far whose "METHOD path" matches `pattern`."""
        return [request for request in self.requests if re.search(pattern, str(request))]

    def fault_for(self, request: str) -> Fault | None:
        with self._choosing:
            for fault in self.faults:
                if fault.hits < fault.skip + fault.times and re.search(fault.pattern, request):
                    fault.hits += 1
                    if fault.hits > fault.skip:
                        return fault
        return None

    def serve(self) -> None:
        """Until `close` is called, from another thread."""
        self._server.serve_forever(poll_interval=0.02)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away, as faults make it


def _handler(server: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each answer waits for its head to be acknowledged

        def _serve(self) -> None:
            request = f"{self.command} {self.path}"
            fault = server.fault_for(request)
            size = int(self.headers.get("Content-Length") or 0)
            if fault is not None and fault.kind == "drop":
                self._note(len(self.rfile.read(min(fault.after, size))))
                self._hang_up()
                return
            body = b"".join(self._chunks(size, fault))
            self._note(len(body))
            if fault is not None and fault.kind == "status":
                content = json.dumps({"error": fault.message}).encode()
                self._send(Answer(fault.status, content, fault.headers))
                return
            answer = server.respond(self.command, self.path, self.headers, body)
            if fault is not None and fault.kind == "lose":
                self._hang_up()
                return
            self._send(answer, fault)

        do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815

        def _note(self, size: int) -> None:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            server.requests.append(Request(self.command, self.path, token, size))

        def _chunks(self, size: int, fault: Fault | None) -> Iterator[bytes]:
            while size > 0:
                if fault is not None and fault.kind == "slow":
                    time.sleep(fault.seconds)
                chunk = self.rfile.read(min(size, 4096))
                size -= len(chunk)
                yield chunk

        def _send(self, answer: Answer, fault: Fault | None = None) -> None:
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault is not None and fault.kind == "cut":
                self.wfile.write(answer.body[: fault.after])
                self._hang_up()
                return
            for start in range(0, len(answer.body), 4096):
                if fault is not None and fault.kind == "slow":
                    time.sleep(fault.seconds)
                self.wfile.write(answer.body[start : start + 4096])

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *arguments: Any) -> None:
            pass

    return Handler
