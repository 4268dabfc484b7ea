"""What options must be before their ranges are looked at."""

from __future__ import annotations

from dataclasses import fields
from math import isfinite
from numbers import Integral, Real
from typing import Any

from clipq.errors import SettingError


def check_types(options: Any, what: str) -> None:
    """Looks at the fields of a dataclass that are booleans, whole numbers (NumPy's, too) and finite numbers.

    what: what errors call an option.

    Raises:
        SettingError: names the field.
    """
    for field in fields(options):
        value = getattr(options, field.name)
        if (expected := _misfit(str(field.type), value)) is not None:
            raise SettingError(f"{what} {field.name}: expected {expected}, got {value!r}")


def _misfit(kind: Any, value: Any) -> str | None:
    """What a field of a type (its name) expects, where the value is none such; NumPy's numbers are."""
    if kind == "bool":
        return None if isinstance(value, bool) else "True or False"
    if kind == "int":
        return None if isinstance(value, Integral) else "a whole number"
    if kind == "float":
        return None if isinstance(value, Real) and isfinite(value) else "a finite number"
    return None
