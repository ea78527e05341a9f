"""The exercises of 07: right answers pass, and the usual mistakes are called by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_mini import checks
from rlhf_mini.checks.diagnose import sentence
from rlhf_mini.checks.wrong_reward import BEST_POLICY, WITHOUT_LENGTH, WORTH_OF_WORDS

EXERCISES: dict[str, tuple[Callable[..., Any], Any]] = {
    "best_policy": (checks.check_best_policy, BEST_POLICY),
    "worth_of_words": (checks.check_worth_of_words, WORTH_OF_WORDS),
    "without_length": (checks.check_without_length, WITHOUT_LENGTH)}


def tilted(logp_ref: Tensor, reward: Tensor, beta: float) -> Tensor:
    weights = logp_ref.exp() * torch.exp(reward / beta)
    return torch.log(weights / weights.sum())


def one_by_one(score: Any, ending: str) -> list[tuple[str, float]]:
    words, found = ending.split(), []
    for i, word in enumerate(words):
        found.append((word, score([ending])[0] - score([" ".join(words[:i] + words[i + 1:])])[0]))
    return found


def by_numpy(score: Tensor, length: Tensor) -> Tensor:
    slope = np.polyfit(length.numpy(), score.numpy(), 1)[0]
    return score - float(slope) * (length - length.mean())


@pytest.mark.parametrize(("name", "function"), [("best_policy", tilted), ("worth_of_words", one_by_one),
                                                ("without_length", by_numpy)])
def test_right_answers_in_other_words_pass(name: str, function: Any) -> None:
    assert EXERCISES[name][0](function).points == 2


@pytest.mark.parametrize(("check", "mistake"), [
    pytest.param(check, mistake, id=f"{name}-{mistake.__name__}")
    for name, (check, exercise) in EXERCISES.items() for mistake in exercise.mistakes])
def test_a_usual_mistake_is_called_by_its_name(check: Any, mistake: Any) -> None:
    result = check(mistake)
    assert result.points == 0 and sentence(mistake) in str(result)


@pytest.mark.parametrize("name", EXERCISES)
def test_a_stub_is_not_attempted_yet(name: str) -> None:
    assert str(EXERCISES[name][0](lambda *given: ...)).endswith("not attempted yet")
