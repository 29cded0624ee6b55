"""Ctrl-C ends a scan, but not in the middle of what must be whole."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from stablesig.scanning.interruptions import Interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_at_once_and_while_held_only_at_the_end(number: int) -> None:
    steps = []
    before = signal.getsignal(number)
    with Interruptions() as interruptions:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)

        def work() -> None:
            with interruptions.held():
                os.kill(os.getpid(), number)
                steps.append("whole")

        with pytest.raises(KeyboardInterrupt):
            work()
        with interruptions.held():
            steps.append("again")
    assert steps == ["whole", "again"]
    assert signal.getsignal(number) is before


def test_an_error_of_what_was_held_is_not_hidden() -> None:
    with Interruptions() as interruptions, pytest.raises(ZeroDivisionError), interruptions.held():
        raise ZeroDivisionError


def test_another_thread_leaves_the_handlers_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def enter() -> None:
        with Interruptions() as interruptions, interruptions.held():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]
