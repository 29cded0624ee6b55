"""Fetching an image from the web without being led into a private network.

A service that fetches what strangers name is asked for http://169.254.169.254/ and http://localhost:6379/.
So a name is looked up once, every address it has is checked, and the connection goes to a checked address,
not to the name again: a second look-up could answer otherwise (DNS rebinding). Redirects start over with the
same checks. Proxies named in the environment are not used, since the proxy would do the looking up.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Protocol, TypeAlias, TypeVar
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from .errors import ImageError

_T = TypeVar("_T")
_Address: TypeAlias = "tuple[socket.AddressFamily, Any]"  # and the address in the form of that family
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address that is reached
# Public by their number, and a cloud's own services all the same: Azure's host, and of the addresses that RFC
# 6890 sets aside those of Oracle's cloud, which Python counts as public before 3.11.10 and 3.12.4.
_SERVICES = (IPv4Network("168.63.129.16/32"), IPv4Network("192.0.0.0/24"))
_CHUNK = 1 << 16
_GRACE = 1.0  # s, for a connection that was cut to be closed


@dataclass(frozen=True)
class FetchPolicy:
    """What a fetch may cost and reach.

    max_bytes: of the file.  seconds: for everything, looking up the name and all redirects included.
    redirects: how many are followed.  allow_private: also addresses that are not on the public internet
    (this machine, local networks, a cloud's metadata service).
    """

    max_bytes: int = 1 << 26
    seconds: float = 10.0
    redirects: int = 5
    allow_private: bool = False


class HasUrl(Protocol):
    @property
    def url(self) -> str | None: ...


@dataclass
class _Fetch:
    """One fetch under way: what it may do, and the connection to cut when its time is up."""

    policy: FetchPolicy
    deadline: float
    connection: HTTPConnection | None = None
    cut: bool = False
    seen: list[str] = field(default_factory=list)

    def seconds_left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0 or self.cut:
            raise TimeoutError
        return left

    def close(self) -> None:
        connection = self.connection
        if connection is not None:
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)  # wakes whoever reads from it
            connection.close()


def fetch(source: HasUrl | str, policy: FetchPolicy = FetchPolicy()) -> bytes:
    """The bytes of the file at an http or https address.

    Raises ImageError, naming the address: not such an address, not found, an address that is not public, too
    large, too slow, too many redirects, a certificate that does not hold, or a web page in place of an image.
    """
    url = source if isinstance(source, str) else source.url or ""
    under_way = _Fetch(policy, time.monotonic() + policy.seconds)
    try:
        return _in_time(lambda: _follow(url, under_way), under_way)
    except ImageError as error:
        problem = str(error)
    except TimeoutError:
        problem = f"did not arrive within {policy.seconds:g} s; try again, or download it first"
    except ssl.SSLCertVerificationError as error:
        problem = f"has a certificate that does not hold ({error.verify_message}); download it yourself"
    except socket.gaierror:
        problem = "has a host that cannot be found; check the address"
    except (OSError, HTTPException, ValueError) as error:
        problem = f"cannot be fetched ({_one_line(error)}); check the address, or download it first"
    trail = f" (by way of {without_password(under_way.seen[-1])})" if len(under_way.seen) > 1 else ""
    raise ImageError(f"{without_password(url)}: {problem}{trail}")


def without_password(url: str) -> str:
    """An address as it may be printed: without the user name and password in front of its host."""
    return re.sub(r"//[^/?#]*@", "//***@", url, count=1)


def _in_time(work: Callable[[], _T], under_way: _Fetch) -> _T:
    """Run `work` in a thread and give up at the deadline: a look-up, or headers that drip, keep no limit."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="stablesig-fetch", daemon=True)
    thread.start()
    thread.join(under_way.policy.seconds)
    if not outcome:
        under_way.cut = True
        under_way.close()
        thread.join(_GRACE)  # a look-up may go on longer; nothing waits for it
        raise TimeoutError
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _follow(url: str, under_way: _Fetch) -> bytes:
    for _ in range(under_way.policy.redirects + 1):
        under_way.seen.append(url)
        answer = _get(_parsed(url), under_way)
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer)
    raise ImageError(f"leads on more than {under_way.policy.redirects} times; give the address it ends at")


def _parsed(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ImageError("is not an http or https address")
    if parts.username is not None or parts.password is not None:
        raise ImageError("holds a user name or password, which has no place in a report; nothing was sent")
    return parts


def _get(parts: SplitResult, under_way: _Fetch) -> bytes | str:
    """The body of the answer, or where a redirect points."""
    host = str(parts.hostname)
    port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
    addresses = _checked_addresses(host, port, under_way.policy)
    connection = _connected(parts.scheme.lower(), host, port, addresses, under_way)
    try:
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        if parts.query:
            target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
        connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "stablesig"})
        answer = connection.getresponse()
        with answer:
            location = answer.headers.get("Location")
            if answer.status in _REDIRECTS and location:
                return location
            return _body(answer, under_way)
    finally:
        connection.close()


def _body(answer: HTTPResponse, under_way: _Fetch) -> bytes:
    if answer.status != 200:
        raise ImageError(f"answers {answer.status} {_one_line(answer.reason)}; check the address")
    if answer.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
        raise ImageError("comes compressed although that was not asked for; download it first")
    most = under_way.policy.max_bytes
    too_large = ImageError(f"is more than {most:,} bytes; download it, or give a smaller one")
    if answer.length is not None and answer.length > most:
        raise too_large
    pieces, size = [], 0
    while True:
        under_way.seconds_left()
        piece = answer.read1(_CHUNK)
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise too_large
    if answer.length:  # what is left of Content-Length
        raise ImageError("broke off before its end; try again")
    data = b"".join(pieces)
    if answer.headers.get_content_type() == "text/html" and data.lstrip()[:1] == b"<":
        raise ImageError("is a web page, not an image; give the address of the image itself")
    return data


def _connected(
    scheme: str, host: str, port: int, addresses: list[_Address], under_way: _Fetch
) -> HTTPConnection:
    """A connection to the first of the checked addresses that answers, for `host`."""
    problem: OSError | None = None
    for family, address in addresses:
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            plain.settimeout(under_way.seconds_left())
            plain.connect(address)
            connection = HTTPConnection(host, port)
            connection.sock = plain
            under_way.connection = connection
            if scheme == "https":
                context = ssl.create_default_context()
                secured = HTTPSConnection(host, port, context=context)
                secured.sock = context.wrap_socket(plain, server_hostname=host)
                under_way.connection = connection = secured
            return connection
        except TimeoutError:
            plain.close()
            raise
        except OSError as error:
            plain.close()
            if isinstance(error, ssl.SSLError):
                raise
            problem = error
    raise problem or OSError("no address")


def _checked_addresses(host: str, port: int, policy: FetchPolicy) -> list[_Address]:
    """All addresses of `host`. Raises ImageError if any of them is not public, unless that is allowed."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses: list[_Address] = [(family, address) for family, _, _, _, address in found]
    for _, address in addresses:
        if not policy.allow_private and not is_public(str(address[0])):
            raise ImageError(
                f"leads to {address[0]}, which is not on the public internet; if it is meant, allow private "
                "addresses (--allow-private)"
            )
    return addresses


def is_public(address: str) -> bool:
    """Whether an IP address, as `socket` writes it, is on the public internet, whatever it is wrapped in."""
    parsed: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])  # without a scope
    if isinstance(parsed, IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo or (None, None))[1]
        if inner is None and parsed in _NAT64:
            inner = IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            parsed = inner
    if isinstance(parsed, IPv4Address) and any(parsed in network for network in _SERVICES):
        return False
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved or parsed.is_unspecified)


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return "".join(c for c in text if c.isprintable())[:120].rstrip(".") or type(error).__name__
