"""A lock on a folder that ends with the process that took it, however that ends."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

_TRIES = 4


class FolderLock:
    """Held until `release`, or until this process ends.

    It hangs on an open file, which forked workers would share and outlive us with; they close theirs.
    """

    _held: set[int] = set()  # noqa: RUF012  descriptors, of this process
    _forks = False

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> FolderLock | None:
        """The lock, None if another has it. Raises OSError if the file cannot be opened."""
        try:
            import fcntl
        except ImportError:  # Windows
            return cls(-1)
        if not cls._forks:
            os.register_at_fork(after_in_child=cls._close_all)
            cls._forks = True
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        for left in range(_TRIES, 0, -1):  # a report that looks has it for a moment
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    break  # no locks on this file system: two scanners would do some images twice
                if left == 1:
                    os.close(descriptor)
                    return None
                time.sleep(0.05)
        cls._held.add(descriptor)
        return cls(descriptor)

    def release(self) -> None:
        if self._descriptor in self._held:
            self._held.discard(self._descriptor)
            os.close(self._descriptor)
        self._descriptor = -1

    @classmethod
    def _close_all(cls) -> None:
        while cls._held:
            with contextlib.suppress(OSError):
                os.close(cls._held.pop())
