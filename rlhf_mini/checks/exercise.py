"""An exercise: what a function should return, the cases to try it on, the usual mistakes; and what a check found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rlhf_mini.checks.compare import Case

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]).bool()  # (B, T), for cases with padding
FULL = torch.ones(2, 4).bool()  # (B, T), for cases without padding


@dataclass(frozen=True)
class Exercise:
    """The right function, the cases to try the student's function on, and the usual mistakes."""

    name: str
    right: Callable[..., Any]
    mistakes: Sequence[Callable[..., Any]]
    cases: Mapping[str, Case]
    extremes: Mapping[str, Case] = field(default_factory=dict)  # tried last, if the cases are right
    parts: Sequence[str] = ("",)  # the names of the results, if there are several
    gradient: bool = False  # whether training needs the gradient with respect to the first argument


class Verdict(Exception):
    """The line to print, raised where no further check makes sense; and the points that the answer is worth."""

    def __init__(self, line: str, points: int = 0) -> None:
        super().__init__(line)
        self.points = points


@dataclass(frozen=True, repr=False)
class Result:
    """What a check found. It prints as one line.

    2 points are for a right answer, 1 for one that is right on ordinary numbers only, 0 for all else. `reasons` says
    why there are not 2.
    """

    exercise: str
    line: str
    points: int
    function: Any = None

    def __repr__(self) -> str:
        return f"{self.exercise}: {self.line}"

    @property
    def reasons(self) -> tuple[str, ...]:
        return () if self.points == 2 else (self.line,)

    def to_dict(self) -> dict[str, Any]:
        """What a gradebook needs, as JSON takes it."""
        return {"exercise": self.exercise, "points": self.points, "of": 2, "reasons": list(self.reasons)}
