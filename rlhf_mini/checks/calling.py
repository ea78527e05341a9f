"""Call the student's function on a case, and say what is wrong where it gives no usable answer."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf_mini.checks.compare import Answer, Case, doubles, kind, shapes
from rlhf_mini.checks.exercise import Exercise, Verdict


def student_answers(exercise: Exercise, function: Any) -> dict[str, Answer]:
    """What the student's function returns on each case. Raises: Verdict where a result cannot be used."""
    if not callable(function):
        raise Verdict(f"this is {kind(function)}: give the function itself, without calling it")
    return {name: answer(exercise, function, name, case) for name, case in exercise.cases.items()}


def answers(exercise: Exercise, function: Callable[..., Any]) -> dict[str, Answer]:
    """What the right function, or a function that makes a mistake, returns on each case."""
    return {name: doubles(function(*case.values())) for name, case in exercise.cases.items()}


def answer(exercise: Exercise, function: Any, name: str, case: Case) -> Answer:
    """What the student's function returns on one case. Raises: Verdict where the result cannot be used."""
    given = [copy.deepcopy(x) for x in case.values()]  # one by one, because two arguments may be the same object
    try:
        result = function(*given)
    except NotImplementedError:
        raise Verdict("not attempted yet") from None
    except Verdict:  # an exercise that calls the student's function in its own way says what is wrong itself
        raise
    except Exception as error:
        raise Verdict(exception_line(error, function, case)) from None
    if unfilled(result):
        code = getattr(function, "__code__", None)  # a stub with nothing but `...` uses no names
        raise Verdict("not attempted yet" + (" (if it is: it returns None, the return is missing)"
                                             if result is None and code and code.co_names else ""))
    for argument, before, after in zip(case, case.values(), given, strict=True):
        if not (torch.equal(before, after) if isinstance(before, Tensor) else before == after):
            raise Verdict(f"your function changes its argument {argument} in place: work on a copy "
                          f"({argument}.clone()), because the caller still needs the original"
                          if isinstance(before, Tensor) else
                          f"your function changes its argument {argument} in place: copy each list first (list(row))")
    check_type(result, exercise.right(*case.values()), exercise.parts, name)
    return doubles(result)


def exception_line(error: Exception, function: Any, case: Case) -> str:
    """The exception that the student's code raised, and the line of its cell or file."""
    lines = str(error).strip().splitlines() or ["no message"]
    what = f"{type(error).__name__} ({lines[0][:160]})"
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if not frames:
        return f"calling your function with ({', '.join(case)}) raised {what}"
    code = f", `{frames[-1].line}`" if frames[-1].line else ""
    return f"your code raised {what} in line {frames[-1].lineno}{code}; it was given {shapes(case)}"


def unfilled(result: Any) -> bool:
    """Whether the result is that of a stub: None or `...`."""
    return result is None or result is ... or (isinstance(result, tuple) and all(map(unfilled, result)))


def check_type(result: Any, expected: Any, parts: Sequence[str], name: str) -> None:
    """Check the type: as many tensors as expected, or a number. Raises: Verdict."""
    if isinstance(expected, tuple):
        if not isinstance(result, tuple | list) or len(result) != len(expected):
            raise Verdict(f"your function returns {kind(result)}, expected are {len(expected)} tensors: "
                          f"return {', '.join(parts)}")
        for part, x, target in zip(parts, result, expected, strict=True):
            if not isinstance(x, Tensor):
                raise Verdict(f"{part} is {kind(x)}, expected is a tensor of shape {tuple(target.shape)} ({name})")
    elif isinstance(expected, Tensor) and not isinstance(result, Tensor):
        why = "" if expected.ndim else ": a plain number has no gradient to follow"
        raise Verdict(f"your function returns {kind(result)}, expected is a tensor of shape "
                      f"{tuple(expected.shape)}{why} ({name})")
    elif isinstance(expected, float):
        single = result.numel() == 1 if isinstance(result, Tensor) else isinstance(result, int | float | np.number)
        if not single:
            raise Verdict(f"your function returns {kind(result)}, expected is a number ({name})")
