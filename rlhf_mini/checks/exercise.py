"""An exercise: what a function should return, the cases to try it on, and the usual mistakes."""

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
    """The line to print, raised where no further check makes sense."""
