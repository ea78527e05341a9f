"""When a run first gives itself away, in the recorded histories of several seeds.

`assets/seed_histories.json` has for each seed and arm one list for each key of history.jsonl, made by
`assets/record/stages.py` from whole runs: each seed has its own fine-tuning, rankings and reward model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_mini.assets import asset
from rlhf_mini.errors import InputError
from rlhf_mini.teaching.measured import Measured, difference, mean_error

Columns = Mapping[str, Sequence[float]]  # of one arm of one run
Histories = Mapping[int, Mapping[str, Columns]]  # by seed and arm


def seed_histories() -> dict[int, dict[str, dict[str, list[float]]]]:
    """The recorded histories, by seed, arm and key."""
    read = json.loads(asset("seed_histories.json").read_text(encoding="utf-8"))
    return {int(seed): arms for seed, arms in sorted(read.items(), key=lambda one: int(one[0]))}


def first_alarms(histories: Histories, alarms: Mapping[str, Callable[[float], bool]],
                 arm: str = "ppo_no_kl") -> dict[int, dict[str, int | None]]:
    """For each seed, the iteration at which each alarm first goes off in one arm; None where it never does.

    Raises: InputError where the histories lack the quantity of an alarm.
    """
    return {seed: {key: _first(arms[arm], [bool(alarm(value)) for value in _column(arms[arm], key)])
                   for key, alarm in alarms.items()} for seed, arms in histories.items()}


def first_apart(histories: Histories, keys: Sequence[str], errors: float = 4.0,
                episodes: int = 128) -> dict[int, dict[str, int | None]]:
    """For each seed, the iteration from which one can tell the two arms apart by each quantity; None where never.

    Means of three iterations in a row have to differ by so many standard errors of their difference. The score and the
    gold reward of an ending have a standard deviation of about 1, and the KL of about its mean, or 1 if that is less.
    Raises: InputError for any other quantity, whose standard deviation is not known here.
    """
    if unknown := [key for key in keys if key not in ("kl", "score", "gold")]:
        raise InputError(f"the spread of {unknown[0]!r} over endings is not known: choose from kl, score, gold")
    return {seed: {key: _apart(arms["ppo_no_kl"], arms["ppo"], key, errors, episodes) for key in keys}
            for seed, arms in histories.items()}


def late_over_seeds(histories: Histories, arm: str, key: str, form: str = "", last: int = 10) -> Measured:
    """The mean over the last iterations, and the standard error over seeds: what another seed would change."""
    return mean_error(_late(histories, arm, key, last), form=form)


def late_apart(histories: Histories, key: str, last: int = 10) -> Measured:
    """The arm without the KL penalty less the arm with it, late, seed by seed: what both share leaves the error."""
    without, with_kl = (_late(histories, arm, key, last) for arm in ("ppo_no_kl", "ppo"))
    return difference(without, with_kl)


def highest_gold_of_others(histories: Histories, seed: int, arm: str = "ppo_no_kl") -> int:
    """Where gold is highest in an arm of the *other* seeds: the middle of three iterations, the median over seeds.

    The highest gold of a run itself would be chosen for its luck, and so be too high.
    """
    found = [int(np.argmax(_threes(_column(arms[arm], "gold")))) + 2 for other, arms in histories.items()
             if other != seed]
    return int(np.median(found))


def _late(histories: Histories, arm: str, key: str, last: int) -> list[float]:
    return [float(np.mean(_column(arms[arm], key)[-last:])) for arms in histories.values()]


def in_order(found: Mapping[str, Any]) -> str:
    """The alarms of one seed, first to last, with their iterations; those that never went off last."""
    ordered = sorted(found.items(), key=lambda one: math.inf if one[1] is None else one[1])
    return ", ".join(f"{key} {'never' if when is None else when}" for key, when in ordered)


def _apart(one: Columns, other: Columns, key: str, errors: float, episodes: int) -> int | None:
    first, second = (_threes(_column(columns, key)) for columns in (one, other))
    count = min(len(first), len(second))
    first, second = first[:count], second[:count]
    variance = sum(np.maximum(1, x) ** 2 if key == "kl" else np.ones(count) for x in (first, second))
    found = np.abs(first - second) > errors * np.sqrt(variance / (3 * episodes))
    return _first({"iteration": one["iteration"][2:]}, found.tolist())


def _threes(values: Sequence[float]) -> NDArray[np.float64]:
    """Means of three numbers in a row, ending at each from the third on."""
    return np.convolve(np.asarray(values, float), np.ones(3) / 3, "valid")


def _first(columns: Columns, flags: Sequence[bool]) -> int | None:
    return next((int(i) for i, flag in zip(columns["iteration"], flags, strict=False) if flag), None)


def _column(columns: Columns, key: str) -> Sequence[float]:
    if key not in columns:
        raise InputError(f"the recorded histories have no {key!r}: choose from {', '.join(columns)}")
    return [math.nan if value is None else value for value in columns[key]]
