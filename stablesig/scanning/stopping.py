"""How a service is asked to stop: by a signal, which is noted, and answered when it suits."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Protocol


class Stop(Protocol):
    """What `threading.Event` is as well."""

    def is_set(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...


class StopOnSignal:
    """Set by the first SIGTERM or SIGINT. signal: which one that was.

    An Event will not do: a handler that sets it while the same thread is about to wait for it waits for ever.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._near, self._far = os.pipe()
        os.set_blocking(self._far, False)

    def is_set(self) -> bool:
        return self.signal is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is set, for at most so many seconds; whether it is set."""
        if self.signal is None:
            select.select([self._near], [], [], timeout)
        return self.signal is not None

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of the signals. The next one of the same kind does what it does by default."""
        if self.signal is None:
            self.signal = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        with contextlib.suppress(BlockingIOError):
            os.write(self._far, b".")

    def close(self) -> None:
        os.close(self._near)
        os.close(self._far)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopOnSignal]:
    """Note SIGTERM and SIGINT meanwhile, in the main thread. A second one of the same kind is not noted any
    more: it ends the process, or raises KeyboardInterrupt.
    """
    stop = StopOnSignal()
    before = {number: signal.signal(number, stop.note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.close()
