"""The exercise on a batch of prompts: random numbers of others, and answers that are no usual mistake."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from right_answers import shuffled

from rlhf_mini import checks
from rlhf_mini.checks.exercise import Result

Function = Callable[..., Any]


def test_a_batch_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    checks.check_choose_batch(shuffled)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("function", "words"), [
    (lambda count, episodes, generator: random.sample(range(count), episodes), "not repeatable"),
    (lambda count, episodes, generator: 7, "found 7, expected"),
    (lambda count, episodes, generator: torch.rand(episodes), "found [0."),
    (lambda count, episodes, generator: missing, "your code raised NameError"),  # type: ignore[name-defined] # noqa: F821
])
def test_other_answers_of_a_batch_are_described(function: Function, words: str) -> None:
    result: Result = checks.check_choose_batch(function)
    assert words in str(result) and result.points == 0
