"""The bytes of one input: from a file, an archive, a web address or a store, with retries where they help."""

from __future__ import annotations

import os
import random
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, TypeVar

from stablesig.extras import MissingExtraError
from stablesig_detector.bounds import MAX_FILE_BYTES
from stablesig_detector.errors import ImageError
from stablesig_detector.urls import FetchPolicy, fetch

from .addresses import has_password, public_address, without_secrets
from .item import ErrorKind, Item
from .item_error import ArchiveError, from_os_error
from .item_error import ItemError as ItemError

_Result = TypeVar("_Result")
MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})  # states of a server that another try may not meet
STATES: dict[int, ErrorKind] = {401: "permission", 403: "permission", 404: "missing", 410: "missing"}


@dataclass(frozen=True)
class ReadOptions:
    """What reading one input may cost and reach.

    policy: of web addresses; its `max_bytes` holds for them beside the one here
    retries: further tries after a failure of the network that may pass (a server that is busy or in trouble,
        a connection that broke off, a time that ran out)
    first_wait: before the first of them, s; doubled for each further one, and spread by up to a half
    longest_wait: s
    max_bytes: of one input, unpacked
    """

    policy: FetchPolicy = field(default_factory=FetchPolicy)
    retries: int = 3
    first_wait: float = 0.5
    longest_wait: float = 8.0
    max_bytes: int = MAX_FILE_BYTES


class PassingError(ItemError):
    """A failure that another try may not meet."""


def read_item(item: Item, options: ReadOptions = ReadOptions()) -> bytes:
    """All bytes of `item`, at most `options.max_bytes`.

    Raises ItemError, which names the item and tells the class of what went wrong. Pipes and devices are never
    opened. A file that changes while it is read is read once more, and then is an error of kind "changing".
    """
    if item.kind == "refused":
        raise ItemError(item.error or f"{item.path}: cannot be read", item.error_kind or "not-a-file")
    if item.kind == "data":
        data = item.data or b""
        if len(data) > options.max_bytes:
            raise too_large(item.path, options.max_bytes)
        return data
    if item.kind == "file":
        return _file(item.path, item.location, options.max_bytes)
    if item.kind == "url":
        return with_retries(lambda: read_url(item.location, options), options)
    if item.kind == "remote":
        from .remote import read_remote

        try:
            return with_retries(lambda: read_remote(item.location, item.size, options.max_bytes), options)
        except MissingExtraError as error:
            raise ItemError(f"{item.path}: {error}", "network") from None
    return _member(item, options.max_bytes)


def too_large(name: str, max_bytes: int) -> ItemError:
    return ItemError(f"{name}: is more than {max_bytes:,} bytes; make it smaller", "too-large")


def open_regular(name: str, path: str) -> BinaryIO:
    """Open a file, and never a pipe, a device or a folder. Raises ItemError, which calls it `name`."""
    try:
        _check_regular(name, os.stat(path))  # noqa: PTH116  a path that is not UTF-8 is a str here
        # What became a pipe since then is opened without waiting for its other end.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        flags |= getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(path, flags), "rb")
    except OSError as error:
        raise from_os_error(name, error) from None
    except ValueError:  # a NUL in it
        raise ItemError(f"{name}: is not a valid path", "missing") from None
    try:
        _check_regular(name, os.fstat(file.fileno()))
    except ItemError:
        file.close()
        raise
    return file


def with_retries(work: Callable[[], _Result], options: ReadOptions) -> _Result:
    """What `work` returns, trying again after each PassingError as often as `options` says."""
    for tried in range(options.retries):
        try:
            return work()
        except PassingError:
            wait = min(options.longest_wait, options.first_wait * 2**tried)
            time.sleep(wait * random.uniform(0.5, 1.5))  # so that workers that failed together part
    try:
        return work()
    except PassingError as error:
        tries = f" (tried {options.retries + 1} times)" if options.retries else ""
        raise ItemError(f"{error}{tries}", error.kind) from None


def read_url(url: str, options: ReadOptions) -> bytes:
    """One try at a web address. Raises PassingError or ItemError."""
    name = public_address(url)
    if has_password(url):
        problem = "holds a user name or password, which has no place in a report; nothing was sent"
        raise ItemError(f"{name}: {problem}", "permission")
    try:
        data = fetch(url, options.policy)
    except ImageError as error:
        raise _from_fetch(name, error) from None
    if len(data) > options.max_bytes:
        raise too_large(name, options.max_bytes)
    return data


def _from_fetch(name: str, error: ImageError) -> ItemError:
    """What `urls.fetch` says, by class. Only its text tells one from another, which tests hold it to."""
    text = without_secrets(str(error))
    answered = re.search(r": answers (\d{3}) ", text)
    if answered:
        status = int(answered.group(1))
        kind = STATES.get(status, "network")
        return PassingError(text, kind) if status in MAY_PASS else ItemError(text, kind)
    for said, kind in _SAID:
        if said in text:
            return ItemError(text, kind)
    return PassingError(text, "network")


_SAID: tuple[tuple[str, ErrorKind], ...] = (
    ("is not on the public internet", "permission"),
    (" bytes; download it, or give a smaller one", "too-large"),
    ("is a web page, not an image", "no-image"),
    ("is not an http or https address", "network"),
    ("has a certificate that does not hold", "network"),
    ("comes compressed although", "network"),
    ("leads on more than", "network"),
)


def _check_regular(name: str, state: os.stat_result) -> None:
    if stat.S_ISREG(state.st_mode):
        return
    if stat.S_ISDIR(state.st_mode):
        raise ItemError(f"{name}: is a folder; name it as a source of its own", "not-a-file")
    raise ItemError(f"{name}: is a pipe, a device or a socket, which is never opened", "not-a-file")


def _file(name: str, path: str, max_bytes: int) -> bytes:
    for _ in range(2):
        with open_regular(name, path) as file:
            data = _unchanged(name, file, max_bytes)
        if data is not None:
            return data
    raise ItemError(f"{name}: changes while it is read; scan it again when it is complete", "changing")


def _unchanged(name: str, file: BinaryIO, max_bytes: int) -> bytes | None:
    """All of an open file; None if it was being written meanwhile."""
    before = os.fstat(file.fileno())
    if before.st_size > max_bytes:
        raise too_large(name, max_bytes)
    try:
        # A buffer for all that is asked for is made before anything is read. The answer is None of a file of
        # /proc that has nothing at the moment.
        data = file.read(before.st_size + 1) or b""
    except OSError as error:
        raise from_os_error(name, error) from None
    after = os.fstat(file.fileno())
    same = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    return data if same and len(data) == before.st_size else None


def _member(item: Item, max_bytes: int) -> bytes:
    from . import tar_format, zip_format

    name = item.path
    with open_regular(name, item.location) as file:
        try:
            if item.kind == "tar":
                return tar_format.read_member(file, item.offset, item.size, max_bytes, item.member)
            return zip_format.read_member(file, item.offset, item.size, item.member or "", max_bytes)
        except ArchiveError as error:
            raise ItemError(f"{name}: {error}", error.kind) from None
        except OSError as error:
            raise from_os_error(name, error) from None
