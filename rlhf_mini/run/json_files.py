"""Write and read one JSON file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from rlhf_mini import disk, files, team
from rlhf_mini.errors import InputError
from rlhf_mini.rankings.reading import opened


@team.once
def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step. Raises: NotSavedError; an old file is then still there."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        files.write(path, text.encode())
    except UnicodeEncodeError:  # an unpaired surrogate, as in a path that is not UTF-8: an escape can hold it
        files.write(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path, default: Any) -> Any:
    """The content of a JSON file, or `default` where there is no file. Raises: InputError where it is damaged."""
    try:
        return strict_json(read_file(path)) if path.exists() else default
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): fix or remove it, or start in another folder") from None


def read_file(path: Path) -> bytes:
    """The content of a file. Raises: OSError, also for a pipe, which would keep the run waiting."""
    with opened(path) as file:
        return disk.read(file)


def strict_json(content: bytes) -> Any:
    """What the JSON says. Raises: ValueError for what is not JSON: NaN and endless nesting, too."""
    try:
        return json.loads(content.decode(), parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits)
