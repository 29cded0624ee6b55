"""The last look before a release: does any of its files hold the secret key, in whatever guise?

With the secret key at hand, its seed, its message and its file are looked for as raw bytes, in hexadecimal
and in base64 (both alphabets, at any alignment), once or twice encoded, however spaced, wrapped or escaped,
in UTF-8 and UTF-16, as lists of numbers, in file names, in safetensors headers, in compressed PNG text and in
archives. Without it the key file's format is looked for in the same guises, and so are access tokens of the
Hub and PEM private keys. A secret that was encrypted, or encoded in another way on purpose, is not found.

A finding names the file and the guise, never what was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from stablesig.secret_forms import Needle, direction_needles, format_needles, secret_needles
from stablesig.unpacking import unpacked
from stablesig_detector.errors import OutputError
from stablesig_detector.key import PublicKey, SecretKey

if TYPE_CHECKING:
    from stablesig.secret_forms import Guise

_WINDOW_BYTES = 32 << 20
_OVERLAP_BYTES = 64 << 10  # far more than any guise of a key file takes
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]{12,}")
_UTF_16 = (
    re.compile(rb"(?:[\t\n\r\x20-\x7e]\x00){12,}"),
    re.compile(rb"(?:\x00[\t\n\r\x20-\x7e]){12,}"),
)
_ESCAPE = re.compile(rb"\\[nrt]|\\")
_NOT_HEX = re.compile(rb"0x|\\x|[^0-9a-f]")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/_-]")
_NOT_LIST = re.compile(rb"[^0-9,-]")
_NOT_BITS = re.compile(rb"[\s,;\[\]()]|(?:\\n)")
_PATTERNS = (
    ("what looks like the seed of a secret key", re.compile(rb'"seed"\s*:\s*"[0-9a-fA-F]{64}"')),
    ("what looks like an access token of the Hub", re.compile(rb"\bhf_[A-Za-z0-9]{30,}")),
    ("a private key in PEM", re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
)


@dataclass(frozen=True)
class Finding:
    """path: of the file in the folder.  what: the secret and its guise."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path} holds {self.what}"


def scan_folder(
    folder: Path, key: SecretKey | PublicKey | None = None, *, direction_too: bool = False
) -> tuple[Finding, ...]:
    """Look through every file below `folder`, and through the names of the files.

    key: the secret key to look for; with a public one, or none, only what is known of any secret key is
    looked for.  direction_too: the public direction must not be there either. Links are findings, as what
    they lead to is not in the folder. Raises OutputError if a file cannot be read.
    """
    needles = [*format_needles()]
    if isinstance(key, SecretKey):
        needles += secret_needles(key)
    if key is not None and direction_too:
        needles += direction_needles(key)
    findings: list[Finding] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            findings.append(Finding(name, "a link to somewhere else"))
            continue
        found = dict.fromkeys(_scan(name.encode("utf-8", "surrogateescape"), needles))
        if path.is_file():
            found |= dict.fromkeys(_scan_file(path, needles))
        findings += [Finding(name, what) for what in found]
    return tuple(findings)


def scan_bytes(
    content: bytes, key: SecretKey | PublicKey | None = None, *, direction_too: bool = False
) -> tuple[str, ...]:
    """What `scan_folder` would say of a file with this content."""
    needles = [*format_needles()]
    if isinstance(key, SecretKey):
        needles += secret_needles(key)
    if key is not None and direction_too:
        needles += direction_needles(key)
    return tuple(dict.fromkeys([*_scan(content, needles), *_scan_unpacked(content, needles)]))


def _scan_file(path: Path, needles: list[Needle]) -> Iterator[str]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= _WINDOW_BYTES:
                content = file.read()
                yield from _scan(content, needles)
                yield from _scan_unpacked(content, needles)
                return
            kept = b""
            while window := file.read(_WINDOW_BYTES):
                yield from _scan(kept + window, needles)
                kept = window[-_OVERLAP_BYTES:]
        yield from _scan_unpacked(path, needles)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be looked through for secrets: {error.strerror or error}; check its permissions"
        ) from error


def _scan_unpacked(source: bytes | Path, needles: list[Needle]) -> Iterator[str]:
    """What is inside: text of PNG chunks, strings of JSON and safetensors headers, members of archives."""
    for part in unpacked(source):
        if part.content is None:
            yield f"{part.where} that cannot be looked through (too large, too deeply packed, encrypted)"
        else:
            yield from _scan(part.content, needles)


def _scan(content: bytes, needles: list[Needle]) -> Iterator[str]:
    for needle in needles:
        if needle.guise == "raw" and needle.content in content:
            yield needle.label
    text = _text(content)
    if not text:
        return
    for what, pattern in _PATTERNS:
        if pattern.search(text):
            yield what
    variants = _variants(text)
    for needle in needles:
        if needle.guise != "raw" and any(needle.content in one for one in variants[needle.guise]):
            yield needle.label


def _text(content: bytes) -> bytes:
    """All longer stretches of printable characters, UTF-16 ones included, one after the other."""
    runs: list[bytes] = _TEXT.findall(content)
    for pattern in _UTF_16:
        runs += [run.replace(b"\0", b"") for run in pattern.findall(content)]
    return b"\n".join(runs)


def _variants(text: bytes) -> dict[Guise, tuple[bytes, ...]]:
    """The text as each guise would be read: without what may stand between its characters."""
    plain = unquote_to_bytes(text) if b"%" in text else text
    unescaped = _ESCAPE.sub(b"", plain)
    return {
        "text": (text, _joined(unescaped.split())),
        "hex": (_NOT_HEX.sub(b"", plain.lower()),),
        "base64": (_NOT_BASE64.sub(b"", unescaped),),
        "list": (_NOT_LIST.sub(b"", plain),),
        "bits": (plain, _NOT_BITS.sub(b"", plain)),
    }


def _joined(words: Iterable[bytes]) -> bytes:
    return b"".join(words)
