"""How an exercise is checked: call the function, compare, and where it is wrong find out which mistake it makes.

A usual mistake is a function that makes it; its docstring is the sentence the student reads. Whoever returns what
that function returns, on the live tokens of every case, has made that mistake.
"""

from __future__ import annotations

import copy
import io
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf_mini.checks.compare import (
    Answer,
    Answers,
    Case,
    at_live,
    differs,
    doubles,
    kind,
    live_slots,
    located,
    same,
    shapes,
)

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()  # (B, T), for cases with padding
FULL = torch.ones(2, 4).bool()  # and for cases without


@dataclass(frozen=True)
class Exercise:
    """What a function should do, the cases to try it on, and how it usually goes wrong."""

    name: str
    right: Callable[..., Any]
    mistakes: Sequence[Callable[..., Any]]
    cases: Mapping[str, Case]
    extremes: Mapping[str, Case] = field(default_factory=dict)  # tried last, on who is right on the cases
    parts: Sequence[str] = ("",)  # names of what is returned, where it is more than one thing
    gradient: bool = False  # whether training needs the gradient by the first argument


class Verdict(Exception):
    """The line to print, raised where nothing more can be found out."""


def check(exercise: Exercise, function: Any) -> None:
    """Print one line: not attempted yet, correct, or what is wrong."""
    try:
        line = diagnosis(exercise, function)
    except Verdict as verdict:
        line = str(verdict)
    print(f"{exercise.name}: {line}")


def diagnosis(exercise: Exercise, function: Any) -> str:
    """The line to print. Raises: Verdict, a line as well, where the function gives no usable answer."""
    found, wanted = tried(exercise, function), answers(exercise, exercise.right)
    if agree(exercise, found, wanted):
        check_masked_slots(exercise, found, wanted)
        check_extremes(exercise, function)
        check_gradient(exercise, function)
        return f"correct. It agrees with the package on all {len(exercise.cases) + len(exercise.extremes)} cases."

    leaking = leak(exercise, function, found)
    evidence = leaking or difference(exercise, found, wanted)
    for mistake in exercise.mistakes:
        if agree(exercise, found, answers(exercise, mistake)):
            return f"{sentence(mistake)}. {evidence}."
    check_shapes(exercise, found, wanted)
    if leaking:
        masked = any("mask" in case for case in exercise.cases.values())
        return f"{'the mask is' if masked else 'the lengths are'} ignored. {leaking}."
    check_finite(exercise, found)
    right = sum(same(found[name], wanted[name], live_slots(case)) for name, case in exercise.cases.items())
    return f"not right yet, nor one of the usual mistakes ({right} of {len(found)} cases are right). {evidence}."


def agree(exercise: Exercise, found: Answers, wanted: Answers) -> bool:
    """Whether two functions' answers are the same on the live tokens of every case."""
    return all(same(found[name], wanted[name], live_slots(case)) for name, case in exercise.cases.items())


def difference(exercise: Exercise, found: Answers, wanted: Answers, everywhere: bool = False) -> str:
    """The first place where the answers differ, in words; of the live tokens, or `everywhere`."""
    for name, case in exercise.cases.items():
        for part, x, target in zip(exercise.parts, found[name], wanted[name], strict=True):
            if x.shape != target.shape:
                return f"{located(name, part)}: found the shape {tuple(x.shape)}, wanted {tuple(target.shape)}"
            places = differs(x, target, None if everywhere else live_slots(case)).nonzero()
            if len(places):
                place = tuple(places[0].tolist())
                return f"{located(name, part, place)}: found {x[place].item():.4g}, wanted {target[place].item():.4g}"
    raise AssertionError("these answers do not differ")


def sentence(mistake: Callable[..., Any]) -> str:
    """The docstring of a known mistake, on one line."""
    return " ".join((mistake.__doc__ or mistake.__name__).split())


# --- calling ----------------------------------------------------------------------------------------------------


def tried(exercise: Exercise, function: Any) -> dict[str, Answer]:
    """What the student's function returns on each case. Raises: Verdict where that cannot be used."""
    if not callable(function):
        raise Verdict(f"this is {kind(function)}: hand over the function itself, without calling it")
    return {name: answer(exercise, function, name, case) for name, case in exercise.cases.items()}


def answers(exercise: Exercise, function: Callable[..., Any]) -> dict[str, Answer]:
    """What the right function, or a known wrong one, returns on each case."""
    return {name: doubles(function(*case.values())) for name, case in exercise.cases.items()}


def answer(exercise: Exercise, function: Any, name: str, case: Case) -> Answer:
    """What the student's function returns on one case. Raises: Verdict where that cannot be used."""
    given = [copy.deepcopy(x) for x in case.values()]  # one by one: two may be the same
    try:
        result = function(*given)
    except NotImplementedError:
        raise Verdict("not attempted yet") from None
    except Exception as error:
        raise Verdict(exception_line(error, function, case)) from None
    if unfilled(result):
        code = getattr(function, "__code__", None)  # a stub of mere dots uses no names
        raise Verdict("not attempted yet" + (" (if it is: it returns None, the return is missing)"
                                             if result is None and code and code.co_names else ""))
    for argument, before, after in zip(case, case.values(), given, strict=True):
        if not (torch.equal(before, after) if isinstance(before, Tensor) else before == after):
            raise Verdict(f"your function changes its argument {argument} in place: work on a copy "
                          f"({argument}.clone()), the caller still needs the original")
    check_type(result, exercise.right(*case.values()), exercise.parts, name)
    return doubles(result)


def exception_line(error: Exception, function: Any, case: Case) -> str:
    """Which exception the student's code raised, and in which line of its cell or file."""
    lines = str(error).strip().splitlines() or ["no message"]
    what = f"{type(error).__name__} ({lines[0][:160]})"
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if not frames:
        return f"calling your function with ({', '.join(case)}) raised {what}"
    code = f", `{frames[-1].line}`" if frames[-1].line else ""
    return f"your code raised {what} in line {frames[-1].lineno}{code}; it was given {shapes(case)}"


def unfilled(result: Any) -> bool:
    """Whether this is what a stub returns."""
    return result is None or result is ... or (isinstance(result, tuple) and all(map(unfilled, result)))


# --- what can be wrong besides the formula ----------------------------------------------------------------------
# All raise a Verdict.


def check_type(result: Any, wanted: Any, parts: Sequence[str], name: str) -> None:
    """Tensors where tensors are wanted, as many of them, and a number where a number is."""
    if isinstance(wanted, tuple):
        if not isinstance(result, tuple | list) or len(result) != len(wanted):
            raise Verdict(f"your function returns {kind(result)}, wanted are {len(wanted)} tensors: "
                          f"return {', '.join(parts)}")
        for part, x, target in zip(parts, result, wanted, strict=True):
            if not isinstance(x, Tensor):
                raise Verdict(f"{part} is {kind(x)}, wanted is a tensor of shape {tuple(target.shape)} ({name})")
    elif isinstance(wanted, Tensor) and not isinstance(result, Tensor):
        why = "" if wanted.ndim else ": a plain number has no gradient to follow"
        raise Verdict(f"your function returns {kind(result)}, wanted is a tensor of shape {tuple(wanted.shape)}{why} "
                      f"({name})")
    elif isinstance(wanted, float):
        single = result.numel() == 1 if isinstance(result, Tensor) else isinstance(result, int | float | np.number)
        if not single:
            raise Verdict(f"your function returns {kind(result)}, wanted is a number ({name})")


def check_shapes(exercise: Exercise, found: Answers, wanted: Answers) -> None:
    """Each part has the right shape."""
    for name, case in exercise.cases.items():
        for part, x, target in zip(exercise.parts, found[name], wanted[name], strict=True):
            if x.shape != target.shape:
                hint = "" if target.ndim else ", a single number: take a sum or a mean"
                raise Verdict(f"{part or 'your result'} has shape {tuple(x.shape)}, wanted is {tuple(target.shape)}"
                              f"{hint} ({name}: {shapes(case)})")


def check_finite(exercise: Exercise, found: Answers) -> None:
    """No NaN or infinity on a live token."""
    for name, case in exercise.cases.items():
        for part, x in zip(exercise.parts, found[name], strict=True):
            broken = at_live(~x.isfinite(), live_slots(case)).nonzero()
            if len(broken):
                place = tuple(broken[0].tolist())
                raise Verdict(f"{located(name, part, place)}: your result is {x[place].item()}, which is no number to "
                              "learn from; look for a division by 0, the log of 0 or the exp of something large")


def check_masked_slots(exercise: Exercise, found: Answers, wanted: Answers) -> None:
    """Masked slots hold 0."""
    if not all(same(found[name], wanted[name], None) for name in found):
        where = difference(exercise, found, wanted, everywhere=True)
        raise Verdict(f"right on every live token, but a masked slot should hold 0. {where}.")


def check_extremes(exercise: Exercise, function: Any) -> None:
    """The extreme cases, too, are right."""
    extreme = replace(exercise, cases=exercise.extremes)
    found, wanted = tried(extreme, function), answers(extreme, exercise.right)
    if not agree(extreme, found, wanted):
        raise Verdict(f"right on ordinary numbers, but not on extreme ones. {difference(extreme, found, wanted)}.")


def check_gradient(exercise: Exercise, function: Any) -> None:
    """Where training follows the gradient by the first argument, it is there and right."""
    for name, case in exercise.cases.items() if exercise.gradient else ():
        try:
            found = slope(function, case)
        except Exception as error:
            raise Verdict("the numbers are right, but when the gradient is wanted "
                          f"{exception_line(error, function, case)}") from None
        if not same((found,), (slope(exercise.right, case),), None):
            what = "is wrong" if found.any() else "is lost"
            raise Verdict(f"the numbers are right, but the gradient by {next(iter(case))} {what} ({name}): something "
                          "is detached, or made into a new tensor, on the way")


def slope(function: Any, case: Case) -> Tensor:
    """The gradient of a function's result by its first argument, 0 if there is none."""
    learnt, *others = (copy.deepcopy(x) for x in case.values())
    total = function(learnt.requires_grad_(), *others).sum()
    if total.requires_grad:
        total.backward()
    return torch.zeros_like(learnt) if learnt.grad is None else learnt.grad


def leak(exercise: Exercise, function: Any, found: Answers) -> str | None:
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
