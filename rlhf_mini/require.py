"""Check settings when they are made: each of its kind, within its limits, and plain enough to be written to a file."""

from __future__ import annotations

import sys
from numbers import Integral, Real
from typing import Any

from rlhf_mini.errors import InputError, shown

MAX_SEED = 2**32 - 1  # PPO multiplies it by a million and adds iterations; a generator takes seeds below 2**63
MAX_WHOLE = 2**63 - 1  # torch has no larger ones
MAX_NUMBER = sys.float_info.max


def require(config: Any, name: str, expected: str, ok: bool) -> None:
    if not ok:
        raise InputError(f"{type(config).__name__}.{name} is {shown(getattr(config, name))}: give {expected}")


def require_numbers(config: Any, positive: tuple[str, ...] = (), not_negative: tuple[str, ...] = (),
                     whole: tuple[str, ...] = (), whole_or_0: tuple[str, ...] = ()) -> None:
    """Check a config's numbers by name, and its seed; NaN, infinity, texts and truth values satisfy nothing.

    Numbers of NumPy become numbers of Python, which can be written to config.json.
    """
    for name in (*positive, *not_negative):
        value = _plain_number(getattr(config, name))
        change(config, name, value)
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
        if name in positive:
            require(config, name, "a number above 0", number and value > 0)
        else:
            require(config, name, "a number that is 0 or more", number and value >= 0)
    for name in (*whole, *whole_or_0, "seed"):
        value = _plain_whole(getattr(config, name))
        change(config, name, value)
        low, high = int(name in whole), MAX_SEED if name == "seed" else MAX_WHOLE
        expected = f"a whole number from 0 to {high}" if name == "seed" else f"a whole number of at least {low}"
        require(config, name, expected, type(value) is int and low <= value <= high)


def require_flags(config: Any, *names: str) -> None:
    """Check that settings are True or False; a truth value of NumPy becomes one of Python."""
    for name in names:
        change(config, name, python_value(getattr(config, name)))
        require(config, name, "True or False", isinstance(getattr(config, name), bool))


def change(config: Any, name: str, value: Any) -> None:
    """Set a field of a frozen config while it is made."""
    object.__setattr__(config, name, value)


def python_value(value: Any) -> Any:
    """A number, text or truth value of NumPy or PyTorch as one of Python; anything else unchanged."""
    single = type(value).__module__ in ("numpy", "torch") and getattr(value, "ndim", 0) == 0
    return value.item() if single and hasattr(value, "item") else value


def _plain_number(value: Any) -> Any:
    value = python_value(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    try:
        return int(value) if isinstance(value, Integral) else float(value)
    except OverflowError:  # a fraction of huge numbers
        return value


def _plain_whole(value: Any) -> Any:
    value = _plain_number(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value
