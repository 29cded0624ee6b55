"""Files in stores, through fsspec: S3, Google Cloud Storage, the Hugging Face Hub and others.

Credentials and settings are those of fsspec and of the store's own package: the environment, its files, and
FSSPEC_S3='{"anon": true}' and the like. None are taken from an address.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, BinaryIO, cast

from stablesig.extras import MissingExtraError, needs_scan

from .addresses import REMOTE_SCHEMES, has_password, public_address, scheme_of, without_secrets
from .item import ErrorKind
from .item_error import ItemError
from .patterns import Entry
from .reading import MAY_PASS, STATES, PassingError, too_large

_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "adl": "adlfs",
    "oss": "ossfs",
    "oci": "ocifs",
}
_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "LocalTokenNotFound",
)
_BLOCK = 1 << 22  # bytes that are read ahead from an archive
_filesystems: dict[tuple[int, str], Any] = {}


def filesystem(address: str) -> Any:
    """The fsspec filesystem of an address, made once in each process: connections do not survive a fork.

    Raises ItemError for a scheme that is not read and for an address with a password, MissingExtraError
    where a package is missing.
    """
    name = public_address(address)
    scheme = scheme_of(address) or ""
    if scheme not in REMOTE_SCHEMES:
        known = ", ".join(sorted(REMOTE_SCHEMES | {"http", "https", "file"}))
        raise ItemError(f"{name}: addresses of this kind are not read; use one of {known}", "network")
    if address.count("://") > 1 or "::" in address.partition("://")[0]:
        raise ItemError(f"{name}: addresses that lead on to others (::) are not read", "network")
    if has_password(address):
        problem = "holds a user name or password; set credentials in the environment. Nothing was sent"
        raise ItemError(f"{name}: {problem}", "permission")
    key = (os.getpid(), scheme)
    if key not in _filesystems:
        with needs_scan(f"reading {scheme}:// addresses"):
            import fsspec
        try:
            # Without the cache of listings, which keeps every folder for ever.
            made = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)
        except ImportError as error:
            package = _PACKAGES.get(scheme, "a package for it")
            raise MissingExtraError(
                f"reading {scheme}:// addresses needs {package}, which is not installed; run: "
                f"pip install {package}"
            ) from error
        except Exception as error:  # whatever the store's own package finds wrong with its settings
            raise translated(name, error) from None
        _filesystems[key] = made
    return _filesystems[key]


def read_remote(address: str, size: int, max_bytes: int) -> bytes:
    """One try at all bytes of a file in a store. size: -1 if not known.

    Raises PassingError or ItemError.
    """
    name = public_address(address)
    store = filesystem(address)
    path = store._strip_protocol(address)
    try:
        if size < 0:
            size = _size_of_file(name, store.info(path))
        if size > max_bytes:
            raise too_large(name, max_bytes)
        data = bytes(store.cat_file(path))
    except Exception as error:
        raise translated(name, error) from None
    if len(data) > max_bytes:
        raise too_large(name, max_bytes)
    return data


def open_remote(address: str) -> BinaryIO:
    """A file in a store, to read from its start on or at any place. Raises ItemError.

    What its methods raise is of whatever class the store's package has: see `translated`.
    """
    name = public_address(address)
    store = filesystem(address)
    try:
        _size_of_file(name, store.info(store._strip_protocol(address)))
        opened = store.open(store._strip_protocol(address), "rb", block_size=_BLOCK, cache_type="readahead")
    except Exception as error:
        raise translated(name, error) from None
    return cast(BinaryIO, opened)


def kind_of(address: str) -> str:
    """ "file", "folder" or "missing". Raises PassingError or ItemError."""
    store = filesystem(address)
    try:
        kind = store.info(store._strip_protocol(address))["type"]
    except FileNotFoundError:
        return "missing"
    except Exception as error:
        raise translated(public_address(address), error) from None
    return "folder" if kind == "directory" else "file" if kind == "file" else "other"


def list_remote(folder: str) -> Iterator[Entry]:
    """The entries of a folder in a store, sorted by name. All of one folder are in memory at a time.

    Raises PassingError or ItemError.
    """
    store = filesystem(folder)
    path = store._strip_protocol(folder)
    try:
        found = store.ls(path, detail=True)
        entries = [entry for one in found if (entry := _entry(folder, path, one)) is not None]
        store.invalidate_cache()  # the Hub's keeps listings all the same
    except Exception as error:
        raise translated(public_address(folder), error) from None
    entries.sort(key=attrgetter("name"))
    yield from entries


def _entry(folder: str, path: str, found: dict[str, Any]) -> Entry | None:
    full = str(found["name"]).rstrip("/")
    if full == path.rstrip("/"):  # the folder itself, as stores keep an empty object for it
        return None
    kind = {"file": "file", "directory": "folder"}.get(found["type"], "other")
    size = found.get("size")
    name = full.rpartition("/")[2]
    return Entry(f"{folder.rstrip('/')}/{name}", name, kind, int(size) if isinstance(size, int) else -1)


def _size_of_file(name: str, found: dict[str, Any]) -> int:
    if found["type"] == "directory":
        raise ItemError(f"{name}: is a folder; name it as a source of its own", "not-a-file")
    if found["type"] != "file":
        raise ItemError(f"{name}: is no regular file", "not-a-file")
    size = found.get("size")
    return int(size) if isinstance(size, int) else -1


def translated(address: str, error: Exception) -> ItemError:
    """What an exception of fsspec or a store's package means, in one line without secrets."""
    name = public_address(address)
    if isinstance(error, (ItemError, MissingExtraError)):
        return error  # type: ignore[return-value]
    if isinstance(error, FileNotFoundError) or type(error).__name__.endswith("NotFoundError"):
        return ItemError(f"{name}: is not there, or may not be seen; check the address", "missing")
    said = without_secrets(" ".join(f"{error}".split()))[:200] or type(error).__name__
    if isinstance(error, PermissionError) or type(error).__name__ in _CREDENTIALS:
        return ItemError(f"{name}: may not be read ({said}); check the credentials", "permission")
    if isinstance(error, IsADirectoryError):
        return ItemError(f"{name}: is a folder; name it as a source of its own", "not-a-file")
    status = _status(error)
    kind: ErrorKind = STATES.get(status, "network")
    text = f"{name}: cannot be read ({said}); try again later, or download it first"
    passing = status in MAY_PASS or (status == 0 and isinstance(error, (OSError, EOFError)))
    return PassingError(text, kind) if passing or _broke(error) else ItemError(text, kind)


def _status(error: Exception) -> int:
    """The HTTP status that an exception tells of; 0 if none."""
    for holder in (getattr(error, "response", None), error):
        for attribute in ("status_code", "status", "code"):
            value = getattr(holder, attribute, None)
            if isinstance(value, int) and 100 <= value < 600:
                return value
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return 0


def _broke(error: Exception) -> bool:
    """Whether a connection broke off or a time ran out, by the name of the class."""
    names = {base.__name__ for base in type(error).__mro__}
    return bool(
        names & {"ClientError", "TransportError", "HTTPClientError", "ConnectionError"}
    ) and not _status(error)
