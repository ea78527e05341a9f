"""JSON as the standard has it: no NaN, no infinite numbers, no endless nesting; and any text can be written."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def read(content: bytes) -> Any:
    """What JSON in UTF-8 says. Raises: ValueError for anything else."""
    try:
        return json.loads(content.decode(), parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def written(value: Any, indent: int | None = None) -> bytes:
    """The value in JSON, with a newline at the end. Raises: TypeError, ValueError, RecursionError."""
    try:
        return (json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:  # an unpaired surrogate, as in a path that is not UTF-8: an escape can hold it
        return (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits)
