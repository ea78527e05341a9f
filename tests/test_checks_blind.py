"""The exercises on one person's taste: right answers in two styles, each usual mistake by its sentence, a stub."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_mini import checks
from rlhf_mini.checks.blind import BLIND, WIN_RATE
from rlhf_mini.checks.control_gain import CONTROL_GAIN
from rlhf_mini.checks.diagnose import sentence
from rlhf_mini.checks.plain import PlainExercise, agreeing, answers_of

Function = Callable[..., Any]

CHECKS: dict[str, tuple[Function, PlainExercise]] = {
    "control_gain": (checks.check_control_gain, CONTROL_GAIN),
    "blind": (checks.check_blind, BLIND),
    "win_rate": (checks.check_win_rate, WIN_RATE),
}
MISTAKES = [pytest.param(check, mistake, id=f"{name}-{mistake.__name__}")
            for name, (check, exercise) in CHECKS.items() for mistake in exercise.mistakes]


# --- right answers ----------------------------------------------------------------------------------------------


def gain_in_torch(learnt: Tensor, control: Tensor, opening: Tensor) -> tuple[Tensor, Tensor]:
    gains = learnt - control
    above = gains - gains.mean()
    sums = torch.stack([above[opening == one].sum() for one in opening.unique()])
    count = len(sums)
    return gains.mean(), (count / (count - 1) * (sums**2).sum()).sqrt() / len(gains)


def gain_in_loops(learnt: Tensor, control: Tensor, opening: Tensor) -> list[float]:
    gains = [a - b for a, b in zip(learnt.tolist(), control.tolist(), strict=True)]
    mean = sum(gains) / len(gains)
    sums: dict[int, float] = {}
    for gain, one in zip(gains, opening.tolist(), strict=True):
        sums[one] = sums.get(one, 0.0) + gain - mean
    variance = len(sums) / (len(sums) - 1) * sum(x * x for x in sums.values())
    return [mean, math.sqrt(variance) / len(gains)]


def dealt_in_a_loop(endings_a: list[str], endings_b: list[str], coins: list[int]) -> tuple[list[list[str]], list[str]]:
    cards, key = [], []
    for a, b, coin in zip(endings_a, endings_b, coins, strict=True):
        left, right, owner = (b, a, "b") if coin else (a, b, "a")
        cards.append([left, right])
        key.append("same" if a == b else owner)
    return cards, key


def dealt_by_index(endings_a: list[str], endings_b: list[str], coins: list[int]) -> tuple[Any, Any]:
    pairs = list(zip(endings_a, endings_b, strict=True))
    cards = tuple((pair[coin], pair[1 - coin]) for pair, coin in zip(pairs, coins, strict=True))
    return cards, tuple("same" if pair[0] == pair[1] else "ab"[coin] for pair, coin in zip(pairs, coins, strict=True))


def rate_in_torch(choices: Sequence[str]) -> tuple[Tensor, Tensor]:
    points = torch.tensor([{"after": 1.0, "neither": 0.5, "before": 0.0}[choice] for choice in choices])
    return points.mean(), points.std() / math.sqrt(len(points))


def rate_by_counting(choices: list[str]) -> Any:
    wins, ties, n = choices.count("after"), choices.count("neither"), len(choices)
    points = np.array([1.0] * wins + [0.5] * ties + [0.0] * (n - wins - ties))
    return np.array([points.mean(), points.std(ddof=1) / n**0.5])


@pytest.mark.parametrize(("name", "answer"), [
    ("control_gain", gain_in_torch), ("control_gain", gain_in_loops), ("blind", dealt_in_a_loop),
    ("blind", dealt_by_index), ("win_rate", rate_in_torch), ("win_rate", rate_by_counting)])
def test_right_answers_pass_in_different_styles(name: str, answer: Function) -> None:
    check, exercise = CHECKS[name]
    result = check(answer)
    assert result.points == 2, result
    assert str(result) == f"{exercise.name}: correct. It agrees with the package on all {len(exercise.cases)} cases."


def test_the_package_s_own_answers_by_hand() -> None:
    # gains 1 0 1 | 0 0, mean 0.4; the openings lie 0.8 and -0.8 off: sqrt(2 / 1 * 1.28) / 5 = 0.32
    gain, error = CONTROL_GAIN.right(*CONTROL_GAIN.cases["with five pairs of two openings"].values())
    assert (gain, error) == (pytest.approx(0.4), pytest.approx(0.32))
    # 1 0 1: mean 2/3, variance 1/3, error 1/3
    assert WIN_RATE.right(["after", "before", "after"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


# --- wrong answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("check", "mistake"), MISTAKES)
def test_each_usual_mistake_is_named_by_its_sentence(check: Function, mistake: Function) -> None:
    result = check(mistake)
    assert result.points == 0
    assert sentence(mistake) in str(result) and "expected" in str(result) and "\n" not in str(result)
    assert sentence(mistake)[0].islower()


@pytest.mark.parametrize("name", CHECKS)
def test_no_two_mistakes_give_the_same_answers(name: str) -> None:
    exercise = CHECKS[name][1]
    found = {mistake.__name__: answers_of(exercise, mistake) for mistake in exercise.mistakes}
    for one, other in itertools.combinations(found, 2):
        assert not agreeing(found[one], found[other]), (one, other)


@pytest.mark.parametrize("name", CHECKS)
def test_a_stub_is_not_attempted_yet(name: str) -> None:
    check, exercise = CHECKS[name]
    assert str(check(lambda *args: ...)) == f"{exercise.name}: not attempted yet"


@pytest.mark.parametrize("name", CHECKS)
def test_another_wrong_answer_is_wrong_and_what_is_no_function_is_told(name: str) -> None:
    check, _ = CHECKS[name]
    assert "nor one of the usual mistakes" in str(check(lambda *args: (7, 7)))
    assert "give the function itself" in str(check(7))
