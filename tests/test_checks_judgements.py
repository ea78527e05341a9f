"""The exercises of notebook 03, and what plain answers may be."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest

from rlhf_mini import checks, rankings
from rlhf_mini.checks.judgements import first_wins
from rlhf_mini.checks.plain import PlainExercise, check_plain
from rlhf_mini.teaching.judging import pairs_of


def test_a_division_by_no_pairs_is_named_with_its_line() -> None:
    def divided(a: list[float], b: list[float]) -> float:
        products = [(a[i] - a[j]) * (b[i] - b[j]) for i in range(len(a)) for j in range(i)]
        return sum(p > 0 for p in products) / sum(p != 0 for p in products)
    said = str(checks.check_agreement(divided))
    assert "ZeroDivisionError" in said and "ranks_b = [1, 1, 1]" in said


def test_none_is_an_answer_to_one_case_and_wrong_for_another() -> None:
    exercise = PlainExercise("half", lambda n: n / 2 if n else None, (), {"four": {"n": 4}, "zero": {"n": 0}})
    assert check_plain(exercise, lambda n: n / 2 if n else None).points == 2
    assert "Zero: found 0.0, expected None" in str(check_plain(exercise, lambda n: n / 2))
    assert "Zero: found nan, expected None" in str(check_plain(exercise, lambda n: n / 2 if n else math.nan))
    assert "Four: found None, expected 2" in str(check_plain(exercise, lambda n: None if n else 3))


def test_any_order_is_right_only_where_the_exercise_says_so() -> None:
    for any_order in (True, False):
        exercise = PlainExercise("letters", list, (), {"a word": {"word": "abc"}}, any_order)
        assert (check_plain(exercise, lambda word: list(word)[::-1]).points == 2) == any_order
        assert check_plain(exercise, lambda word: ["c", 7, None]).points == 0  # cannot be sorted


def test_the_right_functions_are_what_the_sums_say() -> None:
    assert pairs_of([[2, 3], [1], [0]]) == [(2, 1), (3, 1), (2, 0), (3, 0), (1, 0)]
    chance = random.Random(0)
    orders = [chance.sample(range(4), 4) for _ in range(20)]
    answers = [rankings.ranking_from_ratings([chance.randint(1, 3) for _ in range(4)]) for _ in range(20)]
    exact = sum(Fraction(order[0] in best, len(best)) for order, (best, *_) in zip(orders, answers, strict=True)) / 20
    assert first_wins(orders, answers) == pytest.approx(float(exact))
