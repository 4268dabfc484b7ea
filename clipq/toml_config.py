"""Frozen dataclasses from TOML tables and back: the types of the fields say what a file may hold.

Known types of fields: bool, int, float, str, Literal of strings, ``X | None``, ``tuple[X, ...]``, ``tuple[X, Y]``,
``Mapping[str, X]`` and dataclasses.  TOML has no null: None is a key left out.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from clipq.errors import ClipqError, ExperimentError

T = TypeVar("T")
_SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


def from_table(cls: type[T], table: Mapping[str, Any], source: str, key: str = "") -> T:
    """An instance of the dataclass ``cls``; keys that ``table`` lacks take their defaults.

    Args:
        source: the file's name, for errors.
        key: of the table inside the file, dotted; empty for the whole file.

    Raises:
        ExperimentError: an unknown key, a value of the wrong type, or one that ``cls`` refuses.
    """
    hints = _fields(cls)
    for name in table:
        if name not in hints:
            raise _unknown(_join(key, name), [_join(key, known) for known in hints], source)
    values = {name: _convert(hints[name], value, source, _join(key, name)) for name, value in table.items()}
    try:
        return cls(**values)
    except ClipqError as error:
        raise ExperimentError(f"{source}: [{key}]: {error}") from error


def override(cls: type, table: dict[str, Any], key: str, text: str) -> None:
    """Sets the dotted ``key`` of ``table`` to what ``text`` says: TOML, but strings go without quotes, lists of strings
    may be separated by commas, and numbers may be written as in Python (``.9``).

    Raises:
        ExperimentError: an unknown key, or text of the wrong type.
    """
    kind: Any = cls
    parent, rest = table, key
    while dataclasses.is_dataclass(kind):
        name, _, rest = rest.partition(".")
        hints = _fields(kind)
        if name not in hints or (rest and not (dataclasses.is_dataclass(hints[name]) or _is_mapping(hints[name]))):
            raise _unknown(key, list(_keys(cls)), "override")
        kind = hints[name]
        if dataclasses.is_dataclass(kind) or _is_mapping(kind):
            if not rest:
                raise ExperimentError(f"override {key}: a table; expected {key}.<key>=<value>")
            parent = parent.setdefault(name, {})
    if _is_mapping(kind):
        name, kind = rest, get_args(kind)[1]
    value = _parse(kind, text)
    _convert(kind, value, "override", key)
    parent[name] = value


def to_toml(config: Any) -> str:
    """The dataclass as a TOML file, every key in it; ``from_table`` of it gives an equal instance."""
    return "\n".join(_tables(config, "")).strip() + "\n"


def to_table(config: Any) -> dict[str, Any]:
    """The dataclass, which has no tables, as TOML has it."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def differing_keys(one: Any, other: Any, key: str = "") -> Iterator[str]:
    """The dotted keys whose values differ between two instances of a dataclass.

    key: of the instances inside a file, dotted; empty for the whole file.
    """
    for f in dataclasses.fields(one):
        a, b, name = getattr(one, f.name), getattr(other, f.name), _join(key, f.name)
        if dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b):
            yield from differing_keys(a, b, name)
        elif a != b:
            yield name


def _fields(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: _given(hints[f.name]) for f in dataclasses.fields(cls)}


def _given(kind: Any) -> Any:
    """``X`` of ``X | None``."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(arg for arg in get_args(kind) if arg is not type(None))
    return kind


def _keys(cls: Any, prefix: str = "") -> Iterator[str]:
    for name, kind in _fields(cls).items():
        if dataclasses.is_dataclass(kind):
            yield from _keys(kind, _join(prefix, name))
        else:
            yield _join(prefix, name)


def _unknown(key: str, known: list[str], source: str) -> ExperimentError:
    near = difflib.get_close_matches(key, known, n=3) or known
    return ExperimentError(f"{source}: unknown key {key}; nearest known: {', '.join(near)}")


def _convert(kind: Any, value: Any, source: str, key: str) -> Any:
    """``value`` as the field type ``kind``; the expected type, else an error."""
    origin, args = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return from_table(kind, value, source, key)
    if _is_mapping(kind) and isinstance(value, dict):
        return {name: _convert(args[1], item, source, _join(key, name)) for name, item in value.items()}
    if origin is Literal and value in args:
        return value
    if origin is tuple and isinstance(value, list):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) == len(value):
            return tuple(
                _convert(k, v, source, f"{key}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
            )
    if kind is float and type(value) in (int, float):
        return float(value)
    if type(value) is kind and kind in _SCALARS:
        return value
    raise ExperimentError(f"{source}: {key}: expected {_describe(kind)}, got {value!r}")


def _describe(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin is tuple and args[-1] is Ellipsis:
        return f"a list, each item {_describe(args[0])}"
    if origin is tuple:
        return "a list of " + " and ".join(_describe(arg) for arg in args)
    return _SCALARS.get(kind, "a table")


def _parse(kind: Any, text: str) -> Any:
    """The value that an override's text stands for; the text itself where it is none of that type."""
    if kind is str or get_origin(kind) is Literal:
        return text
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        if kind in (int, float):
            return _number(kind, text)
        return (
            [item.strip() for item in text.split(",")] if get_origin(kind) is tuple and str in get_args(kind) else text
        )
    return parsed["value"] if set(parsed) == {"value"} else text


def _number(kind: type[int] | type[float], text: str) -> int | float | str:
    """A finite number as Python reads it; the text itself where it is none."""
    try:
        number = kind(text)
        return number if math.isfinite(number) else text
    except (ValueError, OverflowError):
        return text


def _tables(config: Any, key: str) -> Iterator[str]:
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    inner = {n: v for n, v in values.items() if dataclasses.is_dataclass(v) or isinstance(v, Mapping)}
    plain = {n: v for n, v in values.items() if n not in inner and v is not None}
    if key:
        yield f"\n[{key}]"
    yield from (f"{_key(name)} = {_value(value)}" for name, value in plain.items())
    for name, value in inner.items():
        if isinstance(value, Mapping):
            yield from [f"\n[{_join(key, name)}]"] if value else []
            yield from (f"{_key(n)} = {_value(v)}" for n, v in value.items())
        else:
            yield from _tables(value, _join(key, name))


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
