"""Texts and lists as callers give them: what has one clear meaning is taken, all else gets one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Rational, Real
from typing import Any

from rlhf_mini.errors import InputError, shown


def text(name: str, value: Any) -> str:
    """The value, which must be one text. Raises: InputError, one line that begins with `name`."""
    if not isinstance(value, str):
        raise InputError(f"{name} is {shown(value)}: give a text")
    return str.__str__(value)  # a text of NumPy becomes one of Python


def texts(name: str, values: Iterable[str], wanted: str = "a list of texts") -> list[str]:
    """The values as a list of texts: of a list, a tuple, an array, a column of a table, a generator.

    Raises: InputError, one line that begins with `name`, for one text (it is not taken letter by letter), for a
    dict, a set or a whole table, and for an entry that is not a text.
    """
    return [text(f"{name}[{number}]", value) for number, value in enumerate(listed(name, values, wanted))]


def listed(name: str, values: Iterable[Any], wanted: str) -> list[Any]:
    """The values as a list, where they are several, in an order.

    `wanted` says what to give. Raises: InputError, one line that begins with `name`.
    """
    columns = getattr(values, "columns", None)
    if columns is not None:
        raise InputError(f"{name} is a table with the columns {_names(columns)}: give {wanted}, such as one column")
    if isinstance(values, Mapping):
        raise InputError(f"{name} is a dict with the keys {_names(values)}: give {wanted}")
    for kind, words in ((str, "one text, "), (bytes, "bytes, "), (set | frozenset, "a set, which has no order, ")):
        if isinstance(values, kind):
            raise InputError(f"{name} is {words}{shown(values)}: give {wanted}")
    try:
        entries = iter(values)
    except TypeError:
        raise InputError(f"{name} is {shown(values)}: give {wanted}") from None
    return list(entries)


def whole_numbers(values: Iterable[Any]) -> list[Any]:
    """The values as a list, with whole numbers of NumPy, and whole floats as a table has them, as ints."""
    return [_whole_number(value) for value in values]


def _whole_number(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    is_float = isinstance(value, Real) and not isinstance(value, Rational)
    return int(float(value)) if is_float and float(value).is_integer() else value


def _names(columns: Iterable[Any]) -> str:
    names = [shown(name) for name in columns]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
