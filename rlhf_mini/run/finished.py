"""Which folders hold a finished run, which an unfinished one, and which is the next."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf_mini.errors import InputError
from rlhf_mini.run.json_files import read_json
from rlhf_mini.tables import COLUMNS, MODELS


def next_folder(parent: Path = Path("runs")) -> Path:
    """The next folder in the row parent/001, parent/002, ..."""
    taken = [int(path.name) for path in parent.glob("*") if path.name.isdecimal()]
    return parent / f"{max(taken, default=0) + 1:03d}"


def latest_unfinished(parent: Path = Path("runs")) -> Path:
    """The latest unfinished run in `parent`. Raises: InputError if there is none."""
    started = [path for path in parent.glob("*/config.json") if not _is_finished(path.parent)]
    if not started:
        raise InputError(f"there is no unfinished run in {parent}: give its folder with --out, or leave out --resume")
    return max(started, key=lambda path: path.stat().st_mtime).parent


def finished_metrics(folder: Path) -> dict[str, Any] | None:
    """The metrics of the finished run in a folder; None where there is none, or where metrics.json is damaged.

    Raises: InputError where they are whole, but lack what this version of rlhf_mini measures.
    """
    try:
        metrics = read_json(folder / "metrics.json", None)
        version = metrics["versions"]["rlhf_mini"]
        parts: list[tuple[Any, Collection[str]]] = [(metrics.get(model, {}), COLUMNS) for model in MODELS]
        parts += [(metrics["reward_model"], ("accuracy", "accuracy_ceiling")), (metrics["seconds"], ("total",))]
        missing = [key for part, keys in parts for key in keys if key not in part]
        whole = all(_is_number(part.get(key)) for part, keys in parts for key in keys)
    except (InputError, TypeError, KeyError, AttributeError):
        return None
    if whole and missing:
        raise InputError(f"{folder / 'metrics.json'} lacks {missing[0]}, as it is of another version of rlhf_mini "
                         f"({version}): choose another folder, or remove that file to measure again")
    return metrics if whole else None


def _is_finished(folder: Path) -> bool:
    with suppress(InputError):  # a finished run of another version
        return finished_metrics(folder) is not None
    return True


def _is_number(value: Any) -> bool:
    return value is None or type(value) in (int, float)
