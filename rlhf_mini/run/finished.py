"""Which folders hold a finished run, which an unfinished one, and which is the next."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlhf_mini.errors import InputError, shown
from rlhf_mini.run.json_files import read_json
from rlhf_mini.tables import COLUMNS, MODELS

OF_TALES = ("gold_mean", "gold_std", "grammatical", "coherent")  # figures that are null where the text is not tales


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

    Raises: InputError where another version of rlhf_mini wrote them, and they lack what this one measures.
    """
    try:
        metrics = read_json(folder / "metrics.json", None)
        written_by = metrics["versions"].get("rlhf_mini")
    except (InputError, TypeError, KeyError, AttributeError):
        return None
    with suppress(TypeError, KeyError, AttributeError):
        if _is_whole(metrics):
            return dict(metrics)
    if written_by != own_version():
        raise InputError(f"{folder / 'metrics.json'} is of another version of rlhf_mini, {shown(written_by)}: choose "
                         "another folder, or remove that file to measure again")
    return None


def _is_whole(metrics: Any) -> bool:
    """Whether there is everything in metrics that is shown or compared. Raises: TypeError, KeyError, AttributeError."""
    models = [metrics[name] for name in MODELS]
    of_tales = [model[key] for model in models for key in OF_TALES]
    numbers = [model[key] for model in models for key in COLUMNS if key not in OF_TALES]
    seconds, reward_model = metrics["seconds"], metrics["reward_model"]
    accuracies = [reward_model[key] for key in ("accuracy", "accuracy_ceiling")]
    return (all(map(_is_number, [*numbers, *seconds.values(), seconds["total"]]))
            and (all(map(_is_number, of_tales)) or of_tales == [None] * len(of_tales))
            and all(value is None or _is_number(value) for value in accuracies)
            and isinstance(metrics.get("reasons", {}), dict))


def own_version() -> str:
    """The version of rlhf_mini that is installed."""
    try:
        return version("rlhf_mini")
    except PackageNotFoundError:
        return "source tree"


def _is_finished(folder: Path) -> bool:
    with suppress(InputError):  # a finished run of another version
        return finished_metrics(folder) is not None
    return True


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
