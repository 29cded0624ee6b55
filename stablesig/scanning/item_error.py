"""Why an input could not be read, with its class; and what the operating system's errors mean by that."""

from __future__ import annotations

import errno

from stablesig_detector.errors import ImageError

from .item import ErrorKind


class ItemError(ImageError):
    """An input whose bytes cannot be had. `kind` is its class, as it stands in the results."""

    def __init__(self, message: str, kind: ErrorKind) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind

    def __reduce__(self) -> tuple[type[ItemError], tuple[str, ErrorKind]]:
        return ItemError, (str(self), self.kind)


class ArchiveError(Exception):
    """What is wrong with an archive or a member of it, without its name."""

    def __init__(self, message: str, kind: ErrorKind = "archive") -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind


_KNOWN: dict[int, tuple[str, ErrorKind]] = {
    errno.ENOENT: ("is not there, or gone by now; check the path", "missing"),
    errno.ENOTDIR: ("is not there: a part of its path is no folder; check the path", "missing"),
    errno.ENAMETOOLONG: ("has a longer name than the system takes; shorten it", "missing"),
    errno.EACCES: ("may not be read; check its permissions", "permission"),
    errno.EPERM: ("may not be read; check its permissions", "permission"),
    errno.ELOOP: ("is a link that leads in a circle; name the file itself", "not-a-file"),
    errno.EISDIR: ("is a folder; name it as a source of its own", "not-a-file"),
    errno.ENXIO: ("is not a regular file", "not-a-file"),
    errno.EMFILE: ("could not be opened, as too many files are open; raise `ulimit -n`", "memory"),
    errno.ENFILE: ("could not be opened, as too many files are open on this machine", "memory"),
    errno.ENOMEM: ("could not be opened: out of memory", "memory"),
}


def from_os_error(name: str, error: OSError) -> ItemError:
    """What `error` means for the file or folder called `name`."""
    text, kind = _KNOWN.get(
        error.errno or 0, (f"cannot be read: {error.strerror or error}; check the disk", "damaged")
    )
    return ItemError(f"{name}: {text}", kind)
