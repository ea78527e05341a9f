"""The exercise on the gain over a control, and its error."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rlhf_mini.checks.exercise import Result
from rlhf_mini.checks.plain import PlainExercise, check_plain
from rlhf_mini.teaching.measured import difference, mean_error

Figures = tuple[float, float]  # a number and its error


def check_control_gain(function: Any) -> Result:
    """Check f(learnt, control, opening), (N,) each: the mean gain pair by pair, and its error over openings."""
    return check_plain(CONTROL_GAIN, function)


def control_gain(learnt: Tensor, control: Tensor, opening: Tensor) -> Figures:
    found = difference(learnt, control, by=opening.tolist())
    return found.value, found.error


def control_first(learnt: Tensor, control: Tensor, opening: Tensor) -> Figures:
    """the sign is turned: a gain is `learnt` less `control`"""
    return control_gain(control, learnt, opening)


def pairs_alone(learnt: Tensor, control: Tensor, opening: Tensor) -> Figures:
    """every pair counts as evidence of its own: first add up the gains of each opening, less the mean"""
    return control_gain(learnt, control, torch.arange(len(opening)))


def two_errors(learnt: Tensor, control: Tensor, opening: Tensor) -> Figures:
    """two separate errors are combined: subtract pair by pair first, so that what both share leaves the error"""
    one, other = (mean_error(x, by=opening.tolist()) for x in (learnt, control))
    return one.value - other.value, math.hypot(one.error, other.error)


def factor_missing(learnt: Tensor, control: Tensor, opening: Tensor) -> Figures:
    """the factor G / (G - 1) is missing: G is the number of openings"""
    gain, error = control_gain(learnt, control, opening)
    count = len(opening.unique())
    return gain, error * math.sqrt((count - 1) / count)


def mean_left_in(learnt: Tensor, control: Tensor, opening: Tensor) -> Figures:
    """the mean gain is not subtracted before the gains of an opening are added"""
    sums = torch.stack([(learnt - control)[opening == one].sum() for one in opening.unique()])
    error = math.sqrt(len(sums) / (len(sums) - 1) * sums.square().sum().item()) / len(opening)
    return control_gain(learnt, control, opening)[0], error


def divided_by_openings(learnt: Tensor, control: Tensor, opening: Tensor) -> Figures:
    """the root is divided by the number of openings: divide it by the number of pairs, N"""
    gain, error = control_gain(learnt, control, opening)
    return gain, error * len(opening) / len(opening.unique())


def flags(*given: int) -> Tensor:
    return torch.tensor(given, dtype=torch.float64)


CONTROL_GAIN = PlainExercise(
    name="gain over the control", right=control_gain,
    mistakes=[control_first, pairs_alone, two_errors, factor_missing, mean_left_in, divided_by_openings],
    cases={
        "with five pairs of two openings": {"learnt": flags(1, 1, 1, 0, 1), "control": flags(0, 1, 0, 0, 1),
                                            "opening": torch.tensor([0, 0, 0, 1, 1])},
        "with openings mixed": {"learnt": flags(1, 0, 1, 1, 0, 1, 1, 0), "control": flags(0, 1, 0, 1, 0, 0, 0, 1),
                                "opening": torch.tensor([4, 7, 4, 9, 7, 9, 4, 2])},
    },
)
