"""Web and storage addresses: which are read, and how they are written down without what opens them."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

WEB_SCHEMES = frozenset({"http", "https"})
# Through fsspec. Others name a host of their own choice (ftp, sftp, smb) or lead on to a further address
# (simplecache, zip, reference): with those, whoever writes a list could reach into a private network.
REMOTE_SCHEMES = frozenset(
    {"s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss", "adl", "oss", "oci", "memory", "local"}
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(?:::[A-Za-z0-9+.-]+)*://")  # fsspec's chains: a::b://
# Parts of a query that let whoever has them read the file: signatures of S3, Google, Azure and CloudFront,
# and tokens.
_SECRETS = (
    r"x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|(?:aws|oss)?access_?key(?:_?id)?"
    r"|googleaccessid|key-pair-id|policy|signature|sig|hmac|hash_hmac|jwt|auth|authorization"
    r"|[a-z0-9_.-]*(?:token|secret(?:[_-]?key)?|password|passwd|pwd|api[_-]?key)"
)
_SECRET = re.compile(rf"([?&;#](?:{_SECRETS})=)[^&;#\s'\")>]+?(?=:?(?:[&;#\s'\")>]|$))", re.IGNORECASE)

# In front of the host. A password may hold a "/" that should have been written as %2F, as secret keys of S3
# do: then what looks like the port is no number.
_USER = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^/?#@:\[\s]*:(?!\d*(?:[/?#\s]|$))[^@\s]*(?:@[^/?#@\s]*)*|[^/?#\s]*)@",
    re.ASCII,
)


def scheme_of(name: str) -> str | None:
    """The scheme of an address, in lower case; None for a path. "C:" is no scheme: `//` belongs to it."""
    found = _SCHEME.match(name)
    return found.group(1).lower() if found else None


def public_address(address: str) -> str:
    """An address as it may stand in results: user name, password, signatures and tokens as `***`.

    The rest of the query stays, as it can say which image is meant. So two addresses that differ in a
    signature only are the same input.
    """
    return without_secrets(address)


def without_secrets(text: str) -> str:
    """A text that may quote addresses, such as an error, without passwords, signatures and tokens."""
    return _SECRET.sub(r"\1***", _USER.sub(r"\1***@", text))


def has_password(address: str) -> bool:
    """Whether it holds a user name or password in front of the host."""
    return _USER.search(address) is not None


def file_path(address: str) -> str | None:
    """The path that a file:// address names, if it is on this machine. May raise ValueError, as urlsplit."""
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        return None
    return unquote(parts.path, errors="surrogateescape")


def ending(name: str) -> str:
    """The part of a path or address that tells what it is by its suffix, in lower case."""
    if scheme_of(name) in WEB_SCHEMES:
        name = re.split(r"[?#]", name, maxsplit=1)[0]
    return name.lower()
