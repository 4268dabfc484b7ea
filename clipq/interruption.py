"""SIGINT and SIGTERM as a wish to stop, which the work grants where its state can be saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGINT or SIGTERM came since.

    A second SIGINT acts as it did before, so that work that does not stop can be broken off.  Outside the main thread,
    where Python has no signals, nobody asks.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in _SIGNALS}  # None: not Python's
    owner = os.getpid()

    def ask(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a data loader's worker, forked with this handler: its parent ends it
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        asked.set()
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    for number in _SIGNALS:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
