"""A faster way of doing what is done already: taken where it can be had and proves that its results are the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from clipq.patience import patience

T = TypeVar("T")
_COMPILING = "clipq compiles kernels for this machine; the compiler keeps them for the next time"


def unless_it_fails(proved: Callable[[], T | None], without: str) -> T | None:
    """What is proved to give the same results, or nothing: silently where a package is missing, else with a warning.

    without: what the warning says is done instead.
    """
    try:
        with patience(_COMPILING):
            found = proved()
        reason = None if found else "they give other results"
    except ImportError:
        return None
    except Exception as error:  # whatever a compiler or a driver may raise
        found, reason = None, str(error)
    if reason:
        warnings.warn(f"{without}: {reason}", stacklevel=3)
    return found
