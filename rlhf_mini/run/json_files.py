"""Write and read one JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlhf_mini import team
from rlhf_mini.errors import InputError


@team.once
def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step: a reader finds the old file or the new one, and nothing in between."""
    scratch = path.with_name(path.name + ".tmp")
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    scratch.write_text(text + "\n", encoding="utf-8")
    scratch.replace(path)


def read_json(path: Path, default: Any) -> Any:
    """The content of a JSON file, or `default` where there is no file. Raises: InputError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): fix or remove it, or start in another folder") from None
