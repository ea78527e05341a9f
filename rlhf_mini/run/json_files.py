"""Write and read one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf_mini import disk, files, strict_json, team
from rlhf_mini.errors import InputError
from rlhf_mini.rankings.reading import opened_file


@team.once
def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step. Raises: NotSavedError; an old file is then still there."""
    files.write(path, strict_json.written(value, indent=1))


def read_json(path: Path, default: Any) -> Any:
    """The content of a JSON file, or `default` where there is no file. Raises: InputError where it is damaged."""
    try:
        return strict_json.read(read_file(path)) if path.exists() else default
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): fix or remove it, or start in another folder") from None


def read_file(path: Path) -> bytes:
    """The content of a file. Raises: OSError, also for a pipe, which would keep the run waiting."""
    with opened_file(path) as file:
        return disk.read(file)
