"""Whoever waits long is told what for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

#: Who waits longer than this, in seconds, is told why.
SECONDS = 3.0


@contextmanager
def patience(message: str) -> Iterator[None]:
    """Says what goes on, once, while this takes long."""
    timer = Timer(SECONDS, logging.getLogger("clipq").warning, ["%s", message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
