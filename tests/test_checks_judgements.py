"""The checks of notebook 03: right answers in several styles pass, and usual mistakes are called by name."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
from test_checks import dots, ellipsis, passed, unwritten

from rlhf_mini import checks, rankings
from rlhf_mini.checks.diagnose import sentence
from rlhf_mini.checks.judgements import AGREEMENT, FIRST_WINS, PAIRS, TIE_GROUPS, first_wins
from rlhf_mini.checks.plain import PlainExercise, agreeing, answers_of, check_plain
from rlhf_mini.teaching.judging import pairs_of

Function = Callable[..., Any]
CHECKS: dict[str, tuple[Function, PlainExercise]] = {
    "tie_groups": (checks.check_tie_groups, TIE_GROUPS), "pairs": (checks.check_pairs, PAIRS),
    "agreement": (checks.check_agreement, AGREEMENT), "first_wins": (checks.check_first_wins, FIRST_WINS)}
MISTAKES = [pytest.param(check, exercise, mistake, id=f"{name}-{mistake.__name__}")
            for name, (check, exercise) in CHECKS.items() for mistake in exercise.mistakes]


def groups_in_a_dict(ratings: list[int]) -> list[list[int]]:
    by_rating: dict[int, list[int]] = defaultdict(list)
    for i, rating in enumerate(ratings):
        by_rating[rating].append(i)
    return [by_rating[rating] for rating in sorted(by_rating)][::-1]


def groups_of_sorted(ratings: list[int]) -> list[tuple[int, ...]]:
    order = sorted(range(len(ratings)), key=lambda i: -ratings[i])
    return [tuple(group) for _, group in itertools.groupby(order, key=lambda i: ratings[i])]


def pairs_by_level(ranking: list[list[int]]) -> list[list[int]]:
    level = {i: depth for depth, group in enumerate(ranking) for i in group}
    return [[i, j] for i in sorted(level) for j in sorted(level) if level[i] < level[j]]


def pairs_of_combinations(ranking: list[list[int]]) -> list[tuple[int, int]]:
    return [pair for above, below in itertools.combinations(ranking, 2) for pair in itertools.product(above, below)]


def pairs_from_below(ranking: list[list[int]]) -> Any:
    return tuple(reversed(pairs_of_combinations(ranking)))


def agreement_of_signs(a: Sequence[float], b: Sequence[float]) -> float | None:
    both = [(a[i] < a[j], b[i] < b[j]) for i, j in itertools.combinations(range(len(a)), 2)
            if a[i] != a[j] and b[i] != b[j]]
    return sum(x == y for x, y in both) / len(both) if both else None


def agreement_both_ways(a: Sequence[float], b: Sequence[float]) -> float | None:
    alike = ordered = 0
    for i in range(len(a)):
        for j in range(len(a)):
            product = (a[i] - a[j]) * (b[i] - b[j])
            alike += product > 0
            ordered += product != 0
    if ordered == 0:
        return None
    return alike / ordered


def wins_in_a_loop(shown_orders: list[list[int]], rankings: list[list[list[int]]]) -> float:
    wins = 0.0
    for i in range(len(rankings)):
        if shown_orders[i][0] in rankings[i][0]:
            wins += 1 / len(rankings[i][0])
    return wins / len(rankings)


def wins_in_one_line(shown_orders: list[list[int]], rankings: list[list[list[int]]]) -> float:
    return sum(best.count(order[0]) / len(best) for order, (best, *_) in zip(shown_orders, rankings)) / len(rankings)  # noqa: B905


@pytest.mark.parametrize(("name", "function"), [
    ("tie_groups", rankings.ranking_from_ratings), ("tie_groups", groups_in_a_dict), ("tie_groups", groups_of_sorted),
    ("pairs", pairs_of), ("pairs", pairs_by_level), ("pairs", pairs_of_combinations), ("pairs", pairs_from_below),
    ("agreement", agreement_of_signs), ("agreement", agreement_both_ways),
    ("first_wins", first_wins), ("first_wins", wins_in_a_loop), ("first_wins", wins_in_one_line)])
def test_right_answers_are_accepted(name: str, function: Function) -> None:
    check, exercise = CHECKS[name]
    count = len(exercise.cases)
    assert str(check(function)) == f"{exercise.name}: correct. It agrees with the package on all {count} cases."


@pytest.mark.parametrize(("check", "exercise", "mistake"), MISTAKES)
def test_usual_mistakes_are_called_by_name(check: Function, exercise: PlainExercise, mistake: Function) -> None:
    said = str(check(mistake))
    assert said.startswith(f"{exercise.name}: {sentence(mistake)}. ") and "found" in said and "expected" in said


@pytest.mark.parametrize("name", CHECKS)
def test_no_two_mistakes_look_alike(name: str) -> None:
    exercise = CHECKS[name][1]
    given = {function.__name__: answers_of(exercise, function) for function in (exercise.right, *exercise.mistakes)}
    assert len({sentence(mistake) for mistake in exercise.mistakes}) == len(exercise.mistakes) >= 2
    assert [pair for pair in itertools.combinations(given, 2) if agreeing(*(given[x] for x in pair))] == []


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("stub", [dots, passed, unwritten, ellipsis])
def test_unfilled_stubs(name: str, stub: Function) -> None:
    check, exercise = CHECKS[name]
    assert str(check(stub)) == f"{exercise.name}: not attempted yet"


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
