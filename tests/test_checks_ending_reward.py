"""The check of notebook 00: right answers in two styles pass, each usual mistake is called by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from rlhf_mini import checks
from rlhf_mini.checks.diagnose import sentence
from rlhf_mini.checks.ending_reward import ENDING_REWARD
from rlhf_mini.checks.plain import agreeing, answers_of


def in_one_line(score: float, logp: Tensor, logp_ref: Tensor, kl_coef: float) -> Tensor:
    return score - kl_coef * (logp - logp_ref).sum()


def in_a_loop(score: float, logp: Tensor, logp_ref: Tensor, kl_coef: float) -> float:
    reward = float(score)
    for now, before in zip(logp.tolist(), logp_ref.tolist(), strict=True):
        reward -= kl_coef * (now - before)
    return reward


def stub(score: float, logp: Tensor, logp_ref: Tensor, kl_coef: float) -> Any:
    """The reward of one ending."""
    ...


@pytest.mark.parametrize("right", [in_one_line, in_a_loop])
def test_right_answers_pass(right: Callable[..., Any]) -> None:
    result = checks.check_ending_reward(right)
    assert result.points == 2 and "correct" in str(result)


@pytest.mark.parametrize("mistake", ENDING_REWARD.mistakes)
def test_each_mistake_is_named(mistake: Callable[..., Any]) -> None:
    result = checks.check_ending_reward(mistake)
    assert result.points == 0 and sentence(mistake) in str(result)


def test_no_two_mistakes_give_the_same_answers() -> None:
    answers = [answers_of(ENDING_REWARD, mistake) for mistake in ENDING_REWARD.mistakes]
    assert not any(agreeing(answers[j], answers[i]) for i in range(len(answers)) for j in range(i))


def test_a_stub_is_not_attempted_yet() -> None:
    assert "not attempted yet" in str(checks.check_ending_reward(stub))
