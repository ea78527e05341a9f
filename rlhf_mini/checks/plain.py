"""Check an exercise whose answer is no tensor: lists of pairs, of labels, of words, or one number among texts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlhf_mini.checks.calling import exception_line, unfilled
from rlhf_mini.checks.compare import Case, kind, located
from rlhf_mini.checks.diagnose import sentence
from rlhf_mini.checks.exercise import Result, Verdict

SHOWN = 110  # characters of an answer


@dataclass(frozen=True)
class PlainExercise:
    """The right function, the cases to try the student's function on, and the usual mistakes.

    Answers are equal where their lists have the same members in the same order; tuples and tensors count as lists.
    With `any_order`, the order of the outer list does not count. None may be the right answer to some of the cases.
    """

    name: str
    right: Callable[..., Any]
    mistakes: Sequence[Callable[..., Any]]
    cases: Mapping[str, Case]
    any_order: bool = False


def check_plain(exercise: PlainExercise, function: Any) -> Result:
    """Not attempted yet, correct, or what is wrong."""
    try:
        found = {name: arranged(exercise, plain_answer(function, case)) for name, case in exercise.cases.items()}
        if all(map(unfilled, found.values())):
            raise Verdict("not attempted yet")
        expected = answers_of(exercise, exercise.right)
        if not agreeing(found, expected):
            raise Verdict(wrong(exercise, found, expected))
        return Result(exercise.name, f"correct. It agrees with the package on all {len(found)} cases.", 2, function)
    except Verdict as verdict:
        return Result(exercise.name, str(verdict), verdict.points, function)


def plain_answer(function: Any, case: Case) -> Any:
    """What the student's function returns, as lists. Raises: Verdict where it gives no answer."""
    if not callable(function):
        raise Verdict(f"this is {kind(function)}: give the function itself, without calling it")
    given = copy.deepcopy(dict(case))
    try:
        result = function(*given.values())
    except NotImplementedError:
        raise Verdict("not attempted yet") from None
    except Exception as error:
        raise Verdict(exception_line(error, function, case)) from None
    for name in case:
        if not equal(as_lists(given[name]), as_lists(case[name])):
            raise Verdict(f"your function changes its argument {name} in place: work on a copy")
    return None if unfilled(result) and result != () else as_lists(result)  # an empty tuple is an answer


def arranged(exercise: PlainExercise, answer: Any) -> Any:
    """The answer as it is compared: sorted, where any order is right."""
    if not exercise.any_order or not isinstance(answer, list):
        return answer
    try:
        return sorted(answer)
    except TypeError:  # of several types, which no right answer is
        return answer


def wrong(exercise: PlainExercise, found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Which usual mistake it is, if it is one, and the first case that shows it."""
    name = next(name for name in found if not equal(found[name], expected[name]))
    evidence = f"{located(name)}: found {short(found[name])}, expected {short(expected[name])}"
    for mistake in exercise.mistakes:
        if agreeing(found, answers_of(exercise, mistake)):
            return f"{sentence(mistake)}. {evidence}."
    right = sum(equal(found[name], expected[name]) for name in found)
    return f"not right yet, nor one of the usual mistakes ({right} of {len(found)} cases are right). {evidence}."


def answers_of(exercise: PlainExercise, function: Callable[..., Any]) -> dict[str, Any]:
    """What the right function, or a function that makes a mistake, returns on each case."""
    return {name: arranged(exercise, as_lists(function(*copy.deepcopy(dict(case)).values())))
            for name, case in exercise.cases.items()}


def agreeing(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    return all(equal(found[name], expected[name]) for name in expected)


def as_lists(x: Any) -> Any:
    """Tensors, arrays, tuples and lists as lists of plain things."""
    if isinstance(x, torch.Tensor):
        return x.detach().cpu().tolist()
    if hasattr(x, "tolist"):
        return x.tolist()
    if isinstance(x, dict):
        return {key: as_lists(value) for key, value in x.items()}
    return [as_lists(one) for one in x] if isinstance(x, list | tuple) else x


def equal(a: Any, b: Any) -> bool:
    """Whether two answers are the same; numbers to one part in ten thousand."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, float | int) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6)
    return type(a) is type(b) and bool(a == b)


def short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"
