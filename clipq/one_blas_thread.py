"""Keeps BLAS to one thread, where matrices are small or results must not depend on the number of cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]


@cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """On small matrices several threads only wait for each other: seconds, where other processes run.

    Nor may the order of a sum, and with it a choice that follows from it, depend on the number of cores.
    """
    with _thread_pools().limit(limits=1, user_api="blas"):
        yield
