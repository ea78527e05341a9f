"""Alarms over the recorded histories of several seeds: when each first goes off, on made-up and on recorded ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stages import KEPT, thinned

from rlhf_mini.errors import InputError
from rlhf_mini.teaching.alarms import (
    first_alarms,
    first_apart,
    highest_gold_of_others,
    in_order,
    late_apart,
    late_over_seeds,
    seed_histories,
)

RUN = Path(__file__).parent.parent / "assets" / "run-3" / "history.jsonl"


def arms(free: dict[str, list[float]], held: dict[str, list[float]]) -> dict[str, dict[str, list[float]]]:
    count = len(next(iter(free.values())))
    return {arm: {"iteration": [float(i + 1) for i in range(count)], **columns}
            for arm, columns in (("ppo", held), ("ppo_no_kl", free))}


def test_an_alarm_has_the_first_iteration_of_each_seed_or_none() -> None:
    histories = {4: arms({"kl": [0.0, 6.0, 1.0, 9.0]}, {"kl": [0.0] * 4}),
                 3: arms({"kl": [0.0] * 4}, {"kl": [7.0] * 4})}
    alarms = {"kl": lambda x: x > 5}
    assert first_alarms(histories, alarms) == {4: {"kl": 2}, 3: {"kl": None}}
    assert first_alarms(histories, alarms, arm="ppo") == {4: {"kl": None}, 3: {"kl": 1}}
    with pytest.raises(InputError, match="no 'gold': choose from iteration, kl"):
        first_alarms(histories, {"gold": alarms["kl"]})


def test_arms_are_apart_where_means_of_three_differ_by_more_than_their_errors() -> None:
    held, step = [0.0] * 6, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]  # four errors are 4 √(2 / 384) = 0.29, a third of the step
    histories = {3: arms({"gold": step, "kl": [10 * x for x in step], "score": [0.2] * 6},
                         {"gold": held, "kl": held, "score": held})}
    assert first_apart(histories, ("kl", "gold", "score")) == {3: {"kl": 4, "gold": 4, "score": None}}
    assert first_apart(histories, ("gold",), errors=7)[3]["gold"] == 5
    with pytest.raises(InputError, match="the spread of 'length' over endings is not known: choose from"):
        first_apart(histories, ("kl", "length"))


def test_the_late_mean_has_the_standard_error_over_seeds() -> None:
    histories = {seed: arms({"kl": [99.0] * 3 + [float(seed)] * 2}, {}) for seed in (1, 2, 3)}
    found = late_over_seeds(histories, "ppo_no_kl", "kl", last=2)
    assert found.value == pytest.approx(2) and found.error == pytest.approx(3**-0.5)


def test_arms_of_one_seed_are_compared_with_each_other() -> None:
    histories = {seed: arms({"score": [99.0, seed + 1.0]}, {"score": [99.0, float(seed)]}) for seed in (1, 2, 3)}
    found = late_apart(histories, "score", last=1)
    assert (found.value, found.error) == pytest.approx((1, 0)) and found.form == "+"


def test_where_gold_is_highest_is_taken_from_the_other_seeds() -> None:
    peaks = {3: 7, 4: 4, 5: 3, 6: 4}
    histories = {seed: arms({"gold": [-abs(i + 1.0 - peak) for i in range(9)]}, {}) for seed, peak in peaks.items()}
    assert highest_gold_of_others(histories, 3) == 4 and highest_gold_of_others(histories, 5) == 4


def test_alarms_are_told_in_the_order_in_which_they_go_off() -> None:
    assert in_order({"kl": None, "gold": 14, "score": 2}) == "score 2, gold 14, kl never"


def test_one_seed_is_recorded_as_columns_of_its_history() -> None:
    lines = [json.loads(line) for line in RUN.read_text(encoding="utf-8").splitlines()]
    kept: Any = thinned(lines)
    assert list(kept) == ["ppo", "ppo_no_kl"] and list(kept["ppo"]) == list(KEPT)
    assert kept["ppo_no_kl"]["score"] == [line["score"] for line in lines if line["arm"] == "ppo_no_kl"]
    assert first_alarms({3: kept}, {"kl": lambda x: x > 5})[3]["kl"] == next(
        line["iteration"] for line in lines if line["arm"] == "ppo_no_kl" and line["kl"] > 5)


def test_the_recorded_histories_have_what_notebooks_read() -> None:
    histories = seed_histories()
    assert list(histories) == sorted(histories) and 3 in histories
    for recorded in histories.values():
        for columns in recorded.values():
            assert set(KEPT) <= set(columns) and len({len(column) for column in columns.values()}) == 1
