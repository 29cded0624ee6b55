"""Opening a list or an archive, wherever it is, as a file that is read from its start or at any place."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

from .addresses import WEB_SCHEMES, file_path, public_address, scheme_of
from .item import readable
from .item_error import ItemError
from .reading import ReadOptions, open_regular, read_url, with_retries

_BUFFER = 1 << 16


def is_local(location: str) -> bool:
    """Whether `location` is on this machine: a path or a file:// address."""
    return scheme_of(location) in (None, "file")


def local_path(address: str) -> str:
    """The path that a file:// address names. Raises ItemError."""
    try:
        path = file_path(address)
    except ValueError:
        path = None
    if not path:
        raise ItemError(f"{public_address(address)}: names no file on this machine; give its path", "missing")
    return path


def open_source(location: str, options: ReadOptions) -> BinaryIO:
    """The file at a path or an address. What is on the web is read whole, within the policy of `options`.

    Raises ItemError; so do the methods of what is returned, or OSError.
    """
    if is_local(location):
        path = local_path(location) if scheme_of(location) else location
        return open_regular(readable(location)[0], path)
    if scheme_of(location) in WEB_SCHEMES:
        return io.BytesIO(with_retries(lambda: read_url(location, options), options))
    return cast(BinaryIO, io.BufferedReader(_RemoteFile(location, options), _BUFFER))


class PositionedFile(io.RawIOBase):
    """What is read at a position that it keeps itself: `read_next` gives up to so many bytes from there."""

    _position = 0

    def read_next(self, size: int) -> bytes:
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self.read_next(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _RemoteFile(PositionedFile):
    """A file in a store that tries again where the network fails, and raises ItemError in the end."""

    def __init__(self, location: str, options: ReadOptions) -> None:
        from .remote import open_remote

        self._location, self._options = location, options
        self._file = with_retries(lambda: open_remote(location), options)
        self.size = int(getattr(self._file, "size", None) or 0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self.size)[whence]
        return self._position

    def read_next(self, size: int) -> bytes:
        return with_retries(lambda: self._read(size), self._options)

    def _read(self, size: int) -> bytes:
        from .remote import translated

        try:
            self._file.seek(self._position)
            return self._file.read(size)
        except Exception as error:
            raise translated(self._location, error) from None

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()
