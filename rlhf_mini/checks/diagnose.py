"""Check an exercise: call the function, compare its answers, and find out which mistake a wrong one makes.

Each usual mistake is a function that makes it; its docstring is the sentence that the student reads. A student whose
function returns the same as that function, on the live tokens of every case, has made that mistake.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlhf_mini.checks.calling import answer, answers, exception_line, student_answers
from rlhf_mini.checks.compare import Answers, Case, at_live, differs, live_slots, located, same, shapes
from rlhf_mini.checks.exercise import Exercise, Result, Verdict


def check(exercise: Exercise, function: Any) -> Result:
    """Not attempted yet, correct, or what is wrong."""
    try:
        return Result(exercise.name, diagnosis(exercise, function), 2, function)
    except Verdict as verdict:
        return Result(exercise.name, str(verdict), verdict.points, function)


def diagnosis(exercise: Exercise, function: Any) -> str:
    """The line to print where the answer is right. Raises: Verdict, with the line, where it is not."""
    found, expected = student_answers(exercise, function), answers(exercise, exercise.right)
    if agree(exercise, found, expected):
        check_masked_slots(exercise, found, expected)
        check_extremes(exercise, function)
        check_gradient(exercise, function)
        return f"correct. It agrees with the package on all {len(exercise.cases) + len(exercise.extremes)} cases."

    dependence = padding_dependence(exercise, function, found)
    evidence = dependence or difference(exercise, found, expected)
    for mistake in exercise.mistakes:
        if agree(exercise, found, answers(exercise, mistake)):
            raise Verdict(f"{sentence(mistake)}. {evidence}.")
    check_shapes(exercise, found, expected)
    if dependence:
        masked = any("mask" in case for case in exercise.cases.values())
        raise Verdict(f"{'the mask is' if masked else 'the lengths are'} ignored. {dependence}.")
    check_finite(exercise, found, expected)
    right = sum(same(found[name], expected[name], live_slots(case)) for name, case in exercise.cases.items())
    raise Verdict(f"not right yet, nor one of the usual mistakes ({right} of {len(found)} cases are right). "
                  f"{evidence}.")


def agree(exercise: Exercise, found: Answers, expected: Answers) -> bool:
    """Whether the answers of two functions are the same on the live tokens of every case."""
    return all(same(found[name], expected[name], live_slots(case)) for name, case in exercise.cases.items())


def difference(exercise: Exercise, found: Answers, expected: Answers, everywhere: bool = False) -> str:
    """The first live token where the answers differ, in words; with `everywhere`, the first slot."""
    for name, case in exercise.cases.items():
        for part, x, target in zip(exercise.parts, found[name], expected[name], strict=True):
            if x.shape != target.shape:
                return f"{located(name, part)}: found the shape {tuple(x.shape)}, expected {tuple(target.shape)}"
            places = differs(x, target, None if everywhere else live_slots(case)).nonzero()
            if len(places):
                place = tuple(places[0].tolist())
                return f"{located(name, part, place)}: found {x[place].item():.4g}, expected {target[place].item():.4g}"
    raise AssertionError("these answers do not differ")


def sentence(mistake: Callable[..., Any]) -> str:
    """The docstring of a known mistake, on one line."""
    return " ".join((mistake.__doc__ or mistake.__name__).split())


# --- what can be wrong besides the formula ----------------------------------------------------------------------
# All raise a Verdict.


def check_shapes(exercise: Exercise, found: Answers, expected: Answers) -> None:
    """Check that each part has the right shape."""
    for name, case in exercise.cases.items():
        for part, x, target in zip(exercise.parts, found[name], expected[name], strict=True):
            if x.shape != target.shape:
                hint = "" if target.ndim else ", a single number: take a sum or a mean"
                raise Verdict(f"{part or 'your result'} has shape {tuple(x.shape)}, expected is {tuple(target.shape)}"
                              f"{hint} ({name}: {shapes(case)})")


def check_finite(exercise: Exercise, found: Answers, expected: Answers) -> None:
    """Check that no live token holds NaN or infinity, unless that is expected there."""
    for name, case in exercise.cases.items():
        for part, x, target in zip(exercise.parts, found[name], expected[name], strict=True):
            broken = at_live(~x.isfinite() & target.isfinite(), live_slots(case)).nonzero()
            if len(broken):
                place = tuple(broken[0].tolist())
                raise Verdict(f"{located(name, part, place)}: your result is {x[place].item()}, which training "
                              "cannot use; look for a division by 0, the log of 0 or the exp of something large")


def check_masked_slots(exercise: Exercise, found: Answers, expected: Answers) -> None:
    """Check that masked slots hold 0."""
    if not all(same(found[name], expected[name], None) for name in found):
        where = difference(exercise, found, expected, everywhere=True)
        raise Verdict(f"right on every live token, but a masked slot should hold 0. {where}.", 1)


def check_extremes(exercise: Exercise, function: Any) -> None:
    """Check the extreme cases. A mistake is looked for among those that ordinary numbers do not show."""
    extreme = replace(exercise, cases=exercise.extremes)
    found, expected = student_answers(extreme, function), answers(extreme, exercise.right)
    if not agree(extreme, found, expected):
        ordinary = answers(exercise, exercise.right)
        usual = [sentence(mistake) for mistake in exercise.mistakes
                 if agree(exercise, answers(exercise, mistake), ordinary)
                 and agree(extreme, found, answers(extreme, mistake))]
        what = usual[0] if usual else "right on ordinary numbers, but not on extreme ones"
        raise Verdict(f"{what}. {difference(extreme, found, expected)}.", 1)


def check_gradient(exercise: Exercise, function: Any) -> None:
    """Check the gradient with respect to the first argument, where training needs it."""
    for name, case in exercise.cases.items() if exercise.gradient else ():
        try:
            found = slope(function, case)
        except Exception as error:
            raise Verdict("the numbers are right, but when the gradient is computed "
                          f"{exception_line(error, function, case)}", 1) from None
        if not same((found,), (slope(exercise.right, case),), None):
            what = "is wrong" if found.any() else "is lost"
            raise Verdict(f"the numbers are right, but the gradient with respect to {next(iter(case))} {what} "
                          f"({name}): something is detached, or made into a new tensor, on the way", 1)


def slope(function: Any, case: Case) -> Tensor:
    """The gradient of the sum of a function's result with respect to its first argument; 0 if there is none."""
    learnt, *others = (copy.deepcopy(x) for x in case.values())
    total = function(learnt.requires_grad_(), *others).sum()
    if total.requires_grad:
        total.backward()
    return torch.zeros_like(learnt) if learnt.grad is None else learnt.grad


def padding_dependence(exercise: Exercise, function: Any, found: Answers) -> str | None:
    """A padded slot on which the student's answer depends, in words; None if there is none."""
    for name, case in exercise.cases.items():
        mask = live_slots(case)
        for row, t in [] if mask is None else (~mask).nonzero().tolist():
            for argument, x in case.items():
                if argument == "mask" or not isinstance(x, Tensor) or x.ndim < 2:
                    continue
                other = x.clone()
                other[row, t] = 1 - 0.5 * x[row, t] if x.is_floating_point() else (x[row, t] == 0).to(x)
                try:
                    with redirect_stdout(io.StringIO()):
                        again = answer(exercise, function, name, {**case, argument: other})
                except Verdict:
                    continue
                if not same(again, found[name], mask):
                    return f"Slot t = {t} of row {row} is padding, yet changing {argument} there changes your result"
    return None
